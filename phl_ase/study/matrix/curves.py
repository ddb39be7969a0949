"""Learning curves: errors against the number of training frames, and against what their labels cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phl_ase.plots.style import new_figure, panel, plain_ticks, plain_ticks_along
from phl_ase.study.matrix.cells import Arm, Method
from phl_ase.study.matrix.drawing import Drawn
from phl_ase.study.matrix.gather import QUANTITIES
from phl_ase.study.matrix.tables import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AXES = (("training_frames", "training frames"), ("gradient_calls", "gradient calls of the reference method"))


def learning_curves(outcome: Outcome) -> Iterator[Drawn]:
    """A figure for each split and budget with more than one number of training frames."""
    settings = dict.fromkeys((arm.split, arm.budget) for arm in outcome.arms)
    for split, budget in settings:
        curves = _curves(outcome, split, budget)
        if not curves:
            continue
        yield Drawn(
            "Learning curves",
            f"curves-{split}-{budget}",
            f"Errors of the test frames, {split} split, equal {budget}, with 95 % intervals: against the number of "
            "training frames, and against what their labels cost by central differences: 1 gradient for energy and "
            "forces, 2 more for each recorded product, 6n more for a Hessian, which fresh probes need as well. Every "
            "point of a method has as many optimiser steps (or as much time).",
            lambda curves=curves: _draw(outcome, curves),  # type: ignore[misc]
        )


def _curves(outcome: Outcome, split: str, budget: str) -> dict[Method, list[Arm]]:
    """Methods with at least two numbers of training frames -> their arms, ascending."""
    found: dict[Method, list[Arm]] = {}
    for arm in outcome.arms:
        if (arm.split, arm.budget) == (split, budget):
            found.setdefault(arm.method, []).append(arm)
    return {m: sorted(arms, key=lambda arm: arm.fraction) for m, arms in found.items() if len(arms) > 1}


def _draw(outcome: Outcome, curves: dict[Method, Sequence[Arm]]) -> Figure:
    names = ("energy", "forces", "hessian")
    figure = new_figure(11.5, 7.4)
    grid = figure.subplots(2, 3, sharey="col")
    handles: dict[str, Any] = {}
    for row, (key, label) in zip(grid, _AXES, strict=True):
        for axes, name in zip(row, names, strict=True):
            panel(axes)
            for method, arms in curves.items():
                colour, marker, line = outcome.styles[method]
                rows = [outcome.row(arm, name, "all") for arm in arms]
                points = [
                    (np.mean(known), r.mean)
                    for arm, r in zip(arms, rows, strict=True)
                    # a cell that waits or failed lacks them
                    if r is not None and (known := [cell.facts[key] for cell in outcome.arms[arm] if key in cell.facts])
                ]
                x, y = [p[0] for p in points], [p[1].value for p in points]
                low, high = ([getattr(p[1], side) for p in points] for side in ("low", "high"))
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
                handles[method.label] = axes.plot(x, y, line, color=colour, marker=marker, linewidth=1.8)[0]
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel(label)
            plain_ticks_along(axes)
            quantity = QUANTITIES[name]
            axes.set_ylabel(f"{quantity.name} error / ({quantity.unit})")
    for axes in grid.flat:
        plain_ticks(axes)
    columns = min(len(handles), 4)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns, frameon=False)
    return figure
