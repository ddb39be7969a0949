"""Radial functions that vanish with three derivatives at the cutoff, so that the gradient of an HVP loss is continuous."""

from __future__ import annotations

import functools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from phl_ase.potentials.ladder import Ladder, climb


def _coefficients(p: int) -> tuple[float, float, float, float]:
    # u = 1 + Σ c_k x^(p+k) with u = u′ = u″ = u‴ = 0 at x = 1
    return (
        -(p + 1) * (p + 2) * (p + 3) / 6,
        p * (p + 2) * (p + 3) / 2,
        -p * (p + 1) * (p + 3) / 2,
        p * (p + 1) * (p + 2) / 6,
    )


def envelope(x: Float[Tensor, " edges"], p: int = 6) -> Float[Tensor, " edges"]:
    """Polynomial cutoff with u = u′ = u″ = u‴ = 0 at x = 1 and u = 1 − O(x^p) at 0.

    The construction of Klicpera et al. (DimeNet, arXiv:2003.03123, eq. 8) carried one order further.

    Args:
        x: Distance over cutoff, in [0, 1).
        p: Lowest power.
    """
    a, b, c, d = _coefficients(p)
    return 1.0 + x**p * (a + x * (b + x * (c + x * d)))


def bessel_basis(r: Float[Tensor, " edges"], cutoff: float, n_basis: int) -> Float[Tensor, "edges basis"]:
    """√2 sin(nπr/r_c)·r_c/r under the envelope, n = 1 … n_basis (DimeNet, arXiv:2003.03123, eq. 7), dimensionless.

    Args:
        r: Distances below the cutoff, Å.
        cutoff: Å.
        n_basis: Number of functions.
    """
    return climb(r, _bessel(cutoff, n_basis))


@functools.cache
def _bessel(cutoff: float, n_basis: int, p: int = 6) -> Ladder:
    powers = (-1, p - 1, p, p + 1, p + 2)
    factors = (1.0, *_coefficients(p))

    def damping(x: Tensor, order: int) -> Tensor:
        # derivative of u(x)/x = x⁻¹ + Σ c_k x^(p−1+k), Horner in x after the first term
        scaled = [f * math.prod(e - k for k in range(order)) for f, e in zip(factors, powers, strict=True)]
        tail = scaled[4]
        for factor in scaled[3:0:-1]:
            tail = factor + x * tail
        return scaled[0] * x ** (-1 - order) + x ** (p - 1 - order) * tail

    def ladder(r: Tensor, order: int) -> Tensor:
        x = r / cutoff
        waves = torch.arange(1, n_basis + 1, dtype=r.dtype, device=r.device) * math.pi
        phase = x.unsqueeze(-1) * waves
        sine, cosine = torch.sin(phase), torch.cos(phase) if order else None
        total = None
        for k in range(order + 1):  # Leibniz: the k-th derivative of the sine, the rest of the damping
            wave = sine if k % 2 == 0 or cosine is None else cosine
            sign = (1, 1, -1, -1)[k % 4]
            scale = sign * math.comb(order, k) * math.sqrt(2.0) / cutoff**order
            term = wave * (waves**k if k else 1.0) * (scale * damping(x, order - k)).unsqueeze(-1)
            total = term if total is None else total + term
        assert total is not None
        return total

    return ladder
