"""The energy profile of one reaction along its path, with the Gibbs energies of its stationary points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from phl_ase.plots.style import STYLES, new_figure, panel
from phl_ase.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEVEL = 0.07  # half the length of a level's line, as a share of the path


@dataclass(frozen=True, eq=False)
class Profile:
    """The content of the figure.

    Attributes:
        arc_length: ``(m,)`` √amu·Å from the TS, the reactant's side negative.
        energies: ``(m,)`` kcal/mol above the reactant.
        names: Of reactant, TS and product.
        levels: Energies of the three, kcal/mol.
        gibbs: Their Gibbs energies, kcal/mol above the reactant; NaN where there are none.
        temperature: Of the Gibbs energies, K.
    """

    arc_length: Array
    energies: Array
    names: Sequence[str]
    levels: Sequence[float]
    gibbs: Sequence[float]
    temperature: float


def draw(profile: Profile) -> Figure:
    """Draw energy against arc length, a line for each stationary point beside it, Gibbs energies broken."""
    figure = new_figure(7.0, 4.2)
    axes = figure.subplots()
    panel(axes)
    colour, _, _ = STYLES[2]
    axes.plot(profile.arc_length, profile.energies, color=colour, marker="o", markersize=3, linewidth=1.8)
    low, high = float(np.min(profile.arc_length)), float(np.max(profile.arc_length))
    reach = _LEVEL * (high - low)
    places = (low - 1.6 * reach, 0.0, high + 1.6 * reach)
    shown = [*profile.energies]
    for place, name, level, gibbs in zip(places, profile.names, profile.levels, profile.gibbs, strict=True):
        axes.plot([place - reach, place + reach], [level, level], color="black", linewidth=2.2)
        text = f"{name}\n{level:z.1f}"
        shown.append(level)
        if np.isfinite(gibbs):
            axes.plot([place - reach, place + reach], [gibbs, gibbs], color=STYLES[3][0], linewidth=1.8, linestyle="--")
            text += f" ({gibbs:z.1f})"
            shown.append(gibbs)
        top = max(level, gibbs) if np.isfinite(gibbs) else level
        axes.annotate(text, (place, top), xytext=(0, 5), textcoords="offset points", ha="center", va="bottom")
    span = max(shown) - min(shown)
    axes.set_ylim(min(shown) - 0.08 * span, max(shown) + 0.22 * span)
    axes.set_xlabel("arc length / √amu Å")
    axes.set_ylabel("energy above the reactant / kcal mol⁻¹")
    if np.any(np.isfinite(profile.gibbs)):
        note = f"black: E; broken, in brackets: G at {profile.temperature:g} K"
        axes.set_title(note, fontsize=10, color="0.3", loc="left")
    return figure
