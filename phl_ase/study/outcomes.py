"""How each run of a study ended, as its folder says: outcome, facts of its training, reports of its validators."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phl_ase.results import Report
from phl_ase.scoring.paired import Observations
from phl_ase.study.plan import Run, Series
from phl_ase.study.quantities import Quantity
from phl_ase.study.run import Study
from phl_ase.study.worker import last_epoch
from phl_ase.training.checkpoint import LOG

NUMBERS = ("seconds", "cpu_seconds", "best_epoch", "training_frames", "gradient_calls")
_OTHERS = ("frames", "transition_states", "level_of_theory")


@dataclass(frozen=True, eq=False)
class RunResult:
    """What became of a run.

    Attributes:
        run: The run.
        outcome: ``done``, ``trained`` (a validator failed or is missing), ``failed`` or ``not run``.
        reason: Why it is not done; empty where it is.
        facts: Numbers of its training: ``NUMBERS``, epochs, steps, capped_from.
        data: Number of frames and names of TSs in each part, and level of theory.
        reports: Validator -> its reports, of those that are done.
        seconds: Validator -> how long it took, s.
    """

    run: Run
    outcome: str
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
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
        begun = last_epoch(planned.folder) is not None
        return RunResult(run, "not run", "training, or stopped while training" if begun else "waits", facts)
    if training.failure is not None:
        return RunResult(run, "failed", training.failure.reason, facts)
    facts |= {key: training.value[key] for key in NUMBERS if key in training.value}
    data = {key: training.value[key] for key in _OTHERS if key in training.value}
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
    return RunResult(run, "trained" if reasons else "done", "; ".join(reasons), facts, data, reports, seconds)


def by_series(results: Iterable[RunResult]) -> dict[Series, list[RunResult]]:
    """Return runs that differ in their seed alone, together."""
    series: dict[Series, list[RunResult]] = {}
    for result in results:
        series.setdefault(result.run.series, []).append(result)
    return series


def observations(quantity: Quantity, group: str, results: Iterable[RunResult]) -> Observations:
    """Return the values of a quantity over the runs of one series."""
    parts = []
    for result in results:
        found = [v for v in quantity.values(result.reports.get(quantity.validator, ())) if v.group == group]
        if found:
            items, reactions, _, values = zip(*found, strict=True)
            seeds = np.full(len(found), result.run.seed)
            parts.append(Observations(seeds, np.array(items), np.array(reactions), np.array(values, dtype=float)))
    return Observations.joined(parts)


def training_log(study: Study, run: Run) -> list[dict[str, Any]]:
    """Return what training wrote after each epoch; the last line may be broken off."""
    records: list[dict[str, Any]] = []
    planned = study.planned.get(run)
    try:
        lines = (planned.folder / LOG).read_text(encoding="utf-8").splitlines() if planned else []
        for line in lines:
            records.append(json.loads(line))  # noqa: PERF401 - what comes before a broken line is kept
    except (OSError, ValueError):
        pass
    return records
