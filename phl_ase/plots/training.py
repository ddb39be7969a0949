"""Errors of the validation frames during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phl_ase.plots.style import empty, new_figure, panel, plain_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = (
    ("valid_energy", 1e3, "energy / (meV/atom)"),
    ("valid_forces", 1e3, "forces / (meV/Å)"),
    ("valid_curvature", 1.0, "Hessian / (eV/Å²)"),
)


@dataclass(frozen=True)
class Curves:
    """The runs of one method.

    Attributes:
        style: Colour, marker and line, as in ``plots.style.STYLES``.
        runs: The log of each, a record for each epoch.
    """

    style: tuple[str, str, str]
    runs: Sequence[Sequence[Mapping[str, Any]]]


def draw(methods: Mapping[str, Curves]) -> Figure:
    """Root-mean-square errors over the epochs, a line for each run: energy, forces, curvature.

    Args:
        methods: Name -> its runs; records without a quantity leave no point in its panel.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(11.5, 4.0)
    handles: dict[str, Any] = {}
    for axes, (key, scale, label) in zip(figure.subplots(1, 3), _PANELS, strict=True):
        panel(axes)
        for name, curves in methods.items():
            colour, _, line = curves.style
            width = 1.8 if len(curves.runs) == 1 else 1.3
            for run in curves.runs:
                points = [(record["epoch"], scale * record[key]) for record in run if record.get(key) is not None]
                if points:
                    marker = "o" if len(points) < 4 else ""
                    (handles[name],) = axes.plot(
                        *zip(*points, strict=True), line, color=colour, linewidth=width, alpha=0.85, marker=marker
                    )
        if axes.lines:
            axes.set_yscale("log")
            plain_ticks(axes)
        else:
            empty(axes)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"validation RMSE, {label}")
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
    return figure
