"""Errors against displacement from the nearest stationary point and against sampling temperature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phl_ase.plots.style import empty, new_figure, panel, plain_ticks, styles_of
from phl_ase.results import Report
from phl_ase.scoring import ERRORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Style = tuple[str, str, str]

PANELS = ("energy", "forces", "hessian", "lowest_eigenvalue")
"""Errors that are drawn, one column each."""

_SMALLEST = 0.03  # share of the errors that lies below the panels
_FEWEST = 3  # frames that a mean is drawn for
_WIDTH, _HEIGHT = 3.6, 3.4  # of a panel, inches


@dataclass(frozen=True)
class Against:
    """What errors are drawn against.

    Attributes:
        name: Name of its arrays in a report.
        label: Of the axis, with its unit.
        absent: What a panel without data says.
        dots: Whether single frames are drawn.
    """

    name: str
    label: str
    absent: str
    dots: bool


AXES = (
    Against("displacement", "RMS displacement / Å", "no stationary point known", dots=True),
    Against("temperature", "sampling temperature / K", "no temperature known", dots=False),
)
"""The rows of the figure."""


def draw(reports: Sequence[Report]) -> Figure:
    """Mean errors with 95 % bands: a row for displacement and one for temperature, a column for each error.

    Args:
        reports: Of ``phl_ase.validators.validate_accuracy``, one for each potential.
    """
    named = {report.potential: report for report in reports}
    return draw_rows(named, styles_of(named), AXES)


def draw_rows(reports: Mapping[str, Report], styles: Mapping[str, Style], rows: Sequence[Against] = AXES[:1]) -> Figure:
    """The figure of named reports, in given styles.

    Args:
        reports: Name in the legend -> report of ``validate_accuracy``.
        styles: Name -> (colour, marker, line).
        rows: What the errors are drawn against.
    """
    figure = new_figure(_WIDTH * len(PANELS), _HEIGHT * len(rows) + 0.4)
    grid = figure.subplots(len(rows), len(PANELS), squeeze=False)
    handles: dict[str, Any] = {}
    for line, against in zip(grid, rows, strict=True):
        for axes, error in zip(line, PANELS, strict=True):
            for name, report in reports.items():
                handles |= _draw_curve(axes, report, error, against, name, styles[name])
            _finish(axes, reports.values(), error, against)
    if handles:
        # in the order of the reports, whichever panel a name was first drawn in
        names = [name for name in reports if name in handles]
        figure.legend([handles[n] for n in names], names, loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def _draw_curve(axes: Axes, report: Report, error: str, against: Against, name: str, style: Style) -> dict[str, Any]:
    """Frames as dots, means as a line, its interval as a band; the handle of the line by name."""
    colour, marker, line = style
    key = f"{error}_by_{against.name}"
    x, mean, low, high = (
        np.asarray(report.arrays[k], dtype=float) for k in (f"{against.name}_means", key, f"{key}_low", f"{key}_high")
    )
    frames = [np.asarray(report.arrays[k], dtype=float) for k in (against.name, f"{error}_error")]
    if not np.isfinite(np.sum(frames, axis=0)).any():
        return {}
    if against.dots:
        axes.plot(*frames, ".", color=colour, alpha=0.2, markersize=4, markeredgewidth=0)
    there = np.isfinite(x) & np.isfinite(mean) & (np.asarray(report.arrays[f"{key}_frames"]) >= _FEWEST)
    axes.fill_between(x[there], low[there], high[there], color=colour, alpha=0.18, linewidth=0)
    handle = axes.plot(x[there], mean[there], line, color=colour, marker=marker, linewidth=1.8, markersize=5.5)[0]
    return {name: handle}


def _finish(axes: Axes, reports: Iterable[Report], error: str, against: Against) -> None:
    panel(axes)
    axes.set_xlabel(against.label)
    axes.set_ylabel(f"{ERRORS[error].title} error / ({ERRORS[error].unit})")
    if not axes.lines:
        known = any(np.isfinite(np.asarray(report.arrays[against.name], dtype=float)).any() for report in reports)
        empty(axes, "nothing to compare" if known else against.absent)
        return
    errors = _positive(np.asarray(line.get_ydata(), dtype=float) for line in axes.lines)
    bands = _positive(np.asarray(path.vertices)[:, 1] for band in axes.collections for path in band.get_paths())
    axes.set_xlim(left=0)
    if len(errors):
        axes.set_yscale("log")
        # a chance hit would take half of a logarithmic panel
        bottom = min(0.7 * np.quantile(errors, _SMALLEST), 0.9 * bands.min(initial=np.inf))
        axes.set_ylim(bottom, 1.2 * max(errors.max(), bands.max(initial=0.0)))
        plain_ticks(axes)


def _positive(parts: Iterable[np.ndarray]) -> np.ndarray:
    values = np.concatenate([np.zeros(0), *parts])
    return values[np.isfinite(values) & (values > 0)]
