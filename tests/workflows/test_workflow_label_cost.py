"""``workflows/label_cost.py``: what a budget buys, and that the smallest study runs to its table and figure."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tblite")
WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


@pytest.fixture
def module(monkeypatch):
    """A script of the workflow by its name."""
    monkeypatch.syspath_prepend(str(WORKFLOWS))
    yield importlib.import_module
    for name in ("label_cost", "label_cost_frames", "label_cost_table"):
        sys.modules.pop(name, None)


@pytest.fixture
def frames(module, monkeypatch, tmp_path):
    """The workflow's frames, sampled around the points of one reaction."""
    frames = module("label_cost_frames")
    whole = frames.open_dataset

    class One:
        def __init__(self, dataset):
            self.dataset = dataset

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.dataset.__exit__(None, None, None)

        def frames(self):
            return [frame for frame in self.dataset.frames() if frame.reaction == self.dataset[0].reaction]

    with monkeypatch.context() as patch:
        patch.setattr(frames, "open_dataset", lambda name: One(whole(name)))
        frames.parents(tmp_path)
    return frames


def test_a_budget_is_spent_on_frames_and_counted(frames, tmp_path):
    for surface, (name, method) in itertools.product(frames.SURFACES, frames.METHODS.items()):
        bought, spent = frames.spend(tmp_path, surface, name, 60, seed=0)
        fewer, _ = frames.spend(tmp_path, surface, name, 30, seed=0)
        assert spent == sum(method.cost(len(frame)) for frame in bought)
        assert 60 - 31 < spent <= 60
        assert [f.positions.tolist() for f in fewer] == [f.positions.tolist() for f in bought[: len(fewer)]]
        for frame in bought:
            assert (frame.hessian is not None) == method.hessian
            assert (0 if frame.probes is None else len(frame.probes)) == method.count
    costs = {name: method.cost(4) for name, method in frames.METHODS.items()}
    assert costs == {"E-F": 1, "HVP random": 3, "HVP one-hot": 3, "2 HVPs random": 5, "full Hessian": 25}


@pytest.mark.parametrize("surface", ["xtb", "dft"])
def test_hvps_are_those_of_the_hessian(frames, tmp_path, surface):
    hvps, _ = frames.spend(tmp_path, surface, "HVP random", 12, seed=3)
    hessians, _ = frames.spend(tmp_path, surface, "full Hessian", 37, seed=3)  # that of six atoms
    one, other = hvps[0], hessians[0]
    assert np.array_equal(one.positions, other.positions)
    expected = other.hessian @ one.probes.reshape(-1)
    # both of GFN2-xTB are central differences, with steps of the same size along other directions
    assert np.abs(one.hvp.ravel() - expected).max() < 0.05
    assert np.abs(expected).max() > 5


def test_another_zero_of_energy_changes_nothing(frames, tmp_path):
    known = frames.spend(tmp_path, "dft", "E-F", 40, seed=0)[0]
    moved = [frames.dataclasses.replace(f, energy=f.energy + 7.0 * (f.numbers == 8).sum()) for f in known]
    one, other = frames.counted_from_atoms(known, known), frames.counted_from_atoms(moved, moved)
    assert [f.energy for f in one] == pytest.approx([f.energy for f in other], abs=1e-6)


def made_up(module, method: str, budget: int, seed: int, start: bool, error: float) -> dict:
    run = module("label_cost").TrainingRun("xtb", method, budget, seed, start)
    errors = {name: [error * (1 + 0.01 * i) for i in range(12)] for name in module("label_cost_table").METRICS}
    errors["wavenumbers"][5] = None
    more = {"frames": 3, "gradients": budget, "cpu_seconds": 1.0, "errors": errors}
    return {**vars(run), **more, "reaction": [f"r{i % 6}" for i in range(12)], "kind": ["nms"] * 12}


def test_the_table_compares_ways_at_equal_gradient_calls(module):
    table = module("label_cost_table")
    records = [
        made_up(module, method, budget, seed, start, error)
        for method, error in (("E-F", 2.0), ("HVP random", 1.0))
        for budget, seed, start in itertools.product((300, 1000), (0, 1), (False, True))
    ]
    found = table.rows(records)
    assert len(found) == 8
    hvps = [row for row in found if row["method"] == "HVP random"]
    for row in hvps:
        assert [row["ratio_to_E-F"][metric][0] for metric in table.METRICS] == pytest.approx([0.5] * 4)
    assert "HVP random" in table.text(found)
    drawn = table.figure((found, {"xtb": records[0]}, ["E-F", "HVP random"], {"xtb": "GFN2-xTB"}))
    assert len(drawn.axes) == 2 * len(table.METRICS)
    assert all(axes.get_ylabel() for axes in drawn.axes)
    for record in records:  # no stationary points in the test set, one budget
        record["errors"]["wavenumbers"] = [None] * 12
    found = table.rows([record for record in records if record["budget"] == 300])
    drawn = table.figure((found, {"xtb": records[0]}, ["E-F", "HVP random"], {"xtb": "GFN2-xTB"}))
    assert len(drawn.axes) == len(table.METRICS)
    drawn.canvas.draw()


@pytest.mark.slow
def test_the_smallest_study_runs_and_goes_on_where_it_stopped(frames, module, monkeypatch, tmp_path):
    study = module("label_cost")
    surfaces = {name: frames.dataclasses.replace(s, budgets=(60,)) for name, s in frames.SURFACES.items()}
    for part in (frames, study):
        monkeypatch.setattr(part, "SURFACES", surfaces)
    monkeypatch.setattr(frames, "_own_stationary_points", lambda method: [])
    pool, held_out = frames._bundled_division()
    here = frames.parents(tmp_path)[0].reaction

    def of_one_reaction(some):
        return [frame for frame in some if frame.reaction == here]

    divided = (of_one_reaction(pool), {part: of_one_reaction(some) for part, some in held_out.items()})
    monkeypatch.setattr(frames, "_bundled_division", lambda: divided)
    monkeypatch.setattr(frames, "HELD_OUT", {name: {"valid": 6, "test": 6} for name in surfaces})
    monkeypatch.setattr(study, "TUNED_AT", ("xtb", 60, 0))
    monkeypatch.setattr(study, "MODEL", {"channels": 8, "layers": 1, "n_basis": 4})
    target, out = tmp_path / "label_cost.json", tmp_path
    options = ["--out", str(out), "--seeds", "1", "--scale", "0.004"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["label_cost.py", "run", *options])
        study.main()
        monkeypatch.setattr(study, "train", None)  # the second time nothing is left to train
    monkeypatch.setattr(sys, "argv", ["label_cost.py", "table", *options, "--json", str(target)])
    study.main()
    content = json.loads(target.read_text())
    # five methods from a pre-trained model and three from scratch, on two surfaces
    assert len(content["rows"]) == 16
    for row in content["rows"]:
        assert all(math.isfinite(row["errors"][name][0]) for name in ("energy", "forces", "hessian"))
        assert max(row["gradients"]) <= row["budget"]
    assert (out / "label_cost.png").read_bytes().startswith(b"\x89PNG")
