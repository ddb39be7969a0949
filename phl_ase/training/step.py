"""One optimiser step's loss and gradient: Hessian rows in chunks under a memory budget, everything else once."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from phl_ase.derivatives import GradientGraph, rows_per_chunk, stress_of
from phl_ase.errors import NonFiniteError
from phl_ase.objective import TERMS, CompiledLoss, predictions_by_differences
from phl_ase.objective.terms import needs_beside_energy
from phl_ase.potentials import Model
from phl_ase.structures import Batch, Labels, Potential, Predictions, blocks_pay, in_blocks, predicted

# graphs of an HVP that is differentiated again keep about this many times what the gradient's graph keeps
_TRAINING_FACTOR = 3


class Abandoned(Exception):
    """A step was left unfinished because the run is to stop; its gradients are worth nothing."""


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
    """Return the number of systems that carry the label of each weighted term; from a GPU in one transfer."""
    if not weights:
        return {}
    present = torch.stack([TERMS[name].present(labels) for name in weights])
    return dict(zip(weights, present.sum(-1).tolist(), strict=True))


def accumulate_gradients(
    potential: Model,
    batch: Batch,
    labels: Labels,
    weights: Mapping[str, float],
    *,
    memory_budget: int,
    counts: Mapping[str, int] | None = None,
    compiled: CompiledLoss | None = None,
    differences: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> StepResult:
    """Add the gradient of the loss to the ``.grad`` of the potential's parameters.

    Args:
        potential: The model.
        batch: The systems.
        labels: Their labels, curvature targets drawn.
        weights: Weight of each term; terms of weight 0 should be left out, they would be paid for.
        memory_budget: Bytes for the Hessian rows taken together.
        counts: Global label counts when the batch is one process's share of a larger one.
        compiled: The compiled loss, taken where it can be; Hessian rows then one by one.
        differences: Take HVPs as differences of gradients, one probe after the other.
        stop: Asked between chunks of rows whether to leave off.

    Raises:
        Abandoned: When it says so.
        NonFiniteError: When the loss is not finite, naming frames and term.
    """
    local = label_counts(labels, weights)
    total = dict(counts) if counts is not None else local
    if getattr(potential, "takes_blocks", False):
        work = "training" if compiled is None else "compiled training"
        batch, labels = in_blocks(batch, labels) if blocks_pay(batch, work) else (batch, labels)
    # of terms without labels nothing is computed
    mean = {name: weight / max(total[name], 1) for name, weight in weights.items() if local[name]}
    if not mean:
        return StepResult(dict.fromkeys(weights, 0.0), local)
    sums = None if compiled is None else _compiled_sums(compiled, potential, batch, labels, mean, stop)
    if sums is None:
        by_differences = differences and "curvature" in mean
        parts = _by_differences if by_differences else functools.partial(_predictions, memory_budget=memory_budget)
        chunks = parts(potential, batch, labels, mean, stress="stress" in weights)
        sums = _eager_sums(potential, batch, mean, chunks, stop)
    return StepResult(dict.fromkeys(weights, 0.0) | sums, local)


def _eager_sums(
    potential: Model, batch: Batch, mean: Mapping[str, float], parts: Iterator[_Part], stop: Callable[[], bool]
) -> dict[str, float]:
    """Sums of the terms, gradients of their weighted sum added to the parameters, Hessian rows in parts."""
    sums = dict.fromkeys(mean, 0.0)
    parameters = _trainable(potential)
    for predictions, part_labels, names, last in parts:
        terms = {name: TERMS[name].total(batch, predictions, part_labels) for name in names}
        loss = sum(mean[name] * value for name, value in terms.items())
        if isinstance(loss, Tensor) and loss.requires_grad:
            # towards the parameters only: what leads back to the positions alone is not differentiated a third time
            loss.backward(retain_graph=not last, inputs=parameters)
        # read after everything has been asked for, and in one transfer: a GPU is not waited for in between
        totals = torch.stack([value.detach().double() for value in terms.values()]).tolist()
        for name, value in zip(terms, totals, strict=True):
            sums[name] += value
            if not math.isfinite(value):
                values = TERMS[name].values(batch, predictions, part_labels)
                frames = part_labels.frame_id[~torch.isfinite(values)].tolist()
                raise NonFiniteError(f"the {name} loss is not finite for frames {frames[:8]}")
        if not last and stop():
            raise Abandoned
    return sums


def _trainable(potential: Model) -> list[torch.nn.Parameter]:
    return [p for p in potential.parameters() if p.requires_grad]


def _compiled_sums(
    compiled: CompiledLoss,
    potential: Model,
    batch: Batch,
    labels: Labels,
    mean: Mapping[str, float],
    stop: Callable[[], bool],
) -> dict[str, float] | None:
    """Sums of the terms, gradients added to the parameters; ``None`` and nothing added where eager mode must do it.

    That is also the case where a loss is not finite: eager mode says which frame's.
    """
    sums = dict.fromkeys(mean, 0.0)
    gradients: list[Tensor] | None = None
    for row in range(len(labels.probes)) if "curvature" in mean and labels.probes is not None else [None]:
        if row and stop():
            raise Abandoned
        one = _some_probes(labels, None if row is None else slice(row, row + 1))
        # one function for every row: after the first the other terms weigh nothing
        weights = mean if not row else {name: w if name == "curvature" else 0.0 for name, w in mean.items()}
        done = compiled(batch, one, weights)
        if done is None or not all(math.isfinite(value) for value in done[0].values()):
            return None
        sums = {name: sums[name] + (done[0][name] if weights[name] or not row else 0.0) for name in sums}
        gradients = done[1] if gradients is None else [a + b for a, b in zip(gradients, done[1], strict=True)]
    for parameter, gradient in zip(_trainable(potential), gradients or (), strict=True):
        if parameter.grad is None:
            # laid out like the parameter: fused optimisers take both by their places in memory
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad += gradient
    return sums


def _some_probes(labels: Labels, rows: slice | None) -> Labels:
    if rows is None or labels.probes is None:
        return labels.replaced(probes=None, hvp=None)
    return labels.replaced(probes=labels.probes[rows], hvp=labels["hvp"][rows])


_Part = tuple[Predictions, Labels, list[str], bool]
"""Predictions to take the loss of, their labels, the terms to add, and whether the graph is not needed any more."""


def _by_differences(
    potential: Potential, batch: Batch, labels: Labels, names: Mapping[str, float], *, stress: bool
) -> Iterator[_Part]:
    """A part for each probe, from gradients at two places; the first gives the other terms too."""
    assert labels.probes is not None  # the term of curvature is there where systems carry HVPs
    for row in range(len(labels.probes)):
        rows = slice(row, row + 1)
        one = _some_probes(labels, rows)
        predictions = predictions_by_differences(potential, batch, labels.probes[rows], stress=stress)
        if not row:
            extra = predicted(potential, batch, needs_beside_energy(list(names)))
            predictions = dataclasses.replace(predictions, extra=extra)
        yield predictions, one, ["curvature"] if row else list(names), True


def _predictions(
    potential: Potential, batch: Batch, labels: Labels, names: Mapping[str, float], *, memory_budget: int, stress: bool
) -> Iterator[_Part]:
    """Chunks of HVPs that fit together."""
    graph = GradientGraph(
        potential,
        batch,
        curvature="curvature" in names,
        measured=labels.probes is not None and len(labels.probes) > 1,
        stress=stress,
        create_graph=True,
    )
    predictions = Predictions(
        energy=graph.energy,
        forces=-graph.gradient,
        stress=None if graph.strain_gradient is None else stress_of(batch, graph.strain_gradient),
        extra=predicted(potential, batch, needs_beside_energy(list(names))),
    )
    if "curvature" not in names or labels.probes is None:
        yield predictions, labels, list(names), True
        return
    chunk = rows_per_chunk(_TRAINING_FACTOR * graph.saved_bytes, memory_budget)
    starts = range(0, len(labels.probes), chunk)
    for start in starts:
        rows = slice(start, start + chunk)
        part = dataclasses.replace(predictions, hvp=graph.hvp(labels.probes[rows]))
        yield part, _some_probes(labels, rows), list(names) if start == 0 else ["curvature"], start == starts[-1]
