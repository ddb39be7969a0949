"""Vibrational frequencies of a model against DFT, at minima and transition states; thermochemistry; a mode to look at.

python frequencies.py [MODEL.safetensors]
"""

import sys

import ase.io

from phl_ase import PHLCalculator
from phl_ase.datasets import open_dataset, reactions_of
from phl_ase.plots.spectra import draw
from phl_ase.structures import atoms_from_frame
from phl_ase.validators import ReferenceCurvature, validate_frequencies, validate_relaxed_frequencies
from phl_ase.vibrations import harmonic_analysis, mode_trajectory, thermochemistry

calc = PHLCalculator(*sys.argv[1:])  # any ASE calculator will do: without Hessians, forces are differentiated
reaction = reactions_of(open_dataset("reactions-wb97xd-631gd"), ["hcn_hnc"])["hcn_hnc"]

reports = []
for name, frame in (("HNC", reaction.reactant), ("HCN", reaction.product), ("TS", reaction.transition_state)):
    reference = ReferenceCurvature(atoms_from_frame(frame), frame.hessian, frame.forces)
    at_reference = validate_frequencies(reference, calc, system=name, potential="model")
    relaxed = validate_relaxed_frequencies(reference, calc, system=name, potential="model, relaxed")
    reports += [at_reference, relaxed]
    print(f"{name}: {at_reference.sentence}")
    for metric in ("frequency MAE", "largest frequency error", "ZPE error", "G correction error", "mean mode overlap"):
        found = at_reference.metric(metric)
        print(f"  {metric:25s} {found.value:9.3f} {found.unit}")
    print(f"  {'moves, when relaxed, by':25s} {relaxed.metric('RMSD to the reference').value:9.4f} Å")
draw(reports).savefig("spectra.png")

atoms = atoms_from_frame(reaction.transition_state)
atoms.calc = calc
analysis = harmonic_analysis(atoms, calc.get_hessian(atoms))
print(analysis.table())
thermo = thermochemistry(analysis, atoms.get_potential_energy(), temperature=298.15, pressure=101325.0)
print(f"Gibbs energy above the saddle point: {thermo.gibbs_correction:.4f} eV ({thermo.sentence})")
ase.io.write("imaginary_mode.extxyz", mode_trajectory(analysis, 0, amplitude=0.3))
