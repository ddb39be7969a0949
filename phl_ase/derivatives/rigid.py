"""HVPs along rigid motions, known without computing them: translating or turning a molecule turns its gradient along.

E(x + t) = E(x) and E(Ux) = E(x) for every translation t and rotation U; differentiated twice, H·t = 0 and
H·(ω × x) = ω × ∇E, at any structure, stationary or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from phl_ase.derivatives.graph import GradientGraph
from phl_ase.structures import Batch, to_dense, to_flat

_SHORT_LEVER = 0.1
"""Å, root of the sum of squared distances from an axis: rotations about shorter levers are left to HVPs, since
rounding errors of the gradient would be divided by the lever."""

_SYMMETRY_ERROR = {torch.float64: 1e-9, torch.float32: 1e-5}
"""Largest error of what is known, in terms of the Hessian: 100 to 1000 times the rounding of an HVP."""


@dataclass(frozen=True, eq=False)
class RigidMotions:
    """Rigid motions of the systems of a batch, and everything orthogonal to them.

    Attributes:
        batch: The systems.
        n_max: Atoms of the largest.
        motions: Orthonormal columns, zero where a system has fewer than six; systems in dense blocks, float64.
        hvps: H times the motions, eV/Å², float64.
        others: Orthonormal columns that complete the motions, zero beyond a system's own.
    """

    batch: Batch
    n_max: int
    motions: Float[Tensor, "systems dense 6"]
    hvps: Float[Tensor, "systems dense 6"]
    others: Float[Tensor, "systems dense others"]

    @classmethod
    def of(cls, batch: Batch, gradient: Float[Tensor, "atoms 3"], n_max: int) -> RigidMotions:
        """Translations of every system, rotations of those that are not periodic.

        Args:
            batch: The systems.
            gradient: ∂E/∂R, eV/Å.
            n_max: Atoms of the largest system.
        """
        sizes = batch.sizes()
        # the atoms of a system stand before its padding, (systems, slots, 1)
        there = (torch.arange(n_max, device=sizes.device) < sizes.unsqueeze(-1)).double().unsqueeze(-1)
        positions, gradient = (
            to_dense(batch, values.double().unsqueeze(0), n_max)[0].unflatten(-1, (n_max, 3)) * there
            for values in (batch.positions, gradient.detach())
        )
        weights = there / sizes.reshape(-1, 1, 1)
        centres = (weights * positions).sum(1, keepdim=True)
        rotations, turned, kept = _rotations((positions - centres) * there, gradient, batch.pbc.any(-1))
        translations = weights.sqrt().unsqueeze(2) * _axes(weights)
        motions = _columns(torch.cat([translations, rotations], dim=2))
        hvps = _columns(torch.cat([torch.zeros_like(translations), turned], dim=2))
        return cls(batch, n_max, motions, hvps, _complement(motions, 3 + kept, 3 * sizes))

    @property
    def trial(self) -> Float[Tensor, "systems dense 1"]:
        """The sum of the motions, whose HVP tells whether the potential has their symmetries."""
        return self.motions.sum(-1, keepdim=True)

    def hvps_of(
        self, graph: GradientGraph, columns: Float[Tensor, "systems dense columns"], memory_budget: int
    ) -> Float[Tensor, "systems dense columns"]:
        """HVPs of columns, computed, float64.

        Args:
            graph: The gradient.
            columns: In dense blocks.
            memory_budget: Bytes that HVPs taken together may use.

        Raises:
            PHLError: For a budget below one HVP.
        """
        vectors = to_flat(self.batch, columns.permute(2, 0, 1), self.n_max).to(self.batch.positions.dtype)
        hvps = graph.hvp(vectors, memory_budget).detach().double()
        return to_dense(self.batch, hvps, self.n_max).permute(1, 2, 0)

    def agree(self, tried: Float[Tensor, "systems dense"], others: Float[Tensor, "systems dense columns"]) -> bool:
        """Return whether the known HVPs are those of the potential.

        Args:
            tried: The HVP of the trial, computed.
            others: HVPs beside the motions, which say how large the Hessian is.
        """
        largest = torch.cat([others, tried.unsqueeze(-1)], dim=-1).abs().amax()
        error = (tried - self.hvps.sum(-1)).abs().amax()
        return bool(error <= _SYMMETRY_ERROR[self.batch.positions.dtype] * largest)


def _axes(like: Tensor) -> Float[Tensor, "3 3"]:
    return torch.eye(3, dtype=like.dtype, device=like.device)


def _columns(motions: Float[Tensor, "systems slots motions 3"]) -> Float[Tensor, "systems dense motions"]:
    return motions.transpose(2, 3).flatten(1, 2)


def _rotations(
    arms: Float[Tensor, "systems slots 3"],
    gradient: Float[Tensor, "systems slots 3"],
    periodic: Bool[Tensor, " systems"],
) -> tuple[Tensor, Tensor, Int[Tensor, " systems"]]:
    """Orthonormal rotations about the principal axes, longest lever first, their HVPs with H, how many there are.

    Those about short levers and of periodic systems are zero.
    """
    # ω × x and ω × ∇E for the three axes ω: (systems, slots, axis, 3)
    rotations, turned = (
        torch.linalg.cross(_axes(x).expand(*x.shape[:2], 3, 3), x.unsqueeze(2)) for x in (arms, gradient)
    )
    squares, principal = torch.linalg.eigh(torch.einsum("snax,snbx->sab", rotations, rotations))
    levers = squares.flip(-1).clamp_min(0.0).sqrt()
    kept = (levers > _SHORT_LEVER) & ~periodic.unsqueeze(-1)
    weights = principal.flip(-1) * torch.where(kept, 1.0 / torch.where(kept, levers, 1.0), 0.0).unsqueeze(1)
    rotations, turned = (torch.einsum("snax,sak->snkx", x, weights) for x in (rotations, turned))
    return rotations, turned, kept.sum(-1)


def _complement(
    motions: Float[Tensor, "systems dense 6"], n_motions: Int[Tensor, " systems"], sizes: Int[Tensor, " systems"]
) -> Float[Tensor, "systems dense others"]:
    """Orthonormal columns beside the motions, which stand before their zero columns."""
    # Householder reflections leave the axes of padding as they are, at the end
    basis = torch.linalg.qr(motions, mode="complete")[0]
    n_others = sizes - n_motions
    columns = torch.arange(int(n_others.max()), device=motions.device)
    places = (columns + n_motions.unsqueeze(-1)).clamp_max(basis.shape[-1] - 1)
    chosen = torch.take_along_dim(basis, places.unsqueeze(1), dim=2)
    return chosen * (columns < n_others.unsqueeze(-1)).unsqueeze(1)
