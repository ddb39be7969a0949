"""How each run of a study ended, as its folder says: outcome, facts of its training, reports of its validators."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.results import Report, read_reports
from phl_ase.scoring.paired import Observations
from phl_ase.study.plan import Run, Series
from phl_ase.study.progress import last_epoch
from phl_ase.study.quantities import Quantity
from phl_ase.study.run import Study
from phl_ase.study.worker import read_marker
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
    task = study.tasks.get(run)
    if task is None:
        return RunResult(run, "failed", study.refused.get(run, "its data cannot be had"))
    marker, span = read_marker(task.folder), task.length
    facts = {key: marker[key] for key in NUMBERS if key in marker}
    facts |= {"epochs": span.epochs, "steps": span.steps, "capped_from": span.capped_from}
    data = {key: marker[key] for key in _OTHERS if key in marker}
    if not marker or marker.get("fingerprint") != task.digest:
        return RunResult(run, "not run", "its folder holds a run with other settings" if marker else "waits", facts)
    if marker.get("outcome") != "trained":
        if marker.get("outcome") == "failed":
            return RunResult(run, "failed", str(marker.get("reason")), facts, data)
        begun = last_epoch(task.folder) is not None
        return RunResult(run, "not run", "training, or stopped while training" if begun else "waits", facts, data)
    reports, reasons, seconds = {}, [], {}
    for name in task.validators:
        state = marker.get("validators", {}).get(name, {})
        try:
            if state and state.get("digest") not in task.validator_digests(name):
                raise PHLError("done with other options")
            if state.get("outcome") != "done":
                raise PHLError(str(state.get("reason") or "not done yet"))
            reports[name] = read_reports(task.file(name))
            seconds[name] = float(state.get("seconds", 0.0))
        except PHLError as error:
            reasons.append(f"{name}: {error}")
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
    task = study.tasks.get(run)
    try:
        lines = (task.folder / LOG).read_text(encoding="utf-8").splitlines() if task else []
        for line in lines:
            records.append(json.loads(line))  # noqa: PERF401 - what comes before a broken line is kept
    except (OSError, ValueError):
        pass
    return records
