"""Results of tasks in a folder: one file for each, its name the task's key, written by atomic replace.

``KEY.npz`` holds a value as JSON and NumPy arrays, never a pickle; ``KEY.json`` a failure, for a reader. A run that is
killed leaves whole files alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.files import locked_folder, write_atomic

SCHEMA = 1
"""Of the files; a change of it, and no version of the package, ends what older folders are good for."""

_MARKER, _LOCK = "jobs.json", ".lock"
_ARRAY = "__array__"


def digest(*parts: Any) -> str:
    """Return a sha256 of plain values, which JSON holds."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Failure:
    """The reason why a task has no result.

    Attributes:
        outcome: One word, as ``died``.
        reason: One line.
        traceback: Where it failed, as Python prints it; empty where nothing was raised.
    """

    outcome: str
    reason: str
    traceback: str = ""


@dataclass(frozen=True)
class Record:
    """The result of a task, or its failure.

    Attributes:
        value: Its result, of plain data and NumPy arrays; ``None`` where it failed.
        failure: Why it failed; ``None`` where it did not.
        seconds: Wall time of the computation.
        cpu_seconds: Its time on the processor.
    """

    value: Any = None
    failure: Failure | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class Store:
    """The records of a folder; reading needs no lock.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._adopted: dict[str, Record] = {}

    def is_done(self, key: str) -> bool:
        """Return whether there is a value."""
        return self._path(key, ".npz").exists() or (key in self._adopted and self._adopted[key].failure is None)

    def has_failed(self, key: str) -> bool:
        """Return whether there is a failure and no value."""
        return not self.is_done(key) and (key in self._adopted or self._path(key, ".json").exists())

    def get(self, key: str) -> Record | None:
        """Return what became of a task; ``None`` where nothing is known.

        Raises:
            PHLError: For a damaged file.
        """
        path = self._path(key, ".npz")
        if path.exists():
            with _reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                content = json.loads(str(archive["record"]))
                return Record(**{**content, "value": _with_arrays(content["value"], archive)})
        path = self._path(key, ".json")
        if key in self._adopted or not path.exists():
            return self._adopted.get(key)
        with _reading(path):
            content = json.loads(path.read_text(encoding="utf-8"))
            return Record(**{**content, "failure": Failure(**content["failure"])})

    def keep(self, key: str, record: Record) -> None:
        """Write what became of a task.

        Raises:
            PHLError: When it cannot be written.
        """
        facts: dict[str, Any] = {"seconds": round(record.seconds, 4), "cpu_seconds": round(record.cpu_seconds, 4)}
        path = self._path(key, ".npz" if record.failure is None else ".json")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PHLError(f"cannot write into {self.folder}: {error.strerror}; finished work is kept") from None
        if record.failure is not None:
            facts["failure"] = dataclasses.asdict(record.failure)
            write_atomic(path, json.dumps(facts, indent=1, ensure_ascii=False).encode())
            return
        arrays: dict[str, np.ndarray] = {}
        text = json.dumps({**facts, "value": _without_arrays(record.value, arrays)}, ensure_ascii=False)
        buffer = io.BytesIO()
        np.savez(buffer, record=np.array(text), **arrays)  # type: ignore[arg-type]
        write_atomic(path, buffer.getvalue())
        self.forget([key], failures_only=True)

    def adopt(self, key: str, record: Record) -> None:
        """Take a result of another format for that of a task which has none here; nothing is written."""
        self._adopted.setdefault(key, record)

    def forget(self, keys: Iterable[str], *, failures_only: bool = False) -> None:
        """Delete what became of tasks, so that they are done again."""
        for key in keys:
            for suffix in (".json",) if failures_only else (".json", ".npz"):
                self._path(key, suffix).unlink(missing_ok=True)

    def remove(self, keys: Iterable[str]) -> None:
        """Delete the records of tasks whose results are elsewhere now, and the folder where nothing else is in it."""
        self.forget(keys)
        for folder in sorted(self.folder.glob("??")):
            if not any(folder.iterdir()):
                folder.rmdir()
        if {path.name for path in self.folder.iterdir()} <= {_MARKER, _LOCK}:
            for name in (_MARKER, _LOCK):
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rmdir()

    def _path(self, key: str, suffix: str) -> Path:
        return self.folder / key[:2] / f"{key}{suffix}"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # not damaged: no permission, too many open files, a share that is gone
        raise PHLError(f"{path} cannot be read: {error.strerror or error}; finished work is kept") from None
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise PHLError(f"{path} is damaged ({reason}); delete it and run again: it is computed anew") from None


def _without_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return a value as JSON holds it, its arrays put aside."""
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = value
        return {_ARRAY: name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(name): _without_arrays(one, arrays) for name, one in value.items()}
    return [_without_arrays(one, arrays) for one in value] if isinstance(value, (list, tuple)) else value


def _with_arrays(value: Any, archive: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            return archive[value[_ARRAY]]
        return {name: _with_arrays(one, archive) for name, one in value.items()}
    return [_with_arrays(one, archive) for one in value] if isinstance(value, list) else value


@contextmanager
def open_store(folder: str | Path, *, beside: Iterable[str] = ()) -> Iterator[Store]:
    """Make or open a folder of results and lock it until the block ends.

    Args:
        folder: The folder.
        beside: Patterns of what else a new folder may hold.

    Raises:
        PHLError: When it cannot be written, another run works in it, or it holds something else.
    """
    folder = Path(folder)
    with locked_folder(folder, _LOCK, "work folder"):
        marker = folder / _MARKER
        if marker.exists():
            with _reading(marker):
                schema = json.loads(marker.read_text(encoding="utf-8"))["schema"]
            if schema != SCHEMA:
                raise PHLError(
                    f"{folder} holds unfinished work of schema {schema}, this version reads {SCHEMA}: finish it with "
                    "the version that began it, or choose another folder"
                )
        else:
            strange = sorted(p.name for p in folder.iterdir() if p.name != _LOCK and not any(map(p.match, beside)))
            if strange:
                (folder / _LOCK).unlink(missing_ok=True)  # made just now
                if "campaign.json" in strange or any((folder / name / "reaction.json").exists() for name in strange):
                    raise PHLError(
                        f"{folder} holds unfinished work of an older version of phl_ase, which this one cannot go on "
                        "with: choose another work folder, or delete this one"
                    )
                raise PHLError(f"{folder} holds other files ({strange[0]}, …); choose an empty or new work folder")
            write_atomic(marker, json.dumps({"format": "phl jobs", "schema": SCHEMA}).encode())
        yield Store(folder)
