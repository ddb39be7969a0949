"""Reading data sets: bundled ones by name, our HDF5, and whatever ASE reads."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
from ase import Atoms

from phl_ase.datasets.base import BaseDataset, MemoryDataset
from phl_ase.datasets.file_checks import first_line
from phl_ase.datasets.formats.lmdb_file import is_lmdb
from phl_ase.datasets.labelled import (
    check_keys,
    frame_as_found,
    keys_not_read,
    labelled_atoms,
    no_such_key,
    seen_keys,
)
from phl_ase.datasets.schema import SUFFIXES, DatasetMeta, plausible, symmetrised
from phl_ase.datasets.store import Dataset
from phl_ase.datasets.xyz import is_xyz, parsed_xyz, xyz_texts
from phl_ase.errors import PHLError, shortened, unknown
from phl_ase.files import is_there, replacing
from phl_ase.hessians import asymmetry
from phl_ase.structures.frame import Frame

_FOLDER = Path(__file__).parent / "bundled"
_GAUSSIAN_INPUT = (".gjf", ".com")

BUNDLED = {
    "reactions-wb97xd-631gd": _FOLDER / "reactions_wb97xd_631gd.h5",
    "fragments-wb97xd-631gd": _FOLDER / "fragments_wb97xd_631gd.h5",
    "organic-gfn2xtb-sample": _FOLDER / "organic_gfn2xtb_sample.h5",
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
    keys = check_keys(keys)
    path = find_dataset(source)
    bundled = str(source) in BUNDLED
    if path.is_dir():
        raise PHLError(
            f"{path} is a folder; expected a file: name the data set inside it (folders of DeePMD's and of LMDB are "
            "read by 'phl data import')"
        )
    if bundled or path.suffix.lower() in SUFFIXES or h5py.is_hdf5(path):
        if keys:
            kind = "a bundled data set" if bundled else "HDF5"
            raise PHLError(
                f"{source} is {kind}, whose labels have fixed names; leave out the key mapping ({', '.join(keys)})"
            )
        return Dataset(path, name=str(source) if bundled else "")
    if path.suffix.lower() not in (".lmdb", ".mdb"):
        return _read_frames(path, keys)
    if is_lmdb(path):
        raise PHLError(f"{path} is an LMDB, which is read as a whole: phl data import {path.name} -o DATASET.h5")
    raise PHLError(f"{path} is no LMDB: its first bytes are not those of one; copy or download it again")


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


def read_images(source: str | PathLike[str]) -> list[Atoms]:
    """Read all structures of a file that ASE reads, with their masses and constraints, which a data set does not keep.

    Raises:
        PHLError: For a missing, unreadable or empty file.
    """
    return _images(Path(source))


def _with_charge(atoms: Atoms) -> Atoms:
    """Return the structure of a Gaussian input with its charge and multiplicity, which ASE gives to a calculator."""
    given = atoms.calc.parameters
    atoms.info.update(
        {key: given[name] for key, name in (("charge", "charge"), ("multiplicity", "mult")) if name in given}
    )
    atoms.calc = None
    return atoms


def _images(path: Path, *, whole_rows: bool = False) -> list[Atoms]:
    """Read structures; ``whole_rows`` keeps key-value pairs and data of an ASE data base, which ``ase.io`` leaves."""
    import ase.io
    from ase.db import connect

    if not path.is_file():
        raise PHLError(f"no file {shortened(str(path))}; expected structures: .xyz, .extxyz, .traj, .cif, …")
    images: list[Atoms] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ASE warns about what the checks of labels report
            if is_xyz(path):
                for index, text in enumerate(xyz_texts(path)):
                    try:
                        images.append(parsed_xyz(text))
                    except PHLError as error:
                        raise PHLError(f"{path}: frame {index}: {error}") from None
                    except Exception as error:  # ASE's reader raises anything at all on a broken frame
                        reason = first_line(error)
                        raise PHLError(f"{path}: frame {index} cannot be read by ASE ({reason})") from error
            elif whole_rows and path.suffix.lower() == ".db":
                rows = connect(str(path.resolve())).select()
                images.extend(row.toatoms(add_additional_information=True) for row in rows)
            else:
                # absolute, since ASE takes some relative names for data-base servers
                name, options = str(path.resolve()), dict[str, Any](index=":", do_not_split_by_at_sign=True)
                if path.suffix.lower() in _GAUSSIAN_INPUT:
                    images.extend(map(_with_charge, ase.io.iread(name, **options, attach_calculator=True)))
                else:
                    images.extend(ase.io.iread(name, **options))
    except PHLError:
        raise
    except Exception as error:  # readers of ASE raise anything at all on a broken file
        raise PHLError(
            f"{path} cannot be read by ASE ({first_line(error)}); expected .h5, .extxyz, .traj, .db, …"
        ) from error
    if not images:
        raise PHLError(f"{path}: holds no structures; expected at least one")
    return images


def _read_frames(path: Path, keys: Mapping[str, str]) -> MemoryDataset:
    images = _images(path, whole_rows=True)
    frames, found, uneven = [], Counter[tuple[str, str]](), 0.0
    for index, atoms in enumerate(images):
        name = f"{path}: frame {index}"
        frame, where = frame_as_found(atoms, name, keys=keys)
        frames.append(plausible(symmetrised(frame, name), name))
        uneven = max(uneven, 0.0 if frame.hessian is None else asymmetry(frame.hessian))
        found.update(where.items())
    seen = set().union(*map(seen_keys, images))
    for label, key in keys.items():
        if (label, key) not in found:
            raise PHLError(no_such_key(path, label, key, seen))
    notes = f"Hessians of the source were asymmetric by up to {uneven:.2g} eV/Å²; averaged." if uneven else ""
    places: dict[str, str] = {}
    for label, key in sorted(found):
        places[label] = f"{places[label]}, {key}" if label in places else key
    provenance = {"source": path.name, "keys": places, "keys_not_read": keys_not_read(seen, found)}
    return MemoryDataset(frames, DatasetMeta(provenance=provenance, notes=notes), name=str(path))


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
    """Return the card of a bundled data set: Markdown."""
    if name not in BUNDLED:
        raise unknown("bundled data set", name, BUNDLED)
    return BUNDLED[name].with_suffix(".md").read_text(encoding="utf-8")
