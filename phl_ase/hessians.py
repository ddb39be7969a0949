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


def symmetrised(matrix: np.ndarray) -> np.ndarray:
    """Return (H + Hᵀ) / 2 of square matrices ``(…, m, m)``: rounding and noise are averaged away."""
    mean: np.ndarray = 0.5 * (matrix + np.swapaxes(matrix, -1, -2))
    return mean


def checked_hessian(
    hessian: Any,
    n_atoms: int,
    name: str = "the Hessian",
    *,
    tolerance: float = np.inf,
    unit: str = "eV/Å²",
    width: int = 3,
) -> np.ndarray:
    """Return a Hessian ``(3n, 3n)``, or another matrix of pairs of atoms, symmetrised, in float64.

    Args:
        hessian: Of all n atoms, ordered x1 y1 z1 x2 …
        n_atoms: n.
        name: How an error names it.
        tolerance: Largest asymmetry that is averaged away, relative to max(1, max |H|).
        unit: Its unit.
        width: Rows of each atom.

    Raises:
        PHLError: For another shape, or too much asymmetry, as of a wrong layout.
        NonFiniteError: For NaN or infinity.
    """
    matrix, expected = np.asarray(hessian, dtype=float), (width * n_atoms, width * n_atoms)
    if matrix.shape != expected:
        raise PHLError(
            f"{name} has shape {matrix.shape}, expected {expected} for {n_atoms} atoms in {unit}, ordered x1 y1 z1 "
            "x2 …: reshape it (layout (n,n,3,3) also needs transpose(0, 2, 1, 3))"
        )
    if not np.all(np.isfinite(matrix)):
        raise NonFiniteError(f"{name} holds NaN or infinity; check the structure and what made the Hessian")
    allowed = tolerance * max(1.0, float(np.abs(matrix).max(initial=0.0)))
    if tolerance < np.inf and (worst := asymmetry(matrix)) > allowed:
        raise PHLError(
            f"{name} is asymmetric by {worst:.3g} {unit}, expected at most {allowed:.3g}; check its layout (rows and "
            "columns are x1 y1 z1 x2 …) or symmetrise it as (H + H.T) / 2"
        )
    return symmetrised(matrix)
