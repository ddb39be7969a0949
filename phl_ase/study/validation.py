"""Validation of the models of a study: one function for each validator, and one line in ``VALIDATORS``."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from phl_ase.curvature import curvature_of
from phl_ase.datasets import BaseDataset, ReactionFrames, reactions_of, read_images
from phl_ase.errors import PHLError, missing_package
from phl_ase.paths import displaced
from phl_ase.results import Report, provenance
from phl_ase.scoring import STATIONARY, geometries
from phl_ase.structures import Frame, atoms_from_frame
from phl_ase.study.config import PROPERTIES, ValidatorsSection
from phl_ase.study.references import labelled_path, labelled_reaction, tight_transition_state
from phl_ase.training import RunData
from phl_ase.types import ASECalculator
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
class ValidationRequest:
    """One model's validation.

    Attributes:
        name: How reports name the model.
        dataset: Where the reactions are.
        data: The model's frames of all three parts.
        settings: Options of the validators.
    """

    name: str
    dataset: BaseDataset
    data: RunData
    settings: ValidatorsSection

    def details(self, reaction: ReactionFrames, frame: Frame, **more: Any) -> dict[str, Any]:
        """Return what the provenance says of a frame: its reaction and in which part of the data it is."""
        return {"reaction": reaction.name, "part": self.parts.get(frame.frame_id, "left out"), **more}

    @cached_property
    def parts(self) -> dict[int, str]:
        """Number of a frame -> part of the data that it is in."""
        return {frame.frame_id: part for part in ("train", "valid", "test") for frame in getattr(self.data, part)}

    @cached_property
    def stationary(self) -> list[Frame]:
        """All stationary points of the data."""
        return self.dataset.frames(np.nonzero(np.isin(self.dataset.kinds, STATIONARY))[0])

    @cached_property
    def reactions(self) -> list[ReactionFrames]:
        """Reactions with a TS and at least one test frame, of those that the settings name.

        Raises:
            PHLError: For a reaction that the data do not have.
        """
        if not any(self.dataset.reactions):
            return []
        tested = {frame.reaction for frame in self.data.test}
        return [
            one
            for one in reactions_of(self.dataset, self.settings.reactions or None).values()
            if one.name in tested
            and (ts := one.transition_state) is not None
            and not (self.settings.unseen and self.parts.get(ts.frame_id) in ("train", "valid"))
        ]


def transition_state(reaction: ReactionFrames) -> Frame:
    """Return the TS of a reaction that is known to have one."""
    return cast(Frame, reaction.transition_state)


def accuracy(calculator: Any, request: ValidationRequest) -> list[Report]:
    """Return the errors of the test frames, each with its reaction, region and place in the data."""
    frames = list(request.data.test)
    if not frames:
        raise PHLError("the split leaves nothing to test with")
    predictions = calculator.evaluate([atoms_from_frame(f) for f in frames], PROPERTIES)
    report = validate_accuracy(
        frames, predictions, system="test frames", potential=request.name, stationary=request.stationary
    )
    groups, nothing = geometries(frames), np.zeros(len(frames), dtype=bool)
    # which frames, for pairing them with those of other models
    facts = {
        "frame_id": np.array([frame.frame_id for frame in frames]),
        "reaction": np.array([frame.reaction for frame in frames]),
        **{f"is_{region}": groups.get(region, nothing).astype(int) for region in ("near", "far")},
    }
    return [dataclasses.replace(report, arrays={**report.arrays, **facts})]


def frequencies(calculator: ASECalculator, request: ValidationRequest) -> list[Report]:
    """Return wavenumbers at labelled stationary points: at the reference's structure and, on demand, the model's."""
    settings = request.settings.frequencies
    functions: list[Callable[..., Report]] = [validate_frequencies]
    functions += [validate_relaxed_frequencies] if settings.relaxed else []
    reports = []
    for reaction in request.reactions:
        frames = {"reactant": reaction.reactant, "product": reaction.product, "ts": reaction.transition_state}
        for kind in settings.kinds:
            frame = frames[kind]
            if frame is None or frame.hessian is None:
                continue
            reference = ReferenceCurvature(atoms_from_frame(frame), frame.hessian, kind="stationary")
            details = request.details(reaction, frame, kind=kind)
            named: dict[str, Any] = {"system": f"{reaction.name} {kind}", "potential": request.name, "details": details}
            for function in functions:
                make = partial(function, reference, calculator, **named)
                reports.append(_or_refused(make, validator="frequencies", **named))
    return reports


def searches(calculator: ASECalculator, request: ValidationRequest) -> list[Report]:
    """Return TS searches from displaced TSs."""
    settings = request.settings.ts
    reports = []
    for reaction in request.reactions:
        target = transition_state(reaction)
        for seed in range(settings.seed, settings.seed + settings.starts):
            start = f"{settings.displacement:g} Å RMS from the TS, seed {seed}"
            details = request.details(reaction, target, start=start)
            named: dict[str, Any] = {"potential": request.name, "details": details}
            make = partial(
                validate_transition_state,
                displaced(atoms_from_frame(target), settings.displacement, seed),
                calculator,
                labelled_reaction(reaction),
                strategy=settings.strategy,
                follow=settings.follow,
                max_steps=settings.max_steps,
                **named,
            )
            reports.append(_or_refused(make, system=reaction.name, validator="transition state", **named))
    return reports


def paths(calculator: ASECalculator, request: ValidationRequest) -> list[Report]:
    """Return reaction paths from the model's own TSs, of the reactions that have one to compare with.

    Where the model has no TS, the report says so.
    """
    settings = request.settings.irc
    reports = []
    for reaction in request.reactions:
        target = transition_state(reaction)
        details = request.details(reaction, target)
        named: dict[str, Any] = {"system": reaction.name, "potential": request.name, "details": details}
        try:
            reference = labelled_path(reaction)
        except PHLError:
            continue  # no path in the data

        def make(target: Frame = target, reference: ReferencePath = reference, named: dict[str, Any] = named) -> Report:
            hessian = curvature_of(calculator).hessian
            ts = tight_transition_state(atoms_from_frame(target), calculator, hessian)
            if not ts.converged:
                sentence = f"the model has no TS near the reference's: {ts.sentence}"
                return _without_result("no TS", sentence, validator="irc", **named)
            named = {**named, "method": settings.method, "step": settings.step}
            return validate_irc(ts.atoms, calculator, hessian, reference, **named)

        reports.append(_or_refused(make, validator="irc", **named))
    return reports


def phonons(calculator: ASECalculator, request: ValidationRequest) -> list[Report]:
    """Return phonons of the crystal of the settings against a method's."""
    from phl_ase.phonons import make_phonopy, parse_supercell
    from phl_ase.resolver import resolve_calculator
    from phl_ase.validators import validate_phonons

    settings = request.settings.phonons
    phonon = make_phonopy(read_images(settings.crystal)[0], parse_supercell(settings.supercell))
    reference = resolve_calculator(settings.reference)
    system, mesh = Path(settings.crystal).stem, settings.mesh
    return [
        validate_phonons(phonon, calculator, reference, system=system, potential=request.name, mesh=mesh, details={})
    ]


def validation_errors(calculator: Any, request: ValidationRequest) -> list[Report]:
    """Return errors of the validation frames, by which loss weights are chosen."""
    frames = list(request.data.valid)
    predictions = calculator.evaluate([atoms_from_frame(f) for f in frames], PROPERTIES)
    return [validate_accuracy(frames, predictions, system="validation frames", potential=request.name)]


def _or_refused(make: Callable[[], Report], **named: Any) -> Report:
    """Return a report, or one that says why the model refused the structure: one molecule must not stop the others."""
    try:
        return make()
    except PHLError as error:
        return _without_result("refused", " ".join(str(error).split()), **named)


def _without_result(
    outcome: str, sentence: str, *, system: str, potential: str, validator: str, details: Mapping[str, Any]
) -> Report:
    return Report(system, potential, outcome, sentence, provenance=provenance(**details), validator=validator)


@dataclass(frozen=True)
class Validator:
    """One validator of a study; its options are the section of its name in ``validators``.

    Attributes:
        validate: From calculator and request to reports.
        seconds: About how long it takes for a small molecule's reactions, before any has been timed.
        by_reaction: Whether it depends on which reactions are chosen.
        package: Optional package that it needs; empty without one.
    """

    validate: Callable[[Any, ValidationRequest], list[Report]]
    seconds: float
    by_reaction: bool = False
    package: str = ""


VALIDATORS: dict[str, Validator] = {
    "accuracy": Validator(accuracy, 3.0),
    "frequencies": Validator(frequencies, 3.0, by_reaction=True),
    "ts": Validator(searches, 30.0, by_reaction=True, package="sella"),
    "irc": Validator(paths, 20.0, by_reaction=True, package="sella"),
    "phonons": Validator(phonons, 30.0, package="phonopy"),
}
"""Name in the configuration -> validator."""

EVERY_VALIDATOR: dict[str, Validator] = {**VALIDATORS, "validation": Validator(validation_errors, 2.0)}
"""The validators, and what tuning needs."""


def check_inputs(settings: ValidatorsSection) -> None:
    """Check before hours of training, not after, that the validators can run.

    Raises:
        PHLError: For a missing package, an unreadable crystal or an unknown reference method.
    """
    for name in settings.run:
        package = VALIDATORS[name].package
        if package and importlib.util.find_spec(package) is None:
            raise missing_package(package, "all", f"the validator {name!r} of validators.run")
    if "phonons" in settings.run:
        from phl_ase.phonons import parse_supercell
        from phl_ase.resolver import resolve_calculator

        read_images(settings.phonons.crystal)
        parse_supercell(settings.phonons.supercell)
        resolve_calculator(settings.phonons.reference)
