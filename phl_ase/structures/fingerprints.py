"""Sets of structures known by their content, whatever file, order or unit of length of a file they come from.

A model's card keeps one of the frames that it was trained on, so that no command passes off training errors as test
errors. Six bytes a structure: a hash of its composition, charge and four rounded numbers that rotations, translations,
reflections and another order of the atoms leave unchanged, as they leave the energy unchanged:

    s  = Σ_ij w_i w_j f(r_ij)        and with a shorter-ranged f
    v  = Σ_i w_i |Σ_j w_j f(r_ij) r_ij|
    q  = Σ_i w_i ‖Σ_j w_j f(r_ij) r_ij r_ijᵀ‖

each over √n, with a weight w of each element and f(r) = (1 − r²/R²)³ inside R = 5 Å. A number near the edge of its
interval is looked up in the neighbouring interval too, so that positions may be rounded to float32 or to four decimals.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.structures.frame import Frame
from phl_ase.structures.neighbours import neighbour_list

Array = np.ndarray

VERSION = 1
BYTES = 6  # 10⁶ structures are mistaken for another one once in 10⁷ look-ups
RANGE = 5.0  # Å
GRID = 2e-3  # intervals of the four numbers, which change by about one for one with random displacements in Å
TOLERANCE = 4e-4
_PAIRS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class StructureSet:
    """A set of structures, by content.

    Attributes:
        digests: One of each structure.
    """

    digests: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> StructureSet:
        """Return the set of some frames; labels do not matter."""
        keys = np.rint(invariants(frames) / GRID).astype(np.int64)
        return cls(frozenset(_digest(_composition(f), key) for f, key in zip(frames, keys, strict=True)))

    def contains(self, frames: Sequence[Frame]) -> Array:
        """Return which of the frames are in the set ``(frames,)`` bool, rounded or moved as a whole or not."""
        if not self.digests or not frames:
            return np.zeros(len(frames), dtype=bool)
        scaled = invariants(frames) / GRID
        margin = TOLERANCE / GRID
        found = []
        for frame, values in zip(frames, scaled, strict=True):
            composition = _composition(frame)
            near = [sorted({round(v - margin), round(v + margin)}) for v in values.tolist()]
            found.append(any(_digest(composition, np.array(key)) in self.digests for key in itertools.product(*near)))
        return np.array(found)

    def __len__(self) -> int:
        return len(self.digests)

    def __or__(self, other: StructureSet) -> StructureSet:
        return StructureSet(self.digests | other.digests)

    def to_json(self) -> dict[str, Any]:
        """Return the set as values that JSON holds: 8 characters a structure."""
        text = base64.b64encode(b"".join(sorted(self.digests))).decode("ascii")
        return {"version": VERSION, "structures": len(self), "digests": text}

    @classmethod
    def from_json(cls, values: Any) -> StructureSet:
        """Return the set that :meth:`to_json` recorded.

        Raises:
            PHLError: For values that are no such record, or that another version wrote.
        """
        try:
            version, content = values["version"], base64.b64decode(values["digests"], validate=True)
        except (TypeError, KeyError, ValueError, binascii.Error):
            raise PHLError("a record of structures is broken; expected version, structures and digests") from None
        if version != VERSION or len(content) % BYTES:
            raise PHLError(f"a record of structures is of version {version}, this one reads {VERSION}; upgrade phl_ase")
        return cls(frozenset(content[k : k + BYTES] for k in range(0, len(content), BYTES)))


def union(sets: Iterable[StructureSet]) -> StructureSet:
    """Return the structures that are in any of the sets."""
    return StructureSet(frozenset().union(*(one.digests for one in sets)))


def invariants(frames: Sequence[Frame]) -> Array:
    """Return four numbers of each structure ``(frames, 4)``, Å or without unit; see the module's equations."""
    result = np.zeros((len(frames), 4))
    sizes: dict[int, list[int]] = {}
    for index, frame in enumerate(frames):
        if np.any(frame.pbc):
            i, j, shifts = neighbour_list(frame.positions, frame.cell, frame.pbc, RANGE, f"frame {frame.frame_id}")
            positions = np.asarray(frame.positions, dtype=float)
            vectors = positions[j] - positions[i] + shifts @ np.asarray(frame.cell, dtype=float)
            result[index] = _sums(_weights(frame.numbers), i, j, vectors)
        else:
            sizes.setdefault(len(frame), []).append(index)
    for n, indices in sizes.items():
        i, j = np.nonzero(~np.eye(n, dtype=bool))
        step = max(1, _PAIRS_AT_ONCE // n**2)
        for start in range(0, len(indices), step):
            some = indices[start : start + step]
            positions = np.array([frames[k].positions for k in some], dtype=float)
            weights = _weights(np.array([frames[k].numbers for k in some]))
            offsets = n * np.arange(len(some))[:, None]
            flat = positions.reshape(-1, 3)
            first, second = ((pairs + offsets).ravel() for pairs in (i, j))
            result[some] = _sums(weights, first, second, flat[second] - flat[first])
    return result


def _sums(weights: Array, i: Array, j: Array, vectors: Array) -> Array:
    """Return the four numbers of structures of the same number of atoms; weights ``(n,)`` or ``(structures, n)``."""
    shape, flat = weights.shape, weights.ravel()
    inside = np.maximum(1.0 - (vectors**2).sum(-1) / RANGE**2, 0.0)
    near = flat[j] * inside**3
    tensors = [near[:, None] * vectors, (near[:, None, None] * vectors[:, :, None] * vectors[:, None, :] / RANGE)]
    of_atoms = [
        _added(near, i, flat.size),
        _added(2.0 * flat[j] * inside**9, i, flat.size),
        *(np.linalg.norm(_added(t.reshape(len(i), -1), i, flat.size), axis=-1) for t in tensors),
    ]
    sums = [(flat * values).reshape(shape).sum(-1) / np.sqrt(shape[-1]) for values in of_atoms]
    return np.stack(sums, axis=-1)


def _added(values: Array, index: Array, size: int) -> Array:
    """Sums of values ``(pairs, …)`` over the pairs of each atom ``(size, …)``."""
    columns = values.reshape(len(index), -1).T
    return np.stack([np.bincount(index, column, minlength=size) for column in columns], axis=-1).reshape(
        size, *values.shape[1:]
    )


def _weights(numbers: Array) -> Array:
    """Return a weight between 0.5 and 1.5 of each atom; no two elements share one."""
    return 0.5 + (np.asarray(numbers) * 0.6180339887498949) % 1.0


def _composition(frame: Frame) -> bytes:
    numbers = np.sort(np.asarray(frame.numbers)).astype("<i2")
    return numbers.tobytes() + int(frame.charge).to_bytes(4, "little", signed=True)


def _digest(composition: bytes, key: Array) -> bytes:
    content = composition + np.asarray(key).astype("<i8").tobytes()
    return hashlib.blake2b(content, digest_size=BYTES, person=b"phl_ase").digest()


__all__ = ["StructureSet", "invariants", "union"]
