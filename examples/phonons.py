"""Phonons of copper: bands, thermal properties, files for phonopy. Three Hessian-vector products, no displaced cells.

python phonons.py [MODEL.safetensors]      (a model that knows copper; without one, ASE's EMT)
"""

import sys

from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from phl_ase.phonons import force_constants, make_phonopy, phonons_of, write_force_constants, write_phonopy_yaml
from phl_ase.resolver import resolve_calculator

cell = bulk("Cu", cubic=True)
cell.calc = calculator = resolve_calculator(*(sys.argv[1:] or ["emt"]))
with BFGS(FrechetCellFilter(cell), logfile=None) as optimiser:
    optimiser.run(fmax=1e-4, steps=200)
print(f"lattice constant: {cell.cell.cellpar()[0]:.4f} Å")

phonon = make_phonopy(Atoms(cell.symbols, cell.positions, cell=cell.cell, pbc=True), (3, 3, 3))
found = force_constants(phonon, calculator)
print(f"{len(phonon.supercell)} atoms in the supercell, {len(phonon.primitive)} in the primitive cell: {found.source}")
print(f"acoustic sum rule: violated by at most {found.sum_rule:.1e} eV/Å²")

result = phonons_of(phonon, found, path="GXWGL", points=120)
print(f"acoustic frequencies at Γ: at most {abs(result.gamma_acoustic).max():.1e} THz; imaginary: {result.n_imaginary}")
for label, distance in zip(result.labels, result.label_distances, strict=True):
    bands = result.frequencies[abs(result.distances - distance).argmin()]
    print(f"{label}: {'  '.join(f'{frequency:6.3f}' for frequency in bands)} THz")
for kelvin in (0.0, 300.0, 1000.0):
    free, heat = (result.at_temperature(values, kelvin) for values in (result.free_energy, result.heat_capacity))
    print(f"{kelvin:6.0f} K: free energy {1e3 * free:9.2f} meV, heat capacity {1e3 * heat:.4f} meV/K per cell")

write_phonopy_yaml("phonopy.yaml", phonon)
write_force_constants("FORCE_CONSTANTS", found)
print("phonopy goes on from phonopy.yaml and FORCE_CONSTANTS: phonopy-load phonopy.yaml --band auto -p")
