"""Vibrational frequencies and thermochemistry of formic acid from the model's own Hessian.

python frequencies.py [MODEL.safetensors]
"""

import sys

from ase.build import molecule
from ase.optimize import BFGS
from ase.thermochemistry import IdealGasThermo

from phl_ase import PHLCalculator
from phl_ase.vibrations import harmonic_analysis

atoms = molecule("HCOOH")
atoms.calc = calc = PHLCalculator(*sys.argv[1:])
with BFGS(atoms, logfile=None) as optimiser:
    optimiser.run(fmax=0.001, steps=300)

analysis = harmonic_analysis(atoms, calc.get_hessian(atoms))
print(f"{atoms.get_chemical_formula()}: harmonic frequencies")
print(analysis.table())

if analysis.n_imaginary == 0:
    thermo = IdealGasThermo(
        vib_energies=analysis.vibrations_data().get_energies()[analysis.n_projected :],
        geometry="nonlinear",
        potentialenergy=atoms.get_potential_energy(),
        atoms=atoms,
        symmetrynumber=1,
        spin=0,
    )
    gibbs = thermo.get_gibbs_energy(temperature=298.15, pressure=101325.0, verbose=False)
    print(f"Gibbs energy at 298.15 K, 1 atm, above the minimum: {gibbs - atoms.get_potential_energy():.4f} eV")
