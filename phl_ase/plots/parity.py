"""Prediction against reference: energies, force components, Hessian elements of several models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phl_ase.plots.style import empty, new_figure, panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phl_ase.results import Report

Pair = tuple[Any, Any]
"""Reference and prediction, ``(points,)`` each; ``None`` and NaN for what is not there."""

PARITY_UNITS: Mapping[str, str] = {"energy": "eV", "forces": "eV/Å", "hessian": "eV/Å²", "curvature_along": "eV/Å²"}
"""Quantity, one row each -> its unit."""

TITLES: Mapping[str, str] = {
    "energy": "energy",
    "forces": "force component",
    "hessian": "Hessian element",
    "curvature_along": "u·H·u",
}
"""Quantity -> its name on axes."""


def pairs_of(report: Report) -> dict[str, Pair]:
    """Return the pairs that an accuracy report holds: a key of ``PARITY_UNITS`` -> reference and prediction."""
    arrays = report.arrays
    return {
        label: (arrays[f"parity_{label}_reference"], arrays[f"parity_{label}_predicted"])
        for label in PARITY_UNITS
        if f"parity_{label}_reference" in arrays
    }


def draw(models: Mapping[str, Mapping[str, Pair]], colours: Sequence[str], *, reference: str = "reference") -> Figure:
    """Draw a row for each quantity that any model has, a column for each model; the line is perfect agreement.

    Args:
        models: Name -> quantity, a key of ``PARITY_UNITS`` -> the pair; a quantity may be absent.
        colours: Of the models, in their order.
        reference: What the reference is called on the axes.
    """
    shown = [label for label in PARITY_UNITS if any(_there(pairs.get(label)) for pairs in models.values())]
    figure = new_figure(max(2.6 * len(models) + 0.6, 6), 2.8 * max(len(shown), 1) + 0.2)
    if not shown:
        empty(figure.subplots())
        return figure
    grid = figure.subplots(len(shown), len(models), squeeze=False, sharex="row", sharey="row")
    for row, label in zip(grid, shown, strict=True):
        for axes, pairs, colour in zip(row, models.values(), colours, strict=True):
            draw_panel(axes, label, [pairs.get(label, ((), ()))], [colour], reference=reference)
            axes.set_ylabel("")
        draw_limits(row[0], label, [pairs[label] for pairs in models.values() if _there(pairs.get(label))])
        row[0].set_ylabel(f"model {_title(label)}")
    for axes, name in zip(grid[0], models, strict=True):
        axes.set_title(name, fontsize=11)
    return figure


def draw_panel(
    axes: Axes, label: str, pairs: Sequence[Pair], colours: Sequence[str], *, reference: str = "reference"
) -> None:
    """One quantity of one or several models in a panel.

    Args:
        axes: The panel.
        label: A key of ``PARITY_UNITS``.
        pairs: Of each model.
        colours: Of each model.
        reference: What the reference is called on the axis.
    """
    panel(axes)
    axes.set_xlabel(f"{reference} {_title(label)}")
    axes.set_ylabel(f"model {_title(label)}")
    if not any(map(_there, pairs)):
        empty(axes)
        return
    for pair, colour in zip(pairs, colours, strict=True):
        there, predicted = map(_array, pair)
        # thousands of dots would make a vector figure large
        axes.plot(
            there, predicted, ".", color=colour, markersize=4, alpha=0.6, markeredgewidth=0, rasterized=len(there) > 500
        )
    draw_limits(axes, label, [pair for pair in pairs if _there(pair)])


def draw_limits(axes: Axes, label: str, pairs: Sequence[Pair]) -> None:
    """Draw the line of agreement over the span of the references; predictions far off do not press others together."""
    references = np.concatenate([_array(pair[0]) for pair in pairs])
    low, high = float(np.nanmin(references)), float(np.nanmax(references))
    if label == "energy":
        low = min(low, 0.0)
    axes.plot([low, high], [low, high], color="0.55", linewidth=1, zorder=0)
    middle = [np.quantile(p[np.isfinite(p)], (0.05, 0.95)) for _, side in pairs if np.isfinite(p := _array(side)).any()]
    seen = [low, high, *np.concatenate([np.zeros(0), *middle]).tolist()]
    margin = 0.1 * (max(seen) - min(seen)) + 1e-9
    axes.set_ylim(min(seen) - margin, max(seen) + margin)


def _title(label: str) -> str:
    unit = PARITY_UNITS[label]
    return f"{TITLES[label]} / {f'({unit})' if '/' in unit else unit}"


def _there(pair: Pair | None) -> bool:
    return pair is not None and bool(np.isfinite(_array(pair[0])).any())


def _array(values: Any) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)
