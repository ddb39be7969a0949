"""The transition state of HCN -> HNC: Sella with the model's Hessian, and the barrier.

python transition_state.py [MODEL.safetensors]
"""

import sys

from ase import Atoms
from ase.build import molecule

from phl_ase import PHLCalculator
from phl_ase.paths import find_transition_state, relax

calc = PHLCalculator(*sys.argv[1:])

guess = Atoms("CNH", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.2], [1.1, 0.0, 0.5]])  # the hydrogen halfway round
guess.calc = calc
search = find_transition_state(guess, calc.get_hessian, diag_every_n=0)
print(f"{search.outcome}: {search.sentence}")
print(f"{search.steps} steps, {search.force_calls} gradients, {search.hessian_calls} Hessians")
print(f"largest force: {search.fmax:.4f} eV/Å")
if search.analysis is not None:
    print(search.analysis.table())

reactant = molecule("HCN")
reactant.calc = calc
minimum = relax(reactant)
print(f"HCN: {minimum.outcome} in {minimum.steps} steps")
barrier = search.energy - minimum.energy
print(f"barrier: {barrier:.3f} eV, {barrier * 23.0605:.1f} kcal/mol")
# Sella can be used directly, too: Sella(guess, order=1, hessian_function=calc.get_hessian)
