"""Neighbour lists: who sees whom within a cutoff. Made once per frame, reused for every probe.

Molecules: all pairs by distance. Periodic systems: ``vesin-torch``, of which only i, j and the integer shifts are
taken; the vectors are rebuilt from the positions so that every derivative exists.
"""

from __future__ import annotations

import numpy as np
import torch

from phl_ase.errors import PHLError

OVERLAP = 1e-2
"""Atoms closer than this (Å) are taken for one atom given twice."""


def neighbour_list(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, name: str = "structure"):
    """All ordered pairs (i, j) with |r_j + S·cell − r_i| < cutoff, sorted by i.

    Args:
        positions: ``(n, 3)`` Å.
        cell: ``(3, 3)`` Å, rows are lattice vectors.
        pbc: ``(3,)`` bool.
        cutoff: Å; infinite for all pairs of a molecule.
        name: How an error names the structure.

    Returns:
        ``(i, j, shifts)``: ``(edges,)``, ``(edges,)`` int64 and ``(edges, 3)`` int64.

    Raises:
        PHLError: For overlapping atoms, a periodic direction without a lattice vector, or a periodic system and an
            infinite cutoff.
    """
    if np.any(pbc):
        i, j, shifts, distances = _periodic(positions, cell, pbc, cutoff, name)
    else:
        i, j, shifts, distances = _molecule(positions, cutoff)
    if len(distances) and distances.min() < OVERLAP:
        worst = int(distances.argmin())
        raise PHLError(
            f"{name}: atoms {i[worst]} and {j[worst]} are {distances[worst]:.2g} Å apart; "
            f"expected at least {OVERLAP} Å: remove the duplicate atom"
        )
    return i, j, shifts


def _molecule(positions, cutoff):
    vectors = positions[None, :, :] - positions[:, None, :]
    distances = np.sqrt((vectors**2).sum(-1))
    np.fill_diagonal(distances, np.inf)
    i, j = np.nonzero(distances < cutoff)
    return i, j, np.zeros((len(i), 3), dtype=np.int64), distances[i, j]


def _periodic(positions, cell, pbc, cutoff, name):
    lengths = np.linalg.norm(cell, axis=1)
    if np.any(lengths[np.asarray(pbc)] < 1e-8):
        raise PHLError(f"{name}: pbc is {pbc.tolist()} but a periodic lattice vector is zero; set the cell")
    if not np.isfinite(cutoff):
        raise PHLError(
            f"{name}: is periodic, but the model sums over all pairs of a molecule; expected no periodic system"
        )
    from vesin_torch import NeighborList  # heavy: only where a periodic system is met

    # a direction that is not periodic needs a lattice vector all the same, orthogonal to the others
    complete = _completed(cell)
    finder = NeighborList(cutoff=float(cutoff), full_list=True)
    i, j, shifts, distances = finder.compute(
        points=torch.as_tensor(positions, dtype=torch.float64),
        box=torch.as_tensor(complete, dtype=torch.float64),
        periodic=torch.as_tensor(pbc, dtype=torch.bool),
        quantities="ijSd",
    )
    i, j, shifts, distances = i.numpy(), j.numpy(), shifts.numpy().astype(np.int64), distances.numpy()
    order = np.lexsort((j, i))
    return i[order], j[order], shifts[order], distances[order]


def _completed(cell):
    from ase.geometry import complete_cell

    return np.asarray(complete_cell(cell))
