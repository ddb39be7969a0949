"""Opening an LMDB file that somebody else made: read only, without a lock file, and only when it is complete.

LMDB maps the file into memory; reading a page beyond the end of a truncated file would kill the process. So the two
meta pages are read first (their layout: ``struct MDB_meta`` of LMDB 0.9's ``mdb.c``).
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phl_ase.errors import PHLError, missing_package

_MAGIC = 0xBEEFC0DE
_HEADER = 16
_META = struct.Struct("<IIQQ48s48sQQ")  # magic, version, address, map size, two data bases, last page, transaction
_PAGES = (512, 65536)


def data_file(path: Path) -> Path:
    """Return the file that holds the data: LMDB makes a folder with ``data.mdb`` unless told otherwise."""
    return path / "data.mdb" if path.is_dir() else path


def is_lmdb(path: Path) -> bool:
    """Return whether a path is an LMDB, by its first bytes."""
    file = data_file(path)
    if not file.is_file():
        return False
    with file.open("rb") as handle:
        return handle.read(_HEADER + 4)[_HEADER:] == struct.pack("<I", _MAGIC)


def _check_complete(file: Path) -> None:
    """Check that no page is missing: LMDB would read it beyond the end of the mapped file."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        head = handle.read(_HEADER + _META.size)
        if len(head) < _HEADER + _META.size:
            raise PHLError(f"{file}: {len(head)} bytes are no LMDB; copy or download it again")
        first = _META.unpack_from(head, _HEADER)
        page = struct.unpack_from("<I", first[4])[0]
        if first[0] != _MAGIC or first[1] != 1 or not _PAGES[0] <= page <= _PAGES[1]:
            raise PHLError(f"{file}: is not an LMDB of version 1 (little-endian, 64-bit)")
        handle.seek(page + _HEADER)
        tail = handle.read(_META.size)
    second = _META.unpack(tail) if len(tail) == _META.size else first
    pages = (second if second[7] > first[7] else first)[6] + 1
    if pages * page > size:
        raise PHLError(f"{file}: is truncated: {size:,} bytes of {pages * page:,}; copy or download it again")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a read transaction of an LMDB file or folder.

    Raises:
        PHLError: When the package ``lmdb`` is missing, or the file is no LMDB, truncated or damaged.
    """
    try:
        import lmdb
    except ImportError as error:
        raise missing_package("lmdb", "lmdb", "reading LMDB files") from error
    _check_complete(data_file(path))
    try:
        environment = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, max_dbs=0)
    except lmdb.Error as error:
        raise PHLError(f"{path}: cannot be opened as LMDB ({error}); copy or download it again") from error
    try:
        with environment.begin(buffers=False) as transaction:
            yield transaction
    except lmdb.Error as error:
        raise PHLError(f"{path}: cannot be read ({error}); the LMDB is damaged") from error
    finally:
        environment.close()
