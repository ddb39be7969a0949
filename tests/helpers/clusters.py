"""Lennard-Jones clusters, whose stationary points are known, and calculators that break."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones

from phl_ase.paths import find_transition_state
from phl_ase.vibrations import finite_difference_hessian

SIGMA = 2.5
BOND = SIGMA * 2 ** (1 / 6)
# LJ4: its minimum has six bonds; the saddle that joins two of them is a rhombus (D. J. Wales, Energy Landscapes, 2003)
MINIMUM_ENERGY, RHOMBUS_ENERGY = -6.0, -5.073421


def lennard_jones():
    return LennardJones(sigma=SIGMA, epsilon=1.0, rc=100.0)


def tetrahedron():
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * BOND / 8**0.5
    return Atoms("Ar4", corners, calculator=lennard_jones())


def rhombus():
    height = BOND * 3**0.5 / 2
    atoms = Atoms("Ar4", [[0, 0, 0], [BOND, 0, 0], [BOND / 2, height, 0], [BOND / 2, -height, 0]])
    atoms.calc = lennard_jones()
    found = find_transition_state(atoms, finite_difference_hessian, fmax=1e-4)
    assert found.converged
    return found.atoms


class Broken(Calculator):
    """Whatever the test wants instead of forces."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, happens):
        super().__init__()
        self.happens = happens

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = self.happens(atoms)


def raises(*_):
    raise RuntimeError("SCF did not\nconverge")
