"""Transition1x (doi:10.1038/s41597-022-01870-w): images of nudged elastic bands at wB97x/6-31G(d), in HDF5.

``data/FORMULA/REACTION`` holds ``atomic_numbers (n,)`` and, for the images of the band, ``positions (images, n, 3)`` Å,
``wB97x_6-31G(d).energy (images,)`` eV and ``wB97x_6-31G(d).forces (images, n, 3)`` eV/Å; its groups ``reactant``,
``transition_state`` and ``product`` hold the same for one geometry each.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from phl_ase.datasets.file_checks import damage_of, open_file
from phl_ase.datasets.formats import hdf5
from phl_ase.datasets.formats.entry import Entry, Options
from phl_ase.errors import PHLError
from phl_ase.structures.frame import Frame

TRANSITION1X_LAYOUT = "data/FORMULA/REACTION as in Transition1x"

_ENERGY, _FORCES = "wB97x_6-31G(d).energy", "wB97x_6-31G(d).forces"
_KINDS = {"reactant": "reactant", "transition_state": "ts", "product": "product"}
_BLOCK = 256
_FOUND = {"energy": _ENERGY, "forces": _FORCES}


def recognises(path: Path) -> bool:
    """Return whether a path is an HDF5 file with a group ``data``."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with open_file(path) as file:
        return "data" in file


def read(path: Path, options: Options) -> Iterator[Entry]:
    """Read frames reaction by reaction: reactant, TS, product, then the images of the band (kind ``neb``).

    Raises:
        PHLError: When the file is truncated, not laid out so, holds links or data in other files, or declares shapes
            that its bytes cannot fill.
    """
    with open_file(path) as file:
        data = hdf5.group(file, "data", path, TRANSITION1X_LAYOUT)
        for formula in data:
            reactions = hdf5.group(data, formula, path, TRANSITION1X_LAYOUT)
            for reaction in reactions:
                group = hdf5.group(reactions, reaction, path, TRANSITION1X_LAYOUT)
                for kind in (*_KINDS, "neb"):
                    if kind == "neb" or kind in group:
                        place = group if kind == "neb" else hdf5.group(group, kind, path, TRANSITION1X_LAYOUT)
                        yield from _images(place, reaction, _KINDS.get(kind, kind), path)


def _array(group: h5py.Group, name: str, shape: tuple[int | None, ...], path: Path) -> h5py.Dataset:
    array = hdf5.array(group, name, path, TRANSITION1X_LAYOUT)
    if array.ndim != len(shape) or any(b not in (None, a) for a, b in zip(array.shape, shape, strict=True)):
        where = f"{path}: {group.name}/{name}"
        raise PHLError(f"{where} has shape {array.shape}; expected {shape} (None: any)")
    return array


def _images(group: h5py.Group, reaction: str, kind: str, path: Path) -> Iterator[Entry]:
    numbers = _array(group, "atomic_numbers", (None,), path)
    n = len(numbers)
    energies = _array(group, _ENERGY, (None,), path)
    positions = _array(group, "positions", (len(energies), n, 3), path)
    forces = _array(group, _FORCES, (len(energies), n, 3), path)
    with damage_of(f"{path}: {group.name}"):
        species = numbers[...].astype(np.int64)
        for start in range(0, len(energies), _BLOCK):
            stop = start + _BLOCK
            block = zip(energies[start:stop], positions[start:stop], forces[start:stop], strict=True)
            for offset, (energy, places, force) in enumerate(block):
                frame = Frame(
                    numbers=species,
                    positions=places.astype(float),
                    energy=float(energy),
                    forces=force.astype(float),
                    kind=kind,
                    reaction=reaction,
                )
                yield Entry.of(f"{path.name}: {group.name}, image {start + offset}", frame, _FOUND)
