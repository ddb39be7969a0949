"""Reading data sets: bundled ones by name, our HDF5, and whatever ASE reads."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path

from ase import Atoms

from phl_ase.datasets.base import BaseDataset, MemoryDataset
from phl_ase.datasets.labelled import (
    check_keys,
    frame_as_found,
    keys_not_read,
    labelled_atoms,
    no_such_key,
    seen_keys,
)
from phl_ase.datasets.schema import DatasetMeta, plausible, symmetrised
from phl_ase.datasets.store import Dataset
from phl_ase.datasets.xyz import is_xyz, parsed_xyz, xyz_texts
from phl_ase.errors import PHLError, shortened, unknown
from phl_ase.files import is_there, replacing
from phl_ase.hessians import asymmetry
from phl_ase.structures.frame import Frame

_HDF5 = b"\x89HDF\r\n\x1a\n"
_FOLDER = Path(__file__).parent / "bundled"

BUNDLED = {
    "reactions-wb97xd-631gd": _FOLDER / "reactions_wb97xd_631gd.h5",
    "fragments-wb97xd-631gd": _FOLDER / "fragments_wb97xd_631gd.h5",
}
"""Name -> file of each data set that comes with the package; its card is the ``.md`` beside it."""


def open_dataset(source: str | PathLike[str], *, keys: Mapping[str, str] | None = None) -> BaseDataset:
    """Open a data set.

    Args:
        source: A bundled name (a key of :data:`BUNDLED`), an HDF5 file of ours, or any file that ASE reads.
        keys: For files that ASE reads: label -> key in ``info`` or ``arrays``, as ``{"energy": "dft_energy"}``; see
            :func:`phl_ase.datasets.labelled.default_keys` for the labels and where they are looked for otherwise.

    Returns:
        A :class:`Dataset` that reads from the file, or a :class:`MemoryDataset`; both offer the same.

    Raises:
        PHLError: For a missing, unreadable or empty file, or a broken frame.
    """
    check_keys(keys)
    path = find_dataset(source)
    if str(source) in BUNDLED:
        if keys:
            raise PHLError(f"{source} is a bundled data set, whose labels have fixed names; {_leave_out(keys)}")
        return Dataset(path, name=str(source))
    if path.is_dir():
        raise PHLError(
            f"{path} is a folder; expected a file: name the data set inside it (folders of DeePMD's and of LMDB are "
            "read by 'phl data import')"
        )
    reader = READERS.get(path.suffix.lower())
    return (reader or (_read_store if _is_hdf5(path) else _read_images))(path, keys)


def _is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 does, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(len(_HDF5)) == _HDF5
    except OSError:
        return False  # the reader says what is wrong


def find_dataset(source: str | PathLike[str]) -> Path:
    """Return the file of a data set or of structures, unread: that of a bundled name, or the path itself.

    Raises:
        PHLError: When there is none.
    """
    if str(source) in BUNDLED:
        return BUNDLED[str(source)]
    path = Path(source)
    if not is_there(path):
        names = ", ".join(sorted(BUNDLED))
        raise PHLError(f"no data set {shortened(str(source))}: no such file, and not a bundled name ({names})")
    return path


def _leave_out(keys: Mapping[str, str]) -> str:
    return f"leave out the key mapping ({', '.join(keys)})"


def _read_store(path: Path, keys: Mapping[str, str] | None) -> Dataset:
    if keys:
        raise PHLError(f"{path} is HDF5, whose labels have fixed names; {_leave_out(keys)}")
    return Dataset(path)


def _refuse_lmdb(path: Path, keys: Mapping[str, str] | None) -> MemoryDataset:
    from phl_ase.datasets.formats.lmdb_file import is_lmdb

    if is_lmdb(path):
        raise PHLError(f"{path} is an LMDB, which is read as a whole: phl data import {path.name} -o DATASET.h5")
    raise PHLError(f"{path} is no LMDB: its first bytes are not those of one; copy or download it again")


def _images_of_ase(path: Path) -> list[Atoms]:
    import ase.io

    # absolute, since ASE takes some relative names for data-base servers
    return list(ase.io.iread(str(path.resolve()), index=":", do_not_split_by_at_sign=True))


def _images_of_xyz(path: Path) -> list[Atoms]:
    images = []
    for index, text in enumerate(xyz_texts(path)):
        try:
            images.append(parsed_xyz(text))
        except PHLError as error:
            raise PHLError(f"{path}: frame {index}: {error}") from None
        except Exception as error:  # ASE's reader raises anything at all on a broken frame
            raise PHLError(f"{path}: frame {index} cannot be read by ASE ({_reason(error)})") from error
    return images


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _images_of_database(path: Path) -> list[Atoms]:
    from ase.db import connect

    # ase.io.read leaves key-value pairs and data behind
    return [row.toatoms(add_additional_information=True) for row in connect(str(path.resolve())).select()]


def read_images(source: str | PathLike[str], *, images_of: Callable[[Path], list[Atoms]] | None = None) -> list[Atoms]:
    """All structures of a file that ASE reads, with their masses and constraints, which a data set does not keep.

    Args:
        source: The file.
        images_of: What reads it; by default our reader for XYZ, and ASE's own choice for all else.

    Raises:
        PHLError: For a missing, unreadable or empty file.
    """
    path = Path(source)
    if not path.is_file():
        raise PHLError(f"no file {shortened(str(source))}; expected structures: .xyz, .extxyz, .traj, .cif, …")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ASE warns about what the checks of labels report
            images = (images_of or (_images_of_xyz if is_xyz(path) else _images_of_ase))(path)
    except PHLError:
        raise
    except Exception as error:  # readers of ASE raise anything at all on a broken file
        raise PHLError(
            f"{path} cannot be read by ASE ({_reason(error)}); expected .h5, .extxyz, .traj, .db, …"
        ) from error
    if not images:
        raise PHLError(f"{path}: holds no structures; expected at least one")
    return images


def _read_images(
    path: Path, keys: Mapping[str, str] | None, images_of: Callable[[Path], list[Atoms]] | None = None
) -> MemoryDataset:
    images = read_images(path, images_of=images_of)
    frames, found, uneven = [], Counter[tuple[str, str]](), 0.0
    for index, atoms in enumerate(images):
        name = f"{path}: frame {index}"
        frame, where = frame_as_found(atoms, name, keys=keys)
        frames.append(plausible(symmetrised(frame, name), name))
        uneven = max(uneven, 0.0 if frame.hessian is None else asymmetry(frame.hessian))
        found.update(where.items())
    seen = set().union(*map(seen_keys, images))
    for label, key in (keys or {}).items():
        if (label, key) not in found:
            raise PHLError(no_such_key(path, label, key, seen))
    notes = f"Hessians of the source were asymmetric by up to {uneven:.2g} eV/Å²; averaged." if uneven else ""
    places: dict[str, str] = {}
    for label, key in sorted(found):
        places[label] = f"{places[label]}, {key}" if label in places else key
    provenance = {"source": path.name, "keys": places, "keys_not_read": keys_not_read(seen, found)}
    return MemoryDataset(frames, DatasetMeta(provenance=provenance, notes=notes), name=str(path))


READERS: dict[str, Callable[[Path, Mapping[str, str] | None], BaseDataset]] = {
    ".h5": _read_store,
    ".hdf5": _read_store,
    ".db": partial(_read_images, images_of=_images_of_database),
    **dict.fromkeys((".lmdb", ".mdb"), _refuse_lmdb),
}
"""File suffix -> reader; every other suffix goes to ``ase.io.read``."""


def write_extxyz(path: str | PathLike[str], frames: Iterable[Frame]) -> None:
    """Write frames with their labels as extended XYZ, one by one, under the keys that :func:`open_dataset` looks for.

    Eight decimals, as ASE writes them: labels come back to 1e-8, not bit for bit.

    Raises:
        PHLError: When there is nothing to write or the file cannot be written.
    """
    import ase.io

    written = 0
    with replacing(Path(path)) as temporary:
        with temporary.open("w", encoding="utf-8") as file:
            for frame in frames:
                ase.io.write(file, labelled_atoms(frame), format="extxyz")
                written += 1
        if not written:
            raise PHLError(f"cannot write {path}: there are no frames")


def data_card(name: str) -> str:
    """The card of a bundled data set: Markdown."""
    if name not in BUNDLED:
        raise unknown("bundled data set", name, BUNDLED)
    return BUNDLED[name].with_suffix(".md").read_text(encoding="utf-8")
