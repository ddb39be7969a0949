"""Calculators to search on: the starting model with the correction that labels teach, and the reference itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from phl_ase.curvature import curvature_of
from phl_ase.errors import GuardedCalculator, NonFiniteError
from phl_ase.hessians import symmetrised
from phl_ase.learning.kernel import KERNEL_GRID, USUAL_KERNEL, GradientObservations, KernelChoice, KernelCorrection
from phl_ase.learning.store import HVP, LabelStore, LearningStopped
from phl_ase.types import Array

_KEPT = 64  # Hessians of the starting model


class LearnedCalculator(Calculator):
    """A starting model with a correction learnt from a reference's labels, for one molecule.

    Args:
        start: The ASE calculator that is corrected; ``None`` for nothing, where all is learnt.

    Attributes:
        correction: The current correction; ``None`` before the first fit.
        start_calls: Gradients of the starting model.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (ASE wants a list)
    curvature_is_tested = True

    def __init__(self, start: Any) -> None:
        super().__init__()
        self.start = start
        self.correction: KernelCorrection | None = None
        self.start_calls = 0
        self._curvature = None if start is None else curvature_of(start)
        self._hessians: dict[bytes, Array] = {}
        self._hvps: list[HVP] = []
        self._gradients: dict[bytes, tuple[float, Array]] = {}

    def fit(self, store: LabelStore) -> None:
        """Learn from all labels of a store."""
        points = store.points
        energies, gradients = [], []
        for known in points:
            energy, gradient = self._start_at(store.atoms, known.positions)
            energies.append(known.energy - energy)
            gradients.append(-known.forces - gradient)
        shape = (len(store.hvps), len(store.atoms), 3)
        hvps = np.zeros(shape)
        for row, one in zip(hvps, store.hvps, strict=True):
            sides = [self._start_at(store.atoms, one.positions + sign * store.step * one.vector)[1] for sign in (1, -1)]
            row[:] = one.product - (sides[0] - sides[1]) / (2 * store.step)
        # settings of the last fit, be it that of a run which is gone on with: the likelihood has several summits
        begin, kept = USUAL_KERNEL, store.kernel() or {}
        if self.correction is not None:
            begin = self.correction.choice
        elif set(kept) == set(KERNEL_GRID) and all(kept[name] in values for name, values in KERNEL_GRID.items()):
            begin = KernelChoice(**kept)
        self.correction = KernelCorrection(
            GradientObservations(
                np.array([known.positions for known in points]),
                np.array(energies),
                np.array(gradients),
                np.array([known.positions for known in store.hvps]).reshape(shape),
                np.array([known.vector for known in store.hvps]).reshape(shape),
                hvps,
                store.step,
            ),
            store.atoms.numbers,
            begin,
        )
        store.keep_kernel(asdict(self.correction.choice))
        self._hvps = list(store.hvps)
        self.reset()

    def _start_at(self, atoms: Atoms, positions: Array) -> tuple[float, Array]:
        """Return energy and gradient of the starting model."""
        if self.start is None:
            return 0.0, np.zeros_like(positions)
        key = np.ascontiguousarray(positions).tobytes()
        if key not in self._gradients:
            structure = atoms.copy()
            structure.positions = positions
            structure.calc = GuardedCalculator(self.start)
            forces = structure.get_forces(apply_constraint=False)
            self.start_calls += 1
            self._gradients[key] = float(structure.get_potential_energy()), -np.array(forces, dtype=float)
        return self._gradients[key]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Compute energy and forces of the starting model and the correction."""
        super().calculate(atoms, properties, system_changes)
        energy, gradient = self._start_at(atoms, atoms.positions)
        if self.correction is not None:
            more, slope = self.correction.energy_and_gradient(atoms.positions)
            energy, gradient = energy + more, gradient + slope
        self.results = {"energy": energy, "free_energy": energy, "forces": -gradient}

    def get_hessian(self, atoms: Atoms) -> Array:
        """Return the Hessian ``(3n, 3n)`` eV/Å²."""
        key = atoms.positions.tobytes()
        if self._curvature is None:
            hessian = np.zeros((3 * len(atoms), 3 * len(atoms)))
        elif key in self._hessians:
            hessian = self._hessians[key]
        else:
            bare = atoms.copy()
            bare.calc = self.start
            self.start_calls += self._curvature.gradients_per_hessian(len(atoms))
            if len(self._hessians) >= _KEPT:
                self._hessians.pop(next(iter(self._hessians)))
            hessian = self._hessians[key] = np.asarray(self._curvature.hessian(bare), dtype=float)
        if self.correction is not None:
            hessian = hessian + self.correction.hessian(atoms.positions)
        hessian = symmetrised(hessian)
        here = [one for one in self._hvps if np.array_equal(one.positions, atoms.positions)]
        if here:
            # the least change that makes the reference's products exact: the fit leaves them some noise
            vectors, products = (
                np.stack([getattr(one, name).ravel() for one in here], axis=1) for name in ("vector", "product")
            )
            frame, triangle = np.linalg.qr(vectors)
            missing = products @ np.linalg.inv(triangle) - hessian @ frame
            among = frame.T @ missing
            change = (missing - 0.25 * frame @ (among + among.T)) @ frame.T
            hessian = hessian + change + change.T
        return hessian

    def get_hvp(self, vectors: Array, atoms: Atoms) -> Array:
        """Return Hessian-vector products in the shape of the vectors."""
        given = np.asarray(vectors, dtype=float)
        return (given.reshape(-1, 3 * len(atoms)) @ self.get_hessian(atoms)).reshape(given.shape)


class TrustedCalculator(Calculator):
    """A surrogate that answers near labelled geometries alone: a search on it ends where it goes too far.

    Args:
        surrogate: What answers.
        labelled: Positions ``(n, 3)`` Å of labelled geometries.
        radius: How far an atom may be from where it is in the nearest of them, Å.

    Attributes:
        left: Whether a geometry beyond was asked for.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (ASE wants a list)
    curvature_is_tested = True

    def __init__(self, surrogate: LearnedCalculator, labelled: Sequence[Array], radius: float) -> None:
        super().__init__()
        self.left = False
        self._surrogate, self._labelled, self._radius = surrogate, np.array(labelled), radius

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Compute energy and forces of the surrogate.

        Raises:
            NonFiniteError: Beyond the radius; a search takes it for an explosion and ends at its last step.
        """
        super().calculate(atoms, properties, system_changes)
        apart = np.linalg.norm(self._labelled - atoms.positions, axis=2).max(axis=1).min()
        if apart > self._radius:
            self.left = True
            raise NonFiniteError(f"the nearest label is {apart:.2f} Å away")
        self._surrogate.calculate(atoms, properties, system_changes)
        self.results = dict(self._surrogate.results)

    def get_hessian(self, atoms: Atoms) -> Array:
        """Return the surrogate's Hessian ``(3n, 3n)`` eV/Å²."""
        return self._surrogate.get_hessian(atoms)

    def get_hvp(self, vectors: Array, atoms: Atoms) -> Array:
        """Return the surrogate's Hessian-vector products."""
        return self._surrogate.get_hvp(vectors, atoms)


class ReferenceCalculator(Calculator):
    """The reference itself, every gradient bought from a store and kept there.

    Args:
        store: Where.
        kind: Of the gradients.

    Attributes:
        stopped: Why the store sold no more; ``None`` while it does.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (ASE wants a list)

    def __init__(self, store: LabelStore, kind: str) -> None:
        super().__init__()
        self.stopped: LearningStopped | None = None
        self._store, self._kind = store, kind

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Compute energy and forces of the reference.

        Raises:
            NonFiniteError: Where the store sells no more.
        """
        super().calculate(atoms, properties, system_changes)
        try:
            known = self._store.gradient(atoms.positions, self._kind)
        except LearningStopped as stop:
            self.stopped = stop
            raise NonFiniteError(str(stop)) from stop
        self.results = {"energy": known.energy, "free_energy": known.energy, "forces": known.forces.copy()}
