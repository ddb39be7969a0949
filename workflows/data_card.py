"""Write the data card of ``reactions-wb97xd-631gd`` from the data set itself.

python workflows/data_card.py [--out phl_ase/datasets/bundled/reactions_wb97xd_631gd.md]

Nothing on the card is typed in that the data can tell: each end of a path is named after the bonds that its structure
has, and each barrier belongs to the end that it is measured from. A molecule whose bonds are not in ``SPECIES`` stops
the script.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import networkx
import numpy as np
from ase import Atoms
from ase.units import invcm

from phl_ase.datasets import BUNDLED, BaseDataset, ReactionFrames, open_dataset, reactions_of
from phl_ase.paths.end_points import molecular_graph
from phl_ase.structures import Frame, atoms_from_frame
from phl_ase.units import convert
from phl_ase.vibrations import harmonic_analysis

NAME = "reactions-wb97xd-631gd"
KINDS = ("ts", "reactant", "product", "irc", "nms", "displaced")

# Every heavy atom as element, hydrogens, (heavy neighbours); sorted. This tells the constitutions below apart.
SPECIES: Mapping[str, tuple[str, str]] = {
    "H2": ("H2", "hydrogen"),
    "C(O) O(C)": ("CO", "carbon monoxide"),
    "C(OO) O(C) O(C)": ("CO2", "carbon dioxide"),
    "OH2()": ("H2O", "water"),
    "NH3()": ("NH3", "ammonia"),
    "CH(N) N(C)": ("HCN", "hydrogen cyanide"),
    "C(N) NH(C)": ("HNC", "hydrogen isocyanide"),
    "CH2(O) O(C)": ("H2CO", "formaldehyde"),
    "CH(O) OH(C)": ("HCOH", "hydroxymethylene"),
    "OH(O) OH(O)": ("HOOH", "hydrogen peroxide"),
    "CH(C) CH(C)": ("HCCH", "acetylene"),
    "C(C) CH2(C)": ("H2CC", "vinylidene"),
    "C(NO) N(C) OH(C)": ("HOCN", "cyanic acid"),
    "C(NO) NH(C) O(C)": ("HNCO", "isocyanic acid"),
    "NH(N) NH(N)": ("HNNH", "diazene"),
    "N(N) NH2(N)": ("H2NN", "isodiazene"),
    "N(OO) O(N) OH(N)": ("HONO", "nitrous acid"),
    "NH(OO) O(N) O(N)": ("HNO2", "nitryl hydride"),
    "C(NN) N(C) NH2(C)": ("H2NCN", "cyanamide"),
    "C(NN) NH(C) NH(C)": ("HNCNH", "carbodiimide"),
    "CH2(N) NH(C)": ("H2CNH", "methanimine"),
    "CH(N) NH2(C)": ("HCNH2", "aminomethylene"),
    "N(NO) NH2(N) O(N)": ("H2NNO", "nitrosamine"),
    "N(NO) NH(N) OH(N)": ("HNNOH", "hydroxydiazene"),
    "CH(OO) O(C) OH(C)": ("HCOOH", "formic acid"),
    "C(OO) OH(C) OH(C)": ("C(OH)2", "dihydroxycarbene"),
    "N(OOO) O(N) O(N) OH(N)": ("HONO2", "nitric acid"),
    "NH2(O) OH(N)": ("NH2OH", "hydroxylamine"),
    "NH3(O) O(N)": ("NH3O", "ammonia oxide"),
    "C(OOO) O(C) OH(C) OH(C)": ("H2CO3", "carbonic acid"),
    "C(CN) CH3(C) N(C)": ("CH3CN", "acetonitrile"),
    "C(N) CH3(N) N(CC)": ("CH3NC", "methyl isocyanide"),
}
"""Bonds of a molecule -> its formula and name."""


@dataclass(frozen=True)
class Published:
    """A barrier or energy difference of the literature.

    Attributes:
        start: Formula of the end that the barrier is measured from; empty for the energy difference of the ends.
        value: In ``unit``.
        unit: kcal/mol or cm⁻¹.
        what: What was measured or computed.
        source: Where it stands.
    """

    start: str
    value: float
    unit: str
    what: str
    source: str


PER_EV: Mapping[str, float] = {"kcal/mol": convert(1.0, "eV", "kcal/mol"), "cm⁻¹": 1.0 / invcm}

PUBLISHED: Mapping[str, tuple[Published, ...]] = {
    "nh3_inversion": (
        Published("NH3", 5.8, "kcal/mol", "inversion barrier, from the spectrum", "doi:10.1063/1.1701290"),
    ),
    "h2o2_cis": (Published("HOOH", 2460.0, "cm⁻¹", "torsional barrier, from the spectrum", "doi:10.1063/1.1696228"),),
    "h2o2_trans": (Published("HOOH", 386.0, "cm⁻¹", "torsional barrier, from the spectrum", "doi:10.1063/1.1696228"),),
    "hcn_hnc": (
        Published("HCN", 48.07, "kcal/mol", "classical barrier, W4 theory", "doi:10.1021/ct800568m"),
        Published("HNC", 32.82, "kcal/mol", "classical barrier, W4 theory", "doi:10.1021/ct800568m"),
    ),
    "h2co_h2_co": (
        Published("H2CO", 79.2, "kcal/mol", "barrier with zero-point energy, Stark spectra", "doi:10.1063/1.457858"),
    ),
    "h2co_hcoh": (
        Published("HCOH", 30.0, "kcal/mol", "barrier with zero-point energy, theory", "doi:10.1038/nature07010"),
    ),
    "hcooh_rotation": (
        Published("", 1365.0, "cm⁻¹", "cis above trans, with zero-point energy", "Z. Naturforsch. A 31, 1113 (1976)"),
    ),
    "ch3nc_ch3cn": (
        Published("CH3NC", 38.4, "kcal/mol", "activation energy at high pressure, 500 K", "doi:10.1021/ja00881a006"),
    ),
}
"""Reaction -> published values; only the classical barriers compare without zero-point energy."""

# T. Shimanouchi, Tables of Molecular Vibrational Frequencies I, NSRDS-NBS 39 (1972): observed fundamentals, cm⁻¹
FUNDAMENTALS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "H2CO": ("h2co_hcoh", (1167.0, 1249.0, 1500.0, 1746.0, 2783.0, 2843.0)),
    "NH3": ("nh3_inversion", (950.0, 1627.0, 1627.0, 3337.0, 3444.0, 3444.0)),
    "HCN": ("hcn_hnc", (712.0, 712.0, 2097.0, 3311.0)),
}

UNSTABLE = ("hcoh_rotation", "n2h2_inversion")
"""TSs at which an unrestricted solution lies lower; PySCF's stability analysis was run at every TS."""

CARD = """# reactions-wb97xd-631gd

{frames} geometries of {reactions} small gas-phase reactions of H, C, N and O (neutral closed-shell singlets, {smallest}
to {largest} atoms), each with energy, forces and full Hessian: transition states, the minima at both ends of each path,
points along it, normal-mode samples at {temperatures} K around the three stationary points, and
structures {displacements} Å (rms) off the transition state in random directions.

    from phl_ase.datasets import open_dataset
    dataset = open_dataset("reactions-wb97xd-631gd")

The molecules of its complexes by themselves are in [fragments-wb97xd-631gd](fragments_wb97xd_631gd.md).

## Level

wB97X-D/6-31G(d) with Cartesian (6D) d functions. PySCF {pyscf}: libxc functional 471 plus the Chai–Head-Gordon pair
dispersion (doi:10.1039/B810189B), grid level 4, SCF to 1e-10 Ha, gradients with grid response, closed shells.

## How it was made

`phl reactions` on the guesses of `workflows/benchmark_seeds.extxyz`, with the settings in the file's provenance: TSs by
Sella (largest force 0.005 eV/Å, exactly one imaginary mode), the path (IRC) both ways by Sella, the ends relaxed to
1e-3 eV/Å and verified to be minima, six points on either side equally spaced in arc length, then the samples and the
labels. `workflows/bundle_data.py` packed it; `workflows/data_card.py` wrote this card from the data.

## Units

Å, eV (absolute), eV/Å (−∂E/∂R), eV/Å² (symmetric), √amu·Å from the TS (the sign is the direction), K.

## Known errors

- Hessians: PySCF's analytic ones lack the grid response; translations are taken out by the sum rule. On five molecules
  they differ from converged ones by 0.004–0.19 eV/Å² rms, central differences of forces by 0.025–0.065
  (`workflows/results/label_figures.json`). Energies and forces carry no such error.
- Restricted closed shells throughout. All TSs were checked: an unrestricted solution lies lower at that of {unstable}.

## Reactions

Each row reads from the frame of kind `reactant` to the frame of kind `product`. A path has no chemical direction:
which of its two ends is called `reactant` is arbitrary. Energies are electronic, in kcal/mol, without zero-point
energy. Where both ends are the same molecule, the dihedral angle that changes is given.

| reaction | from → to | imaginary, cm⁻¹ | E(TS) − E(from) | E(TS) − E(to) | E(to) − E(from) |
|---|---|---|---|---|---|
{rows}

| reaction | from | to | atoms | frames | irc | nms | displaced | highest structure above the lowest, eV |
|---|---|---|---|---|---|---|---|---|
{contents}

Every reaction has one frame each of kind `ts`, `reactant` and `product`.

## Beside published values

| reaction | from | quantity | published | here | source |
|---|---|---|---|---|---|
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


def species_of(atoms: Atoms) -> tuple[tuple[str, str], ...]:
    """Return formula and name of each molecule of a structure, from its bonds alone.

    Raises:
        SystemExit: For a molecule that ``SPECIES`` does not list.
    """
    graph = molecular_graph(atoms)
    found = []
    for piece in networkx.connected_components(graph):
        element = {n: graph.nodes[n]["element"] for n in piece}
        heavy = [n for n in piece if element[n] != "H"]
        described = []
        for n in heavy:
            hydrogens = sum(element[m] == "H" for m in graph[n])
            count = "" if hydrogens == 0 else "H" if hydrogens == 1 else f"H{hydrogens}"
            described.append(f"{element[n]}{count}({''.join(sorted(element[m] for m in graph[n] if m in heavy))})")
        bonds = " ".join(sorted(described)) or f"H{len(piece)}"
        if bonds not in SPECIES:
            raise SystemExit(f"a molecule with the bonds {bonds!r} is not in SPECIES; add its formula and name")
        found.append(SPECIES[bonds])
    return tuple(sorted(found))


def formula(frame: Frame) -> str:
    """Return the formulas of the molecules of a frame, joined by plus signs."""
    return " + ".join(short for short, _ in species_of(atoms_from_frame(frame)))


def names(frame: Frame) -> str:
    """Return the names of the molecules of a frame, joined by plus signs."""
    return " + ".join(long for _, long in species_of(atoms_from_frame(frame)))


def turned(reactant: Atoms, product: Atoms) -> str:
    """Return the dihedral angle that changes most between two structures with the same bonds; empty where none does."""
    graph, best = molecular_graph(reactant), (20.0, "")
    for b, c in graph.edges:
        for a in set(graph[b]) - {c}:
            for d in set(graph[c]) - {a, b}:
                angles = [one.get_dihedral(a, b, c, d) for one in (reactant, product)]
                change = abs((angles[1] - angles[0] + 180.0) % 360.0 - 180.0)
                chain = "–".join(reactant.symbols[i] for i in (a, b, c, d))
                best = max(best, (change, f"{chain} {round(angles[0]) % 360}° → {round(angles[1]) % 360}°"))
    return best[1]


def step(reaction: ReactionFrames) -> str:
    """Return what reacts to what."""
    ends = (reaction.reactant, reaction.product)
    start, end = map(formula, ends)
    if start != end:
        return f"{start} → {end}"
    change = turned(*map(atoms_from_frame, ends))
    return f"{start} → {end} ({change or 'the other side of the plane'})"


def barriers(reaction: ReactionFrames) -> tuple[float, float]:
    """Return E(TS) − E(reactant) and E(TS) − E(product), eV."""
    top = reaction.transition_state.energy
    return top - reaction.reactant.energy, top - reaction.product.energy


def wavenumbers(frame: Frame) -> np.ndarray:
    """Return the wavenumbers of a labelled frame, cm⁻¹, imaginary ones negative, ascending."""
    return harmonic_analysis(atoms_from_frame(frame), frame.hessian).wavenumbers


def reaction_rows(dataset: BaseDataset) -> tuple[list[str], list[str]]:
    """Return the lines of the two tables of reactions: energies, and contents."""
    energies, contents = [], []
    for name, reaction in reactions_of(dataset).items():
        frames = dataset.frames(np.flatnonzero(dataset.reactions == name).tolist())
        count = Counter(frame.kind for frame in frames)
        there, back = (value * PER_EV["kcal/mol"] for value in barriers(reaction))
        imaginary = abs(wavenumbers(reaction.transition_state)[0])
        cells = f"{there:.1f} | {back:.1f} | {round(there - back, 1) + 0.0:.1f}"  # + 0.0: no minus zero
        energies.append(f"| {name} | {step(reaction)} | {imaginary:.0f}i | {cells} |")
        height = np.ptp([frame.energy for frame in frames])
        kinds = " | ".join(str(count[kind]) for kind in KINDS[3:])
        ends = f"{names(reaction.reactant)} | {names(reaction.product)}"
        contents.append(f"| {name} | {ends} | {len(frames[0])} | {len(frames)} | {kinds} | {height:.1f} |")
    return energies, contents


def published_rows(dataset: BaseDataset) -> list[str]:
    """Return published values beside the same quantity of the data.

    Raises:
        SystemExit: For a published barrier from a molecule that is at neither end of the reaction.
    """
    lines = []
    reactions = reactions_of(dataset)
    for name, values in PUBLISHED.items():
        ends = {formula(reactions[name].product): barriers(reactions[name])[1]}
        ends[formula(reactions[name].reactant)] = barriers(reactions[name])[0]
        for one in values:
            if one.start and one.start not in ends:
                raise SystemExit(f"{name}: a published barrier from {one.start}; its ends are {', '.join(ends)}")
            difference = abs(np.subtract(*barriers(reactions[name])))
            ours = (ends[one.start] if one.start else difference) * PER_EV[one.unit]
            start = one.start or "both ends"
            lines.append(f"| {name} | {start} | {one.what} | {one.value:g} {one.unit} | {ours:.4g} | {one.source} |")
    return lines


def fundamental_rows(dataset: BaseDataset) -> list[str]:
    """Return harmonic wavenumbers of molecules beside observed fundamentals."""
    reactions, lines = reactions_of(dataset), []
    for molecule, (name, observed) in FUNDAMENTALS.items():
        end = next(e for e in (reactions[name].reactant, reactions[name].product) if formula(e) == molecule)
        ours = wavenumbers(end)
        cells = (", ".join(f"{value:.0f}" for value in values) for values in (observed, ours))
        lines.append(f"| {molecule} | {' | '.join(cells)} | {np.mean(ours / np.array(observed)):.3f} |")
    return lines


def card(dataset: BaseDataset) -> str:
    """Return the card as Markdown."""
    settings = dataset.meta.provenance["settings"]
    energies, contents = reaction_rows(dataset)
    return CARD.format(
        frames=len(dataset),
        reactions=len(energies),
        smallest=min(dataset.sizes),
        largest=max(dataset.sizes),
        temperatures=", ".join(f"{kelvin:g}" for kelvin in settings["temperatures"]),
        displacements=f"{min(settings['displacements']):g}–{max(settings['displacements']):g}",
        pyscf=dataset.meta.provenance["versions"]["pyscf"],
        unstable=" and ".join(UNSTABLE),
        rows="\n".join(energies),
        contents="\n".join(contents),
        published="\n".join(published_rows(dataset)),
        fundamentals="\n".join(fundamental_rows(dataset)),
        digest=dataset.content_hash(),
    )


def main() -> None:
    """Write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUNDLED[NAME].with_suffix(".md"))
    path = parser.parse_args().out
    path.write_text(card(open_dataset(NAME)), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
