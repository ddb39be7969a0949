"""What the cells of a study have left in their folders: how each ended, and every value by seed and frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.results import Report, read_reports
from phl_ase.scoring import ERRORS
from phl_ase.scoring.paired import Observations
from phl_ase.study.matrix.cells import Arm, Cell
from phl_ase.study.matrix.running import Study
from phl_ase.study.progress import last_epoch
from phl_ase.study.worker import read_marker

Value = tuple[str, str, str, float]
"""Item, reaction, group it belongs to, value."""


@dataclass(frozen=True, eq=False)
class CellResult:
    """What became of a cell.

    Attributes:
        cell: The cell.
        outcome: ``done``, ``trained`` (a validator failed or is missing), ``failed`` or ``not run``.
        reason: Why it is not done; empty where it is.
        facts: Numbers of its training: seconds, cpu_seconds, epochs, steps, capped_from, best_epoch,
            training_frames, gradient_calls.
        reports: Validator -> its reports, of those that have answered.
        seconds: Validator -> how long it took, s.
    """

    cell: Cell
    outcome: str
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    reports: Mapping[str, tuple[Report, ...]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


_FACTS = ("seconds", "cpu_seconds", "best_epoch", "training_frames", "gradient_calls")


def read_cells(study: Study) -> list[CellResult]:
    """How every cell stands; nothing is computed."""
    return [_read_cell(study, cell) for cell in study.plan.cells]


def _read_cell(study: Study, cell: Cell) -> CellResult:
    job = study.jobs.get(cell)
    if job is None:
        return CellResult(cell, "failed", study.refused.get(cell, "its data cannot be had"))
    marker = read_marker(job.folder)
    facts = {key: marker[key] for key in _FACTS if key in marker}
    span = study.lengths[cell]
    facts |= {"epochs": span.epochs, "steps": span.steps, "capped_from": span.capped_from}
    if not marker or marker.get("fingerprint") != job.digest:
        reason = "its folder holds a run with other settings or of another version" if marker else "waits"
        return CellResult(cell, "not run", reason, facts)
    if marker.get("outcome") != "trained":
        if marker.get("outcome") == "failed":
            return CellResult(cell, "failed", str(marker.get("reason")), facts)
        begun = last_epoch(job.folder) is not None
        return CellResult(cell, "not run", "stopped while training, or at it" if begun else "waits", facts)
    reports, reasons, seconds = {}, [], {}
    for name in job.validators:
        state = marker.get("validators", {}).get(name, {})
        try:
            if state.get("outcome") != "done" or state.get("digest") != job.digest_of(name):
                raise PHLError(str(state.get("reason") or "not asked yet"))
            reports[name] = read_reports(job.file(name))
            seconds[name] = float(state.get("seconds", 0.0))
        except PHLError as error:
            reasons.append(f"{name}: {error}")
    return CellResult(cell, "trained" if reasons else "done", "; ".join(reasons), facts, reports, seconds)


@dataclass(frozen=True)
class Quantity:
    """One number that methods are compared by.

    Attributes:
        name: In tables.
        validator: Whose reports hold it.
        unit: Its unit.
        groups: Groups of items that it is averaged over, the first the one that figures show.
        values: Of a validator's reports, every value.
        is_share: Whether it is the share of what went well, where more is better and ratios say nothing.
        decimals: Digits after the point in tables.
    """

    name: str
    validator: str
    unit: str
    groups: tuple[str, ...]
    values: Callable[[Sequence[Report]], Iterable[Value]]
    is_share: bool = False
    decimals: int = 2


def observations(quantity: Quantity, group: str, results: Iterable[CellResult]) -> Observations:
    """Values of a quantity over the cells of one arm."""
    parts = []
    for result in results:
        found = [v for v in quantity.values(result.reports.get(quantity.validator, ())) if v[2] == group]
        if found:
            items, reactions, _, values = zip(*found, strict=True)
            seeds = np.full(len(found), result.cell.seed)
            parts.append(Observations(seeds, np.array(items), np.array(reactions), np.array(values, dtype=float)))
    return Observations.joined(parts)


def by_arm(results: Iterable[CellResult]) -> dict[Arm, list[CellResult]]:
    """Cells that differ in their seed alone, together."""
    arms: dict[Arm, list[CellResult]] = {}
    for result in results:
        arms.setdefault(result.cell.arm, []).append(result)
    return arms


# ------------------------------------------------------------------------------------------ what is read of the reports


def _of_accuracy(error: str) -> Callable[[Sequence[Report]], Iterable[Value]]:
    def values(reports: Sequence[Report]) -> Iterable[Value]:
        for report in reports:
            arrays = report.arrays
            near, far = (np.asarray(arrays[f"is_{region}"], dtype=bool) for region in ("near", "far"))
            rows = zip(arrays["frame_id"], arrays["reaction"], arrays[f"{error}_error"], near, far, strict=True)
            for frame, reaction, value, is_near, is_far in rows:
                # JSON has no infinity: NaN is a label that the frame lacks, or a model that exploded, which is counted
                if np.isnan(value) and report.outcome == "scored":
                    continue
                for group, inside in (("all", True), ("near", is_near), ("far", is_far)):
                    if inside:
                        yield str(frame), str(reaction), group, float(value)

    return values


def _of_metric(
    read: Callable[[Mapping[str, Any]], float], grouped: Callable[[Report], str]
) -> Callable[[Sequence[Report]], Iterable[Value]]:
    """Values that are read of each report's metrics (name -> metric; outcome under ``outcome``), where it has them."""

    def values(reports: Sequence[Report]) -> Iterable[Value]:
        for report in reports:
            facts = report.provenance
            item = f"{report.system} {facts.get('start', '')}".strip()
            metrics: dict[str, Any] = {metric.name: metric for metric in report.metrics}
            value = read({**metrics, "outcome": report.outcome})
            if np.isnan(value):
                continue
            kind = grouped(report)
            unseen = facts.get("part") in ("test", "left out")
            for group in (kind, f"{kind}, not trained on") if unseen else (kind,):
                yield item, str(facts.get("reaction", "")), group, value

    return values


def _kind(report: Report) -> str:
    where = "own " if report.provenance.get("geometry") == "stationary point of the potential" else ""
    return f"{where}{'TSs' if report.provenance.get('kind') == 'ts' else 'minima'}"


def _reaction(report: Report) -> str:
    return "reactions"


def _value(name: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda metrics: abs(metrics[name].value) if name in metrics else float("nan")


def _imaginary(metrics: Mapping[str, Any]) -> float:
    found = metrics.get("imaginary wavenumber")
    return abs(found.value - found.reference) if found is not None and found.reference is not None else float("nan")


def _mean_barrier(metrics: Mapping[str, Any]) -> float:
    errors = [abs(m.value) for name, m in metrics.items() if name.startswith("barrier error")]
    return float(np.mean(errors)) if errors else float("nan")


def _path_barrier(metrics: Mapping[str, Any]) -> float:
    names = ("barrier forward error", "barrier back error")
    return float(np.mean([abs(metrics[n].value) for n in names])) if names[0] in metrics else float("nan")


def _share(outcome: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda metrics: 100.0 * (metrics["outcome"] == outcome)


_STATES = ("TSs", "TSs, not trained on", "minima", "minima, not trained on", "own TSs", "own minima")
_PATHS = ("reactions", "reactions, not trained on")
_REGIONS = ("all", "near", "far")
_DECIMALS = {"energy": 1, "forces": 0, "hessian": 3, "lowest_eigenvalue": 2, "saddle_order": 0}

QUANTITIES: dict[str, Quantity] = {
    **{
        name: Quantity(kind.title, "accuracy", kind.unit, _REGIONS, _of_accuracy(name), decimals=_DECIMALS[name])
        for name, kind in ERRORS.items()
    },
    **{
        name: Quantity(title, "frequencies", unit, _STATES, _of_metric(read, _kind), is_share, decimals)
        for name, title, unit, read, is_share, decimals in (
            ("frequency", "frequency error", "cm⁻¹", _value("frequency MAE"), False, 1),
            ("imaginary", "imaginary wavenumber error", "cm⁻¹", _imaginary, False, 1),
            ("zpe", "ZPE error", "meV", _value("ZPE error"), False, 2),
            ("order", "right number of imaginary modes", "%", _share("agrees"), True, 0),
        )
    },
    **{
        name: Quantity(title, validator, unit, _PATHS, _of_metric(read, _reaction), is_share, decimals)
        for name, title, validator, unit, read, is_share, decimals in (
            ("funnel", "TS searches that pass all stages", "ts", "%", _share("found"), True, 0),
            ("barrier", "barrier error of TSs found", "ts", "kcal/mol", _mean_barrier, False, 2),
            ("gradients", "gradients of a TS search", "ts", "", _value("force calls"), False, 1),
            ("connects", "paths that reach both ends", "irc", "%", _share("connects"), True, 0),
            ("profile", "path profile RMSE", "irc", "kcal/mol", _value("profile RMSE"), False, 2),
            ("path_barrier", "barrier error along the path", "irc", "kcal/mol", _path_barrier, False, 2),
        )
    },
}
"""Key -> what methods are compared by; the barriers and profiles are means over what was found."""
