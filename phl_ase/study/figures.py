"""Figures of a comparison of schemes, drawn from its results alone, so that a report can be made again at any time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from phl_ase.plots import parity, training
from phl_ase.plots.displacement import draw_rows
from phl_ase.plots.style import STYLES, to_png
from phl_ase.results import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = Mapping[str, Any]


def _styles(results: Results) -> dict[str, tuple[str, str, str]]:
    return {name: STYLES[i % len(STYLES)] for i, name in enumerate(results["schemes"])}


def training_curves(results: Results) -> Figure:
    """Errors of the validation frames over the epochs."""
    styles, schemes = _styles(results), results["schemes"]
    return training.draw({name: training.Curves(styles[name], [schemes[name].get("records", ())]) for name in styles})


def error_against_displacement(results: Results) -> Figure:
    """Errors of the test frames against their distance from the nearest stationary point, means with 95 % bands."""
    scores = {name: entry["scores"] for name, entry in results["schemes"].items() if entry.get("scores")}
    return draw_rows({name: Report.from_dict(s["accuracy"]) for name, s in scores.items()}, _styles(results))


def parity_of_schemes(results: Results) -> Figure:
    """Prediction against reference, a column for each scheme."""
    scored = {name: entry["scores"]["parity"] for name, entry in results["schemes"].items() if entry.get("scores")}
    pairs = {
        name: {label: (pair["reference"], pair["predicted"]) for label, pair in found.items()}
        for name, found in scored.items()
    }
    return parity.draw(pairs, [_styles(results)[name][0] for name in pairs], reference="DFT")


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
        parity_of_schemes,
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
