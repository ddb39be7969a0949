"""Spectra as sticks: the reference's wavenumbers upwards, the potentials' downwards, system by system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.plots.style import STYLES, empty, new_figure, styles_of
from phl_ase.results import Report
from phl_ase.validators.names import MetricName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PANELS = 12
_COLUMNS = 2
_STICK = 0.82  # of the height of a lane
_NOTES = (
    "up the reference, down the potential: equal wavenumbers meet; sticks have no intensity",
    "MAE: mean absolute error in ascending order, cm⁻¹",
)


def draw(reports: Sequence[Report]) -> Figure:
    """Draw harmonic wavenumbers of each system: one panel each, one lane for each potential below the reference.

    Args:
        reports: Of ``validate_frequencies`` or ``validate_relaxed_frequencies``; those of one system share a panel. At
            most twelve systems are drawn; how many are left out, and how many reports hold no wavenumbers because they
            are off stationary points, stands below.

    Raises:
        PHLError: For reports of another validator.
    """
    from matplotlib.lines import Line2D

    foreign = sorted({report.validator for report in reports if report.validator != "frequencies"})
    if foreign:
        raise PHLError(f"spectra are drawn of reports on frequencies; got {', '.join(map(repr, foreign))}")
    systems: dict[str, list[Report]] = {}
    for report in reports:
        if "reference_wavenumbers" in report.arrays:
            systems.setdefault(report.system, []).append(report)
    styles = styles_of(report.potential for chosen in systems.values() for report in chosen)
    colours = {name: colour for name, (colour, _, _) in styles.items()}
    shown = dict(list(systems.items())[:_MOST_PANELS])
    columns = min(_COLUMNS, max(len(shown), 1))
    rows = max(-(-len(shown) // columns), 1)
    lanes = max((len(chosen) for chosen in shown.values()), default=1)
    figure = new_figure(6.2 * columns, rows * (1.35 + 0.5 * lanes) + 0.9)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (system, chosen) in zip(panels, shown.items(), strict=False):
        _panel(axes, system, chosen, colours)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    if not shown:
        empty(panels[0], "no report holds wavenumbers")
    remarks = list(_NOTES)
    if len(systems) > len(shown):
        remarks.append(f"systems not shown: {len(systems) - len(shown)}")
    if without := sum("reference_wavenumbers" not in report.arrays for report in reports):
        remarks.append(f"reports off stationary points, without wavenumbers: {without}")
    entries = {"reference": STYLES[0][0], **colours}
    handles = [Line2D([], [], color=colour, linewidth=2.2, label=name) for name, colour in entries.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 4), frameon=False)
    figure.supxlabel("\n".join(remarks), fontsize=9, color="0.35", x=0.01, ha="left")
    return figure


def _panel(axes: Axes, system: str, reports: Sequence[Report], colours: dict[str, str]) -> None:
    from matplotlib.ticker import MaxNLocator

    reference = np.asarray(reports[0].arrays["reference_wavenumbers"], dtype=float)
    axes.vlines(reference, 0, _STICK, color=STYLES[0][0], linewidth=1.6)
    everything = [reference]
    for lane, report in enumerate(reports):
        values = np.asarray(report.arrays.get("wavenumbers", []), dtype=float)
        everything.append(values)
        axes.vlines(values, -lane, -lane - _STICK, color=colours[report.potential], linewidth=1.6)
        axes.axhline(-lane, color="0.6", linewidth=0.7)
        found = {metric.name: metric.value for metric in report.metrics}
        error = found.get(MetricName.FREQUENCY_MAE, float("nan"))
        lines = [f"MAE {error:.0f}" if error >= 10 else f"MAE {error:.1f}"] if np.isfinite(error) else []
        lines += [] if report.outcome == "agrees" else [report.outcome]
        lines += ["relaxed"] if MetricName.RMSD_TO_REFERENCE in found else []
        beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "left", "va": "center", "fontsize": 9}
        axes.text(1.0, -lane - 0.5, "\n".join(lines), **beside)
    # imaginary wavenumbers left of zero, on a shaded ground and with an i
    values = np.concatenate(everything)
    low, high = min(float(values.min(initial=0.0)), 0.0), max(float(values.max(initial=0.0)), 100.0)
    margin = 0.03 * (high - low)
    low = low - margin if low < 0 else 0.0
    axes.set_xlim(low, high + margin)
    if low < 0:
        axes.axvspan(low, 0, color="0.93", zorder=0, linewidth=0)
        axes.axvline(0, color="0.6", linewidth=0.7)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}{'i' if value < -0.5 else ''}")
    axes.set_xlabel("wavenumber / cm⁻¹")
    axes.set_ylim(-len(reports), 1)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(system, loc="left")
