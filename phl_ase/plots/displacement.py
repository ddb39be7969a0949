"""Errors against displacement from the nearest stationary point and against sampling temperature."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phl_ase.plots.style import empty, new_figure, panel, plain_ticks
from phl_ase.results import Report
from phl_ase.scoring import ALL_ERRORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Style = tuple[str, str, str]

PANELS = ("energy", "forces", "hessian", "lowest_eigenvalue", "hvp", "curvature_along")
"""Errors that are drawn, one column each, where there are any."""

_SMALLEST = 0.03  # share of the errors that lies below the panels
_LARGEST = 0.005  # and above
_FEWEST = 3  # frames that a mean is drawn for
_WIDTH, _HEIGHT = 3.6, 3.4  # of a panel, inches


@dataclass(frozen=True)
class Against:
    """A quantity that errors are drawn against.

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


def errors_of(reports: Collection[Report], against: Against) -> list[str]:
    """Return the errors that any report has over an axis, and not all zero: the columns of its row of panels."""
    found = []
    for error in PANELS:
        frames = [_frames(report, error, against) for report in reports]
        if any((np.isfinite(x) & np.isfinite(values) & (values > 0)).any() for x, values in frames):
            found.append(error)
    return found


def draw_rows(reports: Mapping[str, Report], styles: Mapping[str, Style], rows: Sequence[Against] = AXES[:1]) -> Figure:
    """Draw the figure of named reports, in given styles: a panel for every error that any of them has.

    Args:
        reports: Name in the legend -> report of ``validate_accuracy``.
        styles: Name -> (colour, marker, line).
        rows: What the errors are drawn against.
    """
    there = [(against, errors) for against in rows if (errors := errors_of(reports.values(), against))]
    if not there:
        figure = new_figure(_WIDTH * 2, _HEIGHT)
        empty(figure.subplots(), rows[0].absent)
        return figure
    figure = new_figure(_WIDTH * max(len(errors) for _, errors in there), _HEIGHT * len(there) + 0.4)
    parts = figure.subfigures(len(there), 1, squeeze=False)[:, 0]
    handles: dict[str, Any] = {}
    for part, (against, errors) in zip(parts, there, strict=True):
        handles |= draw_row(part, reports, styles, against, errors)
    legend(figure, reports, handles)
    return figure


def draw_row(
    figure: Any, reports: Mapping[str, Report], styles: Mapping[str, Style], against: Against, errors: Sequence[str]
) -> dict[str, Any]:
    """One row of panels in a part of a figure; the handles of its lines by name."""
    handles: dict[str, Any] = {}
    for axes, error in zip(figure.subplots(1, len(errors), squeeze=False)[0], errors, strict=True):
        for place, (name, report) in enumerate(reports.items()):
            handles |= _draw_curve(axes, report, error, against, name, styles[name], (place, len(reports)))
        _finish(axes, list(reports.values()), error, against)
    return handles


def legend(figure: Figure, names: Iterable[str], handles: Mapping[str, Any]) -> None:
    """Draw the legend above a figure, in the order of the reports, whichever panel a name was first drawn in."""
    found = [name for name in names if name in handles]
    figure.legend([handles[n] for n in found], found, loc="outside upper center", ncols=len(found), frameon=False)


def _frames(report: Report, error: str, against: Against) -> tuple[np.ndarray, np.ndarray]:
    """Return where single frames are, and their errors ``(frames,)``."""
    x = np.asarray(report.arrays[against.name], dtype=float)
    values = report.arrays.get(f"{error}_error")
    return x, np.full(len(x), np.nan) if values is None else np.asarray(values, dtype=float)


def _draw_curve(
    axes: Axes, report: Report, error: str, against: Against, name: str, style: Style, place: tuple[int, int]
) -> dict[str, Any]:
    """Draw means as a line with their intervals; the handle of the line by name.

    One report alone has its frames as dots and its intervals as a band; of several, which would mix, intervals are bars
    side by side and frames are left out.
    """
    colour, marker, line = style
    frames = _frames(report, error, against)
    if not np.isfinite(np.sum(frames, axis=0)).any():
        return {}
    key = f"{error}_by_{against.name}"
    x, mean, low, high = (
        np.asarray(report.arrays[k], dtype=float) for k in (f"{against.name}_means", key, f"{key}_low", f"{key}_high")
    )
    there = np.isfinite(x) & np.isfinite(mean) & (np.asarray(report.arrays[f"{key}_frames"]) >= _FEWEST)
    x, mean, low, high = x[there], mean[there], low[there], high[there]
    number, count = place
    if count == 1:
        if against.dots:
            axes.plot(
                *frames, ".", color=colour, alpha=0.45, markersize=5, markeredgewidth=0, rasterized=len(frames[0]) > 500
            )
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    else:
        spread = 0.006 * float(np.ptp(x)) if len(x) > 1 else 0.0
        x = x + spread * (number - (count - 1) / 2)
        axes.vlines(x, low, high, color=colour, linewidth=1.3, alpha=0.75)
    handle = axes.plot(x, mean, line, color=colour, marker=marker, linewidth=1.8, markersize=5)[0]
    handle.set_gid("means")
    return {name: handle}


def _finish(axes: Axes, reports: Sequence[Report], error: str, against: Against) -> None:
    """Axes that the means and intervals fill; how many frames lie beyond is said."""
    panel(axes)
    kind = ALL_ERRORS[error]
    axes.set_xlabel(against.label)
    axes.set_ylabel(f"{kind.title} error / {f'({kind.unit})' if '/' in kind.unit else kind.unit}")
    lines = [line for line in axes.lines if line.get_gid() == "means"]
    ends = [np.asarray(line.get_xdata(), dtype=float) for line in lines]
    means = _positive(np.asarray(line.get_ydata(), dtype=float) for line in lines)
    bars = _positive(np.asarray(p.vertices)[:, 1] for drawn in axes.collections for p in drawn.get_paths())
    frames = [_frames(report, error, against) for report in reports]
    if not len(means):  # too few frames for a mean: they are all there is
        means = _positive(errors for _, errors in frames)
        ends = [x[np.isfinite(x)] for x, _ in frames]
    if not len(means):
        empty(axes, "no error is above zero")
        return
    axes.set_yscale("log")
    low = 0.7 * min(float(means.min()), float(bars.min(initial=np.inf)))
    high = 1.4 * max(float(means.max()), float(bars.max(initial=0.0)))
    right = max(1.06 * float(np.concatenate(ends).max()), 1e-3)
    single = len(reports) == 1 and against.dots
    if single:  # most of the frames, and not the few that are farthest off
        x, errors = frames[0]
        there = np.isfinite(x) & np.isfinite(errors) & (errors > 0)
        right = max(right, 1.03 * float(np.quantile(x[there], 1 - _SMALLEST)))
        low = min(low, 0.8 * float(np.quantile(errors[there], _SMALLEST)))
        high = max(high, 1.1 * float(np.quantile(errors[there], 1 - _LARGEST)))
        beyond = int((there & ((x > right) | (errors < low) | (errors > high))).sum())
        if beyond:
            axes.set_title(
                f"{beyond} of {int(there.sum())} frames beyond the panel", fontsize=8, color="0.4", loc="right"
            )
    axes.set(xlim=(0, right), ylim=(low, high))
    plain_ticks(axes)


def _positive(parts: Iterable[np.ndarray]) -> np.ndarray:
    values = np.concatenate([np.zeros(0), *parts])
    return values[np.isfinite(values) & (values > 0)]
