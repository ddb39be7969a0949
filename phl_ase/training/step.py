"""One optimiser step's loss and gradient: Hessian rows in chunks under a memory budget, everything else once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from phl_ase.derivatives import GradientGraph, rows_per_chunk, stress_of
from phl_ase.errors import NonFiniteError
from phl_ase.objective import TERMS
from phl_ase.potentials import Model
from phl_ase.structures import Batch, Labels, Potential, Predictions

# graphs of a product that is differentiated again keep about this many times what the gradient's graph keeps
_TRAINING_FACTOR = 3

Evaluator = Callable[[Batch, Tensor | None], Predictions]


@dataclass(frozen=True)
class StepResult:
    """Sums and counts of each term over a batch.

    Attributes:
        sums: Sum of the term over the systems that carry its label.
        counts: Number of those systems.
    """

    sums: dict[str, float]
    counts: dict[str, int]


def label_counts(labels: Labels, weights: Mapping[str, float]) -> dict[str, int]:
    """Number of systems that carry the label of each weighted term."""
    return {name: int(TERMS[name].present(labels).sum()) for name in weights}


def accumulate_gradients(
    potential: Model,
    batch: Batch,
    labels: Labels,
    weights: Mapping[str, float],
    *,
    memory_budget: int,
    counts: Mapping[str, int] | None = None,
    compiled: Evaluator | None = None,
) -> StepResult:
    """Add the gradient of the loss to the ``.grad`` of the potential's parameters.

    Args:
        potential: The model.
        batch: The systems.
        labels: Their labels, curvature targets drawn.
        weights: Weight of each term; terms of weight 0 should be left out, they would be paid for.
        memory_budget: Bytes for the Hessian rows taken together.
        counts: Global label counts when the batch is one process's share of a larger one.
        compiled: The compiled evaluator, taken instead of the eager one.

    Raises:
        NonFiniteError: When the loss is not finite, naming frames and term.
    """
    local = label_counts(labels, weights)
    total = dict(counts) if counts is not None else local
    sums = dict.fromkeys(weights, 0.0)
    needs_hvp = "curvature" in weights and local["curvature"] > 0
    parameters = [p for p in potential.parameters() if p.requires_grad]
    parts = _predictions(potential, batch, labels, weights, needs_hvp, memory_budget, compiled)
    for predictions, part_labels, names, last in parts:
        terms = {name: TERMS[name].total(batch, predictions, part_labels) for name in names if local[name]}
        for name, value in terms.items():
            sums[name] += float(value.detach())
            if not torch.isfinite(value):
                raise NonFiniteError(_blame(name, batch, predictions, part_labels))
        loss = sum(weights[name] * value / max(total[name], 1) for name, value in terms.items())
        if isinstance(loss, Tensor) and loss.requires_grad:
            # towards the parameters only: what leads back to the positions alone is not differentiated a third time
            loss.backward(retain_graph=not last, inputs=parameters)
    return StepResult(sums, local)


def _predictions(
    potential: Potential,
    batch: Batch,
    labels: Labels,
    weights: Mapping[str, float],
    needs_hvp: bool,
    memory_budget: int,
    compiled: Evaluator | None,
) -> Iterator[tuple[Predictions, Labels, list[str], bool]]:
    """Predictions to take the loss of, chunk by chunk: (predictions, labels, terms to add, whether it is the last)."""
    names = [name for name in weights if needs_hvp or name != "curvature"]
    if compiled is not None:
        yield compiled(batch, labels.probes if needs_hvp else None), labels, names, True
        return
    graph = GradientGraph(
        potential,
        batch,
        curvature=needs_hvp,
        measured=labels.probes is not None and len(labels.probes) > 1,
        stress="stress" in weights,
        create_graph=True,
    )
    predictions = Predictions(
        energy=graph.energy,
        forces=-graph.gradient,
        stress=None if graph.strain_gradient is None else stress_of(batch, graph.strain_gradient),
    )
    if not needs_hvp or labels.probes is None or labels.products is None:
        yield predictions, labels, names, True
        return
    chunk = rows_per_chunk(_TRAINING_FACTOR * graph.saved_bytes, memory_budget)
    starts = range(0, len(labels.probes), chunk)
    for start in starts:
        rows = slice(start, start + chunk)
        part = dataclasses.replace(predictions, hvp=graph.products(labels.probes[rows]))
        part_labels = dataclasses.replace(labels, probes=labels.probes[rows], products=labels.products[rows])
        yield part, part_labels, names if start == 0 else ["curvature"], start == starts[-1]


def _blame(name: str, batch: Batch, predictions: Predictions, labels: Labels) -> str:
    values = TERMS[name].values(batch, predictions, labels)
    frames = labels.frame_id[~torch.isfinite(values)].tolist()
    return f"the {name} loss is not finite for frames {frames[:8]}"
