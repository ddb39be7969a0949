"""Supercell force constants: from Hessian-vector products along the coordinates of the primitive atoms.

Φ[i, j, α, β] = ∂²E/∂r_iα ∂r_jβ, in phonopy's atom order and layout. The product of the Hessian with the unit vector of
coordinate α of atom i is the row Φ[i, :, α, :]: 3 HVPs for each primitive atom give phonopy's compact form, and
lattice translations the rest (A. Togo, J. Phys. Soc. Jpn. 92, 012001 (2023), doi:10.7566/JPSJ.92.012001). No supercell
is displaced and the Hessian of the supercell is never made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from phl_ase.curvature import DIFFERENCES, EXACT, Curvature, curvature_of
from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.phonons.supercell import fresh, supercell_atoms
from phl_ase.types import Array, ASECalculator
from phl_ase.vibrations import checked_hvps

if TYPE_CHECKING:
    from phonopy import Phonopy

SOURCES = {
    EXACT: "Hessian-vector products of the calculator",
    DIFFERENCES: "Hessian-vector products by central differences of the calculator's forces",
}
"""Origin of the curvature -> its name in reports."""


@dataclass(frozen=True, eq=False, repr=False)
class ForceConstants:
    """Second derivatives of the energy of a supercell.

    Attributes:
        values: ``(n_primitive, n_supercell, 3, 3)``, or ``(n_supercell, n_supercell, 3, 3)`` in the full form, eV/Å²;
            what phonopy's ``force_constants`` takes.
        primitive_atoms: Place in the supercell of the atom of each row ``(n_primitive,)``; phonopy's ``p2s_map``.
        source: How they were had, for reports.
        sum_rule: Largest violation of the acoustic sum rule, max |Σ_j Φ[i, j, α, β]|, eV/Å², before any symmetrisation.
        symmetrised: Whether translations and the exchange of indices were imposed.
        gradients: Gradient calls that they cost; HVPs of a calculator's own are not counted.
    """

    values: Array
    primitive_atoms: Array
    source: str
    sum_rule: float
    symmetrised: bool = False
    gradients: int = 0

    def __repr__(self) -> str:
        return f"<ForceConstants {self.values.shape}: {self.source}, sum rule violated by {self.sum_rule:.1e} eV/Å²>"


def force_constants(
    phonon: Phonopy, calculator: ASECalculator | Curvature, *, compact: bool = True, symmetrise: bool = False
) -> ForceConstants:
    """Force constants from Hessian-vector products: 3 for each atom of the primitive cell.

    A calculator without HVPs of its own is differentiated numerically along the same 3 n_primitive coordinates.
    How many HVPs are taken at a time is the calculator's business (``PHLCalculator``: its memory budget).

    Args:
        phonon: Crystal and supercell; it is not changed.
        calculator: An ASE calculator, or a :class:`phl_ase.curvature.Curvature`.
        compact: Only the rows of the primitive atoms; else the full form, 9 n_supercell² numbers, from the same
            HVPs by lattice translations.
        symmetrise: Impose the sum rule and the exchange symmetry (phonopy's own, one pass).

    Returns:
        The force constants.

    Raises:
        PHLError: For HVPs of another shape than the vectors.
        NonFiniteError: For NaN or infinity in the HVPs.
    """
    curvature = calculator if isinstance(calculator, Curvature) else curvature_of(calculator)
    atoms = supercell_atoms(phonon)
    rows = np.array(phonon.primitive.p2s_map, dtype=int)
    directions = np.zeros((len(rows), 3, len(atoms), 3))
    for place, row in enumerate(rows):
        directions[place, :, row, :] = np.eye(3)
    vectors = directions.reshape(-1, len(atoms), 3)
    hvps = checked_hvps(curvature.hvp(vectors, atoms), vectors)
    values = np.ascontiguousarray(hvps.reshape(len(rows), 3, len(atoms), 3).transpose(0, 2, 1, 3))
    found = ForceConstants(
        values,
        rows,
        SOURCES[curvature.source],
        _sum_rule(values),
        gradients=curvature.gradients_per_hvp * len(vectors),
    )
    if symmetrise:
        own = fresh(phonon)
        own.force_constants = found.values
        own.symmetrize_force_constants(show_drift=False)
        found = replace(found, values=np.array(own.force_constants), symmetrised=True)
    if compact:
        return found
    from phonopy.harmonic.force_constants import compact_fc_to_full_fc

    return replace(found, values=np.array(compact_fc_to_full_fc(phonon.primitive, found.values)))


def displaced_force_constants(
    phonon: Phonopy, calculator: ASECalculator | Curvature, *, distance: float = 0.01
) -> ForceConstants:
    """Force constants by phonopy's own finite displacements and symmetry; what users of phonopy do.

    Args:
        phonon: Crystal and supercell; it is not changed.
        calculator: An ASE calculator.
        distance: Displacement, Å; phonopy's default.

    Returns:
        The compact force constants, not symmetrised beyond the use of the crystal's symmetry.

    Raises:
        PHLError: For a distance that is not positive.
        NonFiniteError: For NaN or infinity in the forces.
    """
    from phonopy.structure.atoms import PhonopyAtoms

    if not 0 < distance < float("inf"):
        raise PHLError(f"distance is {distance!r} Å; expected a positive displacement, for example 0.01")
    own = fresh(phonon)
    own.generate_displacements(distance=distance)
    forces = []
    for displaced in own.supercells_with_displacements or ():
        assert isinstance(displaced, PhonopyAtoms)
        atoms = supercell_atoms(own)
        atoms.set_scaled_positions(displaced.scaled_positions)
        atoms.calc = calculator
        forces.append(np.array(atoms.get_forces(), dtype=float))
    if not np.all(np.isfinite(forces)):
        raise NonFiniteError("the forces hold NaN or infinity; check the structure and the potential")
    own.forces = np.array(forces)
    own.produce_force_constants(calculate_full_force_constants=False, show_drift=False)
    values = np.array(own.force_constants)
    return ForceConstants(
        values,
        np.array(own.primitive.p2s_map, dtype=int),
        f"phonopy's displacements of {distance:g} Å",
        _sum_rule(values),
        gradients=len(forces),
    )


def _sum_rule(values: Array) -> float:
    return float(np.abs(values.sum(axis=1)).max())
