"""Energy profiles along reaction paths: the reference's and each potential's, one panel for each reaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from phl_ase.plots.style import STYLES, empty, new_figure, panel, styles_of
from phl_ase.results import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_COLUMNS = 3


def draw(reports: Sequence[Report]) -> Figure:
    """Profiles of reports of :func:`phl_ase.validators.validate_irc`, energies above the TS.

    Args:
        reports: In any order; those of one system share a panel and its reference, a potential has one colour.
    """
    reports = [report for report in reports if report.validator == "irc"]
    systems = list(dict.fromkeys(report.system for report in reports))
    styles = styles_of(report.potential for report in reports)
    columns = min(_COLUMNS, max(len(systems), 1))
    rows = max(-(-len(systems) // columns), 1)
    figure = new_figure(max(4.2 * columns, 5.0), 3.3 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False)
    handles: dict[str, Line2D] = {}
    for place, axes in enumerate(grid.flat):
        if place >= max(len(systems), 1):
            axes.set_visible(False)
            continue
        if not systems:
            empty(axes)
            continue
        handles |= _profiles(axes, [report for report in reports if report.system == systems[place]], styles)
        axes.set_title(systems[place])
        if place % columns == 0:
            axes.set_ylabel("energy above the TS / kcal mol⁻¹")
        if place + columns >= len(systems):
            axes.set_xlabel("arc length / √amu Å")
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(len(handles), 4))
    return figure


def _profiles(axes: Axes, reports: Sequence[Report], styles: Mapping[str, tuple[str, str, str]]) -> dict[str, Line2D]:
    """One panel; what its legend needs."""
    panel(axes)
    handles: dict[str, Line2D] = {}
    colour, marker, _ = STYLES[0]
    arrays = reports[0].arrays
    if "reference_arc_length" in arrays:
        handles["reference"] = axes.plot(
            arrays["reference_arc_length"],
            arrays["reference_energies"],
            color=colour,
            marker=marker,
            markersize=4,
            linestyle=":",
            linewidth=1.0,
        )[0]
    notes = []
    for report in reports:
        colour, _, line = styles[report.potential]
        lengths = report.arrays.get("arc_length", ())
        if report.outcome not in ("connects", "converged"):
            notes.append(f"{report.potential}:\n{report.outcome}")
        if len(lengths) > 1:
            handles[report.potential] = axes.plot(
                lengths, report.arrays["energies"], color=colour, linestyle=line, linewidth=1.8
            )[0]
    if notes:
        # under the summit there is room, whatever the arms look like
        text = axes.text(0.0, 0.03, "\n".join(notes), transform=axes.get_xaxis_transform(), fontsize="small")
        text.set(ha="center", va="bottom", color="0.3")
    return handles
