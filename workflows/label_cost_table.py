"""Table and figure of ``label_cost.py``: errors against gradient calls, 95 % intervals over seeds and reactions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from phl_ase.plots.style import STYLES, empty, new_figure, panel, plain_ticks
from phl_ase.scoring.paired import Estimate, Observations, mean_estimate, ratio_estimate

METRICS = {
    "energy": "energy error / (meV/atom)",
    "forces": "forces error / (meV/Å)",
    "hessian": "Hessian error / (eV/Å²)",
    "wavenumbers": "wavenumber error / cm⁻¹",
}
"""Mean absolute errors over the test frames; of wavenumbers, over the stationary points among them."""

BASELINE = "E-F"
STARTS = {False: "from scratch", True: "pre-trained"}

Record = dict[str, Any]
Key = tuple[str, bool, str, int]


def grouped(records: Sequence[Record]) -> dict[Key, list[Record]]:
    """Seeds of each (surface, pre-trained, method, budget)."""
    groups: dict[Key, list[Record]] = {}
    for record in records:
        key = (record["surface"], record["pretrained"], record["method"], record["budget"])
        groups.setdefault(key, []).append(record)
    return groups


def observed(records: Sequence[Record], metric: str) -> Observations:
    """One error of every test frame and seed."""
    parts = []
    for record in records:
        values = np.array(record["errors"][metric], dtype=float)
        there = np.isfinite(values)
        items = np.arange(len(values))[there]
        reactions = np.array(record["reaction"])[there]
        parts.append(Observations(np.full(len(items), record["seed"]), items, reactions, values[there]))
    return Observations.joined(parts)


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Of every group: frames, gradient calls, errors, and their ratios to E-F for the same gradient calls and seeds."""
    groups = grouped(records)
    found = []
    for (surface, start, method, budget), members in sorted(groups.items()):
        other = groups.get((surface, start, BASELINE, budget), [])
        row: dict[str, Any] = {
            "surface": surface,
            "pretrained": start,
            "method": method,
            "budget": budget,
            "seeds": [record["seed"] for record in members],
            "frames": [record["frames"] for record in members],
            "gradients": [record["gradients"] for record in members],
            "cpu_seconds": [record["cpu_seconds"] for record in members],
            "errors": {metric: numbers(mean_estimate(observed(members, metric))) for metric in METRICS},
        }
        if method != BASELINE and other:
            row["ratio_to_E-F"] = {
                metric: numbers(ratio_estimate(observed(members, metric), observed(other, metric)))
                for metric in METRICS
            }
        found.append(row)
    return found


def numbers(estimate: Estimate) -> list[float]:
    """Value and both limits."""
    return [estimate.value, estimate.low, estimate.high]


def text(found: Sequence[dict[str, Any]]) -> str:
    """The table for a terminal: errors, and in brackets their ratio to E-F where its interval leaves out 1."""
    lines = [f"{'':6s}{'':14s}{'method':16s}{'calls':>6s}{'frames':>8s}" + "".join(f"{m:>24s}" for m in METRICS)]
    for row in found:
        cells = []
        for metric in METRICS:
            value, low, high = row["errors"][metric]
            _, below, above = row.get("ratio_to_E-F", {}).get(metric, (math.nan,) * 3)
            sign = "*" if above < 1 or below > 1 else " "
            cells.append(f"{value:8.3g} [{low:.3g}, {high:.3g}]{sign}")
        frames = np.mean(row["frames"])
        lines.append(
            f"{row['surface']:6s}{STARTS[row['pretrained']]:14s}{row['method']:16s}{row['budget']:6d}{frames:8.0f}"
            + "".join(f"{cell:>24s}" for cell in cells)
        )
    return "\n".join([*lines, "* differs from E-F at the same gradient calls (paired 95 % interval of the ratio)"])


# -------------------------------------------------------------------------------------------------------------- figure


def figure(content: tuple[Sequence[dict[str, Any]], dict[str, Record], Sequence[str], dict[str, str]]) -> Figure:
    """Errors against gradient calls; where a surface has one budget, with and without pre-training side by side.

    Args:
        content: Rows; surface -> record of its pre-trained model as it is; methods in the order of the legend; surface
            -> what it is called.
    """
    found, untouched, methods, titles = content
    style = {method: STYLES[place] for place, method in enumerate(methods)}
    lines = [(surface, start) for surface in titles for start in _starts(found, surface)]
    drawing = new_figure(3.4 * len(METRICS), 3.1 * len(lines) + 0.5)
    grid = drawing.subplots(len(lines), len(METRICS), squeeze=False)
    handles: dict[str, Any] = {}
    for axes_row, (surface, start) in zip(grid, lines, strict=True):
        shown = [row for row in found if row["surface"] == surface and start in (None, row["pretrained"])]
        for axes, metric in zip(axes_row, METRICS, strict=True):
            for method in methods:
                handles |= _curve(
                    axes, [r for r in shown if r["method"] == method], metric, style[method], start is None
                )
            level = _level(untouched.get(surface), metric) if start is not False else None
            if level is not None:
                line = axes.axhline(level, color="0.45", linestyle=":", linewidth=1.6)
                handles["pre-trained model as it is"] = line
            _finish(axes, metric, start is None)
        word = f", {shown[0]['budget']} gradient calls" if start is None else f", {STARTS[start]}"
        axes_row[0].set_title(f"{titles[surface]}{word}", loc="left")
    if handles:
        drawing.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return drawing


def _starts(found: Sequence[dict[str, Any]], surface: str) -> list[bool | None]:
    """A row of panels for each kind of start where there are several budgets, else one for both."""
    shown = [row for row in found if row["surface"] == surface]
    one_budget = len({row["budget"] for row in shown}) == 1
    return [None] if one_budget else sorted({row["pretrained"] for row in shown})


def _curve(axes: Any, chosen: list[dict[str, Any]], metric: str, style: Any, by_start: bool) -> dict[str, Any]:
    chosen = [row for row in chosen if np.isfinite(row["errors"][metric][0])]
    if not chosen:
        return {}
    colour, marker, line = style
    place = STYLES.index(style) - 2
    if by_start:
        x = np.array([float(row["pretrained"]) + 0.06 * place for row in chosen])
    else:
        # side by side, so that intervals can be told apart
        x = np.array([row["budget"] * 1.04**place for row in chosen])
    values = np.array([row["errors"][metric] for row in chosen]).T
    order = np.argsort(x)
    x, (mean, low, high) = x[order], values[:, order]
    axes.vlines(x, np.maximum(low, 0.3 * mean), high, color=colour, linewidth=1.2, alpha=0.6)
    drawn = axes.plot(x, mean, line, color=colour, marker=marker, linewidth=1.8, markersize=6)[0]
    return {chosen[0]["method"]: drawn}


def _level(record: Record | None, metric: str) -> float | None:
    values = [] if record is None else [value for value in record["errors"][metric] if value is not None]
    return float(np.mean(values)) if values else None


def _finish(axes: Any, metric: str, by_start: bool) -> None:
    panel(axes)
    axes.set_ylabel(METRICS[metric])
    if not axes.lines:
        empty(axes, "not run")
        return
    axes.set_yscale("log")
    if by_start:
        axes.set_xlim(-0.5, 1.5)
        axes.set_xticks([0, 1], list(STARTS.values()))
    else:
        axes.set_xscale("log")
        axes.set_xlabel("gradient calls of the reference")
        ticks = sorted({round(x) for x in (300, 1000, 3000)})
        axes.set_xticks(ticks, [f"{tick:d}" for tick in ticks])
        axes.minorticks_off()
    plain_ticks(axes)
