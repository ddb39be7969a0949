"""The configuration of a study: one TOML file; data, potential and training as in ``phl train``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from phl_ase.errors import PHLError, unknown
from phl_ase.objective import SCHEMES
from phl_ase.study.matrix.asked import Section, ValidatorsSection
from phl_ase.study.matrix.questions import VALIDATORS
from phl_ase.training.config import (
    DataSection,
    LossSection,
    PotentialSection,
    TrainingSection,
    explain,
    read_toml,
)


class MatrixSection(Section):
    """One block of cells: every combination of its lists that exists."""

    schemes: tuple[str, ...] = tuple(SCHEMES)
    regimes: tuple[Literal["fresh", "fixed"], ...] = ("fresh",)
    n_probes: tuple[int, ...] = Field((1,), description="K of the fixed regime; fresh probes are one for each frame")
    probes: tuple[str, ...] = Field(("rademacher",), description="families of E-F-HVP-random")
    products: tuple[Literal["exact", "differences"], ...] = Field(("exact",), description="as in phl train's scheme")
    splits: tuple[str, ...] = ("random",)
    seeds: tuple[int, ...] = Field((0, 1, 2), description="of split, weights, batches and probes")
    fractions: tuple[float, ...] = Field((1.0,), description="of the training frames, for learning curves")
    budgets: tuple[Literal["epochs", "time"], ...] = ("epochs",)


class CellSection(Section):
    """One cell, named; one that cannot be is shown with its reason."""

    scheme: str
    regime: Literal["fresh", "fixed"] | None = None
    n_probes: int | None = None
    probes: str | None = None
    products: Literal["exact", "differences"] | None = None
    split: str = "random"
    seed: int = Field(0, ge=0)
    fraction: float = 1.0
    budget: Literal["epochs", "time"] = "epochs"


class BudgetSection(Section):
    """How long a cell trains."""

    epochs: int = Field(200, ge=1, description="equal epochs; fewer frames are given as many steps")
    epochs_of: dict[str, int] = Field({}, description="split -> its own number")
    time_of: str = Field("E-F-HVP-random", description="equal time: what this scheme, fresh, takes …")
    time_epochs: int = Field(300, ge=1, description="… for so many epochs")
    clock: Literal["processor", "wall"] = Field("processor", description="what equal time is equal in")
    step_cap: dict[str, int] = Field({"E-F-H": 20000}, description="scheme -> most optimiser steps of a cell")
    rounds: int = Field(5, ge=2, description="how often epochs are timed, the schemes in turn")


class TuningSection(Section):
    """Loss weights chosen by validation, equally many settings tried for every scheme."""

    epochs: int = Field(60, ge=1)
    split: str = "random"
    seed: int = Field(0, ge=0)
    settings: dict[str, tuple[dict[str, float], ...]] = Field({}, description="scheme -> loss weights to try")


class StudyConfig(Section):
    """Everything a study depends on."""

    title: str = "What supervising curvature buys"
    data: DataSection = DataSection()
    potential: PotentialSection = PotentialSection()
    loss: LossSection = LossSection()
    training: TrainingSection = TrainingSection()
    weights: dict[str, dict[str, float]] = Field({}, description="scheme -> its own loss weights")
    tuning: TuningSection = TuningSection()
    budget: BudgetSection = BudgetSection()
    validators: ValidatorsSection = ValidatorsSection()
    matrix: tuple[MatrixSection, ...] = (MatrixSection(),)
    cell: tuple[CellSection, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, enough to read the configuration again."""
        excluded = {section: set(keys) for section, keys in _SET_BY_CELLS.items()}
        return self.model_dump(mode="json", by_alias=True, exclude=excluded)


# what a cell says of itself and a section of all cells therefore cannot
_SET_BY_CELLS = {
    "data": {"split": "matrix.splits", "split_seed": "matrix.seeds"},
    "training": {"seed": "matrix.seeds", "epochs": "budget.epochs"},
}


def parse_study(values: Mapping[str, Any], name: str = "configuration") -> StudyConfig:
    """Check plain values.

    Raises:
        PHLError: One line for the first thing that does not fit, naming the valid keys where one is unknown.
    """
    try:
        config = StudyConfig.model_validate(dict(values))
    except ValidationError as error:
        raise PHLError(f"{name}: {explain(error, StudyConfig)}") from None
    try:
        _check(config)
    except PHLError as error:
        raise PHLError(f"{name}: {error}") from None
    return config


def read_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a TOML file and apply ``section.key=value`` overrides, values written as in TOML.

    Raises:
        PHLError: For a missing file, broken TOML, or anything that does not fit.
    """
    return parse_study(read_toml(path, overrides, command="phl study"), Path(path).name)


def _check(config: StudyConfig) -> None:
    for section, keys in _SET_BY_CELLS.items():
        for key in getattr(config, section).model_fields_set & set(keys):
            raise PHLError(f"{section}.{key} is set for each cell: say it in {keys[key]}")
    named = [*config.weights, *config.tuning.settings, *config.budget.step_cap, config.budget.time_of]
    for scheme in [*named, *(name for block in config.matrix for name in block.schemes)]:
        if scheme not in SCHEMES:
            raise unknown("scheme", scheme, SCHEMES)
    for validator in config.validators.run:
        if validator not in VALIDATORS:
            raise unknown("validator", validator, VALIDATORS)
    for block in config.matrix:
        if min(block.n_probes, default=1) < 1 or not all(0 < f <= 1 for f in block.fractions):
            raise PHLError("matrix: n_probes are at least 1 and fractions above 0, up to 1")
        if min(block.seeds, default=0) < 0:
            raise PHLError("matrix.seeds: expected 0 or more")
    for where, scheme, weights in _all_weights(config):
        wrong = next((key for key in weights if key not in LossSection.model_fields), None)
        if wrong is not None:
            raise unknown(f"weight in {where} of {scheme}", wrong, LossSection.model_fields)
    _check_tuning(config)


def _all_weights(config: StudyConfig):
    yield from (("weights", scheme, weights) for scheme, weights in config.weights.items())
    for scheme, settings in config.tuning.settings.items():
        yield from (("tuning.settings", scheme, weights) for weights in settings)


def _check_tuning(config: StudyConfig) -> None:
    """Equal effort: as many settings for every scheme of the study, or none for any."""
    settings = config.tuning.settings
    if not settings:
        return
    schemes = {name for block in config.matrix for name in block.schemes} | {cell.scheme for cell in config.cell}
    counts = {scheme: len(settings.get(scheme, ())) for scheme in sorted(schemes | set(settings))}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{scheme} {count}" for scheme, count in counts.items())
        raise PHLError(f"tuning.settings: every scheme is given equal effort, so equally many settings; got {shown}")
    both = sorted(set(config.weights) & set(settings))
    if both:
        raise PHLError(f"{both[0]} has weights and tuning.settings; keep one of the two")
