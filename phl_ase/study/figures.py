"""Figures of a comparison of schemes, drawn from its results alone, so that a report can be made again at any time.

``matplotlib.figure.Figure`` without pyplot: nothing global is touched, no display is needed. Colours are Okabe and
Ito's, told apart with any colour vision; markers and line styles differ as well, for print.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from phl_ase.scoring import ERRORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Results = Mapping[str, Any]

# (colour, marker, line) of each scheme in turn; the yellow of the palette is too light for lines
STYLES = (
    ("#000000", "o", "-"),
    ("#E69F00", "s", "--"),
    ("#0072B2", "^", "-"),
    ("#D55E00", "D", "-."),
    ("#009E73", "v", "--"),
    ("#CC79A7", "P", "-"),
    ("#56B4E9", "X", ":"),
)
_FONT: dict[Any, Any] = {"font.size": 11, "axes.titlesize": 12, "axes.labelsize": 11, "legend.fontsize": 11}
_SMALLEST = 0.03  # share of the errors that lies below the panels
_FEWEST = 3  # frames that a mean is drawn for
_LABELS = {"energy": "energy", "forces": "forces", "hessian": "Hessian"}


def _new(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _styles(results: Results) -> dict[str, tuple[str, str, str]]:
    return {name: STYLES[i % len(STYLES)] for i, name in enumerate(results["schemes"])}


def _panel(axes: Axes) -> None:
    axes.grid(True, color="0.88", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _empty(axes: Axes, text: str = "nothing to show") -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="0.4")


def training_curves(results: Results) -> Figure:
    """Root-mean-square errors of the validation frames over the epochs: energy, forces, curvature."""
    from matplotlib.ticker import MaxNLocator

    figure = _new(11, 3.9)
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
            _plain_ticks(axes)
        else:
            _empty(axes)
        _panel(axes)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"validation RMSE, {label}")
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def error_against_displacement(results: Results) -> Figure:
    """Errors of the test frames against their distance from the nearest stationary point, and the mean in intervals."""
    figure = _new(11, 4.1)
    handles: dict[str, Any] = {}
    for axes, (label, kind) in zip(figure.subplots(1, 3), ERRORS.items(), strict=True):
        for name, (colour, marker, line) in _styles(results).items():
            arrays = ((results["schemes"][name].get("scores") or {}).get("accuracy") or {}).get("arrays")
            if not arrays:
                continue
            distance, errors = (_array(arrays[key]) for key in ("displacement", f"{label}_error"))
            axes.plot(distance, errors, ".", color=colour, alpha=0.25, markersize=5, markeredgewidth=0)
            keys = ("displacement_means", "displacement_frames", f"{label}_by_displacement")
            middles, counts, means = (_array(arrays[key]) for key in keys)
            there = np.isfinite(means) & (counts >= _FEWEST)
            handles[name] = axes.plot(
                middles[there], means[there], line, color=colour, marker=marker, linewidth=1.8, markersize=6
            )[0]
        if axes.lines:
            axes.set_yscale("log")
            _leave_out_smallest(axes)
            _plain_ticks(axes)
        else:
            _empty(axes)
        _panel(axes)
        axes.set_xlabel("displacement / Å")
        axes.set_ylabel(f"{_LABELS[label]} error / ({kind.unit})")
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def parity(results: Results) -> Figure:
    """Prediction against reference: a row for energy, forces and Hessian, a column for each scheme."""
    names = [name for name, entry in results["schemes"].items() if entry.get("scores")]
    quantities = (("energy", "eV"), ("forces", "eV/Å"), ("hessian", "eV/Å²"))
    figure = _new(max(2.9 * len(names) + 0.4, 6), 9)
    if not names:
        _empty(figure.subplots())
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
            _panel(axes)
            axes.set_xlabel(f"DFT {_LABELS[label]} / {_unit(unit)}")
        row[0].set_ylabel(f"model {_LABELS[label]} / {_unit(unit)}")
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(name)
    return figure


def _unit(unit: str) -> str:
    return f"({unit})" if "/" in unit else unit


def _array(values: Any) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def _leave_out_smallest(axes: Axes) -> None:
    """Let a logarithmic axis begin above the smallest of its values: a chance hit would take half of the panel."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    values = values[np.isfinite(values) & (values > 0)]
    if len(values):
        axes.set_ylim(bottom=0.7 * float(np.quantile(values, _SMALLEST)), top=1.4 * float(values.max()))


def _plain_ticks(axes: Axes) -> None:
    """Numbers and not powers of ten on a logarithmic axis, also where it spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    low, high = axes.get_ylim()
    steps = (1.0,) if high / low > 1e3 else (1.0, 3.0) if high / low > 30 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


FIGURES: dict[str, tuple[Callable[[Results], Any], str]] = {
    "error_against_displacement": (
        error_against_displacement,
        "Errors of the test frames against their RMS displacement from the nearest stationary point (reactant, product "
        "or TS) of the same reaction. Small dots: single frames; lines: means over intervals with at least three. "
        "The smallest 3 % of the errors lie below the panels.",
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
    import matplotlib

    drawn = {}
    for name, (draw, _) in FIGURES.items():
        with matplotlib.rc_context(_FONT):
            buffer = io.BytesIO()
            draw(results).savefig(buffer, format="png", dpi=130, metadata={"Software": None})
        drawn[name] = buffer.getvalue()
    return drawn
