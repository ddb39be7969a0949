"""Layouts and parts of Hessians, and the matrix-free Hessian."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.sparse.linalg import LinearOperator

from phl_ase.errors import PHLError, shortened, unknown

Array = np.ndarray

# layout -> from (n, 3, n, 3)
LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "3n3n": lambda blocks: blocks.reshape(3 * len(blocks), -1),
    "n3n3": lambda blocks: blocks,
    "nn33": lambda blocks: blocks.transpose(0, 2, 1, 3),
}
"""Layouts of a Hessian: ``(3n,3n)`` Sella, ``(n,3,n,3)`` ASE's ``VibrationsData``, ``(n,n,3,3)`` phonopy."""


def in_layout(hessian: Array, layout: str) -> Array:
    """Return a Hessian ``(3n, 3n)`` in another layout, C-contiguous.

    Raises:
        PHLError: For a layout that is not in ``LAYOUTS``.
    """
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    n = len(hessian) // 3
    return np.ascontiguousarray(LAYOUTS[layout](hessian.reshape(n, 3, n, 3)))


def checked_indices(indices: Sequence[int] | Array, n_atoms: int) -> Array:
    """Return the atoms of a partial Hessian, counted from the start.

    Raises:
        PHLError: For anything but whole numbers below the number of atoms, each once and ascending (ASE takes masses in
            the order of the atoms, so that another order would be a silent mistake there).
    """
    try:
        chosen = np.atleast_1d(np.asarray(indices))
    except (TypeError, ValueError, RuntimeError):
        raise PHLError(f"indices are {shortened(indices)}; expected whole numbers below {n_atoms}") from None
    if chosen.dtype.kind not in "iu" or chosen.ndim != 1 or not np.all((chosen >= -n_atoms) & (chosen < n_atoms)):
        raise PHLError(
            f"indices are {shortened(chosen.tolist())}; expected whole numbers below {n_atoms}, the number of atoms"
        )
    chosen = chosen % n_atoms
    if len(chosen) == 0 or np.any(np.diff(chosen) <= 0):
        raise PHLError(f"indices are {chosen.tolist()}; expected at least one atom, each once, in ascending order")
    return chosen


def coordinates_of(indices: Array) -> Array:
    """Return the rows of a Hessian ``(3m,)`` that belong to atoms ``(m,)``."""
    return (3 * indices[:, None] + np.arange(3)).ravel()


class HessianOperator(LinearOperator):
    """The Hessian ``(3n, 3n)`` as a matrix-free linear operator in float64, eV/Å².

    It stays that of the geometry it was made for.

    Args:
        hvps: H·v of vectors ``(K, n, 3)``.
        n_atoms: n.
    """

    def __init__(self, hvps: Callable[[Array], Array], n_atoms: int) -> None:
        super().__init__(np.dtype(np.float64), (3 * n_atoms, 3 * n_atoms))
        self._hvps = hvps
        self._n_atoms = n_atoms

    def _matmat(self, x: Array) -> Array:
        if np.iscomplexobj(x):  # the Hessian is real: both parts on their own
            return self._matmat(np.real(x)) + 1j * self._matmat(np.imag(x))
        rows = np.ascontiguousarray(np.asarray(x, dtype=float).T).reshape(-1, self._n_atoms, 3)
        return self._hvps(rows).reshape(len(rows), -1).T

    def _matvec(self, x: Array) -> Array:
        return self._matmat(np.reshape(x, (-1, 1))).ravel()

    def _adjoint(self) -> HessianOperator:
        return self
