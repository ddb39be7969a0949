"""``workflows/bundled_model.py``: its parts never mix; the smallest committee is trained, judged and gone on with."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phl_ase.calculator import PHLCalculator
from phl_ase.datasets import Split
from phl_ase.potentials import read_card

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


@pytest.fixture
def workflow(monkeypatch):
    monkeypatch.syspath_prepend(str(WORKFLOWS))
    yield importlib.import_module("bundled_model")
    sys.modules.pop("bundled_model", None)


def job(workflow, name: str):
    values = {"members": 3, "channels": 8, "epochs": 2, "starts": 1, "seed": 0, "out_of_domain": 2, "compile": False}
    names = {"out": "out", "data": "reactions-wb97xd-631gd", "beside": "", "start": ""}
    return workflow.Job(name, workflow.Settings(**names, **values))


@pytest.mark.parametrize("name", ["in-domain", "out-of-domain"])
def test_no_frame_is_in_two_parts(workflow, name):
    one = job(workflow, name)
    together = sorted(i for part in one.parts.values() for i in part)
    assert together == list(range(len(one.dataset)))
    reactions = {part: set(one.dataset.reactions[indices]) for part, indices in one.parts.items()}
    assert not reactions["excluded"] & (reactions["pool"] | reactions["test"] | reactions["calibration"])
    assert bool(reactions["excluded"]) == (name == "out-of-domain")
    rest = len(together) - len(one.parts["excluded"])
    for part, share in zip(("calibration", "test"), workflow.HELD_OUT, strict=True):
        assert len(one.parts[part]) == pytest.approx(share * rest, rel=0.15)
        # spread evenly along the kinds: of each its share of all
        for kind in set(one.dataset.kinds):
            among, everywhere = (one.dataset.kinds[indices] == kind for indices in (one.parts[part], together))
            assert among.mean() == pytest.approx(everywhere.mean(), abs=0.05), kind
    assert job(workflow, name).parts == one.parts


def test_members_differ_in_the_frames_that_choose_them_alone(workflow):
    one = job(workflow, "in-domain")
    data = [one.run_data(member) for member in range(3)]
    chosen = [tuple(frame.frame_id for frame in d.valid) for d in data]
    assert len(set(chosen)) == 3
    for d in data:
        assert sorted(f.frame_id for part in (d.train, d.valid) for f in part) == one.parts["pool"]
        assert [f.frame_id for f in d.test] == one.parts["test"]
        assert Split.from_json(d.split).check(one.dataset).valid == tuple(f.frame_id for f in d.valid)


@pytest.mark.slow
def test_the_smallest_committee(tmp_path):
    """Stopped on the way, gone on with, and asked for again."""
    target = tmp_path / "default.safetensors"
    command = [sys.executable, str(WORKFLOWS / "bundled_model.py"), "--out", str(tmp_path / "runs")]
    command += ["--members", "2", "--channels", "4", "--epochs", "2", "--processes", "2", "--out-of-domain", "2"]
    command += ["--ask", "frequencies", "--starts", "1", "--target", str(target)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        while not list((tmp_path / "runs").glob("*/member-*")):
            assert first.poll() is None, first.communicate()[1]
            time.sleep(0.1)
        first.terminate()
        assert "nothing is lost: the same command goes on in" in first.communicate(timeout=120)[1]
    done = subprocess.run(command, env=environment, timeout=600, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    card = read_card(target)
    made = card["provenance"]
    assert len(card["config"]["members"]) == 2
    assert card["calibration"] == made["in_domain"]["calibration"]
    assert set(made["out_of_domain"]["excluded"]) >= {"errors", "uncertainty"}
    assert set(made["in_domain"]["downstream"]["frequency error"]["TSs"]) == {"mean", "number", "unit"}
    assert PHLCalculator(str(target), device="cpu").potential.calibration.frames > 20
    written = target.read_bytes()
    again = subprocess.run(command, env=environment, timeout=600, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert target.read_bytes() == written
    assert json.loads((tmp_path / "runs" / "card.json").read_text())["in-domain"] == made["in_domain"]
