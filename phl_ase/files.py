"""Files written in one step, beside the target first and moved over it when complete; folders held by one process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from phl_ase.errors import DiskError, PHLError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file is larger than this system allows; choose another disk",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.ENAMETOOLONG: "the name is longer than this file system takes; choose a shorter one",
    errno.EIO: "the disk failed to write; choose another one",
    errno.EROFS: "the file system is read-only; choose another folder",
}

_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def is_there(path: Path) -> bool:
    """Return whether a path exists; a text that no file system takes as a name does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path`` that replaces it when the block ends well and vanishes when it does not.

    What fails in the block for another reason than writing (an input that cannot be read) is raised as it is.

    Raises:
        PHLError: When the folder is missing or not writable, or the disk is full.
    """
    check_parent(path)
    if path.is_dir():
        raise PHLError(f"cannot write {path}: it is a folder; name a file")
    temporary = _beside(path)
    with _writing(path, temporary):
        try:
            yield temporary
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that takes its place when the block ends well, else vanishes.

    Raises:
        PHLError: When something stands there already, or the folder cannot be written.
    """
    check_parent(path)
    if is_there(path):
        raise PHLError(f"cannot write {path}: it exists; name a folder that does not, or remove it first")
    temporary = _beside(path)
    with _writing(path, temporary):
        try:
            temporary.mkdir()
            yield temporary
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_parent(path: Path) -> None:
    """Check that there is a folder to write a file into.

    Raises:
        PHLError: Otherwise.
    """
    if not path.parent.is_dir():
        raise PHLError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")


def _beside(path: Path) -> Path:
    return path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"


@contextlib.contextmanager
def _writing(path: Path, temporary: Path) -> Iterator[None]:
    """Tell a failure of writing as one line about ``path``; every other error passes."""
    try:
        yield
    except OSError as error:
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        stem = str(path.parent / temporary.stem)  # of the temporary file, and of what is named after it
        is_ours = any(n == str(path) or n.startswith(stem) for n in names) if names else error.errno in _REASONS
        if not is_ours:
            raise
        reason = _REASONS.get(error.errno or 0) or error.strerror or str(error).splitlines()[0]
        raise DiskError(f"cannot write {path}: {reason} (nothing was written; an older file is kept)") from error


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file by atomic replace: a full disk or a kill leaves the older one.

    Raises:
        PHLError: When the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def locked_folder(folder: Path, lock: str, what: str) -> Iterator[None]:
    """Make or open a folder and let nobody else work in it while the block runs.

    Args:
        folder: The folder.
        lock: Name of its lock file.
        what: What the user is to choose another of.

    Raises:
        PHLError: When it cannot be written, or another run works in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / lock, "w")  # noqa: SIM115 - held while the block runs
    except OSError as error:
        raise PHLError(f"cannot write into {folder}: {error.strerror}; choose another {what}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _BUSY:
                raise PHLError(
                    f"{folder} cannot be locked ({error.strerror}): two runs could write into it; choose a {what} on "
                    "another file system"
                ) from None
            raise PHLError(f"{folder} is in use by another run; wait for it or choose another folder") from None
        yield
