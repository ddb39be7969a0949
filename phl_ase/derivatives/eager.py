"""The eager evaluator: what any potential predicts for a batch, nothing computed that was not asked for."""

from __future__ import annotations

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor

from phl_ase.derivatives.graph import GradientGraph, stress_of
from phl_ase.derivatives.hessian import hessians
from phl_ase.derivatives.memory import default_budget
from phl_ase.derivatives.modes import own_modes, without_inference_tensors
from phl_ase.errors import PHLError, unknown
from phl_ase.structures import Batch, Potential, Predictions, energies_of, in_faster_form, predicted
from phl_ase.structures.label import OWN, labels


def evaluate(
    potential: Potential,
    batch: Batch,
    needs: Collection[str] = ("energy", "forces"),
    *,
    probes: Float[Tensor, "probes atoms 3"] | None = None,
    create_graph: bool = False,
    memory_budget: int | None = None,
) -> Predictions:
    """Evaluate a potential and its derivatives on a batch.

    Args:
        potential: Any potential.
        batch: Systems of any size, periodic or not.
        needs: Labels to compute: energy, forces, stress, hvp, hessian, or another that the potential predicts; nothing
            else is paid for.
        probes: Vectors for the Hessian-vector products, dimensionless; needed for ``"hvp"``.
        create_graph: Keep the graph, so that a loss of the result can be differentiated in the parameters.
        memory_budget: Bytes that Hessian rows taken together may use; by default half of what a GPU has free, 3/4 of
            what a CPU has.

    Returns:
        The quantities asked for, in eV, eV/Å, eV/Å³ and eV/Å².

    Raises:
        PHLError: For an unknown quantity, HVPs without probes, probes of another shape, a budget below one row, an
            element that the potential does not know, or a potential that returns something else than energies.
    """
    for need in needs:
        if need not in labels():
            raise unknown("quantity", need, labels())
    others = [need for need in needs if need not in OWN]
    batch, place = without_inference_tensors(batch), None
    with own_modes(batch.positions.device):
        with torch.set_grad_enabled(create_graph):
            extra = predicted(potential, batch, others)
            if set(needs) <= {"energy", *others}:
                return Predictions(energy=energies_of(potential, batch), extra=extra)
        if "hvp" in needs and probes is None:
            raise PHLError("Hessian-vector products were asked for without probes; give vectors of shape (K, atoms, 3)")
        if "hvp" not in needs:  # probes stand as the atoms do
            batch, place = in_faster_form(potential, batch, hessians="hessian" in needs)
        graph = GradientGraph(
            potential,
            batch,
            curvature="hvp" in needs or "hessian" in needs,
            stress="stress" in needs,
            create_graph=create_graph,
        )

        def keep(value: Tensor) -> Tensor:
            return value if create_graph else value.detach()

        budget = memory_budget
        # a training step sees to its own memory, and nothing else needs to know how much is free
        if budget is None and ("hessian" in needs or ("hvp" in needs and not create_graph)):
            budget = default_budget(batch.positions.device)
        return Predictions(
            energy=keep(graph.energy),
            forces=keep(-(graph.gradient if place is None else graph.gradient[place])) if "forces" in needs else None,
            stress=None if graph.strain_gradient is None else keep(stress_of(batch, graph.strain_gradient)),
            hvp=graph.hvp(probes, budget) if "hvp" in needs and probes is not None else None,
            hessian=hessians(potential, batch, graph, budget) if "hessian" in needs and budget is not None else None,
            extra=extra,
        )
