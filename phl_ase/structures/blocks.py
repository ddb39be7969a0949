"""Batches of molecules in blocks: every system takes as many rows as the largest, so that messages between the atoms of
a system are products of small dense matrices instead of operations on long lists of pairs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from phl_ase.structures.batch import Batch, Labels, Neighbours
from phl_ase.structures.contracts import Potential

FILLED = 0.15
"""Least share of the places (i, j) of all blocks that pairs must fill: a place takes about a fifth of a listed pair."""

SMALL = 400
"""Pairs of a batch below which eager operations wait for each other rather than for arithmetic."""

FEW = 150
"""The same where nothing is trained: forces of 12 atoms take 0.9 of the time of lists, of 17 0.8, of 62 0.3 to 0.7."""

SPARSE = 0.1
"""Least share of the places where nothing is trained: water fills 0.1 with 360 atoms (forces take 0.4 to 0.7 of what
lists take), an alkane with 200 (0.4 in float64, as long in float32). Blocks keep a quarter of the memory."""

CROWDED, SPARSE_AND_CROWDED = 20_000, 0.04
"""Pairs from which lists no longer fit a processor's cache, and the least share then: 2,000 atoms of diamond fill 0.044
and take half of the time, 999 of water 0.042 and 0.8."""

FULL = 0.8
"""Least share of rows that are atoms, where nothing is trained: batches are not packed by size."""

LARGE = 8
"""Atoms of the largest system from which Hessians gain: 0.9 of the time of lists at 8 atoms, 0.5 at 17, 0.3 at 48."""

FILLED_HESSIANS = 0.3
"""Least share for Hessians: a chain of 50 atoms fills 0.36 and takes 0.6 of the time, a mixture of 5 to 14 atoms 0.47
and 0.85."""


@dataclass(frozen=True, eq=False)
class BlockedNeighbours(Neighbours):
    """Pairs of a batch in which every system has the same number of rows, padded atoms included.

    The number of rows is that of all atoms over that of the systems; atom ``i`` has the slot ``i`` modulo it.
    """


torch.export.register_dataclass(BlockedNeighbours)


def blocks_pay(batch: Batch, *, least_pairs: int = SMALL) -> bool:
    """Whether enough pairs interact for dense blocks to be less work than lists, and no system is mostly padding.

    Args:
        batch: Systems without padding.
        least_pairs: Below this lists take fewer operations, and no operation has much to do.
    """
    pairs, rows = _pairs_and_rows(batch)
    return pairs >= max(least_pairs, FILLED * batch.n_systems * rows**2)


def blocks_pay_for_forces(batch: Batch) -> bool:
    """The same for energies, forces and single products of a model that is not trained.

    Args:
        batch: Systems without padding.
    """
    pairs, rows = _pairs_and_rows(batch)
    least = SPARSE if pairs < CROWDED else SPARSE_AND_CROWDED
    full = len(batch.numbers) >= FULL * batch.n_systems * rows
    return full and pairs >= max(FEW, least * batch.n_systems * rows**2)


def blocks_pay_for_hessians(batch: Batch) -> bool:
    """The same where rows of Hessians are computed many at a time: arithmetic counts, however few the pairs are.

    Args:
        batch: Systems without padding.
    """
    pairs, rows = _pairs_and_rows(batch)
    return (rows >= LARGE and pairs >= FILLED_HESSIANS * batch.n_systems * rows**2) or blocks_pay_for_forces(batch)


def _pairs_and_rows(batch: Batch) -> tuple[int, int]:
    """Pairs of the batch, atoms of its largest system."""
    pairs = max((len(pairs.i) for pairs in batch.neighbours.values()), default=0)
    return pairs, int(batch.sizes().max())


def blocked(batch: Batch) -> tuple[Batch, Int[Tensor, " atoms"]]:
    """The same systems in blocks; padded atoms are masked, far from nothing and bound to nobody.

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
        atom_mask=_mask(place, total),
        neighbours={
            cutoff: BlockedNeighbours(place[pairs.i], place[pairs.j], pairs.shifts)
            for cutoff, pairs in batch.neighbours.items()
        },
    )
    return spread, place


def in_blocks(batch: Batch, labels: Labels) -> tuple[Batch, Labels]:
    """Systems and their labels in blocks.

    Args:
        batch: Systems without padding.
        labels: Their labels.

    Returns:
        The batch as :func:`blocked` makes it, and the labels, zero where atoms are padded. The labels' dense Hessians
        are left as they are.
    """
    spread, place = blocked(batch)
    total = len(spread.numbers)
    return spread, dataclasses.replace(
        labels,
        forces=_spread(labels.forces, place, total),
        probes=None if labels.probes is None else _spread(labels.probes, place, total, 1),
        products=None if labels.products is None else _spread(labels.products, place, total, 1),
    )


def in_faster_form(
    potential: Potential, batch: Batch, *, hessians: bool = False
) -> tuple[Batch, Int[Tensor, " atoms"] | None]:
    """The systems in blocks where the potential is faster on them, else as they are.

    Args:
        potential: Who will be asked for their energies and derivatives; nothing of it is trained.
        batch: The systems.
        hessians: Whether many products are wanted.

    Returns:
        The batch, and the row of each atom in it; ``None`` where rows are what they were.
    """
    if batch.atom_mask is not None or not getattr(potential, "takes_blocks", False):
        return batch, None
    pays = blocks_pay_for_hessians(batch) if hessians else blocks_pay_for_forces(batch)
    return blocked(batch) if pays else (batch, None)


def _spread(values: Tensor, place: Int[Tensor, " atoms"], total: int, axis: int = 0) -> Tensor:
    shape = (*values.shape[:axis], total, *values.shape[axis + 1 :])
    return values.new_zeros(shape).index_copy(axis, place, values)


def _mask(place: Int[Tensor, " atoms"], total: int) -> Bool[Tensor, " rows"]:
    return torch.zeros(total, dtype=torch.bool, device=place.device).index_fill(0, place, True)
