"""Crystals for phonopy: from an ASE unit cell and a supercell matrix to phonopy's supercell, in its atom order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from phl_ase.errors import NonFiniteError, PHLError, reason_of
from phl_ase.types import Array

if TYPE_CHECKING:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

LARGEST_SUPERCELL = 50_000
"""Atoms; phonopy's own arrays of a larger one do not fit the memory of most machines."""

THINNEST_CELL = 0.1
"""Å; atoms of a cell whose opposite faces are nearer would sit on their own images: its vectors lie in a plane."""

SYMPREC = 1e-5
"""Largest distance of atoms that symmetry makes the same, Å; phonopy's default."""

CENTRINGS = ("auto", "P", "F", "I", "A", "C", "R")
"""Names of primitive matrices: phonopy's guess from the symmetry, the unit cell itself, and centrings."""


def parse_supercell(values: Any) -> Array:
    """Return the supercell matrix that 3 or 9 whole numbers stand for.

    Args:
        values: Three numbers (a diagonal), nine, row by row, or a 3 × 3 matrix; numbers may be text.

    Returns:
        ``(3, 3)`` int64, as phonopy has it: the columns are the supercell's vectors in those of the unit cell.

    Raises:
        PHLError: For another number of values, values that are not whole, or a matrix without a positive determinant.
    """
    wanted = "expected 3 or 9 whole numbers, for example 2 2 2"
    try:
        numbers = np.array(_flat(values), dtype=float)
    except (TypeError, ValueError):
        raise PHLError(f"supercell is {values!r}; {wanted}") from None
    if numbers.size not in (3, 9):
        raise PHLError(f"supercell has {numbers.size} numbers; {wanted}")
    if not np.all(np.isfinite(numbers)) or np.any(numbers != np.rint(numbers)):
        raise PHLError(f"supercell is {numbers.tolist()}; {wanted}")
    matrix = (np.diag(numbers) if numbers.size == 3 else numbers.reshape(3, 3)).astype(np.int64)
    if round(float(np.linalg.det(matrix))) < 1:
        raise PHLError(
            f"supercell {matrix.tolist()} has determinant {np.linalg.det(matrix):.0f}; expected a positive one "
            "(change the sign or the order of its rows)"
        )
    return matrix


def _flat(values: Any) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        return str(values).split()
    return [item for value in values for item in (_flat(value) if isinstance(value, Iterable) else [value])]


def make_phonopy(
    unit_cell: Atoms, supercell: Any, *, primitive_matrix: Any = "auto", symprec: float = SYMPREC
) -> Phonopy:
    """Return a phonopy calculation of a crystal, without force constants.

    Args:
        unit_cell: Periodic in three directions; its masses (isotopes too) are taken, its calculator and constraints are
            not. A left-handed cell is taken as the right-handed one of the opposite vectors: the same crystal.
        supercell: What :func:`parse_supercell` reads.
        primitive_matrix: One of ``CENTRINGS``, or a ``(3, 3)`` matrix; ``"auto"`` finds the primitive cell by symmetry.
        symprec: How far apart atoms may be that symmetry makes the same, Å.

    Returns:
        ``phonopy.Phonopy``.

    Raises:
        PHLError: For a structure that is no crystal, a supercell that is none or too large, or a primitive matrix that
            does not fit the cell.
        NonFiniteError: For NaN or infinity in positions or cell.
    """
    from phonopy.structure.atoms import PhonopyAtoms

    check_crystal(unit_cell)
    matrix = parse_supercell(supercell)
    if isinstance(primitive_matrix, str) and primitive_matrix not in CENTRINGS:
        raise PHLError(f"primitive_matrix is {primitive_matrix!r}; expected a 3 × 3 matrix or one of {CENTRINGS}")
    cell = PhonopyAtoms(
        symbols=unit_cell.get_chemical_symbols(),
        cell=np.array(unit_cell.cell),
        scaled_positions=unit_cell.get_scaled_positions(),
        masses=unit_cell.get_masses(),
    )
    return build(cell, matrix, primitive_matrix, symprec)


def build(cell: PhonopyAtoms, matrix: Array, primitive_matrix: Any, symprec: float) -> Phonopy:
    """Phonopy on a unit cell of its own kind, the primitive matrix found and always given.

    Raises:
        PHLError: For a supercell that is too large, or what phonopy cannot build.
    """
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms
    from phonopy.structure.cells import guess_primitive_matrix

    check_size(len(cell), matrix)
    _check_volume(np.array(cell.cell), cell.formula)
    if np.linalg.det(cell.cell) < 0:  # phonopy refuses left-handed vectors; their opposites make the same lattice
        cell = PhonopyAtoms(
            symbols=cell.symbols, cell=-cell.cell, scaled_positions=-cell.scaled_positions, masses=cell.masses
        )
    try:
        if isinstance(primitive_matrix, str) and primitive_matrix == "auto":
            # symmetry knows nothing of isotopes: it would take the mass of one of them for all
            primitive_matrix = "P" if has_isotopes(cell) else guess_primitive_matrix(cell, symprec=symprec)
        return Phonopy(cell, supercell_matrix=matrix, primitive_matrix=primitive_matrix, symprec=symprec, log_level=0)
    except Exception as error:  # phonopy and spglib have no common class of errors
        reason = reason_of(error)
        raise PHLError(
            f"phonopy cannot build the supercell of {cell.formula} ({reason}); check the cell, duplicate atoms and "
            "primitive_matrix ('P' takes the unit cell as it is)"
        ) from error


def has_isotopes(cell: PhonopyAtoms) -> bool:
    """Return whether atoms of one element have different masses."""
    pairs = {(symbol, round(float(mass), 6)) for symbol, mass in zip(cell.symbols, cell.masses, strict=True)}
    return len(pairs) > len(set(cell.symbols))


def check_crystal(atoms: Atoms) -> None:
    """Refuse what has no phonons.

    Raises:
        PHLError: For a structure that is not periodic in three directions, has no atoms, or no volume.
        NonFiniteError: For NaN or infinity in it.
    """
    if len(atoms) == 0:
        raise PHLError("the unit cell has no atoms; expected a crystal")
    if not (np.all(np.isfinite(atoms.positions)) and np.all(np.isfinite(atoms.cell))):
        raise NonFiniteError("positions or cell of the unit cell hold NaN or infinity; expected finite numbers")
    if not np.all(atoms.pbc) or atoms.cell.rank < 3:
        raise PHLError(
            f"{atoms.get_chemical_formula()} has pbc {np.asarray(atoms.pbc).tolist()} and a cell of rank "
            f"{atoms.cell.rank}; phonons need a crystal, periodic in three directions (a slab: with vacuum and "
            "pbc=True; a molecule has frequencies: 'phl freq')"
        )
    _check_volume(np.array(atoms.cell), atoms.get_chemical_formula())
    if not np.all(atoms.numbers > 0):
        raise PHLError(
            f"atom {int(np.argmin(atoms.numbers > 0))} of {atoms.get_chemical_formula()} is no element (X); expected "
            "elements: remove dummy atoms"
        )


def _check_volume(cell: Array, name: str) -> None:
    """Refuse vectors that lie in a plane, or nearly.

    Raises:
        PHLError: For a cell thinner than ``THINNEST_CELL``.
    """
    volume = abs(np.linalg.det(cell))
    if volume > 0 and thickness(cell) >= THINNEST_CELL:
        return
    raise PHLError(
        f"the cell of {name} has vectors {np.round(cell, 6).tolist()} Å that lie in a plane, or nearly (volume "
        f"{volume:.3g} Å³); expected three independent vectors: mend the cell"
    )


def check_size(atoms: int, matrix: Array) -> None:
    """Refuse a supercell that no memory holds.

    Raises:
        PHLError: For more than ``LARGEST_SUPERCELL`` atoms.
    """
    size = atoms * abs(round(float(np.linalg.det(np.asarray(matrix, dtype=float)))))
    if size > LARGEST_SUPERCELL:
        raise PHLError(f"the supercell has {size:,} atoms; expected at most {LARGEST_SUPERCELL:,}: make it smaller")


def fresh(phonon: Phonopy) -> Phonopy:
    """Return the crystal and supercell without displacements or force constants."""
    from phonopy import Phonopy

    return Phonopy(
        phonon.unitcell,
        supercell_matrix=phonon.supercell_matrix,
        primitive_matrix=phonon.primitive_matrix,
        symprec=phonon.symmetry.tolerance,
        calculator=phonon.calculator,
        log_level=0,
    )


def ase_atoms(cell: PhonopyAtoms) -> Atoms:
    """Return a ``PhonopyAtoms`` as periodic ``ase.Atoms``, atoms in the same order."""
    return Atoms(
        [symbol.rstrip("0123456789") for symbol in cell.symbols],
        scaled_positions=cell.scaled_positions,
        cell=cell.cell,
        masses=cell.masses,
        pbc=True,
    )


def supercell_atoms(phonon: Phonopy) -> Atoms:
    """Phonopy's supercell as ``ase.Atoms``, atoms in phonopy's order."""
    return ase_atoms(phonon.supercell)


def thickness(cell: Array) -> float:
    """Smallest distance between opposite faces of a cell ``(3, 3)``, Å."""
    return float(1.0 / np.linalg.norm(np.linalg.inv(np.asarray(cell)), axis=0).max())
