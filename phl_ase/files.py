"""Files written in one step, beside the target first and moved over it when complete; folders held by one process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from phl_ase.errors import PHLError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file is larger than this system allows; choose another disk",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.EROFS: "the file system is read-only; choose another folder",
}


def is_there(path: Path) -> bool:
    """Return whether a path exists; a text that no file system takes as a name does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that replaces it when the block ends well and vanishes when it does not.

    Raises:
        PHLError: When the folder is missing or not writable, or the disk is full.
    """
    if not path.parent.is_dir():
        raise PHLError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    if path.is_dir():
        raise PHLError(f"cannot write {path}: it is a folder; name a file")
    temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or error.strerror or str(error).splitlines()[0]
        raise PHLError(f"cannot write {path}: {reason} (nothing was written; an older file is kept)") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file by atomic replace: a full disk or a kill leaves the older one.

    Raises:
        PHLError: When the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def held(folder: Path, lock: str, what: str) -> Iterator[bool]:
    """Make or open a folder; whether it is this process's alone while the block runs.

    Args:
        folder: The folder.
        lock: Name of its lock file.
        what: What the user is to choose another of.

    Raises:
        PHLError: When it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / lock, "w")  # noqa: SIM115 - held while the block runs
    except OSError as error:
        raise PHLError(f"cannot write into {folder}: {error.strerror}; choose another {what}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            mine = False
        else:
            mine = True
        yield mine
