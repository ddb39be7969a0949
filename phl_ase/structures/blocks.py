"""Batches of molecules in blocks: every system takes as many rows as the largest, so that messages between the atoms of
a system are products of small dense matrices instead of operations on long lists of pairs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from phl_ase.structures.batch import Batch, Labels, Neighbours
from phl_ase.structures.contracts import Potential
from phl_ase.structures.label import arrays


@dataclass(frozen=True)
class Limits:
    """Least sizes of a batch from which dense blocks are faster than lists; all of them must be reached.

    A block has one place for every pair (i, j) of rows, and an operation on a place costs a part of one on a listed
    pair: blocks pay where enough places hold a pair, and enough pairs make arithmetic more than its overhead.

    Attributes:
        pairs: Pairs of the batch; with fewer of them operations wait for each other rather than for arithmetic.
        filled: Share of the places of all blocks that hold a pair.
        rows: Atoms of the largest system.
        atoms: Share of the rows that are atoms; the others are padding.
    """

    pairs: int = 0
    filled: float = 0.0
    rows: int = 0
    atoms: float = 0.0


_FORCES = (
    Limits(pairs=150, filled=0.1, atoms=0.8),  # unlike those of training, batches are not packed by size
    Limits(pairs=20_000, filled=0.04, atoms=0.8),  # lists no longer fit a processor's cache
)

LIMITS = {
    "training": (Limits(pairs=400, filled=0.15),),
    "compiled training": (Limits(filled=0.15),),  # one form for all batches, each form is compiled anew
    "forces": _FORCES,  # energies, forces and single Hessian-vector products
    "hessians": (Limits(rows=8, filled=0.3), *_FORCES),  # many rows at a time: arithmetic counts, few pairs or many
}
"""Work -> the limits of which one must be reached for it to be done in blocks."""


@dataclass(frozen=True, eq=False)
class BlockedNeighbours(Neighbours):
    """Pairs of a batch in which every system has the same number of rows, padded atoms included.

    The number of rows is that of all atoms over that of the systems; atom ``i`` has the slot ``i`` modulo it.
    """


torch.export.register_dataclass(BlockedNeighbours)


def blocks_pay(batch: Batch, work: str) -> bool:
    """Return whether dense blocks are faster than lists of pairs.

    Args:
        batch: Systems without padding.
        work: What is computed, a key of :data:`LIMITS`.
    """
    pairs = max((len(pairs.i) for pairs in batch.neighbours.values()), default=0)
    rows = int(batch.sizes().max())
    return any(
        pairs >= least.pairs
        and pairs >= least.filled * batch.n_systems * rows**2
        and rows >= least.rows
        and len(batch.numbers) >= least.atoms * batch.n_systems * rows
        for least in LIMITS[work]
    )


def blocked(batch: Batch) -> tuple[Batch, Int[Tensor, " atoms"]]:
    """Return systems in blocks; padded atoms are masked and have no neighbours.

    Args:
        batch: Systems without padding.

    Returns:
        The batch, its neighbours :class:`BlockedNeighbours`, and the row of each atom in it.
    """
    rows = int(batch.sizes().max())
    total = batch.n_systems * rows
    place = batch.system * rows + batch.slot
    systems = torch.arange(batch.n_systems, device=place.device)
    numbers = batch.numbers[:1].expand(total)  # padding takes a species that is known
    spread = dataclasses.replace(
        batch,
        positions=_spread(batch.positions, place, total),
        numbers=numbers.index_copy(0, place, batch.numbers),
        system=systems.repeat_interleave(rows),
        slot=torch.arange(rows, device=place.device).repeat(batch.n_systems),
        atom_mask=torch.zeros(total, dtype=torch.bool, device=place.device).index_fill(0, place, True),
        neighbours={
            cutoff: BlockedNeighbours(place[pairs.i], place[pairs.j], pairs.shifts)
            for cutoff, pairs in batch.neighbours.items()
        },
    )
    return spread, place


def in_blocks(batch: Batch, labels: Labels) -> tuple[Batch, Labels]:
    """Return systems and their labels in blocks.

    Args:
        batch: Systems without padding.
        labels: Their labels.

    Returns:
        The batch as :func:`blocked` makes it, and the labels, zero where atoms are padded. Matrices of pairs of
        atoms are left as they are.
    """
    spread, place = blocked(batch)
    total = len(spread.numbers)
    axes = {"atom": 0, "probe": 1}
    return spread, labels.replaced(
        **{
            name: _spread(value, place, total, axes[per])
            for name, value in labels.values.items()
            if (per := arrays()[name].per) in axes
        }
    )


def in_faster_form(
    potential: Potential, batch: Batch, *, hessians: bool = False
) -> tuple[Batch, Int[Tensor, " atoms"] | None]:
    """Return systems in blocks where the potential is faster on them, else as they are.

    Args:
        potential: Computes their energies and derivatives; nothing of it is trained.
        batch: The systems.
        hessians: Whether many HVPs are wanted.

    Returns:
        The batch, and the row of each atom in it; ``None`` where rows are what they were.
    """
    if batch.atom_mask is not None or not getattr(potential, "takes_blocks", False):
        return batch, None
    return blocked(batch) if blocks_pay(batch, "hessians" if hessians else "forces") else (batch, None)


def _spread(values: Tensor, place: Int[Tensor, " atoms"], total: int, axis: int = 0) -> Tensor:
    shape = (*values.shape[:axis], total, *values.shape[axis + 1 :])
    return values.new_zeros(shape).index_copy(axis, place, values)
