"""The benchmark of small reactions as the data set and the data card of the package.

python workflows/bundle_data.py --work FOLDER [--out FOLDER] [--plan]

FOLDER is the work folder of ``phl reactions`` (the command is in ``workflows/benchmark_seeds.py``). Reactions that are
finished there are packed and the others named; nothing is computed. ``workflows/data_card.py`` writes the card.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
from data_card import card

from phl_ase.datasets import BUNDLED, Dataset, DatasetMeta, write_dataset
from phl_ase.reactions import ReactionGuess, ReactionSettings, build_reactions, read_reactions
from phl_ase.reactions.folder import STAGES, ReactionFolder
from phl_ase.reference import LabelMethod, LabelRequest
from phl_ase.resolver import resolve_calculator

TARGET = BUNDLED["reactions-wb97xd-631gd"]
SEEDS = Path(__file__).with_name("benchmark_seeds.extxyz")
DISPLACEMENTS = (0.04, 0.06, 0.08, 0.1, 0.12, 0.14, 0.17, 0.2)
ENOUGH = 18  # normal-mode samples

NOTES = (
    "Hessians are PySCF's analytic ones (no response of the grid) with the sum rule imposed; energies and forces carry "
    "no such error. Structures of kind 'displaced' lie around the TS, every atom moved at random."
)


def guesses() -> list[ReactionGuess]:
    """The guesses as ``phl reactions`` reads them."""
    frames = ase.io.read(SEEDS, index=":")
    found = []
    for atoms in frames:
        name, description = str(atoms.info["reaction"]), str(atoms.info.get("description", ""))
        found.append(ReactionGuess(name, (atoms,), description))
    return found


def outcome_of(reaction: ReactionFolder) -> str:
    """Why a reaction is not packed; empty where it is finished, be it that some samples could not be drawn."""
    for stage in STAGES:
        record = reaction.records.get(stage)
        if record is None:
            return "not finished"
        if record["outcome"] != "converged" and stage != "samples":
            return f"{stage}: {record['sentence']}"
        if stage == "samples" and sum(frame["kind"] == "nms" for frame in record["frames"]) < ENOUGH:
            return f"samples: {record['sentence']}"
    return ""


def main() -> None:
    """Pack what is finished, write it compressed, check it, and write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=TARGET.parent)
    parser.add_argument("--plan", action="store_true", help="say what is finished, write nothing")
    arguments = parser.parse_args()
    method = LabelMethod(partial(resolve_calculator, "pyscf", device="auto", trust=False), "pyscf")
    how = {"settings": ReactionSettings(displacements=DISPLACEMENTS), "request": LabelRequest(hessian="own")}
    reactions = read_reactions(guesses(), method, arguments.work, **how)
    outcomes = {one.guess: outcome_of(one) for one in reactions}
    finished = [guess for guess, outcome in outcomes.items() if not outcome]
    for guess, outcome in outcomes.items():
        print(f"{guess.name:28s} {outcome or 'finished'}")
    print(f"{len(finished)} of {len(outcomes)} finished")
    if arguments.plan:
        return
    packed = arguments.work.with_name("bundle.h5")
    packed.unlink(missing_ok=True)
    build_reactions(finished, method, packed, **how, work=arguments.work, source=str(SEEDS))
    target = arguments.out / TARGET.name
    with Dataset(packed) as dataset:
        frames, meta = list(dataset), dataset.meta
    meta = DatasetMeta(meta.level_of_theory, meta.energy_reference, meta.provenance, f"{NOTES} {meta.notes}")
    digest = write_dataset(target, frames, meta, compression=True)
    with Dataset(target) as written:
        written.verify()
        if not all(np.array_equal(a.hessian, b.hessian) for a, b in zip(frames, written, strict=True)):
            raise SystemExit("a Hessian changed on its way into the data set")
        target.with_suffix(".md").write_text(card(written), encoding="utf-8")
    print(f"{target.name}: {len(frames)} frames, {target.stat().st_size / 1e6:.2f} MB, {digest}")


if __name__ == "__main__":
    main()
