"""Prediction against reference: energies, force components, Hessian elements of several models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phl_ase.plots.style import empty, new_figure, panel
from phl_ase.scoring import ERRORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pair = tuple[Any, Any]
"""Reference and prediction, ``(points,)`` each; ``None`` and NaN for what is not there."""

UNITS: Mapping[str, str] = {"energy": "eV", "forces": "eV/Å", "hessian": "eV/Å²"}
"""What is shown, one row each -> its unit."""


def draw(models: Mapping[str, Mapping[str, Pair]], colours: Sequence[str], *, reference: str = "reference") -> Figure:
    """A row for each quantity, a column for each model; the line is perfect agreement.

    Args:
        models: Name -> quantity, a key of ``UNITS`` -> the pair; a quantity may be absent.
        colours: Of the models, in their order.
        reference: What the reference is called on the axes.
    """
    figure = new_figure(max(2.6 * len(models) + 0.6, 6), 8.6)
    if not models:
        empty(figure.subplots())
        return figure
    grid = figure.subplots(len(UNITS), len(models), squeeze=False, sharex="row", sharey="row")
    for row, (label, unit) in zip(grid, UNITS.items(), strict=True):
        title = f"{ERRORS[label].title} / {f'({unit})' if '/' in unit else unit}"
        seen = []
        for axes, pairs, colour in zip(row, models.values(), colours, strict=True):
            panel(axes)
            axes.set_xlabel(f"{reference} {title}")
            there, predicted = (_array(side) for side in pairs.get(label, ((), ())))
            if not np.isfinite(there).any():
                empty(axes)
                continue
            axes.plot(there, predicted, ".", color=colour, markersize=4, alpha=0.6, markeredgewidth=0)
            limits = [min(float(np.nanmin(there)), 0.0), float(np.nanmax(there))]
            axes.plot(limits, limits, color="0.55", linewidth=1, zorder=0)
            # a few predictions far off must not press all others into a corner
            seen += [*limits, *np.quantile(predicted[np.isfinite(predicted)], (0.05, 0.95))]
        if seen:
            margin = 0.1 * float(np.ptp(seen)) + 1e-9
            row[0].set_ylim(min(seen) - margin, max(seen) + margin)
        row[0].set_ylabel(f"model {title}")
    for axes, name in zip(grid[0], models, strict=True):
        axes.set_title(name, fontsize=11)
    return figure


def _array(values: Any) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)
