"""File object for h5py whose failures are raised later: an exception must not pass through HDF5."""

from __future__ import annotations

import os
from pathlib import Path


class DeferredErrorFile:
    """A new file for h5py to write into; errors of writing are kept until :meth:`check`.

    A write that fails below HDF5 (a full disk) leaves the library in a state that crashes the process when the file is
    closed. So HDF5 sees success, and the writer calls :meth:`check`.

    Args:
        path: The file, which must not exist.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._position = 0
        self._failure: BaseException | None = None

    def check(self) -> None:
        """Raise what went wrong, if anything did."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def write(self, data) -> int:
        """Write at the current position; after a failure, nothing."""
        view = memoryview(data).cast("B")
        written = 0
        try:
            while self._failure is None and written < len(view):
                written += os.pwrite(self._descriptor, view[written:], self._position + written)
        except BaseException as error:  # Ctrl-C too: an exception must not pass through HDF5
            self._failure = error
        self._position += len(view)
        return len(view)

    def read(self, size: int) -> bytes:
        """Read at the current position; zeros beyond the end, which a failed write may have left out."""
        data = os.pread(self._descriptor, size, self._position)
        self._position += size
        return data + bytes(size - len(data))

    def readinto(self, buffer) -> int:
        """Read into a buffer."""
        view = memoryview(buffer).cast("B")
        view[:] = self.read(len(view))
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: os.fstat(self._descriptor).st_size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def truncate(self, size: int) -> int:
        """Set the length."""
        try:
            if self._failure is None:
                os.ftruncate(self._descriptor, size)
        except BaseException as error:
            self._failure = error
        return size

    def flush(self) -> None:
        """Do nothing: nothing is buffered here."""
