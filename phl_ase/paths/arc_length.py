"""Arc length along a reaction path in mass-weighted coordinates, whatever orientation its structures are stored in.

The intrinsic reaction coordinate of K. Fukui, Acc. Chem. Res. 14, 363 (1981), doi:10.1021/ar00072a001, is the length
of the steepest-descent curve in √m·r with translations and rotations removed. Each structure is turned onto the one
before it, and the curve through them is a cubic spline: a coarse path (a dozen structures) and a fine one of the same
reaction then have the same length, where sums of straight chords would differ by percents.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from scipy.interpolate import CubicSpline

from phl_ase.errors import PHLError
from phl_ase.paths.geometry import best_rotation
from phl_ase.types import Array

_SAME_POINT = 1e-8  # √amu·Å: two structures closer than this are one point of the curve
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


def arc_length(structures: Sequence[Atoms], origin: int = 0) -> Array:
    """Return the signed arc length of each structure of a path.

    Args:
        structures: The path in order, the same atoms in the same order; orientation and position do not matter.
        origin: Index of the structure at arc length 0, usually the transition state's.

    Returns:
        ``(m,)`` √amu·Å, ascending, negative before the origin. Masses are those of the first structure.

    Raises:
        PHLError: For no structures, or structures of different atoms.
    """
    points = mass_weighted_path(structures)
    chords = np.linalg.norm(np.diff(points, axis=0), axis=1)
    apart = chords > _SAME_POINT
    kept = points[np.concatenate([[True], apart])]
    steps = chords.copy()
    if len(kept) > 2:  # lengths along the cubic spline, parametrised by the chords
        knots = np.concatenate([[0.0], np.cumsum(chords[apart])])
        tangent = CubicSpline(knots, kept).derivative()
        half = 0.5 * np.diff(knots)
        places = 0.5 * (knots[:-1] + knots[1:])[:, None] + half[:, None] * _NODES
        steps[apart] = half * (np.linalg.norm(tangent(places), axis=-1) @ _WEIGHTS)
    lengths = np.concatenate([[0.0], np.cumsum(steps)])
    return lengths - lengths[origin]


def mass_weighted_path(structures: Sequence[Atoms]) -> Array:
    """Return mass-weighted coordinates of a path without translation and rotation, each structure turned onto the last.

    Args:
        structures: The path in order.

    Returns:
        ``(m, 3n)`` √amu·Å, relative to the centre of mass; masses are those of the first structure.

    Raises:
        PHLError: For no structures, or structures of different atoms.
    """
    if not structures:
        raise PHLError("the path has no structures; expected at least one")
    masses = structures[0].get_masses()
    points: list[Array] = []
    for number, structure in enumerate(structures):
        if not np.array_equal(structure.numbers, structures[0].numbers):
            raise PHLError(
                f"structure {number} of the path is {structure.get_chemical_formula('reduce')}, the first is "
                f"{structures[0].get_chemical_formula('reduce')}; expected the same atoms in the same order"
            )
        centred = structure.positions - np.average(structure.positions, axis=0, weights=masses)
        points.append(best_rotation(points[-1], centred, masses).apply(centred) if points else centred)
    return (np.sqrt(masses)[:, None] * np.stack(points)).reshape(len(points), -1)
