"""Many molecules at once with torch-sim (phl-ase[torch-sim]): relaxed and heated in one batch on one device.

python batched.py [STRUCTURES] [MODEL]      (a file that ase.io reads; the minima of the bundled reactions)
"""

import sys

import ase.io
import torch_sim as ts

from phl_ase.datasets import open_dataset
from phl_ase.interop.torch_sim import PHLTorchSimModel
from phl_ase.structures import atoms_from_frame

# torch-sim 0.3 has functions, later versions names for them
fire = getattr(ts, "Optimizer", ts.optimizers).fire
langevin = getattr(ts, "Integrator", ts.integrators).nvt_langevin

structures, *name = sys.argv[1:] or [None]
if structures is None:
    frames = [frame for frame in open_dataset("reactions-wb97xd-631gd") if frame.kind in ("reactant", "product")]
    systems = [atoms_from_frame(frame) for frame in frames]
else:
    systems = ase.io.read(structures, ":")
for k, atoms in enumerate(systems):
    atoms.rattle(0.03, seed=k)
model = PHLTorchSimModel(*name)  # on the GPU where there is one; "mace:FILE" and the other adapters, too

converged = ts.generate_force_convergence_fn(0.02, include_cell_forces=False)
relaxed = ts.optimize(systems, model, optimizer=fire, convergence_fn=converged, max_steps=500)
forces = model(relaxed)["forces"].norm(dim=1)
print(f"{relaxed.n_systems} molecules, {relaxed.n_atoms} atoms; largest force {forces.max():.3f} eV/Å")
names = [atoms.get_chemical_formula() for atoms in systems]
print(
    "relaxed / eV: " + ", ".join(f"{n} {e:.3f}" for n, e in list(zip(names, relaxed.energy.tolist(), strict=True))[:4])
)

# its unit of time is the picosecond
hot = ts.integrate(relaxed, model, integrator=langevin, n_steps=50, temperature=300.0, timestep=0.0005)
risen = (hot.energy - relaxed.energy).mean()
print(f"after 25 fs at 300 K: potential energies {1e3 * risen:.0f} meV higher on average")
