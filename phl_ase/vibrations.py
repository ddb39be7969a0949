"""Harmonic vibrations from a Cartesian Hessian, whatever made it: a model, a force field, quantum chemistry.

The mass-weighted Hessian M^-½ H M^-½ is diagonalised in the complement of the translations and rotations (the Eckart
conditions: C. Eckart, Phys. Rev. 47, 552 (1935); the basis as in W. H. Miller, N. C. Handy, J. E. Adams, J. Chem.
Phys. 72, 99 (1980), doi:10.1063/1.438959), so that exactly 6, 5 or 3 zero modes are gone and none of their noise is
mixed into the soft modes. Without projection the numbers are those of ``ase.vibrations.VibrationsData``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.units import invcm
from ase.vibrations import VibrationsData

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.units import wavenumbers

Array = np.ndarray

IMAGINARY_THRESHOLD = 10.0
"""A mode counts as imaginary below minus this many cm⁻¹: what is nearer to zero is numerical noise."""

# Å: a molecule is linear when no atom is further than this from its axis. An optimiser leaves CO2 bent by a fraction of
# a degree (0.005 Å); a rotation about so short a lever would be mistaken for a bend. Real bends put H at 0.3 Å or more.
_LINEAR_TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class HarmonicAnalysis:
    """Normal modes of a structure.

    Attributes:
        atoms: The structure, a copy without a calculator.
        indices: The atoms that vibrate ``(n,)``.
        hessian: What was diagonalised, before mass-weighting: ``(3n, 3n)`` eV/Å², with translations and rotations
            projected out where ``n_projected`` is not 0.
        wavenumbers: ``(m,)`` cm⁻¹, ascending, imaginary ones negative; m = 3n − ``n_projected``.
        modes: Orthonormal mass-weighted modes ``(m, n, 3)``, dimensionless.
        n_projected: Number of translations and rotations removed: 6, 5, 3 or 0.
        imaginary_threshold: Modes below minus this (cm⁻¹) count as imaginary.
    """

    atoms: Atoms
    indices: Array
    hessian: Array
    wavenumbers: Array
    modes: Array
    n_projected: int
    imaginary_threshold: float = IMAGINARY_THRESHOLD

    @property
    def n_imaginary(self) -> int:
        """Number of modes below minus the threshold."""
        return int(np.sum(self.wavenumbers < -self.imaginary_threshold))

    @property
    def zero_point_energy(self) -> float:
        """½ Σ h c ν̃ over the real modes, eV."""
        return float(0.5 * invcm * np.sum(self.wavenumbers[self.wavenumbers > 0]))

    @property
    def zero_point_energy_mev(self) -> float:
        """The zero-point energy in meV."""
        return 1e3 * self.zero_point_energy

    @property
    def displacements(self) -> Array:
        """Cartesian modes M^-½ · mode ``(m, n, 3)`` Å/(√amu·Å), as ASE gives them."""
        return self.modes / np.sqrt(self.atoms.get_masses()[self.indices])[None, :, None]

    def vibrations_data(self) -> VibrationsData:
        """The analysis as ASE's object (thermochemistry, animation, densities of states).

        ASE does not project: from a projected analysis it gets the projected Hessian, so that it finds the same
        wavenumbers and, beside them, ``n_projected`` zeros.
        """
        return VibrationsData.from_2d(self.atoms, self.hessian, self.indices.tolist())

    def table(self) -> str:
        """Modes, wavenumbers in cm⁻¹ (imaginary ones with an ``i``), the zero-point energy in meV, as plain text."""
        lines = ["mode   wavenumber / cm^-1"]
        for number, value in enumerate(self.wavenumbers):
            lines.append(f"{number:4d}   {abs(value):17.2f}{'i' if value < 0 else ''}")
        removed = f"{self.n_projected} translations and rotations removed" if self.n_projected else "not projected"
        lines.append(f"imaginary modes (beyond {self.imaginary_threshold:g}i cm^-1): {self.n_imaginary}; {removed}")
        lines.append(f"zero-point energy: {self.zero_point_energy_mev:.2f} meV")
        return "\n".join(lines)


def harmonic_analysis(
    atoms: Atoms,
    hessian: Array,
    *,
    project: bool = True,
    indices: Sequence[int] | Array | None = None,
    imaginary_threshold: float = IMAGINARY_THRESHOLD,
) -> HarmonicAnalysis:
    """Diagonalise a mass-weighted Hessian.

    Args:
        atoms: The structure; masses are ``atoms.get_masses()`` (amu), so isotopes are set there.
        hessian: ``(3n, 3n)`` eV/Å² of all atoms, or of the vibrating ones alone.
        project: Remove translations and rotations: 6 of a molecule, 5 of a linear one, 3 of a single atom, 3 (the
            translations) of a periodic structure. Nothing is removed where only some atoms vibrate: the fixed ones
            hold the others in place.
        indices: The atoms that vibrate; by default those that no ``FixAtoms`` or ``FixCartesian`` holds, as in
            ``ase.vibrations.Vibrations``.
        imaginary_threshold: Modes below minus this (cm⁻¹) count as imaginary.

    Raises:
        PHLError: For a Hessian of another shape, wrong indices, or a mass that is not positive.
        NonFiniteError: For NaN or infinity in the Hessian.
    """
    vibrating = _vibrating(atoms, indices)
    block = _vibrating_block(np.asarray(hessian, dtype=float), len(atoms), vibrating)
    masses = atoms.get_masses()[vibrating]
    if not np.all(masses > 0):
        bad = int(vibrating[np.nonzero(~(masses > 0))[0][0]])
        raise PHLError(
            f"the mass of atom {bad} ({atoms.symbols[bad]}) is {atoms.get_masses()[bad]} amu; "
            "expected a positive number: set it with atoms.set_masses()"
        )
    # ASE's own order of operations: the zeros of an unprojected Hessian then agree to the last bit
    weights = np.repeat(masses**-0.5, 3)
    weighted = weights * block * weights[:, None]
    if project and len(vibrating) == len(atoms):
        rigid = rigid_motions(atoms.positions[vibrating], masses, rotations=not np.any(atoms.pbc))
    else:
        rigid = np.zeros((3 * len(vibrating), 0))
    free = _complement(rigid)
    eigenvalues, vectors = np.linalg.eigh(free.T @ weighted @ free)
    if rigid.shape[1]:
        projector = free @ free.T
        block = (projector @ weighted @ projector) / np.outer(weights, weights)
        block = 0.5 * (block + block.T)
    return HarmonicAnalysis(
        atoms=atoms.copy(),
        indices=vibrating,
        hessian=block,
        wavenumbers=wavenumbers(eigenvalues),
        modes=np.ascontiguousarray((free @ vectors).T).reshape(-1, len(vibrating), 3),
        n_projected=rigid.shape[1],
        imaginary_threshold=imaginary_threshold,
    )


def rigid_motions(positions: Array, masses: Array, *, rotations: bool = True) -> Array:
    """Orthonormal mass-weighted translations and rotations.

    Args:
        positions: ``(n, 3)`` Å.
        masses: ``(n,)`` amu; ones for the unweighted motions.
        rotations: Whether to include rotations (not for periodic structures).

    Returns:
        Columns of ``(3n, k)``, dimensionless: k = 6, or 5 where the atoms lie on a line, or 3 for a single atom or
        without rotations.
    """
    root = np.sqrt(np.asarray(masses, dtype=float))[:, None]
    motions = [root * axis for axis in np.eye(3)]
    if rotations and len(positions) > 1:
        centred = positions - np.average(positions, axis=0, weights=masses)
        # right singular vectors: the axis of a linear molecule first, then the two perpendicular to it
        axes = np.linalg.svd(root * centred, full_matrices=True)[2]
        off_axis = np.linalg.norm(centred @ axes[1:].T, axis=1).max()
        motions += [root * np.cross(axis, centred) for axis in (axes[1:] if off_axis < _LINEAR_TOLERANCE else axes)]
    return np.linalg.qr(np.stack([motion.ravel() for motion in motions], axis=1))[0]


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
    chosen = np.arange(len(atoms)) if indices is None else _vibrating(atoms, indices)
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
    return 0.5 * (hessian + hessian.T)


def free_atoms(atoms: Atoms) -> Array:
    """Indices of the atoms that no ``FixAtoms`` or ``FixCartesian`` holds ``(m,)``; other constraints are not seen."""
    return np.array(VibrationsData.indices_from_constraints(atoms), dtype=int)


def _vibrating(atoms: Atoms, indices: Sequence[int] | Array | None) -> Array:
    """Indices of the vibrating atoms, counted from the start."""
    if len(atoms) == 0:
        raise PHLError("the structure has no atoms; expected at least one")
    chosen = free_atoms(atoms) if indices is None else np.atleast_1d(np.asarray(indices))
    if chosen.size == 0:
        raise PHLError("no atom is free to vibrate; expected at least one: loosen the constraints or give indices")
    if chosen.dtype.kind not in "iu" or chosen.ndim != 1 or not np.all((chosen >= -len(atoms)) & (chosen < len(atoms))):
        raise PHLError(f"indices are {chosen.tolist()}; expected whole numbers below {len(atoms)}, the number of atoms")
    chosen = chosen % len(atoms)
    # ascending, because ASE takes the masses of a selection in the order of the atoms, not of the indices
    if np.any(np.diff(chosen) <= 0):
        raise PHLError(f"indices are {chosen.tolist()}; expected each atom once, in ascending order: sort them")
    return chosen


def _vibrating_block(hessian: Array, n_atoms: int, vibrating: Array) -> Array:
    """The symmetric block of the vibrating atoms, from a Hessian of all atoms or of these alone."""
    full, part = 3 * n_atoms, 3 * len(vibrating)
    if hessian.shape not in ((full, full), (part, part)):
        expected = f"{(full, full)}" if full == part else f"{(full, full)} or {(part, part)}"
        raise PHLError(
            f"the Hessian has shape {hessian.shape}, expected {expected} for {len(vibrating)} vibrating atoms of "
            f"{n_atoms}, ordered x1 y1 z1 x2 …: reshape it (layout (n,n,3,3) also needs transpose(0, 2, 1, 3))"
        )
    if not np.all(np.isfinite(hessian)):
        raise NonFiniteError("the Hessian holds NaN or infinity; check the structure and what made the Hessian")
    if hessian.shape != (part, part):
        rows = (3 * vibrating[:, None] + np.arange(3)).ravel()
        hessian = hessian[np.ix_(rows, rows)]
    return 0.5 * (hessian + hessian.T)


def _complement(columns: Array) -> Array:
    """Orthonormal basis of everything orthogonal to orthonormal columns ``(d, k)``: ``(d, d − k)``."""
    if columns.shape[1] == 0:
        return np.eye(len(columns))
    return np.linalg.qr(columns, mode="complete")[0][:, columns.shape[1] :]
