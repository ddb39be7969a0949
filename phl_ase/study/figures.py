"""Figures of a comparison of schemes, drawn from its results alone, so that a report can be made again at any time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from phl_ase.plots.displacement import draw_rows
from phl_ase.plots.style import STYLES, empty, new_figure, panel, plain_ticks, to_png
from phl_ase.results import Report
from phl_ase.scoring import ERRORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = Mapping[str, Any]


def _styles(results: Results) -> dict[str, tuple[str, str, str]]:
    return {name: STYLES[i % len(STYLES)] for i, name in enumerate(results["schemes"])}


def training_curves(results: Results) -> Figure:
    """Root-mean-square errors of the validation frames over the epochs: energy, forces, curvature."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(11, 3.9)
    panels = (
        ("valid_energy", 1e3, "energy / (meV/atom)"),
        ("valid_forces", 1e3, "forces / (meV/Å)"),
        ("valid_curvature", 1.0, "Hessian / (eV/Å²)"),
    )
    handles: dict[str, Any] = {}
    for axes, (key, scale, label) in zip(figure.subplots(1, 3), panels, strict=True):
        for name, (colour, _, line) in _styles(results).items():
            records = [r for r in results["schemes"][name].get("records", ()) if r.get(key) is not None]
            epochs, values = [r["epoch"] for r in records], [scale * r[key] for r in records]
            if values:
                marker = "o" if len(values) < 4 else ""
                handles[name] = axes.plot(epochs, values, line, color=colour, linewidth=1.8, marker=marker)[0]
        if axes.lines:
            axes.set_yscale("log")
            plain_ticks(axes)
        else:
            empty(axes)
        panel(axes)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"validation RMSE, {label}")
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def error_against_displacement(results: Results) -> Figure:
    """Errors of the test frames against their distance from the nearest stationary point, means with 95 % bands."""
    scores = {name: entry["scores"] for name, entry in results["schemes"].items() if entry.get("scores")}
    return draw_rows({name: Report.from_dict(s["accuracy"]) for name, s in scores.items()}, _styles(results))


def parity(results: Results) -> Figure:
    """Prediction against reference: a row for energy, forces and Hessian, a column for each scheme."""
    names = [name for name, entry in results["schemes"].items() if entry.get("scores")]
    quantities = (("energy", "eV"), ("forces", "eV/Å"), ("hessian", "eV/Å²"))
    figure = new_figure(max(2.9 * len(names) + 0.4, 6), 9)
    if not names:
        empty(figure.subplots())
        return figure
    styles = _styles(results)
    grid = figure.subplots(len(quantities), len(names), squeeze=False, sharex="row", sharey="row")
    for row, (label, unit) in zip(grid, quantities, strict=True):
        for axes, name in zip(row, names, strict=True):
            pair = results["schemes"][name]["scores"]["parity"].get(label)
            if pair:
                reference, predicted = (_array(pair[side]) for side in ("reference", "predicted"))
                axes.plot(reference, predicted, ".", color=styles[name][0], markersize=4, alpha=0.6, markeredgewidth=0)
                limits = [min(reference.min(), 0), reference.max()]
                axes.plot(limits, limits, color="0.55", linewidth=1, zorder=0)
            panel(axes)
            axes.set_xlabel(f"DFT {ERRORS[label].title} / {_unit(unit)}")
        row[0].set_ylabel(f"model {ERRORS[label].title} / {_unit(unit)}")
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(name)
    return figure


def _unit(unit: str) -> str:
    return f"({unit})" if "/" in unit else unit


def _array(values: Any) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=float)


FIGURES: dict[str, tuple[Callable[[Results], Any], str]] = {
    "error_against_displacement": (
        error_against_displacement,
        "Errors of the test frames against their RMS displacement from the nearest stationary point (reactant, product "
        "or TS) of the same reaction. Dots: single frames; lines: means over intervals with at least three; bands: "
        "95 % bootstrap intervals of the means, where frames or reactions are enough. The smallest 3 % of the errors "
        "lie below the panels. Lowest eigenvalue: of the Hessian without translations and rotations, not "
        "mass-weighted.",
    ),
    "parity": (
        parity,
        "Model against DFT for the test frames: energies above the lowest of the same composition, force components, "
        "Hessian elements. The line is perfect agreement.",
    ),
    "training_curves": (
        training_curves,
        "Root-mean-square errors of the validation frames during training, by which the best model is chosen. Schemes "
        "that learn no curvature have no curve in the last panel.",
    ),
}
"""File name -> function that draws it, caption."""


def draw_figures(results: Results) -> dict[str, bytes]:
    """All figures as PNG.

    Args:
        results: What ``run_demo`` returns, or reads from ``results.json``.

    Returns:
        Key of ``FIGURES`` -> content of the file.
    """
    drawn = {}
    for name, (draw, _) in FIGURES.items():
        drawn[name] = to_png(draw, results)
    return drawn
