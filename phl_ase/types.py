"""Types that several subpackages speak of: NumPy arrays, and calculators as ASE defines them."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

Array = np.ndarray
"""A NumPy array; its shape and unit stand in the docstring."""


@runtime_checkable
class ASECalculator(Protocol):
    """An ASE calculator: energies in eV, forces ``(n, 3)`` in eV/Å.

    Curvature of its own is optional: ``get_hessian(atoms)``, ``get_hvp(vectors, atoms)`` or a property ``hessian``.
    :func:`phl_ase.curvature.curvature_of` finds it, and takes differences of forces where there is none.
    """

    def get_potential_energy(self, atoms: Any = None) -> Any: ...  # noqa: D102 - ASE's own, as the next one
    def get_forces(self, atoms: Any = None) -> Any: ...  # noqa: D102
