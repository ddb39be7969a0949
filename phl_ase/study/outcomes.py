"""Outcomes of the runs of a study, as its folder says: facts of its training, reports of its validators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phl_ase.results import Report
from phl_ase.scoring.paired import Observations
from phl_ase.study.plan import Run, Series
from phl_ase.study.quantities import Quantity
from phl_ase.study.run import Study
from phl_ase.training.checkpoint import last_epoch


@dataclass(frozen=True, eq=False)
class RunResult:
    """Outcome of a run.

    Attributes:
        run: The run.
        outcome: ``done``, ``trained`` (a validator failed or is missing), ``failed`` or ``not run``.
        reason: Why it is not done; empty where it is.
        facts: Of its training: epochs, steps, capped_from, and what ``worker`` returned.
        reports: Validator -> its reports, of those that are done.
        seconds: Validator -> how long it took, s.
    """

    run: Run
    outcome: str
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    reports: Mapping[str, tuple[Report, ...]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


def read_run(study: Study, run: Run) -> RunResult:
    """Return how a run stands; nothing is computed."""
    planned = study.planned.get(run)
    if planned is None:
        return RunResult(run, "failed", study.refused.get(run, "its data cannot be had"))
    span, training = planned.length, study.store.get(planned.key)
    facts = {"epochs": span.epochs, "steps": span.steps, "capped_from": span.capped_from}
    if training is None:
        begun = last_epoch(planned.folder) > 0
        return RunResult(run, "not run", "training, or stopped while training" if begun else "waits", facts)
    if training.failure is not None:
        return RunResult(run, "failed", training.failure.reason, facts)
    reports, reasons, seconds = {}, [], {}
    for name in planned.validators:
        record = study.store.get(planned.validator_key(name))
        if record is None:
            reasons.append(f"{name}: not done yet")
        elif record.failure is not None:
            reasons.append(f"{name}: {record.failure.reason}")
        else:
            reports[name] = tuple(Report.from_dict(one) for one in record.value)
            seconds[name] = record.cpu_seconds
    outcome = "trained" if reasons else "done"
    return RunResult(run, outcome, "; ".join(reasons), facts | training.value, reports, seconds)


def by_series(results: Iterable[RunResult]) -> dict[Series, list[RunResult]]:
    """Return runs that differ in their seed alone, together."""
    series: dict[Series, list[RunResult]] = {}
    for result in results:
        series.setdefault(result.run.series, []).append(result)
    return series


def observations(quantity: Quantity, group: str, results: Iterable[RunResult]) -> Observations:
    """Return the values of a quantity over the runs of one series."""
    found = [
        (result.run.seed, value)
        for result in results
        for value in quantity.values(result.reports.get(quantity.validator, ()))
        if value.group == group
    ]
    return Observations(
        np.array([seed for seed, _ in found], dtype=int),
        np.array([value.item for _, value in found], dtype=str),
        np.array([value.reaction for _, value in found], dtype=str),
        np.array([value.value for _, value in found], dtype=float),
    )
