"""A whole reaction from its transition state: the path, its two minima, the barriers between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike

import numpy as np
from ase import Atoms

from phl_ase.curvature import HessianFunction, curvature_of
from phl_ase.errors import Attempt, PHLError, attempt
from phl_ase.paths.counting import CountingCalculator, CountingHessian
from phl_ase.paths.end_points import changed_bonds, fragments, molecules, same_structure
from phl_ase.paths.irc import follow_irc
from phl_ase.paths.optimisation import Relaxation, relax
from phl_ase.paths.reaction_path import PATH_OUTCOMES, ReactionPath
from phl_ase.tables import counted
from phl_ase.vibrations import HarmonicAnalysis, harmonic_analysis

REACTION_OUTCOMES: dict[str, str] = {
    **{name: sentence for name, sentence in PATH_OUTCOMES.items() if name != "converged"},
    "converged": "the path leads both ways to two minima",
    "same end": "both directions reach the same structure: no reaction",
    "not relaxed": "an end of the path could not be relaxed",
    "no minimum": "an end of the path relaxed to a structure with imaginary modes",
}
"""Outcome of a reaction -> what it means."""

# a path may run along a ridge, and a complex may come to rest on a saddle of its floating molecules: it is then pushed
# along the lowest mode, at most this often, to the first of these places (the atom that moves most, Å) of lower energy
_PUSHES, _PLACES = 3, (0.05, -0.05, 0.01, -0.01)

# beside a flat saddle forces are below the threshold of the relaxation: it stops where it was pushed to
_TIGHTER = 0.1


@dataclass(frozen=True, eq=False)
class ReactionEnd:
    """One end of a reaction: the end of the path, relaxed.

    Attributes:
        relaxation: What became of the relaxation, the last where it was pushed off saddle points; counts are of all.
        analysis: Harmonic analysis of the relaxed structure; ``None`` where the relaxation or its Hessian failed.
        fragments: Number of molecules.
        pushes: How often it was pushed off a saddle point.
        reason: Why there is no analysis; empty otherwise.
        traceback: Where it failed, as Python prints it; empty otherwise.
    """

    relaxation: Relaxation
    analysis: HarmonicAnalysis | None
    fragments: int
    pushes: int = 0
    reason: str = ""
    traceback: str = ""

    @property
    def atoms(self) -> Atoms:
        """The relaxed structure, with the calculator."""
        return self.relaxation.atoms

    @property
    def energy(self) -> float:
        """Its energy, eV; NaN where the relaxation did not converge."""
        return self.relaxation.energy if self.relaxation.converged else float("nan")

    @property
    def n_imaginary(self) -> int | None:
        """Number of imaginary modes; ``None`` where it is not known."""
        return None if self.analysis is None else self.analysis.n_imaginary

    @property
    def is_minimum(self) -> bool:
        """Return whether it relaxed to a structure without imaginary modes."""
        return self.relaxation.converged and self.n_imaginary == 0


@dataclass(frozen=True, eq=False)
class Reaction:
    """A reaction from the backward minimum over the transition state to the forward minimum.

    Attributes:
        path: The path, with the TS and what became of both directions.
        backward: The backward end; ``None`` where that direction has no points.
        forward: The forward end; likewise.
        broken: Bonds that are at the backward end only, as ``"C0-H2"``.
        made: Bonds that are at the forward end only.
        force_calls: Geometries at which energy and forces were computed; differences for Hessians not among them.
        hessian_calls: Hessians computed.
    """

    path: ReactionPath
    backward: ReactionEnd | None
    forward: ReactionEnd | None
    broken: tuple[str, ...]
    made: tuple[str, ...]
    force_calls: int
    hessian_calls: int

    def turned(self) -> Reaction:
        """Return the same reaction from its other end."""
        turned = replace(self, path=self.path.turned(), broken=self.made, made=self.broken)
        return replace(turned, backward=self.forward, forward=self.backward)

    @property
    def traceback(self) -> str:
        """Return where the first of its calculations that failed did, as Python prints it; empty where none did."""
        places = [direction.traceback for direction in (self.path.backward, self.path.forward)]
        return next(filter(None, [*places, *(end.traceback for end in self.ends)]), "")

    @property
    def ends(self) -> tuple[ReactionEnd, ...]:
        """The ends that there are."""
        return tuple(end for end in (self.backward, self.forward) if end is not None)

    @property
    def outcome(self) -> str:
        """A name in ``REACTION_OUTCOMES``."""
        if not self.path.converged:
            return self.path.outcome
        if not all(end.relaxation.converged and end.analysis is not None for end in self.ends):
            return "not relaxed"
        if not all(end.is_minimum for end in self.ends):
            return "no minimum"
        return "same end" if same_structure(*(end.atoms for end in self.ends)) else "converged"

    @property
    def converged(self) -> bool:
        """Return whether the path leads both ways to minima, two different ones."""
        return self.outcome == "converged"

    @property
    def sentence(self) -> str:
        """Return what became of the reaction, and what it does."""
        if not self.path.converged:
            return self.path.sentence
        reasons = [end.reason or ("" if end.relaxation.converged else end.relaxation.sentence) for end in self.ends]
        reasons += [counted(end.n_imaginary, "imaginary mode") for end in self.ends if end.n_imaginary]
        reasons += [
            f"the {side} end rested on a saddle point and was pushed off it ({end.pushes} of at most {_PUSHES} pushes)"
            for side, end in (("backward", self.backward), ("forward", self.forward))
            if end is not None and end.pushes
        ]
        ends = [molecules(end.atoms) for end in self.ends]
        joined = f"{ends[0]} to {ends[1]}: " if len(set(ends)) == 2 else ""
        change = f"{joined}breaks {', '.join(self.broken) or 'no bond'}, makes {', '.join(self.made) or 'no bond'}"
        ways = [direction.reason for direction in (self.path.backward, self.path.forward) if direction.reason]
        return "; ".join([REACTION_OUTCOMES[self.outcome], *filter(None, reasons), change, *dict.fromkeys(ways)])

    @property
    def barrier_forward(self) -> float:
        """E(TS) − E(backward minimum), eV; NaN where either is not known."""
        return self._ts_energy - _energy(self.backward)

    @property
    def barrier_back(self) -> float:
        """E(TS) − E(forward minimum), eV; NaN where either is not known."""
        return self._ts_energy - _energy(self.forward)

    @property
    def reaction_energy(self) -> float:
        """E(forward minimum) − E(backward minimum), eV; NaN where either is not known."""
        return _energy(self.forward) - _energy(self.backward)

    @property
    def _ts_energy(self) -> float:
        return float(self.path.energies[self.path.ts_index])


def find_reaction(
    ts: Atoms,
    hessian: HessianFunction | None = None,
    *,
    method: str = "sella",
    step: float = 0.1,
    fmax: float = 0.01,
    max_points: int = 300,
    relax_fmax: float = 1e-3,
    relax_steps: int = 1000,
    trajectory: str | PathLike[str] | None = None,
) -> Reaction:
    """Follow a reaction from its transition state to the minima on both sides.

    Args:
        ts: The transition state of its calculator, with that calculator; it is not changed.
        hessian: ``hessian(atoms) -> (3n, 3n)`` eV/Å²; without one, the calculator's own, else differences of forces.
        method: Integrator; see :func:`phl_ase.paths.irc.follow_irc`.
        step: Length of its steps, √amu·Å.
        fmax: Where the path ends: threshold for the largest force on an atom, eV/Å.
        max_points: Most points of one direction.
        relax_fmax: Threshold for the relaxation of the ends, eV/Å: tight, for soft modes.
        relax_steps: Most steps of a relaxation.
        trajectory: An ASE trajectory of the path.

    Returns:
        The reaction, whatever became of it. Ends are relaxed where a direction has points, converged or not.

    Raises:
        PHLError: For a mistake of the caller; see :func:`phl_ase.paths.irc.follow_irc`.
    """
    if not (relax_fmax > 0 and relax_steps >= 1):
        raise PHLError(f"relax_fmax is {relax_fmax!r} eV/Å and relax_steps {relax_steps!r}; expected positive numbers")
    path = follow_irc(ts, hessian, method=method, step=step, fmax=fmax, max_points=max_points, trajectory=trajectory)
    counted = CountingHessian(hessian or curvature_of(ts.calc).hessian, ts.calc)
    sides: list[ReactionEnd | None] = []
    for atoms, direction in zip(path.ends, (path.backward, path.forward), strict=True):
        if not direction.steps:
            sides.append(None)
            continue
        start = atoms.copy()
        start.calc = ts.calc
        found, analysed, pushes = relax_to_minimum(start, counted, fmax=relax_fmax, steps=relax_steps)
        sides.append(
            ReactionEnd(found, analysed.value, fragments(found.atoms), pushes, analysed.reason, analysed.traceback)
        )
    backward, forward = sides
    ends = [end for end in (backward, forward) if end is not None]
    broken, made = changed_bonds(*(end.atoms for end in ends)) if len(ends) == 2 else ((), ())
    return Reaction(
        path=path,
        backward=backward,
        forward=forward,
        broken=broken,
        made=made,
        force_calls=path.force_calls + sum(end.relaxation.force_calls for end in ends),
        hessian_calls=path.hessian_calls + counted.calls,
    )


def relax_to_minimum(
    atoms: Atoms, hessian: HessianFunction | None = None, *, fmax: float = 1e-3, steps: int = 500
) -> tuple[Relaxation, Attempt[HarmonicAnalysis], int]:
    """Relax a structure to a minimum: off saddle points, where a relaxation keeps the symmetry of its start.

    Args:
        atoms: The start, with a calculator; it is not changed.
        hessian: ``hessian(atoms) -> (3n, 3n)`` eV/Å²; without one, the calculator's own, else differences of forces.
        fmax: Threshold for the largest force on an atom, eV/Å.
        steps: Most steps of a relaxation.

    Returns:
        The last relaxation, its counts those of all; the analysis of its end, or why there is none; and how often it
        was pushed off a saddle point. Imaginary modes are left where three pushes do not lead to a minimum.
    """
    start, function = atoms, hessian or curvature_of(atoms.calc).hessian
    counter = CountingCalculator(atoms.calc)
    calls = taken = pushes = 0
    seconds = 0.0

    def analyse() -> HarmonicAnalysis:
        return harmonic_analysis(relaxation.atoms, function(relaxation.atoms))

    while True:
        relaxation = relax(start, fmax * _TIGHTER if pushes else fmax, steps)
        if relaxation.outcome == "not converged" and relaxation.fmax <= fmax:  # the calculator's noise is larger
            relaxation = replace(relaxation, outcome="converged")
        calls, taken = calls + relaxation.force_calls, taken + relaxation.steps
        seconds += relaxation.seconds
        analysed: Attempt[HarmonicAnalysis] = Attempt(None, traceback=relaxation.traceback)
        if relaxation.converged:
            analysed = attempt(analyse)
        analysis = analysed.value
        if analysis is None or analysis.n_imaginary == 0 or pushes == _PUSHES:
            break
        pushes += 1
        mode = analysis.displacements[0] / np.linalg.norm(analysis.displacements[0], axis=1).max()
        for place in _PLACES:
            start = relaxation.atoms.copy()
            start.positions[analysis.indices] += place * mode
            start.calc = counter
            energy = attempt(start.get_potential_energy).value
            if energy is not None and energy < relaxation.energy:
                break
        start.calc = atoms.calc
    relaxation = replace(relaxation, force_calls=calls + counter.calls, steps=taken, seconds=seconds)
    return relaxation, analysed, pushes


def _energy(end: ReactionEnd | None) -> float:
    return float(np.nan) if end is None else end.energy
