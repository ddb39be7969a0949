"""From a guess of a transition state to a data set: TS, path, minima, samples, labels; then samples of your own.

python reactions.py [METHOD]      (whose labels: default, tblite, pyscf, FILE.safetensors, …)
"""

import sys
from functools import partial
from pathlib import Path

from ase import Atoms

from phl_ase.datasets import open_dataset
from phl_ase.reactions import ReactionGuess, ReactionSettings, build_reactions, sample
from phl_ase.reference import LabelMethod, LabelRequest, Probes
from phl_ase.resolver import resolve_calculator
from phl_ase.structures import atoms_from_frame

name = sys.argv[1] if len(sys.argv) > 1 else "default"
method = LabelMethod(partial(resolve_calculator, name), name)
guess = Atoms("CNH", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.19], [0.0, 1.15, 0.3]])

result = build_reactions(  # killed or stopped, the same call goes on where it was; workers=4 for many reactions
    [ReactionGuess("hcn_hnc", (guess,), "HCN to HNC")],  # (reactant, product) instead of (guess,) will do, too
    method,
    "hcn_hnc.h5",
    settings=ReactionSettings(irc_points=3, temperatures=(300.0, 1000.0)),
    request=LabelRequest(hessian="own", probes=Probes("rademacher", count=1)),
)
for reaction in result.reactions:
    forward, back = reaction.barriers_kcal
    print(f"{reaction.name}: {reaction.outcome}, {-reaction.imaginary:.0f}i cm⁻¹, {reaction.gradients} gradients")
    print(f"barriers {forward:.1f} and {back:.1f} kcal/mol")
    print(Path(reaction.log).read_text(encoding="utf-8"))

with open_dataset("hcn_hnc.h5") as frames:
    print(f"{len(frames)} frames, labels of {frames.meta.level_of_theory}")
    for frame in frames:
        where = "" if frame.irc_s is None else f"{frame.irc_s:6.2f} √amu·Å"
        print(f"{frame.kind:9s} {where:14s} {frame.energy:12.4f} eV, |H| {abs(frame.hessian).max():6.1f} eV/Å²")
    minimum = atoms_from_frame(next(frame for frame in frames if frame.kind == "reactant"))

minimum.calc = resolve_calculator(name)
quick = {"temperature": 500.0, "equilibration": 200, "interval": 50}  # a start; by default samples lie 100 fs apart
for how, options in {"normal-mode": {"temperature": 500.0}, "md": quick, "mode-scan": {"mode": -1}}.items():
    drawn = sample(minimum, how, count=3, **options)
    lengths = [f"{atoms.get_distance(0, 1):.3f}" for atoms in drawn.frames]
    print(f"{how}: {len(drawn.frames)} structures, C-N {', '.join(lengths)} Å")
