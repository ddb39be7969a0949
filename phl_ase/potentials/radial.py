"""Radial functions that vanish with three derivatives at the cutoff, so that HVP losses have a gradient there."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def envelope(x: Float[Tensor, " edges"], p: int = 6) -> Float[Tensor, " edges"]:
    """Polynomial cutoff with u = u′ = u″ = u‴ = 0 at x = 1 and u = 1 − O(x^p) at 0.

    The construction of Klicpera et al. (DimeNet, arXiv:2003.03123, eq. 8) carried one order further.

    Args:
        x: Distance over cutoff, in [0, 1).
        p: Lowest power.
    """
    a = (p + 1) * (p + 2) * (p + 3) / 6
    b = p * (p + 2) * (p + 3) / 2
    c = p * (p + 1) * (p + 3) / 2
    d = p * (p + 1) * (p + 2) / 6
    return 1.0 + x**p * (-a + x * (b + x * (-c + x * d)))


def bessel_basis(r: Float[Tensor, " edges"], cutoff: float, n_basis: int) -> Float[Tensor, "edges basis"]:
    """√(2/r_c) sin(nπr/r_c)/r under the envelope, n = 1 … n_basis (DimeNet, arXiv:2003.03123, eq. 7), Å^-1.5.

    Args:
        r: Distances below the cutoff, Å.
        cutoff: Å.
        n_basis: Number of functions.
    """
    x = r / cutoff
    orders = torch.arange(1, n_basis + 1, dtype=r.dtype, device=r.device) * math.pi
    return torch.sin(x.unsqueeze(-1) * orders) * (math.sqrt(2.0 / cutoff) * envelope(x) / r).unsqueeze(-1)
