"""Training schemes as data: which probe family supervises curvature, and how its targets are made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from phl_ase.errors import unknown
from phl_ase.probes import draw_probes
from phl_ase.structures import Batch, Labels, to_dense, to_flat


@dataclass(frozen=True)
class Scheme:
    """A scheme of learning curvature.

    Attributes:
        name: Its name in configurations and tables.
        probes: Probe family; ``None`` where curvature is not supervised.
        description: One line for a user.
    """

    name: str
    probes: str | None
    description: str


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("E-F", None, "energies and forces"),
        Scheme("E-F-HVP-onehot", "onehot", "and Hessian columns drawn at random"),
        Scheme("E-F-HVP-random", "rademacher", "and Hessian-vector products along random probes"),
        Scheme("E-F-H", "complete", "and the full Hessian"),
    )
}

REGIMES = {
    "fresh": "probes drawn anew for every minibatch, targets from stored Hessians",
    "fixed": "the same K probes of each frame throughout",
}


def scheme(name: str) -> Scheme:
    """Look a scheme up.

    Raises:
        PHLError: For an unknown name, listing the valid ones.
    """
    if name not in SCHEMES:
        raise unknown("scheme", name, SCHEMES)
    return SCHEMES[name]


def check_regime(name: str) -> str:
    """Return the name of a regime that exists.

    Raises:
        PHLError: For an unknown name, listing the valid ones.
    """
    if name not in REGIMES:
        raise unknown("regime", name, REGIMES)
    return name


def with_curvature_targets(
    batch: Batch,
    labels: Labels,
    family: str,
    *,
    n_probes: int = 1,
    regime: str = "fresh",
    seed: int = 0,
    epoch: int = 0,
) -> Labels:
    """Return labels whose ``probes``, ``hvp`` and ``n_probes`` are the curvature targets of this step.

    Frames with a Hessian get probes drawn for (seed, epoch, frame), or (seed, frame) in the fixed regime, and their
    HVPs with it. Frames that carry recorded HVPs and no Hessian keep those. Others carry no curvature label.

    Args:
        batch: The systems, float64 or float32.
        labels: Their labels.
        family: Probe family.
        n_probes: K.
        regime: ``"fresh"`` or ``"fixed"``.
        seed: Seed of the run.
        epoch: Epoch.
    """
    check_regime(regime)
    if labels.hessian is None:
        return labels
    drawn = draw_probes(
        family, batch, labels.frame_id, n_probes=n_probes, seed=seed, epoch=0 if regime == "fixed" else epoch
    )
    n_max = labels.hessian.shape[-1] // 3
    dtype = labels.hessian.dtype
    has_hessian = labels.carried("hessian")
    probes = torch.where(has_hessian.index_select(0, batch.system).unsqueeze(-1), drawn.vectors.to(dtype), 0.0)
    dense = torch.einsum("sab,ksb->ksa", labels.hessian, to_dense(batch, probes, n_max))
    targets = {"probes": probes, "hvp": to_flat(batch, dense, n_max)}
    counts = torch.where(has_hessian, drawn.n_probes, 0)
    if labels.probes is not None:
        recorded = (labels.n_probes > 0) & ~has_hessian
        own = recorded[batch.system].unsqueeze(-1)
        for name, value in targets.items():
            k = max(len(value), len(labels[name]))
            both = (value, labels[name].to(value.dtype))
            padded = [torch.cat([x, x.new_zeros(k - len(x), *x.shape[1:])]) for x in both]
            targets[name] = torch.where(own, padded[1], padded[0])
        counts = torch.where(recorded, labels.n_probes, counts)
    return dataclasses.replace(labels.replaced(**targets), n_probes=counts)
