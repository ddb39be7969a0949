"""The wavenumbers of one structure as sticks: harmonic, without intensities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from phl_ase.plots.style import STYLES, empty, new_figure, panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LABELS = 40


def draw(content: tuple[str, Sequence[float]]) -> Figure:
    """Sticks at the wavenumbers, imaginary ones left of zero and in another colour.

    Args:
        content: A title and the wavenumbers (cm⁻¹, imaginary ones negative).
    """
    title, wavenumbers = content
    values = np.asarray(wavenumbers, dtype=float)
    figure = new_figure(7.0, 2.8)
    axes = figure.subplots()
    panel(axes)
    axes.set_title(title, loc="left")
    axes.set_xlabel("wavenumber / cm⁻¹ (imaginary modes negative)")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    if not len(values):
        empty(axes, "an atom alone has no vibrations")
        return figure
    for sign, colour in ((False, STYLES[2][0]), (True, STYLES[3][0])):
        chosen = values[(values < 0) == sign]
        axes.vlines(chosen, 0.0, 1.0, color=colour, linewidth=1.8)
    if len(values) <= _MOST_LABELS:
        room = np.ptp(np.append(values, 0.0)) / 60  # labels nearer than this would overlap
        last = -np.inf
        for value in np.sort(values):
            if value - last > room:
                name = f"{abs(value):.0f}{'i' if value < 0 else ''}"
                axes.text(value, 1.03, name, rotation=90, ha="center", va="bottom", fontsize=8)
                last = value
    axes.axvline(0.0, color="0.6", linewidth=0.8)
    axes.set_ylim(0.0, 1.5)
    return figure
