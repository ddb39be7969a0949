"""Names of metrics that are looked up in reports: the validators write them, tables, figures and studies read them."""

from __future__ import annotations

from enum import StrEnum


class MetricName(StrEnum):
    """Name of a metric as reports and their files hold it."""

    # stages of a TS search, 1 where it was passed
    CONVERGED = "converged"
    FIRST_ORDER = "first order"
    CONNECTED = "connected"
    SAME_TS = "same TS"
    # a TS search
    RMSD_TO_TS = "RMSD to the reference TS"
    BARRIER_FROM_REACTANT = "barrier from reactant"
    BARRIER_FROM_PRODUCT = "barrier from product"
    BARRIER_ERROR_FROM_REACTANT = "barrier error from reactant"
    BARRIER_ERROR_FROM_PRODUCT = "barrier error from product"
    STEPS = "steps"
    FORCE_CALLS = "force calls"
    HVP_CALLS = "HVP calls"
    HESSIAN_CALLS = "Hessian calls"
    SECONDS = "seconds"
    BARRIER_FROM_END_1 = "barrier from end 1"
    BARRIER_FROM_END_2 = "barrier from end 2"
    # a stationary point
    RMSD_TO_REFERENCE = "RMSD to the reference"
    FREQUENCY_MAE = "frequency MAE"
    LARGEST_FREQUENCY_ERROR = "largest frequency error"
    IMAGINARY_WAVENUMBER = "imaginary wavenumber"
    IMAGINARY_MODES = "imaginary modes"
    ZPE = "ZPE"
    ZPE_ERROR = "ZPE error"
    MODE_OVERLAP = "mean mode overlap"
    G_CORRECTION = "G correction"
    G_CORRECTION_ERROR = "G correction error"
    HESSIAN_MAE = "Hessian MAE"
    PROJECTED_EIGENVALUE_MAE = "projected eigenvalue MAE"
    LOWEST_EIGENVALUE = "lowest eigenvalue"
    # a reaction path
    PROFILE_RMSE = "profile RMSE"
    LARGEST_DEVIATION = "largest deviation"
    FIRST_STEP_OVERLAP = "first step overlap"
    BARRIER_FORWARD = "barrier forward"
    BARRIER_BACK = "barrier back"
    BARRIER_FORWARD_ERROR = "barrier forward error"
    BARRIER_BACK_ERROR = "barrier back error"


BARRIER_ERROR = "barrier error"
"""Kind of the errors of barriers; the ends of a reaction may have any names."""

BARRIER_ERRORS = {
    "reactant": MetricName.BARRIER_ERROR_FROM_REACTANT,
    "product": MetricName.BARRIER_ERROR_FROM_PRODUCT,
}
"""End of a reaction -> error of the barrier from it."""

BARRIERS = {"reactant": MetricName.BARRIER_FROM_REACTANT, "product": MetricName.BARRIER_FROM_PRODUCT}
"""End of a reaction -> barrier from it."""
