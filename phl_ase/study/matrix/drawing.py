"""Figures of a study beside the validators': parity of several methods, training curves of several seeds, cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phl_ase.plots import parity, training
from phl_ase.plots.style import COMPARED, new_figure, panel, plain_ticks, plain_ticks_along, to_png
from phl_ase.results import Report
from phl_ase.study.matrix.budget import cost_key
from phl_ase.study.matrix.cells import Arm
from phl_ase.training.checkpoint import LOG

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phl_ase.study.matrix.tables import Outcome


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


def parity_of(reports: Mapping[str, Report]) -> Figure:
    """Prediction against reference, a column for each method.

    Args:
        reports: Name -> accuracy report with the arrays ``parity_…``.
    """
    pairs = {
        name: {
            label: (report.arrays[f"parity_{label}_reference"], report.arrays[f"parity_{label}_predicted"])
            for label in parity.UNITS
            if f"parity_{label}_reference" in report.arrays
        }
        for name, report in reports.items()
    }
    return parity.draw(pairs, [COMPARED[place % len(COMPARED)][0] for place in range(len(pairs))])


def training_curves(outcome: Outcome, arms: Sequence[Arm]) -> Figure:
    """Validation errors over the epochs, one line for each seed."""
    return training.draw(
        {
            arm.method.label: training.Curves(
                outcome.styles[arm.method], [_records(outcome, result) for result in outcome.arms[arm]]
            )
            for arm in arms
        }
    )


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
    for method, (colour, marker, _) in outcome.styles.items():
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
            right.plot(x, y, marker, color=colour, markersize=6, label=method.label)
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
