"""A reaction learnt on the fly: the path with the reference's points on it, and how the run converged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from phl_ase.plots.profile import Profile, draw
from phl_ase.plots.style import STYLES, new_figure, panel
from phl_ase.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Convergence:
    """The content of the figure of a run.

    Attributes:
        steps: Stage, reference gradients so far, largest force (of the path: rms error of the forces), eV/Å.
        fmax: Threshold of the forces, eV/Å.
        path_error: Threshold of the path, eV/Å.
    """

    steps: Sequence[tuple[str, int, float]]
    fmax: float
    path_error: float


def draw_path(content: tuple[Profile, Array]) -> Figure:
    """Energy profile of the path with the reference's energies on it.

    Args:
        content: The profile, and arc length (√amu·Å) and energy (kcal/mol above the reactant) of the reference's
            points ``(k, 2)``.
    """
    profile, asked = content
    figure = draw(profile)
    if len(asked):
        axes = figure.axes[0]
        axes.plot(
            *asked.T, linestyle="none", marker="o", markersize=8, fillstyle="none", color="black", label="reference"
        )
        axes.legend(loc="upper right", frameon=False)
    return figure


def draw_convergence(run: Convergence) -> Figure:
    """Largest force of the reference at every stop against the gradients bought until then."""
    figure = new_figure(7.0, 4.2)
    axes = figure.subplots()
    panel(axes)
    for (colour, marker, _), stage in zip(STYLES, ("ts", "reactant", "product", "path"), strict=False):
        points = [(gradients, value) for name, gradients, value in run.steps if name == stage]
        if points:
            axes.plot(*np.array(points).T, color=colour, marker=marker, label=stage)
    axes.axhline(run.fmax, color="0.4", linestyle="--", linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("reference gradients")
    axes.set_ylabel("largest force (path: rms error) / eV Å⁻¹")
    axes.legend(frameon=False)
    return figure
