"""Follow a reaction path from its transition state to both minima: HCN and HNC with the bundled model."""

from ase import Atoms

from phl_ase import PHLCalculator
from phl_ase.paths import find_reaction, find_transition_state
from phl_ase.units import convert

calculator = PHLCalculator()
guess = Atoms("CNH", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.19], [0.0, 1.15, 0.3]], calculator=calculator)
found = find_transition_state(guess, calculator.get_hessian)
print(f"transition state {found.outcome}: {found.sentence}")

# both directions by Sella's IRC, ends relaxed and checked to be minima; method="quadratic" takes a Hessian a step
reaction = find_reaction(found.atoms, calculator.get_hessian, method="sella")
path = reaction.path
print(f"path {path.outcome}: {len(path.structures)} points, {path.force_calls} gradients, {path.hessian_calls} Hessian")
print(f"reaction {reaction.outcome}: {reaction.sentence}")

print("arc length / √amu·Å   energy above the TS / kcal/mol   C-H / Å   N-H / Å")
for atoms, length, energy in list(zip(path.structures, path.arc_length, path.energies, strict=True))[::5]:
    height = convert(energy - path.energies[path.ts_index], "eV", "kcal/mol")
    print(f"{length:19.2f}   {height:30.2f}   {atoms.get_distance(0, 2):7.3f}   {atoms.get_distance(1, 2):7.3f}")

for name in ("barrier_forward", "barrier_back", "reaction_energy"):
    print(f"{name.replace('_', ' '):16s} {convert(getattr(reaction, name), 'eV', 'kcal/mol'):8.2f} kcal/mol")
