"""Potentials made of potentials: what sums and committees share, and sums (model + dispersion)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from phl_ase.errors import PHLError
from phl_ase.structures import Batch, Potential, energies_of, require_known_elements


class Combination(nn.Module):
    """Base class of sums and committees; members that are modules bring their parameters along.

    Attributes:
        members: The potentials, in the order given.
        species: Those that every member knows; empty when every member takes any.
        cutoffs: Those of all members, ascending, Å.
        receptive_field: The largest of the members, Å.
        derivative_modes: Those that every member has, in the order of the first.
        takes_blocks: Whether every member is faster on batches in blocks.
    """

    members: Sequence[Potential]

    def __init__(self, members: Iterable[Potential]) -> None:
        super().__init__()
        members = tuple(members)
        if not members:
            raise PHLError(f"a {type(self).__name__} needs at least one potential; got none")
        if all(isinstance(m, nn.Module) for m in members):
            self.members = nn.ModuleList(members)  # type: ignore[arg-type, assignment]
        else:
            self.modules_among_members = nn.ModuleList(m for m in members if isinstance(m, nn.Module))
            self.members = members
        known = [set(m.species) for m in members if m.species]
        self.species = tuple(sorted(set.intersection(*known))) if known else ()
        if known and not self.species:
            raise PHLError(
                f"potentials of species {', '.join(str(sorted(k)) for k in known)} have none in common; "
                "combine potentials that know the same elements"
            )
        self.cutoffs = tuple(sorted({cutoff for m in members for cutoff in m.cutoffs}))
        self.receptive_field = max(m.receptive_field for m in members)
        self.takes_blocks = all(getattr(m, "takes_blocks", False) for m in members)
        shared = set.intersection(*(set(m.derivative_modes) for m in members))
        self.derivative_modes = tuple(mode for mode in members[0].derivative_modes if mode in shared)

    def energies(self, batch: Batch) -> Float[Tensor, "members systems"]:
        """Return the energy of each member, eV, float64.

        Raises:
            PHLError: For an element that a member does not know, or a member that returns something else than energies.
        """
        require_known_elements(self.species, batch)
        return torch.stack([energies_of(member, batch).double() for member in self.members])


class Sum(Combination):
    """The sum of potentials, for example a model and its dispersion correction.

    Takes charge where any member does.

    Args:
        members: One or more potentials.

    Raises:
        PHLError: For no members, or members without a common species.
    """

    def __init__(self, members: Iterable[Potential]) -> None:
        super().__init__(members)
        self.takes_charge = any(m.takes_charge for m in self.members)

    def forward(self, batch: Batch) -> Float[Tensor, " systems"]:
        """Return energies in eV, float64."""
        return self.energies(batch).sum(0)
