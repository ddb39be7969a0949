"""Estimates with their intervals, one line each: means on the one hand, ratios beside the band of what matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from phl_ase.plots.style import STYLES, empty, new_figure, panel, plain_ticks_along
from phl_ase.scoring.paired import MARGIN, Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        label: Of its axis, with its unit.
        series: Name in the legend -> line -> estimate.
        is_ratio: Whether 1 and the band of what matches are drawn.
    """

    label: str
    series: Mapping[str, Mapping[str, Estimate]]
    is_ratio: bool = False


def draw(lines: Sequence[str], panels: Sequence[Panel]) -> Figure:
    """Panels side by side, a line for each of what is compared, a marker and interval for each series.

    Args:
        lines: From top to bottom.
        panels: Of one set of lines; axes are logarithmic.
    """
    figure = new_figure(3.3 * max(len(panels), 1) + 2.2, 0.42 * max(len(lines), 3) + 1.7)
    grid = figure.subplots(1, max(len(panels), 1), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(name for one in panels for name in one.series))
    for axes, one in zip(grid, panels, strict=False):
        _draw(axes, lines, one, names)
    if not panels:
        empty(grid[0])
    handles = grid[0].get_legend_handles_labels() if panels else ([], [])
    if len(names) > 1:
        found = dict(zip(handles[1], handles[0], strict=True))
        figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def _draw(axes: Axes, lines: Sequence[str], one: Panel, names: Sequence[str]) -> None:
    panel(axes)
    axes.set_xscale("log")
    if one.is_ratio:
        axes.axvspan(*MARGIN, color="0.88", zorder=0)
        axes.axvline(1.0, color="0.35", linewidth=1.0, zorder=1)
    offsets = np.linspace(-0.22, 0.22, len(names)) if len(names) > 1 else np.zeros(1)
    ends = [*MARGIN] if one.is_ratio else []
    for offset, name in zip(offsets, names, strict=True):
        colour, marker, _ = STYLES[names.index(name) % len(STYLES)]
        for place, line in enumerate(lines):
            found = one.series.get(name, {}).get(line)
            if found is None or not np.isfinite(found.value) or found.value <= 0:
                continue
            y = place + offset
            if found.has_interval and found.low > 0:
                axes.plot([found.low, found.high], [y, y], color=colour, linewidth=1.6, zorder=2)
                ends += [found.low, found.high]
            axes.plot([found.value], [y], marker, color=colour, markersize=5.5, zorder=3, label=name)
            ends.append(found.value)
    axes.set_yticks(range(len(lines)), lines)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlabel(one.label)
    if ends:
        axes.set_xlim(min(ends) / 1.15, max(ends) * 1.15)
        plain_ticks_along(axes)
