"""Relax a structure, and compare its bond lengths before and after.

python relax.py [STRUCTURE] [MODEL]      (anything that ase.io reads; distorted formaldehyde and the bundled model)
"""

import sys
from pathlib import Path

import ase.io
from ase.neighborlist import build_neighbor_list
from ase.optimize import BFGS

from phl_ase import PHLCalculator

structure, *model = sys.argv[1:] or [Path(__file__).parent / "structures/h2co.xyz"]
atoms = ase.io.read(structure)
atoms.calc = PHLCalculator(*model)

start, energy = atoms.copy(), atoms.get_potential_energy()
with BFGS(atoms, logfile=None) as optimiser:
    converged = optimiser.run(fmax=0.01, steps=200)

print(f"{'converged' if converged else 'not converged'} after {optimiser.nsteps} steps")
print(f"energy gained: {energy - atoms.get_potential_energy():.4f} eV")
bonded = build_neighbor_list(atoms, self_interaction=False).get_connectivity_matrix()
print(f"{'bond':10s} {'start / Å':>10s} {'relaxed / Å':>12s}")
for i, j in zip(*bonded.nonzero(), strict=True):
    name = f"{atoms.symbols[i]}{i}-{atoms.symbols[j]}{j}"
    print(f"{name:10s} {start.get_distance(i, j, mic=True):10.3f} {atoms.get_distance(i, j, mic=True):12.3f}")
ase.io.write("relaxed.extxyz", atoms)
