"""Groups and arrays of somebody else's HDF5 file; what :mod:`phl_ase.datasets.file_checks` refuses is refused."""

from __future__ import annotations

from pathlib import Path

import h5py

from phl_ase.datasets.file_checks import check_hard_link, check_size, check_storage, damage_of
from phl_ase.errors import PHLError


def linked(parent: h5py.Group, name: str, path: Path, layout: str) -> h5py.Group | h5py.Dataset:
    """Return a member of a group.

    Args:
        parent: The group.
        name: Name of the member.
        path: The file, for errors.
        layout: What is expected of the file, for errors.

    Raises:
        PHLError: When it is absent, or a link to elsewhere.
    """
    where = f"{path}: {parent.name.rstrip('/')}/{name}"
    with damage_of(where):
        if name not in parent:
            raise PHLError(f"{where} is absent; expected {layout}")
        check_hard_link(parent, name, where, "since a file must hold its own data")
        return parent[name]


def group(parent: h5py.Group, name: str, path: Path, layout: str) -> h5py.Group:
    """Return a group in a group.

    Raises:
        PHLError: When it is absent, a link to elsewhere, or an array.
    """
    found = linked(parent, name, path, layout)
    if not isinstance(found, h5py.Group):
        raise PHLError(f"{path}: {found.name} is an array; expected a group: {layout}")
    return found


def array(parent: h5py.Group, name: str, path: Path, layout: str, *, kinds: str = "fiu") -> h5py.Dataset:
    """Return an array in a group, safe to read.

    Args:
        parent: The group.
        name: Name of the array.
        path: The file, for errors.
        layout: What is expected of the file, for errors.
        kinds: Kinds of NumPy types that it may have; ``S`` is text of fixed length.

    Raises:
        PHLError: When it is absent, a link, stored elsewhere, of another type, or larger than the file can hold.
    """
    found = linked(parent, name, path, layout)
    where = f"{path}: {parent.name}/{name}"
    if not isinstance(found, h5py.Dataset):
        raise PHLError(f"{where} is a group; expected an array")
    with damage_of(where):
        check_storage(found, where)
        if found.dtype.kind not in kinds:
            expected = "numbers or text of fixed length" if "S" in kinds else "numbers"
            raise PHLError(f"{where} has type {found.dtype}; expected {expected}")
        check_size(found, where, path.stat().st_size)
    return found
