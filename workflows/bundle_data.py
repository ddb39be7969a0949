"""Turn the labelled reactions (one HDF5 group per reaction) into the data set and the data card of the package.

python workflows/bundle_data.py SOURCE.h5 [--out FOLDER]
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import h5py
import numpy as np

from phl_ase.datasets import BUNDLED, Dataset, DatasetMeta, write_dataset
from phl_ase.structures.frame import Frame

TARGET = BUNDLED["reactions-wb97xd-631gd"]
NOTES = (
    "Hessians are PySCF's analytic ones without grid response, each diagonal block reset to minus the sum of its row: "
    "largest element error 0.25-0.64, mean 0.03 eV/Å² on three frames against central differences. Energies and forces "
    "carry no such error. Arc lengths are approximate (0.12 √amu·Å per step). 'reactant' and 'product' are the two "
    "ends of a path, in no chemical order. The CO + H2O end of hcooh_h2o_co keeps one soft imaginary mode."
)
CARD = """# reactions-wb97xd-631gd

{frames} geometries of {reactions} small gas-phase reactions of H, C, N and O (neutral singlets, 3 to 5 atoms), each
with energy, forces and full Hessian: transition states, both ends of each path, points along it, and normal-mode
samples at 300, 600, 1200 and 2000 K around the three stationary points.

    from phl_ase.datasets import open_dataset
    dataset = open_dataset("reactions-wb97xd-631gd")

## Level

wB97X-D/6-31G(d) with spherical (5D) d functions. PySCF 2.14: libxc functional 471 plus the Chai–Head-Gordon pair
dispersion (doi:10.1039/B810189B), grid level 4, SCF to 1e-10 Ha, gradients with grid response.

## How it was made

TSs by Sella from a guess (largest force 0.005 eV/Å, exactly one imaginary mode); the path (IRC) by local quadratic
approximation with a Bofill-updated Hessian in steps of 0.12 √amu·Å; the ends relaxed; normal-mode samples drawn around
TS and ends.

## Units

Å, eV (absolute), eV/Å (−∂E/∂R), eV/Å² (symmetric), √amu·Å from the TS (the sign is the direction), K.

## Known errors

- Hessians: PySCF's analytic ones lack the grid response. Each diagonal block was reset to minus the sum of its row
  (acoustic sum rule). Against central differences of grid-response gradients on three frames the largest element error
  was then 0.25–0.64 eV/Å² and the mean 0.03 (before: 1.0–1.5). The last column below is the largest violation of the
  sum rule before. Energies and forces carry no such error.
- Arc lengths (`irc_s`) are approximate: 0.12 per step.
- `reactant` and `product` are the two ends of a path, in no chemical order.
- `hcooh_h2o_co`: its CO + H2O end is a flat complex with one soft imaginary mode left.

## Contents

Content hash (sha256): `{digest}`

| reaction | atoms | frames | {kinds} | sum-rule violation before, eV/Å² |
|---|---|---|{rules}---|
{rows}
"""


def frames_of(group: h5py.Group, reaction: str) -> list[Frame]:
    """The frames of one reaction, in the order of the source."""
    frames = []
    for i, kind in enumerate(group["kind"].asstr()[:]):
        on_path = kind in ("ts", "irc", "reactant", "product")
        frames.append(
            Frame(
                numbers=group["numbers"][:],
                positions=group["positions"][i],
                energy=float(group["energy"][i]),
                forces=group["forces"][i],
                hessian=group["hessian"][i],
                kind=str(kind),
                reaction=reaction,
                # the source fills in zeros where neither applies; relaxed ends stand at the last point of the path
                irc_s=float(group["irc_coordinate"][i]) if on_path else None,
                temperature=float(group["sampling_temperature"][i]) if kind == "nms" else None,
            )
        )
    return frames


def main() -> None:
    """Convert, write, check, and write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=TARGET.parent)
    arguments = parser.parse_args()
    with h5py.File(arguments.source, "r") as source:
        violations = {r: float(source[r].attrs["largest_sum_rule_violation_before"]) for r in source}
        frames = [frame for reaction in source for frame in frames_of(source[reaction], reaction)]
        basis = source.attrs["basis_note"]
        level = source.attrs["level_of_theory"]
    provenance = {
        "method": level,
        "basis": basis,
        "made_with": "workflows/bundle_data.py",
        "stationary_points": "Sella, fmax 0.005 eV/Å; IRC by local quadratic approximation, Bofill-updated Hessian",
    }
    meta = DatasetMeta("wB97X-D/6-31G(d)", "absolute", provenance, f"Basis: {basis}. {NOTES}")
    target = arguments.out / TARGET.name
    digest = write_dataset(target, frames, meta, compression=True)
    with Dataset(target) as written:
        written.verify()
        if not all(np.array_equal(a.hessian, b.hessian) for a, b in zip(frames, written, strict=True)):
            raise SystemExit("a Hessian changed on its way into the data set")
    kinds = ("ts", "reactant", "product", "irc", "nms")
    rows = []
    for reaction, violation in violations.items():
        members = [frame for frame in frames if frame.reaction == reaction]
        count = Counter(frame.kind for frame in members)
        cells = (reaction, len(members[0]), len(members), *(count[kind] for kind in kinds), f"{violation:.2f}")
        rows.append(f"| {' | '.join(map(str, cells))} |")
    card = CARD.format(
        frames=len(frames),
        reactions=len(violations),
        digest=digest,
        kinds=" | ".join(kinds),
        rules="---|" * len(kinds),
        rows="\n".join(rows),
    )
    target.with_suffix(".md").write_text(card, encoding="utf-8")
    print(f"{target.name}: {len(frames)} frames, {target.stat().st_size / 1e6:.2f} MB, {digest}")


if __name__ == "__main__":
    main()
