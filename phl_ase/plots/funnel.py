"""The funnel of transition-state searches and what they cost, one colour for each Sella strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from phl_ase.plots.style import STYLES, empty, new_figure, panel, styles_of
from phl_ase.results import Report
from phl_ase.validators.funnel import Funnel, funnels
from phl_ase.validators.names import MetricName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HATCHES = ("", "//", "..", "xx", "--")
_CALLS = {
    MetricName.STEPS: "steps",
    MetricName.FORCE_CALLS: "gradients",
    MetricName.HVP_CALLS: "HVPs",
    MetricName.HESSIAN_CALLS: "Hessians",
}


def draw(reports: Sequence[Report], *, first: int = 1) -> Figure:
    """Draw how many starts are left after each stage, and mean calls of a search, by potential and strategy.

    Where every search passed every stage, a sentence says so and no bars are drawn of it. A potential has the colour
    that it has in other figures; several Sella strategies with it differ in hatching. Strategies of one potential alone
    have a colour each.

    Args:
        reports: Of ``phl_ase.validators.validate_transition_state``.
        first: Place in the palette of the first strategy; black is the reference's in the figures beside it.
    """
    groups = funnels(reports)
    if not groups:
        figure = new_figure(6, 4.2)
        empty(figure.subplots())
        return figure
    stages = list(dict.fromkeys(stage for group in groups for stage in group.passed))
    starts = " or ".join(str(n) for n in sorted({group.starts for group in groups}))
    potentials = list(dict.fromkeys(group.potential for group in groups))
    strategies = list(dict.fromkeys(group.strategy for group in groups))
    if len(potentials) == 1:
        looks = [(STYLES[(first + number) % len(STYLES)][0], "") for number in range(len(groups))]
        labels = [group.strategy for group in groups]
    else:
        styles = styles_of(potentials)
        looks = [(styles[g.potential][0], _HATCHES[strategies.index(g.strategy) % len(_HATCHES)]) for g in groups]
        labels = [g.potential if len(strategies) == 1 else f"{g.potential}, {g.strategy}" for g in groups]
    if all(group.passed.get(stage, group.starts) == group.starts for group in groups for stage in stages):
        figure, columns = new_figure(7, 3.6), 2
        right = figure.subplots()
        said = f"all {starts} searches{' of each' if len(groups) > 1 else ''} passed every stage: {', '.join(stages)}"
        right.set_title(said, fontsize=10, loc="left")
    else:
        figure, columns = new_figure(12, 4.2), 4
        left, right = figure.subplots(1, 2)
        _bars(left, groups, stages, lambda group, stage: group.passed.get(stage, np.nan), looks)
        left.set_ylabel(f"searches left of {starts}")
    calls = {name: label for name, label in _CALLS.items() if any(group.counts[name] > 0 for group in groups)}
    bars = _bars(right, groups, list(calls), lambda group, name: group.counts[name], looks)
    right.set_xticks(range(len(calls)), list(calls.values()))
    right.set_ylabel("mean number in a search")
    figure.legend(bars, labels, loc="outside upper center", ncols=min(len(groups), columns), frameon=False)
    return figure


def _bars(
    axes: Axes,
    groups: Sequence[Funnel],
    names: list[str],
    value: Callable[[Funnel, str], float],
    looks: Sequence[tuple[str, str]],
) -> list:
    """Bars side by side for each name, one for each group, the number above it; the first bar of each group."""
    width = 0.84 / max(len(groups), 3)  # a single bar would be a wall
    drawn = []
    for number, group in enumerate(groups):
        places = np.arange(len(names)) + (number - (len(groups) - 1) / 2) * width
        heights = [value(group, name) for name in names]
        colour, hatch = looks[number]
        drawn.append(axes.bar(places, heights, width, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5))
        for place, height in zip(places, heights, strict=True):
            if height > 0:
                axes.text(place, height, f"{height:.1f}".removesuffix(".0"), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.margins(y=0.1)
    panel(axes)
    return drawn
