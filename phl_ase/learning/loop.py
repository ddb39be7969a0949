"""Searching a reaction on a surrogate that is taught by a reference where the search needs it.

One gradient of the reference is taken where the surrogate believes in a stationary point. The surrogate's curvature is
good to some percent there, so each such step shrinks the error several-fold; three to five gradients reach a point that
a search on the reference alone needs dozens for. Nothing is believed in the end that the reference has not confirmed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms

from phl_ase.errors import PHLError, attempt
from phl_ase.hessians import symmetrised
from phl_ase.learning.kernel import OutOfMemoryError
from phl_ase.learning.learned import CheckedPoint, LearnedReaction, LearnOptions, Step
from phl_ase.learning.store import HVP, Gradient, LabelStore, LearningStopped
from phl_ase.learning.surrogate import LearnedCalculator, ReferenceCalculator, TrustedCalculator
from phl_ase.paths import (
    Connection,
    Reaction,
    connects,
    find_reaction,
    find_transition_state,
    guess_transition_state,
    relax,
    rmsd,
)
from phl_ase.paths.end_points import same_structure
from phl_ase.paths.guess import BAND
from phl_ase.tables import counted
from phl_ase.tasks import ReactionProfile, check_ends, reaction_profile, search_between, search_from
from phl_ase.types import Array
from phl_ase.vibrations import HarmonicAnalysis, harmonic_analysis, rigid_motions

_ASIDE = 0.1  # Å: where gradients stand in for an HVP, for the atom that moves most
_GUESSES = 3  # of a TS between two ends, each by a better surrogate
_SAME_TS = 0.05  # Å rms
_SAME_POINT = 0.03  # Å rms: a stationary point of the surrogate is that which the reference has confirmed
_BESIDE = 0.02  # Å: a label serves for a point of the path
_PATIENCE = 6  # labels that bring no smaller force before the reference is searched on
_PLAIN_STEPS = 100
_PUSHES = (0.1, 0.3, 0.6)  # Å: by how much a search is pushed off a saddle of too high order, each time
_MORE_MODES = 3  # that the reference is asked about where the model has imaginary modes too many
_FLAT = 0.005  # eV/Å²: curvatures within this are those of molecules that float
_TRUST, _TRUST_OF_NOTHING = 0.7, 0.2  # Å: how far from all labels an atom may move on the surrogate
_NEAR = 0.3  # Å: an atom that moves further on the way to a TS makes another search worth its time
# of the points on a path, in each attempt, in units of their distance
_SHIFTS = (0.0, -0.25, 0.2, -0.1, 0.1, -0.4, 0.35)


def learn_reaction(
    start: Atoms,
    product: Atoms | None,
    store: LabelStore,
    calculator: LearnedCalculator,
    options: LearnOptions | None = None,
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
    options = options or LearnOptions()
    if product is not None:
        check_ends(start, product)
    least = options.least() + 2 * (product is not None)
    if store.budget is not None and store.budget < least:
        raise PHLError(
            f"a budget of {store.budget} reference gradients cannot do: confirming the result alone takes {least}; "
            "a few dozen are usual, so give --budget 60, or --ts-only"
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
        outcome = self._transition_state()
        if outcome != "verified" or self.options.ts_only:
            return outcome
        for side in ("reactant", "product"):
            if not self._confirm_end(side):
                return "no end"
        if not self._confirm_path():
            return "path not confirmed"
        self._learn_curvature()
        self._finish()
        if self.connection is not None and not self.connection.connected:
            self.reason = self.connection.sentence
            return "other ends"
        return "verified"

    # -- the transition state -----------------------------------------------------------------------------------------

    def _transition_state(self) -> str:
        """Find the TS that is meant; from other guesses where one led to a TS of another reaction."""
        outcome = "no transition state"
        seen: list[Atoms] = []
        for number in range(2 if self.product is None else _GUESSES):
            # the TS of a run that is gone on with
            former = [one for one in self.store.gradients if one.kind == "ts" and one.fmax <= self.options.fmax]
            known = None if number or not former else self._label(former[-1].positions, "ts")
            if known is None and number and self.product is None:
                self.say("ts: the model led to no TS; searching on the reference from the guess")
                known = self._plainly(self._label(self.start.positions, "ts"), "ts", by_surrogate=False)
            elif known is None:
                guess = self._guess()
                if guess is None:
                    return outcome
                known = self._stationary(guess, "ts")
            if known is None or not self._confirm_ts(known):
                continue
            assert self.ts is not None
            if self.options.ts_only and self.product is None:
                return "verified"
            if not self._follow():
                return "no path"
            if self.connection is None or self.connection.connected:
                return "verified"
            outcome, self.reason = "other ends", self.connection.sentence
            self.say("ts: it joins other structures than those asked for")
            seen.append(self.ts.atoms)
            if sum(rmsd(self.ts.atoms, other) < _SAME_TS for other in seen) >= _GUESSES - 1:
                # images of the surrogate's elastic band are labelled: another guess may follow from them
                assert self.product is not None
                band = guess_transition_state(self.start, self.product, self.calculator, method=BAND)
                images = {len(band.path) // 4, band.index, 3 * len(band.path) // 4}
                self.store.buy([band.path[k].positions for k in images], "path")
                self.say(f"path: images of an elastic band, {counted(len(self.store), 'reference gradient')}")
        return outcome

    def _guess(self) -> Atoms | None:
        """Return a guess of the TS: the user's, or the TS of the surrogate between both ends."""
        if self.product is None:
            self._fit()
            return self.start.copy()
        for atoms in (self.start, self.product):
            if self.store.find(atoms.positions) is None:
                self._label(atoms.positions, "end")
        self._fit()
        found = search_between(
            self.start,
            self.product,
            self.calculator,
            fmax=0.02,
            note=lambda what: self.say(f"ts: on the model, {what}"),
        )
        if not found.search.converged:
            self.reason = f"on the model: {found.search.sentence}"
            return None
        return found.search.atoms

    def _fit(self) -> None:
        """Learn all labels; a starting model that cannot compute them ends the run."""
        if not self.store.points:
            return
        try:
            learnt = attempt(lambda: self.calculator.fit(self.store))
        except OutOfMemoryError as error:
            raise LearningStopped(
                "out of memory",
                f"{error}; go on where there is more, or begin anew with fewer labels: --hvp 0, --ts-only",
            ) from error
        if learnt.outcome:
            raise LearningStopped("start failed", f"the starting model failed at a labelled geometry: {learnt.reason}")

    def _label(self, positions: Array, stage: str) -> Gradient:
        known = self.store.gradient(positions, "end" if stage in ("reactant", "product") else stage)
        self.steps.append(Step(stage, len(self.store), known.fmax))
        self.say(f"{stage}: largest force {known.fmax:.3f} eV/Å after {counted(len(self.store), 'reference gradient')}")
        return known

    def _stationary(self, guess: Atoms, stage: str) -> Gradient | None:
        """Label where the surrogate has a stationary point, until the reference has one there, too.

        Where that leads nowhere, search on the reference itself, with the surrogate's Hessian.
        """
        place, best, waited = guess.positions.copy(), None, 0
        for _ in range(self.options.max_rounds):
            known = self._label(place, stage)
            waited = 0 if best is None or known.fmax < 0.8 * best.fmax else waited + 1
            if best is None or known.fmax < best.fmax:
                best = known
            if known.fmax <= self.options.fmax:
                return known
            self._fit()
            moved = self._on_surrogate((known if waited < _PATIENCE // 2 else best).positions, stage == "ts")
            if waited >= _PATIENCE or moved is None or self.store.find(moved) is not None:
                break
            if (confirmed := self._known_stationary(moved, stage)) is not None:
                return confirmed
            place = moved
        assert best is not None
        self.say(f"{stage}: the model does not help; searching on the reference from the best geometry")
        return self._plainly(best, stage)

    def _known_stationary(self, place: Array, stage: str) -> Gradient | None:
        """Return a labelled geometry without forces beside a stationary point of the surrogate, of a former run."""
        for known in self.store.points:
            if known.kind == ("ts" if stage == "ts" else "end") and known.fmax <= self.options.fmax:
                atoms, other = self.start.copy(), self.start.copy()
                atoms.positions, other.positions = known.positions, place
                if rmsd(atoms, other) < _SAME_POINT:
                    return known
        return None

    def _on_surrogate(self, positions: Array, is_ts: bool) -> Array | None:
        """Return the surrogate's stationary point near a geometry, or a point on the way as far as it is trusted."""
        atoms = self.start.copy()
        atoms.positions = positions
        within = 0.1 * self.options.fmax
        labelled = [known.positions for known in self.store.points]
        trust = _TRUST if self.calculator.start is not None else _TRUST_OF_NOTHING
        reached: list[Array] = []
        # a correction learnt from few labels may bend the wanted mode upwards, and a search with its Hessian then runs
        # to another TS; one that makes up its own Hessian from gradients stays near
        for strategy in ("hessian", "gradients") if is_ts else ("",):
            trusted = TrustedCalculator(self.calculator, labelled, trust)
            if is_ts:
                found: Any = search_from(atoms, trusted, strategy=strategy, fmax=within)
                done = found.outcome in ("converged", "wrong order of saddle") or trusted.left
            else:
                atoms.calc = trusted
                found = relax(atoms, within)
                done = found.converged or trusted.left
            if done or found.fmax < self.options.fmax:
                reached.append(found.atoms.positions)
                if _farthest(reached[-1], positions) < _NEAR:
                    break
        return min(reached, key=lambda place: _farthest(place, positions), default=None)

    def _plainly(self, best: Gradient, stage: str, by_surrogate: bool = True) -> Gradient | None:
        """Search on the reference from a geometry, with the surrogate's Hessian or none; every gradient is kept."""
        asked = ReferenceCalculator(self.store, "end" if stage != "ts" else stage)
        atoms = self.start.copy()
        atoms.positions = best.positions
        atoms.calc = asked

        def surrogate_hessian(atoms: Atoms) -> Array:
            self._fit()
            return self.calculator.get_hessian(atoms)

        if stage == "ts":
            result: Any = find_transition_state(
                atoms,
                surrogate_hessian if by_surrogate else None,
                fmax=self.options.fmax,
                max_steps=_PLAIN_STEPS,
                analysis_hessian=surrogate_hessian,
            )
        else:
            result = relax(atoms, self.options.fmax, _PLAIN_STEPS)
        if asked.stopped is not None:
            raise asked.stopped
        known = self.store.find(result.atoms.positions)
        if known is not None:
            self.steps.append(Step(stage, len(self.store), known.fmax))
            self.say(
                f"{stage}: largest force {known.fmax:.3f} eV/Å after {counted(len(self.store), 'reference gradient')}"
            )
            if known.fmax <= self.options.fmax:
                return known
        self.reason = f"{stage}: {result.sentence}"
        return None

    # -- curvature ----------------------------------------------------------------------------------------------------

    def _hvps_at(self, positions: Array) -> list[HVP]:
        return [one for one in self.store.hvps if np.array_equal(one.positions, positions)]

    def _modes(self, positions: Array) -> HarmonicAnalysis:
        atoms = self.start.copy()
        atoms.positions = positions
        return harmonic_analysis(atoms, self.calculator.get_hessian(atoms))

    def _point(self, known: Gradient, n_modes: int, negatives: int) -> CheckedPoint:
        """Ask the reference for the curvature along the softest modes of a stationary point.

        Where the model then still has imaginary modes that the reference does not know of, it is asked about these.
        """
        self._fit()
        analysis = self._modes(known.positions)
        here = self._hvps_at(known.positions)  # of a run that is gone on with: they cost nothing
        wanted = list(analysis.displacements[: max(0, n_modes - len(here))])
        for _ in range(_MORE_MODES + 1):
            if wanted:
                here = here + self.store.label_hvps(known.positions, wanted, teach=self.options.labels == "hvp")
            vectors, products = (
                np.stack([getattr(one, name).ravel() for one in here], axis=1) for name in ("vector", "product")
            )
            frame, triangle = np.linalg.qr(vectors)
            among = frame.T @ products @ np.linalg.inv(triangle)
            curvatures, turned = np.linalg.eigh(symmetrised(among))
            self._fit()
            analysis = self._modes(known.positions)
            # softer than rounding: a mode of molecules that float
            below = int(np.sum(curvatures < -_FLAT))
            if analysis.n_imaginary <= negatives or below > negatives or self.options.labels != "hvp":
                break
            wanted = [analysis.displacements[negatives]]
        right = known.fmax <= self.options.fmax and analysis.n_imaginary == negatives == below
        lowest = (frame @ turned[:, min(negatives, len(curvatures) - 1)]).reshape(-1, 3)
        return CheckedPoint(analysis.atoms.copy(), known, curvatures, analysis, right, lowest)

    def _confirm_ts(self, known: Gradient) -> bool:
        """Confirm one negative curvature; a saddle of higher order is left along its second mode."""
        for push in _PUSHES:
            self.ts = self._point(known, self.options.ts_modes, 1)
            self.say(f"ts: curvatures {_numbers(self.ts.curvatures)} eV/Å² along its softest modes")
            if self.ts.verified:
                return True
            self.reason = (
                f"the curvatures along the softest modes are {_numbers(self.ts.curvatures)} eV/Å² and the model has "
                f"{self.ts.analysis.n_imaginary} imaginary modes; expected one that is negative"
            )
            moved = self._pushed(self.ts, 1, push)
            again = None if moved is None else self._stationary(moved, "ts")
            if again is None or again is known:
                return False
            known = again
        return False

    def _pushed(self, point: CheckedPoint, keep: int, push: float) -> Atoms | None:
        """Return a stationary point moved along a negative mode that it has too many; ``None`` where there is none."""
        analysis = point.analysis
        mode = analysis.displacements[keep] if analysis.n_imaginary > keep else point.lowest
        if analysis.n_imaginary < keep:
            return None
        atoms = point.atoms.copy()
        atoms.positions += push * mode / np.linalg.norm(mode, axis=1).max()
        return atoms

    def _learn_curvature(self) -> None:
        """HVPs along random probes at the TS and both ends, for their frequencies."""
        assert self.ts is not None
        points, n = [self.ts, *self.ends], len(self.start)
        usual = min(5, 2 + -(-n // 5))  # at the TS, whose frequencies gain little from more
        counts = [usual if self.options.hvp is None else self.options.hvp]
        counts += 2 * [(usual + 1) // 2 if self.options.end_hvp is None else self.options.end_hvp]
        for place, (point, count) in enumerate(zip(points, counts, strict=True)):
            x = point.atoms.positions
            vectors = [one.vector.ravel() for one in self._hvps_at(x)]
            removed = np.column_stack([rigid_motions(x, np.ones(n), rotations=True), *vectors])
            confirming = min(self.options.ts_modes if not place else 1, len(vectors))
            # those that a former run has drawn are among the vectors
            wanted = min(count + confirming - len(vectors), 3 * n - removed.shape[1])
            if wanted < 1:
                continue
            drawn = np.random.default_rng([self.options.seed, place]).normal(size=(3 * n, wanted))
            drawn -= removed @ np.linalg.lstsq(removed, drawn, rcond=None)[0]
            probes = np.linalg.qr(drawn)[0].T.reshape(wanted, n, 3)
            if self.options.labels == "hvp":
                self.store.label_hvps(x, list(probes))
                continue
            units = [probe / np.linalg.norm(probe, axis=1).max() for probe in probes]
            self.store.buy([x + sign * _ASIDE * unit for unit in units for sign in (1, -1)], "around")
        self._fit()
        self.ts, *self.ends = [replace(one, analysis=self._modes(one.atoms.positions)) for one in points]

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
        """Move an end of the path to the reference's minimum; off saddle points on the way."""
        assert self.reaction is not None
        end = self.reaction.backward if side == "reactant" else self.reaction.forward
        assert end is not None
        place, point = end.atoms, None
        for push in _PUSHES:
            asked = self._asked_for(side) if place is end.atoms else None
            known = asked or self._known_minimum(place) or self._stationary(place, side)
            if known is None:
                break
            point = self._point(known, 1, 0)
            if point.verified:
                break
            self.say(f"{side}: a saddle point, curvature {_numbers(point.curvatures)} eV/Å²")
            moved = self._pushed(point, 0, push)
            if moved is None:
                break
            place = self.start.copy()
            pushed = self._on_surrogate(moved.positions, False)
            place.positions = moved.positions if pushed is None else pushed
        if point is None:
            return False
        self.ends.append(point)
        if not point.verified:
            self.reason = (
                f"{side}: the curvature along the softest mode is {_numbers(point.curvatures)} eV/Å² and the model has "
                f"{point.analysis.n_imaginary} imaginary modes; expected none that is negative"
            )
        return point.verified

    def _asked_for(self, side: str) -> Gradient | None:
        """Return the structure that was given for an end, where the path leads to it and the reference has no forces.

        The molecules of a complex float on a flat surface: a relaxation of the path's last point may never end.
        """
        if self.connection is None:
            return None
        given = self.start if side == "reactant" else self.product
        found = self.connection.backward if side == "reactant" else self.connection.forward
        known = None if given is None or found.name != side else self.store.find(given.positions)
        return known if known is not None and known.fmax <= self.options.fmax else None

    def _known_minimum(self, end: Atoms) -> Gradient | None:
        """Return a labelled geometry without forces that is this end."""
        for known in self.store.points:
            if known.fmax <= self.options.fmax:
                atoms = end.copy()
                atoms.positions = known.positions
                if same_structure(atoms, end):
                    return known
        return None

    def _confirm_path(self) -> bool:
        """Compare forces at points of the path; where they are wrong, learn them and follow the path anew."""
        for number in range(len(_SHIFTS)):
            self._fit()
            if not self._follow():
                return False
            assert self.reaction is not None
            # points of both sides of the path, evenly along its length
            path, chosen = self.reaction.path, dict[int, Array]()
            for whole in (path.arc_length[0], path.arc_length[-1]):
                for k in range(self.options.path_points):
                    wanted = whole * (k + 0.5 + _SHIFTS[number]) / self.options.path_points
                    index = int(np.argmin(np.abs(path.arc_length - wanted)))
                    positions = path.structures[index].positions
                    near = [one for one in self.store.points if np.abs(one.positions - positions).max() < _BESIDE]
                    chosen[index] = near[0].positions if near else positions
            places = list(chosen.values())
            believed = []
            for place in places:
                atoms = self.start.copy()
                atoms.positions = place
                atoms.calc = self.calculator
                believed.append(atoms.get_forces())
            found = self.store.buy(places, "path")
            self.path_labels += found
            self.path_error = max(
                float(np.sqrt(np.mean((forces - known.forces) ** 2)))
                for forces, known in zip(believed, found, strict=True)
            )
            self.steps.append(Step("path", len(self.store), self.path_error))
            self.say(
                f"path: forces within {self.path_error:.3f} eV/Å after {counted(len(self.store), 'reference gradient')}"
            )
            if self.path_error <= self.options.path_error:
                return True
        self.reason = f"the forces differ by {self.path_error:.3f} eV/Å; allowed are {self.options.path_error:g}"
        return False

    def _finish(self) -> None:
        """Frequencies and thermochemistry with the final surrogate and the energies of the reference."""
        assert self.reaction is not None
        assert self.ts is not None
        ends = []
        for end, point in zip((self.reaction.backward, self.reaction.forward), self.ends, strict=True):
            assert end is not None
            atoms = point.atoms.copy()
            atoms.calc = self.calculator
            relaxation = replace(end.relaxation, atoms=atoms, energy=point.label.energy, fmax=point.label.fmax)
            ends.append(replace(end, relaxation=relaxation))
        self.reaction = replace(self.reaction, backward=ends[0], forward=ends[1])
        if self.product is not None:
            found = (self.ends[0].atoms, self.ends[1].atoms)
            self.connection = connects(found, self.start, self.product)
        profile = reaction_profile(self.reaction, **self.settings)
        # the fit leaves the surrogate's energies some noise, also where the reference was asked
        known = (self.ends[0], self.ts, self.ends[1])
        points = [
            replace(point, frequencies=point.frequencies.with_energy(one.label.energy))
            for point, one in zip(profile.points, known, strict=True)
        ]
        self.profile = replace(profile, points=(points[0], points[1], points[2]))


def _farthest(place: Array, start: Array) -> float:
    """Return how far the atom that moves most moves, Å."""
    return float(np.linalg.norm(place - start, axis=1).max())


def _numbers(values: Array) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
