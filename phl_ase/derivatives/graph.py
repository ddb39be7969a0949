"""One energy, its gradient and the graph that Hessian-vector products are taken of (reverse over reverse).

Inference never keeps a graph of second derivatives; training asks for it with ``create_graph``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from phl_ase.derivatives.memory import CPU_CHUNK, counting_saved_bytes, keep_freed_memory, rows_per_chunk
from phl_ase.derivatives.modes import own_modes, without_inference_tensors
from phl_ase.errors import PHLError
from phl_ase.structures import Batch, Potential, energies_of


class GradientGraph:
    """Energy and gradient of a batch, differentiable again.

    Args:
        potential: Any potential.
        batch: Systems of any size, periodic or not.
        curvature: Whether HVPs will be asked for; without it nothing is kept for them.
        measured: Whether to measure what the graph keeps, which only many HVPs need to know.
        stress: Whether to differentiate in the strain too.
        create_graph: Keep graphs of everything, for a loss that is differentiated in the parameters.

    Raises:
        PHLError: For an element that the potential does not know, or a potential that returns something else than
            energies that can be differentiated.

    Attributes:
        energy: eV.
        gradient: ∂E/∂R, eV/Å.
        strain_gradient: ∂E/∂ε of each system, eV; ``None`` unless asked for.
        saved_bytes: What the graph of the gradient keeps: the measure of the memory that one HVP needs; 0 when it
            was not measured.
    """

    energy: Float[Tensor, " systems"]
    gradient: Float[Tensor, "atoms 3"]
    strain_gradient: Float[Tensor, "systems 3 3"] | None

    def __init__(
        self,
        potential: Potential,
        batch: Batch,
        *,
        curvature: bool = False,
        measured: bool = True,
        stress: bool = False,
        create_graph: bool = False,
    ) -> None:
        self.create_graph = create_graph
        batch = without_inference_tensors(batch)
        self._batched = "batched" in potential.derivative_modes
        if curvature and measured:
            keep_freed_memory()
        saved_bytes = counting_saved_bytes() if curvature and measured else nullcontext()
        with own_modes(batch.positions.device), saved_bytes as saved:
            inputs = [batch.positions.detach().requires_grad_()]
            self.positions = inputs[0]
            if stress:
                inputs.append(torch.zeros_like(batch.cell).requires_grad_())
                # out of place; the antisymmetric part of the strain is a rotation and takes no part in the stress
                strain = 0.5 * (inputs[1] + inputs[1].transpose(-1, -2))
                shifts = torch.einsum("na,nab->nb", self.positions, strain.index_select(0, batch.system))
                moved = batch.moved(self.positions + shifts, batch.cell + torch.bmm(batch.cell, strain))
            else:
                moved = batch.moved(self.positions)
            self.energy = energies_of(potential, moved)
            found: Sequence[Tensor | None] = [None] * len(inputs)
            if self.energy.requires_grad:
                keep = create_graph or curvature
                found = torch.autograd.grad(self.energy.sum(), inputs, create_graph=keep, allow_unused=True)
            # isolated atoms: nothing depends on where they are; a constant field: the gradient does not
            if found[0] is None:
                _check_constant(potential, batch, "energies", self.energy)
            elif curvature and not found[0].requires_grad:
                _check_constant(potential, batch, "forces", found[0])
            filled = [torch.zeros_like(x) if y is None else y for x, y in zip(inputs, found, strict=True)]
        self.gradient = filled[0]
        self.strain_gradient = filled[1] if stress else None
        self.saved_bytes = 0 if saved is None else saved.total

    def rows_together(self, memory_budget: int | None = None) -> int:
        """Return how many HVPs to vectorise: all on a GPU, on a CPU as many as gain by it; within the budget.

        Args:
            memory_budget: Bytes that they may use; ``None`` for no bound, where the caller sees to it.

        Raises:
            PHLError: For a budget below one HVP.
        """
        allowed = 2**31 if memory_budget is None else rows_per_chunk(self.saved_bytes, memory_budget)
        # detection of anomalies reads numbers, which vectorised HVPs do not have
        if not self._batched or torch.is_anomaly_enabled():
            return 1
        if self.positions.device.type != "cpu":
            return allowed
        return min(allowed, max(1, CPU_CHUNK // max(self.saved_bytes, 1)))

    def hvp(
        self, vectors: Float[Tensor, "probes atoms 3"], memory_budget: int | None = None
    ) -> Float[Tensor, "probes atoms 3"]:
        """Return H·v of K vectors, eV/Å² per unit of vector; systems do not mix.

        Args:
            vectors: Dimensionless.
            memory_budget: As in :meth:`rows_together`, which says how many are taken at a time.

        Raises:
            PHLError: For vectors of another shape, or a budget below one HVP.
        """
        if vectors.shape[1:] != self.positions.shape:
            raise PHLError(f"got vectors of shape {tuple(vectors.shape)}; expected (K, {self.positions.shape[0]}, 3)")
        if not self.gradient.requires_grad:  # an energy linear in the positions has no curvature
            return torch.zeros_like(vectors)
        with own_modes(vectors.device):
            vectors = vectors.clone() if vectors.is_inference() else vectors
            rows = []
            for chunk in vectors.split(min(self.rows_together(memory_budget), len(vectors))):
                single = len(chunk) == 1
                (found,) = torch.autograd.grad(
                    self.gradient,
                    self.positions,
                    grad_outputs=chunk[0] if single else chunk,
                    is_grads_batched=not single,
                    create_graph=self.create_graph,
                    retain_graph=True,
                    materialize_grads=True,
                )
                rows.append(found.unsqueeze(0) if single else found)
            return torch.cat(rows)


def _check_constant(potential: Potential, batch: Batch, name: str, before: Tensor) -> None:
    """Check that values without derivatives do not change when atoms move.

    Args:
        potential: The potential.
        batch: The systems.
        name: ``"energies"`` or ``"forces"``.
        before: Energies or gradients of the systems where they are.

    Raises:
        PHLError: For a potential that hides its derivatives.
    """
    if batch.elements_present() is None:  # traced: there are no numbers to compare
        return
    generator = torch.Generator("cpu").manual_seed(0)
    steps = 0.01 * torch.randn(batch.positions.shape, generator=generator, dtype=torch.float64, device="cpu")
    positions = (batch.positions.detach() + steps.to(batch.positions)).requires_grad_(name == "forces")
    with torch.set_grad_enabled(name == "forces"):
        after = energies_of(potential, batch.moved(positions))
        if name == "forces":
            (after,) = torch.autograd.grad(after.sum(), positions, materialize_grads=True)
    if torch.allclose(after, before.detach(), rtol=100 * torch.finfo(before.dtype).eps, atol=1e-10):
        return
    again = " again" if name == "forces" else ""
    raise PHLError(
        f"{type(potential).__name__}: its {name} change when atoms move, but cannot be differentiated{again} in the "
        "positions; expected torch operations on batch.positions alone, without detach(), .item(), NumPy or no_grad()"
    )


def stress_of(batch: Batch, strain_gradient: Float[Tensor, "systems 3 3"]) -> Float[Tensor, "systems 3 3"]:
    """Return the stress ∂E/∂ε / V, eV/Å³, ASE's sign; zero for a system without a volume."""
    volume = torch.linalg.det(batch.cell).abs().reshape(-1, 1, 1)
    return torch.where(volume > 0, strain_gradient / torch.where(volume > 0, volume, 1.0), 0.0)
