"""LMDB files of pickled ``torch_geometric`` objects: HORM's (doi:10.48550/arXiv.2505.12447) and fairchem's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from phl_ase.datasets.formats.entry import Entry, Found, Options
from phl_ase.datasets.formats.lmdb_file import is_lmdb, opened
from phl_ase.datasets.formats.tensors import attributes, loads
from phl_ase.errors import PHLError
from phl_ase.structures.frame import Frame

_KEYS: Mapping[str, tuple[str, ...]] = {
    "numbers": ("charges", "atomic_numbers"),
    "positions": ("pos",),
    # HORM's "energy" is absolute in float32, good to 0.5 meV at best: "ae" is what its models learn
    "energy": ("ae", "energy", "y"),
    "forces": ("forces", "force"),
    "hessian": ("hessian",),
    "cell": ("cell",),
}
"""What -> the keys it may stand under, the better first."""

PICKLE = b"\x80"
"""First byte of a pickle of protocol 2 and later."""


def first_value(path: Path) -> bytes:
    """Return the record ``0`` of an LMDB, or its first; empty when it has none."""
    with opened(path) as transaction:
        return transaction.get(b"0") or next((value for _, value in transaction.cursor()), b"")


def recognises(path: Path) -> bool:
    """Return whether a path is an LMDB of pickles."""
    return is_lmdb(path) and first_value(path).startswith(PICKLE)


def recognises_horm(path: Path) -> bool:
    """Return whether a path is an LMDB of HORM's, by the energy ``ae`` of its first record.

    Raises:
        PHLError: When its first record names what a data set has no use for.
    """
    return recognises(path) and "ae" in attributes(first_value(path), f"{path.name}: first record")


def records(transaction: Any, path: Path) -> Iterator[bytes]:
    """Return the keys of the records: 0, 1, … as many as the record ``length`` says, or as there are.

    Raises:
        PHLError: When there are none.
    """
    stored = transaction.get(b"length")
    entries = int(transaction.stat()["entries"])
    length = entries if stored is None else loads(stored, f"{path}: record 'length'")
    if type(length) is not int or not 0 < length <= entries:
        raise PHLError(f"{path}: says that it holds {str(length)[:40]} frames among {entries} records; it is damaged")
    return (str(index).encode() for index in range(length))


def read(path: Path, options: Options) -> Iterator[Entry]:
    """Read the frames of an LMDB of pickled ``torch_geometric`` objects.

    Raises:
        PHLError: When it is truncated or damaged, or a pickle names what a data set has no use for.
    """
    with opened(path) as transaction:
        for key in records(transaction, path):
            name = f"{path.name}: record {key.decode()}"
            data = transaction.get(key)
            if data is None:
                raise PHLError(f"{name} is absent; expected records 0, 1, … of torch_geometric objects")
            yield Entry(name, partial(_frame, attributes(data, name), name))


def _frame(values: Mapping[str, Any], name: str) -> tuple[Frame, Found]:
    found = {label: key for label, keys in _KEYS.items() for key in keys[::-1] if values.get(key) is not None}
    absent = [label for label in ("numbers", "positions") if label not in found]
    if absent:
        seen = ", ".join(sorted(map(str, values)))
        raise PHLError(f"{name}: has no {absent[0]} ({', '.join(_KEYS[absent[0]])}); it has: {seen[:200]}")
    array = {label: np.asarray(values[key]) for label, key in found.items()}
    for label, value in array.items():
        if value.dtype.kind not in "fiu":
            raise PHLError(f"{name}: {found[label]!r} is {str(values[found[label]])[:40]!r}; expected numbers")
    numbers = array["numbers"].reshape(-1)
    n = len(numbers)
    if np.any(numbers != np.round(numbers)):
        raise PHLError(f"{name}: {found['numbers']!r} are not atomic numbers: {numbers[:4].tolist()}")
    shapes = {"positions": (n, 3), "energy": (), "forces": (n, 3), "hessian": (3 * n, 3 * n), "cell": (3, 3)}
    shaped: dict[str, Any] = {}
    for label in shapes.keys() & array.keys():
        if array[label].size != np.prod(shapes[label], dtype=int):
            raise PHLError(f"{name}: {found[label]!r} has shape {array[label].shape}; expected {shapes[label]}")
        shaped[label] = array[label].astype(float).reshape(shapes[label])
    if "energy" in shaped:
        shaped["energy"] = float(shaped["energy"])
    if "cell" in shaped:
        shaped["pbc"] = np.full(3, bool(np.any(shaped["cell"])))
    return Frame(numbers=numbers.astype(np.int64), **shaped), found
