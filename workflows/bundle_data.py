"""The benchmark of small reactions as the data set and the data card of the package.

python workflows/bundle_data.py --work FOLDER [--out FOLDER] [--plan]

FOLDER is the work folder of ``phl reactions`` (the command is in ``workflows/benchmark_seeds.py``). Reactions that are
finished there are packed, the others named on the card; nothing is computed.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase.units import invcm

from phl_ase.datasets import (
    BUNDLED,
    BaseDataset,
    Dataset,
    DatasetMeta,
    ReactionFrames,
    reactions_of,
    write_dataset,
)
from phl_ase.reactions import ReactionGuess, ReactionSettings, build_reactions
from phl_ase.reactions.folder import STAGES
from phl_ase.reference import LabelMethod, LabelRequest
from phl_ase.resolver import resolve_calculator
from phl_ase.structures import Frame, atoms_from_frame
from phl_ase.units import convert
from phl_ase.vibrations import harmonic_analysis

TARGET = BUNDLED["reactions-wb97xd-631gd"]
SEEDS = Path(__file__).with_name("benchmark_seeds.extxyz")
DISPLACEMENTS = (0.04, 0.06, 0.08, 0.1, 0.12, 0.14, 0.17, 0.2)
HEADINGS = ("imaginary, cm⁻¹", "barrier →, kcal/mol", "←, kcal/mol", "highest structure above the lowest, eV")
ENOUGH = 18  # normal-mode samples
KINDS = ("ts", "reactant", "product", "irc", "nms", "displaced")


@dataclass(frozen=True)
class Published:
    """A number of the literature.

    Attributes:
        value: In ``unit``.
        unit: kcal/mol or cm⁻¹.
        what: What was measured or computed.
        source: Where it stands.
        lower: Whether it is the lower one of the reaction's two barriers.
    """

    value: float
    unit: str
    what: str
    source: str
    lower: bool = False


PER_EV: Mapping[str, float] = {"kcal/mol": convert(1.0, "eV", "kcal/mol"), "cm⁻¹": 1.0 / invcm}

PUBLISHED: Mapping[str, tuple[Published, ...]] = {
    "nh3_inversion": (Published(5.8, "kcal/mol", "inversion barrier, from the spectrum", "doi:10.1063/1.1701290"),),
    "h2o2_cis": (Published(2460.0, "cm⁻¹", "torsional barrier, from the spectrum", "doi:10.1063/1.1696228"),),
    "h2o2_trans": (Published(386.0, "cm⁻¹", "torsional barrier, from the spectrum", "doi:10.1063/1.1696228"),),
    "hcn_hnc": (
        Published(48.07, "kcal/mol", "classical barrier from HCN, W4 theory", "doi:10.1021/ct800568m"),
        Published(32.82, "kcal/mol", "classical barrier from HNC, W4 theory", "doi:10.1021/ct800568m", lower=True),
    ),
    "h2co_h2_co": (
        Published(79.2, "kcal/mol", "barrier with zero-point energy, from Stark spectra", "doi:10.1063/1.457858"),
    ),
    "ch3nc_ch3cn": (
        Published(38.4, "kcal/mol", "activation energy at high pressure, 500 K", "doi:10.1021/ja00881a006"),
    ),
    "methanol_rotation": (Published(373.0, "cm⁻¹", "V₃, from the microwave spectrum", "doi:10.1063/1.1668221"),),
    "ethane_rotation": (Published(2.93, "kcal/mol", "torsional barrier, from the infrared", "doi:10.1063/1.1668849"),),
}
"""Reaction -> published barriers; only the classical ones compare without zero-point energy."""

# T. Shimanouchi, Tables of Molecular Vibrational Frequencies I, NSRDS-NBS 39 (1972): observed fundamentals, cm⁻¹
FUNDAMENTALS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "H2CO": ("h2co_hcoh", (1167.0, 1249.0, 1500.0, 1746.0, 2783.0, 2843.0)),
    "NH3": ("nh3_inversion", (950.0, 1627.0, 1627.0, 3337.0, 3444.0, 3444.0)),
    "HCN": ("hcn_hnc", (712.0, 712.0, 2097.0, 3311.0)),
}

NOTES = (
    "Hessians are PySCF's analytic ones (no response of the grid) with the sum rule imposed; energies and forces carry "
    "no such error. Structures of kind 'displaced' lie around the TS, every atom moved at random."
)

CARD = """# reactions-wb97xd-631gd

{frames} geometries of {reactions} small gas-phase reactions of H, C, N and O (neutral closed-shell singlets, {smallest}
to {largest} atoms), each with energy, forces and full Hessian: transition states, the minima at both ends of each path,
points along it, normal-mode samples at {temperatures} K around the three stationary points, and
structures {displacements} Å (rms) off the transition state in random directions.

    from phl_ase.datasets import open_dataset
    dataset = open_dataset("reactions-wb97xd-631gd")

## Level

wB97X-D/6-31G(d) with Cartesian (6D) d functions. PySCF {pyscf}: libxc functional 471 plus the Chai–Head-Gordon pair
dispersion (doi:10.1039/B810189B), grid level 4, SCF to 1e-10 Ha, gradients with grid response, closed shells.

## How it was made

`phl reactions` on the guesses of `workflows/benchmark_seeds.extxyz`, with the settings in the file's provenance: TSs by
Sella (largest force 0.005 eV/Å, exactly one imaginary mode), the path (IRC) both ways by Sella, the ends relaxed to
1e-3 eV/Å and verified to be minima, six points on either side equally spaced in arc length, then the samples and the
labels. `workflows/bundle_data.py` packed it and wrote this card.

## Units

Å, eV (absolute), eV/Å (−∂E/∂R), eV/Å² (symmetric), √amu·Å from the TS (the sign is the direction), K.

## Known errors

- Hessians: PySCF's analytic ones lack the grid response; translations are taken out by the sum rule. On five molecules
  they differ from converged ones by 0.004–0.19 eV/Å² rms, central differences of forces by 0.025–0.065
  (`workflows/results/label_figures.json`). Energies and forces carry no such error.
- `reactant` and `product` are the two ends of a path, in no chemical order.
- Restricted closed shells throughout. {unstable}
{failures}
## Reactions

Barriers are differences of electronic energies, without zero-point energy.

{headings}
|---|---|---|---|{rules}---|---|---|---|
{rows}

## Beside published values

| reaction | quantity | published | here | source |
|---|---|---|---|---|
{published}

wB97X-D/6-31G(d) is what the numbers are of, not nature: barriers that are observed hold zero-point energy, and spectra
give effective ones.

Observed fundamentals (T. Shimanouchi, NSRDS-NBS 39, 1972) beside harmonic wavenumbers here, cm⁻¹, which at this level
lie some 5–8 % above:

| molecule | observed | here | mean ratio |
|---|---|---|---|
{fundamentals}

## Content

Content hash (sha256): `{digest}`
"""


def guesses() -> list[ReactionGuess]:
    """The guesses as ``phl reactions`` reads them."""
    frames = ase.io.read(SEEDS, index=":")
    found = []
    for atoms in frames:
        name, description = str(atoms.info["reaction"]), str(atoms.info.get("description", ""))
        found.append(ReactionGuess(name, (atoms,), description))
    return found


def outcome_of(folder: Path) -> str:
    """Why a reaction is not packed; empty where it is finished, be it that some samples could not be drawn."""
    for stage in STAGES:
        path = folder / f"{stage}.json"
        if not path.exists():
            return "not finished"
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["outcome"] != "converged" and stage != "samples":
            return f"{stage}: {record['sentence']}"
        if stage == "samples" and sum(frame["kind"] == "nms" for frame in record["frames"]) < ENOUGH:
            return f"samples: {record['sentence']}"
    return ""


def rows_of(dataset: BaseDataset, described: Mapping[str, str]) -> list[str]:
    """One line of the card for each reaction."""
    lines = []
    for name, reaction in reactions_of(dataset).items():
        members = dataset.frames(np.flatnonzero(dataset.reactions == name).tolist())
        count = Counter(frame.kind for frame in members)
        imaginary = wavenumbers(reaction.transition_state)[0]
        lowest = min(frame.energy for frame in members)
        highest = max(frame.energy for frame in members) - lowest
        there, back = barriers(reaction, "kcal/mol")
        cells = [name, described[name], len(members[0]), len(members), *(count[kind] for kind in KINDS)]
        cells += [f"{abs(imaginary):.0f}i", f"{there:.1f}", f"{back:.1f}", f"{highest:.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def barriers(reaction: ReactionFrames, unit: str) -> list[float]:
    """E(TS) − E(reactant) and − E(product)."""
    ends = (reaction.reactant, reaction.product)
    return [convert(reaction.transition_state.energy - end.energy, "eV", unit) for end in ends]


def wavenumbers(frame: Frame) -> np.ndarray:
    """cm⁻¹, imaginary ones negative, ascending."""
    return harmonic_analysis(atoms_from_frame(frame), frame.hessian).wavenumbers


def published_rows(dataset: BaseDataset) -> list[str]:
    """Barriers beside the literature's."""
    reactions, lines = reactions_of(dataset), []
    for name, values in PUBLISHED.items():
        for one in values if name in reactions else ():
            sides = sorted(barriers(reactions[name], "eV"))
            ours = sides[0 if one.lower else 1] * PER_EV[one.unit]
            lines.append(f"| {name} | {one.what} | {one.value:g} {one.unit} | {ours:.4g} | {one.source} |")
    return lines


def fundamental_rows(dataset: BaseDataset) -> list[str]:
    """Wavenumbers of minima beside observed fundamentals."""
    reactions, lines = reactions_of(dataset), []
    for molecule, (name, observed) in FUNDAMENTALS.items():
        if name not in reactions:
            continue
        ends = (reactions[name].reactant, reactions[name].product)
        ours = wavenumbers(min(ends, key=lambda frame: frame.energy))
        cells = (", ".join(f"{value:.0f}" for value in values) for values in (observed, ours))
        lines.append(f"| {molecule} | {' | '.join(cells)} | {np.mean(ours / np.array(observed)):.3f} |")
    return lines


def card(dataset: BaseDataset, described: Mapping[str, str], work: Path) -> str:
    """The card as Markdown."""
    sizes, meta = dataset.sizes, dataset.meta
    settings: Mapping[str, Any] = meta.provenance["settings"]
    shells = {path.parent.name: json.loads(path.read_text()) for path in sorted(work.glob("*/stability.json"))}
    names = list(reactions_of(dataset))
    bad = [name for name in names if shells.get(name, {}).get("outcome") == "unstable"]
    unchecked = [name for name in names if name not in shells]
    unstable = f"An unrestricted solution lies lower at the TS of {', '.join(bad) or 'none'}"
    unstable += f"; not checked: {', '.join(unchecked)}." if unchecked else "; all TSs were checked."
    left: dict[str, list[str]] = {}
    for guess in guesses():
        if guess.name not in names:
            left.setdefault(outcome_of(work / guess.folder), []).append(guess.name)
    failures = "".join(f"- Not in the set: {', '.join(some)} ({reason}).\n" for reason, some in left.items())
    return CARD.format(
        frames=len(dataset),
        reactions=len(names),
        smallest=min(sizes),
        largest=max(sizes),
        temperatures=", ".join(f"{kelvin:g}" for kelvin in settings["temperatures"]),
        displacements=f"{min(settings['displacements']):g}–{max(settings['displacements']):g}",
        pyscf=meta.provenance["versions"]["pyscf"],
        unstable=unstable,
        failures=failures,
        headings=f"| {' | '.join(('reaction', 'what', 'atoms', 'frames', *KINDS, *HEADINGS))} |",
        rules="---|" * len(KINDS),
        rows="\n".join(rows_of(dataset, described)),
        published="\n".join(published_rows(dataset)),
        fundamentals="\n".join(fundamental_rows(dataset)),
        digest=dataset.content_hash(),
    )


def main() -> None:
    """Pack what is finished, write it compressed, check it, and write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=TARGET.parent)
    parser.add_argument("--plan", action="store_true", help="say what is finished, write nothing")
    arguments = parser.parse_args()
    outcomes = {guess: outcome_of(arguments.work / guess.folder) for guess in guesses()}
    finished = [guess for guess, outcome in outcomes.items() if not outcome]
    for guess, outcome in outcomes.items():
        print(f"{guess.name:28s} {outcome or 'finished'}")
    print(f"{len(finished)} of {len(outcomes)} finished")
    if arguments.plan:
        return
    packed = arguments.work.with_name("bundle.h5")
    packed.unlink(missing_ok=True)
    build_reactions(
        finished,
        LabelMethod(partial(resolve_calculator, "pyscf", device="auto", trust=False), "pyscf"),
        packed,
        settings=ReactionSettings(displacements=DISPLACEMENTS),
        request=LabelRequest(hessian="own"),
        work=arguments.work,
        source=str(SEEDS),
    )
    target = arguments.out / TARGET.name
    with Dataset(packed) as dataset:
        frames, meta = list(dataset), dataset.meta
    meta = DatasetMeta(meta.level_of_theory, meta.energy_reference, meta.provenance, f"{NOTES} {meta.notes}")
    digest = write_dataset(target, frames, meta, compression=True)
    described = {guess.name: guess.description or guess.name for guess in finished}
    with Dataset(target) as written:
        written.verify()
        if not all(np.array_equal(a.hessian, b.hessian) for a, b in zip(frames, written, strict=True)):
            raise SystemExit("a Hessian changed on its way into the data set")
        text = card(written, described, arguments.work)
    target.with_suffix(".md").write_text(text, encoding="utf-8")
    print(f"{target.name}: {len(frames)} frames, {target.stat().st_size / 1e6:.2f} MB, {digest}")


if __name__ == "__main__":
    main()
