"""Checks of positions and lattice vectors: others than those of matter hang or kill neighbour lists."""

from __future__ import annotations

import numpy as np

from phl_ase.errors import NonFiniteError, PHLError

Array = np.ndarray

OVERLAP = 1e-2
"""Atoms closer than this (Å) are taken for one atom given twice."""

FARTHEST = 1e6
"""Å from the origin up to which positions are accepted: beyond, float64 no longer resolves forces."""

_SKEWED, _FLAT = 0.5, 1e-9
"""Distance between the planes of a lattice over the length of the vector between them, below which lattice vectors are
reduced, or taken for vectors in one plane."""


def check_geometry(positions: Array, cell: Array, pbc: Array, name: str = "structure") -> None:
    """Check that a structure has the size and the periods of matter: what else hangs most codes' neighbour lists.

    Args:
        positions: ``(n, 3)`` Å.
        cell: ``(3, 3)`` Å, rows are lattice vectors.
        pbc: ``(3,)`` bool.
        name: How an error names the structure.

    Raises:
        PHLError: For a periodic direction without a lattice vector, lattice vectors in one plane, or an atom that is
            its own neighbour.
        NonFiniteError: For NaN or infinity, or an atom farther than ``FARTHEST`` from the origin.
    """
    check_positions(np.asarray(positions, dtype=float), name)
    if np.any(pbc):
        reduced_lattice(np.asarray(cell, dtype=float), np.asarray(pbc, dtype=bool), name)


def check_positions(positions: Array, name: str = "structure") -> None:
    """Check that positions ``(n, 3)`` Å are finite and near the origin.

    Raises:
        NonFiniteError: For NaN or infinity, or an atom farther than ``FARTHEST`` from the origin.
    """
    if not np.abs(positions).max(initial=0.0) <= FARTHEST:  # NaN is not, either
        atom = int((~(np.abs(positions) <= FARTHEST)).any(axis=1).argmax())
        raise NonFiniteError(
            f"{name}: atom {atom} is at {positions[atom].tolist()}; expected positions within {FARTHEST:.0e} Å of the "
            "origin (did an optimiser or a dynamics step explode?)"
        )


def inverse_and_heights(box: Array) -> tuple[Array, Array]:
    """Return the inverse of lattice vectors ``(3, 3)`` and the distances between the planes of the lattice, Å."""
    inverse = np.linalg.inv(box)
    return inverse, 1.0 / np.sqrt((inverse**2).sum(axis=0))


def reduced_lattice(cell: Array, pbc: Array, name: str = "structure") -> tuple[Array, Array | None]:
    """Return lattice vectors, reduced where they are skewed, and the integer matrix that makes them of the cell's own.

    In the place of vectors of directions that are not periodic stand unit vectors orthogonal to the others.

    Args:
        cell: ``(3, 3)`` Å, rows are lattice vectors.
        pbc: ``(3,)`` bool.
        name: How an error names the structure.

    Returns:
        The vectors ``(3, 3)`` Å and the matrix ``(3, 3)`` (vectors = matrix · cell); ``None`` where nothing is reduced.

    Raises:
        PHLError: For a periodic direction without a lattice vector, lattice vectors in one plane or too long, or an
            atom that is its own neighbour.
        NonFiniteError: For NaN or infinity.
    """
    from ase.geometry import complete_cell, minkowski_reduce

    if not np.isfinite(cell).all():
        raise NonFiniteError(f"{name}: the cell is {cell.tolist()}; expected finite numbers")
    lengths = np.sqrt((cell**2).sum(axis=1))
    if np.any(lengths[pbc] < 1e-8):
        raise PHLError(f"{name}: pbc is {pbc.tolist()} but a periodic lattice vector is zero; set the cell")
    if np.any(lengths[pbc] > FARTHEST):
        raise PHLError(f"{name}: the cell is {cell.tolist()}; expected lattice vectors of at most {FARTHEST:.0e} Å")
    box, transform = cell, None
    if not pbc.all():
        box = np.asarray(complete_cell(np.where(pbc[:, None], cell, 0.0)))
        lengths = np.where(pbc, lengths, 1.0)
    try:
        heights = inverse_and_heights(box)[1]
    except np.linalg.LinAlgError:
        heights = np.zeros(3)
    flatness = heights / lengths
    if not flatness.min() > _FLAT:
        raise PHLError(
            f"{name}: pbc is {pbc.tolist()} but the periodic lattice vectors of the cell {cell.tolist()} span no "
            "volume; set the cell"
        )
    if flatness.min() < _SKEWED:
        try:
            box, transform = minkowski_reduce(box, pbc)
        except RuntimeError as error:
            raise PHLError(f"{name}: the cell {cell.tolist()} has no reduced form ({error}); set the cell") from None
        lengths = np.sqrt((box**2).sum(axis=1))
    shortest = lengths[pbc].min(initial=np.inf)
    if shortest < OVERLAP:
        raise PHLError(
            f"{name}: an atom and its own image are {shortest:.2g} Å apart in the cell {cell.tolist()}; "
            f"expected at least {OVERLAP} Å: set the cell"
        )
    return box, transform
