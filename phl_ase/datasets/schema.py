"""The layout of a data set on disk: columns, units, what stands where, and the content hash.

Every column is one flat array over all frames. Ragged columns have an array of offsets: rows ``offsets[i]`` to
``offsets[i + 1]`` belong to frame i, and none means that the frame does not carry it. Hessians are kept as their upper
triangle, row by row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from phl_ase.errors import NonFiniteError, PHLError, shortened
from phl_ase.lattice import check_geometry
from phl_ase.structures.frame import Frame

Array = np.ndarray

FORMAT = "phl_ase dataset"
SCHEMA = 1
SUFFIXES = (".h5", ".hdf5")
"""How the name of a data set of ours ends: what it is opened by."""
NAME_BYTES = 256
"""Longest ``kind`` or ``reaction``, UTF-8 bytes."""
ASYMMETRY = 1e-3
"""Largest |H − Hᵀ| that is averaged away, relative to max(1 eV/Å², max |H|); more is a mistake and an error."""


@dataclass(frozen=True)
class Column:
    """One array of the file.

    Attributes:
        dtype: NumPy type on disk, little-endian; ``S`` for fixed-length UTF-8 text.
        shape: Shape of one row.
        ragged: Name of the offsets it is read with; empty for one row a frame.
        unit: Unit of the values; empty where there is none.
    """

    dtype: str
    shape: tuple[int, ...] = ()
    ragged: str = ""
    unit: str = ""


COLUMNS = {
    "numbers": Column("|u1", (), "atoms"),
    "positions": Column("<f8", (3,), "atoms", "Å"),
    "pbc": Column("|u1", (3,)),
    "charge": Column("<i4", (), "", "e"),
    "multiplicity": Column("<i4"),
    "kind": Column("S"),
    "reaction": Column("S"),
    "cell": Column("<f8", (3, 3), "cell", "Å"),
    "energy": Column("<f8", (), "energy", "eV"),
    "forces": Column("<f8", (3,), "forces", "eV/Å"),
    "stress": Column("<f8", (3, 3), "stress", "eV/Å³"),
    "hessian": Column("<f8", (), "hessian", "eV/Å²"),
    "probes": Column("<f8", (3,), "probes", "1"),
    "products": Column("<f8", (3,), "probes", "eV/Å²"),
    "irc_s": Column("<f8", (), "irc_s", "√amu·Å"),
    "temperature": Column("<f8", (), "temperature", "K"),
}
FIELDS = {"products": "hvp"}
"""Column -> attribute of a frame, where they differ."""
REQUIRED = ("numbers", "positions", "pbc", "charge", "multiplicity", "kind", "reaction")
RAGGED = tuple(dict.fromkeys(c.ragged for c in COLUMNS.values() if c.ragged))
UNITS = {name: column.unit for name, column in COLUMNS.items() if column.unit}
LARGEST = {
    "cell": 1e7,
    "energy": 1e7,
    "forces": 1e7,
    "stress": 1e7,
    "hessian": 1e9,
    "probes": 1e7,
    "products": 1e9,
}
"""Largest value that can be meant, in the unit of the column, the energy's for each atom: all electrons of the heaviest
atom are bound by 1.5e6 eV. What is larger is a mistake, and would overflow in squares."""
LABELS = {"energy": "energy", "forces": "forces", "stress": "stress", "hessian": "hessian", "hvp": "probes"}
"""Label -> the offsets that say which frames carry it."""


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
    """What is true of a whole data set.

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
        """Unit of each column; the same for every data set."""
        return dict(UNITS)

    @property
    def schema(self) -> int:
        """Version of the layout on disk."""
        return SCHEMA


@lru_cache(maxsize=64)
def _upper(side: int) -> tuple[Array, Array]:
    return np.triu_indices(side)


def pack_hessian(hessian: Array) -> Array:
    """The upper triangle of a symmetric ``(3n, 3n)`` matrix, row by row: ``(3n (3n + 1) / 2,)``."""
    return np.ascontiguousarray(np.asarray(hessian, dtype=np.float64)[_upper(len(hessian))])


def unpack_hessian(packed: Array, side: int) -> Array:
    """The symmetric ``(side, side)`` matrix of its upper triangle."""
    hessian = np.empty((side, side))
    rows, columns = _upper(side)
    hessian[rows, columns] = packed
    hessian[columns, rows] = packed
    return hessian


def asymmetry(hessian: Array) -> float:
    """Largest |H − Hᵀ|, eV/Å²."""
    return float(np.abs(hessian - hessian.T).max())


def symmetrised(hessian: Array, name: str) -> Array:
    """A Hessian with its noise of asymmetry averaged away; a symmetric one is returned unchanged, bit for bit.

    Args:
        hessian: ``(3n, 3n)`` eV/Å².
        name: How an error names the frame.

    Raises:
        PHLError: When the asymmetry is larger than noise, as of a wrong layout.
    """
    worst = asymmetry(hessian)
    if worst == 0.0:
        return hessian
    allowed = ASYMMETRY * max(1.0, float(np.abs(hessian).max()))
    if worst > allowed:
        raise PHLError(
            f"{name}: the Hessian is asymmetric by {worst:.3g} eV/Å², expected at most {allowed:.3g}; check its layout "
            "(rows and columns are x1 y1 z1 x2 …) or symmetrise it as (H + H.T) / 2"
        )
    return 0.5 * (hessian + hessian.T)


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
    for label, limit in LARGEST.items():
        field = FIELDS.get(label, label)
        value = getattr(frame, field)
        largest = 0.0 if value is None else float(np.max(np.abs(value), initial=0.0))
        if largest > (limit * len(frame) if label == "energy" else limit):
            of = " an atom" if label == "energy" else ""
            raise PHLError(
                f"{name}: {field} as large as {largest:.3g} {UNITS[label]}; expected at most {limit:.0e} {UNITS[label]}"
                f"{of}: is it in another unit?"
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
    """Check what only writing demands: a Hessian that is symmetric.

    Raises:
        PHLError: Naming the frame and what is wrong with it.
    """
    plausible(frame, name)
    if frame.hessian is not None:
        symmetrised(frame.hessian, name)
    return frame


def counts(frame: Frame) -> dict[str, int]:
    """Rows that a frame fills in each group of ragged columns."""
    n = len(frame)
    return {
        "atoms": n,
        "cell": int(np.any(frame.cell)),
        "energy": int(frame.energy is not None),
        "forces": 0 if frame.forces is None else n,
        "stress": int(frame.stress is not None),
        "hessian": 0 if frame.hessian is None else 3 * n * (3 * n + 1) // 2,
        "probes": 0 if frame.probes is None else len(frame.probes) * n,
        "irc_s": int(frame.irc_s is not None),
        "temperature": int(frame.temperature is not None),
    }


def rows(frame: Frame, name: str) -> dict[str, Array]:
    """A frame as rows of the columns it carries."""
    values: dict[str, Any] = {column: getattr(frame, FIELDS.get(column, column)) for column in COLUMNS}
    values["cell"] = frame.cell if np.any(frame.cell) else None
    if frame.hessian is not None:
        values["hessian"] = pack_hessian(symmetrised(frame.hessian, name))
    filled = {}
    for column, value in values.items():
        spec = COLUMNS[column]
        if value is None:
            continue
        if spec.dtype == "S":
            filled[column] = np.array([value.encode()], dtype=f"S{NAME_BYTES}")
        else:
            filled[column] = np.asarray(value, dtype=spec.dtype).reshape(-1, *spec.shape)
    return filled


def blocks(frames: Iterable[Frame], size: int = 256) -> Iterator[dict[str, Array]]:
    """Frames as concatenated rows of each column, ``size`` frames at a time."""
    waiting: list[dict[str, Array]] = []

    def joined() -> dict[str, Array]:
        return {c: np.concatenate(parts) for c in COLUMNS if (parts := [r[c] for r in waiting if c in r])}

    for index, frame in enumerate(frames):
        waiting.append(rows(frame, f"frame {index}"))
        if len(waiting) == size:
            yield joined()
            waiting = []
    if waiting:
        yield joined()


class ContentHash:
    """A sha256 of what a data set says: columns, offsets, level of theory, energy reference.

    Compression, order of writing, notes and provenance do not enter.
    """

    def __init__(self) -> None:
        self._digests = {name: hashlib.sha256() for name in (*COLUMNS, *map(offsets_name, RAGGED))}

    def update(self, name: str, values: Array) -> None:
        """Add rows of a column (or a whole array of offsets), in frame order."""
        if values.dtype.kind == "S":  # the width of the text field is no content
            data = b"".join(text + b"\0" for text in values.tolist())
        else:
            dtype = COLUMNS[name].dtype if name in COLUMNS else "<i8"
            data = np.ascontiguousarray(values, dtype=dtype).tobytes()
        self._digests[name].update(data)

    def hexdigest(self, meta: DatasetMeta) -> str:
        """The hash of everything added so far."""
        content = {
            "format": [FORMAT, SCHEMA],
            "level": [meta.level_of_theory, meta.energy_reference],
            "columns": {name: digest.hexdigest() for name, digest in self._digests.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
