"""Loss terms: pure functions of (batch, predictions, labels), written once for every evaluator.

A term gives one value per system; the loss is Σ_terms w · (sum over the systems that carry the label) / (their number),
with global counts, so that a batch split over processes or rows taken in chunks change nothing. Every term is a mean
square, so its root is an error with a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from phl_ase.errors import PHLError
from phl_ase.structures import Batch, Label, Labels, Predictions
from phl_ase.structures.label import LABELS, OWN, label_of, labels

Values = Callable[[Batch, Predictions, Labels], Float[Tensor, " systems"]]
"""The value of a term for each system."""


@dataclass(frozen=True)
class LossTerm:
    """One term of the loss.

    Attributes:
        name: Its name in configurations and logs.
        label: The label that it learns.
        values: The term of each system; only those of systems that carry the label are used.
        unit: Unit of the root of the term.
        needs: The quantity that an evaluator must fill; the label where nothing is said.
    """

    name: str
    label: str
    values: Values
    unit: str
    needs: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", self.needs or self.label)

    def present(self, labels: Labels) -> Bool[Tensor, " systems"]:
        """Return which systems carry the label."""
        return labels.carried(self.label)

    def total(self, batch: Batch, predictions: Predictions, labels: Labels) -> Float[Tensor, ""]:
        """Return the sum over the systems that carry the label; 0 with a zero gradient where none does."""
        return torch.where(self.present(labels), self.values(batch, predictions, labels), 0.0).sum()


def mean_square(label: Label) -> LossTerm:
    """Return the term of a label that has its name: the mean square error of its components.

    Args:
        label: Per system or per atom.
    """

    def per_system(batch: Batch, predictions: Predictions, labels: Labels) -> Tensor:
        squares = (predicted_value(predictions, label.name) - labels[label.name]).square()
        return squares.mean(tuple(range(1, squares.dim()))) if label.shape else squares

    def per_atom(batch: Batch, predictions: Predictions, labels: Labels) -> Tensor:
        squares = (predicted_value(predictions, label.name) - labels[label.name]).square()
        components = torch.Size(label.shape).numel()
        sums = squares.sum(tuple(range(1, squares.dim()))) if label.shape else squares
        return _per_system(batch, sums) / (components * batch.sizes())

    return LossTerm(label.name, label.name, {"system": per_system, "atom": per_atom}[label.per], label.unit)


def predicted_value(predictions: Predictions, name: str) -> Tensor:
    """Return a prediction that a loss term needs.

    Raises:
        RuntimeError: When the evaluator did not fill it.
    """
    value = predictions.get(name)
    if value is None:
        raise RuntimeError(f"an evaluator did not fill {name}, which a loss term needs")
    return value


def _curvature(batch: Batch, predictions: Predictions, labels: Labels) -> Tensor:
    # (1/K) Σ_k ‖D v_k‖² / (3n)²; rows beyond a system's own K are zero on both sides
    squared = (predicted_value(predictions, "hvp") - labels["hvp"]).square().sum((0, 2))
    return _per_system(batch, squared) / labels.n_probes.clamp(min=1) / (3 * batch.sizes()).square()


def _per_system(batch: Batch, values: Tensor) -> Tensor:
    return values.new_zeros(batch.n_systems).index_add(0, batch.system, values)


TERMS: dict[str, LossTerm] = {
    term.name: term
    for term in (
        LossTerm("energy", "energy", lambda b, p, y: ((p.energy - y["energy"]) / b.sizes()).square(), "eV/atom"),
        mean_square(LABELS["forces"]),
        mean_square(LABELS["stress"]),
        LossTerm("curvature", "hvp", _curvature, "eV/Å²"),
    )
}
"""Name -> term; others are added by :func:`register_term`, see :func:`terms`."""


def terms() -> Mapping[str, LossTerm]:
    """Return every term by its name: those of the package, then those of packages that declare labels."""
    labels()  # loads these packages
    return TERMS


def register_term(term: LossTerm) -> LossTerm:
    """Declare a term, so that configurations can give it a weight: ``loss.NAME``.

    Args:
        term: For example ``mean_square(label)`` of a label that was declared.

    Returns:
        The term.

    Raises:
        PHLError: For a name that is taken, or an unknown label or need.
    """
    label_of(term.label), label_of(term.needs)
    if term.name in TERMS or term.name == "curvature_ramp":
        raise PHLError(f"there is a loss term {term.name!r}; choose another name")
    TERMS[term.name] = term
    return term


def needs_beside_energy(names: list[str]) -> list[str]:
    """Return what terms need that is no derivative of the energy, and so predicted by itself."""
    return sorted({TERMS[name].needs for name in names} - {*OWN})
