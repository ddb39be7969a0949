"""References for the validators: from the labels of a data set, or from a method's own potential-energy surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms

from phl_ase.curvature import HessianFunction, curvature_of
from phl_ase.datasets import ReactionFrames
from phl_ase.errors import PHLError
from phl_ase.paths import Reaction, TransitionStateSearch, find_reaction, find_transition_state
from phl_ase.paths.counting import CountingHessian
from phl_ase.structures import Frame, atoms_from_frame
from phl_ase.types import ASECalculator
from phl_ase.validators import ReferencePath, ReferenceReaction, StationaryPoint

_TIGHT = 1e-3  # eV/Å, for the stationary points of a reference


class NoReference(PHLError):
    """The reference method has no such stationary point or path: a result for that reaction, not a mistake."""


def labelled_point(frame: Frame) -> StationaryPoint:
    """Return a stationary point with the labels that a frame carries."""
    return StationaryPoint(atoms_from_frame(frame), frame.energy, frame.hessian)


def labelled_reaction(frames: ReactionFrames) -> ReferenceReaction:
    """Return a reaction as a data set has it; without its end points where it does not have both."""
    ends = {"reactant": frames.reactant, "product": frames.product}
    known = {name: labelled_point(frame) for name, frame in ends.items() if frame is not None}
    ts = frames.transition_state
    return ReferenceReaction(
        frames.name, None if ts is None else labelled_point(ts), known if len(known) == len(ends) else {}
    )


def labelled_path(frames: ReactionFrames) -> ReferencePath:
    """Return the reaction path that a data set has, between its two minima.

    Raises:
        PHLError: Where the path lacks its TS, an end point or an energy.
    """
    structures = tuple(atoms_from_frame(frame) for frame in frames.path)
    energies = [frame.energy for frame in frames.path]
    places = [index for index, frame in enumerate(frames.path) if frame.kind == "ts"]
    if len(places) != 1 or None in energies or frames.reactant is None or frames.product is None:
        raise PHLError(
            f"reaction {frames.name} has no path to compare with; expected points of kind irc with irc_s and energy, "
            "a TS, a reactant and a product"
        )
    return ReferencePath(
        structures=structures,
        energies=np.array(energies, dtype=float),
        ts_index=places[0],
        reactant=labelled_point(frames.reactant),
        product=labelled_point(frames.product),
    )


@dataclass(frozen=True, eq=False)
class OwnReaction:
    """A reaction on a method's own surface, as a reference.

    Attributes:
        ts: Its TS, with Hessian.
        reaction: Its TS and end points.
        path: Its path.
        found: All that is known of it.
    """

    ts: StationaryPoint
    reaction: ReferenceReaction
    path: ReferencePath
    found: Reaction


def tight_transition_state(guess: Atoms, calculator: ASECalculator, hessian: HessianFunction) -> TransitionStateSearch:
    """Return the search for the TS of a method near a guess, as tight as paths need it, whatever became of it."""
    start = guess.copy()
    start.calc = calculator
    return find_transition_state(start, hessian, fmax=_TIGHT, diag_every_n=3)


def own_reaction(name: str, guess: Atoms, calculator: ASECalculator) -> OwnReaction:
    """Return a reaction on a method's own surface: its TS from a guess, its path, its end points.

    Args:
        name: For reports.
        guess: A structure near the TS.
        calculator: The method, an ASE calculator.

    Raises:
        NoReference: Where the method has no such TS, or its path does not lead to two different minima.
    """
    # kept: the search, the path and the reference ask for the Hessian of the same TS
    hessian = CountingHessian(curvature_of(calculator).hessian, calculator)
    ts = tight_transition_state(guess, calculator, hessian)
    if not ts.converged:
        raise NoReference(f"{name}: the reference has no TS near the guess: {ts.sentence}")
    target = StationaryPoint(ts.atoms.copy(), ts.energy, hessian(ts.atoms))  # a copy has no calculator
    found = find_reaction(ts.atoms, hessian)
    if not found.converged:
        raise NoReference(f"{name}: the reference's path does not join two minima: {found.sentence}")
    ends = (StationaryPoint(end.atoms.copy(), end.energy) for end in found.ends)
    reaction = ReferenceReaction(name, target, dict(zip(("reactant", "product"), ends, strict=True)))
    return OwnReaction(target, reaction, ReferencePath.of(found), found)
