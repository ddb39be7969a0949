"""Hessians of any origin: their shape, finiteness and symmetry are checked here, and noise averaged away."""

from __future__ import annotations

from typing import Any

import numpy as np

from phl_ase.errors import NonFiniteError, PHLError

ASYMMETRY = 1e-3
"""Largest |H − Hᵀ| that is noise, relative to max(1 eV/Å², max |H|); more is a wrong layout."""


def asymmetry(hessian: np.ndarray) -> float:
    """Return the largest |H − Hᵀ|, eV/Å²."""
    return float(np.abs(hessian - hessian.T).max(initial=0.0))


def checked_hessian(
    hessian: Any,
    name: str,
    *,
    atoms: int | None = None,
    tolerance: float | None = None,
    what: str = "Hessian",
    unit: str = "eV/Å²",
) -> np.ndarray:
    """Return a Hessian in double precision, symmetric; one that is symmetric is returned unchanged, bit for bit.

    Args:
        hessian: ``(3n, 3n)`` eV/Å², ordered x1 y1 z1 x2 ….
        name: How an error names whose Hessian it is.
        atoms: Number of atoms n; any square matrix where nothing is said.
        tolerance: Largest asymmetry that is averaged away, relative to max(1 eV/Å², max |H|); any by default.
        what: How an error names it.
        unit: Its unit.

    Raises:
        PHLError: For another shape, what is no array of numbers, or too much asymmetry.
        NonFiniteError: For NaN or infinity.
    """
    try:
        matrix = np.asarray(hessian, dtype=float)
    except (TypeError, ValueError) as error:
        raise PHLError(f"{name}: the {what} is no array of numbers ({error})") from None
    side = (matrix.shape or (0,))[0] if atoms is None else 3 * atoms
    if matrix.shape != (side, side):
        of_atoms = "a square matrix" if atoms is None else f"{(side, side)} for {atoms} atoms"
        raise PHLError(f"{name}: the {what} has shape {matrix.shape}; expected {of_atoms} in {unit}, x1 y1 z1 x2 …")
    if not np.all(np.isfinite(matrix)):
        raise NonFiniteError(f"{name}: the {what} holds NaN or infinity")
    worst = asymmetry(matrix)
    if worst == 0.0:
        return matrix
    allowed = np.inf if tolerance is None else tolerance * max(1.0, float(np.abs(matrix).max()))
    if worst > allowed:
        raise PHLError(
            f"{name}: the {what} is asymmetric by {worst:.3g} {unit}, expected at most {allowed:.3g}; check its layout "
            "(rows and columns are x1 y1 z1 x2 …) or symmetrise it as (H + H.T) / 2"
        )
    return 0.5 * (matrix + matrix.T)
