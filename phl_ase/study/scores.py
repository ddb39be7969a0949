"""Everything that is asked of one trained model: accuracy, frequencies of TSs, a TS search and its barrier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from phl_ase.datasets import MemoryDataset, reactions_of
from phl_ase.errors import PHLError
from phl_ase.paths import displaced
from phl_ase.results import Report, plain
from phl_ase.scoring import STATIONARY
from phl_ase.structures import Frame
from phl_ase.structures.atoms import atoms_from_frame
from phl_ase.study.references import labelled_point, labelled_reaction
from phl_ase.validators import (
    ReferenceCurvature,
    ReferenceReaction,
    funnels,
    validate_accuracy,
    validate_frequencies,
    validate_transition_state,
)

Array = np.ndarray

START_RMS = 0.1
"""How far from the TS a search starts: RMS displacement, Å."""

STARTS = 3
"""Searches for every TS of the funnel, from different starts."""

FUNNEL_STEPS = 100
"""Most steps of a search of the funnel."""

_MOST_POINTS = 2000  # of a parity plot: enough to see, few enough for a file


@dataclass(frozen=True)
class Questions:
    """What is asked of every model alike.

    Attributes:
        frames: Test frames.
        stationary: All frames of the data, for the stationary points of each reaction.
        transition_states: The TSs among the test frames; each is searched from ``STARTS`` displaced starts.
        search: The TS that a search should find; ``None`` for no search.
        ends: End points of that reaction: name -> frame.
        seed: Of the displaced start.
    """

    frames: Sequence[Frame]
    stationary: Sequence[Frame]
    transition_states: Sequence[Frame]
    search: Frame | None = None
    ends: dict[str, Frame] | None = None
    seed: int = 0


def score(calculator: Any, name: str, questions: Questions) -> dict[str, Any]:
    """Ask one model everything.

    Args:
        calculator: A ``PHLCalculator``.
        name: How reports name the model.
        questions: What to ask.

    Returns:
        Plain values: ``accuracy`` (a report), ``frequencies`` (a report for each TS), ``search`` (a report or
        ``None``), ``searches`` (a report for each start at each TS) and their ``funnel``, ``parity`` (label ->
        ``reference`` and ``predicted``, in eV, eV/Å, eV/Å²).

    Raises:
        PHLError: When the model cannot answer (NaN or infinity).
    """
    structures = [atoms_from_frame(frame) for frame in questions.frames]
    predictions = calculator.evaluate(structures, ("energy", "forces", "hessian"))
    accuracy = validate_accuracy(
        questions.frames, predictions, system="test frames", potential=name, stationary=questions.stationary
    )
    frequencies = [
        validate_frequencies(
            ReferenceCurvature(atoms_from_frame(frame), frame.hessian),
            calculator,
            system=frame.reaction,
            potential=name,
        )
        for frame in questions.transition_states
        if frame.hessian is not None
    ]
    search = None if questions.search is None else _search(calculator, name, questions.search, questions)
    searches = _searches(calculator, name, questions)
    return plain(
        {
            "accuracy": accuracy,
            "frequencies": frequencies,
            "search": search,
            "searches": searches,
            # of one model, searched in one way
            "funnel": vars(funnels(searches)[0]) if searches else None,
            "parity": parity(questions.frames, predictions),
        }
    )


def _search(calculator: Any, name: str, target: Frame, questions: Questions) -> Report:
    ends = {label: labelled_point(end) for label, end in (questions.ends or {}).items()}
    reaction = ReferenceReaction(target.reaction, labelled_point(target), ends)
    return _from_displaced(calculator, name, reaction, questions.seed)


def _searches(calculator: Any, name: str, questions: Questions) -> list[Report]:
    """Searches for the TSs that were not trained on, where the data has both ends of the reaction."""
    stationary = MemoryDataset([f for f in questions.stationary if f.kind in STATIONARY])
    wanted = dict.fromkeys(frame.reaction for frame in questions.transition_states)
    reactions = [labelled_reaction(frames) for frames in reactions_of(stationary, wanted).values()]
    return [
        _from_displaced(calculator, name, reaction, seed, max_steps=FUNNEL_STEPS)
        for reaction in reactions
        if reaction.ends
        for seed in range(STARTS)
    ]


def _from_displaced(calculator: Any, name: str, reaction: ReferenceReaction, seed: int, **options: Any) -> Report:
    assert reaction.transition_state is not None
    return validate_transition_state(
        displaced(reaction.transition_state.atoms, START_RMS, seed),
        calculator,
        reaction,
        potential=name,
        details={"start": f"{START_RMS} Å RMS from the TS, seed {seed}"},
        **options,
    )


def parity(frames: Sequence[Frame], predictions: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Reference and prediction side by side, thinned evenly where there are many.

    Energies are counted from the lowest reference energy of the same composition among the frames; of a Hessian the
    upper triangle counts.

    Returns:
        ``energy`` (eV), ``forces`` (eV/Å), ``hessian`` (eV/Å²) -> ``reference`` and ``predicted``, equally long.
    """
    lowest: dict[tuple[int, ...], float] = {}
    for frame in frames:
        if frame.energy is not None:
            key = tuple(sorted(frame.numbers.tolist()))
            lowest[key] = min(lowest.get(key, np.inf), frame.energy)
    columns: dict[str, tuple[list[Array], list[Array]]] = {k: ([], []) for k in ("energy", "forces", "hessian")}
    for frame, predicted in zip(frames, predictions, strict=True):
        zero = lowest.get(tuple(sorted(frame.numbers.tolist())), 0.0)
        for label, pair in columns.items():
            reference = getattr(frame, label)
            if reference is not None and predicted.get(label) is not None:
                for side, value in zip(pair, (reference, predicted[label]), strict=True):
                    side.append(_flat(label, np.asarray(value), zero))
    result = {}
    for label, pair in columns.items():
        if pair[0]:
            both = [np.concatenate(side) for side in pair]
            step = -(-len(both[0]) // _MOST_POINTS)
            reference_side, predicted_side = ([float(f"{v:.6g}") for v in side[::step]] for side in both)
            result[label] = {"reference": reference_side, "predicted": predicted_side}
    return result


def _flat(label: str, value: Array, zero: float) -> Array:
    if label == "energy":
        return np.atleast_1d(value - zero)
    return value[np.triu_indices(len(value))] if label == "hessian" else value.ravel()


def linear_end_names(reactant: Frame, product: Frame) -> dict[str, Frame]:
    """Names for the ends of HCN ⇌ HNC, by which atom the hydrogen is nearer to.

    Raises:
        PHLError: When the ends are not HCN and HNC.
    """
    named = {}
    for frame in (reactant, product):
        atoms: Atoms = atoms_from_frame(frame)
        hydrogen, carbon, nitrogen = (int(np.nonzero(atoms.numbers == z)[0][0]) for z in (1, 6, 7))
        to_carbon = atoms.get_distance(hydrogen, carbon) < atoms.get_distance(hydrogen, nitrogen)
        named["HCN" if to_carbon else "HNC"] = frame
    if len(named) != 2:
        raise PHLError("the two ends of the reaction are the same isomer; expected HCN and HNC")
    return dict(sorted(named.items()))
