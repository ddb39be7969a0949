"""Writing a data set frame by frame, in little memory, and moving it over the target in one step.

Where a frame stands in the file is known when all are counted. So columns are first appended to plain files in a folder
beside the target, then copied into the HDF5 file in blocks.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from phl_ase.datasets.base import BaseDataset
from phl_ase.datasets.hdf5_file import DeferredErrorFile
from phl_ase.datasets.schema import (
    FORMAT,
    SCHEMA,
    Column,
    ContentHash,
    DatasetMeta,
    check_suffix,
    columns,
    counts,
    offsets_name,
    ragged_groups,
    rows,
    storable,
    stored_units,
)
from phl_ase.errors import PHLError
from phl_ase.files import replacing
from phl_ase.structures.frame import Frame
from phl_ase.types import Array

_BLOCK = 2**22
_BUFFER = 2**16
_TEXT = 2**14  # bytes of text, each of which may be a frame of its own
_ATTRIBUTE = 60_000  # HDF5 keeps attributes of up to 64 KiB
_CHUNK = 2**15
"""Bytes of a compressed chunk: small, since reading one frame inflates a whole chunk."""


def write_dataset(
    path: str | PathLike[str],
    frames: BaseDataset | Iterable[Frame],
    meta: DatasetMeta | None = None,
    *,
    compression: bool = False,
) -> str:
    """Write frames to an HDF5 data set by atomic replace; a file that stands there is replaced.

    Args:
        path: Where to, .h5 or .hdf5; its folder must exist.
        frames: What to write, in this order; the index becomes the ``frame_id``. They are streamed, not loaded.
        meta: Level of theory and the like; that of ``frames`` when they are a data set and nothing is given.
        compression: Deflate the arrays: smaller, and slower to read at random.

    Returns:
        The content hash.

    Raises:
        PHLError: When there is nothing to write, a frame is broken, or the file cannot be written (folder missing or
            not writable, disk full); a file that stood at ``path`` is then untouched.
    """
    if meta is None:
        meta = frames.meta if isinstance(frames, BaseDataset) else DatasetMeta()
    attributes(meta)  # errors in them come before the frames are read
    with dataset_writer(Path(path)) as writer:
        for index, frame in enumerate(frames):
            writer.append(frame, f"frame {index}")
        return writer.finish(meta, compression=compression)


@contextlib.contextmanager
def dataset_writer(path: Path) -> Iterator[DatasetWriter]:
    """Write a data set frame by frame; the file appears when the block ends well, and nothing is left when it does not.

    It takes the disk space of the file twice while it is written.

    Raises:
        PHLError: For a name of another suffix, or when the folder is missing or not writable, or the disk is full.
    """
    check_suffix(path)
    with replacing(path) as temporary:
        folder = temporary.with_suffix(".columns")
        folder.mkdir()
        writer = DatasetWriter(path, temporary, folder)
        try:
            yield writer
        finally:
            writer.close()
            shutil.rmtree(folder, ignore_errors=True)


class DatasetWriter:
    """A data set that is being written: append frames one by one, then finish; made by :func:`dataset_writer`.

    Attributes:
        frames: How many frames were appended.
        covered: Group of ragged columns -> how many frames fill it.
    """

    def __init__(self, path: Path, temporary: Path, folder: Path) -> None:
        self.frames = 0
        self.covered = dict.fromkeys(ragged_groups(), 0)
        self._path, self._temporary, self._folder = path, temporary, folder
        self._files: dict[str, BinaryIO] = {}
        self._ends = dict.fromkeys(ragged_groups(), 0)
        self._widths = {name: 1 for name, column in columns().items() if column.dtype == "S"}
        for ragged in ragged_groups():
            self._put(offsets_name(ragged), np.zeros(1, dtype="<i8").tobytes())

    def append(self, frame: Frame, name: str) -> None:
        """Add a frame; one that is refused leaves no trace.

        Args:
            frame: The frame.
            name: How an error names it.

        Raises:
            PHLError: When the frame is broken.
        """
        frame = storable(frame, name)
        for column, values in rows(frame).items():
            if column in self._widths:
                text = values[0]
                self._widths[column] = max(self._widths[column], len(text))
                self._put(column, text + b"\0")
            else:
                self._put(column, values.tobytes())
        for ragged, number in counts(frame).items():
            self._ends[ragged] += number
            self.covered[ragged] += number > 0
            self._put(offsets_name(ragged), np.array(self._ends[ragged], dtype="<i8").tobytes())
        self.frames += 1

    def finish(self, meta: DatasetMeta, *, compression: bool = False) -> str:
        """Copy everything into the file, which appears at its place when the block of :func:`dataset_writer` ends.

        Args:
            meta: Level of theory and the like.
            compression: Deflate the arrays.

        Returns:
            The content hash.

        Raises:
            PHLError: When there are no frames, or the attributes cannot be written.
            OSError: When the disk is full.
        """
        if not self.frames:
            raise PHLError(f"cannot write {self._path}: there are no frames; a data set holds at least one")
        for file in self._files.values():
            file.flush()
        digest = ContentHash()
        target = DeferredErrorFile(self._temporary)

        def create(name: str, length: int, shape: tuple[int, ...], dtype: np.dtype) -> h5py.Dataset:
            row = max(1, min(length, _CHUNK // (dtype.itemsize * int(np.prod(shape)))))
            deflate = {"chunks": (row, *shape), "compression": "gzip", "shuffle": True} if compression else {}
            return output.create_dataset(name, (length, *shape), dtype, **deflate)

        try:
            with h5py.File(target, "w") as output:
                for name, value in attributes(meta).items():
                    _set_attribute(output, name, value)
                for ragged, end in self._ends.items():
                    name = offsets_name(ragged)
                    offsets = np.memmap(self._folder / name, dtype="<i8", mode="r")
                    digest.update(name, offsets)
                    if end:
                        create(name, len(offsets), (), offsets.dtype)[...] = offsets
                for name, column in columns().items():
                    if not (length := self._ends[column.ragged] if column.ragged else self.frames):
                        continue
                    text = column.dtype == "S"
                    dtype = h5py.string_dtype("utf-8", self._widths[name]) if text else np.dtype(column.dtype)
                    array, start = create(name, length, column.shape, dtype), 0
                    for values in self._values(name, column):
                        # HDF5 converts no ASCII text, NumPy's own, to UTF-8
                        array[start : start + len(values)] = values.astype(dtype) if text else values
                        start += len(values)
                        digest.update(name, values)
                        target.check()
                _set_attribute(output, "content_hash", digest.hexdigest(meta))
            target.check()
        finally:
            target.close()
        return digest.hexdigest(meta)

    def close(self) -> None:
        """Close the files of the columns."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # a full disk was reported already
                file.close()

    def _put(self, name: str, data: bytes) -> None:
        if name not in self._files:
            self._files[name] = (self._folder / name).open("w+b", buffering=_BUFFER)
        self._files[name].write(data)

    def _values(self, name: str, column: Column) -> Iterator[Array]:
        """Yield the values of a column, block by block."""
        width = max(1, np.dtype(column.dtype).itemsize) * int(np.prod(column.shape))  # 0 bytes for text
        size, rest = (_TEXT if column.dtype == "S" else max(1, _BLOCK // width) * width), b""
        with (self._folder / name).open("rb") as file:
            while data := file.read(size):
                if column.dtype != "S":
                    yield np.frombuffer(data, dtype=column.dtype).reshape(-1, *column.shape)
                    continue
                *texts, rest = (rest + data).split(b"\0")
                if texts:
                    yield np.array(texts, dtype=f"S{self._widths[name]}")


def attributes(meta: DatasetMeta) -> dict[str, Any]:
    """Return what stands in the attributes of a file.

    Raises:
        PHLError: When the provenance is not what JSON holds, or a text is longer than HDF5 keeps.
    """
    try:
        provenance = json.dumps(dict(meta.provenance), sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise PHLError(f"the provenance of a data set must be what JSON holds: {error}") from error
    for name, text in (("provenance", provenance), ("notes", meta.notes), ("level_of_theory", meta.level_of_theory)):
        if len(text.encode()) > _ATTRIBUTE:
            raise PHLError(
                f"the {name} of a data set are {len(text.encode()):,} bytes; expected at most {_ATTRIBUTE:,}"
            )
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "level_of_theory": meta.level_of_theory,
        "energy_reference": meta.energy_reference,
        "units": json.dumps(stored_units(), ensure_ascii=False),
        "provenance": provenance,
        "notes": meta.notes,
    }


def _set_attribute(file: h5py.File, name: str, value: Any) -> None:
    if isinstance(value, str):
        data = value.encode()
        file.attrs.create(name, data, dtype=h5py.string_dtype("utf-8", max(1, len(data))))
    else:
        file.attrs[name] = value
