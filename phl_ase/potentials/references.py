"""Reference energies per species and the energy scale, read off the training data before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.structures import Frame


def species_of(frames: Sequence[Frame]) -> tuple[int, ...]:
    """Atomic numbers that occur, ascending."""
    return tuple(sorted({int(z) for frame in frames for z in frame.numbers}))


def fit_reference_energies(frames: Sequence[Frame], species: Sequence[int]) -> np.ndarray:
    """Least-squares energy per species, eV; the smallest-norm solution where compositions do not determine it.

    Args:
        frames: Those with energies count.
        species: Atomic numbers, the order of the result.

    Returns:
        ``(species,)`` eV; zeros when no frame carries an energy.
    """
    labelled = [f for f in frames if f.energy is not None]
    if not labelled:
        return np.zeros(len(species))
    counts = np.array([[np.count_nonzero(f.numbers == z) for z in species] for f in labelled], dtype=float)
    energies = np.array([f.energy for f in labelled])
    return np.linalg.lstsq(counts, energies, rcond=None)[0]


def fit_scale(frames: Sequence[Frame], references: np.ndarray, species: Sequence[int]) -> float:
    """Return an energy scale, eV: the root mean square force component (per Å), else the spread of energies per atom.

    Raises:
        PHLError: When no frame carries energies or forces.
    """
    forces = [f.forces.ravel() for f in frames if f.forces is not None]
    if forces:
        scale = float(np.sqrt(np.mean(np.concatenate(forces) ** 2)))
    else:
        rests = [
            (f.energy - sum(references[list(species).index(z)] for z in f.numbers)) / len(f)
            for f in frames
            if f.energy is not None
        ]
        if not rests:
            raise PHLError("no training frame carries energies or forces: there is nothing to learn")
        scale = float(np.std(rests))
    return scale if scale > 1e-8 else 1.0
