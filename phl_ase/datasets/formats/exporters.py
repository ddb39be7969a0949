"""Writing a data set in a foreign format, a frame at a time."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from phl_ase.datasets.base import BaseDataset
from phl_ase.datasets.formats import deepmd
from phl_ase.datasets.labelled import labelled_atoms
from phl_ase.datasets.readers import write_extxyz
from phl_ase.errors import PHLError
from phl_ase.files import replacing


@dataclass(frozen=True)
class Exporter:
    """A format that data sets are written in.

    Attributes:
        describes: One line for the help.
        suffixes: Suffixes of its files, by which it is chosen; ``""`` for a folder.
        write: Writes a data set to a path.
        loses: What the format has no place for, beside level of theory and energy reference.
    """

    describes: str
    suffixes: tuple[str, ...]
    write: Callable[[BaseDataset, Path], None]
    loses: tuple[str, ...] = ()


def _extxyz(dataset: BaseDataset, path: Path) -> None:
    write_extxyz(path, dataset)


def write_database(dataset: BaseDataset, path: Path) -> None:
    """Write an ASE data base (SQLite), labels in the ``data`` of its rows, without rounding.

    Raises:
        PHLError: When the file cannot be written.
    """
    from ase.db import connect

    with replacing(path) as temporary, connect(str(temporary.resolve()), type="db", use_lock_file=False) as database:
        for frame in dataset:
            atoms = labelled_atoms(frame)
            own = {name: values for name, values in atoms.arrays.items() if name not in ("numbers", "positions")}
            database.write(atoms, data={**atoms.info, **own})


def write_deepmd(dataset: BaseDataset, path: Path) -> None:
    """Write a folder of DeePMD systems.

    Raises:
        PHLError: When something stands there already, or the folder cannot be written.
    """
    with _new_folder(path) as folder:
        deepmd.write(dataset, folder)


@contextlib.contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` that takes its place when the block ends well and vanishes when it does not."""
    if path.exists():
        raise PHLError(f"cannot write {path}: it exists; name a folder that does not, or remove it first")
    temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir()
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise PHLError(f"cannot write {path}: {error.strerror or error} (nothing was written)") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


EXPORTERS: Mapping[str, Exporter] = {
    "extxyz": Exporter("extended XYZ: keys of phl and MACE, eight decimals", (".xyz", ".extxyz"), _extxyz),
    "ase-db": Exporter("ASE data base, labels in 'data'", (".db",), write_database),
    "deepmd": Exporter(
        "folder of DeePMD systems with hessian.npy",
        ("",),
        write_deepmd,
        ("hvp", "charge", "multiplicity", "kind", "reaction", "irc_s", "temperature"),
    ),
}
"""Name -> exporter."""
