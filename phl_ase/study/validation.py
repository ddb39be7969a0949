"""How the models of a study are validated: one function for each validator, and one line in ``VALIDATORS``."""

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
from phl_ase.study.config import ValidatorsSection
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

_PREDICTED = ("energy", "forces", "hessian")
_MOST_POINTS = 2000  # of a parity plot: enough to see, few enough for a file


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
        return {"reaction": reaction.name, "part": self._part(frame), **more}

    def _part(self, frame: Frame) -> str:
        return self._parts.get(frame.frame_id, "left out")

    @cached_property
    def _parts(self) -> dict[int, str]:
        parts = ("train", "valid", "test")
        return {frame.frame_id: part for part in parts for frame in getattr(self.data, part)}

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
        found = [
            one for one in reactions_of(self.dataset, self.settings.reactions or None).values() if one.name in tested
        ]
        known = [one for one in found if one.transition_state is not None]
        if self.settings.unseen:
            known = [one for one in known if self._part(transition_state(one)) not in ("train", "valid")]
        return known


def transition_state(reaction: ReactionFrames) -> Frame:
    """Return the TS of a reaction that is known to have one."""
    return cast(Frame, reaction.transition_state)


def accuracy(calculator: Any, request: ValidationRequest) -> list[Report]:
    """Return the errors of the test frames, each with its reaction, region and place in the data."""
    frames = list(request.data.test)
    if not frames:
        raise PHLError("the split leaves nothing to test with")
    predictions = calculator.evaluate([atoms_from_frame(f) for f in frames], _PREDICTED)
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
    pairs = {
        f"parity_{label}_{side}": np.array(values)
        for label, pair in parity(frames, predictions).items()
        for side, values in pair.items()
    }
    return [dataclasses.replace(report, arrays={**report.arrays, **facts, **pairs})]


def parity(frames: Sequence[Frame], predictions: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Return reference and prediction side by side, thinned evenly where there are many.

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
    columns: dict[str, tuple[list[Any], list[Any]]] = {label: ([], []) for label in _PREDICTED}
    for frame, predicted in zip(frames, predictions, strict=True):
        zero = lowest.get(tuple(sorted(frame.numbers.tolist())), 0.0)
        for label, pair in columns.items():
            reference = getattr(frame, label)
            if reference is None or predicted.get(label) is None:
                continue
            for side, value in zip(pair, (reference, predicted[label]), strict=True):
                array = np.asarray(value)
                if label == "energy":
                    side.append(np.atleast_1d(array - zero))
                else:
                    side.append(array[np.triu_indices(len(array))] if label == "hessian" else array.ravel())
    result = {}
    for label, pair in columns.items():
        if pair[0]:
            both = [np.concatenate(side) for side in pair]
            step = -(-len(both[0]) // _MOST_POINTS)
            reference_side, predicted_side = ([float(f"{v:.6g}") for v in side[::step]] for side in both)
            result[label] = {"reference": reference_side, "predicted": predicted_side}
    return result


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
            for function in functions:
                named = {"system": f"{reaction.name} {kind}", "potential": request.name}
                make = partial(function, reference, calculator, **named, details=details)
                reports.append(_or_refused(make, **named, validator="frequencies", details=details))
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
            make = partial(
                validate_transition_state,
                displaced(atoms_from_frame(target), settings.displacement, seed),
                calculator,
                labelled_reaction(reaction),
                potential=request.name,
                strategy=settings.strategy,
                follow=settings.follow,
                max_steps=settings.max_steps,
                details=details,
            )
            named = {"system": reaction.name, "potential": request.name}
            reports.append(_or_refused(make, **named, validator="transition state", details=details))
    return reports


def paths(calculator: ASECalculator, request: ValidationRequest) -> list[Report]:
    """Return reaction paths from the model's own TSs, of the reactions that have one to compare with."""
    reports = []
    for reaction in request.reactions:
        try:
            reference = labelled_path(reaction)
        except PHLError:
            continue  # no path in the data
        details = request.details(reaction, transition_state(reaction))
        named = {"system": reaction.name, "potential": request.name}
        make = partial(_path, calculator, request, reaction, reference, details)
        reports.append(_or_refused(make, **named, validator="irc", details=details))
    return reports


def _path(
    calculator: ASECalculator,
    request: ValidationRequest,
    reaction: ReactionFrames,
    reference: ReferencePath,
    details: Mapping[str, Any],
) -> Report:
    """Return one path; where the model has no TS, a report that says so."""
    hessian = curvature_of(calculator).hessian
    ts = tight_transition_state(atoms_from_frame(transition_state(reaction)), calculator, hessian)
    if not ts.converged:
        sentence = f"the model has no TS near the reference's: {ts.sentence}"
        facts = provenance(**details)
        return Report(reaction.name, request.name, "no TS", sentence, provenance=facts, validator="irc")
    return validate_irc(
        ts.atoms,
        calculator,
        hessian,
        reference,
        system=reaction.name,
        potential=request.name,
        method=request.settings.irc.method,
        step=request.settings.irc.step,
        details=details,
    )


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
    predictions = calculator.evaluate([atoms_from_frame(f) for f in frames], _PREDICTED)
    return [validate_accuracy(frames, predictions, system="validation frames", potential=request.name)]


def _or_refused(
    make: Callable[[], Report], *, system: str, potential: str, validator: str, details: Mapping[str, Any]
) -> Report:
    """Return a report, or one that says why the model refused the structure: one molecule must not stop the others."""
    try:
        return make()
    except PHLError as error:
        sentence = " ".join(str(error).split())
        return Report(system, potential, "refused", sentence, provenance=provenance(**details), validator=validator)


@dataclass(frozen=True)
class Validator:
    """One validator of a study; its options are the section of its name in ``validators``.

    Attributes:
        validate: From calculator and request to reports.
        packages: What it needs: package -> extra that brings it, empty for the package's own.
        by_reaction: Whether it depends on which reactions are chosen.
        seconds: About how long it takes for a small molecule's reactions, before any has been timed.
    """

    validate: Callable[[Any, ValidationRequest], list[Report]]
    packages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    by_reaction: bool = False
    seconds: float = 5.0


VALIDATORS: dict[str, Validator] = {
    "accuracy": Validator(accuracy, seconds=3.0),
    "frequencies": Validator(frequencies, by_reaction=True, seconds=3.0),
    "ts": Validator(searches, {"sella": ""}, by_reaction=True, seconds=30.0),
    "irc": Validator(paths, {"sella": ""}, by_reaction=True, seconds=20.0),
    "phonons": Validator(phonons, {"phonopy": ""}, seconds=30.0),
}
"""Name in the configuration -> validator."""

EVERY_VALIDATOR: dict[str, Validator] = {**VALIDATORS, "validation": Validator(validation_errors, seconds=2.0)}
"""The validators, and what tuning needs."""


def check_inputs(settings: ValidatorsSection) -> None:
    """Check before hours of training, not after, that the validators can run.

    Raises:
        PHLError: For a missing package, an unreadable crystal or an unknown reference method.
    """
    import importlib.util

    from phl_ase.errors import missing_package

    for name in settings.run:
        for package, extra in VALIDATORS[name].packages.items():
            if importlib.util.find_spec(package) is None:
                raise missing_package(package, extra or "all", f"the validator {name!r} of validators.run")
    if "phonons" in settings.run:
        from phl_ase.phonons import parse_supercell
        from phl_ase.resolver import resolve_calculator

        read_images(settings.phonons.crystal)
        parse_supercell(settings.phonons.supercell)
        resolve_calculator(settings.phonons.reference)
