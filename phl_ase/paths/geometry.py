"""Distances between structures and random displacements of a stated size."""

from __future__ import annotations

import warnings

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from scipy.spatial.transform import Rotation

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.types import Array
from phl_ase.vibrations import free_motions, rigid_motions


def displaced(atoms: Atoms, rms: float, seed: int | np.random.Generator) -> Atoms:
    """Return a copy with every free atom moved at random, without translating or rotating the structure.

    The displacement is Gaussian, freed of (unweighted) translations and rotations to first order, then scaled. What is
    left is orthogonal to every rotation, so that :func:`rmsd` of the two structures is ``rms`` as well. Where
    constraints fix atoms, only the others move and rigid motions stay; what other constraints hold is projected out,
    and lengths and angles that they hold are restored. Periodic structures lose the translation alone.

    Args:
        atoms: The structure; it is not changed.
        rms: √mean_i ‖Δr_i‖² over the atoms that move, Å.
        seed: Of the displacement, or a generator to draw from.

    Returns:
        The copy, without a calculator.

    Raises:
        PHLError: For a size that is not a positive number, or a structure that has no shape to change.
    """
    if not (np.isfinite(rms) and rms > 0):
        raise PHLError(f"rms is {rms!r} Å; expected a positive number, for example 0.1")
    if len(atoms) == 0:
        raise PHLError("nothing to displace in a structure without atoms; expected two or more")
    motions = free_motions(atoms)
    free = motions.atoms
    direction = np.random.default_rng(seed).standard_normal(3 * len(free))
    if motions.is_whole:
        removed = rigid_motions(atoms.positions, np.ones(len(atoms)), rotations=not np.any(atoms.pbc))
    else:
        removed = motions.directions(np.ones(len(free)))
    direction -= removed @ (removed.T @ direction)
    size = np.sqrt(np.sum(direction**2) / len(free))
    # a lone atom can only be translated: what the projection leaves of it is rounding
    if not size > 1e-8:
        raise PHLError(f"nothing to displace in a structure with {len(free)} free atoms; expected two or more")
    copy = atoms.copy()
    moved = copy.positions.copy()
    moved[free] += (rms / size) * direction.reshape(-1, 3)
    copy.positions[:] = motions.restore(atoms, moved)
    return copy


def rmsd(a: Atoms, b: Atoms) -> float:
    """Root-mean-square displacement √mean_i ‖Δr_i‖² after optimal alignment, Å.

    Proper rotations only (W. Kabsch, Acta Cryst. A 32, 922 (1976); here by ``scipy``): mirror images differ. Atoms are
    compared in the order given, unweighted. Periodic structures are aligned by translation alone, with displacements
    to the nearest image in the cell of ``a``.

    Raises:
        PHLError: When the structures do not have the same atoms in the same order.
        NonFiniteError: For NaN or infinite positions.
    """
    difference = a.positions - aligned(b, a).positions
    return float(np.sqrt(np.mean(np.sum(difference**2, axis=1))))


def aligned(atoms: Atoms, target: Atoms) -> Atoms:
    """Return a copy moved onto another structure by the proper rotation and translation that bring it closest.

    Args:
        atoms: What is moved; periodic structures are translated alone, each atom to the image nearest to its target.
        target: The same atoms in the same order.

    Returns:
        The copy, without a calculator; constraints do not hold it.

    Raises:
        PHLError: When the structures do not have the same atoms in the same order.
        NonFiniteError: For NaN or infinite positions.
    """
    if len(target) == 0 or not np.array_equal(target.numbers, atoms.numbers):
        raise PHLError(
            f"cannot compare {target.get_chemical_formula('reduce')} with {atoms.get_chemical_formula('reduce')}; "
            "expected the same atoms in the same order: sort one of them"
        )
    if not (np.all(np.isfinite(target.positions)) and np.all(np.isfinite(atoms.positions))):
        raise NonFiniteError("a position is NaN or infinite; expected finite numbers (did an optimiser explode?)")
    copy = atoms.copy()
    if np.any(target.pbc):
        difference = find_mic(atoms.positions - target.positions, target.cell, target.pbc)[0]
        copy.positions[:] = target.positions + difference - difference.mean(axis=0)
        return copy
    first, second = (x.positions - x.positions.mean(axis=0) for x in (target, atoms))
    copy.positions[:] = best_rotation(first, second).apply(second) + target.positions.mean(axis=0)
    return copy


def best_rotation(onto: Array, centred: Array, weights: Array | None = None) -> Rotation:
    """Return the proper rotation that brings centred positions ``(n, 3)`` closest to other centred ones.

    Args:
        onto: The target.
        centred: What is turned.
        weights: Of the atoms ``(n,)``; all alike by default.
    """
    if len(onto) == 1:
        return Rotation.identity()
    with warnings.catch_warnings():
        # of a linear molecule the rotation is not unique, the distance is
        warnings.filterwarnings("ignore", message="Optimal rotation is not uniquely", category=UserWarning)
        return Rotation.align_vectors(onto, centred, weights=weights)[0]
