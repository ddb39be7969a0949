"""Figures of stated uncertainties: calibration curve, and error against uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from phl_ase.plots.style import empty, new_figure, panel, plain_ticks, plain_ticks_along, styles_of
from phl_ase.results import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_QUANTITIES = {"forces": ("force", "meV/Å", "components"), "energy": ("energy", "meV", "systems")}
"""Quantity in a report -> name, unit, and what its groups consist of; a row each."""

_SHOWN = (0.005, 0.998)  # quantiles of what the axes hold: a chance hit would take half of a logarithmic axis


def draw(reports: Sequence[Report]) -> Figure:
    """Draw a row for forces and one for energies: calibration curve left, errors against uncertainties right.

    Args:
        reports: Of ``phl_ase.validators.uncertainty``, one for each potential or data set.
    """
    figure = new_figure(9.6, 8.6)
    grid = figure.subplots(len(_QUANTITIES), 2)
    names = [f"{r.potential}, {r.system}" if len(reports) > 1 else r.potential for r in reports]
    styles = list(styles_of(names).values())
    for (left, right), quantity in zip(grid, _QUANTITIES, strict=True):
        _draw_curves(left, reports, styles, quantity)
        _draw_errors(right, reports, styles, quantity)
    handles = [grid[0][0].plot([], [], line, color=colour, marker=marker)[0] for colour, marker, line in styles]
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 2), frameon=False)
    return figure


def _draw_curves(axes: Axes, reports: Sequence[Report], styles: Sequence[tuple[str, str, str]], quantity: str) -> None:
    """Draw how many errors lie within the intervals stated."""
    panel(axes)
    for report, (colour, _, line) in zip(reports, styles, strict=True):
        observed = np.asarray(report.arrays[f"{quantity}_observed"], dtype=float)
        if np.isfinite(observed).any():
            axes.plot(100 * np.asarray(report.arrays["confidence"]), 100 * observed, line, color=colour, linewidth=1.8)
    axes.set_xlabel("expected within the interval / %")
    axes.set_ylabel(f"{_QUANTITIES[quantity][0]} errors within the interval / %")
    if not axes.lines:
        empty(axes, "no uncertainties")
    axes.plot([0, 100], [0, 100], color="0.45", linewidth=1.0, linestyle=":")
    axes.text(99, 89, "calibrated", color="0.35", ha="right", va="top", rotation=45, fontsize=9)
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")


def _draw_errors(axes: Axes, reports: Sequence[Report], styles: Sequence[tuple[str, str, str]], quantity: str) -> None:
    """Draw errors against uncertainties: frames as dots, groups of like uncertainty as markers."""
    panel(axes)
    for report, (colour, marker, line) in zip(reports, styles, strict=True):
        dots, groups = (
            [np.asarray(report.arrays[f"{quantity}{of}_{what}"], dtype=float) for what in ("std", "error")]
            for of in ("", "_group")
        )
        if len(dots[0]):
            axes.plot(*dots, ".", color=colour, alpha=0.35, markersize=5, markeredgewidth=0)
        if len(groups[0]):
            axes.plot(*groups, line, color=colour, marker=marker, linewidth=1.6, markersize=6)
    name, unit, of = _QUANTITIES[quantity]
    axes.set_xlabel(f"stated {name} uncertainty / ({unit})")
    axes.set_ylabel(f"{name} error, rms / ({unit})")
    coordinates = [[line.get_xdata() for line in axes.lines], [line.get_ydata() for line in axes.lines]]
    values = [np.concatenate([np.asarray(v, dtype=float) for v in vs]) for vs in coordinates]
    values = [v[np.isfinite(v) & (v > 0)] for v in values]
    if not all(len(v) for v in values):
        empty(axes, "no uncertainties")
        return
    low = 0.7 * min(float(np.quantile(v, _SHOWN[0])) for v in values)
    high = 1.4 * max(float(np.quantile(v, _SHOWN[1])) for v in values)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    ends = np.array([low, high])
    axes.plot(ends, ends, color="0.45", linewidth=1.0, linestyle=":")
    plain_ticks(axes)
    plain_ticks_along(axes)
    axes.text(
        0.03, 0.97, f"dots: frames; markers: {of}\nof like uncertainty", transform=axes.transAxes, va="top", fontsize=9
    )
