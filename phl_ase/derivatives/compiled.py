"""The compiled evaluator: energy, forces and products as one function of (parameters, batch), built from
``torch.func.grad`` of grad and traced by ``torch.compile``; an ordinary ``.backward()`` follows.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad

from phl_ase.structures import Batch, Predictions


class CompiledEvaluator:
    """Fills the same ``Predictions`` as the eager evaluator, for training.

    Falls back to eager torch.func transforms, with one warning, where the compiler is missing, cannot trace, or makes a
    function whose first result differs from the eager one.

    Args:
        model: A torch module whose ``derivative_modes`` hold ``"func"``.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self._eager: dict[str, Any] = {"forces": self._forces, "hvp": self._hvp}
        self._functions: dict[str, Any] = {
            name: torch.compile(function, dynamic=True) for name, function in self._eager.items()
        }
        self._unchecked = set(self._functions)

    def __call__(self, batch: Batch, probes: Tensor | None = None) -> Predictions:
        """Evaluate with a graph for the parameters."""
        state = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        if probes is None:
            energy, gradient, _ = self._call("forces", state, batch)
            return Predictions(energy=energy, forces=-gradient)
        # one call a probe: under vmap torch 2.13's inductor gives products that are wrong by per cents on a CPU
        results = [self._call("hvp", state, batch, vector) for vector in probes]
        energy, gradient, _ = results[0]
        return Predictions(energy=energy, forces=-gradient, hvp=torch.stack([product for _, _, product in results]))

    def _call(self, name: str, *arguments: Any) -> tuple[Any, Any, Any]:
        try:
            result = self._functions[name](*arguments)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            self._give_up(f"torch.compile failed ({str(error).splitlines()[0]})")
            return self._functions[name](*arguments)
        if name in self._unchecked:
            self._unchecked.discard(name)
            expected = self._eager[name](*arguments)
            if not all(_agree(a, b) for a, b in zip(result, expected, strict=True)):
                self._give_up("torch.compile made a function that gives other numbers")
                return expected
        return result

    def _give_up(self, reason: str) -> None:
        warnings.warn(f"{reason}; going on without it", RuntimeWarning, stacklevel=4)
        self._functions, self._unchecked = dict(self._eager), set()

    def _gradient(self, state: dict[str, Tensor], batch: Batch, positions: Tensor) -> tuple[Tensor, Tensor]:
        def total(moved: Tensor) -> tuple[Tensor, Tensor]:
            energy = functional_call(self.model, state, (batch.moved(moved),))
            return energy.sum(), energy

        return grad(total, has_aux=True)(positions)

    def _forces(self, state: dict[str, Tensor], batch: Batch):
        gradient, energy = self._gradient(state, batch, batch.positions)
        return energy, gradient, None

    def _hvp(self, state: dict[str, Tensor], batch: Batch, vector: Tensor):
        def slope(positions: Tensor):
            gradient, energy = self._gradient(state, batch, positions)
            return (gradient * vector).sum(), (energy, gradient)

        product, (energy, gradient) = grad(slope, has_aux=True)(batch.positions)
        return energy, gradient, product


def _agree(result: Tensor | None, expected: Tensor | None) -> bool:
    """Equal but for rounding, or both not finite: what diverged is for the loss to say."""
    if result is None or expected is None:
        return result is expected
    error = (result - expected).detach().norm() / expected.detach().norm().clamp(min=1e-30)
    return bool(error <= torch.finfo(expected.dtype).eps ** 0.4 or not torch.isfinite(expected).all())
