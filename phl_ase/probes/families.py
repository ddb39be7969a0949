"""The probe families. Every family has E[v vᵀ] = I, so that E‖D v‖² = ‖D‖_F² (Hutchinson 1990,
doi:10.1080/03610919008812866; arXiv:2603.04523).

A family fills a dense block ``(K, systems, 3 n_max)`` from per-component counters; padding never changes a draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from phl_ase.errors import PHLError, unknown
from phl_ase.probes.counter import hash_counters, normal, uniform
from phl_ase.structures import Batch, to_flat

# (hash of each component (K, systems, 3 n_max), hash of each probe (K, systems), number of components 3n (systems,))
Fill = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ProbeFamily:
    """A distribution of probes.

    Attributes:
        name: Its name in configurations.
        fill: Draws the dense block; components beyond 3n are masked afterwards.
        description: One line for a user.
        complete: Draws all 3n coordinate directions instead of K random ones: the full Hessian.
        at_most_3n: K may not exceed 3n.
    """

    name: str
    fill: Fill
    description: str
    complete: bool = False
    at_most_3n: bool = False


@dataclass(frozen=True, eq=False)
class ProbeDraw:
    """Probes of one batch.

    Attributes:
        vectors: Dimensionless.
        n_probes: How many of the K rows are probes of each system (the rest are zero).
    """

    vectors: Float[Tensor, "probes atoms 3"]
    n_probes: Int[Tensor, " systems"]


def _sphere(component: Tensor, probe: Tensor, size: Tensor) -> Tensor:
    vectors = normal(component) * _inside(component, size)
    return vectors * (size.sqrt() / vectors.norm(dim=-1)).unsqueeze(-1)


def _onehot(component: Tensor, probe: Tensor, size: Tensor) -> Tensor:
    column = (uniform(probe) * size).to(torch.int64)
    return torch.zeros(component.shape, dtype=torch.float64, device=component.device).scatter(
        -1, column.unsqueeze(-1), size.sqrt().expand_as(probe).unsqueeze(-1)
    )


def _orthogonal(component: Tensor, probe: Tensor, size: Tensor) -> Tensor:
    # QR of a Gaussian matrix with the signs of R's diagonal taken out is Haar (Mezzadri 2007, arXiv:math-ph/0609050)
    columns = (normal(component) * _inside(component, size)).permute(1, 2, 0)
    q, r = torch.linalg.qr(columns)
    q = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)
    return q.permute(2, 0, 1) * size.sqrt().unsqueeze(-1)


def _complete(component: Tensor, probe: Tensor, size: Tensor) -> Tensor:
    k, _, width = component.shape
    identity = torch.eye(k, width, dtype=torch.float64, device=component.device)
    return identity.unsqueeze(1) * size.sqrt().unsqueeze(-1)


def _inside(component: Tensor, size: Tensor) -> Tensor:
    return torch.arange(component.shape[-1], device=component.device) < size.unsqueeze(-1)


FAMILIES: dict[str, ProbeFamily] = {
    family.name: family
    for family in (
        ProbeFamily("rademacher", lambda c, p, n: torch.where(c < 0, -1.0, 1.0).double(), "every component +1 or −1"),
        ProbeFamily("gaussian", lambda c, p, n: normal(c), "every component standard normal"),
        ProbeFamily("sphere", _sphere, "uniform on the sphere of radius √(3n)"),
        ProbeFamily("onehot", _onehot, "√(3n) times one coordinate direction: a Hessian column"),
        ProbeFamily("orthogonal", _orthogonal, "K rows of a random orthogonal matrix × √(3n)", at_most_3n=True),
        ProbeFamily("complete", _complete, "all 3n coordinate directions: the full Hessian", complete=True),
    )
}


def check_family(name: str, n_probes: int, smallest: int) -> ProbeFamily:
    """Look a family up and check that K probes of it exist for the smallest system.

    Args:
        name: Name of the family.
        n_probes: K.
        smallest: Number of atoms of the smallest system.

    Raises:
        PHLError: For an unknown family, K < 1, or more orthogonal probes than 3n.
    """
    if name not in FAMILIES:
        raise unknown("probe family", name, FAMILIES)
    family = FAMILIES[name]
    if n_probes < 1:
        raise PHLError(f"got {n_probes} probes per frame; expected at least 1")
    if family.at_most_3n and n_probes > 3 * smallest:
        raise PHLError(
            f"got K = {n_probes} {name} probes, but the smallest system has {smallest} atoms and so at most "
            f"{3 * smallest} orthogonal directions; use fewer probes or the family 'rademacher'"
        )
    return family


def draw_probes(
    name: str,
    batch: Batch,
    frame_id: Int[Tensor, " systems"],
    *,
    n_probes: int = 1,
    seed: int = 0,
    epoch: int = 0,
) -> ProbeDraw:
    """Draw the probes of a batch, float64 on the batch's device.

    Args:
        name: Family, a key of ``FAMILIES``.
        batch: The systems.
        frame_id: Identity of each system; with seed and epoch it determines the probes.
        n_probes: K; ignored by the family that draws all 3n directions.
        seed: Seed of the run.
        epoch: Epoch; constant where probes are fixed.

    Raises:
        PHLError: As :func:`check_family`.
    """
    sizes = batch.sizes()
    n_max = int(sizes.max())
    family = check_family(name, n_probes, int(sizes.min()))
    k = 3 * n_max if family.complete else n_probes
    probe = hash_counters(seed, epoch, frame_id.unsqueeze(1), range(k)).T
    component = hash_counters(probe.unsqueeze(-1), range(3 * n_max))
    size = 3.0 * sizes.to(torch.float64)
    dense = family.fill(component, probe, size) * _inside(component, size)
    valid = 3 * sizes if family.complete else torch.full_like(sizes, k)
    return ProbeDraw(to_flat(batch, dense, n_max), valid)
