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

_NAMES = {"ts": "transition state"}


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


@dataclass(frozen=True, eq=False)
class LearntPath:
    """Content of the figure of a path.

    Attributes:
        profile: Energies of the surrogate and of the stationary points.
        std: Standard deviations of the former ``(m,)`` kcal/mol.
        asked: Arc length (√amu·Å) and energy (kcal/mol above the reactant) of the reference's points ``(k, 2)``.
    """

    profile: Profile
    std: Array
    asked: Array


def draw_path(path: LearntPath) -> Figure:
    """Draw the energy profile of the path, a band of two standard deviations, and the reference's energies on it."""
    figure = draw(path.profile)
    axes = figure.axes[0]
    energies = path.profile.energies
    band = (energies - 2 * path.std, energies + 2 * path.std)
    axes.fill_between(path.profile.arc_length, *band, color=STYLES[2][0], alpha=0.25, linewidth=0)
    if len(path.asked):
        axes.plot(
            *path.asked.T, marker="o", markersize=8, fillstyle="none", color="black", linestyle="", label="reference"
        )
        axes.legend(loc="upper right", frameon=False)
    return figure


def draw_convergence(run: Convergence) -> Figure:
    """Draw the largest force of the reference at every stop against the gradients bought until then."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(7.0, 4.2)
    axes = figure.subplots()
    panel(axes)
    for (colour, marker, _), stage in zip(STYLES, ("ts", "reactant", "product", "path"), strict=False):
        points = [(gradients, value) for name, gradients, value in run.steps if name == stage]
        if points:
            axes.plot(*np.array(points).T, color=colour, marker=marker, label=_NAMES.get(stage, stage))
    axes.axhline(run.fmax, color="0.4", linestyle="--", linewidth=1, label="allowed force")
    if any(name == "path" for name, _, _ in run.steps):
        axes.axhline(
            run.path_error, color=STYLES[3][0], linestyle=":", linewidth=1.5, label="allowed error of the path"
        )
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("reference gradients")
    axes.set_ylabel("largest force (path: rms error) / eV Å⁻¹")
    axes.legend(frameon=False)
    return figure
