"""Rounding of factors as GPUs round them: the spacing of their formats, in products and in derivatives of products."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflows" / "benchmarks"))
from matmul_precision import RoundedFactors, to_bfloat16, to_tf32

BITS = {to_tf32: 10, to_bfloat16: 7}


@pytest.mark.parametrize("rounded", BITS)
def test_numbers_are_rounded_to_the_nearest(rounded, generator):
    spacing = 2.0 ** -BITS[rounded]
    kept = torch.tensor([0.0, 1.0, -1.5, 1.0 + spacing, 2.0**100, -(2.0**-100)])
    assert torch.equal(rounded(kept), kept)
    numbers = 1.0 + torch.rand(10_000, generator=generator)
    errors = (rounded(numbers) - numbers).abs()
    assert errors.max() <= spacing / 2
    assert errors.max() > 0.49 * spacing
    assert errors.mean() == pytest.approx(spacing / 4, rel=0.05)
    assert torch.equal(rounded(-numbers), -rounded(numbers))


@pytest.mark.parametrize("rounded", BITS)
@pytest.mark.parametrize("shape", [(5, 6), (3, 5, 6)])
def test_products_and_their_derivatives_are_of_rounded_factors(rounded, shape, generator):
    a, b = (torch.randn(shape, generator=generator).requires_grad_() for _ in range(2))
    with RoundedFactors(rounded):
        product = a @ b.mT
        (gradient,) = torch.autograd.grad(product.square().sum(), a)
    expected = rounded(a.detach()) @ rounded(b.detach()).mT
    assert torch.equal(product, expected)
    assert torch.equal(gradient, rounded(2 * expected) @ rounded(b.detach()))
    assert not torch.equal(product, a @ b.mT)
    double = a.double() @ b.double().mT
    with RoundedFactors(rounded):
        assert torch.equal(a.double() @ b.double().mT, double)
