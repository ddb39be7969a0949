"""The whole loss and its gradient in the parameters as one compiled function of (parameters, batch, labels)."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from phl_ase.derivatives.compiled import CompileFailure, compiled
from phl_ase.derivatives.graph import GradientGraph, stress_of
from phl_ase.objective.displaced import predictions_by_differences
from phl_ase.objective.terms import TERMS, needs_beside_energy
from phl_ase.structures import (
    Batch,
    BlockedNeighbours,
    Labels,
    Neighbours,
    Predictions,
    require_known_elements,
)
from phl_ase.structures.label import arrays

_ATOMS = ("positions", "numbers", "system", "slot", "atom_mask")
_SYSTEMS = ("cell", "pbc", "charge", "multiplicity")
_CHECKS = 2
"""Of each function the results for this many batches of different size are compared with eager ones."""


class CompiledLoss:
    """Terms of the loss and the gradient of their weighted sum, compiled where that is possible.

    Compiles on first use, once for every set of terms; says so in one warning where it cannot, or where the first
    results differ from the eager ones, and then leaves the work to the caller.

    Args:
        model: A torch module; its parameters that require gradients are differentiated in.
        differences: Whether HVPs are differences of gradients.
    """

    def __init__(self, model: torch.nn.Module, *, differences: bool = False) -> None:
        self.model: Any = model
        self.differences = differences
        self.names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.failure: str | None = None
        self._functions: dict[tuple[Any, ...], Callable[..., Sequence[Tensor]]] = {}
        self._checked: dict[tuple[Any, ...], set[tuple[int, ...]]] = {}

    def __call__(
        self, batch: Batch, labels: Labels, weights: Mapping[str, float]
    ) -> tuple[dict[str, float], list[Tensor]] | None:
        """Return the sum of each term over the systems that carry its label, and the gradient of Σ weight · sum.

        Args:
            batch: The systems.
            labels: Their labels, with at most one probe each.
            weights: Of each term, already divided by its number of labels.

        Returns:
            ``None`` where nothing is compiled: after a failure, and for batches of one system, one atom or no pairs.

        Raises:
            PHLError: For an element that the model does not know.
        """
        require_known_elements(self.model.species, batch)  # what is compiled does not ask
        if self.failure is not None or needs_beside_energy(list(weights)):  # a call of the module is one of its energy
            return None
        values, axes = _named(batch, labels)
        if any(size < 2 for name, kinds in axes.items() for size in values[name].shape[: len(kinds)]):
            return None
        state = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        values |= {f"model.{name}": value.detach() for name, value in state.items()}
        values["weights"] = torch.tensor([*weights.values()], dtype=torch.float64, device=batch.positions.device)
        terms = tuple(weights)
        form = [(cutoff, type(pairs), pairs.shifts is None) for cutoff, pairs in batch.neighbours.items()]
        key = (terms, batch.positions.dtype, batch.positions.device, *form, *sorted(axes))

        def eager(arguments: Mapping[str, Tensor]) -> list[Tensor]:
            return self._loss_and_gradient(arguments, batch, labels, terms)

        try:
            if key not in self._functions:
                self._functions[key] = compiled(eager, values, axes)
            results = self._functions[key](values)
        except (CompileFailure, RuntimeError) as error:
            self._give_up(f"the loss could not be compiled ({str(error).splitlines()[0]})")
            return None
        sizes = tuple(values[name].shape[0] for name in axes)
        checked = self._checked.setdefault(key, set())
        if len(checked) < _CHECKS and sizes not in checked:
            checked.add(sizes)
            # equal but for rounding of the dtype computed in, also where sums are float64; what diverged is for the
            # loss to say
            allowed = torch.finfo(batch.positions.dtype).eps ** 0.4
            for result, expected in zip(results, eager(values), strict=True):
                deviation = (result - expected).norm() / expected.norm().clamp(min=1e-30)
                if not (deviation <= allowed or not torch.isfinite(expected).all()):
                    self._give_up("the compiler made a function that gives other numbers")
                    return None
        return dict(zip(terms, results[0].tolist(), strict=True)), list(results[1:])

    def _give_up(self, reason: str) -> None:
        self.failure = reason
        self._functions.clear()
        warnings.warn(f"{reason}; going on without compiling", RuntimeWarning, stacklevel=4)

    def _loss_and_gradient(
        self, values: Mapping[str, Tensor], batch: Batch, labels: Labels, terms: Sequence[str]
    ) -> list[Tensor]:
        state = {name.removeprefix("model."): v for name, v in values.items() if name.startswith("model.")}
        parameters = {name: state[name].detach().requires_grad_() for name in self.names}
        potential = _Called(self.model, {**state, **parameters})
        batch, labels = _filled_in(batch, labels, values)
        probes, stress = labels.probes, "stress" in terms
        with torch.enable_grad():
            if self.differences and probes is not None:
                predictions = predictions_by_differences(potential, batch, probes, stress=stress)
            else:
                graph = GradientGraph(
                    potential,
                    batch,
                    curvature="curvature" in terms,
                    measured=False,
                    stress=stress,
                    create_graph=True,
                )
                predictions = Predictions(
                    energy=graph.energy,
                    forces=-graph.gradient,
                    stress=None if graph.strain_gradient is None else stress_of(batch, graph.strain_gradient),
                    hvp=None if probes is None else graph.hvp(probes),
                )
            totals = [TERMS[name].total(batch, predictions, labels).double() for name in terms]
            loss = sum(w * total for w, total in zip(values["weights"].unbind(), totals, strict=True))
            gradients = torch.autograd.grad(loss, [*parameters.values()], materialize_grads=True)  # type: ignore[arg-type]
        return [torch.stack(totals).detach(), *gradients]


class _Called:
    """A module with other tensors for its parameters and buffers, as a Potential."""

    def __init__(self, model: Any, state: Mapping[str, Tensor]) -> None:
        self.model, self.state = model, dict(state)
        self.species, self.cutoffs = model.species, model.cutoffs
        self.receptive_field, self.takes_charge = model.receptive_field, model.takes_charge
        self.derivative_modes = model.derivative_modes

    def __call__(self, batch: Batch) -> Tensor:
        energy: Tensor = functional_call(self.model, self.state, (batch,))
        return energy


def _named(batch: Batch, labels: Labels) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """Return every tensor of a batch and its labels by name, and the axes that change; blocks as (systems, rows)."""
    blocked = any(isinstance(pairs, BlockedNeighbours) for pairs in batch.neighbours.values())
    kinds = {name: label.per for name, label in arrays().items()}
    per_atom = {f"batch.{name}": value for name in _ATOMS if (value := getattr(batch, name)) is not None}
    per_system = {f"batch.{name}": getattr(batch, name) for name in _SYSTEMS}
    per_system |= {f"present.{name}": mask for name, mask in labels.present.items()}
    per_system |= {"labels.n_probes": labels.n_probes, "labels.frame_id": labels.frame_id}
    for name, value in labels.values.items():
        if kinds[name] == "system":
            per_system[f"values.{name}"] = value
        elif kinds[name] != "pair":
            per_atom[f"values.{name}"] = value.squeeze(0) if kinds[name] == "probe" else value
    values: dict[str, Tensor] = {}
    axes: dict[str, tuple[str, ...]] = {}
    for name, value in per_atom.items():
        values[name] = (value.unflatten(0, (batch.n_systems, -1)) if blocked else value).contiguous()
        axes[name] = ("systems", "rows") if blocked else ("atoms",)
    for name, value in per_system.items():
        values[name], axes[name] = value.contiguous(), ("systems",)
    for number, pairs in enumerate(batch.neighbours.values()):
        for field in ("i", "j", "shifts"):
            if (value := getattr(pairs, field)) is not None:
                values[f"pairs{number}.{field}"] = value.contiguous()
                axes[f"pairs{number}.{field}"] = (f"edges{number}",)
    return values, axes


def _filled_in(batch: Batch, labels: Labels, values: Mapping[str, Tensor]) -> tuple[Batch, Labels]:
    """Return the batch and labels of these tensors; the inverse of :func:`_named`."""
    blocked = values["batch.numbers"].dim() == 2
    kinds = {name: label.per for name, label in arrays().items()}
    found: dict[str, dict[str, Any]] = {"batch": {}, "values": {}, "present": {}, "labels": {}}
    for full, value in values.items():
        group, _, name = full.partition(".")
        if group not in found:
            continue
        per_atom = name in _ATOMS if group == "batch" else group == "values" and kinds[name] != "system"
        filled = value.flatten(0, 1) if blocked and per_atom else value
        found[group][name] = filled.unsqueeze(0) if group == "values" and kinds[name] == "probe" else filled
    neighbours: dict[float, Neighbours] = {
        cutoff: type(pairs)(*[values.get(f"pairs{number}.{field}") for field in ("i", "j", "shifts")])  # type: ignore[arg-type]
        for number, (cutoff, pairs) in enumerate(batch.neighbours.items())
    }
    return (
        dataclasses.replace(batch, **found["batch"], neighbours=neighbours),
        Labels(values=found["values"], present=found["present"], **found["labels"]),
    )
