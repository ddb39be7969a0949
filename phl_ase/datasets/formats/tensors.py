"""Reading pickled ``torch_geometric`` objects without torch_geometric, and without running what a pickle says.

A pickle is a program: it names functions and calls them. Here a name that is not in :data:`_ALLOWED` ends the reading,
and the names that are there stand for functions of this module, which build inert objects and NumPy arrays. Tensors are
read by this module too: torch's own ``_load_from_bytes`` would unpickle a second, unguarded program inside the first.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.unpickling import ListedUnpickler, reading_pickle

Array = np.ndarray

# first number of a file of torch.save's format of before 1.6, which pickled tensors still hold
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


class Inert:
    """Stands for an object of another package: it keeps what was stored in it and does nothing."""


class _Unpickler(ListedUnpickler):
    purpose = "a data set"

    def look_up(self, module: str, name: str) -> Any:
        return _ALLOWED[module, name]


class _StorageUnpickler(_Unpickler):
    def persistent_load(self, identity: Any) -> tuple[str, str, int]:
        kind, dtype, key, _, number, *_ = identity
        if kind != "storage" or not isinstance(dtype, str) or type(number) is not int:
            raise PHLError("holds a tensor whose storage is not described as torch does; refused")
        return dtype, str(key), number


def _storage(data: bytes) -> Array:
    """Return the values of a storage as torch pickles it inside other pickles (``torch.save`` in its old format)."""
    file = io.BytesIO(data)
    magic, protocol, _ = (_Unpickler(file).load() for _ in range(3))
    if magic != _MAGIC or protocol != _PROTOCOL:
        raise PHLError("holds a tensor that is not stored as torch does")
    dtype, key, number = _StorageUnpickler(file).load()
    keys = _Unpickler(file).load()
    stored = int.from_bytes(file.read(8), "little")
    rest = data[file.tell() :]
    if keys != [key] or stored != number or len(rest) != number * np.dtype(dtype).itemsize:
        raise PHLError(f"holds a tensor of {number} numbers in {len(rest)} bytes; the file is damaged")
    return np.frombuffer(rest, dtype=dtype)


def _tensor(storage: Array, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Array:
    """Return a tensor as an array; only one whose numbers follow one another, and all of whose numbers are there."""
    size = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length < 0 or (length > 1 and stride != size):
            raise PHLError(f"holds a tensor of shape {shape} and strides {strides}; expected a contiguous one")
        size *= length
    if offset < 0 or offset + size > len(storage):
        raise PHLError(f"holds a tensor of shape {shape} in a storage of {len(storage)} numbers; refused")
    return storage[offset : offset + size].reshape(shape)


def _parameterless(*arguments: Any) -> OrderedDict:
    if arguments:
        raise PHLError("holds backward hooks in a tensor; refused")
    return OrderedDict()


def _bytes(text: str, encoding: str) -> bytes:
    # how Python 3 pickles bytes in protocols 0 to 2
    if not isinstance(text, str) or encoding != "latin1":
        raise PHLError("holds bytes that are not stored as Python does; refused")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    **dict.fromkeys(
        (
            ("torch_geometric.data", "Data"),
            ("torch_geometric.data.data", "Data"),
            ("torch_geometric.data.data", "DataEdgeAttr"),
            ("torch_geometric.data.data", "DataTensorAttr"),
            ("torch_geometric.data.storage", "GlobalStorage"),
        ),
        Inert,
    ),
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("collections", "OrderedDict"): _parameterless,
    ("_codecs", "encode"): _bytes,
}
"""(module, name) that a pickle may say -> what stands for it."""


def loads(data: bytes, where: str) -> Any:
    """Return what a pickle of plain values, tensors and ``torch_geometric`` objects holds; tensors as arrays.

    Raises:
        PHLError: When it names anything else (nothing is run then), or is damaged.
    """
    with reading_pickle(where):
        return _Unpickler(io.BytesIO(data)).load()


def attributes(data: bytes, where: str) -> Mapping[str, Any]:
    """Return the attributes of one pickled ``torch_geometric.data.Data``, of its present and its older layout.

    Raises:
        PHLError: When the pickle holds something else, names what is not allowed, or is damaged.
    """
    loaded = loads(data, where)
    values = vars(loaded) if isinstance(loaded, Inert) else {}
    store = values.get("_store")
    if isinstance(store, Inert):
        values = vars(store).get("_mapping", {})
    if not isinstance(values, dict) or not values:
        raise PHLError(f"{where}: holds {type(loaded).__name__}; expected a torch_geometric Data object")
    return values
