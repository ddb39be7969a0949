"""Where curvature comes from: a calculator's own Hessians and Hessian-vector products, or differences of its forces.

Everything downstream (searches, paths, frequencies, phonons) asks here, so that any ASE calculator can be scored, and
so that reports can say which it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.vibrations import finite_difference_hessian

Array = np.ndarray
HessianFunction = Callable[[Atoms], Array]
"""``hessian(atoms) -> (3n, 3n)`` eV/Å², symmetric, ordered x1 y1 z1 x2 …"""
HVPFunction = Callable[[Array, Atoms], Array]
"""``hvp(vectors, atoms)``: vectors ``(n, 3)`` or ``(K, n, 3)`` to products of the same shape, eV/Å² per unit."""

EXACT = "the calculator's own"
DIFFERENCES = "finite differences of forces"

_STEP = 0.005  # Å, the largest displacement of an atom along a vector


@dataclass(frozen=True)
class Curvature:
    """How a calculator gives second derivatives.

    Attributes:
        hessian: ``hessian(atoms)``.
        hvp: ``hvp(vectors, atoms)``.
        source: ``EXACT`` or ``DIFFERENCES``, for reports.
        gradients_per_hessian: What one Hessian of n atoms costs in gradient calls; 0 where it is exact.
        gradients_per_product: The same of one product.
    """

    hessian: HessianFunction
    hvp: HVPFunction
    source: str
    gradients_per_hessian: Callable[[int], int]
    gradients_per_product: int

    @property
    def is_exact(self) -> bool:
        """Whether the calculator has curvature of its own."""
        return self.source == EXACT


def curvature_of(calculator: Any) -> Curvature:
    """The curvature of an ASE calculator: its own where it has ``get_hessian``, else differences of forces.

    Args:
        calculator: A ``PHLCalculator`` or any other ASE calculator; callables put it on copies of the atoms. Products
            come from its ``get_hvp``, or from its Hessian where it has that alone (MACE's calculator).
    """
    own_hessian, own_hvp = (getattr(calculator, name, None) for name in ("get_hessian", "get_hvp"))
    if callable(own_hessian) and callable(own_hvp):
        return Curvature(own_hessian, own_hvp, EXACT, lambda n: 0, 0)
    if callable(own_hessian):
        return _from_hessian(own_hessian)

    def hessian(atoms: Atoms) -> Array:
        return finite_difference_hessian(_with(atoms, calculator))

    def hvp(vectors: Array, atoms: Atoms) -> Array:
        return finite_difference_hvp(vectors, _with(atoms, calculator))

    return Curvature(hessian, hvp, DIFFERENCES, lambda n: 6 * n, 2)


def _from_hessian(own: Callable[[Atoms], Array]) -> Curvature:
    """Curvature of a calculator that has Hessians alone, in any of the layouts that hold rows in ASE's order."""

    def hessian(atoms: Atoms) -> Array:
        n = len(atoms)
        matrix = np.asarray(own(atoms), dtype=float)
        if matrix.shape not in ((3 * n, 3 * n), (3 * n, n, 3), (n, 3, n, 3)):
            raise PHLError(
                f"the calculator's get_hessian returned shape {matrix.shape}, expected {(3 * n, 3 * n)} for {n} atoms "
                "in eV/Å²: give it a get_hessian that does"
            )
        return matrix.reshape(3 * n, 3 * n)

    def hvp(vectors: Array, atoms: Atoms) -> Array:
        given = np.asarray(vectors, dtype=float)
        return (given.reshape(-1, 3 * len(atoms)) @ hessian(atoms)).reshape(given.shape)

    return Curvature(hessian, hvp, EXACT, lambda n: 0, 0)


def finite_difference_hvp(vectors: Array, atoms: Atoms, *, delta: float = _STEP) -> Array:
    """H·v by central differences of the forces of the attached calculator: two gradient calls a vector.

    Args:
        vectors: ``(n, 3)`` or ``(K, n, 3)``; a vector of zeros has a product of zeros.
        atoms: A structure with a calculator; it is not changed. Constraints do not act.
        delta: Displacement of the atom that a vector moves most, Å.

    Returns:
        Products of the same shape, eV/Å² per unit of vector; the error is of second order in ``delta``.

    Raises:
        PHLError: For no calculator, a wrong shape, or a displacement that is not positive.
        NonFiniteError: For NaN or infinity in the vectors or forces.
    """
    if atoms.calc is None:
        raise PHLError("the atoms have no calculator; expected one that gives forces: set atoms.calc")
    if not delta > 0:
        raise PHLError(f"delta is {delta!r} Å; expected a positive displacement, for example {_STEP}")
    given = np.asarray(vectors, dtype=float)
    if given.ndim not in (2, 3) or given.shape[-2:] != (len(atoms), 3):
        raise PHLError(f"vectors have shape {given.shape}; expected ({len(atoms)}, 3) or (K, {len(atoms)}, 3)")
    if not np.all(np.isfinite(given)):
        raise NonFiniteError("vectors hold NaN or infinity; expected finite numbers")
    moved = atoms.copy()
    moved.calc = atoms.calc

    def forces(positions: Array) -> Array:
        moved.positions[:] = positions
        return np.array(moved.get_forces(apply_constraint=False), dtype=float)

    products = np.zeros(given.reshape(-1, len(atoms), 3).shape)
    for product, vector in zip(products, given.reshape(products.shape), strict=True):
        longest = np.linalg.norm(vector, axis=1).max(initial=0.0)
        if longest > 0:
            step = delta / longest
            back, ahead = (forces(atoms.positions + sign * step * vector) for sign in (-1, +1))
            product[:] = (back - ahead) / (2 * step)
    if not np.all(np.isfinite(products)):
        raise NonFiniteError("the calculator gave forces with NaN or infinity near these positions; check both")
    return products.reshape(given.shape)


def _with(atoms: Atoms, calculator: Any) -> Atoms:
    copy = atoms.copy()
    copy.calc = calculator
    return copy
