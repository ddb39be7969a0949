"""Writing a data set in a foreign format, a frame at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from phl_ase.datasets.base import BaseDataset
from phl_ase.datasets.formats import deepmd
from phl_ase.datasets.labelled import labelled_atoms
from phl_ase.datasets.readers import write_extxyz
from phl_ase.errors import PHLError
from phl_ase.files import new_folder, replacing


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


def write_database(dataset: BaseDataset, path: Path) -> None:
    """Write an ASE data base (SQLite), labels in the ``data`` of its rows, without rounding.

    Raises:
        PHLError: When the file cannot be written.
    """
    from ase.db import connect

    with replacing(path) as temporary:
        try:
            with connect(str(temporary.resolve()), type="db", use_lock_file=False) as database:
                for frame in dataset:
                    atoms = labelled_atoms(frame)
                    own = {name: value for name, value in atoms.arrays.items() if name not in ("numbers", "positions")}
                    database.write(atoms, data={**atoms.info, **own})
        except sqlite3.Error as error:  # of a full disk, SQLite raises no OSError
            raise PHLError(
                f"cannot write {path}: {error}; choose another disk or free some space (nothing was written)"
            ) from error
        finally:
            for suffix in ("-journal", "-wal", "-shm"):  # what SQLite keeps beside a file while it writes
                temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)


def write_deepmd(dataset: BaseDataset, path: Path) -> None:
    """Write a folder of DeePMD systems.

    Raises:
        PHLError: When something stands there already, or the folder cannot be written.
    """
    with new_folder(path) as folder:
        deepmd.write(dataset, folder)


EXPORTERS: Mapping[str, Exporter] = {
    "extxyz": Exporter(
        "extended XYZ: keys of phl and MACE, eight decimals",
        (".xyz", ".extxyz"),
        lambda dataset, path: write_extxyz(path, dataset),
    ),
    "ase-db": Exporter("ASE data base, labels in 'data'", (".db",), write_database),
    "deepmd": Exporter(
        "folder of DeePMD systems with hessian.npy",
        ("",),
        write_deepmd,
        ("hvp", "charge", "multiplicity", "kind", "reaction", "irc_s", "temperature"),
    ),
}
"""Name -> exporter."""
