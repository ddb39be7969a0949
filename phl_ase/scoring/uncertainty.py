"""Stated uncertainties against errors: coverage, calibration curve, ranking.

Measures of Tran et al., doi:10.1088/2632-2153/ab7e1a (miscalibration area, here of central intervals), and of Busk et
al., doi:10.1088/2632-2153/ac3eb3 (z-scores; error against uncertainty in groups of like uncertainty).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from phl_ase.types import Array

CONFIDENCES = np.linspace(0.0, 1.0, 101)
"""Confidences at which the calibration curve is read."""

ONE_SIGMA, TWO_SIGMA = math.erf(1 / math.sqrt(2)), math.erf(math.sqrt(2))
"""Shares of a normal distribution within one and two standard deviations."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Stated uncertainties compared with errors.

    Attributes:
        one_sigma: Share of the errors within one standard deviation.
        two_sigma: Within two.
        scale: 68.27th percentile of |error| / std; 1 where the scale is right.
        rank_correlation: Spearman's, of |error| with std; NaN where either is constant.
        miscalibration_area: Between the calibration curve and the diagonal, 0 to 0.5.
        rmse: Of the errors.
        mean_std: Of the uncertainties.
        observed: Share of the errors inside the central interval of each of ``CONFIDENCES``.
    """

    one_sigma: float
    two_sigma: float
    scale: float
    rank_correlation: float
    miscalibration_area: float
    rmse: float
    mean_std: float
    observed: Array


def reliability(errors: Array, stds: Array, *, zero: float = 0.0) -> Reliability:
    """Compare errors with the standard deviations stated for them.

    Args:
        errors: ``(values,)``.
        stds: Of each error, in its unit.
        zero: What is no larger is left out: uncertainties that vanish by symmetry, with errors of rounding.
    """
    from scipy.stats import norm, spearmanr  # half a second to load

    known = stds > zero
    size, stds = np.abs(errors[known]), stds[known]
    if not len(size):
        nan = float("nan")
        return Reliability(nan, nan, nan, nan, nan, nan, nan, np.full(len(CONFIDENCES), nan))
    z = size / stds
    observed = np.array([np.mean(z <= bound) for bound in norm.ppf(0.5 + 0.5 * CONFIDENCES)])
    ranked = len(size) > 2 and np.ptp(size) > 0 and np.ptp(stds) > 0
    return Reliability(
        one_sigma=float(np.mean(z <= 1.0)),
        two_sigma=float(np.mean(z <= 2.0)),
        scale=float(np.quantile(z, ONE_SIGMA)),
        rank_correlation=float(spearmanr(size, stds).statistic) if ranked else float("nan"),
        miscalibration_area=float(np.trapezoid(np.abs(observed - CONFIDENCES), CONFIDENCES)),
        rmse=float(np.sqrt(np.mean(size**2))),
        mean_std=float(stds.mean()),
        observed=observed,
    )


def like_uncertainty(errors: Array, stds: Array, groups: int) -> tuple[Array, Array]:
    """Root mean square uncertainty and error of groups of like uncertainty, equally many values in each.

    Args:
        errors: ``(values,)``.
        stds: Of each error.
        groups: How many; fewer where there are fewer than five values for each.

    Returns:
        Uncertainties and errors ``(groups,)``, ascending in uncertainty.
    """
    count = max(1, min(groups, len(stds) // 5)) if len(stds) else 0
    parts = np.array_split(np.argsort(stds, kind="stable"), count) if count else []
    means = [[np.sqrt(np.mean(values[part] ** 2)) for part in parts] for values in (stds, errors)]
    return np.array(means[0]), np.array(means[1])
