"""Accuracy of energies, forces and curvature: prediction against reference, and errors far from equilibrium."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phl_ase.plots import displacement, parity
from phl_ase.plots.style import empty, new_figure, styles_of
from phl_ase.results import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 3.5, 3.2  # of a panel, inches


def draw(reports: Sequence[Report]) -> Figure:
    """Draw what there is: parity of every quantity, then errors against displacement and against temperature.

    Args:
        reports: Of ``phl_ase.validators.validate_accuracy``, one for each potential.
    """
    several = len({report.system for report in reports}) > 1
    named = {f"{r.potential}, {r.system}" if several else r.potential: r for r in reports}
    styles = styles_of(named)
    pairs = {name: parity.pairs_of(report) for name, report in named.items()}
    quantities = [label for label in parity.PARITY_UNITS if any(label in found for found in pairs.values())]
    rows = [
        (against, errors)
        for against in displacement.AXES
        if (errors := displacement.errors_of(named.values(), against))
    ]
    if not quantities and not rows:
        figure = new_figure(6, 3)
        empty(figure.subplots(), "nothing to compare")
        return figure
    widest = max(len(quantities), *(len(errors) for _, errors in rows), 2)
    number = bool(quantities) + len(rows)
    figure = new_figure(_WIDTH * widest, _HEIGHT * number + 0.4)
    parts = list(figure.subfigures(number, 1, squeeze=False)[:, 0])
    handles: dict[str, Any] = {}
    if quantities:
        part = parts.pop(0)
        for axes, label in zip(part.subplots(1, len(quantities), squeeze=False)[0], quantities, strict=True):
            found = {name: pair[label] for name, pair in pairs.items() if label in pair}
            parity.draw_panel(axes, label, list(found.values()), [styles[name][0] for name in found])
            for name, line in zip(found, axes.lines, strict=False):
                handles.setdefault(name, line)
    for part, (against, errors) in zip(parts, rows, strict=True):
        handles |= displacement.draw_row(part, named, styles, against, errors)
    displacement.legend(figure, named, handles)
    return figure
