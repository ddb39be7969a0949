"""``workflows/organic_start.py``: a cell holds both seeds, and a search that found nothing is said."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(str(WORKFLOWS))
    yield importlib.import_module("organic_start")
    for name in ("organic_start", "malonaldehyde_table"):
        sys.modules.pop(name, None)


def written(prefix: str, shift: float, outcome: str = "converged") -> None:
    Path(f"{prefix}freq.json").parent.mkdir(parents=True, exist_ok=True)
    minimum = {"wavenumbers_cm-1": [100.0 + shift, 200.0 - shift], "energy_eV": -1.0}
    search = {"outcome": outcome, "wavenumbers_cm-1": [-1000.0 - shift, 150.0], "energy_eV": -0.9}
    Path(f"{prefix}freq.json").write_text(json.dumps({"structures": [minimum]}))
    Path(f"{prefix}ts.json").write_text(json.dumps({"searches": [search]}))


def test_the_table(table, tmp_path, monkeypatch, capsys):
    written(f"{tmp_path}/reference_", 0.0)
    for count in table.COUNTS:
        for start in table.STARTS:
            for seed in table.SEEDS:
                run = tmp_path / f"{start}{count}-{seed}"
                lost = (start, count, seed) == ("nothing", 15, 1)
                written(f"{run}/", 10.0 * (seed + 1), "not converged" if lost else "converged")
                metrics = [{"name": "forces, all", "value": 50.0}, {"name": "hessian, all", "value": 0.5}]
                (run / "errors.json").write_text(json.dumps({"metrics": metrics}))
    monkeypatch.setattr(sys, "argv", ["organic_start.py", str(tmp_path), "--json", str(tmp_path / "table.json")])
    table.main()
    said = capsys.readouterr().out
    assert "| 15 | from nothing | 50, 50 | 0.50, 0.50 | 10.0, 20.0 | 1010, none | 2.3, none |" in said
    assert json.loads((tmp_path / "table.json").read_text())["runs"]["organic50-0"]["minimum, cm⁻¹"] == 10.0
