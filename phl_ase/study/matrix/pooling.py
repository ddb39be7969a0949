"""The accuracy reports of several seeds as one: error-displacement curves of all their test frames together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phl_ase.results import Report
from phl_ase.scoring import ERRORS, group_means, intervals, resampling_units
from phl_ase.study.matrix.gather import CellResult
from phl_ase.validators.accuracy import DISPLACEMENT_EDGES

AXIS = "displacement"


def pooled_accuracy(results: Sequence[CellResult]) -> Report | None:
    """What :func:`phl_ase.plots.displacement.draw_rows` draws, of every seed's frames; ``None`` without any.

    A frame that several seeds tested counts once for each; reactions are drawn whole, over all seeds.
    """
    reports = [report for result in results for report in result.reports.get("accuracy", ())]
    if not reports:
        return None
    distance = np.concatenate([np.asarray(r.arrays[AXIS], dtype=float) for r in reports])
    errors = {
        name: np.concatenate([np.asarray(r.arrays[f"{name}_error"], dtype=float) for r in reports]) for name in ERRORS
    }
    reactions = [str(name) for r in reports for name in np.asarray(r.arrays["reaction"]).tolist()]
    groups = intervals(distance, DISPLACEMENT_EDGES)
    means = group_means(errors, groups, resampling_units(reactions))
    arrays = {AXIS: distance, **{f"{name}_error": values for name, values in errors.items()}}
    arrays[f"{AXIS}_means"] = np.array([distance[g].mean() if g.any() else np.nan for g in groups])
    arrays[f"{AXIS}_frames"] = means.members
    for name in ERRORS:
        arrays[f"{name}_by_{AXIS}"] = means.mean[name]
        arrays |= {f"{name}_by_{AXIS}_{limit}": getattr(means, limit)[name] for limit in ("low", "high", "frames")}
    first = reports[0]
    return Report(first.system, first.potential, first.outcome, arrays=arrays, validator="accuracy")
