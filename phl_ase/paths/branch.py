"""One side of a transition state, for an integrator of reaction paths, and where its points go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes

from phl_ase.paths.counting import CountingCalculator, CountingHessian
from phl_ase.types import Array, ASECalculator


class StepError(RuntimeError):
    """The path could not be followed with the shortest step.

    Attributes:
        points: Points found before.
    """

    def __init__(self, message: str, points: int = 0):
        super().__init__(message)
        self.points = points


class BranchCalculator(CountingCalculator):
    """A counting calculator that notes where an integrator steps first.

    Attributes:
        first_away: Positions ``(n, 3)`` Å of the first geometry beside the origin since the last :meth:`set_out`;
            ``None`` before there is one.
    """

    def __init__(self, calculator: ASECalculator, origin: Array):
        super().__init__(calculator)
        self.first_away: Array | None = None
        self._origin = origin.copy()

    def set_out(self) -> None:
        """Begin a new direction, from the origin again."""
        self.first_away = None
        self._before = self._origin

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """As the counting calculator does."""
        super().calculate(atoms, properties, system_changes)
        if self.first_away is None and not np.array_equal(atoms.positions, self._origin):
            self.first_away = atoms.positions.copy()


@dataclass(frozen=True, eq=False)
class Branch:
    """One side of a transition state.

    Attributes:
        start: The transition state.
        calculator: Gives and counts energies and forces.
        hessian: Gives and counts Hessians; that of the transition state is not counted again.
        ts_energy: Energy of the transition state, eV.
        ts_hessian: The Hessian of the transition state ``(3n, 3n)`` eV/Å².
        mode: Mass-weighted imaginary mode of unit length ``(n, 3)``, pointing to this side.
        step: Length of a step, √amu·Å.
        fmax: Threshold for the largest force on an atom, eV/Å.
        max_points: Most points.
        record: ``record(positions, energy)`` takes each point as it is found: ``(n, 3)`` Å and eV.
    """

    start: Atoms
    calculator: BranchCalculator
    hessian: CountingHessian
    ts_energy: float
    ts_hessian: Array
    mode: Array
    step: float
    fmax: float
    max_points: int
    record: Callable[[Array, float], None] = lambda positions, energy: None

    @property
    def weights(self) -> Array:
        """√mass of each Cartesian coordinate ``(3n,)``, √amu."""
        return np.repeat(np.sqrt(self.start.get_masses()), 3)

    def working(self) -> Atoms:
        """Return a copy of the start with the counting calculator."""
        copy = self.start.copy()
        copy.calc = self.calculator
        return copy
