"""Packing frames into batches: flat arrays with offsets, so that drawing a batch is a gather and not a loop.

Neighbour lists are made once, when the frames are packed, and reused by every batch, epoch and probe.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from phl_ase.errors import PHLError
from phl_ase.structures.batch import Batch, Labels, Neighbours
from phl_ase.structures.frame import Frame
from phl_ase.structures.label import arrays
from phl_ase.structures.neighbours import neighbour_list

_CPU = "cpu"
"""Where frames are packed, whatever torch's default device is."""


class PackedFrames:
    """Frames as flat tensors in memory, ready to be drawn in any combination.

    Args:
        frames: What to pack; checked for shapes and finiteness.
        cutoffs: Neighbour-list cutoffs the potential reads, Å.
        names: How an error names each frame; by default by its ``frame_id``, reaction and kind.

    Raises:
        PHLError: When there is nothing to pack, or a frame is broken (the error names it).
    """

    def __init__(self, frames: Sequence[Frame], cutoffs: Sequence[float], names: Sequence[str] | None = None) -> None:
        if not frames:
            raise PHLError("no structures to pack: the data set or the selection is empty")
        if names is None:
            places = [f" ({f.reaction} {f.kind})".rstrip() if f.reaction else "" for f in frames]
            names = [f"frame {f.frame_id}{place}" for f, place in zip(frames, places, strict=True)]
        for frame, name in zip(frames, names, strict=True):
            frame.check(name)
        self.cutoffs = tuple(cutoffs)
        self.sizes = torch.tensor([len(f) for f in frames], device=_CPU)
        self.atom_offsets = _offsets(self.sizes)
        self.numbers = _flat(frames, "numbers", torch.int64)
        self.positions = _flat(frames, "positions")
        self.cell = torch.tensor(np.array([f.cell for f in frames]), dtype=torch.float64, device=_CPU)
        self.pbc = torch.tensor(np.array([f.pbc for f in frames]), dtype=torch.bool, device=_CPU)
        self.charge = torch.tensor([f.charge for f in frames], device=_CPU)
        self.multiplicity = torch.tensor([f.multiplicity for f in frames], device=_CPU)
        self.frame_id = torch.tensor([f.frame_id for f in frames], device=_CPU)
        self.n_probes = torch.tensor([0 if f.probes is None else len(f.probes) for f in frames], device=_CPU)
        self._present: dict[str, Tensor] = {}
        self._values: dict[str, Tensor] = {}
        self._offsets: dict[str, Tensor] = {}
        for name, label in arrays().items():
            given = [f.label(name) for f in frames]
            if label.per == "probe":
                counts = self.n_probes * self.sizes
            else:
                self._present[name] = torch.tensor([value is not None for value in given], device=_CPU)
            if label.per == "pair":
                sides = torch.tensor([label.shape_for(len(f))[0] for f in frames], device=_CPU)
                counts = torch.where(self._present[name], sides**2, 0)
            if label.per in ("system", "atom"):
                filled = [
                    np.zeros(label.shape_for(len(f))) if value is None else value
                    for f, value in zip(frames, given, strict=True)
                ]
                joined = np.concatenate(filled) if label.per == "atom" else np.array(filled)
            else:
                self._offsets[name] = _offsets(counts)
                row = label.shape if label.per == "probe" else ()
                rows = [np.reshape(value, (-1, *row)) for value in given if value is not None]
                joined = np.concatenate(rows) if rows else np.zeros((0, *row))
            self._values[name] = torch.tensor(joined, dtype=torch.float64, device=_CPU)
        self.pairs: dict[float, tuple[Tensor, Tensor, Tensor]] = {}
        self.pair_counts: dict[float, Tensor] = {}
        self.pair_offsets: dict[float, Tensor] = {}
        for cutoff in self.cutoffs:
            lists = [
                neighbour_list(f.positions, f.cell, f.pbc, cutoff, name) for f, name in zip(frames, names, strict=True)
            ]
            self.pair_counts[cutoff] = torch.tensor([len(i) for i, _, _ in lists], device=_CPU)
            self.pair_offsets[cutoff] = _offsets(self.pair_counts[cutoff])
            i, j, shifts = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*lists, strict=True))
            self.pairs[cutoff] = (i, j, shifts.to(torch.float64))

    def __len__(self) -> int:
        return len(self.sizes)

    def select(self, indices: Sequence[int] | Tensor) -> tuple[Batch, Labels]:
        """Draw frames into a float64 batch with their labels.

        Args:
            indices: Positions of the frames in this collection, in the order wanted.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=_CPU)
        sizes = self.sizes[chosen]
        systems = torch.arange(len(chosen), device=_CPU)
        atoms = _ragged_index(self.atom_offsets[chosen], sizes)
        starts = _offsets(sizes)
        system = systems.repeat_interleave(sizes)
        periodic = bool(self.pbc[chosen].any())
        neighbours = {}
        for cutoff in self.cutoffs:
            counts = self.pair_counts[cutoff][chosen]
            edges = _ragged_index(self.pair_offsets[cutoff][chosen], counts)
            i, j, shifts = (values[edges] for values in self.pairs[cutoff])
            first = starts.repeat_interleave(counts)
            neighbours[cutoff] = Neighbours(i + first, j + first, shifts if periodic else None)
        batch = Batch(
            positions=self.positions[atoms],
            numbers=self.numbers[atoms],
            system=system,
            slot=torch.arange(len(atoms), device=_CPU) - starts[system],
            cell=self.cell[chosen],
            pbc=self.pbc[chosen],
            charge=self.charge[chosen],
            multiplicity=self.multiplicity[chosen],
            neighbours=neighbours,
        )
        values = {}
        for name, label in arrays().items():
            if label.per in ("system", "atom"):
                values[name] = self._values[name][chosen if label.per == "system" else atoms]
            elif label.per == "pair" and self._present[name][chosen].any():
                sides = (label.shape[0] if label.shape else 1) * sizes
                largest = int(sides.max())
                # elements of each matrix in row-major order, placed at (system, row, column) of the padded block
                side = torch.where(self._present[name][chosen], sides, 0)
                owner = systems.repeat_interleave(side**2)
                element = torch.arange(len(owner), device=_CPU) - _offsets(side**2)[owner]
                values[name] = torch.zeros(len(chosen), largest, largest, dtype=torch.float64, device=_CPU)
                source = self._values[name][self._offsets[name][chosen][owner] + element]
                values[name][owner, element // side[owner], element % side[owner]] = source
        n_probes = self.n_probes[chosen]
        if n_probes.any():
            counts = n_probes * sizes
            rows = _ragged_index(self._offsets["probes"][chosen], counts)
            owner = systems.repeat_interleave(counts)
            element = torch.arange(len(owner), device=_CPU) - _offsets(counts)[owner]
            k, atom = element // sizes[owner], element % sizes[owner] + starts[owner]
            for name in ("probes", "hvp"):
                values[name] = torch.zeros(int(n_probes.max()), len(atoms), 3, dtype=torch.float64, device=_CPU)
                values[name][k, atom] = self._values[name][rows]
        labels = Labels(
            values=values,
            present={name: mask[chosen] for name, mask in self._present.items()},
            n_probes=n_probes,
            frame_id=self.frame_id[chosen],
        )
        return batch, labels


def collate(
    frames: Sequence[Frame], cutoffs: Sequence[float], names: Sequence[str] | None = None
) -> tuple[Batch, Labels]:
    """Pack frames into one float64 batch with their labels, in the order given (arguments as of ``PackedFrames``)."""
    return PackedFrames(frames, cutoffs, names).select(range(len(frames)))


def _offsets(counts: Tensor) -> Tensor:
    return torch.cumsum(counts, 0) - counts


def _ragged_index(offsets: Tensor, counts: Tensor) -> Tensor:
    owner = torch.arange(len(counts), device=_CPU).repeat_interleave(counts)
    return offsets[owner] + torch.arange(len(owner), device=_CPU) - _offsets(counts)[owner]


def _flat(frames: Sequence[Frame], name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(np.concatenate([getattr(f, name) for f in frames]), dtype=dtype, device=_CPU)
