"""The funnel of transition-state searches and what they cost, one colour for each way of running Sella."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from phl_ase.plots.style import STYLES, empty, new_figure, panel
from phl_ase.results import Report
from phl_ase.validators.funnel import Funnel, funnels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CALLS = {"steps": "steps", "force calls": "gradients", "HVP calls": "HVPs", "Hessian calls": "Hessians"}


def draw(reports: Sequence[Report], *, first: int = 0) -> Figure:
    """How many starts are left after each stage, and mean calls of a search, for each potential and way.

    Args:
        reports: Of ``phl_ase.validators.validate_transition_state``.
        first: Place in the palette of the first colour; 1 where black is the reference's in the figures beside it.
    """
    groups = funnels(reports)
    figure = new_figure(12, 4.2)
    left, right = figure.subplots(1, 2)
    if not groups:
        empty(left)
        empty(right)
        return figure
    stages = list(dict.fromkeys(stage for group in groups for stage in group.passed))
    starts = " or ".join(str(n) for n in sorted({group.starts for group in groups}))
    bars = _bars(left, groups, stages, lambda group, stage: group.passed.get(stage, np.nan), first)
    left.set_ylabel(f"searches left of {starts}")
    _bars(right, groups, list(_CALLS), lambda group, name: group.counts[name], first)
    right.set_xticks(range(len(_CALLS)), list(_CALLS.values()))
    right.set_ylabel("mean number in a search")
    figure.legend(bars, _labels(groups), loc="outside upper center", ncols=min(len(groups), 4), frameon=False)
    return figure


def _labels(groups: Sequence[Funnel]) -> list[str]:
    potentials, ways = ({getattr(group, key) for group in groups} for key in ("potential", "way"))
    if len(potentials) == 1:
        return [group.way for group in groups]
    return [group.potential if len(ways) == 1 else f"{group.potential}, {group.way}" for group in groups]


def _bars(
    axes: Axes, groups: Sequence[Funnel], names: list[str], value: Callable[[Funnel, str], float], first: int
) -> list:
    """Bars side by side for each name, one for each group, the number above it; the first bar of each group."""
    width = 0.84 / len(groups)
    drawn = []
    for number, group in enumerate(groups):
        places = np.arange(len(names)) + (number - (len(groups) - 1) / 2) * width
        heights = [value(group, name) for name in names]
        colour = STYLES[(first + number) % len(STYLES)][0]
        drawn.append(axes.bar(places, heights, width, color=colour, edgecolor="white", linewidth=0.5))
        for place, height in zip(places, heights, strict=True):
            if height > 0:
                axes.text(place, height, f"{height:.1f}".removesuffix(".0"), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.margins(y=0.1)
    panel(axes)
    return drawn
