"""ASE at the edge: ``ase.Atoms`` to frames and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from phl_ase.errors import NonFiniteError, PHLError, shortened
from phl_ase.structures.frame import Frame


def charge_and_multiplicity(atoms: Atoms) -> tuple[int, int]:
    """Total charge (e) and 2S+1 from ``atoms.info``: ``charge`` and ``multiplicity`` (or ``spin``, the same number).

    Raises:
        PHLError: When either is not a whole number, or the multiplicity is below 1.
    """
    charge: Any = atoms.info.get("charge", 0)
    multiplicity: Any = atoms.info.get("multiplicity", atoms.info.get("spin", 1))
    for name, value in (("charge", charge), ("multiplicity", multiplicity)):
        if not isinstance(value, (int, float, np.integer, np.floating)) or not np.isfinite(value) or value % 1:
            raise PHLError(f"atoms.info[{name!r}] is {shortened(value)}; expected a whole number")
    if multiplicity < 1:
        raise PHLError(f"atoms.info['multiplicity'] is {multiplicity!r}; expected 2S+1, at least 1")
    return int(charge), int(multiplicity)


def frame_from_atoms(atoms: Atoms, name: str = "structure") -> Frame:
    """Return the structure of an ``Atoms`` without labels.

    Raises:
        PHLError: For no atoms, a wrong shape, or a charge that is not a whole number.
        NonFiniteError: For NaN or infinite positions or cell.
    """
    if not np.all(np.isfinite(atoms.positions)):
        bad = int(np.nonzero(~np.isfinite(atoms.positions).all(axis=1))[0][0])
        raise NonFiniteError(
            f"{name}: the position of atom {bad} is {atoms.positions[bad].tolist()}; expected finite numbers "
            "(did an optimiser or a dynamics step explode?)"
        )
    try:
        charge, multiplicity = charge_and_multiplicity(atoms)
    except PHLError as error:
        raise PHLError(f"{name}: {error}") from None
    return Frame(
        numbers=atoms.numbers.astype(np.int64),
        positions=np.array(atoms.positions, dtype=float),
        cell=np.array(atoms.cell, dtype=float),
        pbc=np.array(atoms.pbc, dtype=bool),
        charge=charge,
        multiplicity=multiplicity,
    ).check(name)


def atoms_from_frame(frame: Frame) -> Atoms:
    """Return an ``Atoms`` of the structure, charge and multiplicity in ``info``; labels are left behind."""
    atoms = Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
    if frame.charge or frame.multiplicity != 1:
        atoms.info.update(charge=frame.charge, multiplicity=frame.multiplicity)
    return atoms
