"""HVPs and their vectors, checked in one place wherever they come from: shape and numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.types import Array


def checked_vectors(vectors: Any, n_atoms: int) -> Array:
    """Return vectors for HVPs, ``(n, 3)`` or ``(K, n, 3)``, in float64.

    Raises:
        PHLError: For another shape, or what is not an array of real numbers.
        NonFiniteError: For NaN or infinity.
    """
    expected = f"({n_atoms}, 3) or (K, {n_atoms}, 3) for {n_atoms} atoms"
    try:
        array = np.asarray(vectors)
        if array.dtype.kind == "c":
            raise PHLError(
                "vectors are complex; expected real numbers: multiply real and imaginary part on their own, or both at "
                "once with np.stack([v.real, v.imag])"
            )
        if array.dtype.kind in "SUmM":  # NumPy would read text and dates as numbers
            raise TypeError(f"an array of {array.dtype}")
        array = np.asarray(array, dtype=float)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, PHLError):
            raise
        reason = str(error).splitlines()[0]
        raise PHLError(f"vectors are no array of real numbers ({reason}); expected shape {expected}") from None
    if array.ndim not in (2, 3) or array.shape[-2:] != (n_atoms, 3):
        raise PHLError(f"vectors have shape {array.shape}; expected {expected}: reshape(-1, {n_atoms}, 3) them")
    if not np.all(np.isfinite(array)):
        raise NonFiniteError("vectors hold NaN or infinity; expected finite numbers")
    return array


def checked_hvps(hvps: Any, vectors: Array, name: str = "hvp(vectors, atoms)") -> Array:
    """Return HVPs in float64.

    Args:
        hvps: In the shape of the vectors.
        vectors: What the Hessian was multiplied with.
        name: How an error names what returned them.

    Raises:
        PHLError: For another shape.
        NonFiniteError: For NaN or infinity.
    """
    found = np.asarray(hvps, dtype=float)
    if found.shape != vectors.shape:
        raise PHLError(
            f"{name} returned shape {found.shape}, expected that of the vectors, {vectors.shape}: reshape it"
        )
    if not np.all(np.isfinite(found)):
        raise NonFiniteError(f"{name} returned NaN or infinity; check the structure and the potential")
    return found
