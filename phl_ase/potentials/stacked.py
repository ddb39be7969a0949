"""Members of a committee as one network: the same layers, weights with a leading axis of members.

Small molecules keep a processor waiting for the next operation, not for arithmetic; one pass over the members side by
side takes as many operations as one member.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from phl_ase.potentials.painn import PaiNN
from phl_ase.structures import Batch, Neighbours


def side_by_side(batch: Batch, copies: int) -> Batch:
    """Return a batch repeated: system s of copy c becomes system c · systems + s.

    Positions and cells stay differentiable.
    """

    def repeated(values: Tensor) -> Tensor:
        return values.repeat(copies, *[1] * (values.dim() - 1))

    def shifted(indices: Int[Tensor, " any"], by: int) -> Int[Tensor, " more"]:
        offsets = by * torch.arange(copies, device=indices.device)
        return (indices + offsets.unsqueeze(1)).reshape(-1)

    atoms = len(batch.numbers)
    neighbours = {
        cutoff: Neighbours(
            shifted(pairs.i, atoms),
            shifted(pairs.j, atoms),
            None if pairs.shifts is None else repeated(pairs.shifts),
        )
        for cutoff, pairs in batch.neighbours.items()
    }
    names = ("positions", "numbers", "slot", "cell", "pbc", "charge", "multiplicity")
    return dataclasses.replace(
        batch,
        **cast(dict[str, Any], {name: repeated(getattr(batch, name)) for name in names}),
        system=shifted(batch.system, batch.n_systems),
        neighbours=neighbours,
        atom_mask=None if batch.atom_mask is None else repeated(batch.atom_mask),
    )


class StackedLinear(nn.Module):
    """Linear layers side by side: rows of the input are those of the first member, then of the second, ….

    Args:
        layers: One of each member, all of one shape.
    """

    bias: Tensor | None

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.members = len(layers)
        self.register_buffer("weight", torch.stack([layer.weight.detach().T for layer in layers]))
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self.register_buffer("bias", torch.stack(biases).unsqueeze(1) if biases else None)

    def forward(self, x: Tensor) -> Tensor:
        """``(members · rows, …, inputs)`` to ``(members · rows, …, outputs)``."""
        weight = cast(Tensor, self.weight)
        width, outputs = weight.shape[1:]
        # no -1: an isolated atom has no pairs
        blocks = x.reshape(self.members, x.numel() // (self.members * width), width)
        mapped = torch.bmm(blocks, weight) if self.bias is None else torch.baddbmm(self.bias, blocks, weight)
        return mapped.reshape(*x.shape[:-1], outputs)


class StackedPaiNN(PaiNN):
    """Several PaiNNs of one architecture; takes batches made by :func:`side_by_side`, each member its copy.

    Args:
        members: Their weights are copied.
    """

    takes_blocks = False

    def __init__(self, members: Sequence[PaiNN]) -> None:
        super().__init__(members[0].config)
        self.members = len(members)
        for name, _ in [(n, m) for n, m in self.named_modules() if isinstance(m, nn.Linear)]:
            parent, _, own = name.rpartition(".")
            setattr(
                self.get_submodule(parent),
                own,
                StackedLinear([cast(nn.Linear, m.get_submodule(name)) for m in members]),
            )
        self.embedding = nn.Parameter(torch.cat([m.embedding.detach() for m in members]), requires_grad=False)
        self.register_buffer("reference_energies", torch.cat([m.reference_energies for m in members]))
        self.register_buffer("scale", torch.stack([m.scale for m in members]))
        self.core = members[0].core
        self.to(dtype=members[0].embedding.dtype, device=members[0].embedding.device).requires_grad_(False).eval()

    def tables(self, batch: Batch) -> tuple[Int[Tensor, " atoms"], Float[Tensor, " atoms"]]:
        """Row of each atom in the tables of species, one table after the other, and its member's energy scale."""
        atoms = len(batch.numbers) // self.members
        member = torch.arange(self.members, device=batch.numbers.device).repeat_interleave(atoms)
        rows = self.species_index[batch.numbers] + len(self.species) * member
        return rows, self.scale[member]


STACKED: dict[type, Callable[[Sequence[Any]], Any]] = {PaiNN: StackedPaiNN}
"""Architecture -> what evaluates several of its models at once."""


def stacked(members: Sequence[Any]) -> Any | None:
    """Models of one architecture as one; ``None`` where they differ, or their architecture has no such form."""
    kinds = {type(member) for member in members}
    kind = next(iter(kinds))
    if len(members) < 2 or len(kinds) > 1 or kind not in STACKED:
        return None
    cards = [member.card() for member in members]
    dtypes = {value.dtype for member in members for value in member.parameters()}
    return STACKED[kind](members) if all(card == cards[0] for card in cards) and len(dtypes) == 1 else None
