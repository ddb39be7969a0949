"""``workflows/grambow.py``: what trains and what tests are apart, and searches that find nothing are counted."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from phl_ase.datasets import DatasetMeta, open_dataset, write_dataset
from phl_ase.errors import PHLError
from phl_ase.structures import Frame

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


@pytest.fixture
def grambow(monkeypatch):
    monkeypatch.syspath_prepend(str(WORKFLOWS))
    yield importlib.import_module("grambow")
    sys.modules.pop("grambow", None)


@pytest.fixture
def files(tmp_path):
    """Five guesses, two of them with reference values."""
    frames = [molecule(name) for name in ("H2O", "NH3", "CH4", "C2H4", "CH3OH")]
    for number, atoms in enumerate(frames):
        atoms.info["reaction"] = f"rxn{number}"
    ase.io.write(tmp_path / "guesses.xyz", frames, format="extxyz")
    reference = "reaction,imaginary_wavenumber_cm-1\nrxn1,-500.0\nrxn3,-1000.0\n"
    (tmp_path / "reference.csv").write_text(reference, encoding="utf-8")
    return tmp_path


def names(file: Path) -> list[str]:
    return [atoms.info["reaction"] for atoms in ase.io.read(file, ":")]


def test_reactions_with_reference_values_never_train(grambow, files, capsys, monkeypatch):
    monkeypatch.setattr(grambow, "SIZES", range(4, 7))
    monkeypatch.setattr(grambow, "STUDIED", 1)
    grambow.pick(files / "guesses.xyz", files / "reference.csv", files / "out")
    train, study, test = (names(files / "out" / f"{part}.xyz") for part in ("train", "study", "test"))
    assert sorted(train + study) == ["rxn0", "rxn2", "rxn4"]
    assert len(study) == 1
    assert study != ["rxn0"]  # water is smaller
    assert sorted(test) == ["rxn1", "rxn3"]
    # as the searches of phl ts are, in the order of the table
    assert names(files / "out" / "reference_guesses.xyz") == ["rxn1", "rxn3"]
    assert "train.xyz: 2 reactions" in capsys.readouterr().out


def test_the_card_counts_what_was_found_and_the_sample_is_of_whole_reactions(grambow, files, monkeypatch):
    frames = []
    for name in ("H2O", "NH3", "NH3"):
        atoms = molecule(name)
        labels = {"energy": -1.0, "forces": np.ones((len(atoms), 3))}
        frames.append(Frame(numbers=atoms.numbers, positions=atoms.positions, reaction=name, kind="ts", **labels))
    write_dataset(files / "all.h5", frames, DatasetMeta("GFN2-xTB", "total energy"))
    rows = [
        {"name": name, "outcome": outcome, "gradients": 100, "seconds": 1.0}
        for name, outcome in (("H2O", "finished"), ("NH3", "no path"), ("CH4", "no transition state"))
    ]
    (files / "r.json").write_text(json.dumps({"reactions": rows}), encoding="utf-8")
    monkeypatch.setattr(grambow, "SAMPLED", 1)
    grambow.card(files / "all.h5", [files / "r.json"], files / "sample")
    text = (files / "sample" / "organic_gfn2xtb_sample.md").read_text()
    for said in ("3 guesses, 100 gradients", "| no path | 1 |", "the 3 frames of 2 reactions"):
        assert said in text
    with open_dataset(files / "sample" / "organic_gfn2xtb_sample.h5") as sample:
        assert {frame.reaction for frame in sample} in ({"H2O"}, {"NH3"})
        assert len(sample) == len([f for f in frames if f.reaction == sample[0].reaction])


def test_errors_are_of_what_was_found_and_the_rest_is_counted(grambow, files, capsys):
    searches = [
        {"outcome": "converged", "wavenumbers_cm-1": [-530.0, 20.0]},
        {"outcome": "converged", "wavenumbers_cm-1": [-400.0, 20.0]},
    ]
    found = grambow.compared(searches, [-500.0, -1000.0])
    assert (found["searches"], found["found"], found["alike"]) == (2, 2, 1)
    assert found["median_error_cm-1"] == pytest.approx(315.0)
    searches[1]["outcome"] = "not converged"
    (files / "searches.json").write_text(json.dumps({"searches": searches}), encoding="utf-8")
    grambow.wavenumbers(files / "reference.csv", [files / "searches.json"], files / "table.json")
    assert "1/   2" in capsys.readouterr().out
    assert json.loads((files / "table.json").read_text())["rows"]["searches"]["found"] == 1
    with pytest.raises(PHLError, match="1 searches for 2"):
        grambow.compared(searches[:1], [-500.0, -1000.0])


def test_the_configuration_is_valid():
    from phl_ase.training.config import read_config

    read_config(WORKFLOWS / "grambow.toml")
