"""``workflows/finetuning.py``: its frames, its table and figure; and, where graph-pes is there, the smallest study."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from phl_ase.datasets import MemoryDataset, open_dataset

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
REACTIONS = 2


@pytest.fixture
def module(monkeypatch):
    """A script of the workflow by its name."""
    monkeypatch.syspath_prepend(str(WORKFLOWS))
    yield importlib.import_module
    for name in ("finetuning", "finetuning_table", "finetuning_models", "label_cost", "label_cost_frames"):
        sys.modules.pop(name, None)


@pytest.fixture
def workflow(module, monkeypatch):
    """The workflow, on the first reactions of the bundled data."""
    workflow = module("finetuning")

    def few(name):
        with open_dataset(name) as dataset:
            if name != workflow.DATA:
                return MemoryDataset(dataset.frames(), dataset.meta, name=name)
            names = list(dict.fromkeys(dataset.reactions.tolist()))[:REACTIONS]
            return MemoryDataset([f for f in dataset.frames() if f.reaction in names], dataset.meta, name=name)

    monkeypatch.setattr(workflow, "open_dataset", few)
    return workflow


def test_stationary_points_are_tested_and_nothing_twice(workflow, tmp_path):
    found = workflow.parts(tmp_path, 0)
    kinds = {part: {frame.kind for frame in frames} for part, frames in found.items()}
    assert not {"ts", "reactant", "product"} & (kinds["train"] | kinds["valid"])
    assert sum(frame.kind == "ts" for frame in found["test"]) == REACTIONS
    places = [frame.positions.tobytes() for frames in found.values() for frame in frames]
    assert len(set(places)) == len(places)
    again = workflow.parts(tmp_path, 0)  # from its own files
    for part, frames in found.items():
        assert [f.positions.tobytes() for f in again[part]] == [f.positions.tobytes() for f in frames]


def test_a_recorded_hvp_is_all_that_is_known_of_a_hessian(workflow, tmp_path):
    frames = workflow.parts(tmp_path, 0)["train"][:5]
    for known, frame in zip(workflow.labelled(frames, workflow.METHODS["HVP fixed"], 0), frames, strict=True):
        assert known.hessian is None
        hvp = frame.hessian @ known.probes[0].ravel()
        np.testing.assert_allclose(known.hvp[0].ravel(), hvp, rtol=0, atol=1e-10)
    fresh = workflow.labelled(frames, workflow.METHODS["HVP fresh"], 0)
    assert [f.hessian is not None for f in fresh] == [True] * 5


def runs(rng) -> dict:
    """Two methods of one potential and two seeds, errors of the second a third of the first's; a third not begun."""
    n = 12
    base = rng.uniform(1, 2, (2, n))

    def scores(factor: float, seed: int) -> dict:
        errors = {name: (factor * base[seed]).tolist() for name in ("energy", "forces", "hessian", "wavenumbers")}
        return {"errors": errors, "kind": ["ts"] * n, "reaction": [f"r{i % 4}" for i in range(n)]}

    trained = {"epochs": 3, "cpu_seconds": 7.0, "best_epoch": 2, "validation": []}
    found = {}
    for seed in range(2):
        found["mace", "E-F", seed] = {"trained": trained, "scores": scores(1.0, seed), "searches": None}
        found["mace", "HVP fixed", seed] = {"trained": trained, "scores": scores(1 / 3, seed), "searches": None}
        found["mace", "HVP fresh", seed] = {"trained": None, "scores": None, "searches": None}
    return found


def test_the_table_compares_with_the_same_potentials_ef_fine_tuning(module, rng):
    table = module("finetuning_table")
    found = table.rows(runs(rng))
    assert "ratio_to_E-F" not in found[0]
    assert [found[1]["ratio_to_E-F"][name][0] for name in table.METRICS] == pytest.approx([1 / 3] * 4)
    assert found[1]["seeds"] == [0, 1]
    assert found[1]["cpu_seconds"] == [7.0, 7.0]
    said = table.text(found)
    assert said.count("× 0.33") == 4
    assert "nan" in said  # of the method that is not finished
    drawn = table.figure((found, ["E-F", "HVP fixed", "HVP fresh"]))
    assert len(drawn.axes) == len(table.METRICS) + 1


def test_a_seed_that_is_not_finished_is_compared_with_no_other(module, rng):
    table = module("finetuning_table")
    known = runs(rng)
    # frames of another seed are other frames: 9 times the errors there must not enter the ratio
    known["mace", "HVP fixed", 1] = {**known["mace", "HVP fixed", 1], "scores": None}
    errors = known["mace", "E-F", 1]["scores"]["errors"]
    known["mace", "E-F", 1]["scores"]["errors"] = {name: [9 * e for e in one] for name, one in errors.items()}
    found = table.rows(known)
    assert found[0]["seeds"] == [0, 1]
    assert found[1]["seeds"] == [0]
    for ratios in ("ratio_to_E-F", "ratio_of_medians"):
        assert [np.ravel(found[1][ratios][name])[0] for name in table.METRICS] == pytest.approx([1 / 3] * 4)


@pytest.mark.foreign
@pytest.mark.graph_pes
def test_the_smallest_study_runs_and_goes_on_where_it_stopped(workflow, module, monkeypatch, tmp_path):
    pytest.importorskip("graph_pes")
    settings = {"model": "PaiNN", "channels": 4, "layers": 1, "radial_features": 4}
    monkeypatch.setitem(module("finetuning_models").SETTINGS, "graph-pes", settings)
    monkeypatch.setattr(workflow, "SEARCH_STEPS", 1)
    out = tmp_path / "runs"
    out.mkdir()
    workflow.run(out, ["graph-pes"], list(workflow.METHODS), (0.3, 0.2), 1)
    trained = out / "s0" / "graph-pes-HVP_fixed" / "trained.json"
    assert set(json.loads((trained.parent / "scores.json").read_text())["errors"]) >= {"energy", "hessian"}
    before = trained.stat().st_mtime_ns
    (trained.parent / "scores.json").unlink()
    workflow.run(out, ["graph-pes"], list(workflow.METHODS), (0.3, 0.2), 1)
    assert trained.stat().st_mtime_ns == before
    workflow.report(out, tmp_path / "results.json", ["graph-pes"], list(workflow.METHODS), 1)
    content = json.loads((tmp_path / "results.json").read_text())
    assert not content["not_finished"]
    assert [row["method"] for row in content["rows"]] == ["before", *workflow.METHODS]
    assert content["rows"][0]["searches"]["starts"] == REACTIONS
    assert (out / "finetuning.png").read_bytes().startswith(b"\x89PNG")
