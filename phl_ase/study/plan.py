"""The runs of a study: which there are, how long each trains, on which frames, and what its result depends on."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from phl_ase.datasets import open_dataset, reactions_of
from phl_ase.errors import PHLError
from phl_ase.jobs import digest
from phl_ase.objective import SCHEMES
from phl_ase.probes.families import FAMILIES
from phl_ase.structures import Frame
from phl_ase.study.config import MatrixSection, MethodSection, RunSection, StudyConfig
from phl_ase.training import RunData, TrainConfig, parse_config, prepare_data

_CHOICES = ("regime", "n_probes", "probes", "hvps")


@dataclass(frozen=True, order=True)
class TrainingMethod:
    """A training method: a scheme and its options.

    Attributes:
        scheme: Key of ``SCHEMES``.
        regime: ``fresh`` or ``fixed``; empty where no probes are drawn.
        n_probes: K; 0 where no probes are drawn.
        probes: Probe family; empty where curvature is not supervised.
        hvps: How HVPs of the model are computed: ``exact``, or from ``differences`` of forces.
    """

    scheme: str
    regime: str = ""
    n_probes: int = 0
    probes: str = ""
    hvps: str = "exact"

    @classmethod
    def of(cls, chosen: MethodSection) -> TrainingMethod:
        """Return the method that a section of the configuration names.

        Raises:
            PHLError: For a combination that does not exist.
        """
        scheme, own = chosen.scheme, SCHEMES[chosen.scheme].probes or ""
        valid = families(scheme)
        given = [key for key in _CHOICES if getattr(chosen, key) is not None]
        if not valid:
            if given:
                why = "takes the whole Hessian" if own else "learns no curvature"
                raise PHLError(f"{scheme} {why}: it has no {', '.join(given)}")
            return cls(scheme, probes=own)
        if chosen.probes is not None and chosen.probes not in valid:
            raise PHLError(f"{scheme} has no probes {chosen.probes!r}; valid: {', '.join(valid)}")
        return cls(scheme, chosen.regime or "fresh", chosen.n_probes or 1, chosen.probes or own, chosen.hvps or "exact")

    @property
    def draws(self) -> bool:
        """Return whether it draws probes."""
        return bool(self.regime)

    @property
    def label(self) -> str:
        """Its name in tables and figures."""
        family = f" ({self.probes})" if self.draws and self.probes != SCHEMES[self.scheme].probes else ""
        if self.regime == "fixed":
            count = f", fixed K={self.n_probes}"
        else:
            count = f", K={self.n_probes}" if self.n_probes > 1 else ""
        return f"{self.scheme}{family}{count}{'' if self.hvps == 'exact' else ', by differences'}"

    @property
    def cost_key(self) -> str:
        """Methods that take equally long: those of one scheme, number of probes and kind of HVPs, in any regime."""
        if not self.draws:
            return self.scheme
        return f"{self.scheme} K={self.n_probes}{'' if self.hvps == 'exact' else ' by differences'}"


def families(scheme: str) -> list[str]:
    """Return the probe families that a scheme may draw from; none where it draws no probes."""
    own = SCHEMES[scheme].probes
    if own is None or FAMILIES[own].complete:
        return []
    return [own] if own == "onehot" else [n for n, one in FAMILIES.items() if not one.complete and n != "onehot"]


@dataclass(frozen=True, order=True)
class Series:
    """Runs that differ in their seed alone, over which results are averaged.

    Attributes:
        method: How the models learn.
        split: Key of ``SPLITS``.
        fraction: Of the training frames.
        budget: ``epochs`` or ``time``.
    """

    method: TrainingMethod
    split: str = "random"
    fraction: float = 1.0
    budget: str = "epochs"


@dataclass(frozen=True, order=True)
class Run:
    """One training run and the validation of its model.

    Attributes:
        series: The run without its seed.
        seed: Of split, weights, batches and probes.
    """

    series: Series
    seed: int = 0

    @property
    def method(self) -> TrainingMethod:
        """Training method of the model."""
        return self.series.method

    @property
    def name(self) -> str:
        """Name of its folder."""
        one = self.series
        parts = [one.split, one.method.label, f"f{one.fraction:g}", one.budget, f"s{self.seed}"]
        return "-".join(re.sub(r"[^A-Za-z0-9.=]+", "-", part).strip("-") for part in parts)


def plan_runs(config: StudyConfig) -> tuple[Run, ...]:
    """Return the runs of a configuration, each once: its blocks' combinations, then single ones.

    Seeds are the outermost loop of a block: an early stop leaves whole comparisons.

    Raises:
        PHLError: For runs and claims that cannot be, for settings of a block that none of its schemes has, which would
            otherwise vanish in silence, and for a configuration without runs.
    """
    runs = []
    for place, block in enumerate(config.matrix):
        drawing = [scheme for scheme in block.schemes if families(scheme)]
        choosing = [scheme for scheme in drawing if len(families(scheme)) > 1]
        users = {"regimes": drawing, "n_probes": drawing, "hvps": drawing, "probes": choosing}
        for key in [key for key, schemes in users.items() if key in block.model_fields_set and not schemes]:
            schemes = ", ".join(block.schemes)
            raise PHLError(f"matrix.{place}.{key}: none of the schemes {schemes} has a choice of it; leave it out")
        if "fixed" not in block.regimes and block.n_probes != (1,):
            raise PHLError(
                f"matrix.{place}.n_probes counts fixed probes; add 'fixed' to regimes, or name the run in [[run]]"
            )
        for family in set(block.probes) - set(families(choosing[0])) if choosing else ():
            valid = ", ".join(families(choosing[0]))
            raise PHLError(f"matrix.{place}.probes: {choosing[0]} has no probes {family!r}; valid: {valid}")
        seeds, splits, fractions, budgets = block.seeds, block.splits, block.fractions, block.budgets
        for seed, split, fraction, budget in itertools.product(seeds, splits, fractions, budgets):
            runs += [Run(Series(method, split, fraction, budget), seed) for method in methods_of(block)]
    sections: list[tuple[str, MethodSection]] = [(f"run.{place}", one) for place, one in enumerate(config.run)]
    for place, claim in enumerate(config.claim):
        sections += [(f"claim.{place}", one) for one in (claim.of, claim.to, claim.control) if one is not None]
    for name, section in sections:
        try:
            method = TrainingMethod.of(section)
        except PHLError as error:
            raise PHLError(f"{name}: {error}") from None
        if isinstance(section, RunSection):
            runs.append(Run(Series(method, section.split, section.fraction, section.budget), section.seed))
    if not runs:
        raise PHLError("the configuration has no runs; add [[matrix]] or [[run]]")
    return tuple(dict.fromkeys(runs))


def methods_of(block: MatrixSection) -> list[TrainingMethod]:
    """Return the training methods of a block, each once."""
    found = []
    for scheme in block.schemes:
        own = SCHEMES[scheme].probes or ""
        if not families(scheme):
            found.append(TrainingMethod(scheme, probes=own))
            continue
        chosen = block.probes if len(families(scheme)) > 1 else (own,)
        for regime, family, hvps in itertools.product(block.regimes, chosen, block.hvps):
            counts = block.n_probes if regime == "fixed" else (1,)
            found += [TrainingMethod(scheme, regime, count, family, hvps) for count in counts]
    return list(dict.fromkeys(found))


# ------------------------------------------------------------------------------------------------ how long a run trains


@dataclass(frozen=True)
class Length:
    """Length of the training of a run.

    Attributes:
        epochs: Passes over its training frames.
        steps: Optimiser steps.
        capped_from: Epochs that it would have without a cap on steps; 0 without one in force.
    """

    epochs: int
    steps: int
    capped_from: int = 0


def length(run: Run, config: StudyConfig, frames: int, all_frames: int, step_seconds: Mapping[str, float]) -> Length:
    """Return how long a run trains.

    Args:
        run: The run.
        config: The study.
        frames: Training frames of the run.
        all_frames: Training frames of the same split at fraction 1.
        step_seconds: ``TrainingMethod.cost_key`` -> measured seconds of a step.

    Raises:
        PHLError: For equal time where steps are not timed.
    """
    batches, all_batches = (-(-count // config.training.batch_size) for count in (frames, all_frames))
    budget, series = config.budget, run.series
    if series.budget == "epochs":
        steps = budget.epochs_of.get(series.split, budget.epochs) * all_batches
    else:
        keys = time_method(config).cost_key, run.method.cost_key
        untimed = sorted(set(keys) - set(step_seconds))
        if untimed:
            raise PHLError(f"no equal time: steps of {', '.join(untimed)} are not timed")
        steps = round(budget.time_epochs * all_batches * step_seconds[keys[0]] / step_seconds[keys[1]])
    wanted = max(1, round(steps / batches))
    cap = budget.step_cap.get(run.method.scheme)
    epochs = wanted if cap is None else max(1, min(wanted, cap // batches))
    return Length(epochs, epochs * batches, wanted if epochs < wanted else 0)


def time_method(config: StudyConfig) -> TrainingMethod:
    """Return the method whose time is the equal time of all."""
    return TrainingMethod.of(MethodSection(scheme=config.budget.time_of))


def train_config(
    run: Run, config: StudyConfig, *, weights: Mapping[str, float] | None = None, epochs: int = 1
) -> TrainConfig:
    """Return the training configuration of a run.

    Args:
        run: The run.
        config: The study.
        weights: Loss weights of its scheme; by default those of the study.
        epochs: How long it trains.
    """
    method, split = run.method, run.series.split
    scheme: dict[str, Any] = {"name": method.scheme}
    if method.draws:
        scheme |= {"regime": method.regime, "n_probes": method.n_probes, "probes": method.probes}
        scheme["hvp"] = method.hvps
    chosen = config.weights.get(method.scheme, {}) if weights is None else weights
    # equally many validations, so that none has more chances to be chosen
    base = config.budget.epochs_of.get(split, config.budget.epochs)
    every = max(1, round(config.training.validate_every * epochs / base))
    split_seed = run.seed if config.split_seed is None else config.split_seed
    return parse_config(
        {
            "data": {**config.data.model_dump(), "split": split, "split_seed": split_seed},
            "potential": config.potential.model_dump(by_alias=True),
            "scheme": scheme,
            "loss": {**config.loss.model_dump(), **chosen},
            "training": {
                **config.training.model_dump(),
                "epochs": epochs,
                "seed": run.seed,
                "validate_every": min(every, epochs),
            },
        },
        run.name,
    )


# ----------------------------------------------------------------------------------------------------------- its frames


class StudyData:
    """The data of a study, opened once.

    Args:
        config: The study.

    Attributes:
        dataset: The open data set.
        hash: Of its content.

    Raises:
        PHLError: For data that cannot be read, or that lack a reaction that the configuration names.
    """

    def __init__(self, config: StudyConfig) -> None:
        self._config = config
        self._counts: dict[tuple[str, float, int], int] = {}
        self.dataset = open_dataset(config.data.source, keys=config.data.keys or None)
        self.hash = self.dataset.content_hash()
        named = [*config.validators.reactions, *([config.report.search.reaction] if config.report.search else [])]
        if named:
            reactions_of(self.dataset, named)

    def count(self, run: Run) -> int:
        """Return the number of training frames of a run.

        Raises:
            PHLError: When the data cannot be split so.
        """
        key = (run.series.split, run.series.fraction, run.seed)
        if key not in self._counts:
            self._counts[key] = len(run_data(run, self._config, dataset=self.dataset).train)
        return self._counts[key]

    def lengths(self, runs: Sequence[Run], seconds: Mapping[str, float]) -> tuple[dict[Run, Length], dict[Run, str]]:
        """Return how long each run trains, and why those cannot train whose data or time cannot be had."""
        found, refused = {}, {}
        for run in runs:
            whole = replace(run, series=replace(run.series, fraction=1.0))
            try:
                found[run] = length(run, self._config, self.count(run), self.count(whole), seconds)
            except PHLError as error:
                refused[run] = " ".join(str(error).split())
        return found, refused


def subset(frames: Sequence[Frame], fraction: float, seed: int) -> list[Frame]:
    """Return a part of the frames, spread evenly over the kinds of geometry; a smaller part is in a larger one."""
    random = np.random.default_rng([seed, 1])
    rank = np.zeros(len(frames))
    kinds = np.array([frame.kind for frame in frames])
    for kind in np.unique(kinds):
        (members,) = np.nonzero(kinds == kind)
        rank[random.permutation(members)] = (np.arange(len(members)) + random.random()) / len(members)
    count = max(1, round(fraction * len(frames)))
    return [frames[i] for i in sorted(np.argsort(rank, kind="stable")[:count])]


def run_data(run: Run, config: StudyConfig, *, dataset: Any = None) -> RunData:
    """Return the frames of a run.

    Raises:
        PHLError: For data that cannot be read or split so.
    """
    data = prepare_data(train_config(run, config), dataset)
    fraction = run.series.fraction
    if fraction == 1:
        return data
    train = subset(data.train, fraction, run.seed)
    return replace(
        data, train=train, provenance={**data.provenance, "training_frames": len(train), "fraction": fraction}
    )


def gradient_calls(method: TrainingMethod, atoms: Sequence[int]) -> int:
    """Return the gradient calls of the reference method that a method's labels cost by central differences.

    One for energy and forces of a frame, two for each recorded HVP, 6n for a Hessian, which fresh probes need as well:
    their HVPs are those of a stored Hessian.

    Args:
        method: How the model learns.
        atoms: Size of each training frame.
    """
    if not method.probes:
        return len(atoms)
    return sum(1 + (2 * method.n_probes if method.regime == "fixed" else 6 * n) for n in atoms)


# ---------------------------------------------------------------------------------------- what a result depends on


@dataclass(frozen=True)
class PlannedRun:
    """A run with its folder, and the keys of its results (:mod:`phl_ase.jobs`).

    Training depends on its own configuration, the fraction of the frames and the content of the data; the result of a
    validator on the model and the options of that validator. No version of the package is among them.

    Attributes:
        run: What is trained.
        folder: Where its files are.
        study: The study.
        config: How it is trained.
        length: How long it trains.
        validators: How its model is validated.
        key: Digest of all that the trained model depends on, but for the device.
    """

    run: Run
    folder: Path
    study: StudyConfig
    config: TrainConfig
    length: Length
    validators: tuple[str, ...]
    key: str

    @classmethod
    def of(
        cls,
        run: Run,
        parent: Path,
        study: StudyConfig,
        data_hash: str,
        length: Length,
        *,
        weights: Mapping[str, float] | None = None,
        validators: Sequence[str] | None = None,
    ) -> PlannedRun:
        """Return a run planned in a parent folder; without weights and validators, with those of the study."""
        config = train_config(run, study, weights=weights, epochs=length.epochs)
        key = digest(config.identity(), run.series.fraction, data_hash)
        chosen = study.validators.run if validators is None else validators
        return cls(run, parent / f"{run.name}-{key[:8]}", study, config, length, tuple(chosen), key)

    def validator_key(self, validator: str) -> str:
        """Return the digest of all that a validator's result depends on.

        Options at their default are no part of it, so that a new option leaves old results what they are.
        """
        from phl_ase.study.validation import EVERY_VALIDATOR

        settings = self.study.validators
        section = getattr(settings, validator, None)
        options = section.model_dump(mode="json", exclude_defaults=True) if section is not None else {}
        if EVERY_VALIDATOR[validator].by_reaction:
            options |= {"reactions": sorted(settings.reactions), "unseen": settings.unseen}
        return digest(self.key, validator, options)

    def training_seconds(self, step_seconds: Mapping[str, float]) -> float:
        """Return the estimated seconds of training, from timed steps or a guess."""
        method = self.run.method
        directions = method.n_probes if method.draws else 0 if SCHEMES[method.scheme].probes is None else 12
        return self.length.steps * step_seconds.get(method.cost_key, 0.005 * (1.0 + directions))


def typical(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median round of each timed method, s."""
    return {key: float(np.median(values)) for key, values in seconds.items()}
