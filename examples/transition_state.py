"""The transition state of HCN -> HNC: Sella run in several ways with the model's curvature, and the barrier.

python transition_state.py [MODEL.safetensors]
"""

import sys

from ase import Atoms
from ase.build import molecule

from phl_ase import PHLCalculator
from phl_ase.curvature import curvature_of
from phl_ase.paths import WAYS, relax, search

calc = PHLCalculator(*sys.argv[1:])
curvature = curvature_of(calc)  # the model's own Hessians and products; of other calculators differences of forces

guess = Atoms("CNH", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.2], [1.1, 0.0, 0.5]])  # the hydrogen halfway round
guess.calc = calc
for way in ("gradients", "hvp", "hessian-every"):
    found = search(guess, way, curvature)
    print(f"{found.outcome}: {WAYS[way].description}")
    calls = f"{found.force_calls} gradients, {found.hvp_calls} products, {found.hessian_calls} Hessians"
    print(f"  {found.steps} steps, {calls}, largest force {found.fmax:.4f} eV/Å")
if found.analysis is not None:
    print(found.analysis.table())

reactant = molecule("HCN")
reactant.calc = calc
minimum = relax(reactant)
print(f"HCN: {minimum.outcome} in {minimum.steps} steps")
barrier = found.energy - minimum.energy
print(f"barrier: {barrier:.3f} eV, {barrier * 23.0605:.1f} kcal/mol")
# Sella can be used directly, too: Sella(guess, internal=True, hessian_function=calc.get_hessian)
