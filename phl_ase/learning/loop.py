"""Searching a reaction on a surrogate that is taught by a reference where the search needs it.

One gradient of the reference is taken where the surrogate believes in a stationary point. The surrogate's curvature is
good to some percent there, so each such step shrinks the error several-fold; three to five gradients reach a point that
a search on the reference alone needs dozens for. Nothing is believed in the end that the reference has not confirmed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms

from phl_ase.errors import PHLError
from phl_ase.learning.store import Gradient, LabelStore, LearningStopped
from phl_ase.learning.surrogate import LearnedCalculator
from phl_ase.paths import Connection, Reaction, connects, find_reaction, relax
from phl_ase.paths.end_points import same_structure
from phl_ase.tasks import ReactionProfile, check_ends, reaction_profile, search_between, search_from
from phl_ase.types import Array
from phl_ase.units import convert
from phl_ase.vibrations import HarmonicAnalysis, harmonic_analysis, rigid_motions

_ON_PATH = 0.05  # Å: labels further from every point of the final path belong to a former one

LEARNING_OUTCOMES: Mapping[str, str] = {
    "verified": "the reference itself confirms everything that was asked for",
    "no transition state": "no structure was found whose forces vanish on the reference with one negative curvature",
    "no end": "an end of the path could not be confirmed as a minimum of the reference",
    "no path": "the reaction path could not be followed from the transition state",
    "path not confirmed": "the reference's forces on the path stay further from the model's than allowed",
    "other ends": "the transition state joins other structures than those asked for",
    "reference failed": "the reference method failed at a geometry",
    "budget spent": "the budget of reference gradients is spent",
}
"""Outcome of a run -> what it means."""


@dataclass(frozen=True)
class LearnOptions:
    """How a reaction is learnt.

    Attributes:
        fmax: Largest force of the reference at the TS and the ends, eV/Å.
        ts_only: Stop at the transition state.
        hvp: HVPs along random probes at the TS, beside those that confirm the curvature.
        end_hvp: HVPs along random probes at each end, likewise.
        ts_modes: Lowest modes along which HVPs confirm the TS.
        path_points: Points on each side of the path whose forces are compared.
        path_error: Largest rms error of the forces there, eV/Å.
        max_rounds: Most labels in the search of one stationary point.
        seed: Of the probes.
    """

    fmax: float = 0.02
    ts_only: bool = False
    hvp: int = 6
    end_hvp: int = 2
    ts_modes: int = 2
    path_points: int = 3
    path_error: float = 0.1
    max_rounds: int = 25
    seed: int = 0

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
    """

    atoms: Atoms
    label: Gradient
    curvatures: Array
    analysis: HarmonicAnalysis
    verified: bool


@dataclass(frozen=True, eq=False)
class LearnedReaction:
    """What was learnt, and what of it the reference has confirmed.

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
        """Whether the reference confirmed everything that was asked for."""
        return self.outcome == "verified"

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


def learn_reaction(
    start: Atoms,
    product: Atoms | None,
    store: LabelStore,
    calculator: LearnedCalculator,
    options: LearnOptions = LearnOptions(),
    say: Callable[[str], None] = lambda line: None,
    **settings: Any,
) -> LearnedReaction:
    """Find a reaction at the reference's accuracy.

    Args:
        start: A guess of a TS; with a product, the reactant.
        product: The other end.
        store: Buys and keeps the reference's gradients.
        calculator: The surrogate, with its starting model.
        options: Thresholds and numbers of labels.
        say: Told what happens, a line at a time.
        **settings: Of thermochemistry: temperature, pressure, model.

    Returns:
        The result, whatever became of the run.

    Raises:
        PHLError: For ends that no path leads between, or a budget that cannot do.
    """
    if product is not None:
        check_ends(start, product)
    least = options.least() + 2 * (product is not None)
    if store.budget is not None and store.budget < least:
        raise PHLError(
            f"a budget of {store.budget} reference gradients cannot do: confirming alone takes {least}; "
            "a few dozen are usual"
        )
    run = _Run(start, product, store, calculator, options, say, settings)
    began = time.perf_counter()
    spent = store.seconds
    try:
        outcome, reason = run.everything(), ""
    except LearningStopped as stop:
        outcome, reason = stop.outcome, str(stop)
    if outcome != "verified" and not reason:
        reason = run.reason
    return LearnedReaction(
        outcome=outcome,
        reason=reason,
        ts=run.ts,
        ends=tuple(run.ends),
        reaction=run.reaction,
        profile=run.profile,
        connection=run.connection,
        path_error=run.path_error,
        path_labels=tuple(run.path_labels),
        steps=tuple(run.steps),
        calculator=calculator,
        store=store,
        options=options,
        seconds=time.perf_counter() - began - (store.seconds - spent),
    )


@dataclass(eq=False)
class _Run:
    """A run under way: what is known so far survives whatever stops it."""

    start: Atoms
    product: Atoms | None
    store: LabelStore
    calculator: LearnedCalculator
    options: LearnOptions
    say: Callable[[str], None]
    settings: dict[str, Any]
    ts: CheckedPoint | None = None
    ends: list[CheckedPoint] = field(default_factory=list)
    reaction: Reaction | None = None
    profile: ReactionProfile | None = None
    connection: Connection | None = None
    path_error: float = float("nan")
    path_labels: list[Gradient] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    reason: str = ""

    def everything(self) -> str:
        """Do all that was asked for, and return the outcome."""
        guess = self._guess()
        if guess is None:
            return "no transition state"
        ts = self._stationary(guess, "ts")
        if ts is None or not self._confirm_ts(ts):
            return "no transition state"
        if self.options.ts_only:
            return "verified"
        if not self._follow():
            return "no path"
        for side in ("reactant", "product"):
            if not self._confirm_end(side):
                return "no end"
        if not self._confirm_path():
            return "path not confirmed"
        self._finish()
        if self.connection is not None and not self.connection.connected:
            self.reason = self.connection.sentence
            return "other ends"
        return "verified"

    # -- the transition state -----------------------------------------------------------------------------------------

    def _guess(self) -> Atoms | None:
        """A guess of the TS: the user's, or the TS of the surrogate between both ends."""
        if self.store.gradients:
            self.calculator.fit(self.store)
        if self.product is None:
            return self.start.copy()
        for atoms in (self.start, self.product):
            self._label(atoms.positions, "end")
        self.calculator.fit(self.store)
        found = search_between(self.start, self.product, self.calculator, fmax=0.02)
        if not found.search.converged:
            self.reason = found.search.sentence
            return None
        if not found.joins:
            self.say("the model's TS joins other ends so far")
        return found.search.atoms

    def _label(self, positions: Array, stage: str) -> Gradient:
        known = self.store.gradient(positions, "end" if stage in ("reactant", "product") else stage)
        self.steps.append(Step(stage, len(self.store), known.fmax))
        self.say(f"{stage}: largest force {known.fmax:.3f} eV/Å after {len(self.store)} reference gradients")
        return known

    def _stationary(self, guess: Atoms, stage: str) -> Gradient | None:
        """Label where the surrogate has a stationary point, until the reference has one there, too."""
        place = guess.positions.copy()
        is_ts = stage == "ts"
        best: Gradient | None = None
        for _ in range(self.options.max_rounds):
            known = self._label(place, stage)
            if best is None or known.fmax < best.fmax:
                best = known
            if known.fmax <= self.options.fmax:
                return known
            self.calculator.fit(self.store)
            moved = self._on_surrogate(known.positions, is_ts)
            if moved is None and best is not known:
                moved = self._on_surrogate(best.positions, is_ts)
            if moved is None or self.store.find(moved) is not None:
                break
            place = moved
        self.reason = f"{stage}: the largest force stays at {0.0 if best is None else best.fmax:.3f} eV/Å"
        return None

    def _on_surrogate(self, positions: Array, is_ts: bool) -> Array | None:
        """The surrogate's stationary point near a geometry."""
        atoms = self.start.copy()
        atoms.positions = positions
        within = min(0.2 * self.options.fmax, 0.005)
        if is_ts:
            found = search_from(atoms, self.calculator, strategy="hessian", fmax=within)
            return found.atoms.positions if found.outcome in ("converged", "wrong order of saddle") else None
        atoms.calc = self.calculator
        relaxed = relax(atoms, within)
        return relaxed.atoms.positions if relaxed.converged else None

    def _point(self, known: Gradient, n_modes: int, n_random: int, negatives: int, seed: int) -> CheckedPoint:
        """Confirm the curvature of a stationary point along its softest modes, and learn it along random probes."""
        atoms = self.start.copy()
        atoms.positions = known.positions
        self.calculator.fit(self.store)
        modes = harmonic_analysis(atoms, self.calculator.get_hessian(atoms)).displacements[:n_modes]
        frame = np.linalg.qr(modes.reshape(len(modes), -1).T)[0]
        rows = self._rows(known.positions, frame)
        curvatures = np.linalg.eigvalsh(0.5 * (rows @ frame + (rows @ frame).T))
        if n_random:
            removed = np.column_stack([rigid_motions(known.positions, np.ones(len(atoms)), rotations=True), frame])
            drawn = np.random.default_rng(seed).normal(size=(removed.shape[0], n_random))
            drawn -= removed @ np.linalg.lstsq(removed, drawn, rcond=None)[0]
            self._rows(known.positions, np.linalg.qr(drawn)[0])
        self.calculator.fit(self.store)
        analysis = harmonic_analysis(atoms, self.calculator.get_hessian(atoms))
        right = int(np.sum(curvatures < 0)) == negatives and known.fmax <= self.options.fmax
        return CheckedPoint(atoms, known, curvatures, analysis, right and analysis.n_imaginary == negatives)

    def _rows(self, positions: Array, directions: Array) -> Array:
        """Products of the reference's Hessian with orthonormal columns ``(3n, k)``: ``(k, 3n)`` eV/Å²."""
        vectors = directions.T.reshape(directions.shape[1], -1, 3)
        lengths = np.linalg.norm(vectors, axis=2).max(axis=1)
        found = self.store.label_hvps(positions, list(vectors))
        return np.stack([one.product.ravel() * length for one, length in zip(found, lengths, strict=True)])

    def _confirm_ts(self, known: Gradient) -> bool:
        o = self.options
        self.ts = self._point(known, o.ts_modes, 0 if o.ts_only else o.hvp, 1, o.seed)
        self.say(f"ts: curvatures {_numbers(self.ts.curvatures)} eV/Å² along its softest modes")
        if not self.ts.verified:
            self.reason = (
                f"the curvatures along the softest modes are {_numbers(self.ts.curvatures)} eV/Å² and the model has "
                f"{self.ts.analysis.n_imaginary} imaginary modes; expected one that is negative"
            )
        return self.ts.verified

    # -- path and ends ------------------------------------------------------------------------------------------------

    def _follow(self) -> bool:
        """Follow the path of the surrogate from the TS, from the reactant's side to the product's."""
        assert self.ts is not None
        summit = self.ts.atoms.copy()
        summit.calc = self.calculator
        path = find_reaction(summit, self.calculator.get_hessian)
        if len(path.ends) < 2:
            self.reason = path.sentence
            return False
        if self.product is not None:
            self.connection = connects((path.ends[0].atoms, path.ends[1].atoms), self.start, self.product)
            if self.connection.flipped:
                path = path.turned()
                self.connection = connects((path.ends[0].atoms, path.ends[1].atoms), self.start, self.product)
        self.reaction = path
        return True

    def _confirm_end(self, side: str) -> bool:
        """Move an end of the path to the reference's minimum."""
        assert self.reaction is not None
        end = self.reaction.backward if side == "reactant" else self.reaction.forward
        assert end is not None
        known = self._known_minimum(end.atoms) or self._stationary(end.atoms, side)
        if known is None:
            return False
        point = self._point(known, 1, self.options.end_hvp, 0, self.options.seed + 1 + (side == "product"))
        self.ends.append(point)
        if not point.verified:
            self.reason = (
                f"{side}: the curvature along the softest mode is {_numbers(point.curvatures)} eV/Å² and the model has "
                f"{point.analysis.n_imaginary} imaginary modes; expected none that is negative"
            )
        return point.verified

    def _known_minimum(self, end: Atoms) -> Gradient | None:
        """A labelled geometry without forces that is this end."""
        for known in self.store.gradients:
            if known.kind != "probe" and known.fmax <= self.options.fmax:
                atoms = end.copy()
                atoms.positions = known.positions
                if same_structure(atoms, end):
                    return known
        return None

    def _confirm_path(self) -> bool:
        """Compare forces at points of the path; where they are wrong, learn them and follow the path anew."""
        for attempt in range(4):
            if attempt:
                self.calculator.fit(self.store)
            if not self._follow():
                return False
            assert self.reaction is not None
            errors = []
            for place in self._places(attempt):
                atoms = self.start.copy()
                atoms.positions = place
                atoms.calc = self.calculator
                believed = atoms.get_forces()
                known = self.store.gradient(place, "path")
                self.path_labels.append(known)
                errors.append(float(np.sqrt(np.mean((believed - known.forces) ** 2))))
            self.path_error = max(errors)
            self.steps.append(Step("path", len(self.store), self.path_error))
            self.say(f"path: forces within {self.path_error:.3f} eV/Å after {len(self.store)} reference gradients")
            if self.path_error <= self.options.path_error:
                return True
        self.reason = f"the forces differ by {self.path_error:.3f} eV/Å; allowed are {self.options.path_error:g}"
        return False

    def _places(self, attempt: int) -> Sequence[Array]:
        """Points of both sides of the path, evenly along its length, others in every attempt."""
        assert self.reaction is not None
        path = self.reaction.path
        lengths, places = path.arc_length, []
        shift = (0.0, -0.25, 0.2, -0.1)[attempt]
        for whole in (lengths[0], lengths[-1]):
            for k in range(self.options.path_points):
                wanted = whole * (k + 0.5 + shift) / self.options.path_points
                places.append(path.structures[int(np.argmin(np.abs(lengths - wanted)))].positions)
        return places

    def _finish(self) -> None:
        """Frequencies and thermochemistry with the final surrogate and the energies of the reference."""
        assert self.reaction is not None
        assert self.ts is not None
        self.calculator.fit(self.store)
        ends = []
        for end, point in zip((self.reaction.backward, self.reaction.forward), self.ends, strict=True):
            assert end is not None
            atoms = point.atoms.copy()
            atoms.calc = self.calculator
            relaxation = replace(end.relaxation, atoms=atoms, energy=point.label.energy, fmax=point.label.fmax)
            ends.append(replace(end, relaxation=relaxation))
        self.reaction = replace(self.reaction, backward=ends[0], forward=ends[1])
        self.profile = reaction_profile(self.reaction, **self.settings)


def _numbers(values: Array) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


__all__ = [
    "LEARNING_OUTCOMES",
    "CheckedPoint",
    "LearnOptions",
    "LearnedReaction",
    "Step",
    "learn_reaction",
]
