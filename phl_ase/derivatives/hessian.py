"""Full Hessians from Hessian-vector products along coordinate directions, all systems of a batch at once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from phl_ase.structures import Batch, to_dense, to_flat


def coordinate_directions(batch: Batch, start: int, stop: int, n_max: int) -> Float[Tensor, "probes atoms 3"]:
    """Rows start … stop of every system's identity matrix, as flat vectors; zero where a system has fewer rows."""
    rows = torch.eye(stop - start, 3 * n_max, dtype=batch.positions.dtype, device=batch.positions.device)
    rows = rows.roll(start, dims=-1)
    return to_flat(batch, rows.unsqueeze(1).expand(-1, batch.n_systems, -1), n_max)


def stack_rows(batch: Batch, rows: Float[Tensor, "probes atoms 3"], n_max: int) -> Float[Tensor, "systems dense dense"]:
    """Hessian rows of all systems, symmetrised: reverse mode rounds H_ab and H_ba differently."""
    hessian = to_dense(batch, rows, n_max).transpose(0, 1)
    return 0.5 * (hessian + hessian.transpose(1, 2))
