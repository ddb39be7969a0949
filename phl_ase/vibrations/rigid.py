"""Translations and rotations: what a structure can do without changing its shape, and what is left beside them.

C. Eckart, Phys. Rev. 47, 552 (1935), doi:10.1103/PhysRev.47.552.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms

from phl_ase.types import Array
from phl_ase.vibrations.constraints import FreeMotions

# Å: a molecule is linear when no atom is further than this from its axis. An optimiser leaves CO2 bent by a fraction of
# a degree (0.005 Å); a rotation about so short a lever would be mistaken for a bend. Real bends put H at 0.3 Å or more.
_LINEAR_TOLERANCE = 0.02

# of a unit rigid motion: how much of it constraints may hold and it counts as free
_ALLOWED = 1e-6


def rigid_motions(positions: Array, masses: Array, *, rotations: bool = True) -> Array:
    """Orthonormal mass-weighted translations and rotations.

    Args:
        positions: ``(n, 3)`` Å.
        masses: ``(n,)`` amu; ones for the unweighted motions.
        rotations: Whether to include rotations (not for periodic structures).

    Returns:
        Columns of ``(3n, k)``, dimensionless: k = 6, or 5 where the atoms lie on a line, or 3 for a single atom or
        without rotations.
    """
    masses = np.asarray(masses, dtype=float)
    return _weighted(_motions(positions, masses, rotations), masses)


def rigid_motions_of(atoms: Atoms, vibrating: Array, masses: Array) -> Array:
    """Rigid motions of the vibrating atoms that leave all others where they are.

    Of a molecule whose atoms are all free these are :func:`rigid_motions`. One fixed atom leaves the rotations about
    it, two the rotation about their line, three that are not in line nothing. A periodic structure has translations
    alone, and none of them with a fixed atom.

    Args:
        atoms: The structure.
        vibrating: Which atoms move ``(m,)``.
        masses: Of these ``(m,)`` amu; ones for the unweighted motions.

    Returns:
        Orthonormal mass-weighted columns ``(3m, k)``, dimensionless.
    """
    masses = np.asarray(masses, dtype=float)
    molecule = not np.any(atoms.pbc)
    if len(vibrating) == len(atoms):
        return rigid_motions(atoms.positions, masses, rotations=molecule)
    if not molecule:
        return np.zeros((3 * len(vibrating), 0))
    motions = _motions(atoms.positions, np.ones(len(atoms)), rotations=True).reshape(len(atoms), 3, -1)
    held = np.delete(motions, vibrating, axis=0).reshape(-1, motions.shape[-1])
    # combinations that move the held atoms by less than the tolerance (Å per unit of translation or radian)
    _, sizes, combinations = np.linalg.svd(held, full_matrices=True)
    sizes = np.append(sizes, np.zeros(len(combinations) - len(sizes)))
    allowed = motions @ combinations[sizes < _LINEAR_TOLERANCE].T
    return _weighted(allowed[vibrating].reshape(3 * len(vibrating), -1), masses)


def removed_motions(atoms: Atoms, free: FreeMotions, masses: Array, *, rigid: bool = True) -> tuple[Array, int]:
    """Return the directions in which there are no vibrations: rigid motions, and what constraints hold.

    A rigid motion that constraints allow is removed as one of a free molecule is; of one that they hold in part, the
    rest is a vibration against the frame that they stand for. A centre of mass that is held takes nothing else away.

    Args:
        atoms: The structure.
        free: What its constraints leave.
        masses: Of the free atoms ``(m,)`` amu; ones for unweighted directions.
        rigid: Whether to remove rigid motions.

    Returns:
        Orthonormal mass-weighted columns ``(3m, k)``, and how many of the k are rigid motions.
    """
    held = free.directions(masses)
    if not rigid:
        return held, 0
    motions = rigid_motions_of(atoms, free.atoms, masses)
    if free.is_whole or held.shape[1] == 0:
        return motions, motions.shape[1]
    _, overlaps, mix = np.linalg.svd(held.T @ motions)
    overlaps = np.append(overlaps, np.zeros(motions.shape[1] - len(overlaps)))
    allowed = motions @ mix[overlaps < _ALLOWED].T
    return np.linalg.qr(np.column_stack([allowed, held]))[0], allowed.shape[1]


def complement(columns: Array) -> Array:
    """Orthonormal basis of everything orthogonal to orthonormal columns ``(d, k)``: ``(d, d − k)``."""
    if columns.shape[1] == 0:
        return np.eye(len(columns))
    return np.linalg.qr(columns, mode="complete")[0][:, columns.shape[1] :]


def _motions(positions: Array, masses: Array, rotations: bool) -> Array:
    """Cartesian motions ``(3n, k)``: unit translations, then rotations by one radian about the centre of mass, Å."""
    motions = [np.broadcast_to(axis, (len(positions), 3)) for axis in np.eye(3)]
    if rotations and len(positions) > 1:
        centred = positions - np.average(positions, axis=0, weights=masses)
        # right singular vectors: the axis of a linear molecule first, then the two perpendicular to it
        axes = np.linalg.svd(np.sqrt(masses)[:, None] * centred, full_matrices=True)[2]
        off_axis = np.linalg.norm(centred @ axes[1:].T, axis=1).max()
        motions += [np.cross(axis, centred) for axis in (axes[1:] if off_axis < _LINEAR_TOLERANCE else axes)]
    return np.stack([motion.ravel() for motion in motions], axis=1)


def _weighted(motions: Array, masses: Array) -> Array:
    """Orthonormal basis of mass-weighted motions."""
    return np.linalg.qr(np.repeat(np.sqrt(masses), 3)[:, None] * motions)[0]
