"""Follow a reaction path from a guess of its transition state to both minima.

python irc.py [GUESS] [MODEL]      (a structure that ase.io reads; HCN to HNC and the bundled model)
"""

import sys
from pathlib import Path

import ase.io

from phl_ase import PHLCalculator
from phl_ase.paths import find_reaction, find_transition_state
from phl_ase.units import convert

structure, *model = sys.argv[1:] or [Path(__file__).parent / "structures/hcn_hnc_guess.xyz"]
guess = ase.io.read(structure)
guess.calc = calculator = PHLCalculator(*model)
found = find_transition_state(guess, calculator.get_hessian)
print(f"transition state {found.outcome}: {found.sentence}")

# both directions by Sella's IRC, ends relaxed and checked to be minima; method="quadratic" takes a Hessian a step
reaction = find_reaction(found.atoms, calculator.get_hessian, method="sella")
path = reaction.path
print(f"path {path.outcome}: {len(path.structures)} points, {path.force_calls} gradients, {path.hessian_calls} Hessian")
print(f"reaction {reaction.outcome}: {reaction.sentence}")

print("arc length / √amu·Å   energy above the TS / kcal/mol   largest displacement from the TS / Å")
for atoms, length, energy in list(zip(path.structures, path.arc_length, path.energies, strict=True))[::5]:
    height = convert(energy - path.energies[path.ts_index], "eV", "kcal/mol")
    moved = ((atoms.positions - found.atoms.positions) ** 2).sum(axis=1).max() ** 0.5
    print(f"{length:19.2f}   {height:30.2f}   {moved:35.3f}")

for name in ("barrier_forward", "barrier_back", "reaction_energy"):
    print(f"{name.replace('_', ' '):16s} {convert(getattr(reaction, name), 'eV', 'kcal/mol'):8.2f} kcal/mol")
ase.io.write("path.extxyz", path.structures)
