"""Counter-based random numbers: SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195) as a hash.

Vectorised over tensors on any device; the same counters give the same numbers everywhere.
"""

from __future__ import annotations

import functools
import itertools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    # torch shifts signed integers arithmetically: clear the copies of the sign bit
    return torch.bitwise_right_shift(x, bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    # in place on the first sum: these are many small operations in every training step
    x = x + _GOLDEN
    x.bitwise_xor_(_logical_shift(x, 30)).mul_(_MIX_1)
    x.bitwise_xor_(_logical_shift(x, 27)).mul_(_MIX_2)
    return x.bitwise_xor_(_logical_shift(x, 31))


def hash_counters(*counters: int | Int[Tensor, "..."] | range) -> Int[Tensor, "..."]:
    """Hash broadcastable integer counters into 64 random bits each.

    Args:
        counters: Numbers, tensors, and ranges, which run along the last axis; what a number or a range comes to is
            kept, for every step asks for the same ones again.
    """
    numbers = tuple(itertools.takewhile(lambda counter: isinstance(counter, int), counters))
    return functools.reduce(_absorbed, counters[len(numbers) :], _hash_of(numbers))


def _absorbed(state: Tensor, counter: int | Tensor | range) -> Tensor:
    if isinstance(counter, range):
        mixed = _mix_range(counter, state.device)
    else:
        mixed = _mix(counter if isinstance(counter, Tensor) else torch.tensor(counter, device="cpu"))
    return _mix(torch.bitwise_xor(mixed, state))


@functools.lru_cache(maxsize=256)
def _hash_of(numbers: tuple[int, ...]) -> Int[Tensor, ""]:
    return functools.reduce(_absorbed, numbers, torch.zeros((), dtype=torch.int64, device="cpu"))


@functools.lru_cache(maxsize=256)
def _mix_range(counters: range, device: torch.device) -> Int[Tensor, " counters"]:
    return _mix(torch.arange(counters.start, counters.stop, counters.step, device=device))


def uniform(bits: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Uniform float64 numbers in the open interval (0, 1)."""
    return (_logical_shift(bits, 11).to(torch.float64) + 0.5) * 2.0**-53


def normal(bits: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Standard normal float64 numbers (Box and Muller 1958)."""
    radius = torch.sqrt(-2.0 * torch.log(uniform(bits)))
    return radius * torch.cos(2.0 * math.pi * uniform(_mix(bits)))
