"""Full Hessians from Hessian-vector products, all systems of a batch at once: systems, and atoms of one system that are
far from each other, share the HVPs; those of rigid motions are known without one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from phl_ase.derivatives.graph import GradientGraph
from phl_ase.derivatives.rigid import RigidMotions
from phl_ase.derivatives.sparsity import Sparsity, sparsity_of, worthwhile_sparsity
from phl_ase.errors import PHLError
from phl_ase.structures import Batch, Potential, in_faster_form, to_dense

FEW_ATOMS = 64
"""Atoms of the largest system up to which HVPs are saved by rigid motions: beyond, fewer than 3 %."""


def hessians(
    potential: Potential, batch: Batch, graph: GradientGraph, memory_budget: int
) -> Float[Tensor, "systems dense dense"]:
    """Return the Hessians of a batch, eV/Å², each in the upper left corner of a square of the largest, zero elsewhere.

    Symmetrised: reverse mode rounds H_ab and H_ba differently. Of small systems HVPs along rigid motions are not
    computed, but for one that says whether the potential does have these symmetries.

    Args:
        potential: What the graph is of; says where its Hessian is zero.
        batch: The systems.
        graph: Their gradient, made with ``curvature``.
        memory_budget: Bytes that rows taken together may use.

    Raises:
        PHLError: For a budget below one HVP.
    """
    n_max = int(batch.sizes().max())
    sparsity = worthwhile_sparsity(potential, batch)
    if sparsity is None:
        if n_max <= FEW_ATOMS and not graph.create_graph:
            # H = (H·Q) Qᵀ + (H·R) Rᵀ with rigid motions R, whose HVPs are known, and Q orthogonal to them
            rigid = RigidMotions.of(batch, graph.gradient, n_max)
            hvps = rigid.hvps_of(graph, torch.cat([rigid.others, rigid.trial], dim=-1), memory_budget)
            hvps, tried = hvps[..., :-1], hvps[..., -1]
            # a field or a wall: the potential knows places or directions
            known = rigid.hvps if rigid.agree(tried, hvps) else rigid.hvps_of(graph, rigid.motions, memory_budget)
            dense = hvps @ rigid.others.transpose(1, 2) + known @ rigid.motions.transpose(1, 2)
            dense = dense.to(batch.positions.dtype)
        else:
            rows = torch.cat([part for _, part in _hvps(batch, graph, batch.slot, n_max, memory_budget)])
            dense = to_dense(batch, rows, n_max).transpose(0, 1)
        return 0.5 * (dense + dense.transpose(1, 2))
    blocks = _blocks(batch, graph, sparsity, memory_budget)
    rows, columns = (torch.as_tensor(a, device=blocks.device).long() for a in (sparsity.rows, sparsity.columns))
    dense = blocks.new_zeros(batch.n_systems, n_max, 3, n_max, 3)
    dense[batch.system[rows], batch.slot[rows], :, batch.slot[columns], :] = blocks
    return dense.reshape(-1, 3 * n_max, 3 * n_max)


def sparse_hessian(potential: Potential, batch: Batch, *, memory_budget: int) -> sparse.csr_array:
    """Return the Hessian of all atoms of a batch ``(3 atoms, 3 atoms)`` as a sparse matrix, float64, eV/Å².

    Its cost and size grow with the number of atoms, not with its square; no dense matrix is made on the way.

    Args:
        potential: Any potential with a finite receptive field.
        batch: One system, or several, which then stand in blocks.
        memory_budget: Bytes that rows taken together may use.

    Raises:
        PHLError: For a potential without a finite receptive field, or a budget below one HVP.
    """
    sparsity = sparsity_of(potential, batch)
    if sparsity is None:
        raise PHLError(
            f"{type(potential).__name__} has no finite receptive field (receptive_field = "
            f"{potential.receptive_field}, cutoffs = {potential.cutoffs}): every atom acts on every other and its "
            "Hessian has no zeros; ask for the dense Hessian or for HVPs"
        )
    if batch.n_systems == 1:  # without padding rows stay what they were
        batch, _ = in_faster_form(potential, batch, hessians=True)
    graph = GradientGraph(potential, batch, curvature=True)
    blocks = _blocks(batch, graph, sparsity, memory_budget).to(device="cpu", dtype=torch.float64).numpy()
    size = 3 * len(batch.numbers)
    matrix = sparse.bsr_array((blocks, sparsity.columns, sparsity.pattern.indptr), shape=(size, size))
    return matrix.tocsr()


def directions(
    colour: Int[Tensor, " atoms"], start: int, stop: int, dtype: torch.dtype
) -> Float[Tensor, "probes atoms 3"]:
    """Direction k moves atoms of colour k // 3 along axis k mod 3; k = start … stop − 1."""
    numbers = torch.arange(start, stop, device=colour.device)
    own = 3 * colour.unsqueeze(-1) + torch.arange(3, device=colour.device)
    return (own == numbers.reshape(-1, 1, 1)).to(dtype)


def _hvps(
    batch: Batch, graph: GradientGraph, colour: Tensor, n_colours: int, memory_budget: int
) -> Iterator[tuple[int, Tensor]]:
    """HVPs along all directions, as many at a time as the graph allows: (first direction, HVPs)."""
    step = graph.rows_together(memory_budget)
    for start in range(0, 3 * n_colours, step):
        vectors = directions(colour, start, min(start + step, 3 * n_colours), batch.positions.dtype)
        yield start, graph.hvp(vectors)


def _blocks(batch: Batch, graph: GradientGraph, sparsity: Sparsity, memory_budget: int) -> Float[Tensor, "blocks 3 3"]:
    """∂²E/∂r_i∂r_j of each block (i, j) of the pattern, symmetrised."""
    device = batch.positions.device
    order = np.argsort(sparsity.colours[sparsity.columns], kind="stable")  # blocks of one colour side by side
    starts = np.searchsorted(sparsity.colours[sparsity.columns[order]], np.arange(sparsity.n_colours + 1))
    numbers = torch.as_tensor(order, device=device)
    rows = torch.as_tensor(sparsity.rows[order], device=device).long()
    colour = torch.as_tensor(sparsity.colours, device=device)
    blocks = batch.positions.new_zeros(len(order), 3, 3)
    for start, hvps in _hvps(batch, graph, colour, sparsity.n_colours, memory_budget):
        for k, hvp in enumerate(hvps, start):
            chosen = slice(starts[k // 3], starts[k // 3 + 1])
            blocks[numbers[chosen], :, k % 3] = hvp[rows[chosen]]
    mirrored = torch.as_tensor(sparsity.transposed(), device=device)
    return 0.5 * (blocks + blocks[mirrored].transpose(1, 2))
