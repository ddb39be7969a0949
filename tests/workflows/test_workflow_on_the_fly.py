"""``workflows/on_the_fly.py``: what is counted and judged, and that the smallest study runs to its end."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

pytest.importorskip("tblite")
WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
REACTION = {"hcn_hnc"}


@pytest.fixture
def module(monkeypatch):
    """A script of the workflow by its name."""
    monkeypatch.syspath_prepend(str(WORKFLOWS))
    yield importlib.import_module
    for name in ("on_the_fly", "on_the_fly_routes", "on_the_fly_table"):
        sys.modules.pop(name, None)


def test_a_geometry_is_counted_once_and_booked_under_its_part(module):
    counted = module("on_the_fly_routes").Counted(EMT())
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2]], calculator=counted)
    forces = atoms.get_forces()
    atoms.rattle(0.05, seed=1)
    counted.part = "path"
    atoms.get_potential_energy()
    again = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2]], calculator=counted)
    assert np.array_equal(again.get_forces(), forces)
    assert counted.calls == 2
    assert counted.parts == {"search": 1, "path": 1}


def test_starts_are_whole_and_hold_what_was_promised(module):
    routes, study = module("on_the_fly_routes"), module("on_the_fly")
    starts = routes.read_starts()
    sets = [kinds["guess"].info["set"] for kinds in starts.values()]
    assert {name: sets.count(name) for name in study.CHOSEN} == study.CHOSEN
    for kinds in starts.values():
        assert len({tuple(atoms.numbers) for atoms in kinds.values()}) == 1
    assert all(8 <= len(k["guess"]) <= 16 for k in starts.values() if k["guess"].info["set"] == "grambow")


def test_the_smallest_study_runs_to_its_table_and_figure(module, tmp_path, capsys):
    study = module("on_the_fly")
    study.plain(tmp_path, "tblite", ["sella-gradients", "path-sella-irc"], REACTION)
    study.score(tmp_path, "tblite")
    runs = {file.parent.name: json.loads(file.read_text()) for file in tmp_path.glob("*/*/*.json")}
    alone, whole = runs["sella-gradients"], runs["path-sella-irc"]
    assert alone["score"]["verified_ts"]
    assert whole["score"]["verified"]
    assert whole["gradients"] == sum(whole["parts"].values())
    assert whole["parts"]["path"] > 3 * 6 * 3  # Hessians at the TS and at both ends
    kept = tmp_path / "kept.json"
    study.table(tmp_path, kept, tmp_path / "figure.png")
    assert "path-sella-irc | 1 of 1" in capsys.readouterr().out
    assert {row["route"]: row["verified"] for row in json.loads(kept.read_text())["rows"]} == dict.fromkeys(runs, 1)
    assert (tmp_path / "figure.png").stat().st_size > 1000
    written = (tmp_path / "tblite" / "sella-gradients" / "hcn_hnc.json").stat().st_mtime_ns
    study.plain(tmp_path, "tblite", ["sella-gradients"], REACTION)  # done: not run again
    assert (tmp_path / "tblite" / "sella-gradients" / "hcn_hnc.json").stat().st_mtime_ns == written


def test_a_failure_of_a_route_is_a_result(module, tmp_path):
    routes = module("on_the_fly_routes")

    def fails(counted):
        raise ValueError("no way")

    routes.recorded(tmp_path, "hcn_hnc", "broken", "tblite", fails)
    content = json.loads((tmp_path / "broken" / "hcn_hnc.json").read_text())
    assert content["outcome"] == "ValueError: no way"
    assert content["gradients"] == 0
    assert not module("on_the_fly_table").is_right(content)


def test_ratios_are_paired(module):
    low, high = module("on_the_fly_table").median_ratio([(10, 100), (20, 100), (30, 100)])[1:]
    assert module("on_the_fly_table").median_ratio([(10, 100), (20, 100), (30, 100)])[0] == pytest.approx(0.2)
    assert 0.1 <= low <= 0.2 <= high <= 0.3
    assert module("on_the_fly_table").median_ratio([]) is None
