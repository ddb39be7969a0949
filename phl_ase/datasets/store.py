"""Data sets on disk: one HDF5 file, opened lazily, random access to a frame without reading the file.

Offsets and the small columns stay in memory; everything else is read on demand. The file is checked when it
is opened (:mod:`phl_ase.datasets.file_checks`) and each frame when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phl_ase.datasets.base import _ROWS, BaseDataset, _fixed
from phl_ase.datasets.file_checks import (
    check_arrays,
    check_format,
    check_offsets,
    damage_of,
    first_line,
    open_file,
    text_attribute,
)
from phl_ase.datasets.schema import (
    ContentHash,
    DatasetMeta,
    checked,
    columns,
    is_own,
    offsets_name,
    stored_units,
    unpack_matrix,
)
from phl_ase.errors import PHLError
from phl_ase.structures.frame import Frame
from phl_ase.structures.label import arrays
from phl_ase.types import Array


class Dataset(BaseDataset):
    """A data set of ours in a file; a context manager, and picklable (it reopens the file).

    Args:
        path: The HDF5 file.
        name: How errors and reports name the data set; the path when nothing is given.

    Raises:
        PHLError: When the file is missing, broken, not ours, or holds what a data set must not hold.
    """

    def __init__(self, path: str | PathLike[str], *, name: str = "") -> None:
        self.path = Path(path)
        self.name = name or str(path)
        self._file = open_file(self.path)
        try:
            with damage_of(str(path)):
                check_format(self._file, self.path)
                self.meta = _read_meta(self._file, self.path)
                self._stored_hash = text_attribute(self._file, "content_hash", self.path)
                self._arrays: dict[str, h5py.Dataset] = check_arrays(self._file, self.path)
                self._offsets = {r: _fixed(v) for r, v in check_offsets(self._arrays, self.path).items()}
        except BaseException:
            self._file.close()
            raise
        self._length = len(self._arrays["pbc"])

    def __reduce__(self):
        return partial(Dataset, name=self.name), (str(self.path),)

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        """Close the file; columns that were read stay readable, frames do not."""
        self._file.close()

    def _read(self, column: str, start: int | None = None, stop: int | None = None) -> Array:
        try:
            return self._arrays[column][start:stop]
        except (OSError, RuntimeError, ValueError) as error:
            if not self._file:
                raise PHLError(f"{self.name} is closed; open it again to read frames") from error
            reason = f"{column!r} cannot be read ({first_line(error)})"
            raise PHLError(f"{self.name}: {reason}; the file is damaged") from error

    def _text(self, column: str) -> Array:
        try:
            return np.char.decode(self._read(column), "utf-8")
        except UnicodeDecodeError as error:
            raise PHLError(f"{self.name}: {column!r} is not UTF-8 text; the file is damaged") from error

    def _scalars(self, column: str) -> Array:
        values = np.full(len(self), np.nan)
        filled = np.diff(self._offsets[columns()[column].ragged]) > 0
        if filled.any():
            values[filled] = self._read(column)
        return values

    @cached_property
    def _columns(self) -> dict[str, Array]:
        """The small columns, one entry a frame."""
        small = {name: self._read(name) for name in ("pbc", "charge", "multiplicity")}
        small["energy"] = self._scalars("energy")
        small["pbc"] = small["pbc"].astype(bool)
        return small

    def _rows(self, column: str, index: int) -> Array | None:
        offsets = self._offsets[columns()[column].ragged]
        start, stop = int(offsets[index]), int(offsets[index + 1])
        return None if start == stop else self._read(column, start, stop)

    def _scalar(self, column: str, values: Array, index: int) -> float | None:
        offsets = self._offsets[columns()[column].ragged]
        # a NaN that was stored is returned as NaN, to be refused with the frame's number
        return None if offsets[index] == offsets[index + 1] else float(values[index])

    def _frame(self, index: int) -> Frame:
        start, stop = (int(offset) for offset in self._offsets["atoms"][index : index + 2])
        n = stop - start
        small = self._columns
        cell = self._rows("cell", index)
        frame = Frame(
            numbers=self._read("numbers", start, stop).astype(np.int64),
            positions=self._read("positions", start, stop),
            **({} if cell is None else {"cell": cell[0]}),
            pbc=small["pbc"][index].copy(),
            charge=int(small["charge"][index]),
            multiplicity=int(small["multiplicity"][index]),
            energy=self._scalar("energy", small["energy"], index),
            kind=str(self.kinds[index]),
            reaction=str(self.reactions[index]),
            irc_s=self._scalar("irc_s", self.irc_s, index),
            temperature=self._scalar("temperature", self.temperatures, index),
            frame_id=index,
        )
        values: dict[str, Any] = {}
        for name, label in arrays().items():
            rows = None if name == "energy" else self._rows(label.column, index)
            if rows is None:
                continue
            if label.per == "pair":
                values[name] = unpack_matrix(rows, label.shape_for(n)[0])
            elif label.per == "system":
                values[name] = rows[0] if label.shape else float(rows[0])
            else:
                values[name] = rows.reshape(-1, n, *label.shape) if label.per == "probe" else rows
        return checked(frame.with_labels(values), f"{self.name}: frame {index}")

    def _blocks(self, column: str) -> Iterator[Any]:
        total = len(self._arrays[column])
        return (self._read(column, start, min(start + _ROWS, total)) for start in range(0, total, _ROWS))

    @cached_property
    def _hash(self) -> str:  # type: ignore[override]
        return self._stored_hash or self._computed_hash()

    def verify(self) -> None:
        """Read everything and compare it with the hash that was stored when the file was written.

        Raises:
            PHLError: When they differ, or no hash is stored.
        """
        found = self._computed_hash()
        if found != self._stored_hash:
            stored = self._stored_hash[:16] or "no hash"
            raise PHLError(f"{self.name}: content {found[:16]}, recorded {stored}; the file was changed or is damaged")

    def _computed_hash(self) -> str:
        digest = ContentHash()
        for ragged, values in self._offsets.items():
            digest.update(offsets_name(ragged), values)
        for name, array in self._arrays.items():
            if name in columns():
                block = max(1, 2**22 // max(1, array.dtype.itemsize * int(np.prod(array.shape[1:]))))
                for start in range(0, len(array), block):
                    digest.update(name, self._read(name, start, start + block))
        return digest.hexdigest(self.meta)


def _read_meta(file: h5py.File, path: Path) -> DatasetMeta:
    texts = {name: text_attribute(file, name, path) for name in ("level_of_theory", "energy_reference", "notes")}
    parsed: dict[str, Any] = {}
    for name in ("units", "provenance"):
        try:
            parsed[name] = json.loads(text_attribute(file, name, path) or "{}")
        except (ValueError, RecursionError) as error:
            raise PHLError(f"{path}: the attribute {name!r} is not JSON; the file is damaged") from error
        if not isinstance(parsed[name], dict):
            raise PHLError(f"{path}: the attribute {name!r} is no JSON object; the file is damaged")
    for name, unit in stored_units().items():
        # of labels that another package declares, older files and those without them say nothing
        if (got := parsed["units"].get(name)) != unit and (name in file or is_own(name)):
            raise PHLError(f"{path}: {name} is in {got!r}, expected {unit!r}; convert the data set")
    return DatasetMeta(**texts, provenance=parsed["provenance"])
