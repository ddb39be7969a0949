"""Writing a data set in one pass, frame by frame, with as much memory as one block needs, however many frames.

Where a frame stands in the file is known when all are counted. So columns are first appended to plain files in a folder
beside the target, then copied into the HDF5 file in blocks.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from phl_ase.datasets.schema import (
    DatasetMeta,
    check_suffix,
    columns,
    counts,
    offsets_name,
    ragged_groups,
    rows,
    storable,
)
from phl_ase.datasets.writer import write_columns
from phl_ase.errors import PHLError
from phl_ase.files import replacing
from phl_ase.structures.frame import Frame
from phl_ase.types import Array

_BLOCK = 2**22
_BUFFER = 2**16
_TEXT = 2**14  # bytes of text, each of which may be a frame of its own


class Spool:
    """A data set that is being written: frames go in one by one, :meth:`finish` makes the file; see :func:`spooled`.

    Attributes:
        frames: How many frames were appended.
        covered: Group of ragged columns -> how many frames fill it.
    """

    def __init__(self, folder: Path, path: Path) -> None:
        self.frames = 0
        self.covered = dict.fromkeys(ragged_groups(), 0)
        self._folder = folder
        self._file = path
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
        filled = rows(frame)
        for column, values in filled.items():
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
        """Copy everything into the file, which appears at its place when the block of :func:`spooled` ends.

        Returns:
            The content hash.

        Raises:
            PHLError: When there are no frames, or the attributes cannot be written.
        """
        if not self.frames:
            raise PHLError("there are no frames to write; a data set holds at least one")
        for file in self._files.values():
            file.flush()
        files = {ragged: self._path(offsets_name(ragged)) for ragged in ragged_groups()}
        offsets = {ragged: np.memmap(file, dtype="<i8", mode="r") for ragged, file in files.items()}
        return write_columns(
            self._file, self._blocks(), meta, offsets=offsets, widths=self._widths, compression=compression
        )

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # a full disk was told already
                file.close()

    def _path(self, name: str) -> Path:
        return self._folder / name

    def _put(self, name: str, data: bytes) -> None:
        if name not in self._files:
            self._files[name] = self._path(name).open("w+b", buffering=_BUFFER)
        self._files[name].write(data)

    def _blocks(self) -> Iterator[dict[str, Array]]:
        for name, column in columns().items():
            if name in self._files:
                with self._path(name).open("rb") as file:
                    read = self._texts(file, name) if column.dtype == "S" else _numbers(file, name)
                    for values in read:
                        yield {name: values}

    def _texts(self, file: BinaryIO, name: str) -> Iterator[Array]:
        rest = b""
        while data := file.read(_TEXT):
            *texts, rest = (rest + data).split(b"\0")
            if texts:
                yield np.array(texts, dtype=f"S{self._widths[name]}")


def _numbers(file: BinaryIO, name: str) -> Iterator[Array]:
    column = columns()[name]
    width = np.dtype(column.dtype).itemsize * int(np.prod(column.shape))
    while data := file.read(max(1, _BLOCK // width) * width):
        yield np.frombuffer(data, dtype=column.dtype).reshape(-1, *column.shape)


@contextlib.contextmanager
def spooled(path: Path) -> Iterator[Spool]:
    """Write a data set frame by frame; the file appears when the block ends well, and nothing is left when it does not.

    It takes the disk space of the file twice while it is written.

    Raises:
        PHLError: For a name of another suffix, or when the folder is missing or not writable, or the disk is full.
    """
    check_suffix(path)
    with replacing(path) as temporary:
        folder = temporary.with_suffix(".spool")
        folder.mkdir()
        spool = Spool(folder, temporary)
        try:
            yield spool
        finally:
            spool.close()
            shutil.rmtree(folder, ignore_errors=True)
