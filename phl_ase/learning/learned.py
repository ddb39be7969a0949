"""What is asked of learning a reaction, and what comes out: options, checked points, the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from phl_ase.errors import PHLError, unknown
from phl_ase.learning.store import Gradient, LabelStore
from phl_ase.learning.surrogate import LearnedCalculator
from phl_ase.paths import Connection, Reaction
from phl_ase.tasks import ReactionProfile
from phl_ase.types import Array
from phl_ase.units import convert
from phl_ase.vibrations import HarmonicAnalysis

_ON_PATH = 0.05  # Å: labels further from every point of the final path belong to a former one

LEARNING_OUTCOMES: Mapping[str, str] = {
    "verified": "the reference itself confirms everything that was asked for",
    "no transition state": "no structure was found whose forces vanish on the reference with one negative curvature",
    "no end": "an end of the path could not be confirmed as a minimum of the reference",
    "no path": "the reaction path could not be followed from the transition state",
    "path not confirmed": "the reference's forces on the path stay further from the model's than allowed",
    "other ends": "the transition state joins other structures than those asked for",
    "start failed": "the starting model failed at a geometry",
    "reference failed": "the reference method failed at a geometry",
    "out of memory": "the labels need more memory than there is",
    "budget spent": "the budget of reference gradients is spent",
}
"""Outcome of a run -> what it means."""


@dataclass(frozen=True)
class LearnOptions:
    """Options of learning a reaction.

    Attributes:
        fmax: Largest force of the reference at the TS and the ends, eV/Å.
        ts_only: Stop at the transition state.
        hvp: HVPs along random probes at the TS, beside those that confirm the curvature; by default three to five,
            by the size of the molecule.
        end_hvp: The same at each end; by default half as many.
        ts_modes: Lowest modes along which HVPs confirm the TS.
        path_points: Points on each side of the path whose forces are compared.
        path_error: Largest rms error of the forces there, eV/Å.
        max_rounds: Most labels in the search of one stationary point.
        labels: What random probes buy with two gradients each: ``"hvp"``, the product at the point, or ``"gradients"``,
            energies and forces on both sides of it, for comparison.
        seed: Of the probes.
    """

    fmax: float = 0.02
    ts_only: bool = False
    hvp: int | None = None
    end_hvp: int | None = None
    ts_modes: int = 2
    path_points: int = 2
    path_error: float = 0.1
    max_rounds: int = 25
    labels: str = "hvp"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse thresholds that are not positive and labels that are none.

        Raises:
            PHLError: For those.
        """
        for name in ("fmax", "path_error"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise PHLError(f"{name} is {getattr(self, name)!r} eV/Å; expected a positive number")
        if self.labels not in ("hvp", "gradients"):
            raise unknown("kind of label", self.labels, ("hvp", "gradients"))

    def least(self) -> int:
        """Return the smallest number of gradients with which everything can be confirmed."""
        ts = 1 + 2 * self.ts_modes
        return ts if self.ts_only else ts + 2 * (1 + 2) + 2 * self.path_points


@dataclass(frozen=True)
class Step:
    """One stop for the reference.

    Attributes:
        stage: ``"ts"``, ``"reactant"``, ``"product"`` or ``"path"``.
        gradients: Reference gradients bought so far.
        fmax: Largest force there, eV/Å; for the path the largest rms error of the forces.
    """

    stage: str
    gradients: int
    fmax: float


@dataclass(frozen=True, eq=False)
class CheckedPoint:
    """A stationary point that the reference was asked about.

    Attributes:
        atoms: Where.
        label: Energy and forces of the reference.
        curvatures: Eigenvalues of the reference's Hessian among the probed modes, eV/Å².
        analysis: Modes of the surrogate's Hessian, which contains all HVPs of the reference.
        verified: Whether forces and curvatures are what they should be.
        lowest: The direction probed whose curvature should be positive and is least ``(n, 3)``.
    """

    atoms: Atoms
    label: Gradient
    curvatures: Array
    analysis: HarmonicAnalysis
    verified: bool
    lowest: Array


@dataclass(frozen=True, eq=False)
class LearnedReaction:
    """The result of a run: a reaction, and what of it the reference has confirmed.

    Attributes:
        outcome: A key of ``LEARNING_OUTCOMES``.
        reason: More about it.
        ts: The transition state; ``None`` where none was found.
        ends: The minima, reactant first.
        reaction: The path on the surrogate.
        profile: Frequencies and thermochemistry of the three points, with the reference's energies.
        connection: How the ends relate to those asked for.
        path_error: Largest rms error of the forces at points of the path, eV/Å.
        path_labels: Reference labels on the path.
        steps: Every stop for the reference.
        calculator: The surrogate at the end.
        store: All labels.
        options: How it was learnt.
        seconds: Wall time outside the reference.
    """

    outcome: str
    reason: str
    ts: CheckedPoint | None
    ends: tuple[CheckedPoint, ...]
    reaction: Reaction | None
    profile: ReactionProfile | None
    connection: Connection | None
    path_error: float
    path_labels: tuple[Gradient, ...]
    steps: tuple[Step, ...]
    calculator: LearnedCalculator
    store: LabelStore
    options: LearnOptions
    seconds: float

    @property
    def verified(self) -> bool:
        """True where the reference confirmed everything that was asked for."""
        return self.outcome == "verified"

    def path_std(self) -> Array:
        """Return what is uncertain of the energies along the path: standard deviations ``(m,)`` eV."""
        correction = self.calculator.correction
        if self.reaction is None or correction is None:
            return np.zeros(0)
        return np.array([correction.energy_std(atoms.positions) for atoms in self.reaction.path.structures])

    def asked_on_path(self) -> Array:
        """Return arc length (√amu·Å) and energy above the reactant (kcal/mol) of the reference's points: ``(k, 2)``."""
        if self.reaction is None or not self.ends:
            return np.zeros((0, 2))
        path, lowest = self.reaction.path, self.ends[0].label.energy
        points = []
        for known in [*self.path_labels, *([] if self.ts is None else [self.ts.label])]:
            apart = [np.abs(atoms.positions - known.positions).max() for atoms in path.structures]
            place = int(np.argmin(apart))
            if apart[place] < _ON_PATH:
                points.append((path.arc_length[place], float(convert(known.energy - lowest, "eV", "kcal/mol"))))
        return np.array(points).reshape(-1, 2)
