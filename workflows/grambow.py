"""Organic reactions of 6 to 23 atoms: GFN2-xTB data from Grambow's TSs, a model, and its TSs against published ones.

Guesses and reference values: ``irc_comparison`` of patonlab/pyQRC, a sample of doi:10.1038/s41597-020-0460-4.
The reactions with reference values test, all others train:

    python workflows/grambow.py pick grambow_ts_guesses.xyz grambow_ts_reference.csv --out runs/grambow
    cd runs/grambow
    made="--with tblite --hvp 1 --samples 1 --displacements 0.05,0.1,0.2,0.3 --workers 2"
    phl reactions train.xyz $made -o train.h5
    phl reactions test.xyz $made --hessian differences -o test.h5
    phl train ../../workflows/grambow.toml -o model
    phl evaluate model/best.safetensors test.h5
    phl validate frequencies model/best.safetensors test.h5
    phl validate ts model/best.safetensors test.h5
    phl ts reference_guesses.xyz --with tblite -o tblite
    phl ts reference_guesses.xyz --with model/best.safetensors -o model
    python ../../workflows/grambow.py wavenumbers reference.csv tblite.json model.json --json grambow.json

``phl reactions`` goes on where it was stopped, and says what failed and why.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from scipy.stats import bootstrap

from phl_ase.errors import PHLError
from phl_ase.results import provenance, write_json

TESTED = 60
"""Reactions whose data get full Hessians; the others with reference values are left alone."""

SAME = 0.5
"""Ratio of imaginary wavenumbers below which, or above whose inverse, another TS was found."""


def pick(guesses: Path, reference: Path, out: Path) -> None:
    """Write the guesses that train, that test, and all with reference values."""
    published = set(published_wavenumbers(reference))
    frames = ase.io.read(guesses, ":")
    for atoms in frames:
        atoms.calc = None
    train = [atoms for atoms in frames if atoms.info["reaction"] not in published]
    test = [atoms for atoms in frames if atoms.info["reaction"] in published]
    out.mkdir(parents=True, exist_ok=True)
    ase.io.write(out / "reference_guesses.xyz", test)
    shutil.copy(reference, out / "reference.csv")
    for part in (train, test):
        random.Random(0).shuffle(part)
    ase.io.write(out / "train.xyz", train)
    ase.io.write(out / "test.xyz", test[:TESTED])
    print(f"{len(train)} reactions train, {TESTED} of {len(test)} with reference values test")


def published_wavenumbers(reference: Path) -> dict[str, float]:
    """Reaction -> imaginary wavenumber of its TS, cm⁻¹, negative."""
    with reference.open(encoding="utf-8") as file:
        return {row["reaction"]: float(row["imaginary_wavenumber_cm-1"]) for row in csv.DictReader(file)}


def compared(searches: list[dict[str, Any]], published: list[float]) -> dict[str, Any]:
    """What the searches of one method found, beside the published TSs in the same order.

    Searches that find no TS have no error: their number stands beside the errors.
    """
    if len(searches) != len(published):
        raise PHLError(f"{len(searches)} searches for {len(published)} published wavenumbers; expected as many")
    errors, like = [], []
    for search, wavenumber in zip(searches, published, strict=True):
        if search["outcome"] != "converged":
            continue
        errors.append(abs(search["wavenumbers_cm-1"][0] - wavenumber))
        like.append(SAME < search["wavenumbers_cm-1"][0] / wavenumber < 1 / SAME)
    result: dict[str, Any] = {"searches": len(searches), "found": len(errors), "alike": int(np.sum(like))}
    if len(errors) > 1:
        limits = bootstrap((errors,), np.median, rng=0, method="percentile").confidence_interval
        result |= {"median_error_cm-1": float(np.median(errors)), "interval": [float(limits.low), float(limits.high)]}
    return result


def wavenumbers(reference: Path, files: list[Path], target: Path | None) -> None:
    """Show and keep a line for each method."""
    published = list(published_wavenumbers(reference).values())
    rows = {}
    print(f"{'method':28} {'found':>9} {'alike':>6}   median error / cm⁻¹")
    for file in files:
        row = compared(json.loads(file.read_text(encoding="utf-8"))["searches"], published)
        rows[file.stem] = row
        shown = "-"
        if "interval" in row:
            shown = f"{row['median_error_cm-1']:.0f} [{row['interval'][0]:.0f}, {row['interval'][1]:.0f}]"
        print(f"{file.stem:28} {row['found']:4}/{row['searches']:4} {row['alike']:6}   {shown}")
    if target is not None:
        write_json(target, {"command": __doc__, "rows": rows, "provenance": provenance()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    picked, table = commands.add_parser("pick"), commands.add_parser("wavenumbers")
    picked.add_argument("guesses", type=Path)
    picked.add_argument("reference", type=Path)
    picked.add_argument("--out", type=Path, required=True)
    table.add_argument("reference", type=Path)
    table.add_argument("searches", type=Path, nargs="+", help="JSON files of phl ts, searches in the reference's order")
    table.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.command == "pick":
        pick(given.guesses, given.reference, given.out)
    else:
        wavenumbers(given.reference, given.searches, given.json)


if __name__ == "__main__":
    main()
