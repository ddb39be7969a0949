"""Rows of a ``.npy`` file, read one at a time: no pickles, nothing allocated that the file cannot fill."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.types import Array

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Rows:
    """An array on disk, one row a frame.

    Args:
        path: The file.

    Attributes:
        shape: Shape of the array.

    Raises:
        PHLError: When it is no ``.npy``, holds Python objects, is in Fortran order, or is not as long as it says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as handle:
            try:
                version = np.lib.format.read_magic(handle)
                shape, fortran, self._dtype = _HEADERS[version](handle)
            except (ValueError, KeyError, EOFError, TypeError, SyntaxError) as error:
                raise PHLError(f"{path}: is not a .npy file of version 1 or 2; copy it again") from error
            self._start = handle.tell()
        if self._dtype.hasobject:
            raise PHLError(f"{path}: holds Python objects, which would be unpickled; refused: save plain numbers")
        if self._dtype.kind not in "fiu" or not shape or fortran:
            order = ", Fortran order" if fortran else ""
            raise PHLError(f"{path}: shape {shape}, type {self._dtype}{order}; expected rows of numbers, in C order")
        self.shape = tuple(shape)
        self._width = int(np.prod(shape[1:], dtype=object)) * self._dtype.itemsize
        declared, stored = shape[0] * self._width, path.stat().st_size - self._start
        if declared != stored:
            raise PHLError(
                f"{path}: declares shape {shape} ({declared:,} bytes) but holds {stored:,}; it is truncated or "
                "damaged, copy it again"
            )
        self._handle = path.open("rb")

    def __len__(self) -> int:
        return self.shape[0]

    def row(self, index: int) -> Array:
        """Return one row, as float64."""
        self._handle.seek(self._start + index * self._width)
        return np.frombuffer(self._handle.read(self._width), dtype=self._dtype).reshape(self.shape[1:]).astype(float)

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


@contextlib.contextmanager
def opened(paths: dict[str, Path]) -> Iterator[dict[str, Rows]]:
    """Open those files that exist, by name; they are closed at the end.

    Raises:
        PHLError: When one of them cannot be read.
    """
    with contextlib.ExitStack() as stack:
        arrays = {}
        for name, path in paths.items():
            if path.is_file():
                arrays[name] = stack.enter_context(contextlib.closing(Rows(path)))
        yield arrays
