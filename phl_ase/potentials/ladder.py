"""Elementwise functions with closed-form derivatives of every order that third derivatives of an energy need.

Reverse mode applied three times to a composite like SiLU multiplies its operations; a ladder f, f′, f″, f‴ evaluates each
derivative once, as one function. Under ``torch.compile``, which fuses elementwise work by itself, the plain expressions are
traced instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# (x, order) -> derivative of that order at x; a function onto a new last axis maps (...) to (..., basis)
Ladder = Callable[[Tensor, int], Tensor]


class _Rung(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, ladder: Ladder, order: int) -> Tensor:
        return ladder(x, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Ladder, int], output: Tensor) -> None:
        x, ctx.ladder, ctx.order = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        product = gradient * _Rung.apply(x, ctx.ladder, ctx.order + 1)
        return (product if gradient.dim() == x.dim() else product.sum(-1)), None, None


def climb(x: Tensor, ladder: Ladder) -> Tensor:
    """Apply a function given by its ladder of derivatives."""
    return ladder(x, 0) if torch.compiler.is_compiling() else _Rung.apply(x, ladder, 0)


def silu(x: Tensor) -> Tensor:
    """x σ(x)."""
    return torch.nn.functional.silu(x) if torch.compiler.is_compiling() else climb(x, _silu)


def power(x: Tensor, exponent: float) -> Tensor:
    """x to a fixed power, x > 0."""
    return x.pow(exponent) if torch.compiler.is_compiling() else climb(x, _POWERS[exponent])


def _silu(x: Tensor, order: int) -> Tensor:
    # f⁽ᵏ⁾ = k σ⁽ᵏ⁻¹⁾ + x σ⁽ᵏ⁾, the derivatives of σ as polynomials in σ
    if order == 0:
        return torch.nn.functional.silu(x)
    s = torch.sigmoid(x)
    slope = s * (1.0 - s)
    if order == 1:
        return torch.addcmul(s, x, slope)
    second = slope * (1.0 - 2.0 * s)
    if order == 2:
        return torch.addcmul(2.0 * slope, x, second)
    third = slope * (1.0 - 6.0 * slope)
    if order == 3:
        return torch.addcmul(3.0 * second, x, third)
    if order == 4:
        return torch.addcmul(4.0 * third, x, second * (1.0 - 12.0 * slope))
    raise NotImplementedError(f"derivative {order} of SiLU; a Hessian's gradient needs at most the third")


def _power(exponent: float) -> Ladder:
    def ladder(x: Tensor, order: int) -> Tensor:
        return math.prod(exponent - k for k in range(order)) * x.pow(exponent - order)

    return ladder


_POWERS: dict[float, Ladder] = {exponent: _power(exponent) for exponent in (0.5, -0.5)}
