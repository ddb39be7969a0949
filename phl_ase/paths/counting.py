"""Gradients, Hessians and HVPs, counted and checked; and where a search last stood on firm ground."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from phl_ase.curvature import HessianFunction, HVPFunction
from phl_ase.errors import GuardedCalculator, NonFiniteError, PHLError, guarded
from phl_ase.hessians import checked_hessian
from phl_ase.types import Array, ASECalculator
from phl_ase.vibrations import checked_hvps

# eV/Å: no bond pushes so hard. A step that gets here, and to ten times the force at the start, has run atoms into each
# other or off the model's ground.
_EXPLODED_FORCE = 1e4

# Å: no step of an optimiser goes so far beyond the size of the structure. Far apart, atoms have no forces, and a search
# that threw them there would take that for convergence.
_EXPLODED_STEP = 10.0


class CountingCalculator(Calculator):
    """Energy and forces of another calculator, counted and checked.

    Each geometry is asked for once, forces and energy together; repeated requests are answered from the cache and not
    counted.

    Attributes:
        calculator: Who does the work.
        calls: Number of geometries evaluated.
        last: The last structure whose numbers were sound; ``None`` before the first.
        energy: Its energy, eV.
        forces: Its forces without constraints ``(n, 3)`` eV/Å.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (ASE wants a list)

    def __init__(self, calculator: ASECalculator):
        super().__init__()
        self.calculator = calculator
        self.calls = 0
        self.last: Atoms | None = None
        self.energy = float("nan")
        self.forces: Array | None = None
        self._limit = _EXPLODED_FORCE
        self._before: Array | None = None  # positions that a step is measured from

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Ask the other calculator for forces and energy.

        Raises:
            NonFiniteError: For NaN or infinity in the positions, energy or forces, or an absurd step or force.
        """
        super().calculate(atoms, properties, system_changes)
        if not np.all(np.isfinite(atoms.positions)):
            raise NonFiniteError("a step led to positions that are NaN or infinite")
        if self._before is not None:
            moved = np.linalg.norm(atoms.positions - self._before, axis=1)
            if moved.max() > _EXPLODED_STEP + np.ptp(self._before, axis=0).max():
                atom = int(moved.argmax())
                raise NonFiniteError(f"a step moved atom {atom} ({atoms.symbols[atom]}) by {moved[atom]:.1e} Å")
        self.calls += 1
        structure = atoms.copy()
        structure.calc = GuardedCalculator(self.calculator)
        try:
            # forces first: a calculator asked for the energy alone would have to start again
            forces = np.array(structure.get_forces(apply_constraint=False), dtype=float)
            energy = float(structure.get_potential_energy(apply_constraint=False))
        except PHLError as error:
            if self.last is None:
                raise
            # it took other structures of these atoms: what it refuses is where the steps led, no mistake of the caller
            raise NonFiniteError(f"a step led to a structure that the calculator refuses: {error}") from error
        if not (np.isfinite(energy) and np.all(np.isfinite(forces))):
            raise NonFiniteError("the calculator gave an energy or forces that are NaN or infinite")
        largest = float(np.abs(forces).max(initial=0.0))
        if self.last is None:
            self._limit = max(_EXPLODED_FORCE, 10 * largest)
        if largest > self._limit:
            raise NonFiniteError(f"a force of {largest:.1e} eV/Å: atoms have run into each other")
        self.last, self.energy, self.forces = atoms.copy(), energy, forces
        self._before = self.last.positions
        free_energy = getattr(self.calculator, "results", {}).get("free_energy", energy)
        self.results = {"energy": energy, "free_energy": float(free_energy), "forces": forces.copy()}

    def largest_force(self) -> float:
        """Return the largest force on an atom at the last sound structure, with constraints, eV/Å.

        NaN before the first, and where the constraints cannot be satisfied (ASE's iteration of bond lengths fails).
        """
        if self.last is None or self.forces is None:
            return float("nan")
        forces = self.forces.copy()
        try:
            for constraint in self.last.constraints:
                constraint.adjust_forces(self.last, forces)
        except (RuntimeError, np.linalg.LinAlgError):
            return float("nan")
        return float(np.linalg.norm(forces, axis=1).max())


class CountingHessian:
    """A ``hessian(atoms)`` callable, counted and checked; the last answer is kept.

    Attributes:
        function: Who does the work.
        calculator: The calculator on the atoms that it is given (its own gradient calls are not counted).
        calls: Number of Hessians evaluated.
    """

    def __init__(self, function: HessianFunction, calculator: ASECalculator):
        self.function = function
        self.calculator = calculator
        self.calls = 0
        self._last: tuple[Array, Array] | None = None  # positions and their Hessian

    def __call__(self, atoms: Atoms) -> Array:
        """Return the symmetric Hessian ``(3n, 3n)`` eV/Å² of all atoms.

        Raises:
            PHLError: For another shape: Sella would die of it in a bare AssertionError.
            NonFiniteError: For NaN or infinity.
        """
        if self._last is not None and np.array_equal(self._last[0], atoms.positions):
            return self._last[1].copy()
        structure = atoms.copy()
        structure.calc = self.calculator
        self.calls += 1
        hessian = checked_hessian(guarded(self.function)(structure), len(atoms), "the Hessian of hessian(atoms)")
        self._last = (atoms.positions.copy(), hessian)
        return hessian.copy()


class CountingHVP:
    """A ``hvp(vectors, atoms)`` callable, counted and checked.

    Attributes:
        function: Who does the work.
        calculator: The calculator on the atoms that it is given (its own gradient calls are not counted).
        calls: Number of vectors multiplied.
    """

    def __init__(self, function: HVPFunction, calculator: ASECalculator):
        self.function = function
        self.calculator = calculator
        self.calls = 0

    def __call__(self, vectors: Array, atoms: Atoms) -> Array:
        """HVPs of the vectors ``(n, 3)`` or ``(K, n, 3)`` with the Hessian of all atoms, eV/Å² per unit of vector.

        Raises:
            PHLError: For HVPs of another shape.
            NonFiniteError: For NaN or infinity.
        """
        structure = atoms.copy()
        structure.calc = self.calculator
        self.calls += vectors.size // (3 * len(atoms))
        return checked_hvps(guarded(self.function)(vectors, structure), vectors)
