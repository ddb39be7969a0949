"""Atoms on top of each other: a mistake of the structure, for which every method has an answer that means nothing."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from phl_ase.errors import PHLError

CLOSEST = 0.3
"""Å: atoms nearer than this are taken for a mistake; the bond of H2 is 0.74."""


def check_distances(atoms: Atoms, name: str) -> None:
    """Check that no two atoms, nor an atom and its own image, are nearer than ``CLOSEST``.

    Args:
        atoms: With finite positions; their cell vectors along periodic directions are not parallel.
        name: How an error names the structure.

    Raises:
        PHLError: Naming two of them and their distance.
    """
    from scipy.spatial import cKDTree

    positions, places = atoms.positions, np.arange(len(atoms))
    if atoms.pbc.any():  # with images near the faces of the cell
        cell = atoms.cell.complete()
        # distance between opposite faces
        heights = 1.0 / np.linalg.norm(cell.reciprocal(), axis=1)
        if (thin := (heights < CLOSEST) & atoms.pbc).any():
            raise PHLError(
                f"{name}: its cell is {heights[thin].min():.3g} Å thick along {'abc'[int(thin.argmax())]}: atoms lie "
                f"on their own images; expected at least {CLOSEST} Å"
            )
        fractions = cell.scaled_positions(atoms.positions)
        fractions[:, atoms.pbc] %= 1.0
        margin = CLOSEST / heights
        for axis in np.flatnonzero(atoms.pbc):
            shift = np.eye(3)[axis]
            low, high = fractions[:, axis] < margin[axis], fractions[:, axis] > 1.0 - margin[axis]
            places = np.concatenate([places, places[low], places[high]])
            fractions = np.concatenate([fractions, fractions[low] + shift, fractions[high] - shift])
        positions = fractions @ cell.array
    pairs = cKDTree(positions).query_pairs(CLOSEST, output_type="ndarray")
    pairs = pairs[(pairs < len(atoms)).any(axis=1)]  # images of two atoms are told by the atoms
    if not len(pairs):
        return
    distances = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    worst = int(distances.argmin())
    i, j = sorted(places[pairs[worst]].tolist())
    raise PHLError(f"{name}: atoms {i} and {j} are {distances[worst]:.3f} Å apart; expected at least {CLOSEST} Å")
