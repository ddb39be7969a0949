"""Table of workflows/malonaldehyde.sh: models trained on GFN2-xTB with and without HVPs, against GFN2-xTB itself.

python workflows/malonaldehyde_table.py runs/malonaldehyde --json workflows/results/malonaldehyde.json
python workflows/malonaldehyde_table.py --only-table workflows/results/malonaldehyde.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from phl_ase.results import provenance, write_json

RUNS = {
    "ef": "150 frames, energies and forces (150 gradients)",
    "hvp": "150 frames, also one HVP each (450 gradients)",
    "more": "450 frames, energies and forces (450 gradients)",
    "both": "150 frames and 33 of the reaction, one HVP each (800 gradients)",
}
SEEDS = (0, 1)
EV_IN_KCAL = 23.060548


def read(path: Path) -> dict[str, Any]:
    """Return a JSON file."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def properties(prefix: str) -> dict[str, Any]:
    """Return wavenumbers (cm⁻¹) of the minimum and the TS, and the barrier between them (kcal/mol)."""
    (minimum,) = read(Path(prefix + "freq.json"))["structures"]
    (search,) = read(Path(prefix + "ts.json"))["searches"]
    found = search["outcome"] == "converged"
    return {
        "minimum": minimum["wavenumbers_cm-1"],
        "ts": search["wavenumbers_cm-1"] if found else None,
        "barrier": (search["energy_eV"] - minimum["energy_eV"]) * EV_IN_KCAL if found else None,
    }


def collect(folder: Path) -> dict[str, Any]:
    """Return the errors of every run against GFN2-xTB."""
    reference = properties(f"{folder}/tblite_")
    runs = {}
    for name in (f"{kind}{seed}" for kind in RUNS for seed in SEEDS):
        errors = {metric["name"]: metric["value"] for metric in read(folder / name / "errors.json")["metrics"]}
        found = properties(f"{folder}/{name}/")
        runs[name] = {
            "energy, meV/atom": errors["energy, all"],
            "forces, meV/Å": errors["forces, all"],
            "Hessian, eV/Å²": errors["hessian, all"],
            "minimum, cm⁻¹": difference(found["minimum"], reference["minimum"]),
            "TS, cm⁻¹": found["ts"] and difference(found["ts"], reference["ts"]),
            "imaginary mode, cm⁻¹": found["ts"] and -found["ts"][0],
            "barrier, kcal/mol": found["barrier"],
        }
    return {"reference": reference, "runs": runs}


def difference(found: list[float], expected: list[float]) -> float:
    """Return the mean absolute difference of wavenumbers, both in ascending order, in cm⁻¹."""
    return float(np.mean(np.abs(np.sort(found) - np.sort(expected))))


def markdown(results: dict[str, Any]) -> str:
    """Return the table: both seeds of every kind of run, and GFN2-xTB."""
    reference = results["reference"]
    columns = {
        "energy, meV/atom": "{:.2f}",
        "forces, meV/Å": "{:.0f}",
        "Hessian, eV/Å²": "{:.3f}",
        "minimum, cm⁻¹": "{:.1f}",
        "TS, cm⁻¹": "{:.0f}",
        "imaginary mode, cm⁻¹": "{:.0f}i",
        "barrier, kcal/mol": "{:.2f}",
    }
    heads = [
        "E, meV/atom",
        "F, meV/Å",
        "H, eV/Å²",
        "frequencies of the minimum, cm⁻¹",
        "of the TS, cm⁻¹",
        "imaginary mode",
        "barrier, kcal/mol",
    ]
    lines = ["| trained on | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for kind, text in RUNS.items():
        cells = []
        for column, form in columns.items():
            values = [results["runs"][f"{kind}{seed}"][column] for seed in SEEDS]
            cells.append(", ".join("none" if value is None else form.format(value) for value in values))
        lines.append(f"| {text} | " + " | ".join(cells) + " |")
    last = ["–"] * 5 + [f"{-reference['ts'][0]:.0f}i", f"{reference['barrier']:.2f}"]
    return "\n".join([*lines, "| GFN2-xTB itself | " + " | ".join(last) + " |"])


def main() -> None:
    """Read the runs, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="of malonaldehyde.sh")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only-table", type=Path, metavar="JSON")
    arguments = parser.parse_args()
    if arguments.only_table is None and arguments.folder is None:
        parser.error("name the folder that malonaldehyde.sh wrote, or --only-table JSON")
    results = read(arguments.only_table) if arguments.only_table else collect(arguments.folder)
    if arguments.json is not None:
        write_json(arguments.json, results | {"provenance": provenance()})
    print(markdown(results))


if __name__ == "__main__":
    main()
