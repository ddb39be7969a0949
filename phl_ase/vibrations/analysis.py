"""Harmonic analysis: normal modes and wavenumbers of a mass-weighted Hessian.

The mass-weighted Hessian M^-½ H M^-½ is diagonalised in the complement of the translations and rotations (the basis
as in W. H. Miller, N. C. Handy, J. E. Adams, J. Chem. Phys. 72, 99 (1980), doi:10.1063/1.438959), so that exactly 6, 5
or 3 zero modes are gone and none of their noise is mixed into the soft modes. At a point of a reaction path the
direction of the mass-weighted gradient can be taken out as well, by the same paper: what is left vibrates across it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from ase import Atoms
from ase.units import invcm

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.hessians import symmetrised
from phl_ase.lattice import check_positions
from phl_ase.types import Array
from phl_ase.units import wavenumbers
from phl_ase.vibrations.constraints import free_motions
from phl_ase.vibrations.rigid import complement, removed_motions, rigid_motions
from phl_ase.vibrations.selection import positive_masses, vibrating_block

if TYPE_CHECKING:
    from ase.vibrations import VibrationsData

IMAGINARY_THRESHOLD = 10.0
"""A mode counts as imaginary below minus this many cm⁻¹: what is nearer to zero is numerical noise."""

_SHOWN = 6  # wavenumbers in a repr

# eV/(Å √amu): a smaller mass-weighted gradient has no direction but that of its rounding
_NO_GRADIENT = 1e-8

Shape = Literal["monatomic", "linear", "nonlinear"]

_SHAPES: dict[int, Shape] = {3: "monatomic", 5: "linear", 6: "nonlinear"}  # by translations and rotations


@dataclass(frozen=True, eq=False, repr=False)
class HarmonicAnalysis:
    """Normal modes of a structure.

    Attributes:
        atoms: The structure, a copy without a calculator.
        indices: The atoms that vibrate ``(n,)``.
        hessian: What was diagonalised, before mass-weighting: ``(3n, 3n)`` eV/Å², without what was projected out.
        wavenumbers: ``(m,)`` cm⁻¹, ascending, imaginary ones negative; m = 3n − ``n_projected`` − ``n_constrained``,
            and one less where the gradient is projected out.
        modes: Orthonormal mass-weighted modes ``(m, n, 3)``, dimensionless.
        n_projected: Number of translations and rotations removed: 6, 5 or 3 of a free molecule.
        gradient_projected: Whether the direction of the gradient was removed as well.
        imaginary_threshold: Modes below minus this (cm⁻¹) count as imaginary; nearer to zero, on either side, a mode
            is within numerical noise.
        n_constrained: Directions of the vibrating atoms that constraints hold beside those (planes, bond lengths, …).
    """

    atoms: Atoms
    indices: Array
    hessian: Array
    wavenumbers: Array
    modes: Array
    n_projected: int
    gradient_projected: bool = False
    imaginary_threshold: float = IMAGINARY_THRESHOLD
    n_constrained: int = 0

    def __repr__(self) -> str:
        what = f"{self.atoms.get_chemical_formula()}: {len(self.wavenumbers)} modes, {self.n_imaginary} imaginary"
        return f"<HarmonicAnalysis {what}; {short_list(self.wavenumbers)} cm⁻¹>"

    @property
    def n_near_zero(self) -> int:
        """Number of modes whose wavenumber is zero within the threshold, whatever its sign."""
        return int(np.sum(np.abs(self.wavenumbers) <= self.imaginary_threshold))

    @property
    def n_imaginary(self) -> int:
        """Number of modes below minus the threshold."""
        return int(np.sum(self.wavenumbers < -self.imaginary_threshold))

    @property
    def shape(self) -> Shape | None:
        """``"monatomic"``, ``"linear"`` or ``"nonlinear"``; ``None`` where it is not a free, projected molecule."""
        if len(self.indices) < len(self.atoms) or np.any(self.atoms.pbc):
            return None
        # planes and lines may hold some of its rigid motions
        n_rigid = rigid_motions(self.atoms.positions, self.atoms.get_masses()).shape[1]
        return _SHAPES[n_rigid] if self.n_projected == n_rigid else None

    @property
    def zero_point_energy(self) -> float:
        """Return ½ Σ h c ν̃ over the real modes, eV."""
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
        """Return the analysis as ASE's object (animation, densities of states).

        ASE does not project: from a projected analysis it gets the projected Hessian, so that it finds the same
        wavenumbers and, beside them, a zero for each motion that was removed.
        """
        from ase.vibrations import VibrationsData  # loads matplotlib

        return VibrationsData.from_2d(self.atoms, self.hessian, self.indices.tolist())

    def table(self) -> str:
        """Return modes, wavenumbers (cm⁻¹, imaginary ones with an ``i``) and zero-point energy (meV) as plain text."""
        lines = ["mode   wavenumber / cm^-1"]
        for number, value in enumerate(self.wavenumbers):
            lines.append(f"{number:4d}   {abs(value):17.2f}{'i' if value < 0 else ''}")
        removed = f"{self.n_projected} translations and rotations removed" if self.n_projected else "not projected"
        removed += ", the gradient as well" if self.gradient_projected else ""
        if self.n_constrained:
            removed += f", {self.n_constrained} more by constraints"
        lines.append(f"imaginary modes (beyond {self.imaginary_threshold:g}i cm^-1): {self.n_imaginary}; {removed}")
        if self.n_near_zero:
            lines.append(f"modes within {self.imaginary_threshold:g} cm^-1 of zero, on either side: {self.n_near_zero}")
        lines.append(f"zero-point energy: {self.zero_point_energy_mev:.2f} meV")
        return "\n".join(lines)


def short_list(wavenumbers: Array) -> str:
    """Return wavenumbers as text, imaginary ones with an ``i``; of many the first and the last."""
    shown = [f"{abs(value):.1f}{'i' if value < 0 else ''}" for value in wavenumbers]
    if len(shown) > _SHOWN:
        shown = [*shown[: _SHOWN - 1], "…", shown[-1]]
    return " ".join(shown) or "none"


def harmonic_analysis(
    atoms: Atoms,
    hessian: Array,
    *,
    project: bool = True,
    gradient: Array | None = None,
    forces: Array | None = None,
    indices: Sequence[int] | Array | None = None,
    imaginary_threshold: float = IMAGINARY_THRESHOLD,
) -> HarmonicAnalysis:
    """Diagonalise a mass-weighted Hessian in the motions that constraints leave free.

    Constraints of the atoms are projected out: fixed atoms, and what ``FixCartesian``, ``FixScaled``, ``FixedPlane``,
    ``FixedLine``, ``FixCom``, ``FixedMode``, ``FixBondLengths``, ``FixLinearTriatomic`` and ``FixInternals`` hold.
    Others (``Hookean``, ``FixSymmetry``, …) are refused with the reason.

    Args:
        atoms: The structure; masses are ``atoms.get_masses()`` (amu), so isotopes are set there.
        hessian: ``(3n, 3n)`` eV/Å² of all atoms, or of the vibrating ones alone.
        project: Remove translations and rotations: 6 of a molecule, 5 of a linear one, 3 of a single atom, 3 (the
            translations) of a periodic structure. Where atoms are fixed, what motions they leave: the rotations about a
            single one, or about the line of two.
        gradient: Energy gradient, or forces, ``(n, 3)`` eV/Å at a point of a reaction path: its mass-weighted direction
            is removed, too.
        forces: The potential's forces without constraints ``(n, 3)`` eV/Å; needed where bond lengths or angles are
            held, whose forces of constraint belong to the curvature.
        indices: The atoms that vibrate, in place of what the constraints say; the others are fixed.
        imaginary_threshold: Modes below minus this (cm⁻¹) count as imaginary.

    Raises:
        PHLError: For a Hessian, gradient or forces of another shape, a gradient that vanishes, wrong indices, a mass
            that is not positive, or constraints that there are no vibrations under.
        NonFiniteError: For NaN or infinity in the positions, Hessian or gradient.
    """
    check_positions(atoms.positions, atoms.get_chemical_formula())
    motions = free_motions(atoms, indices)
    vibrating = motions.atoms
    block = vibrating_block(np.asarray(hessian, dtype=float), len(atoms), vibrating)
    masses = positive_masses(atoms, vibrating)
    if motions.is_curved:
        block = block - motions.curvature(forces, masses).toarray()
    # ASE's own order of operations: the zeros of an unprojected Hessian then agree to the last bit
    weights = np.repeat(masses**-0.5, 3)
    weighted = weights * block * weights[:, None]
    removed, n_rigid = removed_motions(atoms, motions, masses, rigid=project)
    n_constrained = removed.shape[1] - n_rigid
    if gradient is not None:
        removed = np.column_stack([removed, _direction(atoms, gradient, vibrating, weights, removed)])
    free = complement(removed)
    eigenvalues, vectors = np.linalg.eigh(free.T @ weighted @ free)
    if removed.shape[1]:
        projector = free @ free.T
        block = (projector @ weighted @ projector) / np.outer(weights, weights)
        block = symmetrised(block)
    return HarmonicAnalysis(
        atoms=atoms.copy(),
        indices=vibrating,
        hessian=block,
        wavenumbers=wavenumbers(eigenvalues),
        modes=np.ascontiguousarray((free @ vectors).T).reshape(-1, len(vibrating), 3),
        n_projected=n_rigid,
        gradient_projected=gradient is not None,
        imaginary_threshold=imaginary_threshold,
        n_constrained=n_constrained,
    )


def _direction(atoms: Atoms, gradient: Array, vibrating: Array, weights: Array, rigid: Array) -> Array:
    """Unit vector ``(3m,)`` along the mass-weighted gradient, orthogonal to the rigid motions."""
    given = np.asarray(gradient, dtype=float)
    if given.shape != (len(atoms), 3):
        raise PHLError(f"the gradient has shape {given.shape}; expected {(len(atoms), 3)}, eV/Å")
    if not np.all(np.isfinite(given)):
        raise NonFiniteError("the gradient holds NaN or infinity; check the structure and what made it")
    direction = weights * given[vibrating].ravel()
    direction -= rigid @ (rigid.T @ direction)
    size = np.linalg.norm(direction)
    if not size > _NO_GRADIENT:
        raise PHLError(
            "the gradient vanishes: a stationary point has no direction to project out; expected a point of a path, "
            "or leave the gradient out"
        )
    return direction / size
