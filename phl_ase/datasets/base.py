"""Interface of data sets, on disk or in memory."""

from __future__ import annotations

import dataclasses
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, SupportsIndex

import numpy as np

from phl_ase.datasets.schema import (
    ContentHash,
    DatasetMeta,
    counts,
    offsets_name,
    plausible,
    ragged_groups,
    rows,
    symmetrised,
)
from phl_ase.errors import PHLError
from phl_ase.structures.frame import Frame
from phl_ase.structures.label import labels
from phl_ase.types import Array

_PROJECTIONS = 3
_ROWS = 2**16


class BaseDataset(ABC):
    """Frames by index, columns without reading labels.

    Attributes:
        name: How errors and reports name the data set.
        meta: Level of theory, energy reference, provenance, notes.
    """

    name: str
    meta: DatasetMeta
    _offsets: Mapping[str, Array]
    _hash: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _frame(self, index: int) -> Frame: ...

    @abstractmethod
    def _text(self, column: str) -> Array: ...

    @abstractmethod
    def _scalars(self, column: str) -> Array: ...

    def offsets(self, ragged: str) -> Array:
        """Offsets ``(frames + 1,)`` of a group of ragged columns."""
        return self._offsets[ragged]

    def content_hash(self) -> str:
        """Return a sha256 of the content, stable under compression, copying and rewriting."""
        return self._hash

    @cached_property
    def kinds(self) -> Array:
        """Kind of each frame ``(frames,)``, text; empty where unknown."""
        return _fixed(self._text("kind"))

    @cached_property
    def reactions(self) -> Array:
        """Reaction of each frame ``(frames,)``, text; empty where unknown."""
        return _fixed(self._text("reaction"))

    @cached_property
    def temperatures(self) -> Array:
        """Sampling temperature of each frame ``(frames,)`` K; NaN where absent."""
        return _fixed(self._scalars("temperature"))

    @cached_property
    def irc_s(self) -> Array:
        """Signed arc length of each frame ``(frames,)`` √amu·Å; NaN where absent."""
        return _fixed(self._scalars("irc_s"))

    @cached_property
    def sizes(self) -> Array:
        """Number of atoms of each frame ``(frames,)``."""
        return _fixed(np.diff(self.offsets("atoms")))

    @cached_property
    def n_probes(self) -> Array:
        """Number of recorded probes of each frame ``(frames,)``."""
        return _fixed(np.diff(self.offsets("probes")) // self.sizes)

    @cached_property
    def coverage(self) -> dict[str, Array]:
        """Which frames carry a label, for every label: name -> bool ``(frames,)``."""
        return {name: _fixed(np.diff(self.offsets(label.offsets)) > 0) for name, label in labels().items()}

    @abstractmethod
    def _blocks(self, column: str) -> Iterator[Array]:
        """Yield the rows of a column of all frames, block by block."""

    @cached_property
    def projections(self) -> tuple[float, ...]:
        """A few numbers of all elements and positions in their order, Å: random projections.

        A copy whose positions were rounded has the same, but for a little more than the rounding times the square root
        of the number of atoms; other structures, or others' order, have not.
        """
        sums, done = np.zeros(_PROJECTIONS), 0
        for positions, numbers in zip(self._blocks("positions"), self._blocks("numbers"), strict=True):
            values = np.column_stack([positions, numbers]).astype(float)
            weights = _weights(done, values.size * _PROJECTIONS).reshape(*values.shape, _PROJECTIONS)
            sums += np.einsum("ack,ac->k", weights, values)
            done += weights.size
        return tuple(sums.tolist())

    @property
    def keys_not_read(self) -> tuple[str, ...]:
        """Keys of the file of ASE that the frames come from, which no label was read from."""
        kept = self.meta.provenance.get("keys_not_read", ())
        return tuple(str(key)[:100] for key in kept) if isinstance(kept, list | tuple) else ()

    def __getitem__(self, index: SupportsIndex) -> Frame:
        """Return one frame, its ``frame_id`` the index; negative indices count from the end.

        Raises:
            PHLError: When a label of the frame is broken or cannot be read, naming frame and array.
            IndexError: Beyond the end.
        """
        position = operator.index(index)
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"frame {index} of {self.name}, which has {len(self)}")
        return self._frame(position)

    def __iter__(self) -> Iterator[Frame]:
        return (self._frame(index) for index in range(len(self)))

    def frames(self, indices: Iterable[SupportsIndex] | None = None) -> list[Frame]:
        """Return frames as a list, in the order of the indices; by default all of them."""
        return [self[index] for index in (range(len(self)) if indices is None else indices)]

    def close(self) -> None:  # noqa: B027 - frames in memory have nothing to let go of
        """Close the file, where there is one."""

    def __enter__(self):
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        level = self.meta.level_of_theory or "level unknown"
        return f"{type(self).__name__}({self.name!r}, {len(self)} frames, {level})"


class MemoryDataset(BaseDataset):
    """A data set in memory, with the interface of one on disk; foreign formats are read into it.

    Args:
        frames: The frames; each gets its index as ``frame_id``.
        meta: What is true of all of them.
        name: How errors and reports name the data set.

    Raises:
        PHLError: When there are no frames, or one is broken (the error names it).
    """

    def __init__(self, frames: Sequence[Frame], meta: DatasetMeta | None = None, *, name: str = "frames") -> None:
        if not len(frames):
            raise PHLError(f"{name}: holds no structures; expected at least one")
        self.name = name
        self.meta = DatasetMeta() if meta is None else meta
        self._frames = [
            dataclasses.replace(plausible(frame, f"{name}: frame {index}"), frame_id=index)
            for index, frame in enumerate(frames)
        ]

    def __len__(self) -> int:
        return len(self._frames)

    def _frame(self, index: int) -> Frame:
        return self._frames[index]

    @cached_property
    def _offsets(self) -> dict[str, Array]:  # type: ignore[override]
        table = [counts(frame) for frame in self._frames]
        return {r: _fixed(np.concatenate([[0], np.cumsum([row[r] for row in table])])) for r in ragged_groups()}

    def _text(self, column: str) -> Array:
        return np.array([getattr(frame, column) for frame in self._frames], dtype=str)

    def _scalars(self, column: str) -> Array:
        return np.array([getattr(frame, column) for frame in self._frames], dtype=float)

    def _blocks(self, column: str) -> Iterator[Array]:
        values = np.concatenate([getattr(frame, column) for frame in self._frames])
        return (values[start : start + _ROWS] for start in range(0, len(values), _ROWS))

    @cached_property
    def _hash(self) -> str:  # type: ignore[override]
        digest = ContentHash()
        for ragged in ragged_groups():
            digest.update(offsets_name(ragged), self.offsets(ragged))
        for index, frame in enumerate(self._frames):
            for column, values in rows(symmetrised(frame, f"frame {index}")).items():
                digest.update(column, values)
        return digest.hexdigest(self.meta)


def _weights(start: int, count: int) -> Array:
    """Return numbers between −1 and 1 that are a function of their place: splitmix64 (doi:10.1145/2714064.2660195)."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2⁶⁴ is meant
        state = np.arange(start + 1, start + 1 + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return (state ^ (state >> np.uint64(31))).astype(np.float64) / 2.0**63 - 1.0


def _fixed(values: Array) -> Array:
    values.setflags(write=False)
    return values
