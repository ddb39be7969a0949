"""Quantum nuclei: path-integral dynamics by i-PI (phl-ase[ipi]), forces through ASE's socket client.

python path_integrals.py [MOLECULE] [MODEL]      (a structure that ase.io reads; HCN and the bundled model)
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
from ase import units
from ase.calculators.socketio import SocketClient

from phl_ase import PHLCalculator
from phl_ase.paths import relax

BEADS, STEPS, KELVIN = 8, 40, 300  # for averages to believe: 32 beads, 20,000 steps
NAME = f"phl-{os.getpid()}"  # of the socket: /tmp/ipi_NAME
INPUT = f"""<simulation verbosity='low'>
  <output prefix='pimd'><properties stride='1' filename='out'>
    [conserved{{electronvolt}}, potential{{electronvolt}}, kinetic_cv{{electronvolt}}] </properties></output>
  <total_steps>{STEPS}</total_steps> <prng><seed>1</seed></prng>
  <ffsocket name='ase' mode='unix' pbc='false'> <address>{NAME}</address> <latency>1e-4</latency> </ffsocket>
  <system>
    <initialize nbeads='{BEADS}'>
      <file mode='ase'>start.xyz</file> <velocities mode='thermal' units='kelvin'>{KELVIN}</velocities>
    </initialize>
    <forces> <force forcefield='ase'/> </forces>
    <ensemble> <temperature units='kelvin'>{KELVIN}</temperature> </ensemble>
    <motion mode='dynamics'> <dynamics mode='nvt'>
      <timestep units='femtosecond'>0.25</timestep>
      <thermostat mode='pile_l'> <tau units='femtosecond'>20</tau> </thermostat>
    </dynamics> </motion> </system></simulation>"""

structure, *model = sys.argv[1:] or [Path(__file__).parent / "structures/hcn.xyz"]
atoms = ase.io.read(structure)
atoms.calc = PHLCalculator(*model)
atoms = relax(atoms).atoms
minimum = atoms.get_potential_energy()
atoms.center(vacuum=10.0)
atoms.write("start.xyz")
Path("input.xml").write_text(INPUT, encoding="utf-8")
program = Path(sys.executable).with_name("i-pi")
with Path("i-pi.log").open("w") as log, subprocess.Popen([program, "input.xml"], stdout=log, stderr=log) as server:
    while not Path(f"/tmp/ipi_{NAME}").exists() and server.poll() is None:
        time.sleep(0.1)
    try:
        SocketClient(unixsocket=NAME).run(atoms)  # one client serves all beads in turn; start several to share them
        server.wait(60)
    finally:
        server.kill()

conserved, potential, kinetic = np.loadtxt("pimd.out").T
print(f"{BEADS} beads, {len(conserved) - 1} steps; the conserved energy drifts by {np.ptp(conserved):.4f} eV")
print(f"potential energy above the minimum: {potential[10:].mean() - minimum:.3f} eV")
print(f"kinetic energy (centroid virial): {kinetic[10:].mean():.3f} eV", end="; ")
print(f"of classical nuclei: {1.5 * len(atoms) * units.kB * KELVIN:.3f} eV")
