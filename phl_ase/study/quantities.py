"""The quantities by which training methods are compared: what each is, and every value of it in a validator's reports.

This is the one place where the values of metrics and arrays are read of reports for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from phl_ase.results import Metric, Report
from phl_ase.scoring import ERRORS
from phl_ase.validators.funnel import FUNNEL_STAGES
from phl_ase.validators.names import BARRIER_ERRORS, MetricName


class Value(NamedTuple):
    """One value of a quantity.

    Attributes:
        item: What was predicted, alike for every model: a frame, a start of a search, ….
        reaction: Its reaction; empty where unknown.
        group: One group that the value belongs to; a value is there once for each of its groups.
        value: The number.
    """

    item: str
    reaction: str
    group: str
    value: float


@dataclass(frozen=True)
class Quantity:
    """One number by which training methods are compared.

    Attributes:
        name: In tables.
        section: Heading that it stands under in tables.
        validator: Whose reports hold it.
        unit: Its unit.
        groups: Groups of items that it is averaged over.
        shown: Groups that tables show; all groups are in CSV and JSON.
        decimals: Digits after the point in tables.
        read: Every value in a validator's report.
    """

    name: str
    section: str
    validator: str
    unit: str
    groups: tuple[str, ...]
    shown: tuple[str, ...]
    decimals: int
    read: Callable[[Report], Iterable[Value]]

    @property
    def is_share(self) -> bool:
        """Return whether it is the share of what went well, where more is better and ratios say nothing."""
        return self.unit == "%" and self.validator != "accuracy"

    @property
    def is_error(self) -> bool:
        """Return whether smaller is better."""
        return bool(self.unit) and not self.is_share

    def values(self, reports: Iterable[Report]) -> list[Value]:
        """Return every value in a validator's reports."""
        return [value for report in reports for value in self.read(report)]


Metrics = Mapping[str, Metric]
_Reader = Callable[[Report, Metrics], float]  # NaN where a report has no such number


def _magnitude(*names: str) -> _Reader:
    """Return a reader of the mean magnitude of metrics."""
    return lambda report, metrics: (
        float(np.mean([abs(metrics[name].value) for name in names])) if all(n in metrics for n in names) else np.nan
    )


def _outcome(name: str) -> _Reader:
    """Return a reader of whether a report has an outcome, in per cent."""
    return lambda report, metrics: 100.0 * (report.outcome == name)


def _stage(last: str) -> _Reader:
    """Return a reader of whether a search passed a stage and all before it, in per cent."""
    order = list(FUNNEL_STAGES)[: list(FUNNEL_STAGES).index(last) + 1]

    def read(report: Report, metrics: Metrics) -> float:
        if metrics and last not in metrics:
            return np.nan
        return 100.0 * (bool(metrics) and all(metrics[name].value == 1 for name in order if name in metrics))

    return read


def _imaginary(report: Report, metrics: Metrics) -> float:
    found = metrics.get(MetricName.IMAGINARY_WAVENUMBER)
    return abs(found.value - found.reference) if found is not None and found.reference is not None else np.nan


def _barrier(report: Report, metrics: Metrics) -> float:
    """Return the mean barrier error of a search that passed all stages."""
    return _magnitude(*BARRIER_ERRORS.values())(report, metrics) if report.outcome == "found" else np.nan


_PATH_BARRIERS = (MetricName.BARRIER_FORWARD_ERROR, MetricName.BARRIER_BACK_ERROR)
_REGIONS = ("all", "near", "far")
_REACTIONS = ("reactions", "reactions, not trained on")

# validator -> heading, groups, groups shown, and key -> name, unit, decimals, reader of one number of each report
_OF_METRICS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], Mapping[str, tuple[str, str, int, _Reader]]]] = {
    "frequencies": (
        "vibrations",
        ("TSs", "TSs, not trained on", "minima", "minima, not trained on", "own TSs", "own minima"),
        ("TSs", "minima"),
        {
            "frequency": ("frequency error", "cm⁻¹", 1, _magnitude(MetricName.FREQUENCY_MAE)),
            "largest_frequency": (
                "largest frequency error",
                "cm⁻¹",
                0,
                _magnitude(MetricName.LARGEST_FREQUENCY_ERROR),
            ),
            "imaginary": ("imaginary wavenumber error", "cm⁻¹", 1, _imaginary),
            "zpe": ("ZPE error", "meV", 2, _magnitude(MetricName.ZPE_ERROR)),
            "order": ("right number of imaginary modes", "%", 0, _outcome("agrees")),
        },
    ),
    "ts": (
        "TS searches with Sella",
        _REACTIONS,
        _REACTIONS[:1],
        {
            "converged": ("searches that converge", "%", 0, _stage(MetricName.CONVERGED)),
            "first_order": ("… with one imaginary mode", "%", 0, _stage(MetricName.FIRST_ORDER)),
            "connected": ("… whose path reaches both ends", "%", 0, _stage(MetricName.CONNECTED)),
            "funnel": ("TS searches that pass all stages", "%", 0, _outcome("found")),
            "barrier": ("barrier error of TSs found", "kcal/mol", 2, _barrier),
            "steps": ("steps of a TS search", "", 1, _magnitude(MetricName.STEPS)),
            "gradients": ("gradients of a TS search", "", 1, _magnitude(MetricName.FORCE_CALLS)),
        },
    ),
    "irc": (
        "reaction paths",
        _REACTIONS,
        _REACTIONS[:1],
        {
            "connects": ("paths that reach both ends", "%", 0, _outcome("connects")),
            "profile": ("path profile RMSE", "kcal/mol", 2, _magnitude(MetricName.PROFILE_RMSE)),
            "path_barrier": ("barrier error along the path", "kcal/mol", 2, _magnitude(*_PATH_BARRIERS)),
        },
    ),
}


def _frame_errors(error: str) -> Callable[[Report], Iterator[Value]]:
    """Return a reader of the errors of single frames."""

    def read(report: Report) -> Iterator[Value]:
        arrays = report.arrays
        names = ("frame_id", "reaction", f"{error}_error", "is_near", "is_far")
        for frame, reaction, value, near, far in zip(*(arrays[name] for name in names), strict=True):
            # JSON has no infinity: NaN is a label that the frame lacks, or a model that exploded, which is counted
            if np.isnan(value) and report.outcome == "scored":
                continue
            for group, inside in zip(_REGIONS, (True, near, far), strict=True):
                if inside:
                    yield Value(str(frame), str(reaction), group, float(value))

    return read


def _of_metrics(validator: str, number: _Reader) -> Callable[[Report], Iterator[Value]]:
    """Return a reader of one number of each report."""

    def read(report: Report) -> Iterator[Value]:
        value, facts = number(report, {metric.name: metric for metric in report.metrics}), report.provenance
        if np.isnan(value):
            return
        group = "reactions"
        if validator == "frequencies":
            own = "own " if facts.get("geometry") == "stationary point of the potential" else ""
            group = f"{own}{'TSs' if facts.get('kind') == 'ts' else 'minima'}"
        item = f"{report.system} {facts.get('start', '')}".strip()
        unseen = facts.get("part") in ("test", "left out")
        for one in (group, f"{group}, not trained on") if unseen else (group,):
            yield Value(item, str(facts.get("reaction", "")), one, value)

    return read


_DECIMALS = {"energy": 1, "forces": 0, "hessian": 3, "lowest_eigenvalue": 2, "saddle_order": 0}

QUANTITIES: dict[str, Quantity] = {
    key: Quantity(
        kind.title,
        "mean absolute errors of the test frames",
        "accuracy",
        kind.unit,
        _REGIONS,
        _REGIONS if key in ("energy", "forces", "hessian") else (),
        _DECIMALS[key],
        _frame_errors(key),
    )
    for key, kind in ERRORS.items()
} | {
    key: Quantity(name, section, validator, unit, groups, shown, decimals, _of_metrics(validator, number))
    for validator, (section, groups, shown, table) in _OF_METRICS.items()
    for key, (name, unit, decimals, number) in table.items()
}
"""Key -> what training methods are compared by; barriers and profiles are means over what was found."""
