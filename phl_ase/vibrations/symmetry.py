"""Rotational symmetry numbers of molecules, from their geometry."""

from __future__ import annotations

import itertools

import numpy as np
from ase import Atoms

from phl_ase.errors import PHLError
from phl_ase.types import Array


def symmetry_number(atoms: Atoms, *, tolerance: float = 0.05) -> int:
    """Return the number of proper rotations that carry a molecule into itself.

    Two atoms that are not on a line with the centre of mass fix a rotation. Every pair of atoms that they could be
    carried to is tried; a rotation counts when each atom comes to rest on one of its own element and mass.

    Args:
        atoms: A molecule. Isotopes (``atoms.set_masses``) lower its symmetry.
        tolerance: Largest distance between an atom and the one that it is carried to, Å.

    Returns:
        2 for water, 3 for ammonia, 12 for methane; 1 or 2 for a linear molecule; 1 for a single atom.

    Raises:
        PHLError: For a periodic structure, or a tolerance that is not positive.
    """
    if np.any(atoms.pbc):
        raise PHLError("a periodic structure has no rotational symmetry number; expected a molecule")
    if not tolerance > 0:
        raise PHLError(f"tolerance is {tolerance!r} Å; expected a positive number, for example 0.05")
    places = atoms.positions - atoms.get_center_of_mass()
    kinds = [(int(z), round(float(m), 3)) for z, m in zip(atoms.numbers, atoms.get_masses(), strict=True)]
    away = [i for i, place in enumerate(places) if np.linalg.norm(place) > tolerance]
    if not away:
        return 1
    first = min(away, key=lambda i: (kinds.count(kinds[i]), i))  # the rarest kind has the fewest candidates
    off_line = [i for i in away if _off_line(places[first], places[i]) > tolerance]
    if not off_line:  # linear: turning it over is the only rotation that counts
        return 1 + _carried(places, kinds, -np.eye(3), tolerance)
    second = min(off_line, key=lambda i: (kinds.count(kinds[i]), i))
    start = _frame(places[first], places[second])
    candidates = [[i for i in away if kinds[i] == kinds[atom]] for atom in (first, second)]
    found: list[Array] = []
    for a, b in itertools.product(*candidates):
        if a == b or abs(np.linalg.norm(places[a]) - np.linalg.norm(places[first])) > tolerance:
            continue
        before = np.linalg.norm(places[first] - places[second])
        if abs(np.linalg.norm(places[a] - places[b]) - before) > tolerance:
            continue
        if _off_line(places[a], places[b]) <= tolerance:
            continue
        rotation = _frame(places[a], places[b]) @ start.T
        new = all(np.trace(rotation.T @ other) < 3 - 1e-3 for other in found)
        if new and _carried(places, kinds, rotation, tolerance):
            found.append(rotation)
    return len(found)


def _off_line(axis: Array, place: Array) -> float:
    """Return the distance of a place from the line through the origin along an axis, Å."""
    unit = axis / np.linalg.norm(axis)
    return float(np.linalg.norm(place - (place @ unit) * unit))


def _frame(a: Array, b: Array) -> Array:
    """Return a right-handed orthonormal frame ``(3, 3)`` of two vectors, in its columns."""
    x = a / np.linalg.norm(a)
    z = np.cross(a, b)
    z /= np.linalg.norm(z)
    return np.column_stack([x, np.cross(z, x), z])


def _carried(places: Array, kinds: list[tuple[int, float]], rotation: Array, tolerance: float) -> bool:
    """Return whether a rotation carries every atom to one of its own kind."""
    moved = places @ rotation.T
    distances = np.linalg.norm(moved[:, None] - places[None, :], axis=2)
    nearest = distances.argmin(axis=1)
    return bool(np.all(distances.min(axis=1) <= tolerance) and all(kinds[i] == kinds[j] for i, j in enumerate(nearest)))
