"""The compiled evaluator: energy, forces and products as one function of (parameters, batch), built from
``torch.func.grad`` of grad and traced by ``torch.compile``; an ordinary ``.backward()`` follows.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from phl_ase.structures import Batch, Predictions


class CompiledEvaluator:
    """Fills the same ``Predictions`` as the eager evaluator, for training.

    Falls back to eager torch.func transforms, with one warning, where the compiler is missing or cannot trace.

    Args:
        model: A torch module whose ``derivative_modes`` hold ``"func"``.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self._functions: dict[str, Any] = {
            name: torch.compile(function, dynamic=True)
            for name, function in (("forces", self._forces), ("hvp", self._hvp), ("hvps", self._hvps))
        }
        self._eager = {"forces": self._forces, "hvp": self._hvp, "hvps": self._hvps}

    def __call__(self, batch: Batch, probes: Tensor | None = None) -> Predictions:
        """Evaluate with a graph for the parameters."""
        state = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        name = "forces" if probes is None else "hvp" if len(probes) == 1 else "hvps"
        arguments = (state, batch) if probes is None else (state, batch, probes)
        try:
            energy, gradient, products = self._functions[name](*arguments)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            reason = str(error).splitlines()[0]
            warnings.warn(f"torch.compile failed ({reason}); going on without it", RuntimeWarning, stacklevel=2)
            self._functions = dict(self._eager)
            energy, gradient, products = self._functions[name](*arguments)
        return Predictions(energy=energy, forces=-gradient, hvp=products)

    def _gradient(self, state: dict[str, Tensor], batch: Batch, positions: Tensor) -> tuple[Tensor, Tensor]:
        def total(moved: Tensor) -> tuple[Tensor, Tensor]:
            energy = functional_call(self.model, state, (batch.moved(moved),))
            return energy.sum(), energy

        return grad(total, has_aux=True)(positions)

    def _forces(self, state: dict[str, Tensor], batch: Batch):
        gradient, energy = self._gradient(state, batch, batch.positions)
        return energy, gradient, None

    def _product(self, state: dict[str, Tensor], batch: Batch, vector: Tensor):
        def slope(positions: Tensor):
            gradient, energy = self._gradient(state, batch, positions)
            return (gradient * vector).sum(), (energy, gradient)

        return grad(slope, has_aux=True)(batch.positions)

    def _hvp(self, state: dict[str, Tensor], batch: Batch, probes: Tensor):
        product, (energy, gradient) = self._product(state, batch, probes[0])
        return energy, gradient, product.unsqueeze(0)

    def _hvps(self, state: dict[str, Tensor], batch: Batch, probes: Tensor):
        products, (energy, gradient) = vmap(
            lambda vector: self._product(state, batch, vector),
            out_dims=(0, (None, None)),  # type: ignore[arg-type] # a pytree is taken
        )(probes)
        return energy, gradient, products
