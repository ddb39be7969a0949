"""The mass-weighted Hessian of the vibrations as an operator: P M^-½ H M^-½ P, made of Hessian-vector products alone.

P removes translations, rotations and what constraints hold, so that no iteration meets their zero modes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms

from phl_ase.errors import PHLError
from phl_ase.lattice import check_geometry
from phl_ase.types import Array
from phl_ase.vibrations.checked import checked_hvps
from phl_ase.vibrations.constraints import free_motions
from phl_ase.vibrations.rigid import removed_motions
from phl_ase.vibrations.selection import positive_masses

HVPs = Callable[[Array, Atoms], Array]
"""``hvp(vectors, atoms)``: vectors ``(K, n, 3)`` to HVPs of the same shape, eV/Å² per unit of vector."""


class VibrationalOperator:
    """The mass-weighted, projected Hessian of the atoms that vibrate.

    Args:
        atoms: The structure; masses are ``atoms.get_masses()`` (amu).
        hvp: Its Hessian-vector products, for example ``calculator.get_hvp`` or ``curvature_of(calculator).hvp``.
        indices: The atoms that vibrate, in place of what the constraints say.
        forces: Forces without constraints ``(n, 3)`` eV/Å; needed where bond lengths or angles are held.

    Attributes:
        vibrating: Their indices ``(m,)``.
        size: 3m.
        removed: Orthonormal mass-weighted directions that are projected out ``(3m, k)``.
        n_rigid: How many of them are rigid motions; the others are held by constraints.
        n_vibrations: Dimension of the space that is left: 3m − k.
        n_hvps: Hessian-vector products taken so far.

    Raises:
        PHLError: For wrong indices, a mass that is not positive, an atom that can only be translated, a cell that is
            none, or constraints that there are no vibrations under.
        NonFiniteError: For NaN or infinity in the structure.
    """

    def __init__(
        self,
        atoms: Atoms,
        hvp: HVPs,
        indices: Sequence[int] | Array | None = None,
        forces: Array | None = None,
    ) -> None:
        self.atoms, self._hvp = atoms, hvp
        check_geometry(atoms.positions, np.array(atoms.cell), atoms.pbc, atoms.get_chemical_formula())
        motions = free_motions(atoms, indices)
        self.vibrating = motions.atoms
        self.masses = positive_masses(atoms, self.vibrating)
        self.weights = np.repeat(self.masses**-0.5, 3)
        self._constraints = motions.curvature(forces, self.masses) if motions.is_curved else None
        self.removed, self.n_rigid = removed_motions(atoms, motions, self.masses)
        self.size = 3 * len(self.vibrating)
        self.n_vibrations = self.size - self.removed.shape[1]
        self.n_hvps = 0
        if self.n_vibrations == 0:
            raise PHLError(
                f"{atoms.get_chemical_formula()} has no vibrations: of {self.size} coordinates {self.n_rigid} are "
                f"rigid motions and {self.removed.shape[1] - self.n_rigid} are held by constraints; expected at least "
                "two atoms, and constraints that leave them something"
            )

    def project(self, vectors: Array) -> Array:
        """Vectors ``(K, 3m)`` without rigid motions and what constraints hold."""
        return vectors - (vectors @ self.removed) @ self.removed.T

    def __call__(self, vectors: Array) -> Array:
        """HVPs of vectors ``(K, 3m)`` without rigid motions, eV/(Å² amu).

        Raises:
            PHLError: For HVPs of another shape than the vectors.
            NonFiniteError: For NaN or infinity in the HVPs.
        """
        directions = np.zeros((len(vectors), len(self.atoms), 3))
        directions[:, self.vibrating] = (vectors * self.weights).reshape(len(vectors), -1, 3)
        hvps = checked_hvps(self._hvp(directions, self.atoms), directions)
        self.n_hvps += len(vectors)
        own = hvps[:, self.vibrating].reshape(len(vectors), -1)
        if self._constraints is not None:
            own = own - (self._constraints @ (vectors * self.weights).T).T
        return self.project(own * self.weights)

    def as_modes(self, vectors: Array) -> Array:
        """Vectors ``(K, 3m)`` as modes of all atoms ``(K, n, 3)``; those held do not move."""
        modes = np.zeros((len(vectors), len(self.atoms), 3))
        modes[:, self.vibrating] = vectors.reshape(len(vectors), -1, 3)
        return modes
