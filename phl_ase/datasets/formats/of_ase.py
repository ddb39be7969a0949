"""Files of ASE: extended XYZ (our keys and MACE's), data bases, trajectories, and whatever else ``ase.io`` reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ase import Atoms

from phl_ase.datasets.file_checks import first_line
from phl_ase.datasets.formats.entry import Entry, Found, Options
from phl_ase.datasets.labelled import frame_as_found, seen_keys
from phl_ase.datasets.xyz import is_xyz, parsed_xyz, xyz_texts
from phl_ase.errors import PHLError
from phl_ase.structures.frame import Frame

_PAGE = 500


def _entry(name: str, atoms_of: Callable[[], Atoms], options: Options) -> Entry:
    def build() -> tuple[Frame, Found]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # ASE warns about what the checks of labels report
                atoms = atoms_of()
        except PHLError as error:
            raise PHLError(f"{name}: {error}") from None
        except Exception as error:  # readers of ASE raise anything at all on a broken frame
            raise PHLError(f"{name}: cannot be read by ASE ({first_line(error)})") from error
        options.seen.update(seen_keys(atoms))
        return frame_as_found(atoms, name, keys=options.keys)

    return Entry(name, build)


def read_extxyz(path: Path, options: Options) -> Iterator[Entry]:
    """Read the frames of an extended XYZ file, one at a time.

    Raises:
        PHLError: When the file is no XYZ text, or ends within a frame.
    """
    for index, text in enumerate(xyz_texts(path)):
        yield _entry(f"{path.name}: frame {index}", partial(parsed_xyz, text), options)


def read_database(path: Path, options: Options) -> Iterator[Entry]:
    """Read the rows of an ASE data base, page by page: ``select`` alone fetches all of them at once.

    Raises:
        PHLError: When it is no data base of ASE's, or damaged.
    """
    from ase.db import connect

    last = 0
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows = list(connect(str(path.resolve())).select(f"id>{last}", sort="id", limit=_PAGE))
        except Exception as error:  # SQLite's, JSON's, ASE's own: on a damaged file anything at all
            reason = first_line(error)
            remedy = "wait until the other program is done" if "locked" in reason else "copy it again"
            raise PHLError(f"{path}: cannot be read as a data base of ASE ({reason}); {remedy}") from error
        for row in rows:
            yield _entry(f"{path.name}: row {row.id}", partial(row.toatoms, add_additional_information=True), options)
        if len(rows) < _PAGE:
            return
        last = rows[-1].id


def read_any(path: Path, options: Options) -> Iterator[Entry]:
    """Read the images of a trajectory, or of any other file that ``ase.io`` reads.

    Raises:
        PHLError: When ASE cannot read it.
    """
    import ase.io

    # absolute, since ASE takes some relative names for data-base servers
    images = ase.io.iread(str(path.resolve()), index=":", do_not_split_by_at_sign=True)
    for index in range(2**62):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                atoms = next(images, None)
        except Exception as error:  # readers of ASE raise anything at all on a broken file
            raise PHLError(f"{path}: cannot be read by ASE at image {index} ({first_line(error)})") from error
        if atoms is None:
            return
        yield _entry(f"{path.name}: image {index}", partial(lambda image: image, atoms), options)


def recognises_xyz(path: Path) -> bool:
    """Return whether a path is an XYZ file by its name, compressed or not."""
    return path.is_file() and is_xyz(path)


def suffix_in(*suffixes: str) -> Callable[[Path], bool]:
    """Return a function that recognises files by their suffix."""

    def recognises(path: Path) -> bool:
        return path.is_file() and path.suffix.lower() in suffixes

    return recognises
