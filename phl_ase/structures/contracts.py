"""The Potential protocol: what every model, analytic surface, sum, committee and adapter offers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from phl_ase.structures.batch import Batch


@runtime_checkable
class Potential(Protocol):
    """Energy only: forces, stress, HVPs and Hessians come from ``phl_ase.derivatives`` for every potential.

    Attributes:
        species: Atomic numbers it knows, ascending; empty when it takes any.
        cutoffs: Neighbour-list cutoffs it reads from a batch, Å.
        receptive_field: Distance beyond which atoms do not influence each other's energy, Å.
        derivative_modes: Which of ``"func"``, ``"batched"``, ``"loop"`` its second derivatives can be taken by,
            best first (``"func"``: torch.func transforms; ``"batched"``: vectorised reverse mode; ``"loop"``: one
            vector at a time).
        takes_charge: Whether energies depend on charge and multiplicity; a model that does not refuses charged
            systems.
    """

    species: tuple[int, ...]
    cutoffs: tuple[float, ...]
    receptive_field: float
    derivative_modes: tuple[str, ...]
    takes_charge: bool

    def __call__(self, batch: Batch) -> Float[Tensor, " systems"]:
        """Energies in eV, differentiable three times in the batch's positions (and cell)."""
        ...
