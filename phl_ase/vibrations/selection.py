"""Masses of the atoms that vibrate, and their block of a Hessian."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from phl_ase.errors import PHLError
from phl_ase.hessians import checked_hessian
from phl_ase.types import Array


def positive_masses(atoms: Atoms, vibrating: Array) -> Array:
    """Masses ``(m,)`` of the atoms that vibrate, amu.

    Raises:
        PHLError: For a mass that is not positive.
    """
    masses = atoms.get_masses()[vibrating]
    if not np.all(masses > 0):
        bad = int(vibrating[np.nonzero(~(masses > 0))[0][0]])
        raise PHLError(
            f"the mass of atom {bad} ({atoms.symbols[bad]}) is {atoms.get_masses()[bad]} amu; "
            "expected a positive number: set it with atoms.set_masses()"
        )
    return masses


def vibrating_block(hessian: Array, n_atoms: int, vibrating: Array) -> Array:
    """Return the symmetric block of the vibrating atoms ``(3m, 3m)``, from a Hessian of all atoms or of these alone.

    Raises:
        PHLError: For another shape.
        NonFiniteError: For NaN or infinity.
    """
    full, part = 3 * n_atoms, 3 * len(vibrating)
    if hessian.shape not in ((full, full), (part, part)):
        expected = f"{(full, full)}" if full == part else f"{(full, full)} or {(part, part)}"
        raise PHLError(
            f"the Hessian has shape {hessian.shape}, expected {expected} for {len(vibrating)} vibrating atoms of "
            f"{n_atoms}, ordered x1 y1 z1 x2 …: reshape it (layout (n,n,3,3) also needs transpose(0, 2, 1, 3))"
        )
    hessian = checked_hessian(hessian, len(hessian) // 3)
    if hessian.shape == (part, part):
        return hessian
    rows = (3 * vibrating[:, None] + np.arange(3)).ravel()
    return hessian[np.ix_(rows, rows)]
