"""Table and figure of ``finetuning.py``: errors before and after, their ratios to E-F, searches that came through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from label_cost_table import METRICS, Record, numbers, observed
from matplotlib.figure import Figure

from phl_ase.plots.style import STYLES, empty, new_figure, panel, plain_ticks
from phl_ase.results import Report
from phl_ase.scoring.paired import mean_estimate, ratio_estimate
from phl_ase.validators import funnels

BASELINE = "E-F"

Row = dict[str, Any]
Runs = dict[int, Mapping[str, Any]]  # of one method, by seed


def rows(runs: Mapping[tuple[str, str, int], Mapping[str, Any]]) -> list[Row]:
    """Each method's errors over its seeds, their ratios to the E-F fine-tuning's on the same frames, and the funnel.

    Args:
        runs: (potential, method, seed) -> ``trained``, ``scores`` and ``searches``, each ``None`` where it is not
            finished.
    """
    groups: dict[tuple[str, str], Runs] = {}
    for (kind, method, seed), run in runs.items():
        groups.setdefault((kind, method), {})[seed] = run
    return [_row(kind, method, of, groups.get((kind, BASELINE), {})) for (kind, method), of in groups.items()]


def _row(kind: str, method: str, runs: Runs, baseline: Runs) -> Row:
    own, base = _scores(runs), _scores(baseline)
    trained = [run["trained"] or {} for run in runs.values()]
    row: Row = {"potential": kind, "method": method, "seeds": [record["seed"] for record in own]}
    for name in ("epochs", "asked_seconds", "cpu_seconds", "best_epoch"):
        row[name] = [one[name] for one in trained if name in one]
    if own:
        row["errors"] = {metric: numbers(mean_estimate(observed(own, metric))) for metric in METRICS}
        row["median_errors"] = medians(own)
    shared = {record["seed"] for record in own} & {record["seed"] for record in base}
    if shared and method != BASELINE:
        own, base = ([record for record in records if record["seed"] in shared] for records in (own, base))
        of, to = medians(own), medians(base)
        row["ratio_of_medians"] = {metric: of[metric] / to[metric] for metric in METRICS}
        row["ratio_to_E-F"] = {
            metric: numbers(ratio_estimate(observed(own, metric), observed(base, metric))) for metric in METRICS
        }
    found = [run["searches"] or {} for run in runs.values()]
    if any(found):
        funnel = funnels(Report.from_dict(one) for searches in found for one in searches.values())[0]
        row["searches"] = {"starts": funnel.starts, "passed": dict(funnel.passed), "complete": funnel.complete}
    return row


def _scores(runs: Runs) -> list[Record]:
    return [{**run["scores"], "seed": seed} for seed, run in runs.items() if run["scores"]]


def medians(records: Sequence[Record]) -> dict[str, float]:
    """Median error over frames and seeds: a model whose curvature is singular somewhere has a mean that says little."""
    return {metric: float(np.median(observed(records, metric).values)) for metric in METRICS}


def text(found: Sequence[Row]) -> str:
    """The table for a terminal: mean and median of each error, in brackets their ratios to the E-F fine-tuning's."""
    lines = [f"{'':11s}{'':11s}{'CPU s':>6s}" + "".join(f"{metric:>30s}" for metric in METRICS) + f"{'searches':>10s}"]
    for row in found:
        parts = []
        for metric in METRICS:
            if "errors" not in row:
                parts.append(f"{'-':>30s}")
                continue
            said = f"{row['errors'][metric][0]:.3g} | {row['median_errors'][metric]:.3g}"
            if "ratio_to_E-F" in row:
                said += f" (× {row['ratio_to_E-F'][metric][0]:.2f} | {row['ratio_of_medians'][metric]:.2f})"
            parts.append(f"{said:>30s}")
        searches = row.get("searches")
        came = f"{searches['complete']}/{searches['starts']}" if searches else "-"
        seconds = np.mean(row["cpu_seconds"]) if row["cpu_seconds"] else float("nan")
        lines.append(f"{row['potential']:11s}{row['method']:11s}{seconds:6.0f}" + "".join(parts) + f"{came:>10s}")
    units = ", ".join(METRICS.values())
    return "\n".join([*lines, f"mean | median over the test frames: {units}; (×: to the E-F fine-tuning)"])


def figure(content: tuple[Sequence[Row], Sequence[str]]) -> Figure:
    """A panel for each error and one for the searches; potentials side by side, methods within them.

    Args:
        content: Rows; methods from left to right.
    """
    found, methods = content
    kinds = list(dict.fromkeys(row["potential"] for row in found))
    of = {(row["potential"], row["method"]): row for row in found}
    drawing = new_figure(3.0 * (len(METRICS) + 1), 3.7)
    panels = drawing.subplots(1, len(METRICS) + 1)
    handles: dict[str, Any] = {}
    for axes, metric in zip(panels, METRICS, strict=False):
        values = {
            key: (*row["errors"][metric], row["median_errors"][metric]) for key, row in of.items() if "errors" in row
        }
        handles |= _points(axes, kinds, methods, values)
        axes.set_ylabel(METRICS[metric])
        if values:
            axes.set_yscale("log")
            plain_ticks(axes)
    searches = {key: row["searches"] for key, row in of.items() if "searches" in row}
    shares = {key: (100 * one["complete"] / one["starts"],) for key, one in searches.items()}
    _points(panels[-1], kinds, methods, shares)
    panels[-1].set_ylabel("complete searches / %")
    panels[-1].set_ylim(0, 105)
    if handles:
        drawing.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return drawing


def _points(
    axes: Any, kinds: Sequence[str], methods: Sequence[str], values: Mapping[tuple[str, str], Sequence[float]]
) -> dict[str, Any]:
    """A value, or (value, low, high, median), for each method of each potential."""
    panel(axes)
    axes.grid(False, axis="x")
    handles: dict[str, Any] = {}
    for (kind, method), (value, *rest) in values.items():
        place = methods.index(method)
        x = kinds.index(kind) + 0.18 * (place - (len(methods) - 1) / 2)
        colour, marker, _ = STYLES[place]
        handles[method] = axes.plot(x, value, marker, color=colour, markersize=7, linestyle="none")[0]
        if rest:
            low, high, median = rest
            axes.vlines(x, max(low, 0.3 * value), high, color=colour, linewidth=1.4, alpha=0.6)
            axes.plot(x, median, marker, markeredgecolor=colour, markerfacecolor="white", markersize=6)
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set_xlim(-0.5, len(kinds) - 0.5)
    if not handles:
        empty(axes, "not run")
    ordered = {method: handles[method] for method in methods if method in handles}
    if ordered and any(len(one) > 1 for one in values.values()):
        ordered["hollow: median"] = axes.plot([], [], "o", markeredgecolor="0.4", markerfacecolor="white")[0]
    return ordered
