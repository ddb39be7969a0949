r"""Guesses of transition states for the benchmark of small reactions: new ones found on GFN2-xTB, the others bundled.

Each new reaction begins with a Z-matrix written down by hand. A guess is kept when its search ends in a structure with
one imaginary mode from which the path leads both ways to minima; the bonds that the path breaks and makes, and its
barriers, go into the file with it. C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 15, 1652 (2019),
doi:10.1021/acs.jctc.8b01176.

python workflows/benchmark_seeds.py [--out workflows/benchmark_seeds.extxyz] [--only NAME ...]

The benchmark itself is computed from them, small reactions first, by

phl reactions workflows/benchmark_seeds.extxyz --with pyscf --hessian own --workers 2 --work FOLDER -o benchmark.h5 \
    --displacements 0.04,0.06,0.08,0.1,0.12,0.14,0.17,0.2

``workflows/bundle_data.py --work FOLDER`` makes the package's data set of the reactions that are finished.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import ase.io
from ase import Atoms
from ase.io.zmatrix import parse_zmatrix

from phl_ase.curvature import curvature_of
from phl_ase.datasets import open_dataset
from phl_ase.datasets.reactions import reactions_of
from phl_ase.paths import Reaction, find_reaction, search
from phl_ase.resolver import resolve_calculator
from phl_ase.units import convert

BUNDLE = "reactions-wb97xd-631gd"
TARGET = Path(__file__).with_name("benchmark_seeds.extxyz")
# (Sella strategy, internal coordinates), tried in this order: angles near 180 degrees want Cartesian ones
ATTEMPTS = (("hessian-every", None), ("hessian-every", False))
# what a seed needs: ends that are flat complexes on GFN2-xTB may keep a soft imaginary mode
ENOUGH = ("converged", "no minimum")


@dataclass(frozen=True)
class Start:
    """A reaction to look for.

    Attributes:
        description: What reacts to what.
        zmatrix: A guess of its transition state; Å and degrees, atoms numbered from 1.
        searched: Whether GFN2-xTB has this transition state; otherwise the Z-matrix itself is the guess.
    """

    description: str
    zmatrix: str
    searched: bool = True


NEW: dict[str, Start] = {
    "ch3nc_ch3cn": Start(
        "CH3NC -> CH3CN, methyl isocyanide to acetonitrile",
        "N; C 1 1.19; C 1 1.80 2 73; H 3 1.08 1 95 2 180; H 3 1.08 1 118 2 60; H 3 1.08 1 118 2 -60",
    ),
    "hnco_hocn": Start(
        "HNCO -> HOCN, isocyanic to cyanic acid, 1,3-H shift",
        "C; N 1 1.25; O 1 1.28 2 118; H 2 1.30 1 75 3 0",
    ),
    "hnnh_h2nn": Start(
        "HNNH -> H2NN, trans-diazene to isodiazene, 1,2-H shift",
        "N; N 1 1.22; H 1 1.03 2 122; H 1 1.20 2 60 3 170",
    ),
    "h2o2_trans": Start(
        "H2O2 -> H2O2, hydrogen peroxide, rotation through trans",
        "O; O 1 1.45; H 1 0.97 2 98.5; H 2 0.97 1 98.5 3 180",
        searched=False,  # GFN2-xTB has none: from here its searches end in the cis one
    ),
    "hono_hno2": Start(
        "HONO -> HNO2, cis-nitrous acid to nitryl hydride, 1,2-H shift",
        "N; O 1 1.20; O 1 1.35 2 122; H 1 1.25 3 58 2 180",
    ),
    "nh2oh_rotation": Start(
        "NH2OH -> NH2OH, hydroxylamine, trans to cis by rotation about N-O",
        "N; O 1 1.45; H 1 1.02 2 104; H 1 1.02 2 104 3 112; H 2 0.96 1 104 3 147",
    ),
    "nh2oh_nh3o": Start(
        "NH2OH -> NH3O, hydroxylamine to ammonia oxide, 1,2-H shift",
        "N; O 1 1.60; H 1 1.02 2 105; H 1 1.02 2 105 3 118; H 1 1.15 2 52 3 -120",
    ),
    "h2cnh_inversion": Start(
        "H2CNH -> H2CNH, methanimine, inversion at N",
        "C; N 1 1.23; H 1 1.09 2 122; H 1 1.09 2 122 3 180; H 2 0.98 1 175 3 0",
    ),
    "cyanamide_hncnh": Start(
        "H2NCN -> HNCNH, cyanamide to carbodiimide, 1,3-H shift",
        "C; N 1 1.27; N 1 1.25 2 122; H 2 1.35 1 76 3 0; H 2 1.02 1 125 3 160",
    ),
    "hno3_rotation": Start(
        "HONO2 -> HONO2, nitric acid, rotation about N-O",
        "N; O 1 1.20; O 1 1.20 2 128; O 1 1.42 2 116 3 180; H 4 0.97 1 103 2 90",
    ),
    "h2nno_hnnoh": Start(
        "H2NNO -> HNNOH, nitrosamine to hydroxydiazene, 1,3-H shift",
        "N; N 1 1.28; O 1 1.30 2 110; H 2 1.33 1 76 3 0; H 2 1.02 1 118 3 170",
    ),
    "methanol_rotation": Start(
        "CH3OH -> CH3OH, methanol, rotation about C-O",
        "O; C 1 1.42; H 1 0.96 2 108; H 2 1.09 1 107 3 0; H 2 1.09 1 112 3 120; H 2 1.09 1 112 3 -120",
    ),
    "methanol_h2co_h2": Start(
        "CH3OH -> H2CO + H2, methanol, 1,2-elimination",
        "C; O 1 1.36; H 1 1.55 2 80; H 2 1.25 1 78 3 0; H 1 1.10 2 116 3 105; H 1 1.10 2 116 3 -105",
    ),
    "formamide_imidic": Start(
        "HC(O)NH2 -> HC(OH)NH, formamide to formimidic acid, 1,3-H shift",
        "C; N 1 1.30; O 1 1.29 2 107; H 1 1.10 2 126 3 180; H 2 1.33 1 75 3 0; H 2 1.02 1 125 3 180",
    ),
    "formamide_rotation": Start(
        "HC(O)NH2 -> HC(O)NH2, formamide, rotation about C-N",
        "C; N 1 1.43; O 1 1.20 2 124; H 1 1.10 2 113 3 180; H 2 1.02 1 108 3 57; H 2 1.02 1 108 3 -57",
    ),
    "hydrazine_rotation": Start(
        "N2H4 -> N2H4, hydrazine, rotation through anti",
        "N; N 1 1.47; H 1 1.02 2 103; H 1 1.02 2 103 3 107; H 2 1.02 1 103 3 180; H 2 1.02 1 103 4 180",
        searched=False,
    ),
    "glyoxal_rotation": Start(
        "OHC-CHO -> OHC-CHO, glyoxal, s-trans to s-cis",
        "C; C 1 1.53; O 1 1.20 2 121; O 2 1.20 1 121 3 110; H 1 1.10 2 115 3 180; H 2 1.10 1 115 4 180",
        searched=False,
    ),
    "nitrosomethane_oxime": Start(
        "CH3NO -> H2CNOH, nitrosomethane to formaldoxime, 1,3-H shift",
        "C; N 1 1.35; O 2 1.31 1 107; H 1 1.45 2 72 3 0; H 1 1.09 2 118 3 110; H 1 1.09 2 118 3 -110",
    ),
    "carbonic_co2_h2o": Start(
        "H2CO3 -> CO2 + H2O, carbonic acid",
        "C; O 1 1.18; O 1 1.27 2 141; O 1 1.75 3 96 2 178; H 4 1.20 1 70 3 0; H 4 0.97 1 110 3 105",
    ),
    "methylamine_rotation": Start(
        "CH3NH2 -> CH3NH2, methylamine, rotation about C-N",
        "N; C 1 1.47; H 1 1.01 2 110; H 1 1.01 2 110 3 117; H 2 1.09 1 110 3 0; H 2 1.09 1 110 3 120; "
        "H 2 1.09 1 112 3 -120",
    ),
    "vinyl_alcohol_rotation": Start(
        "CH2CHOH -> CH2CHOH, vinyl alcohol, syn to anti",
        "C; C 1 1.33; O 2 1.38 1 124; H 3 0.96 2 109 1 90; H 1 1.08 2 120 3 0; H 1 1.08 2 120 3 180; "
        "H 2 1.09 1 122 3 180",
    ),
    "vinyl_alcohol_acetaldehyde": Start(
        "CH2CHOH -> CH3CHO, vinyl alcohol to acetaldehyde, 1,3-H shift",
        "C; C 1 1.40; O 2 1.29 1 111; H 1 1.50 2 66 3 0; H 1 1.09 2 118 3 105; H 1 1.09 2 118 3 -105; "
        "H 2 1.09 1 126 3 180",
    ),
    "acetaldehyde_ch4_co": Start(
        "CH3CHO -> CH4 + CO, acetaldehyde, 1,1-elimination",
        "C; O 1 1.16; C 1 2.00 2 115; H 1 1.15 3 50 2 175; H 3 1.08 1 110 2 0; H 3 1.08 1 105 2 120; "
        "H 3 1.08 1 105 2 -120",
    ),
    "carbamic_co2_nh3": Start(
        "H2NCOOH -> CO2 + NH3, carbamic acid",
        "C; O 1 1.18; O 1 1.27 2 141; N 1 1.65 3 96 2 178; H 4 1.25 1 72 3 0; H 4 1.02 1 112 3 110; "
        "H 4 1.02 1 112 3 -110",
    ),
    "ethane_rotation": Start(
        "C2H6 -> C2H6, ethane, rotation about C-C",
        "C; C 1 1.54; H 1 1.09 2 111; H 1 1.09 2 111 3 120; H 1 1.09 2 111 3 -120; H 2 1.09 1 111 3 0; "
        "H 2 1.09 1 111 4 0; H 2 1.09 1 111 5 0",
    ),
    "acrolein_rotation": Start(
        "CH2CHCHO -> CH2CHCHO, acrolein, s-trans to s-cis",
        "C; C 1 1.33; C 2 1.50 1 122; O 3 1.20 2 123 1 90; H 1 1.08 2 120 3 0; H 1 1.08 2 120 3 180; "
        "H 2 1.08 1 122 3 180; H 3 1.10 2 115 4 180",
    ),
    "hcno_acetylene": Start(
        "HCNO + HCCH -> isoxazole, 1,3-dipolar cycloaddition",
        "N; O 1 1.23; C 1 1.18 2 140; C 3 2.15 1 103 2 0; C 4 1.23 3 108 1 0; H 3 1.07 1 140 2 180; "
        "H 4 1.07 5 155 3 180; H 5 1.07 4 155 3 180",
    ),
}
"""Name -> reaction. All are closed-shell singlets."""


def find(start: Start) -> tuple[Reaction | None, str]:
    """The reaction on GFN2-xTB, or why there is none."""
    guess = parse_zmatrix(start.zmatrix)
    guess.calc = resolve_calculator("tblite")
    curvature = curvature_of(guess.calc)
    reasons = []
    for strategy, internal in ATTEMPTS:
        found = search(guess, strategy, curvature, internal=internal, fmax=0.005, max_steps=100)
        reaction = find_reaction(found.atoms, curvature.hessian) if found.converged else None
        if reaction is not None and reaction.outcome in ENOUGH:
            return reaction, reaction.sentence
        reasons.append(found.sentence if reaction is None else reaction.sentence)
    return None, "; ".join(reasons)


def seed_of(name: str, start: Start, reaction: Reaction | None) -> Atoms:
    """The transition state, or the guess where there is none, with what is known of it."""
    if reaction is None:
        seed = parse_zmatrix(start.zmatrix)
        seed.info = {"reaction": name, "description": start.description, "source": "Z-matrix"}
        return seed
    seed = reaction.path.structures[reaction.path.ts_index].copy()
    seed.set_masses()
    seed.info = {
        "reaction": name,
        "description": start.description,
        "source": "GFN2-xTB",
        "breaks": " ".join(reaction.broken) or "none",
        "makes": " ".join(reaction.made) or "none",
        "barrier_forward_kcal_mol": round(float(convert(reaction.barrier_forward, "eV", "kcal/mol")), 2),
        "barrier_back_kcal_mol": round(float(convert(reaction.barrier_back, "eV", "kcal/mol")), 2),
    }
    return seed


DESCRIPTIONS: dict[str, str] = {
    "hcn_hnc": "HCN -> HNC, hydrogen cyanide to isocyanide",
    "h2co_h2_co": "H2CO -> H2 + CO, formaldehyde",
    "h2co_hcoh": "H2CO -> HCOH, formaldehyde to hydroxycarbene, 1,2-H shift",
    "h2o2_cis": "H2O2 -> H2O2, hydrogen peroxide, rotation through cis",
    "hcch_vinylidene": "HCCH -> H2CC, acetylene to vinylidene, 1,2-H shift",
    "hcoh_rotation": "HCOH -> HCOH, hydroxycarbene, trans to cis",
    "hono_rotation": "HONO -> HONO, nitrous acid, trans to cis",
    "n2h2_inversion": "HNNH -> HNNH, diazene, trans to cis by inversion at N",
    "nh3_inversion": "NH3 -> NH3, ammonia, inversion",
    "h2cnh_shift": "H2CNH -> HCNH2, methanimine to aminomethylene, 1,2-H shift",
    "hcooh_h2_co2": "HCOOH -> H2 + CO2, formic acid",
    "hcooh_h2o_co": "C(OH)2 -> H2O + CO, dihydroxycarbene",
    "hcooh_rotation": "HCOOH -> HCOOH, formic acid, trans to cis",
}
"""Of the bundled reactions that are not searched for here."""


def bundled_seeds() -> list[Atoms]:
    """The transition states of the bundled reactions."""
    dataset = open_dataset(BUNDLE)
    seeds = []
    for name, frames in reactions_of(dataset).items():
        if frames.transition_state is None or name in NEW:
            continue
        seed = Atoms(frames.transition_state.numbers, frames.transition_state.positions)
        seed.info = {"reaction": name, "description": DESCRIPTIONS[name], "source": BUNDLE}
        seeds.append(seed)
    return seeds


def main() -> None:
    """Search, report and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument("--only", nargs="+", default=list(NEW), choices=list(NEW), metavar="NAME")
    arguments = parser.parse_args()
    seeds = bundled_seeds()
    for name in arguments.only:
        reaction, sentence = find(NEW[name]) if NEW[name].searched else (None, "taken as it is")
        print(f"{name}: {sentence}", flush=True)
        if reaction is not None or not NEW[name].searched:
            seeds.append(seed_of(name, NEW[name], reaction))
            print(f"    {seeds[-1].info}", flush=True)
    seeds.sort(key=lambda seed: (len(seed), seed.info["reaction"]))
    ase.io.write(arguments.out, seeds, format="extxyz")
    print(f"{arguments.out}: {len(seeds)} guesses")


if __name__ == "__main__":
    main()
