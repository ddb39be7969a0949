"""Curvature four ways: the Hessian, a part of it, products with vectors, and an operator that never makes it.

python hessian.py [MODEL.safetensors]
"""

import sys

import numpy as np
from ase.build import molecule
from ase.vibrations import VibrationsData
from scipy.sparse.linalg import eigsh

from phl_ase import PHLCalculator

atoms = molecule("H2CO")
atoms.calc = calc = PHLCalculator(*sys.argv[1:])

hessian = calc.get_hessian(atoms)  # (3n, 3n) eV/Å²; energy and forces of this geometry come with it
print(f"Hessian {hessian.shape}, lowest and highest eigenvalue / eV/Å²: ", end="")
print(*(f"{value:.3f}" for value in np.linalg.eigvalsh(hessian)[[0, -1]]))

hydrogens = calc.get_hessian(atoms, indices=[2, 3], layout="nn33")  # phonopy's layout; ASE's is "n3n3"
print(f"the two hydrogens alone {hydrogens.shape}, their coupling block / eV/Å²:")
print(np.array2string(hydrogens[0, 1], precision=3, suppress_small=True))

data = VibrationsData.from_2d(atoms, hessian)
print(f"zero-point energy by ASE: {1e3 * data.get_zero_point_energy():.1f} meV")

stretch = np.zeros((len(atoms), 3))
stretch[0], stretch[1] = atoms.get_distance(1, 0, vector=True), atoms.get_distance(0, 1, vector=True)
stretch /= np.linalg.norm(stretch)
product = calc.get_hvp(stretch, atoms)  # H·v in the shape of v, at about the cost of forces
print(f"curvature along the C=O stretch: {np.vdot(stretch, product):.2f} eV/Å²")

operator = calc.hessian_operator(atoms)  # a scipy LinearOperator, for systems whose Hessian is too large
largest = eigsh(operator, k=3, which="LA", return_eigenvectors=False)
print("largest eigenvalues from products alone / eV/Å²:", *(f"{value:.3f}" for value in sorted(largest)))

names = ("HCN", "H2CO", "HCOOH")
print(f"{'molecule':10s} {'energy / eV':>14s} {'largest |H| / eV/Å²':>20s}")
batch = [molecule(name) for name in names]
for name, found in zip(names, calc.evaluate(batch, ("energy", "hessian")), strict=True):
    print(f"{name:10s} {found['energy']:14.4f} {np.abs(found['hessian']).max():20.2f}")
