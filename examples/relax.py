"""Relax a molecule, and compare its bond lengths before and after.

python relax.py [MODEL.safetensors]
"""

import sys

from ase.build import molecule
from ase.optimize import BFGS

from phl_ase import PHLCalculator

atoms = molecule("H2CO")
atoms.rattle(0.05, seed=1)
atoms.calc = PHLCalculator(*sys.argv[1:])

BONDS = {"C=O": (0, 1), "C-H": (1, 2), "C-H'": (1, 3)}
start = {name: atoms.get_distance(*pair) for name, pair in BONDS.items()}
energy = atoms.get_potential_energy()

with BFGS(atoms, logfile=None) as optimiser:
    converged = optimiser.run(fmax=0.01, steps=200)

print(f"{'converged' if converged else 'not converged'} after {optimiser.nsteps} steps")
print(f"energy gained: {energy - atoms.get_potential_energy():.4f} eV")
print(f"{'bond':6s} {'start / Å':>10s} {'relaxed / Å':>12s}")
for name, pair in BONDS.items():
    print(f"{name:6s} {start[name]:10.3f} {atoms.get_distance(*pair):12.3f}")
