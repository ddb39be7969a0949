"""Vibrational frequencies of a model against those of a data set, thermochemistry, and a mode to look at.

python frequencies.py [FRAMES] [MODEL]      (frames with Hessians: a data set of phl_ase, extxyz, …; HCN and HNC by DFT)
"""

import sys

import ase.io

from phl_ase import PHLCalculator
from phl_ase.datasets import open_dataset
from phl_ase.plots.spectra import draw
from phl_ase.structures import atoms_from_frame
from phl_ase.validators import ReferenceCurvature, validate_frequencies, validate_relaxed_frequencies
from phl_ase.vibrations import harmonic_analysis, mode_trajectory, thermochemistry

source, *model = sys.argv[1:] or ["reactions-wb97xd-631gd"]
calc = PHLCalculator(*model)  # any ASE calculator will do: without Hessians, forces are differentiated
stationary = [f for f in open_dataset(source) if f.hessian is not None and abs(f.forces).max() < 0.05]
if not sys.argv[1:]:
    stationary = [f for f in stationary if f.reaction == "hcn_hnc" and f.kind in ("reactant", "ts", "product")]

reports = []
for frame in stationary:
    atoms = atoms_from_frame(frame)
    name = f"{atoms.get_chemical_formula()} {frame.kind or ''}"
    reference = ReferenceCurvature(atoms, frame.hessian, frame.forces)
    at_reference = validate_frequencies(reference, calc, system=name, potential="model")
    relaxed = validate_relaxed_frequencies(reference, calc, system=name, potential="model, relaxed")
    reports += [at_reference, relaxed]
    print(f"{name}: {at_reference.sentence}")
    for metric in ("frequency MAE", "largest frequency error", "ZPE error", "G correction error", "mean mode overlap"):
        found = at_reference.metric(metric)
        print(f"  {metric:25s} {found.value:9.3f} {found.unit}")
    print(f"  {'moves, when relaxed, by':25s} {relaxed.metric('RMSD to the reference').value:9.4f} Å")
draw(reports).savefig("spectra.png")

atoms = atoms_from_frame(next((f for f in stationary if f.kind == "ts"), stationary[0]))
atoms.calc = calc
analysis = harmonic_analysis(atoms, calc.get_hessian(atoms))
print(analysis.table())
thermo = thermochemistry(analysis, atoms.get_potential_energy(), temperature=298.15, pressure=101325.0)
print(f"Gibbs energy above the stationary point: {thermo.gibbs_correction:.4f} eV ({thermo.sentence})")
ase.io.write("softest_mode.extxyz", mode_trajectory(analysis, 0, amplitude=0.3))
