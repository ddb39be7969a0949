"""Phonon bands and densities of states of potentials against the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phl_ase.plots.style import STYLES, empty, new_figure, panel
from phl_ase.results import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray

_NAMES = {"G": "Γ"}


def draw(reports: Sequence[Report]) -> Figure:
    """Bands along the path and, beside them, densities of states: the reference black, potentials in colour.

    Args:
        reports: Of :func:`phl_ase.validators.phonons.validate_phonons`, of one crystal and path; those without
            frequencies are left out.

    Returns:
        The figure; imaginary frequencies are below zero.
    """
    figure = new_figure(10.0, 4.6)
    bands, states = figure.subplots(1, 2, sharey=True, width_ratios=(3.2, 1))
    # (name, prefix of its arrays, report, style) of the reference, once, and of each potential
    curves = [
        ("reference", "reference_", report, STYLES[0])
        for report in [report for report in reports if "reference_frequencies" in report.arrays][:1]
    ]
    present = [report for report in reports if "frequencies" in report.arrays]
    alone = len(present) == 1 and not curves  # nothing to tell apart: the first style, a full line
    for number, report in enumerate(present):
        curves.append((report.potential, "", report, STYLES[0 if alone else 1 + number % (len(STYLES) - 1)]))
    if not curves:
        empty(bands)
        empty(states)
        return figure
    for axes in (bands, states):
        panel(axes)
        axes.axhline(0.0, color="0.4", linewidth=0.8)
    for label, prefix, report, (colour, _, line) in curves:
        distances, values = (
            np.asarray(report.arrays[f"{prefix}{name}"], dtype=float) for name in ("distances", "frequencies")
        )
        # no line joins points that are no neighbours, where the path breaks
        (breaks,) = np.nonzero(np.diff(distances) < 1e-9)
        distances, values = np.insert(distances, breaks + 1, np.nan), np.insert(values, breaks + 1, np.nan, axis=0)
        style: dict[str, Any] = {"color": colour, "linestyle": line, "linewidth": 1.6 if prefix else 1.3}
        for branch in values.T:
            bands.plot(distances, branch, **style)
        states.plot(report.arrays[f"{prefix}dos"], report.arrays[f"{prefix}dos_frequencies"], label=label, **style)
    # special points with their names; two at one place, where the path breaks, share a tick
    _, prefix, report, _ = curves[0]
    names: dict[float, list[str]] = {}
    for place, label in zip(report.arrays[f"{prefix}label_distances"], report.arrays[f"{prefix}labels"], strict=True):
        names.setdefault(round(float(place), 6), []).append(_NAMES.get(str(label), str(label)))
    bands.set_xticks(list(names), ["|".join(labels) for labels in names.values()])
    for tick in names:
        bands.axvline(tick, color="0.7", linewidth=0.8, zorder=0.5)
    bands.set_xlim(min(names), max(names))
    # the density of states is sampled beyond the bands, where there is nothing to see
    lowest = min(float(np.min(report.arrays[f"{prefix}frequencies"])) for _, prefix, report, _ in curves)
    bands.set_ylim(bottom=1.08 * lowest if lowest < -0.1 else 0.0)
    bands.set_ylabel("frequency / THz (imaginary below 0)")
    bands.set_title(reports[0].system, loc="left")
    states.set_xlabel("states / THz⁻¹ cell⁻¹")
    states.set_xlim(left=0.0)
    handles, labels = states.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
    return figure
