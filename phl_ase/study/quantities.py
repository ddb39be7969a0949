"""The quantities by which training methods are compared: what each is, and every value of it in a validator's reports.

This is the one place where the values of metrics and arrays are read of reports for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
        values: Every value in a validator's reports.
        shown: Groups that tables show; all groups are in CSV and JSON.
        is_share: Whether it is the share of what went well, where more is better and ratios say nothing.
        is_error: Whether smaller is better.
        decimals: Digits after the point in tables.
    """

    name: str
    section: str
    validator: str
    unit: str
    groups: tuple[str, ...]
    values: Callable[[Sequence[Report]], Iterable[Value]]
    shown: tuple[str, ...] = ()
    is_share: bool = False
    is_error: bool = True
    decimals: int = 2


Metrics = Mapping[str, Metric]


def _frame_errors(error: str) -> Callable[[Sequence[Report]], Iterator[Value]]:
    """Return a reader of the errors of single frames."""

    def values(reports: Sequence[Report]) -> Iterator[Value]:
        for report in reports:
            arrays = report.arrays
            regions = {name: np.asarray(arrays[f"is_{name}"], dtype=bool) for name in ("near", "far")}
            rows = zip(arrays["frame_id"], arrays["reaction"], arrays[f"{error}_error"], strict=True)
            for place, (frame, reaction, value) in enumerate(rows):
                # JSON has no infinity: NaN is a label that the frame lacks, or a model that exploded, which is counted
                if np.isnan(value) and report.outcome == "scored":
                    continue
                for group in ("all", *(name for name, inside in regions.items() if inside[place])):
                    yield Value(str(frame), str(reaction), group, float(value))

    return values


def _of_metrics(
    read: Callable[[Report, Metrics], float], group_of: Callable[[Report], str]
) -> Callable[[Sequence[Report]], Iterator[Value]]:
    """Return a reader of one number of each report; NaN where a report has none."""

    def values(reports: Sequence[Report]) -> Iterator[Value]:
        for report in reports:
            value = read(report, {metric.name: metric for metric in report.metrics})
            if np.isnan(value):
                continue
            facts, group = report.provenance, group_of(report)
            item = f"{report.system} {facts.get('start', '')}".strip()
            unseen = facts.get("part") in ("test", "left out")
            for one in (group, f"{group}, not trained on") if unseen else (group,):
                yield Value(item, str(facts.get("reaction", "")), one, value)

    return values


def _state(report: Report) -> str:
    own = "own " if report.provenance.get("geometry") == "stationary point of the potential" else ""
    return f"{own}{'TSs' if report.provenance.get('kind') == 'ts' else 'minima'}"


def _reaction(report: Report) -> str:
    return "reactions"


def _magnitude(*names: str) -> Callable[[Report, Metrics], float]:
    """Return a reader of the mean magnitude of metrics; of NaN where a report lacks one."""
    return lambda report, metrics: (
        float(np.mean([abs(metrics[name].value) for name in names])) if all(n in metrics for n in names) else np.nan
    )


def _imaginary(report: Report, metrics: Metrics) -> float:
    found = metrics.get(MetricName.IMAGINARY_WAVENUMBER)
    return abs(found.value - found.reference) if found is not None and found.reference is not None else np.nan


def _barrier(report: Report, metrics: Metrics) -> float:
    """Return the mean barrier error of a search that passed all stages."""
    return _magnitude(*BARRIER_ERRORS.values())(report, metrics) if report.outcome == "found" else np.nan


def _outcome(name: str) -> Callable[[Report, Metrics], float]:
    """Return a reader of whether a report has an outcome, in per cent."""
    return lambda report, metrics: 100.0 * (report.outcome == name)


def _stage(last: str) -> Callable[[Report, Metrics], float]:
    """Return a reader of whether a search passed a stage and all before it, in per cent."""
    order = list(FUNNEL_STAGES)[: list(FUNNEL_STAGES).index(last) + 1]

    def read(report: Report, metrics: Metrics) -> float:
        if metrics and last not in metrics:
            return np.nan
        return 100.0 * (bool(metrics) and all(metrics[name].value == 1 for name in order if name in metrics))

    return read


_STATES = ("TSs", "TSs, not trained on", "minima", "minima, not trained on", "own TSs", "own minima")
_REACTIONS = ("reactions", "reactions, not trained on")
_DECIMALS = {"energy": 1, "forces": 0, "hessian": 3, "lowest_eigenvalue": 2, "saddle_order": 0}

_FREQUENCIES = {
    "frequency": ("frequency error", "cm⁻¹", _magnitude(MetricName.FREQUENCY_MAE), 1),
    "largest_frequency": ("largest frequency error", "cm⁻¹", _magnitude(MetricName.LARGEST_FREQUENCY_ERROR), 0),
    "imaginary": ("imaginary wavenumber error", "cm⁻¹", _imaginary, 1),
    "zpe": ("ZPE error", "meV", _magnitude(MetricName.ZPE_ERROR), 2),
    "order": ("right number of imaginary modes", "%", _outcome("agrees"), 0),
}
_SEARCHES = {
    "converged": ("searches that converge", "%", _stage(MetricName.CONVERGED), 0),
    "first_order": ("… with one imaginary mode", "%", _stage(MetricName.FIRST_ORDER), 0),
    "connected": ("… whose path reaches both ends", "%", _stage(MetricName.CONNECTED), 0),
    "funnel": ("TS searches that pass all stages", "%", _outcome("found"), 0),
    "barrier": ("barrier error of TSs found", "kcal/mol", _barrier, 2),
    "steps": ("steps of a TS search", "", _magnitude(MetricName.STEPS), 1),
    "gradients": ("gradients of a TS search", "", _magnitude(MetricName.FORCE_CALLS), 1),
}
_PATHS = {
    "connects": ("paths that reach both ends", "%", _outcome("connects"), 0),
    "profile": ("path profile RMSE", "kcal/mol", _magnitude(MetricName.PROFILE_RMSE), 2),
    "path_barrier": (
        "barrier error along the path",
        "kcal/mol",
        _magnitude(MetricName.BARRIER_FORWARD_ERROR, MetricName.BARRIER_BACK_ERROR),
        2,
    ),
}


def _table() -> Iterator[tuple[str, Quantity]]:
    regions, title = ("all", "near", "far"), "mean absolute errors of the test frames"
    for key, kind in ERRORS.items():
        table_of = regions if key in ("energy", "forces", "hessian") else ()
        values, decimals = _frame_errors(key), _DECIMALS[key]
        yield key, Quantity(kind.title, title, "accuracy", kind.unit, regions, values, table_of, decimals=decimals)
    for validator, section, table, group_of, groups, shown in (
        ("frequencies", "vibrations", _FREQUENCIES, _state, _STATES, ("TSs", "minima")),
        ("ts", "TS searches with Sella", _SEARCHES, _reaction, _REACTIONS, ("reactions",)),
        ("irc", "reaction paths", _PATHS, _reaction, _REACTIONS, ("reactions",)),
    ):
        for key, (name, unit, read, decimals) in table.items():
            yield (
                key,
                Quantity(
                    name,
                    section,
                    validator,
                    unit,
                    groups,
                    _of_metrics(read, group_of),
                    shown,
                    is_share=unit == "%",
                    is_error=unit not in ("%", ""),
                    decimals=decimals,
                ),
            )


QUANTITIES: dict[str, Quantity] = dict(_table())
"""Key -> what training methods are compared by; barriers and profiles are means over what was found."""
