"""The layout of a data set on disk: columns, units, what stands where, and the content hash.

Every column is one flat array over all frames. Ragged columns have an array of offsets: rows ``offsets[i]`` to
``offsets[i + 1]`` belong to frame i, and none means that the frame does not carry it. Hessians are kept as their upper
triangle, row by row. Which columns there are follows from the labels (:mod:`phl_ase.structures.label`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from phl_ase.errors import NonFiniteError, PHLError, shortened
from phl_ase.hessians import ASYMMETRY, asymmetry, checked_hessian
from phl_ase.lattice import check_geometry
from phl_ase.structures.frame import Frame
from phl_ase.structures.label import Label, arrays, labels, others
from phl_ase.types import Array

FORMAT = "phl_ase dataset"
SCHEMA = 1
SUFFIXES = (".h5", ".hdf5")
"""How the name of a data set of ours ends: what it is opened by."""
NAME_BYTES = 256
"""Longest ``kind`` or ``reaction``, UTF-8 bytes."""
REQUIRED = ("numbers", "positions", "pbc", "charge", "multiplicity", "kind", "reaction")
_LARGEST_CELL = 1e7  # Å


@dataclass(frozen=True)
class Column:
    """One array of the file.

    Attributes:
        dtype: NumPy type on disk, little-endian; ``S`` for fixed-length UTF-8 text.
        shape: Shape of one row.
        ragged: Name of the offsets it is read with; empty for one row a frame.
        unit: Unit of the values; empty where there is none.
        label: The label that it holds; ``None`` for what is no label.
    """

    dtype: str
    shape: tuple[int, ...] = ()
    ragged: str = ""
    unit: str = ""
    label: Label | None = None

    def of(self, name: str, frame: Frame) -> Any:
        """Return what a frame has for this column of a name; ``None`` where it has nothing."""
        if self.label is not None:
            return frame.label(self.label.name)
        if name == "cell":
            return frame.cell if np.any(frame.cell) else None
        return getattr(frame, name)


_STRUCTURE = {
    "numbers": Column("|u1", (), "atoms"),
    "positions": Column("<f8", (3,), "atoms", "Å"),
    "pbc": Column("|u1", (3,)),
    "charge": Column("<i4", (), "", "e"),
    "multiplicity": Column("<i4"),
    "kind": Column("S"),
    "reaction": Column("S"),
    "cell": Column("<f8", (3, 3), "cell", "Å"),
}
_SAMPLING = {
    "irc_s": Column("<f8", (), "irc_s", "√amu·Å"),
    "temperature": Column("<f8", (), "temperature", "K"),
}


def columns() -> Mapping[str, Column]:
    """Return every array of a data set by its name in the file: the structure, then the labels, then the sampling."""
    return _columns(tuple(arrays().values()))


@cache
def _columns(labels: tuple[Label, ...]) -> Mapping[str, Column]:
    of_labels = {
        label.column: Column("<f8", () if label.per == "pair" else label.shape, label.offsets, label.unit, label)
        for label in labels
    }
    return {**_STRUCTURE, **of_labels, **_SAMPLING}


def ragged_groups() -> tuple[str, ...]:
    """Return the groups of columns that are read with offsets of their own."""
    return tuple(dict.fromkeys(column.ragged for column in columns().values() if column.ragged))


def is_own(name: str) -> bool:
    """Return whether a column holds no label of another package."""
    label = columns()[name].label
    return label is None or label.name not in others()


def units() -> dict[str, str]:
    """Return the unit of everything that a frame holds and that has one, by its name in the frame."""
    return {(c.label.name if c.label else name): c.unit for name, c in columns().items() if c.unit}


def stored_units() -> dict[str, str]:
    """Return the units that stand in the attributes of a file, by the names of its arrays."""
    return {name: column.unit for name, column in columns().items() if column.unit}


def check_suffix(path: Path) -> None:
    """Check that a data set is written under a name that it will be opened by.

    Raises:
        PHLError: Otherwise.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise PHLError(f"cannot write {path}: expected a name ending in {' or '.join(SUFFIXES)}")


def offsets_name(ragged: str) -> str:
    """Name of an offsets array in the file."""
    return f"{ragged}_offsets"


@dataclass(frozen=True)
class DatasetMeta:
    """Metadata of a whole data set.

    Attributes:
        level_of_theory: Method and basis, for example ``wB97X-D/6-31G(d)``; empty when unknown.
        energy_reference: What energies are relative to, for example ``absolute``; empty when unknown.
        provenance: How it was made: values that JSON holds.
        notes: Free text, known errors among them.
    """

    level_of_theory: str = ""
    energy_reference: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""

    @property
    def units(self) -> dict[str, str]:
        """Unit of everything that has one, by its name in a frame; the same for every data set."""
        return units()

    @property
    def schema(self) -> int:
        """Version of the layout on disk."""
        return SCHEMA


@lru_cache(maxsize=64)
def _upper(side: int) -> tuple[Array, Array]:
    return np.triu_indices(side)


def pack_matrix(matrix: Array) -> Array:
    """Return the upper triangle of a symmetric matrix ``(N, N)``, row by row: ``(N (N + 1) / 2,)``."""
    return np.ascontiguousarray(np.asarray(matrix, dtype=np.float64)[_upper(len(matrix))])


def unpack_matrix(packed: Array, side: int) -> Array:
    """Return the symmetric ``(side, side)`` matrix of an upper triangle."""
    matrix = np.empty((side, side))
    rows, columns = _upper(side)
    matrix[rows, columns] = packed
    matrix[columns, rows] = packed
    return matrix


def symmetrised(frame: Frame, name: str) -> Frame:
    """Return a frame whose matrices of pairs of atoms, the Hessian among them, are symmetric; noise is averaged away.

    Args:
        frame: One that is symmetric, or holds NaN (which other checks refuse), is returned unchanged, bit for bit.
        name: How an error names it.

    Raises:
        PHLError: When the asymmetry is larger than noise, as of a wrong layout.
    """
    changed = {}
    for label in labels().values():
        value = frame.label(label.name) if label.per == "pair" else None
        if value is not None and np.all(np.isfinite(value)) and asymmetry(value):
            words, width = f"{name}: the {label.title}", label.shape[0] if label.shape else 1
            changed[label.name] = checked_hessian(
                value, len(frame), words, tolerance=ASYMMETRY, unit=label.unit, width=width
            )
    return frame.with_labels(changed) if changed else frame


def checked(frame: Frame, name: str) -> Frame:
    """Check a frame beyond :meth:`Frame.check`: species, multiplicity, shape of the cell, arc length, temperature.

    Raises:
        PHLError: Naming the frame and what is wrong with it.
    """
    frame.check(name)
    if frame.numbers.min() < 1 or frame.numbers.max() > 118:
        wrong = [int(z) for z in frame.numbers if not 1 <= z <= 118]
        raise PHLError(f"{name}: atomic number {wrong[0]}; expected 1 to 118: remove ghost and dummy atoms")
    for label, value in (("irc_s", frame.irc_s), ("temperature", frame.temperature)):
        if value is not None and not np.isfinite(value):
            raise NonFiniteError(f"{name}: {label} is {value}; leave it absent (None) where it is not known")
    if frame.multiplicity < 1:
        raise PHLError(f"{name}: multiplicity {frame.multiplicity}; expected 2S+1, at least 1")
    if np.shape(frame.cell) != (3, 3) or np.shape(frame.pbc) != (3,):
        raise PHLError(f"{name}: cell {np.shape(frame.cell)} and pbc {np.shape(frame.pbc)}; expected (3, 3) and (3,)")
    return frame


def plausible(frame: Frame, name: str) -> Frame:
    """Check a frame that comes from outside beyond :func:`checked`: cell, names, charge, and the size of its numbers.

    Raises:
        PHLError: Naming the frame and what cannot be meant.
    """
    checked(frame, name)
    check_geometry(frame.positions, frame.cell, frame.pbc, name)
    check_name("kind", frame.kind, name)
    check_name("reaction", frame.reaction, name)
    nuclei = int(np.sum(frame.numbers, dtype=np.int64))
    if abs(frame.charge) > nuclei:
        raise PHLError(f"{name}: charge {frame.charge:.6g}; expected at most that of its nuclei, {nuclei}")
    if frame.multiplicity > 2 * nuclei + 1:
        raise PHLError(
            f"{name}: multiplicity {frame.multiplicity:.6g}; expected 2S+1 of at most {2 * nuclei} electrons"
        )
    limits = {"cell": (frame.cell, _LARGEST_CELL, "Å", "")}
    for label, value in frame.labels().items():
        known = arrays()[label]
        limits[label] = (value, known.largest, known.unit, " an atom" if known.extensive else "")
    for label, (value, limit, unit, each) in limits.items():
        largest = float(np.max(np.abs(value), initial=0.0))
        if largest > limit * (len(frame) if each else 1):
            raise PHLError(
                f"{name}: {label} as large as {largest:.3g} {unit}; expected at most {limit:.0e} {unit}{each}: "
                "is it in another unit?"
            )
    return frame


def check_name(label: str, text: str, name: str = "") -> None:
    """Check that a data set can keep a name.

    Args:
        label: What it is the name of.
        text: The name.
        name: How an error names the frame.

    Raises:
        PHLError: For one that is too long, holds NUL or is no text.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        size = -1
    if "\0" in text or not 0 <= size <= NAME_BYTES:
        raise PHLError(
            f"{name and f'{name}: '}{label} is {shortened(text, 40)} ({size:,} bytes); expected UTF-8 text of at most "
            f"{NAME_BYTES} bytes without NUL"
        )


def storable(frame: Frame, name: str) -> Frame:
    """Return a frame as it can be written: plausible, its matrices symmetric.

    Raises:
        PHLError: Naming the frame and what is wrong with it.
    """
    return symmetrised(plausible(frame, name), name)


def counts(frame: Frame) -> dict[str, int]:
    """Return the rows that a frame fills in each group of ragged columns."""
    n, known = len(frame), arrays()
    filled = dict.fromkeys(ragged_groups(), 0) | {"atoms": n, "cell": int(np.any(frame.cell))}
    filled |= {name: int(getattr(frame, name) is not None) for name in _SAMPLING}
    for name in frame.labels():
        filled[known[name].offsets] = known[name].rows_for(n, 0 if frame.probes is None else len(frame.probes))
    return filled


def rows(frame: Frame) -> dict[str, Array]:
    """Return a storable frame as rows of the columns it carries."""
    filled = {}
    for name, column in columns().items():
        value = column.of(name, frame)
        if value is None:
            continue
        if column.label is not None and column.label.per == "pair":
            value = pack_matrix(value)
        if column.dtype == "S":
            filled[name] = np.array([value.encode()], dtype=f"S{NAME_BYTES}")
        else:
            filled[name] = np.asarray(value, dtype=column.dtype).reshape(-1, *column.shape)
    return filled


class ContentHash:
    """A sha256 of what a data set says: columns, offsets, level of theory, energy reference.

    Compression, order of writing, notes and provenance do not enter, nor other packages' labels that no frame carries.
    """

    def __init__(self) -> None:
        own = [(name, column.ragged) for name, column in columns().items() if is_own(name)]
        names = [*(name for name, _ in own), *(offsets_name(ragged) for _, ragged in own if ragged)]
        self._digests = {name: hashlib.sha256() for name in names}

    def update(self, name: str, values: Array) -> None:
        """Add rows of a column (or a whole array of offsets), in frame order."""
        if values.dtype.kind == "S":  # the width of the text field is no content
            data = b"".join(text + b"\0" for text in values.tolist())
        else:
            dtype = columns()[name].dtype if name in columns() else "<i8"
            data = np.ascontiguousarray(values, dtype=dtype).tobytes()
        if name not in self._digests:
            if name not in columns() and not values[-1]:
                return
            self._digests[name] = hashlib.sha256()
        self._digests[name].update(data)

    def hexdigest(self, meta: DatasetMeta) -> str:
        """Return the hash of everything added so far."""
        content = {
            "format": [FORMAT, SCHEMA],
            "level": [meta.level_of_theory, meta.energy_reference],
            "columns": {name: digest.hexdigest() for name, digest in self._digests.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
