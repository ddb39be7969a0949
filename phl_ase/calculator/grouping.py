"""Batches of structures of like size, so that none waits for a larger one, within the memory."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from phl_ase.derivatives import CPU_CHUNK, GradientGraph
from phl_ase.structures import PackedFrames, Potential

_MEASURED_FROM = 64
"""Structures from which on energies and forces alone are worth measuring what they keep in memory."""

_ALIKE = 1.25
"""Atoms of the largest structure of a group, as a multiple of the smallest's, when Hessians are wanted: the rows of the
largest are taken of all."""

_GPU_ROWS = 8
"""Rows of a Hessian that a GPU should find room for beside each other."""


def groups_of(
    packed: PackedFrames,
    potential: Potential,
    *,
    needs: Collection[str],
    dtype: torch.dtype,
    device: torch.device,
    memory_budget: int,
) -> list[list[int]]:
    """Return the indices of the structures of each batch, every structure in one of them.

    Args:
        packed: The structures.
        potential: What will be evaluated.
        needs: Quantities that will be computed.
        dtype: Of the positions.
        device: Where to compute.
        memory_budget: Bytes that a batch may keep for one Hessian-vector product.
    """
    wants_rows = "hessian" in needs
    sizes = packed.sizes.numpy()
    if len(sizes) == 1 or not (wants_rows or len(sizes) >= _MEASURED_FROM):
        return [list(range(len(sizes)))]
    # what a graph keeps is proportional to atoms and pairs; how much of each, one middling structure tells
    elements = sizes + sum(counts.numpy() for counts in packed.pair_counts.values())
    order = np.argsort(elements, kind="stable")
    middle = order[len(order) // 2]
    batch = packed.select([int(middle)])[0].to(device, dtype)
    graph = GradientGraph(potential, batch, curvature=True)
    each = elements * max(graph.saved_bytes, 1) / max(elements[middle], 1)
    limit = memory_budget / _GPU_ROWS if device.type != "cpu" else float(min(memory_budget, CPU_CHUNK))
    alike = _ALIKE if wants_rows else np.inf
    groups: list[list[int]] = []
    total = 0.0
    for index in order:
        fits = groups and total + each[index] <= limit and sizes[index] <= alike * sizes[groups[-1][0]] + 1
        if fits:
            groups[-1].append(int(index))
            total += each[index]
        else:
            groups.append([int(index)])
            total = each[index]
    return groups
