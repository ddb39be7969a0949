"""Results of following a reaction path: the path, and the outcome of each of its two directions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ase import Atoms

from phl_ase.types import Array
from phl_ase.vibrations import HarmonicAnalysis

PATH_OUTCOMES: dict[str, str] = {
    "converged": "the path ends where the forces are below the threshold and the curvature along it is positive",
    "not converged": "the points ran out before the path came to a minimum",
    "exploded": "an energy, force, Hessian or position became infinite, NaN or absurd",
    "failed": "the integrator or the calculator stopped with an error",
    "not stationary": "the structure to start from is no stationary point: its forces are too large",
    "no transition state": "the structure to start from does not have exactly one imaginary mode",
}
"""Outcome of one direction, or of the whole path, -> what it means."""


@dataclass(frozen=True)
class Direction:
    """The result of one direction of a path.

    Attributes:
        outcome: A name in ``PATH_OUTCOMES``.
        steps: Points beside the transition state.
        force_calls: Geometries at which energy and forces were computed.
        hessian_calls: Hessians computed, but for the one at the transition state that both directions share.
        seconds: Wall time.
        first_step_overlap: Cosine between the first step and the imaginary mode, mass-weighted, with translations and
            rotations left in: 1 for a step purely along the mode; NaN without a step.
        reason: Why it failed, or why another integrator than the one asked for followed it; empty otherwise.
        traceback: Where it failed, as Python prints it; empty otherwise.
        method: The integrator that followed it; empty where none did.
    """

    outcome: str
    steps: int = 0
    force_calls: int = 0
    hessian_calls: int = 0
    seconds: float = 0.0
    first_step_overlap: float = float("nan")
    reason: str = ""
    traceback: str = ""
    method: str = ""

    @property
    def converged(self) -> bool:
        """Return whether the outcome is ``"converged"``."""
        return self.outcome == "converged"

    @property
    def sentence(self) -> str:
        """Return what the outcome means, with the reason where there is one."""
        return f"{PATH_OUTCOMES[self.outcome]} ({self.reason})" if self.reason else PATH_OUTCOMES[self.outcome]


@dataclass(frozen=True, eq=False)
class ReactionPath:
    """A path from the backward end through the transition state to the forward end.

    Forward is the direction in which the largest component of the imaginary mode (mass-weighted) is positive: a
    convention, chemistry does not know it.

    Attributes:
        structures: The points in order, copies of the TS without a calculator.
        energies: ``(m,)`` eV.
        arc_length: ``(m,)`` √amu·Å from the TS, negative backward; see :func:`phl_ase.paths.arc_length.arc_length`.
        ts_index: Which point is the TS.
        backward: What became of the backward direction.
        forward: What became of the forward direction.
        method: The integrator asked for, a key of ``phl_ase.paths.irc.INTEGRATORS``; see also ``Direction.method``.
        curvature: Where Hessians came from: ``"hessian function"``, or what ``phl_ase.curvature`` calls its source.
        analysis: Harmonic analysis of the TS; ``None`` where its Hessian could not be had.
        hessian_calls: All Hessians computed, the one at the TS among them.
        force_calls: All geometries at which energy and forces were computed; differences for Hessians not among them.
    """

    structures: tuple[Atoms, ...]
    energies: Array
    arc_length: Array
    ts_index: int
    backward: Direction
    forward: Direction
    method: str
    curvature: str
    analysis: HarmonicAnalysis | None
    hessian_calls: int
    force_calls: int

    def turned(self) -> ReactionPath:
        """Return the same path from its other end."""
        return replace(
            self,
            structures=self.structures[::-1],
            energies=self.energies[::-1],
            arc_length=-self.arc_length[::-1],
            ts_index=len(self.structures) - 1 - self.ts_index,
            backward=self.forward,
            forward=self.backward,
        )

    @property
    def converged(self) -> bool:
        """Return whether both directions converged."""
        return self.backward.converged and self.forward.converged

    @property
    def outcome(self) -> str:
        """``"converged"`` when both directions are; otherwise the outcome of the first that is not."""
        return next((d.outcome for d in (self.backward, self.forward) if not d.converged), "converged")

    @property
    def sentence(self) -> str:
        """Return what became of the path."""
        if self.backward.sentence == self.forward.sentence:
            return f"both directions: {self.backward.sentence}"
        return f"backward: {self.backward.sentence}; forward: {self.forward.sentence}"

    @property
    def seconds(self) -> float:
        """Wall time of both directions."""
        return self.backward.seconds + self.forward.seconds

    @property
    def ends(self) -> tuple[Atoms, Atoms]:
        """The last structure backward and the last one forward."""
        return self.structures[0], self.structures[-1]
