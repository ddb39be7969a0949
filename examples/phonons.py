"""Phonons of a crystal: bands, thermal properties, files for phonopy. Hessian-vector products, no displaced cells.

python phonons.py [CRYSTAL] [MODEL]      (a structure that ase.io reads; copper and ASE's EMT)
"""

import sys
from pathlib import Path

import ase.io
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from phl_ase.phonons import force_constants, make_phonopy, phonons_of, write_force_constants, write_phonopy_yaml
from phl_ase.resolver import resolve_calculator

structure, *model = sys.argv[1:] or [Path(__file__).parent / "structures/copper.cif"]
cell = ase.io.read(structure)
cell.calc = calculator = resolve_calculator(*(model or ["emt"]))
with BFGS(FrechetCellFilter(cell), logfile=None) as optimiser:
    optimiser.run(fmax=1e-4, steps=200)
print("relaxed cell: " + "  ".join(f"{number:.4f}" for number in cell.cell.cellpar()) + " (Å, degrees)")

phonon = make_phonopy(Atoms(cell.symbols, cell.positions, cell=cell.cell, pbc=True), (3, 3, 3))
found = force_constants(phonon, calculator)
print(f"{len(phonon.supercell)} atoms in the supercell, {len(phonon.primitive)} in the primitive cell: {found.source}")
print(f"acoustic sum rule: violated by at most {found.sum_rule:.1e} eV/Å²")

result = phonons_of(phonon, found, points=120)  # path="GXWGL" for one of your own
print(f"acoustic frequencies at Γ: at most {abs(result.gamma_acoustic).max():.1e} THz; imaginary: {result.n_imaginary}")
for label, distance in zip(result.labels, result.label_distances, strict=True):
    bands = result.frequencies[abs(result.distances - distance).argmin()]
    print(f"{label}: {'  '.join(f'{frequency:6.3f}' for frequency in bands)} THz")
for kelvin in (0.0, 300.0, 1000.0):
    free, heat = (result.at_temperature(values, kelvin) for values in (result.free_energy, result.heat_capacity))
    print(f"{kelvin:6.0f} K: free energy {1e3 * free:9.2f} meV, heat capacity {1e3 * heat:.4f} meV/K per cell")

write_phonopy_yaml("phonopy.yaml", phonon)
write_force_constants("FORCE_CONSTANTS", found)
print("phonopy goes on from these files: phonopy-load phonopy.yaml --mesh 20 20 20 -t")
