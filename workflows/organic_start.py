"""Table of workflows/organic_start.sh: a molecule learnt from few frames, from nothing and from the model ``organic``.

python workflows/organic_start.py runs/organic_start --json workflows/results/organic_start.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from malonaldehyde_table import SEEDS, difference, properties, read

from phl_ase.results import provenance, write_json

STARTS = {"nothing": "from nothing", "organic": "from organic"}
COUNTS = (15, 50)


def main() -> None:
    """Collect, show and keep the errors of every run; a cell has one number for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    reference = properties(f"{given.folder}/reference_")
    print("| frames | | F, meV/Å | H, eV/Å² | frequencies of the minimum, cm⁻¹ | imaginary mode of the TS | barrier |")
    print("|---|---|---|---|---|---|---|")
    rows = {}
    for count in COUNTS:
        for start, words in STARTS.items():
            cells: list[list[str]] = [[] for _ in range(5)]
            for seed in SEEDS:
                run = given.folder / f"{start}{count}-{seed}"
                errors = {metric["name"]: metric["value"] for metric in read(run / "errors.json")["metrics"]}
                found = properties(f"{run}/")
                row = {
                    "forces, meV/Å": errors["forces, all"],
                    "hessian, eV/Å²": errors["hessian, all"],
                    "minimum, cm⁻¹": difference(found["minimum"], reference["minimum"]),
                    "imaginary mode, cm⁻¹": found["ts"] and -found["ts"][0],
                    "barrier, kcal/mol": found["barrier"],
                }
                rows[run.name] = row
                for cell, value, form in zip(cells, row.values(), (".0f", ".2f", ".1f", ".0f", ".1f"), strict=True):
                    cell.append("none" if value is None else format(value, form))
            print(f"| {count} | {words} | {' | '.join(', '.join(cell) for cell in cells)} |")
    print(f"| | GFN1-xTB | | | | {-reference['ts'][0]:.0f} | {reference['barrier']:.1f} |")
    if given.json:
        write_json(given.json, {"reference": reference, "runs": rows, "provenance": provenance(threads=1)})


if __name__ == "__main__":
    main()
