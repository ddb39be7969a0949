"""TorchANI (doi:10.1021/acs.jcim.0c00451): a model written whole by ``torch.save``.

All systems of a batch are one conformation to TorchANI: atomic energies from neighbours given to it, summed here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from ase.units import Hartree
from jaxtyping import Float
from torch import Tensor

from phl_ase.adapters.containment import vendor
from phl_ase.adapters.foreign import Foreign, existing, sum_atoms
from phl_ase.adapters.reading import called, read_plain_or_trusted
from phl_ase.errors import PHLError
from phl_ase.structures import Batch

_PACKAGE, _EXTRA = "torchani", "ani"


class AniEnergy(Foreign):
    """Energies of a TorchANI model.

    Args:
        module: A ``torchani.arch.ANI``, possibly an ensemble, with whatever pair potentials it holds.
    """

    vendor = "ani"
    written_whole = True
    atomic_energy_unit = Hartree

    def __init__(self, module: Any) -> None:
        cutoff = float(module.cutoff)
        if math.isinf(cutoff):
            raise PHLError("the TorchANI model has a potential without a cutoff; expected one with cutoffs alone")
        super().__init__(module, tuple(int(z) for z in module.atomic_numbers), cutoff, cutoff)
        self._neighbours = vendor("torchani.neighbors", _PACKAGE, _EXTRA).Neighbors

    def atomic_energies(self) -> tuple[Tensor, Tensor]:
        """Return the self energies, in the order of the model's elements."""
        table: Tensor = self.module.energy_shifter.self_energies  # type: ignore[union-attr, assignment]
        elements: Tensor = self.module.atomic_numbers  # type: ignore[assignment]
        return table, torch.argsort(elements)

    def forward(self, batch: Batch) -> Float[Tensor, " systems"]:
        """Return energies in eV, float64."""
        (cutoff,) = self.cutoffs
        pairs = batch.neighbours[cutoff]
        once = pairs.i < pairs.j
        if pairs.shifts is not None:  # an atom and its own images: one of each pair of opposite shifts
            a, b, c = pairs.shifts.unbind(1)
            ahead = (a > 0) | ((a == 0) & ((b > 0) | ((b == 0) & (c > 0))))
            once |= (pairs.i == pairs.j) & ahead
        # TorchANI's vectors run from the second atom to the first
        vectors = -batch.vectors(cutoff)[once]
        neighbours = self._neighbours(
            torch.stack([pairs.i, pairs.j])[:, once], torch.linalg.vector_norm(vectors, dim=-1), vectors
        )
        elements = self.module.species_converter(batch.numbers.unsqueeze(0))  # type: ignore[operator]
        result = self.module.compute_from_neighbors(  # type: ignore[operator]
            elements, batch.positions.unsqueeze(0), neighbours, atomic=True
        )
        return sum_atoms(batch, result.energies[0]) * Hartree


def load(file: str, *, trust: bool = False) -> AniEnergy:
    """Load a TorchANI model.

    Args:
        file: What ``torch.save(model, FILE)`` wrote.
        trust: Unpickle it with torch, which runs code of the file, where it holds more than TorchANI's modules.

    Raises:
        PHLError: For a missing package or file, one that is no TorchANI model, or one that needs trust.
    """
    path = existing(file)
    arch = vendor("torchani.arch", _PACKAGE, _EXTRA)
    module = read_plain_or_trusted(path, "ani", ("torchani",), {}, trust=trust)
    if not isinstance(module, arch.ANI):
        raise PHLError(
            f"{path.name}: holds {called(module)}; expected an ANI model, whole, as torch.save(model, FILE) writes"
        )
    return AniEnergy(module)
