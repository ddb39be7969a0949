"""Loss terms: pure functions of (batch, predictions, labels), written once for every evaluator.

A term gives one value per system; the loss is Σ_terms w · (sum over the systems that carry the label) / (their number),
with global counts, so that a batch split over processes or rows taken in chunks change nothing. Every term is a mean
square, so its root is an error with a unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from phl_ase.structures import Batch, Labels, Predictions


@dataclass(frozen=True)
class LossTerm:
    """One term of the loss.

    Attributes:
        name: Its name in configurations and logs.
        needs: What an evaluator must fill.
        present: Which systems carry the label.
        values: The term of each system; only those of systems that carry the label are used.
        unit: Unit of the root of the term.
    """

    name: str
    needs: str
    present: Callable[[Labels], Bool[Tensor, " systems"]]
    values: Callable[[Batch, Predictions, Labels], Float[Tensor, " systems"]]
    unit: str

    def total(self, batch: Batch, predictions: Predictions, labels: Labels) -> Float[Tensor, ""]:
        """The sum over the systems that carry the label; 0 with a zero gradient where none does."""
        return torch.where(self.present(labels), self.values(batch, predictions, labels), 0.0).sum()


def _energy(batch: Batch, predictions: Predictions, labels: Labels) -> Tensor:
    return ((predictions.energy - labels.energy) / batch.sizes()).square()


def _forces(batch: Batch, predictions: Predictions, labels: Labels) -> Tensor:
    return _per_system(batch, (_filled(predictions.forces) - labels.forces).square().sum(-1)) / (3 * batch.sizes())


def _stress(batch: Batch, predictions: Predictions, labels: Labels) -> Tensor:
    return (_filled(predictions.stress) - labels.stress).square().mean((-1, -2))


def _curvature(batch: Batch, predictions: Predictions, labels: Labels) -> Tensor:
    # (1/K) Σ_k ‖D v_k‖² / (3n)²; rows beyond a system's own K are zero on both sides
    squared = (_filled(predictions.hvp) - _filled(labels.hvp)).square().sum((0, 2))
    return _per_system(batch, squared) / labels.n_probes.clamp(min=1) / (3 * batch.sizes()).square()


def _per_system(batch: Batch, values: Tensor) -> Tensor:
    return values.new_zeros(batch.n_systems).index_add(0, batch.system, values)


def _filled(value: Tensor | None) -> Tensor:
    if value is None:
        raise RuntimeError("an evaluator did not fill what a loss term needs")
    return value


TERMS: dict[str, LossTerm] = {
    term.name: term
    for term in (
        LossTerm("energy", "energy", lambda labels: labels.has_energy, _energy, "eV/atom"),
        LossTerm("forces", "forces", lambda labels: labels.has_forces, _forces, "eV/Å"),
        LossTerm("stress", "stress", lambda labels: labels.has_stress, _stress, "eV/Å³"),
        LossTerm("curvature", "hvp", lambda labels: labels.n_probes > 0, _curvature, "eV/Å²"),
    )
}
