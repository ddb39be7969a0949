"""Figures that are a study's own: parity of several methods, training curves of several seeds, cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phl_ase.plots.style import COMPARED, empty, new_figure, panel, plain_ticks, plain_ticks_along, to_png
from phl_ase.results import Report
from phl_ase.scoring import ERRORS
from phl_ase.study.matrix.budget import cost_key
from phl_ase.study.matrix.cells import Arm
from phl_ase.training.checkpoint import LOG

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phl_ase.study.matrix.tables import Outcome

_PAIRS = (("energy", "eV"), ("forces", "eV/Å"), ("hessian", "eV/Å²"))
_VALIDATION = (
    ("valid_energy", 1e3, "energy / (meV/atom)"),
    ("valid_forces", 1e3, "forces / (meV/Å)"),
    ("valid_curvature", 1.0, "Hessian / (eV/Å²)"),
)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A figure of the report.

    Attributes:
        section: Heading that it stands under.
        name: Of its file.
        caption: Below it.
        draw: Draws it.
    """

    section: str
    name: str
    caption: str
    draw: Callable[[], Figure]

    def png(self) -> bytes:
        """Its content as a file."""
        return to_png(lambda _: self.draw(), None)


def parity(reports: Mapping[str, Report]) -> Figure:
    """Prediction against reference: a row for energy, forces and Hessian, a column for each method.

    Args:
        reports: Name -> accuracy report with the arrays ``parity_…``.
    """
    figure = new_figure(max(2.5 * len(reports) + 0.6, 6), 8.4)
    grid = figure.subplots(len(_PAIRS), len(reports), squeeze=False, sharex="row", sharey="row")
    for row, (label, unit) in zip(grid, _PAIRS, strict=True):
        shown = f"({unit})" if "/" in unit else unit
        for place, (axes, report) in enumerate(zip(row, reports.values(), strict=True)):
            panel(axes)
            sides = [report.arrays.get(f"parity_{label}_{side}") for side in ("reference", "predicted")]
            if sides[0] is None or sides[1] is None:
                empty(axes)
                continue
            reference, predicted = (np.asarray(side, dtype=float) for side in sides)
            colour = COMPARED[place % len(COMPARED)][0]
            axes.plot(reference, predicted, ".", color=colour, markersize=4, alpha=0.6, markeredgewidth=0)
            limits = [min(float(reference.min()), 0.0), float(reference.max())]
            axes.plot(limits, limits, color="0.55", linewidth=1, zorder=0)
            # a few predictions far off must not press all others into a corner
            seen = np.concatenate([limits, np.quantile(predicted[np.isfinite(predicted)], (0.05, 0.95))])
            margin = 0.1 * float(np.ptp(seen)) + 1e-9
            low, high = axes.get_ylim() if place else (np.inf, -np.inf)
            axes.set_ylim(min(low, seen.min() - margin), max(high, seen.max() + margin))
            axes.set_xlabel(f"reference {ERRORS[label].title} / {shown}")
        row[0].set_ylabel(f"model {ERRORS[label].title} / {shown}")
    for axes, name in zip(grid[0], reports, strict=True):
        axes.set_title(name, fontsize=11)
    return figure


def training_curves(outcome: Outcome, arms: Sequence[Arm]) -> Figure:
    """Validation errors over the epochs, one line for each seed."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(11.5, 4.0)
    handles: dict[str, Any] = {}
    for axes, (key, scale, label) in zip(figure.subplots(1, 3), _VALIDATION, strict=True):
        panel(axes)
        for arm in arms:
            colour, _, line = outcome.styles[arm.method]
            for result in outcome.arms[arm]:
                records = [r for r in _records(outcome, result) if r.get(key) is not None]
                x, y = [r["epoch"] for r in records], [scale * r[key] for r in records]
                if y:
                    marker = "o" if len(y) < 4 else ""
                    drawn = axes.plot(x, y, line, color=colour, linewidth=1.3, alpha=0.85, marker=marker)[0]
                    handles[arm.method.label] = drawn
        if axes.lines:
            axes.set_yscale("log")
            plain_ticks(axes)
        else:
            empty(axes)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"validation RMSE, {label}")
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def _records(outcome: Outcome, result: Any) -> list[dict[str, Any]]:
    """What training wrote after each epoch; the last line may be broken off."""
    records = []
    try:
        lines = (outcome.study.jobs[result.cell].folder / LOG).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def cost(outcome: Outcome) -> Figure:
    """Time of a step of each method, and Hessian error against training time."""
    figure = new_figure(11.5, 4.4)
    left, right = figure.subplots(1, 2)
    _steps(left, outcome)
    panel(right)
    for number, (method, (colour, marker, _)) in enumerate(outcome.styles.items()):
        # beyond the palette the same colours come again, hollow
        hollow = "none" if number >= len(COMPARED) else colour
        points = [
            (cell.facts["cpu_seconds"], report.metric("hessian, all").value)
            for arm, cells in outcome.arms.items()
            if arm.method == method and arm.fraction == 1
            for cell in cells
            for report in cell.reports.get("accuracy", ())
            if any(metric.name == "hessian, all" for metric in report.metrics) and "cpu_seconds" in cell.facts
        ]
        if points:
            x, y = zip(*points, strict=True)
            right.plot(x, y, marker, color=colour, markerfacecolor=hollow, markersize=6, label=method.label)
    if right.lines:
        right.set_xscale("log")
        right.set_yscale("log")
        plain_ticks(right)
        plain_ticks_along(right)
    right.set_xlabel("processor time of training / s")
    right.set_ylabel("Hessian error / (eV/Å²)")
    handles, labels = right.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False, fontsize=9)
    return figure


def _steps(axes: Axes, outcome: Outcome) -> None:
    seconds = outcome.study.step_seconds
    order = list(dict.fromkeys(cost_key(arm.method) for arm in outcome.arms)) or list(seconds)
    keys = [key for key in order if key in seconds]
    panel(axes)
    for place, key in enumerate(keys):
        values = 1e3 * np.asarray(seconds[key])
        axes.barh(place, np.median(values), color="#0072B2", alpha=0.75, height=0.6)
        axes.plot(values, [place] * len(values), "o", color="black", markersize=3.5, alpha=0.6)
        axes.text(values.max() * 1.03, place, f"{np.median(values):.3g}", va="center", fontsize=9)
    axes.set_yticks(range(len(keys)), keys)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(f"time of an optimiser step ({outcome.study.config.budget.clock} clock) / ms")
