"""One energy, its gradient and the graph that Hessian-vector products are taken of (reverse over reverse).

Inference never keeps a graph of second derivatives; training asks for it with ``create_graph``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from phl_ase.derivatives.memory import (
    CPU_CHUNK,
    SavedBytes,
    counting_saved_bytes,
    keep_freed_memory,
    rows_per_chunk,
)
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
        with own_modes(batch.positions.device), _count(curvature and measured) as saved:
            self.positions = batch.positions.detach().requires_grad_()
            strain = torch.zeros_like(batch.cell).requires_grad_() if stress else None
            moved = batch.moved(self.positions) if strain is None else _strained(batch, self, strain)
            self.energy = energies_of(potential, moved)
            gradient, strain_gradient = _gradients(self.energy, self.positions, strain, create_graph or curvature)
            # isolated atoms: nothing depends on where they are; a constant field: the gradient does not
            if gradient is None:
                _check_constant(potential, batch, _energies, self.energy)
            elif curvature and not gradient.requires_grad:
                _check_constant(potential, batch, _gradient_of, gradient)
            self.gradient = torch.zeros_like(self.positions) if gradient is None else gradient
            if strain is not None and strain_gradient is None:
                strain_gradient = torch.zeros_like(strain)
        self.strain_gradient = strain_gradient
        self.saved_bytes = saved.total if saved is not None else 0

    def rows_together(self, memory_budget: int | None = None) -> int:
        """How many HVPs to vectorise: all on a GPU, on a CPU as many as gain by it; within the budget.

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
        """H·v of K vectors, eV/Å² per unit of vector; systems do not mix.

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
            chunks = vectors.split(min(self.rows_together(memory_budget), len(vectors)))
            return torch.cat([self._chunk(chunk) for chunk in chunks])

    def _chunk(self, vectors: Tensor) -> Tensor:
        single = len(vectors) == 1
        (rows,) = torch.autograd.grad(
            self.gradient,
            self.positions,
            grad_outputs=vectors[0] if single else vectors,
            is_grads_batched=not single,
            create_graph=self.create_graph,
            retain_graph=True,
            materialize_grads=True,
        )
        return rows.unsqueeze(0) if single else rows


def _gradients(
    energy: Tensor, positions: Tensor, strain: Tensor | None, create_graph: bool
) -> tuple[Tensor | None, Tensor | None]:
    """∂E/∂R and ∂E/∂ε; ``None`` where the energy's graph does not lead there."""
    if not energy.requires_grad:
        return None, None
    inputs = [positions] if strain is None else [positions, strain]
    found = torch.autograd.grad(energy.sum(), inputs, create_graph=create_graph, allow_unused=True)
    return found[0], None if strain is None else found[1]


def _energies(potential: Potential, batch: Batch) -> Tensor:
    with torch.no_grad():
        return energies_of(potential, batch)


def _gradient_of(potential: Potential, batch: Batch) -> Tensor:
    positions = batch.positions.requires_grad_()
    with torch.enable_grad():
        (found,) = torch.autograd.grad(energies_of(potential, batch).sum(), positions, materialize_grads=True)
    return found


def _check_constant(
    potential: Potential, batch: Batch, values: Callable[[Potential, Batch], Tensor], before: Tensor
) -> None:
    """Check that what has no derivatives does not change when atoms move.

    Args:
        potential: Whose values they are.
        batch: The systems.
        values: Energies or gradients of a batch.
        before: Those of the systems where they are.

    Raises:
        PHLError: For a potential that hides its derivatives.
    """
    if batch.elements_present() is None:  # traced: there are no numbers to compare
        return
    generator = torch.Generator("cpu").manual_seed(0)
    steps = 0.01 * torch.randn(batch.positions.shape, generator=generator, dtype=torch.float64, device="cpu")
    after = values(potential, batch.moved(batch.positions.detach() + steps.to(batch.positions)))
    if torch.allclose(after, before.detach(), rtol=100 * torch.finfo(before.dtype).eps, atol=1e-10):
        return
    what, again = ("energies", "") if values is _energies else ("forces", " again")
    raise PHLError(
        f"{type(potential).__name__}: its {what} change when atoms move, but cannot be differentiated{again} in the "
        "positions; expected torch operations on batch.positions alone, without detach(), .item(), NumPy or no_grad()"
    )


def _count(wanted: bool) -> AbstractContextManager[SavedBytes | None]:
    return counting_saved_bytes() if wanted else nullcontext()


def _strained(batch: Batch, graph: GradientGraph, strain: Tensor) -> Batch:
    # out of place; the antisymmetric part is a rotation and takes no part in the stress
    symmetric = 0.5 * (strain + strain.transpose(-1, -2))
    positions = graph.positions + torch.einsum("na,nab->nb", graph.positions, symmetric.index_select(0, batch.system))
    return batch.moved(positions, batch.cell + torch.bmm(batch.cell, symmetric))


def stress_of(batch: Batch, strain_gradient: Float[Tensor, "systems 3 3"]) -> Float[Tensor, "systems 3 3"]:
    """∂E/∂ε / V, eV/Å³, ASE's sign; zero for a system without a volume."""
    volume = torch.linalg.det(batch.cell).abs().reshape(-1, 1, 1)
    return torch.where(volume > 0, strain_gradient / torch.where(volume > 0, volume, 1.0), 0.0)
