"""Curvature four ways: the Hessian, a part of it, Hessian-vector products (HVPs), and an operator that never makes it.

python hessian.py [STRUCTURE] [MODEL]      (anything that ase.io reads; formaldehyde and the bundled model)
"""

import sys
from pathlib import Path

import ase.io
import numpy as np
from ase.vibrations import VibrationsData
from scipy.sparse.linalg import eigsh

from phl_ase import PHLCalculator

structure, *model = sys.argv[1:] or [Path(__file__).parent / "structures/h2co.xyz"]
atoms = ase.io.read(structure)
atoms.calc = calc = PHLCalculator(*model)

hessian = calc.get_hessian(atoms)  # (3n, 3n) eV/Å²; energy and forces of this geometry come with it
print(f"Hessian {hessian.shape}, lowest and highest eigenvalue / eV/Å²: ", end="")
print(*(f"{value:.3f}" for value in np.linalg.eigvalsh(hessian)[[0, -1]]))

pair = calc.get_hessian(atoms, indices=[0, 1], layout="nn33")  # phonopy's layout; ASE's is "n3n3"
print(f"the first two atoms alone {pair.shape}, their coupling block / eV/Å²:")
print(np.array2string(pair[0, 1], precision=3, suppress_small=True))

data = VibrationsData.from_2d(atoms, hessian)
print(f"zero-point energy by ASE: {1e3 * data.get_zero_point_energy():.1f} meV")

stretch = np.zeros((len(atoms), 3))
stretch[0], stretch[1] = atoms.get_distance(1, 0, vector=True), atoms.get_distance(0, 1, vector=True)
stretch /= np.linalg.norm(stretch)
hvp = calc.get_hvp(stretch, atoms)  # H·v in the shape of v, at about the cost of forces
print(f"curvature along the first bond: {np.vdot(stretch, hvp):.2f} eV/Å²")

operator = calc.hessian_operator(atoms)  # a scipy LinearOperator, for systems whose Hessian is too large
largest = eigsh(operator, k=3, which="LA", return_eigenvectors=False)
print("largest eigenvalues from HVPs alone / eV/Å²:", *(f"{value:.3f}" for value in sorted(largest)))

stretched = [atoms.copy() for _ in range(3)]
for k, copy in enumerate(stretched):
    copy.set_distance(0, 1, (1 + 0.05 * k) * atoms.get_distance(0, 1))
print(f"{'first bond / Å':>14s} {'energy / eV':>14s} {'largest |H| / eV/Å²':>20s}")
for copy, found in zip(stretched, calc.evaluate(stretched, ("energy", "hessian")), strict=True):  # in one pass
    print(f"{copy.get_distance(0, 1):14.3f} {found['energy']:14.4f} {np.abs(found['hessian']).max():20.2f}")
