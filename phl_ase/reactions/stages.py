"""The stages of one reaction: its transition state, the path to both minima, samples around the three, labels.

Each takes the folder of the reaction and a remembering calculator and returns a record that JSON holds. What goes wrong
is an outcome with a sentence.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from phl_ase.curvature import curvature_of
from phl_ase.paths import (
    Reaction,
    ReactionPath,
    TransitionStateSearch,
    connects,
    find_reaction,
    guess_transition_state,
    radicals,
    search,
    search_in_turn,
)
from phl_ase.paths.irc import STATIONARY_WITHIN
from phl_ase.reactions.folder import ReactionFolder, StageRecord
from phl_ase.reactions.frames import frames_of
from phl_ase.reactions.memory import Remembering
from phl_ase.reactions.samplers import around_stationary_point, displaced_structures
from phl_ase.reactions.settings import ReactionSettings
from phl_ase.reference import LabelRequest
from phl_ase.tables import counted
from phl_ase.vibrations import harmonic_analysis

AROUND = ("ts", "reactant", "product")
"""The stationary points that are sampled around."""


@dataclass(frozen=True)
class Plan:
    """Structures and labels wanted of every reaction.

    Attributes:
        settings: How its structures are found.
        request: What they are labelled with.
    """

    settings: ReactionSettings
    request: LabelRequest


def find_transition_state(folder: ReactionFolder, calculator: Remembering, plan: Plan) -> StageRecord:
    """Search the transition state from its guess, or from a path between the ends.

    Sella strategies are tried in turn until one finds a transition state, and, where both ends are given, one that
    joins them. Where none joins them, the first that was found is taken.
    """
    settings, curvature = plan.settings, curvature_of(calculator)
    guessed, *others = (folder.atoms(atoms.positions) for atoms in folder.guess.structures)
    tried = []
    for product in others:
        guess = guess_transition_state(guessed, product, calculator, method=settings.guess)
        climbed = ", climbed as an elastic band" if settings.guess == "neb" else ""
        image = f"image {guess.index + 1} of {len(guess.path)} of the {guess.method} path"
        tried.append(f"guess: {image}{climbed}, {counted(guess.force_calls, 'gradient')}")
        guessed = guess.atoms
    start = folder.atoms(guessed.positions, calculator)
    largest = float(np.linalg.norm(start.get_forces(), axis=1).max())
    if largest < STATIONARY_WITHIN and harmonic_analysis(start, curvature.hessian(start)).n_imaginary == 0:
        sentence = f"the guess is a minimum (largest force {largest:.2g} eV/Å, no imaginary mode): give one between two"
        return {"outcome": "minimum", "sentence": "; ".join([*tried, sentence]), "frames": []}

    def attempt(strategy: str, internal: bool | None) -> tuple[TransitionStateSearch, int]:
        limits: dict[str, Any] = {"fmax": settings.ts_fmax, "max_steps": settings.ts_steps}
        found = search(start, strategy, curvature, internal=internal, **limits)
        coordinates = "internal" if found.internal else "Cartesian"
        tried.append(
            f"{strategy}, {coordinates}: {found.sentence}, {found.steps} steps, "
            f"{found.force_calls + found.hidden_force_calls} gradients"
        )
        if not found.converged or not folder.guess.is_pair:
            return found, 0 if found.converged else 2
        # the next stage follows the same path again, from memory
        reaction = _reaction(folder, calculator, settings, found.atoms.positions)
        (wrong, _), _ = _connection(folder, reaction)
        if reaction.converged and not wrong:
            return found, 0
        tried.append(f"its path: {wrong if reaction.converged else reaction.outcome}")
        return found, 1

    searches = search_in_turn(settings.ladder(curvature.source), attempt, itemgetter(1))
    if (found := searches[0][0]).converged:
        frame = _frame(folder, calculator, found.atoms.positions, "ts", hessian=True, irc_s=0.0)
        return {"outcome": "converged", "sentence": "; ".join(tried), "frames": [frame]}
    return {"outcome": searches[-1][0].outcome, "sentence": "; ".join(tried), "frames": []}


def _reaction(folder: ReactionFolder, calculator: Remembering, settings: ReactionSettings, positions: Any) -> Reaction:
    """Return the path both ways from a transition state, and the minima at its ends."""
    return find_reaction(
        folder.atoms(positions, calculator),
        method=settings.irc_method,
        step=settings.irc_step,
        fmax=settings.irc_fmax,
        max_points=settings.irc_max_points,
        relax_fmax=settings.relax_fmax,
        relax_steps=settings.relax_steps,
    )


def follow_path(folder: ReactionFolder, calculator: Remembering, plan: Plan) -> StageRecord:
    """Follow the path from the transition state, its ends relaxed and identified, points along it."""
    settings = plan.settings
    reaction = _reaction(folder, calculator, settings, folder.stationary()["ts"]["positions"])
    connection, flipped = _connection(folder, reaction)
    reaction = reaction.turned() if flipped else reaction
    if apart := _radicals(folder, reaction):
        sentence = f"an end of the path is {apart}, radicals, which a closed-shell method does not describe"
        return {"outcome": "radicals", "sentence": sentence, "frames": []}
    frames = []
    lengths = reaction.path.arc_length
    ends = {"reactant": (reaction.backward, float(lengths[0])), "product": (reaction.forward, float(lengths[-1]))}
    for kind, (end, length) in ends.items():
        if end is not None and end.is_minimum:
            found = _frame(folder, calculator, end.atoms.positions, kind, hessian=True, irc_s=length)
            frames.append({**found, "n_imaginary": end.n_imaginary, "fragments": end.fragments})
    for index in spread(reaction.path, settings.irc_points):
        point, length = reaction.path.structures[index], float(reaction.path.arc_length[index])
        frames.append(_frame(folder, calculator, point.positions, "irc", irc_s=length))
    return {
        "outcome": connection[0] if reaction.converged and connection[0] else reaction.outcome,
        "sentence": "; ".join(filter(None, (reaction.sentence, connection[1]))),
        "breaks": reaction.broken,
        "makes": reaction.made,
        "barriers_eV": (reaction.barrier_forward, reaction.barrier_back),
        "force_calls": reaction.force_calls,
        "arc_length": reaction.path.arc_length,
        "energies": reaction.path.energies,
        "frames": frames,
    }


def _radicals(folder: ReactionFolder, reaction: Reaction) -> str:
    identity = folder.guess.identity
    if identity["charge"] or identity["multiplicity"] != 1:
        return ""
    ends = (end for end in (reaction.backward, reaction.forward) if end is not None)
    return next(filter(None, (radicals(end.atoms) for end in ends)), "")


def _connection(folder: ReactionFolder, reaction: Reaction) -> tuple[tuple[str, str], bool]:
    """Return what is wrong with the ends of a path, a sentence on it, and whether it runs from product to reactant."""
    if reaction.backward is None or reaction.forward is None:
        return ("", ""), False
    ends = (reaction.backward.atoms, reaction.forward.atoms)
    if folder.guess.is_pair:
        found = connects(ends, *(folder.atoms(atoms.positions) for atoms in folder.guess.structures))
        return ("" if found.connected else "other ends", found.sentence), found.flipped
    return ("", ""), False


def spread(found: ReactionPath, points: int) -> list[int]:
    """Points equally spaced in arc length on either side, between the transition state and the end.

    Args:
        found: The path.
        points: On either side; fewer where the path has fewer.
    """
    chosen: set[int] = set()
    for index in (0, len(found.arc_length) - 1):
        wanted = found.arc_length[index] * np.arange(1, points + 1) / (points + 1)
        chosen |= {int(np.abs(found.arc_length - length).argmin()) for length in wanted}
    return sorted(chosen - {found.ts_index})


def draw_samples(folder: ReactionFolder, calculator: Remembering, plan: Plan) -> StageRecord:
    """Normal-mode samples around the stationary points at each temperature, random displacements of the TS."""
    settings, stationary = plan.settings, folder.stationary()
    frames: list[StageRecord] = []
    failures = []
    for kind in AROUND:
        if kind not in stationary:
            failures.append(f"{kind}: there is none to sample around")
            continue
        centre = stationary[kind]
        analysis = harmonic_analysis(folder.atoms(centre["positions"]), np.array(centre["hessian"]))
        rng = _random_numbers(folder, kind, settings)
        options: dict[str, Any] = {"count": settings.samples, "softest": settings.softest}
        for kelvin in settings.temperatures:
            drawn = around_stationary_point(analysis, calculator, centre["energy"], kelvin, rng, **options)
            failures += [f"{kind} at {reason}" for reason in drawn.refused]
            more: dict[str, Any] = {"around": kind, "temperature": kelvin}
            frames += [_frame(folder, calculator, atoms.positions, "nms", **more) for atoms in drawn.frames]
    ts, rng = folder.atoms(stationary["ts"]["positions"]), _random_numbers(folder, "displaced", settings)
    for rms in settings.displacements:
        drawn = displaced_structures(ts, rms, rng, count=settings.samples)
        failures += [f"displaced by {reason}" for reason in drawn.refused]
        more = {"around": "ts", "displacement": rms}
        frames += [_frame(folder, calculator, atoms.positions, "displaced", **more) for atoms in drawn.frames]
    wanted = (len(AROUND) * len(settings.temperatures) + len(settings.displacements)) * settings.samples
    outcome = "converged" if len(frames) == wanted else "incomplete"
    return {"outcome": outcome, "sentence": f"{len(frames)} of {wanted}", "failures": failures, "frames": frames}


def _random_numbers(folder: ReactionFolder, name: str, settings: ReactionSettings) -> np.random.Generator:
    """Random numbers of this reaction and purpose alone."""
    return np.random.default_rng([zlib.crc32(f"{folder.name} {name}".encode()), settings.seed])


def label_frames(folder: ReactionFolder, calculator: Remembering, plan: Plan) -> StageRecord:
    """Label all frames as asked; the labels themselves stay in the memory."""
    frames = frames_of(folder)
    sample, errors, failures = plan.request.sample(len(frames)), [], {}
    for place, frame in enumerate(frames):
        labelled = plan.request.label(frame, calculator, estimate_error=place in sample)
        if calculator.memory.trouble is not None:
            raise calculator.memory.trouble
        if labelled.failure is not None:
            failures[str(place)] = f"{frame.kind}: {labelled.failure.outcome}: {labelled.failure.reason}"
        if labelled.hvp_error is not None:
            errors.append(labelled.hvp_error)
    done = len(frames) - len(failures)
    return {
        "outcome": "converged" if not failures else "incomplete",
        "sentence": f"{done} of {len(frames)} frames",
        "hvp_errors": errors,
        "failures": failures,
    }


def _frame(
    folder: ReactionFolder, calculator: Remembering, positions: Any, kind: str, *, hessian: bool = False, **more: Any
) -> StageRecord:
    """Return a structure with its energy and forces, and its Hessian where wanted."""
    atoms = folder.atoms(positions, calculator)
    frame = {"kind": kind, "positions": atoms.positions, "forces": atoms.get_forces(), **more}
    frame["energy"] = atoms.get_potential_energy()
    if hessian:
        matrix = curvature_of(calculator).hessian(atoms)
        frame |= {"hessian": matrix, "wavenumbers": harmonic_analysis(atoms, matrix).wavenumbers}
    return frame


RUN: Mapping[str, Callable[[ReactionFolder, Remembering, Plan], StageRecord]] = {
    "ts": find_transition_state,
    "path": follow_path,
    "samples": draw_samples,
    "labels": label_frames,
}
"""Stage -> what does it."""
