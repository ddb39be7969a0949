"""Make the bundled data set of isolated molecules: H2, CO, CO2 and H2O by themselves.

The paths of ``reactions-wb97xd-631gd`` end in complexes of these molecules (H2 + CO, H2 + CO2, H2O + CO, H2O + CO2), so
that a model trained on it alone sees only sums of their energies. Each molecule is relaxed, sampled along its normal
modes at the temperatures of the reactions, and labelled with energy, forces and Hessian at the same level of theory.

python workflows/bundle_fragments.py --work FOLDER [--workers 2] [--out FOLDER]

A quarter of an hour on one core. Needs the extra [reference]; the labelling goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from ase import Atoms
from ase.build import molecule

from phl_ase.datasets import BUNDLED, Dataset, DatasetMeta, MemoryDataset, labelled_frame, write_dataset
from phl_ase.paths import relax
from phl_ase.reactions import sample
from phl_ase.reference import LabelMethod, LabelRequest, label_dataset
from phl_ase.resolver import resolve_calculator

MOLECULES = ("H2", "CO", "CO2", "H2O")
TEMPERATURES = (300.0, 600.0, 900.0, 1200.0, 1600.0, 2000.0)
PER_TEMPERATURE = 4
TARGET = BUNDLED["fragments-wb97xd-631gd"]
NOTES = "The molecules by themselves of which the complexes in reactions-wb97xd-631gd consist."

CARD = """# fragments-wb97xd-631gd

{frames} geometries of {molecules}, each molecule by itself: its minimum (kind `reactant`) and normal-mode samples at
{temperatures} K, with energy, forces and full Hessian.

    from phl_ase.datasets import open_dataset
    dataset = open_dataset("fragments-wb97xd-631gd")

The reactions in `reactions-wb97xd-631gd` end in complexes of these molecules. A model trained on that set alone sees
only the sums of their energies; trained on both, it knows each molecule. The level of theory, the energy reference, the
units and the known error of the Hessians are those of [reactions-wb97xd-631gd](reactions_wb97xd_631gd.md), so the two
sets merge (`phl data merge`). `workflows/bundle_fragments.py` made the set and wrote this card.

| molecule | frames | energy of the minimum, eV | highest frame above it, eV |
|---|---|---|---|
{rows}

Content hash (sha256): `{digest}`
"""


def structures_of(name: str, number: int) -> list[Atoms]:
    """Return the relaxed molecule and its samples, unlabelled."""
    atoms = molecule(name)
    atoms.calc = resolve_calculator("pyscf", device="auto", trust=False)
    minimum = relax(atoms, 1e-3)
    if not minimum.converged:
        raise SystemExit(f"{name} could not be relaxed: {minimum.sentence}")
    found = [minimum.atoms.copy()]
    found[0].info["kind"] = "reactant"
    for place, kelvin in enumerate(TEMPERATURES):
        drawn = sample(
            minimum.atoms, "normal-mode", temperature=kelvin, count=PER_TEMPERATURE, seed=100 * number + place
        )
        found += drawn.frames
    for one in found:
        one.calc = None
        one.info["reaction"] = f"isolated_{name.lower()}"
    return found


def main() -> None:
    """Relax, sample, label, write the data set and its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=TARGET.parent)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    images = [atoms for number, name in enumerate(MOLECULES) for atoms in structures_of(name, number)]
    unlabelled = MemoryDataset([labelled_frame(atoms, "sample")[0] for atoms in images])
    labelled = arguments.work / "labelled.h5"
    if not labelled.exists():
        method = LabelMethod(partial(resolve_calculator, "pyscf", device="auto", trust=False), "pyscf")
        request = LabelRequest(hessian="own")
        result = label_dataset(unlabelled, method, labelled, request=request, workers=arguments.workers)
        if result.failures:
            raise SystemExit(f"frames failed: {result.failures}")
    with Dataset(labelled) as dataset:
        frames, meta = list(dataset), dataset.meta
    meta = DatasetMeta(meta.level_of_theory, meta.energy_reference, meta.provenance, f"{NOTES} {meta.notes}")
    target = arguments.out / TARGET.name
    digest = write_dataset(target, frames, meta, compression=True)
    rows = []
    for name in MOLECULES:
        energies = [frame.energy for frame in frames if frame.reaction == f"isolated_{name.lower()}"]
        rows.append(f"| {name} | {len(energies)} | {energies[0]:.4f} | {max(energies) - energies[0]:.2f} |")
    card = CARD.format(
        frames=len(frames),
        molecules=", ".join(MOLECULES),
        temperatures=", ".join(f"{kelvin:g}" for kelvin in TEMPERATURES),
        rows="\n".join(rows),
        digest=digest,
    )
    target.with_suffix(".md").write_text(card, encoding="utf-8")
    print(f"{target.name}: {len(frames)} frames, {target.stat().st_size / 1e6:.2f} MB, {digest}")


if __name__ == "__main__":
    main()
