"""The mass-weighted Hessian of the vibrations as an operator: P M^-½ H M^-½ P, made of Hessian-vector products alone.

P removes translations and rotations (``rigid``), so that nothing of the 5 or 6 zero modes is met by an iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.vibrations.rigid import rigid_motions_of
from phl_ase.vibrations.selection import positive_masses, vibrating_atoms

Array = np.ndarray

Products = Callable[[Array, Atoms], Array]
"""``hvp(vectors, atoms)``: vectors ``(K, n, 3)`` to products of the same shape, eV/Å² per unit of vector."""


class VibrationalOperator:
    """The mass-weighted, projected Hessian of the atoms that vibrate.

    Args:
        atoms: The structure; masses are ``atoms.get_masses()`` (amu).
        hvp: Its Hessian-vector products, for example ``calculator.get_hvp`` or ``curvature_of(calculator).hvp``.
        indices: The atoms that vibrate; by default those that no ``FixAtoms`` or ``FixCartesian`` holds.

    Attributes:
        vibrating: Their indices ``(m,)``.
        size: 3m.
        n_vibrations: Dimension of the space that is left: 3m less the rigid motions.
        n_products: Hessian-vector products taken so far.

    Raises:
        PHLError: For wrong indices, a mass that is not positive, or an atom that can only be translated.
    """

    def __init__(self, atoms: Atoms, hvp: Products, indices: Sequence[int] | Array | None = None) -> None:
        self.atoms, self._hvp = atoms, hvp
        self.vibrating = vibrating_atoms(atoms, indices)
        self.masses = positive_masses(atoms, self.vibrating)
        self.weights = np.repeat(self.masses**-0.5, 3)
        self.rigid = rigid_motions_of(atoms, self.vibrating, self.masses)
        self.size = 3 * len(self.vibrating)
        self.n_vibrations = self.size - self.rigid.shape[1]
        self.n_products = 0
        if self.n_vibrations == 0:
            raise PHLError(
                f"{atoms.get_chemical_formula()} has no vibrations: {len(self.vibrating)} atom that is free to move "
                "in every direction can only be translated; expected at least two atoms"
            )

    def project(self, vectors: Array) -> Array:
        """Vectors ``(K, 3m)`` without their rigid motions."""
        return vectors - (vectors @ self.rigid) @ self.rigid.T

    def __call__(self, vectors: Array) -> Array:
        """Products of vectors ``(K, 3m)`` without rigid motions, eV/(Å² amu).

        Raises:
            PHLError: For products of another shape than the vectors.
            NonFiniteError: For NaN or infinity in the products.
        """
        directions = np.zeros((len(vectors), len(self.atoms), 3))
        directions[:, self.vibrating] = (vectors * self.weights).reshape(len(vectors), -1, 3)
        products = np.asarray(self._hvp(directions, self.atoms), dtype=float)
        if products.shape != directions.shape:
            raise PHLError(f"hvp returned shape {products.shape}; expected {directions.shape}, that of the vectors")
        if not np.all(np.isfinite(products)):
            raise NonFiniteError("the Hessian-vector products hold NaN or infinity; check the structure")
        self.n_products += len(vectors)
        return self.project(products[:, self.vibrating].reshape(len(vectors), -1) * self.weights)

    def as_modes(self, vectors: Array) -> Array:
        """Vectors ``(K, 3m)`` as modes of all atoms ``(K, n, 3)``; those held do not move."""
        modes = np.zeros((len(vectors), len(self.atoms), 3))
        modes[:, self.vibrating] = vectors.reshape(len(vectors), -1, 3)
        return modes
