"""Figure of a data set: how energies, forces, curvatures and shortest distances spread over the kinds of geometry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from phl_ase.plots import style
from phl_ase.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 30
_PANELS = {
    "energy_above_lowest": "energy above the lowest of its composition, eV/atom",
    "force_max": "largest force on an atom, eV/Å",
    "hessian_max": "largest element of the Hessian, eV/Å²",
    "closest": "shortest distance, Å",
}
"""Measure -> label of its axis."""


@dataclass(frozen=True, eq=False)
class Spread:
    """The content of the figure.

    Attributes:
        title: Name of the data set, number of frames, level of theory.
        kinds: Kind of each frame ``(frames,)``, text.
        values: Measure -> ``(frames,)``, NaN where a frame lacks it; in the units of the axes.
    """

    title: str
    kinds: Array
    values: Mapping[str, Array]


def draw(spread: Spread) -> Figure:
    """Stacked histograms, one panel for each measure, one colour for each kind; the commonest kind below."""
    from matplotlib.patches import Patch

    names, counts = np.unique(spread.kinds, return_counts=True)
    names = names[np.argsort(-counts, kind="stable")]
    colours = [style.STYLES[i % len(style.STYLES)][0] for i in range(1, len(names) + 1)]
    figure = style.new_figure(9, 6.5)
    for axes, (measure, label) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
        style.panel(axes)
        values = spread.values[measure]
        stacked = [values[(spread.kinds == name) & ~np.isnan(values)] for name in names]
        if sum(map(len, stacked)):
            axes.hist(stacked, bins=_BINS, stacked=True, color=colours, edgecolor="white", linewidth=0.3)
        else:
            style.empty(axes, "no frame carries this")
        axes.set_xlabel(label)
        axes.set_ylabel("frames")
    handles = [Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(names)), frameon=False)
    figure.suptitle(spread.title)
    return figure
