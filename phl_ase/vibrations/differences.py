"""Hessians of any calculator by central differences of its forces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.hessians import symmetrised
from phl_ase.types import Array
from phl_ase.vibrations.constraints import free_motions


def finite_difference_hessian(
    atoms: Atoms, *, delta: float = 0.005, indices: Sequence[int] | Array | None = None
) -> Array:
    """Hessian by central differences of the forces of the attached calculator: 6 gradient calls an atom.

    Args:
        atoms: A structure with a calculator; it is not changed. Constraints do not act on the displacements or forces.
        delta: Displacement, Å. The error is δ²/6 of the fourth derivative (about 0.2 cm⁻¹ of a C–H stretch at the
            default) plus the noise of the forces over δ: take 0.01 or more for a float32 model.
        indices: Atoms to displace; all by default.

    Returns:
        ``(3m, 3m)`` eV/Å², symmetrised, for the m atoms displaced.

    Raises:
        PHLError: For no calculator, wrong indices, or a displacement that is not positive.
        NonFiniteError: For NaN or infinity in the forces.
    """
    if atoms.calc is None:
        raise PHLError("the atoms have no calculator; expected one that gives forces: set atoms.calc")
    if not delta > 0:
        raise PHLError(f"delta is {delta!r} Å; expected a positive displacement, for example 0.005")
    moved = atoms.copy()
    moved.calc = atoms.calc
    chosen = np.arange(len(atoms)) if indices is None else free_motions(atoms, indices).atoms
    rows = []
    for atom in chosen:
        for axis in range(3):
            forces = []
            for sign in (+1, -1):
                # written to the array: set_positions would let constraints undo the displacement
                moved.positions[atom, axis] = atoms.positions[atom, axis] + sign * delta
                forces.append(moved.get_forces(apply_constraint=False)[chosen].ravel())
            moved.positions[atom, axis] = atoms.positions[atom, axis]
            rows.append((forces[1] - forces[0]) / (2 * delta))
    hessian = np.array(rows)
    if not np.all(np.isfinite(hessian)):
        raise NonFiniteError("the calculator gave forces with NaN or infinity near these positions; check both")
    return symmetrised(hessian)
