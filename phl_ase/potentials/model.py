"""Base class of potentials that are trained here and stored in our model files."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from phl_ase.structures import Batch, require_known_elements

DTYPES = {"float32": torch.float32, "float64": torch.float64}
"""Name of a dtype that potentials are evaluated in -> torch's."""


class KeepsFloat64(torch.nn.Module):
    """A module whose own float64 buffers stay so, digit for digit, whatever its weights are converted to."""

    def _apply(self, fn, recurse=True):
        kept = {name: value for name, value in self._buffers.items() if value is not None}
        super()._apply(fn, recurse)
        for name, value in kept.items():
            if value.dtype == torch.float64:
                self._buffers[name] = value.to(getattr(self, name).device)
        return self


class Model(KeepsFloat64):
    """A trainable Potential.

    Attributes:
        reference_energies: Energy per species ``(species,)`` eV, in the order of ``species``.
        scale: Energy scale, eV.
        takes_blocks: Whether it is faster on batches in blocks (``structures.in_blocks``).
        predicts: Labels of other packages that its method ``predict`` returns.
        provenance: What its card says of it: level of theory, data, scheme, errors, versions.
    """

    species: tuple[int, ...]
    cutoffs: tuple[float, ...]
    receptive_field: float
    derivative_modes: tuple[str, ...] = ("func", "batched", "loop")
    takes_charge: bool = False
    takes_blocks: bool = False
    predicts: tuple[str, ...] = ()
    reference_energies: Tensor
    scale: Tensor
    provenance: dict[str, Any]

    @abstractmethod
    def forward(self, batch: Batch) -> Float[Tensor, " systems"]:
        """Return energies in eV, float64."""

    @abstractmethod
    def card(self) -> dict[str, Any]:
        """Architecture as plain data, enough to build the model again: ``architecture`` and ``config``."""

    @abstractmethod
    def set_references(self, energies: Tensor, scale: float) -> None:
        """Set the energy per species (eV, in the order of ``species``) and the energy scale (eV)."""

    def __call__(self, batch: Batch) -> Float[Tensor, " systems"]:
        """Return energies in eV, float64.

        Raises:
            PHLError: For an element that it does not know.
        """
        require_known_elements(self.species, batch)
        energy: Tensor = super().__call__(batch)
        return energy
