"""Reading files that ``torch.save`` wrote of whole modules, without running what they say.

A pickle is a program. Three ways through it: ``read_records`` (every class an inert record: nothing of any package is
run), ``read_module`` (classes of named packages that are plain torch modules, and nothing else) and ``read_trusted``
(torch's own, which runs whatever the file holds).
"""

from __future__ import annotations

import functools
import importlib
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phl_ase.adapters.containment import contained
from phl_ase.errors import PHLError
from phl_ase.unpickling import ListedUnpickler, NotListed, reading_pickle


class PickledObject:
    """Stands for an object of another package: what it was made of and what was stored in it. It does nothing.

    A record of a torch module answers for its parts as the module would.
    """

    def __new__(cls, *arguments: Any, **_: Any) -> PickledObject:
        """A record of a call of the class (or function) it is named after."""
        record = object.__new__(cls)
        record.__dict__["arguments"] = arguments
        return record

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        """Nothing is kept of what a pickle puts into a record that stands for a list."""

    append = extend

    def __getattr__(self, name: str) -> Any:
        for part in ("_parameters", "_buffers", "_modules"):
            values = self.__dict__.get(part)
            if isinstance(values, Mapping) and name in values:
                return values[name]
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def _items(self) -> list[Any]:
        return [*self.__dict__.get("_parameters", {}).values(), *self.__dict__.get("_modules", {}).values()]

    def __len__(self) -> int:
        return len(self._items())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items())

    def __getitem__(self, index: int) -> Any:
        return self._items()[index]

    def __bool__(self) -> bool:
        return True

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Return the state dict of a recorded module: parameters and persistent buffers by their full names."""
        transient = self.__dict__.get("_non_persistent_buffers_set", ())
        found = {f"{prefix}{k}": v for k, v in self.__dict__.get("_parameters", {}).items() if v is not None}
        buffers = self.__dict__.get("_buffers", {})
        found |= {f"{prefix}{k}": v for k, v in buffers.items() if v is not None and k not in transient}
        for name, child in self.__dict__.get("_modules", {}).items():
            if isinstance(child, PickledObject):
                found |= child.tensors(f"{prefix}{name}.")
        return found


def _bytes(text: str, encoding: str) -> bytes:
    # how Python 3 pickles bytes in protocols 0 to 2
    if not isinstance(text, str) or encoding != "latin1":
        raise PHLError("holds bytes that are not stored as Python does; refused")
    return text.encode("latin1")


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    # checked here: torch would enlarge a storage to whatever shape a file declares; hooks of the file are left out
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= storage._size()):
        raise PHLError(f"holds a tensor of shape {tuple(size)} in a storage of {storage._size()} numbers; refused")
    rebuilt: Tensor = torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())
    return rebuilt


_DATA: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _bytes,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, requires_grad, *_: nn.Parameter(data, requires_grad),
    **{("torch", str(dtype)[6:]): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset, slice)},
}
"""Names allowed in every file: containers and tensors."""

LookUp = Callable[[str, str], Any]


def read_records(path: Path, plain: Mapping[tuple[str, str], Any]) -> PickledObject:
    """Return the object of a file as a tree of records, tensors and plain values.

    Args:
        path: A file that ``torch.save`` wrote.
        plain: Types of the vendor that only hold values, by (module, name): these are made.

    Raises:
        PHLError: For a file that is missing, damaged or something else.
    """

    def look_up(module: str, name: str) -> Any:
        return {**_DATA, **plain}.get((module, name)) or record_kind(module, name)

    loaded = _load(path, look_up)
    if not isinstance(loaded, PickledObject):
        raise PHLError(f"{path.name}: holds {called(loaded)}; expected a whole model")
    return loaded


@functools.cache
def record_kind(module: str, name: str) -> type[PickledObject]:
    """Return the class of records that stand for a class (or function) of another package."""
    return type(name, (PickledObject,), {"__module__": module})


def read_module(
    path: Path,
    packages: tuple[str, ...],
    others: Mapping[tuple[str, str], Any],
    *,
    base: type = nn.Module,
    rest: Callable[[str, str], Any] | None = None,
) -> Any:
    """Return the object of a file, made of torch modules of named packages.

    Args:
        path: A file that ``torch.save`` wrote.
        packages: Packages whose classes may be made, where they have no unpickling of their own.
        others: What else the file may name, by (module, name).
        base: What these classes are derived from.
        rest: What stands for every other name; by default nothing does.

    Raises:
        PHLError: For a file that is missing or damaged, or that names anything else (nothing is run then).
    """

    def look_up(module: str, name: str) -> Any:
        if (module, name) in _DATA:
            return _DATA[module, name]
        if (module, name) in others:
            return others[module, name]
        if module.startswith(tuple(f"{package}." for package in (*packages, "torch.nn.modules"))):
            with contained():
                found = vars(importlib.import_module(module)).get(name)
            if is_plain(found, base) and found.__module__ == module:
                return found
        if rest is None:
            raise KeyError(name)
        return rest(module, name)

    return _load(path, look_up)


_OWN_UNPICKLING = ("__setstate__", "__reduce__", "__reduce_ex__", "__new__")


def is_plain(kind: Any, base: type = nn.Module) -> bool:
    """Return whether a class unpickles as torch modules and plain objects do: by filling its attributes."""
    return (
        isinstance(kind, type)
        and issubclass(kind, base)
        and all(
            getattr(kind, name, None) in (getattr(object, name, None), getattr(nn.Module, name, None))
            for name in _OWN_UNPICKLING
        )
    )


def read_trusted(path: Path) -> Any:
    """Return the object of a file, by torch's own unpickler: runs whatever code the file holds.

    Raises:
        PHLError: For a file that is missing or damaged, or needs a package that is not installed.
    """
    _require(path)
    try:
        with contained():
            return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever foreign code raises is one line here
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise PHLError(f"{path.name}: cannot be loaded ({reason}); was it made by another version?") from error


def read_plain_or_trusted(
    path: Path, prefix: str, packages: tuple[str, ...], others: Mapping[tuple[str, str], Any], *, trust: bool
) -> Any:
    """Return the object of a file, as :func:`read_module` reads it; where it holds more, by torch, if it is trusted.

    Args:
        path: A file that ``torch.save`` wrote.
        prefix: Of the adapter.
        packages: As for :func:`read_module`.
        others: As for :func:`read_module`.
        trust: Whether code of the file may run.

    Raises:
        PHLError: For a file that is missing or damaged, or that needs trust.
    """
    try:
        return read_module(path, packages, others)
    except NotListed as error:
        if not trust:
            raise not_trusted(path, str(error).partition(": ")[2], prefix) from None
        return read_trusted(path)


def not_trusted(path: Path, reason: str, prefix: str) -> PHLError:
    """Return the error for a file that needs more than reading."""
    return PHLError(
        f"{path.name}: {reason}; loading it would run code from the file. If you trust whoever made it, say so: "
        f"--trust on the command line, PHLCalculator({f'{prefix}:{path.name}'!r}, trust=True) in Python"
    )


def _load(path: Path, look_up: LookUp) -> Any:
    _require(path)
    if not zipfile.is_zipfile(path):
        raise PHLError(f"{path.name}: is no file of torch.save (since torch 1.6); expected a model file")
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise PHLError(f"{path.name}: is a TorchScript program; expected a model written by torch.save")

    class Unpickler(ListedUnpickler):
        purpose = "a model file"

        def look_up(self, module: str, name: str) -> Any:
            return look_up(module, name)

    reader = types.SimpleNamespace(Unpickler=Unpickler, __name__="phl_ase.unpickling")
    with reading_pickle(path.name):
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader)


def _require(path: Path) -> None:
    if not path.is_file():
        raise PHLError(f"model file {str(path)!r} does not exist" if not path.exists() else f"{path} is no file")


def called(loaded: Any) -> str:
    """Return the name of a file's object, for an error."""
    if isinstance(loaded, Mapping):
        return "a dictionary (a state dict says nothing of the architecture)"
    return f"a {type(loaded).__name__}"
