"""Crystals whose phonons are known, and what computes them."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from phl_ase.calculator import PHLCalculator
from phl_ase.potentials import Harmonic, LennardJones


def argon() -> PHLCalculator:
    """Lennard-Jones argon by the package's own analytic potential, exact HVPs."""
    return PHLCalculator(LennardJones(epsilon=0.0104, sigma=3.4, cutoff=7.0), device="cpu")


def springs(stiffness: float, length: float, cutoff: float) -> PHLCalculator:
    return PHLCalculator(Harmonic(stiffness=stiffness, length=length, cutoff=cutoff), device="cpu")


def relaxed(atoms: Atoms, calculator) -> Atoms:
    """The structure at the calculator's minimum, atoms and cell, without a calculator."""
    moved = atoms.copy()
    moved.calc = calculator
    with BFGS(FrechetCellFilter(moved), logfile=None) as optimiser:
        assert optimiser.run(fmax=1e-5, steps=200)
    return Atoms(moved.numbers, positions=moved.positions, cell=moved.cell, pbc=True)


# name -> (calculator, unit cell, supercell, atoms of the primitive cell)
CRYSTALS = {
    "LJ argon, fcc": lambda: (argon(), relaxed(bulk("Ar", a=5.3), argon()), (3, 3, 3), 1),
    "LJ argon, hcp": lambda: (argon(), relaxed(bulk("Ar", "hcp", a=3.75, c=6.12), argon()), (2, 2, 2), 2),
    "EMT copper, cubic cell": lambda: (EMT(), bulk("Cu", a=3.58983, cubic=True), (2, 2, 2), 1),
    "EMT Cu3Au": lambda: (EMT(), relaxed(cu3au(), EMT()), (2, 2, 2), 4),
}


def cu3au() -> Atoms:
    atoms = bulk("Cu", a=3.7, cubic=True)
    atoms.symbols[0] = "Au"
    return atoms


def counted(hvp):
    """An hvp that counts its vectors, and the list it counts in."""
    seen: list[int] = []

    def count(vectors, atoms):
        seen.append(int(np.prod(np.shape(vectors)[:-2])))
        return hvp(vectors, atoms)

    return count, seen
