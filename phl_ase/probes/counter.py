"""Counter-based random numbers: SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195) as a hash.

Vectorised over tensors on any device; the same counters give the same numbers everywhere.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    # torch shifts signed integers arithmetically: clear the copies of the sign bit
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ _logical_shift(x, 30)) * _MIX_1
    x = (x ^ _logical_shift(x, 27)) * _MIX_2
    return x ^ _logical_shift(x, 31)


def hash_counters(*counters: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Hash broadcastable integer counters into 64 random bits each."""
    state = torch.zeros_like(counters[0])
    for counter in counters:
        state = _mix(state ^ _mix(counter))
    return state


def uniform(bits: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Uniform float64 numbers in the open interval (0, 1)."""
    return (_logical_shift(bits, 11).to(torch.float64) + 0.5) * 2.0**-53


def normal(bits: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Standard normal float64 numbers (Box and Muller 1958)."""
    radius = torch.sqrt(-2.0 * torch.log(uniform(bits)))
    return radius * torch.cos(2.0 * math.pi * uniform(_mix(bits)))
