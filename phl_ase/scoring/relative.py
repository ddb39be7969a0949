"""Energies whose zeros differ: errors within one composition.

Two levels of theory count energy from different zeros (GFN2-xTB has no core electrons), so that their absolute
energies differ by thousands of eV. What a chemist compares, barriers, reaction energies, conformers, conserves the
atoms: a constant for each composition drops out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from phl_ase.scoring.errors import ERRORS
from phl_ase.types import Array

ENERGIES: dict[str, str] = {
    "absolute": "as they are: for a potential made for the level of theory of the data",
    "relative": "within each composition, whose mean difference is taken out: for another level of theory",
}
"""Comparison of energies -> its meaning."""


def composition_offsets(frames: Sequence[Any], energies: Array) -> Array:
    """Mean difference between predicted and reference energy of each frame's composition.

    Args:
        frames: With ``numbers`` and reference ``energy`` (eV).
        energies: Predicted ``(frames,)`` eV; NaN where there is none.

    Returns:
        ``(frames,)`` eV; NaN where fewer than two frames of the composition can be compared: the only one would have no
        error by construction.
    """
    keys = [tuple(sorted(np.asarray(frame.numbers).tolist())) for frame in frames]
    differences = _differences(frames, energies)
    offsets = {}
    for key in set(keys):
        values = differences[[k == key for k in keys]]
        present = values[np.isfinite(values)]
        offsets[key] = present.mean() if len(present) > 1 else np.nan
    return np.array([offsets[key] for key in keys])


def relative_energy_errors(frames: Sequence[Any], energies: Array) -> Array:
    """Absolute errors of energies after the mean difference of each composition is taken out.

    The mean is of the frames at hand, so that of m frames it takes about 1/m of the squared error with it.

    Args:
        frames: With ``numbers`` and reference ``energy`` (eV).
        energies: Predicted ``(frames,)`` eV; NaN where there is none.

    Returns:
        ``(frames,)`` meV/atom; NaN where there is nothing to compare, infinite where the prediction is.
    """
    sizes = np.array([len(frame.numbers) for frame in frames])
    differences = _differences(frames, energies)
    errors = ERRORS["energy"].scale * np.abs(differences - composition_offsets(frames, energies)) / sizes
    return np.where(np.isinf(differences), np.inf, errors)


def _differences(frames: Sequence[Any], energies: Array) -> Array:
    return np.asarray(energies, dtype=float) - np.array([np.nan if f.energy is None else f.energy for f in frames])
