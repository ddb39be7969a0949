"""``workflows/architectures.py``: every shape is a valid configuration, and one is trained, scored and kept."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from phl_ase.datasets import open_dataset, write_dataset

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
SAMPLE = "organic-gfn2xtb-sample"


@pytest.fixture
def architectures(monkeypatch):
    monkeypatch.syspath_prepend(str(WORKFLOWS))
    yield importlib.import_module("architectures")
    sys.modules.pop("architectures", None)


def test_every_shape_is_valid(architectures):
    for shape in architectures.SHAPES.values():
        config = architectures.configuration(SAMPLE, shape, 3, 1)
        assert config.potential.settings().items() >= shape.items()
        assert (config.training.epochs, config.training.seed) == (3, 1)


def test_a_shape_is_trained_scored_and_kept(architectures, tmp_path, monkeypatch, capsys):
    toml = (WORKFLOWS / "grambow.toml").read_text(encoding="utf-8")
    (tmp_path / "quick.toml").write_text(toml.replace("compile = true", "compile = false"), encoding="utf-8")
    monkeypatch.setattr(architectures, "CONFIG", tmp_path / "quick.toml")
    monkeypatch.setattr(architectures, "TIMED", 2)
    tiny = {"channels": 4, "layers": 1, "cutoff": 4.0, "n_basis": 4}
    monkeypatch.setattr(architectures, "SHAPES", {"tiny": tiny})
    with open_dataset(SAMPLE) as data:
        names = sorted(set(data.reactions))
        frames = [frame for frame in data if frame.reaction in names[:4] and frame.kind == "nms"]
        tested = [frame for frame in data if frame.hessian is not None][:2]
        write_dataset(tmp_path / "train.h5", frames, data.meta)
        write_dataset(tmp_path / "test.h5", tested, data.meta)
    arguments = ["train.h5", "test.h5", "--minutes", "0.001", "--out", "out", "--json", "table.json"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["architectures.py", *arguments])
    architectures.main()
    row = json.loads((tmp_path / "table.json").read_text())["rows"]["tiny"]
    assert row["hessian"] > 0
    assert row["ms_per_step"] > 0
    assert "tiny" in capsys.readouterr().out
    monkeypatch.setattr(architectures, "run", None)  # what is done is not done again
    architectures.main()
