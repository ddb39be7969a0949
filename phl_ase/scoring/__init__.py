"""Scores of predictions against reference labels: errors frame by frame, means over kinds of geometry with intervals.

Works on plain arrays, whatever made them; imports no model.
"""

from phl_ase.scoring.bootstrap import DRAWS, GroupMeans, Units, group_means, resampling_units
from phl_ase.scoring.errors import (
    ALL_ERRORS,
    ERRORS,
    HVP_ERRORS,
    ErrorKind,
    curvatures_along,
    frame_errors,
    projected_eigenvalues,
)
from phl_ase.scoring.frames import FrameFacts, LabelledStructure, facts
from phl_ase.scoring.groups import MILD, REGIONS, STATIONARY, geometries, intervals, mean_errors, temperature_groups
from phl_ase.scoring.labels import LabelErrors
from phl_ase.scoring.paired import MARGIN, Estimate, Observations, mean_estimate, ratio_change, ratio_estimate
from phl_ase.scoring.relative import ENERGIES, composition_offsets, relative_energy_errors

__all__ = [
    "ALL_ERRORS",
    "DRAWS",
    "ENERGIES",
    "ERRORS",
    "HVP_ERRORS",
    "MARGIN",
    "MILD",
    "REGIONS",
    "STATIONARY",
    "ErrorKind",
    "Estimate",
    "FrameFacts",
    "GroupMeans",
    "LabelErrors",
    "LabelledStructure",
    "Observations",
    "Units",
    "composition_offsets",
    "curvatures_along",
    "facts",
    "frame_errors",
    "geometries",
    "group_means",
    "intervals",
    "mean_errors",
    "mean_estimate",
    "projected_eigenvalues",
    "ratio_change",
    "ratio_estimate",
    "relative_energy_errors",
    "resampling_units",
    "temperature_groups",
]
