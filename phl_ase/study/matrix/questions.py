"""What every model of a study is asked: one function for each validator, and one line in ``VALIDATORS``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from phl_ase.curvature import curvature_of
from phl_ase.datasets import BaseDataset, ReactionFrames, reactions_of, read_images
from phl_ase.errors import PHLError
from phl_ase.paths import displaced
from phl_ase.results import Report, provenance
from phl_ase.scoring import STATIONARY, geometries
from phl_ase.structures import Frame, atoms_from_frame
from phl_ase.study.matrix.asked import ValidatorsSection
from phl_ase.study.references import labelled_path, labelled_reaction, tight_transition_state
from phl_ase.study.scores import parity
from phl_ase.training import RunData
from phl_ase.validators import (
    ReferenceCurvature,
    ReferencePath,
    validate_accuracy,
    validate_frequencies,
    validate_irc,
    validate_relaxed_frequencies,
    validate_transition_state,
)


@dataclass(frozen=True, eq=False)
class Asked:
    """What one model is asked.

    Attributes:
        name: How reports name the model.
        dataset: Where the reactions are.
        data: The model's frames of all three parts.
        settings: Of the validators.
    """

    name: str
    dataset: BaseDataset
    data: RunData
    settings: ValidatorsSection

    def facts(self, reaction: ReactionFrames, frame: Frame, **more: Any) -> dict[str, Any]:
        """What the provenance says of a frame: its reaction and in which part of the data it is."""
        return {"reaction": reaction.name, "part": self._part.get(frame.frame_id, "left out"), **more}

    @cached_property
    def _part(self) -> dict[int, str]:
        parts = ("train", "valid", "test")
        return {frame.frame_id: part for part in parts for frame in getattr(self.data, part)}

    @cached_property
    def stationary(self) -> list[Frame]:
        """All stationary points of the data."""
        return self.dataset.frames(np.nonzero(np.isin(self.dataset.kinds, STATIONARY))[0])

    @cached_property
    def reactions(self) -> list[ReactionFrames]:
        """Reactions with a TS and at least one test frame; of these those that the settings name, where they do.

        Raises:
            PHLError: For a reaction that the data do not have.
        """
        if not any(self.dataset.reactions):
            return []
        tested = {frame.reaction for frame in self.data.test}
        found = reactions_of(self.dataset, self.settings.reactions or None).values()
        return [one for one in found if one.name in tested and one.transition_state is not None]


def accuracy(calculator: Any, asked: Asked) -> list[Report]:
    """Errors of the test frames, each with its reaction, region and place in the data."""
    frames = list(asked.data.test)
    if not frames:
        raise PHLError("the split leaves nothing to test with")
    predictions = calculator.evaluate([atoms_from_frame(f) for f in frames], ("energy", "forces", "hessian"))
    report = validate_accuracy(
        frames, predictions, system="test frames", potential=asked.name, stationary=asked.stationary
    )
    return [dataclasses.replace(report, arrays={**report.arrays, **_of_frames(frames), **_parity(frames, predictions)})]


def _of_frames(frames: Sequence[Frame]) -> dict[str, Any]:
    """Which frames, for pairing them with those of other models."""
    groups = geometries(frames)
    nothing = np.zeros(len(frames), dtype=bool)
    return {
        "frame_id": np.array([frame.frame_id for frame in frames]),
        "reaction": np.array([frame.reaction for frame in frames]),
        **{f"is_{region}": groups.get(region, nothing).astype(int) for region in ("near", "far")},
    }


def _parity(frames: Sequence[Frame], predictions: Any) -> dict[str, Any]:
    return {
        f"parity_{label}_{side}": np.array(values)
        for label, pair in parity(frames, predictions).items()
        for side, values in pair.items()
    }


def frequencies(calculator: Any, asked: Asked) -> list[Report]:
    """Wavenumbers at labelled stationary points, at the reference's structure and, if asked for, the model's own."""
    settings = asked.settings.frequencies
    ways: list[Callable[..., Report]] = [validate_frequencies]
    ways += [validate_relaxed_frequencies] if settings.relaxed else []
    reports = []
    for reaction in asked.reactions:
        frames = {"reactant": reaction.reactant, "product": reaction.product, "ts": reaction.transition_state}
        for kind in settings.kinds:
            frame = frames[kind]
            if frame is None or frame.hessian is None:
                continue
            reference = ReferenceCurvature(atoms_from_frame(frame), frame.hessian, kind="stationary")
            details = asked.facts(reaction, frame, kind=kind)
            for way in ways:
                named = {"system": f"{reaction.name} {kind}", "potential": asked.name}
                make = partial(way, reference, calculator, **named, details=details)
                reports.append(_guarded(make, **named, validator="frequencies", details=details))
    return reports


def searches(calculator: Any, asked: Asked) -> list[Report]:
    """TS searches from displaced TSs."""
    settings = asked.settings.ts
    reports = []
    for reaction in asked.reactions:
        target = _ts(reaction)
        for seed in range(settings.seed, settings.seed + settings.starts):
            said = f"{settings.displacement:g} Å RMS from the TS, seed {seed}"
            details = asked.facts(reaction, target, start=said)
            make = partial(
                validate_transition_state,
                displaced(atoms_from_frame(target), settings.displacement, seed),
                calculator,
                labelled_reaction(reaction),
                potential=asked.name,
                way=settings.way,
                follow=settings.follow,
                max_steps=settings.max_steps,
                details=details,
            )
            named = {"system": reaction.name, "potential": asked.name}
            reports.append(_guarded(make, **named, validator="transition state", details=details))
    return reports


def paths(calculator: Any, asked: Asked) -> list[Report]:
    """Reaction paths from the model's own TSs, of the reactions that have one to compare with."""
    reports = []
    for reaction in asked.reactions:
        try:
            reference = labelled_path(reaction)
        except PHLError:
            continue  # no path in the data
        details = asked.facts(reaction, _ts(reaction))
        named = {"system": reaction.name, "potential": asked.name}
        make = partial(_path, calculator, asked, reaction, reference, details)
        reports.append(_guarded(make, **named, validator="irc", details=details))
    return reports


def _path(
    calculator: Any, asked: Asked, reaction: ReactionFrames, reference: ReferencePath, details: Mapping[str, Any]
) -> Report:
    """One path; where the model has no TS, a report that says so."""
    hessian = curvature_of(calculator).hessian
    ts = tight_transition_state(atoms_from_frame(_ts(reaction)), calculator, hessian)
    if not ts.converged:
        said = f"the model has no TS near the reference's: {ts.sentence}"
        facts = provenance(**details)
        return Report(reaction.name, asked.name, "no TS", said, provenance=facts, validator="irc")
    return validate_irc(
        ts.atoms,
        calculator,
        hessian,
        reference,
        system=reaction.name,
        potential=asked.name,
        method=asked.settings.irc.method,
        step=asked.settings.irc.step,
        details=details,
    )


def _ts(reaction: ReactionFrames) -> Frame:
    """The TS of a reaction that is known to have one."""
    return cast(Frame, reaction.transition_state)


def phonons(calculator: Any, asked: Asked) -> list[Report]:
    """Phonons of the crystal of the settings against a method's."""
    from phl_ase.phonons import make_phonopy, parse_supercell
    from phl_ase.resolver import resolve_calculator
    from phl_ase.validators import validate_phonons

    settings = asked.settings.phonons
    if not settings.crystal:
        raise PHLError("validators.phonons.crystal is empty; expected a file of a unit cell")
    phonon = make_phonopy(read_images(settings.crystal)[0], parse_supercell(settings.supercell))
    reference = resolve_calculator(settings.reference)
    system = Path(settings.crystal).stem
    return [
        validate_phonons(
            phonon, calculator, reference, system=system, potential=asked.name, mesh=settings.mesh, details={}
        )
    ]


def _guarded(
    make: Callable[[], Report], *, system: str, potential: str, validator: str, details: Mapping[str, Any]
) -> Report:
    """A report, or one that says why the model refused the structure: one molecule must not stop the others."""
    try:
        return make()
    except PHLError as error:
        sentence = " ".join(str(error).split())
        return Report(system, potential, "refused", sentence, provenance=provenance(**details), validator=validator)


@dataclass(frozen=True)
class Validator:
    """One validator of a study.

    Attributes:
        ask: From calculator and what is asked to reports.
        section: Name of its settings in the configuration; empty without any.
        packages: What it needs: package -> extra that brings it, empty for the package's own.
        guess: Seconds that it takes for a small molecule's reactions, before any has been timed.
    """

    ask: Callable[[Any, Asked], list[Report]]
    section: str = ""
    packages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    guess: float = 5.0


VALIDATORS: dict[str, Validator] = {
    "accuracy": Validator(accuracy, guess=3.0),
    "frequencies": Validator(frequencies, "frequencies", guess=3.0),
    "ts": Validator(searches, "ts", {"sella": ""}, guess=30.0),
    "irc": Validator(paths, "irc", {"sella": ""}, guess=20.0),
    "phonons": Validator(phonons, "phonons", {"phonopy": ""}, guess=30.0),
}
"""Name in the configuration -> what it asks."""


def validation(calculator: Any, asked: Asked) -> list[Report]:
    """Errors of the validation frames, by which loss weights are chosen."""
    frames = list(asked.data.valid)
    predictions = calculator.evaluate([atoms_from_frame(f) for f in frames], ("energy", "forces", "hessian"))
    return [validate_accuracy(frames, predictions, system="validation frames", potential=asked.name)]


ASKED: dict[str, Validator] = {**VALIDATORS, "validation": Validator(validation, guess=2.0)}
"""All that a process may be told to ask: the validators, and what tuning needs."""
