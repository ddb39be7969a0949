"""Neighbour lists: ordered pairs of atoms within a cutoff. Made once per frame, reused for every probe.

Small molecules: all pairs by distance. Everything else: ``vesin-torch``, of which only i, j and the integer shifts are
taken; the vectors are rebuilt from the positions so that every derivative exists. Vesin divides the box into a grid of
cells as wide as the cutoff, so the box that it is given is one whose grid is small: skewed lattice vectors are reduced,
atoms are wrapped, and empty space wider than the cutoff is left out. What no matter looks like is refused.
"""

from __future__ import annotations

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.lattice import OVERLAP, check_positions, inverse_and_heights, reduced_lattice

Array = np.ndarray

DENSEST = 3.0
"""Atoms per Å³ up to which structures are accepted: diamond has 0.18, hydrogen at 500 GPa about 1."""

MANY = 1000
"""Neighbours of an atom that are accepted at any density."""

MOST_PAIRS = 1e8
"""Pairs of one structure up to which a list is made: 5 GB."""

ALL_PAIRS = 80
"""Atoms of a molecule up to which distances of all pairs take less time than a grid."""

_ROW_BLOCK = 2**22
"""Distances computed at a time where all pairs of a large molecule are wanted."""

_LONG = 16
"""Cutoffs along a direction beyond which empty space is looked for."""

_VESIN_CELLS = 1e5
"""Cells of vesin's grid; where there would be more it makes them wider, keeping the ratios of the three directions."""


def neighbour_list(positions: Array, cell: Array, pbc: Array, cutoff: float, name: str = "structure"):
    """Return all ordered pairs (i, j) with |r_j + S·cell − r_i| < cutoff, sorted by i.

    Args:
        positions: ``(n, 3)`` Å, finite.
        cell: ``(3, 3)`` Å, rows are lattice vectors; those of directions that are not periodic are not read.
        pbc: ``(3,)`` bool.
        cutoff: Å; infinite for all pairs of a molecule.
        name: How an error names the structure.

    Returns:
        ``(i, j, shifts)``: ``(edges,)``, ``(edges,)`` int64 and ``(edges, 3)`` int64.

    Raises:
        PHLError: For overlapping atoms, a periodic direction without a lattice vector, lattice vectors in one plane,
            more neighbours than matter can have, or a periodic system and an infinite cutoff.
        NonFiniteError: For an atom farther than ``FARTHEST`` from the origin.
    """
    positions, pbc = np.asarray(positions, dtype=float), np.asarray(pbc, dtype=bool)
    check_positions(positions, name)
    if not pbc.any() and (len(positions) <= ALL_PAIRS or not np.isfinite(cutoff)):
        n = len(positions)
        if n**2 > MOST_PAIRS:
            most = int(MOST_PAIRS**0.5)
            raise PHLError(f"{name}: has {n} atoms and the model sums over all pairs; expected at most {most} atoms")
        found = []
        step = max(1, _ROW_BLOCK // max(n, 1))
        for start in range(0, n, step):
            vectors = positions[None, :, :] - positions[start : start + step, None, :]
            distances = np.sqrt((vectors**2).sum(-1))
            rows = np.arange(len(distances))
            distances[rows, start + rows] = np.inf
            i, j = np.nonzero(distances < cutoff)
            found.append((i + start, j, distances[i, j]))
        i, j, distances = found[0] if len(found) == 1 else map(np.concatenate, zip(*found, strict=True))
        shifts = np.zeros((len(i), 3), dtype=np.int64)
    else:
        i, j, shifts, distances = _on_a_grid(positions, np.asarray(cell, dtype=float), pbc, cutoff, name)
    if len(distances) and distances.min() < OVERLAP:
        worst = int(distances.argmin())
        raise PHLError(
            f"{name}: atoms {i[worst]} and {j[worst]} are {distances[worst]:.2g} Å apart; "
            f"expected at least {OVERLAP} Å: remove the duplicate atom"
        )
    return i, j, shifts


def most_neighbours(cutoff: float) -> float:
    """Return how many neighbours of an atom within the cutoff (Å) are accepted, averaged over a structure."""
    return max(MANY, DENSEST * 4.0 / 3.0 * np.pi * cutoff**3)


def _on_a_grid(positions, cell, pbc, cutoff, name):
    import torch  # heavy, like vesin: only where a periodic or a large system is met
    from vesin_torch import NeighborList

    if not np.isfinite(cutoff):
        raise PHLError(
            f"{name}: is periodic, but the model sums over all pairs of a molecule; expected no periodic system"
        )
    box, transform = reduced_lattice(cell, pbc, name)
    inverse, heights = inverse_and_heights(box)
    fractional = positions @ inverse
    wraps = np.where(pbc, np.floor(fractional), 0.0)
    # distances from a plane through the origin, along each direction
    along = (fractional - wraps) * heights
    lengths, periodic = heights.copy(), pbc.copy()
    for axis in range(3):
        periodic[axis] = _close_gaps(along, wraps, heights, axis, bool(pbc[axis]), cutoff)
        if not periodic[axis]:
            lengths[axis] = along[:, axis].max() + cutoff
    _check_number_of_pairs(along, lengths, periodic, cutoff, cell, name)
    _check_grid(lengths, periodic, cutoff, len(positions), name)

    finder = NeighborList(cutoff=float(cutoff), full_list=True)
    i, j, shifts, distances = finder.compute(
        points=torch.from_numpy((along / heights) @ box),
        box=torch.from_numpy(box * (lengths / heights)[:, None]),
        periodic=torch.from_numpy(periodic),
        quantities="ijSd",
    )
    i, j, shifts, distances = i.numpy(), j.numpy(), shifts.numpy().astype(np.int64), distances.numpy()
    # from images in the box to the positions as they are, from the reduced lattice vectors to those of the cell
    wraps = wraps.astype(np.int64)
    shifts += wraps[i] - wraps[j]
    if transform is not None:
        shifts = shifts @ transform
    order = np.lexsort((j, i))
    return i[order], j[order], shifts[order], distances[order]


def _close_gaps(along, wraps, heights, axis, periodic, cutoff) -> bool:
    """Shorten the empty space along a direction to little more than the cutoff.

    A periodic direction with such a gap is cut there: no pair reaches across it.

    Args:
        along: Distances of the atoms from the lattice planes ``(n, 3)`` Å, changed in place.
        wraps: Lattice vectors that each atom was moved by ``(n, 3)``, changed in place.
        heights: Distances between the planes ``(3,)`` Å.
        axis: The direction.
        periodic: Whether it is periodic.
        cutoff: Å.

    Returns:
        Whether the direction is periodic afterwards.
    """
    if not periodic:
        along[:, axis] -= along[:, axis].min()
    extent = heights[axis] if periodic else along[:, axis].max()
    if extent <= _LONG * cutoff:
        return periodic
    kept = 1.01 * cutoff
    order = np.argsort(along[:, axis], kind="stable")
    gaps = np.diff(along[order, axis])
    if periodic:
        around = along[order[0], axis] + extent - along[order[-1], axis]
        if max(around, gaps.max(initial=0.0)) <= kept:
            return True
        if gaps.max(initial=0.0) > around:  # start behind the widest gap
            first = int(gaps.argmax()) + 1
            along[order[:first], axis] += extent
            wraps[order[:first], axis] -= 1
            order = np.roll(order, -first)
            gaps = np.diff(along[order, axis])
    closed = np.concatenate([[0.0], np.cumsum(np.minimum(gaps, kept))])
    along[order, axis] = closed
    return False


def _check_number_of_pairs(along, lengths, periodic, cutoff, cell, name) -> None:
    n = len(along)
    images = np.where(periodic, 2.0 * np.ceil(cutoff / lengths) + 1.0, 1.0)
    if n * images.prod() <= MANY:  # not more, wherever the atoms are
        return
    # atoms in one cube of this side are neighbours; a sphere around an atom is as large as 22 such cubes
    side = cutoff / np.sqrt(3.0)
    cubes = np.unique((along // side).astype(np.int64), axis=0, return_counts=True)[1].astype(float)
    copies = np.where(periodic, np.maximum(side / lengths, 1.0), 1.0).prod()
    pairs = 22.0 * (cubes**2).sum() * copies
    if pairs > n * most_neighbours(cutoff):
        raise PHLError(
            f"{name}: an atom would have about {pairs / n:.1g} neighbours within {cutoff:g} Å, more than any matter "
            f"has; check the positions and the cell {cell.tolist()}"
        )
    if pairs > MOST_PAIRS:
        raise PHLError(
            f"{name}: {n} atoms have about {pairs:.1g} pairs within {cutoff:g} Å; expected at most {MOST_PAIRS:.0e}: "
            "use a smaller structure or cutoff"
        )


def _check_grid(lengths, periodic, cutoff, n_atoms, name) -> None:
    """Lengthen a box where vesin would divide a direction into no cells at all, which kills the process."""
    for _ in range(2):
        x, y, z = np.maximum(np.trunc(lengths / cutoff), 1.0)
        if x * y * z <= _VESIN_CELLS:
            return
        ratios = np.array([x / z, y / z, 1.0])
        cells = np.cbrt(_VESIN_CELLS / ratios.prod()) * ratios
        if cells.min() >= 2.0:
            return
        thin = ~periodic & (cells < 2.0)
        lengths[thin] *= 2.0 / cells[thin] * 2.0
    raise PHLError(
        f"{name}: {n_atoms} atoms stretch over {lengths.max():.3g} Å, but in another direction the period is "
        f"{lengths[periodic].min(initial=np.inf):.3g} Å; too large for a neighbour list: use a smaller structure"
    )
