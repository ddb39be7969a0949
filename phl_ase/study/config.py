"""The configuration of a study: one TOML file, strict about every key and every name.

The sections ``data``, ``potential``, ``loss`` and ``training`` are those of ``phl train``. The others say which runs
there are, how long they train, how the models are validated, and which claims the report judges.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from phl_ase.datasets import SPLITS
from phl_ase.errors import PHLError, unknown
from phl_ase.objective import SCHEMES
from phl_ase.paths import INTEGRATORS, STRATEGIES
from phl_ase.probes.families import FAMILIES
from phl_ase.scoring import MARGIN
from phl_ase.study.packaged import DEMO, packaged
from phl_ase.training.config import (
    DataSection,
    LossSection,
    PotentialSection,
    TrainingSection,
    explain,
    read_toml,
)

PROPERTIES = ("energy", "forces", "hessian")
"""Errors that claims, tuning and learning curves are about."""


def _one_of(what: str, table: Collection[str]) -> AfterValidator:
    """Return a check that a name is in a table; the error lists the names that are."""

    def check(name: str) -> str:
        if name not in table:
            raise PydanticCustomError("unknown_name", "{reason}", {"reason": str(unknown(what, name, table))})
        return name

    return AfterValidator(check)


SchemeName = Annotated[str, _one_of("scheme", SCHEMES)]
SplitName = Annotated[str, _one_of("split", SPLITS)]
FamilyName = Annotated[str, _one_of("probe family", [name for name, one in FAMILIES.items() if not one.complete])]
LossName = Annotated[str, _one_of("loss weight", LossSection.model_fields)]
Regime = Literal["fresh", "fixed"]
HVPMethod = Literal["exact", "differences"]
Budget = Literal["epochs", "time"]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Quantity = Annotated[str, _one_of("property", PROPERTIES)]


class Section(BaseModel):
    """A section of the configuration: immutable, no unknown keys, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --------------------------------------------------------------------------------------------------------- validators


class FrequenciesSection(Section):
    """Harmonic frequencies at the reference's stationary points."""

    relaxed: bool = Field(False, description="at the model's own stationary points too")
    kinds: tuple[Literal["reactant", "product", "ts"], ...] = ("reactant", "product", "ts")


class SearchSection(Section):
    """TS searches with Sella from displaced TSs."""

    displacement: float = Field(0.1, gt=0, description="RMS, Å")
    starts: Count = Field(2, description="for each TS")
    seed: Seed = 0
    strategy: Annotated[str, _one_of("Sella strategy", STRATEGIES)] | None = Field(
        None, description="as in phl validate ts; by default what suits the calculator"
    )
    max_steps: Count = 200
    follow: bool = Field(True, description="follow the reaction path from each TS found")


class PathSection(Section):
    """Reaction paths from the model's own TSs."""

    method: Annotated[str, _one_of("integrator of reaction paths", INTEGRATORS)] = "sella"
    step: float = Field(0.1, gt=0, description="√amu·Å")


class PhononsSection(Section):
    """Phonons of a crystal."""

    crystal: str = Field("", description="a file of the unit cell")
    supercell: tuple[int, ...] = (3, 3, 3)
    reference: str = Field("emt", description="METHOD")
    mesh: tuple[Count, Count, Count] = (10, 10, 10)


class ValidatorsSection(Section):
    """Validators of every trained model, and their options."""

    run: tuple[str, ...] = ("accuracy", "frequencies", "ts", "irc")
    reactions: tuple[str, ...] = Field((), description="to search and follow; by default all with test frames")
    unseen: bool = Field(False, description="only reactions whose TS was not trained on")
    frequencies: FrequenciesSection = FrequenciesSection()
    ts: SearchSection = SearchSection()
    irc: PathSection = PathSection()
    phonons: PhononsSection = PhononsSection()


# ---------------------------------------------------------------------------------------------------------------- runs


class MatrixSection(Section):
    """One block of runs: every combination of its lists that exists."""

    schemes: tuple[SchemeName, ...] = tuple(SCHEMES)
    regimes: tuple[Regime, ...] = ("fresh",)
    n_probes: tuple[Count, ...] = Field((1,), description="K of the fixed regime; fresh probes are one for each frame")
    probes: tuple[FamilyName, ...] = Field(("rademacher",), description="families of E-F-HVP-random")
    hvps: tuple[HVPMethod, ...] = Field(("exact",), description="as scheme.hvp in phl train")
    splits: tuple[SplitName, ...] = ("random",)
    seeds: tuple[Seed, ...] = Field((0, 1, 2), description="of split, weights, batches and probes")
    fractions: tuple[Fraction, ...] = Field((1.0,), description="of the training frames, for learning curves")
    budgets: tuple[Budget, ...] = ("epochs",)


class MethodSection(Section):
    """A training method; what is left out is at its default."""

    scheme: SchemeName
    regime: Regime | None = None
    n_probes: Count | None = None
    probes: FamilyName | None = None
    hvps: HVPMethod | None = None


class RunSection(MethodSection):
    """One run, named."""

    split: SplitName = "random"
    seed: Seed = 0
    fraction: Fraction = 1.0
    budget: Budget = "epochs"


class BudgetSection(Section):
    """Length of the training of a run."""

    epochs: Count = Field(200, description="equal epochs; fewer frames are given as many steps")
    epochs_of: dict[SplitName, Count] = Field({}, description="split -> its own number")
    time_of: SchemeName = Field("E-F-HVP-random", description="equal time: what this scheme, fresh, takes …")
    time_epochs: Count = Field(300, description="… for so many epochs")
    clock: Literal["processor", "wall"] = Field("processor", description="what equal time is equal in")
    step_cap: dict[SchemeName, Count] = Field({"E-F-H": 20000}, description="scheme -> most optimiser steps of a run")
    rounds: int = Field(5, ge=0, description="how often steps are timed, the schemes in turn; 0: not at all")


class TuningSection(Section):
    """Loss weights chosen by validation, equally many settings tried for every scheme."""

    epochs: Count = 60
    split: SplitName = "random"
    seed: Seed = 0
    settings: dict[SchemeName, tuple[dict[LossName, float], ...]] = Field({}, description="scheme -> weights to try")


# -------------------------------------------------------------------------------------------------------------- report


class ClaimSection(Section):
    """A claim about two training methods that the report judges in every split and budget."""

    text: str
    expect: Literal["match", "smaller", "faster"] = Field(description="errors that match, smaller errors, faster steps")
    of: MethodSection
    to: MethodSection
    properties: tuple[Quantity, ...] = PROPERTIES
    change: tuple[Literal["all", "near", "far"], Literal["all", "near", "far"]] | None = Field(
        None, description='also a smaller ratio in the first group than in the second: ["far", "near"]'
    )
    control: MethodSection | None = Field(
        None, description="trained without curvature: where its Hessian errors match too, nothing is decided"
    )
    margin: tuple[float, float] = Field(MARGIN, description="error ratios that match")
    factor: float = Field(1.0, gt=0, description="how many times faster")


class SearchedReaction(Section):
    """A reaction whose first TS search the report shows in full."""

    reaction: str
    name: str = ""
    reactant: str = "reactant"
    product: str = "product"


class ReportSection(Section):
    """Contents of the report beside the results."""

    baseline: SchemeName = Field("E-F-H", description="error ratios are to this scheme")
    note: str = Field("", description="a sentence at the top")
    explain: bool = Field(False, description="say what schemes and numbers mean")
    search: SearchedReaction | None = None


class StudyConfig(Section):
    """Everything a study depends on."""

    title: str = "What supervising curvature buys"
    data: DataSection = DataSection()
    potential: PotentialSection = PotentialSection()
    loss: LossSection = LossSection()
    training: TrainingSection = TrainingSection()
    weights: dict[SchemeName, dict[LossName, float]] = Field({}, description="scheme -> its own loss weights")
    tuning: TuningSection = TuningSection()
    budget: BudgetSection = BudgetSection()
    validators: ValidatorsSection = ValidatorsSection()
    report: ReportSection = ReportSection()
    matrix: tuple[MatrixSection, ...] = (MatrixSection(),)
    run: tuple[RunSection, ...] = ()
    claim: tuple[ClaimSection, ...] = ()

    @property
    def split_seed(self) -> int | None:
        """Seed of one split for all runs; ``None`` where every seed splits anew."""
        return self.data.split_seed if "split_seed" in self.data.model_fields_set else None

    def to_json(self) -> dict[str, Any]:
        """Plain values, enough to read the configuration again."""
        excluded = {section: set(keys) for section, keys in _SET_BY_RUNS.items()}
        if self.split_seed is None:
            excluded["data"].add("split_seed")
        return self.model_dump(mode="json", by_alias=True, exclude=excluded, exclude_none=True)


# what a run says of itself and a section of all runs therefore cannot
_SET_BY_RUNS = {
    "data": {"split": "matrix.splits"},
    "training": {"seed": "matrix.seeds", "epochs": "budget.epochs"},
}


def parse_study(values: Mapping[str, Any], name: str = "configuration") -> StudyConfig:
    """Check plain values.

    Raises:
        PHLError: One line for the first mistake, naming the valid keys or names.
    """
    try:
        config = StudyConfig.model_validate(dict(values))
        _check(config)
    except ValidationError as error:
        raise PHLError(f"{name}: {explain(error, StudyConfig)}") from None
    except PHLError as error:
        raise PHLError(f"{name}: {error}") from None
    return config


def read_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a TOML file and apply ``section.key=value`` overrides, values written as in TOML.

    Raises:
        PHLError: For a missing file, broken TOML, or anything that does not fit.
    """
    return parse_study(read_toml(path, overrides, command="phl study"), Path(path).name)


def read_demo(*, epochs: int | None = None, quick: bool = False, **sections: Mapping[str, Any]) -> StudyConfig:
    """Return the configuration of ``phl demo``.

    Args:
        epochs: Epochs of every scheme; by default those of the file.
        quick: A few epochs of small models, to see that everything works.
        **sections: Keys that replace those of the file, by section.
    """
    values = tomllib.loads(packaged(DEMO))
    changes: list[Mapping[str, Any]] = [sections]
    if quick:
        note = "Quick mode: a few epochs of small models. The numbers mean nothing."
        changes.append({"budget": {"epochs": 5}, "potential": {"channels": 16}, "report": {"note": note}})
    if epochs is not None:
        changes.append({"budget": {"epochs": epochs}})
    for change in changes:
        for section, keys in change.items():
            values[section] = {**values.get(section, {}), **keys}
    return parse_study(values, DEMO)


def _check(config: StudyConfig) -> None:
    """Check what concerns several keys.

    Raises:
        PHLError: For the first mistake.
    """
    from phl_ase.study.plan import plan_runs
    from phl_ase.study.validation import VALIDATORS

    for section, keys in _SET_BY_RUNS.items():
        for key in getattr(config, section).model_fields_set & set(keys):
            raise PHLError(f"{section}.{key} is set for each run: say it in {keys[key]}")
    for validator in config.validators.run:
        if validator not in VALIDATORS:
            raise unknown("validator", validator, VALIDATORS)
    if "phonons" in config.validators.run and not Path(config.validators.phonons.crystal).is_file():
        crystal = config.validators.phonons.crystal
        raise PHLError(f"validators.phonons.crystal is {crystal!r}; expected a file of a unit cell")
    runs = plan_runs(config)
    timed = any(run.series.budget == "time" for run in runs) or any(claim.expect == "faster" for claim in config.claim)
    if config.budget.rounds < (2 if timed else 0):
        raise PHLError("budget.rounds: equal time and claims of speed need steps timed at least twice")
    settings = config.tuning.settings
    if settings:
        counts = {
            scheme: len(settings.get(scheme, ())) for scheme in sorted({r.method.scheme for r in runs} | {*settings})
        }
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{scheme} {count}" for scheme, count in counts.items())
            raise PHLError(
                f"tuning.settings: every scheme is given equal effort, so equally many settings; got {shown}"
            )
        for scheme in sorted(set(config.weights) & set(settings)):
            raise PHLError(f"{scheme} has weights and tuning.settings; keep one of the two")
