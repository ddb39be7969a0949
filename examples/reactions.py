"""From a guess of a transition state to a data set: TS, path, minima, samples, labels; then samples of your own.

python reactions.py [GUESS] [METHOD]      (HCN to HNC; whose labels: default, tblite, pyscf, FILE.safetensors, …)
"""

import sys
from functools import partial
from pathlib import Path

import ase.io

from phl_ase.curvature import curvature_of
from phl_ase.datasets import open_dataset
from phl_ase.paths import rmsd
from phl_ase.reactions import ReactionGuess, ReactionSettings, build_reactions, sample
from phl_ase.reference import LabelMethod, LabelRequest, Probes
from phl_ase.resolver import resolve_calculator
from phl_ase.structures import atoms_from_frame

structure, *method_name = sys.argv[1:] or [Path(__file__).parent / "structures/hcn_hnc_guess.xyz"]
name = method_name[0] if method_name else "default"
method = LabelMethod(partial(resolve_calculator, name), name)
guess = ase.io.read(structure)
exact = curvature_of(resolve_calculator(name)).is_exact

result = build_reactions(  # killed or stopped, the same call goes on where it was; workers=4 for many reactions
    [ReactionGuess(Path(structure).stem, (guess,))],  # (reactant, product) instead of (guess,) will do, too
    method,
    "reaction.h5",
    settings=ReactionSettings(irc_points=3, temperatures=(300.0, 1000.0)),
    request=LabelRequest(hessian="own" if exact else "differences", probes=Probes("rademacher", count=1)),
)
for reaction in result.reactions:
    forward, back = reaction.barriers_kcal
    print(f"{reaction.name}: {reaction.outcome}, {-reaction.imaginary:.0f}i cm⁻¹, {reaction.gradients} gradients")
    print(f"barriers {forward:.1f} and {back:.1f} kcal/mol")
    print(Path(reaction.log).read_text(encoding="utf-8"))

with open_dataset("reaction.h5") as frames:
    print(f"{len(frames)} frames, labels of {frames.meta.level_of_theory}")
    for frame in frames:
        where = "" if frame.irc_s is None else f"{frame.irc_s:6.2f} √amu·Å"
        print(f"{frame.kind:9s} {where:14s} {frame.energy:12.4f} eV, |H| {abs(frame.hessian).max():6.1f} eV/Å²")
    minimum = atoms_from_frame(next(frame for frame in frames if frame.kind == "reactant"))

minimum.calc = resolve_calculator(name)
quick = {"temperature": 500.0, "equilibration": 200, "interval": 50}  # a start; by default samples lie 100 fs apart
for how, options in {"normal-mode": {"temperature": 500.0}, "md": quick, "mode-scan": {"mode": -1}}.items():
    drawn = sample(minimum, how, count=3, **options)
    moved = [f"{rmsd(atoms, minimum):.3f}" for atoms in drawn.frames]
    print(f"{how}: {len(drawn.frames)} structures, {', '.join(moved)} Å from the minimum")
