"""OpenREACT-CHON-EFH (doi:10.6084/m9.figshare.29189858), the data set of arXiv:2603.04523, in ANI's HDF5 layout.

A group holds structures of the same atoms: ``species (n,)``, symbols or atomic numbers, and for its m structures
``coordinates (m, n, 3)`` Å, ``energies (m,)`` Ha, ``forces (m, n, 3)`` Ha/Å and ``hessian (m, 3n, 3n)`` Ha/Å²; perhaps
the attributes ``crg`` (charge) and ``mult`` (2S+1). Groups may stand in groups. The authors' programs, which read
lengths in Å, turn none of the three into units of Bohr; Gaussian prints Bohr, so the import checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
from ase.data import atomic_numbers

from phl_ase.datasets.file_checks import damage_of, open_file
from phl_ase.datasets.formats import hdf5
from phl_ase.datasets.formats.entry import Entry, Found, Options
from phl_ase.errors import PHLError, shortened
from phl_ase.structures.frame import Frame

OPENREACT_UNITS: Mapping[str, str] = {"positions": "Å", "energy": "Ha", "forces": "Ha/Å", "hessian": "Ha/Å²"}
OPENREACT_LAYOUT = "groups of species, coordinates, energies, forces and hessian as in OpenREACT-CHON-EFH"

_SHAPES: dict[str, tuple[str | int, ...]] = {
    "species": ("n",),
    "coordinates": ("m", "n", 3),
    "energies": ("m",),
    "forces": ("m", "n", 3),
    "hessian": ("m", "3n", "3n"),
}
_FOUND = {"energy": "energies", "forces": "forces", "hessian": "hessian"}
_KINDS = {
    **dict.fromkeys(("r", "reactant", "reactants"), "reactant"),
    **dict.fromkeys(("p", "product", "products"), "product"),
    **dict.fromkeys(("ts", "transitionstate", "transition_state"), "ts"),
    "irc": "irc",
    "nms": "nms",
}
_WORD = re.compile(
    r"(?:^|[\W_])(reactants?|products?|ts|transition_?state|irc|nms|[rp](?=$))(?=$|[\W_])", re.IGNORECASE
)
_DEPTH = 8
_LOOKED_AT = 1000
_BLOCK = 2**25  # bytes of Hessians read at once
_MOST_ATOMS = 1000


def recognises(path: Path) -> bool:
    """Return whether a path is an HDF5 file in which a group holds two of the five arrays, whatever its name."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with open_file(path) as file, damage_of(str(path)):
        return any(len(_SHAPES.keys() & set(group)) > 1 for group in islice(_groups(file, path), _LOOKED_AT))


def contents(path: Path) -> str:
    """Return the first names in an HDF5 file, for errors."""
    with open_file(path) as file, damage_of(str(path)):
        names = [
            f"{group.name.rstrip('/')}/{name}" for group in islice(_groups(file, path), 3) for name in islice(group, 4)
        ]
    return ", ".join(shortened(name, 40) for name in names[:6]) or "nothing"


def read(path: Path, options: Options) -> Iterator[Entry]:
    """Structures group by group, a block at a time, in the units of the file.

    A group that lacks an array or holds one of a wrong shape is refused as a whole, and the others are read.

    Raises:
        PHLError: When the file is truncated, holds links, data in other files or values that are no numbers, or
            declares shapes that its bytes cannot fill.
    """
    total = path.stat().st_size
    with open_file(path) as file:
        stored = 0
        for group in _groups(file, path):
            with damage_of(f"{path}: {group.name}"):
                names = list(group)
                for name in names:
                    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                        hdf5.linked(group, name, path, OPENREACT_LAYOUT)  # says what it is
            if _SHAPES.keys().isdisjoint(names):
                continue
            where = f"{path.name}: {group.name}"
            arrays = {
                name: hdf5.array(group, name, path, OPENREACT_LAYOUT, kinds="Siu" if name == "species" else "fiu")
                for name in _SHAPES
                if name in names
            }
            stored += sum(array.id.get_storage_size() for array in arrays.values())
            if stored > total:  # arrays that several groups link to
                raise PHLError(f"{path}: its arrays claim more bytes than the file has ({total}); refused")
            if fault := _fault(arrays):
                yield Entry(where, partial(_refused, f"{where}: {fault}"))
                continue
            with damage_of(f"{path}: {group.name}"):
                yield from _structures(group, arrays, path)


def _groups(group: h5py.Group, path: Path, seen: set[int] | None = None, depth: int = 0) -> Iterator[h5py.Group]:
    """Groups that hard links lead to, each once, those that hold arrays of the layout as leaves."""
    seen = set() if seen is None else seen
    seen.add(_address(group))
    yield group
    if _SHAPES.keys() & set(group):
        return
    for name in group:
        with damage_of(f"{path}: {group.name}"):
            hard = isinstance(group.get(name, getlink=True), h5py.HardLink)
            child = group[name] if hard else None
            new = isinstance(child, h5py.Group) and _address(child) not in seen
        if isinstance(child, h5py.Group) and new and depth < _DEPTH:
            yield from _groups(child, path, seen, depth + 1)


def _address(group: h5py.Group) -> int:
    return h5py.h5o.get_info(group.id).addr


def _fault(arrays: Mapping[str, h5py.Dataset]) -> str:
    """Return what keeps the structures of a group from being read; empty when nothing does."""
    if absent := [name for name in _SHAPES if name not in arrays]:
        return f"lacks {', '.join(absent)}; expected {', '.join(_SHAPES)}"
    n = arrays["species"].size
    sizes = {"n": n, "3n": 3 * n, "m": len(arrays["coordinates"]) if arrays["coordinates"].ndim else 0}
    for name, axes in _SHAPES.items():
        expected = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in axes)
        if arrays[name].shape != expected:
            return (
                f"{name} has shape {arrays[name].shape}; expected {expected} for {sizes['m']} structures of {n} atoms"
            )
    return "" if n <= _MOST_ATOMS else f"has {n} atoms; expected at most {_MOST_ATOMS}"


def _refused(reason: str) -> tuple[Frame, Found]:
    raise PHLError(reason)


def _structures(group: h5py.Group, arrays: Mapping[str, h5py.Dataset], path: Path) -> Iterator[Entry]:
    where = f"{path.name}: {group.name}"
    species = arrays["species"][...]
    if species.dtype.kind == "S":
        symbols = [symbol.decode("latin-1").strip() for symbol in species.tolist()]
        if unknown := [symbol for symbol in symbols if not atomic_numbers.get(symbol)]:
            fault = f"species holds {shortened(unknown[0], 20)}; expected symbols of elements"
            yield Entry(where, partial(_refused, f"{where}: {fault}"))
            return
        species = np.array([atomic_numbers[symbol] for symbol in symbols])
    numbers = species.astype(np.int64)
    kind, reaction = _named(group.name, path)
    charge, multiplicity = _whole(group, "crg", 0), _whole(group, "mult", 1)
    size = max(1, _BLOCK // (8 * max(1, arrays["hessian"].shape[1]) ** 2))
    columns = [arrays[name] for name in ("energies", "coordinates", "forces", "hessian")]
    for start in range(0, len(columns[0]), size):
        block = zip(*(column[start : start + size].astype(float) for column in columns), strict=True)
        for offset, (energy, positions, forces, hessian) in enumerate(block):
            frame = Frame(
                numbers=numbers,
                positions=positions,
                charge=charge,
                multiplicity=multiplicity,
                energy=float(energy),
                forces=forces,
                hessian=hessian,
                kind=kind,
                reaction=reaction,
            )
            yield Entry.of(f"{where}, structure {start + offset}", frame, _FOUND)


def _named(group: str, path: Path) -> tuple[str, str]:
    """Return kind and reaction by the name of the group, or else of the file: ``rxn0001_ts``, ``irc/rxn0001``.

    A group that is not named after a kind is a reaction: splits by reaction then keep its structures together.
    """
    text = group.strip("/")
    words = list(_WORD.finditer(text))
    if words:
        word = words[-1]
        reaction = "/".join(part for part in (text[: word.start()], text[word.end() :].strip("/_-. ")) if part)
        return _KINDS[word[1].lower()], reaction.strip("/_-. ")
    of_file = [word[1].lower() for word in _WORD.finditer(path.stem)]
    return next((_KINDS[word] for word in reversed(of_file) if len(word) > 1), ""), text


def _whole(group: h5py.Group, name: str, default: int) -> int:
    """Return a whole number among the attributes of a group."""
    if name not in group.attrs:
        return default
    attribute = group.attrs.get_id(name)  # of no other type: see file_checks.text_attribute
    if attribute.shape not in ((), (1,)) or attribute.dtype.kind not in "iu":
        raise PHLError(f"{group.name}: the attribute {name} has type {attribute.dtype}; expected a whole number")
    return int(np.ravel(group.attrs[name])[0])
