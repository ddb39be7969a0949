"""Means with bootstrap intervals, of many errors over many groups of frames at once.

What is drawn with replacement is whole reactions where frames name theirs: the frames of one reaction are the same
molecule on the same path, a potential that fails on one of them fails on its neighbours, and intervals from resampled
frames come out far too narrow. Clusters are drawn whole, without drawing frames within them: A. C. Davison and D. V.
Hinkley, Bootstrap Methods and their Application (1997), section 3.8, doi:10.1017/CBO9780511802843.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from phl_ase.types import Array

DRAWS = 2000
"""Bootstrap samples."""

FEWEST_REACTIONS = 5
"""With fewer reactions than this, frames are drawn: a handful of reactions has too few different samples."""

FEWEST_UNITS = 3
"""A mean over fewer reactions (or frames) than this has no interval."""

MOST_UNITS = 10_000
"""More units than this are drawn in so many blocks, put together at random: the same interval in bounded time."""

_LEVEL = (2.5, 97.5)
_AT_ONCE = 4_000_000  # weights held at a time


@dataclass(frozen=True, eq=False)
class Units:
    """Groups of values that are drawn with replacement.

    Attributes:
        name: ``"reactions"`` or ``"frames"``.
        number: How many there are.
        of_frame: The unit, or block of units, that each frame belongs to ``(frames,)``, counted from zero.
    """

    name: str
    number: int
    of_frame: Array


def resampling_units(reactions: Sequence[str]) -> Units:
    """Reactions where enough frames name theirs, else frames; a frame without a reaction stands for itself.

    Args:
        reactions: Of each frame; empty where unknown.
    """
    names, place = np.unique([name or f"\0{index}" for index, name in enumerate(reactions)], return_inverse=True)
    word = "reactions"
    if len(names) < FEWEST_REACTIONS or not any(reactions):
        word, place = "frames", np.arange(len(reactions))
    number = int(place.max(initial=-1)) + 1
    if number > MOST_UNITS:
        place = np.random.default_rng(0).permutation(number)[place] % MOST_UNITS
    return Units(word, number, place)


@dataclass(frozen=True, eq=False)
class GroupMeans:
    """Means of each error over each group, with 95 % intervals.

    Attributes:
        members: Frames of each group ``(groups,)``.
        frames: Error → frames that have it ``(groups,)``.
        mean: Error → mean ``(groups,)``; NaN where no frame has it.
        low: Error → 2.5 % limit ``(groups,)``; NaN where fewer than ``FEWEST_UNITS`` units have it or all are alike.
        high: Error → 97.5 % limit ``(groups,)``.
    """

    members: Array
    frames: Mapping[str, Array]
    mean: Mapping[str, Array]
    low: Mapping[str, Array]
    high: Mapping[str, Array]

    def part(self, first: int, last: int) -> GroupMeans:
        """Groups ``first`` up to, not including, ``last``."""
        cut = {n: {e: v[first:last] for e, v in getattr(self, n).items()} for n in ("frames", "mean", "low", "high")}
        return GroupMeans(members=self.members[first:last], **cut)


def group_means(
    errors: Mapping[str, Array], groups: Array, units: Units, *, draws: int = DRAWS, seed: int = 0
) -> GroupMeans:
    """Return means over groups of frames and their percentile-bootstrap 95 % intervals.

    Every group and error sees the same samples. With a dozen reactions such intervals hold the true mean in about 90 %
    of cases, not 95: percentile intervals of few clusters are somewhat narrow.

    Args:
        errors: Error → ``(frames,)``; what is not finite is left out.
        groups: Which frames belong to which group ``(groups, frames)`` bool.
        units: What is drawn.
        draws: Bootstrap samples.
        seed: Of the random numbers.
    """
    n_units = int(units.of_frame.max(initial=-1)) + 1
    # (units, errors × groups): every mean of every sample is then a ratio of two matrix products
    sums = np.zeros((n_units, len(errors) * len(groups)))
    counts = np.zeros_like(sums)
    for place, values in enumerate(errors.values()):
        present = np.isfinite(values)
        columns = slice(place * len(groups), (place + 1) * len(groups))
        np.add.at(counts[:, columns], units.of_frame, (groups & present).T.astype(float))
        np.add.at(sums[:, columns], units.of_frame, (groups * np.where(present, values, 0.0)).T)
    samples = np.concatenate([_ratio(w @ sums, w @ counts) for w in _weights(n_units, draws, seed)])
    limits = np.full((2, samples.shape[1]), np.nan)
    enough = (counts > 0).sum(axis=0) >= FEWEST_UNITS
    if enough.any():
        # a sample may lack every unit of a small group
        limits[:, enough] = np.nanpercentile(samples[:, enough], _LEVEL, axis=0)
    # none of 13 frames wrong does not mean that none ever is
    limits[:, limits[0] == limits[1]] = np.nan
    found = {
        "frames": counts.sum(axis=0).astype(int),
        "mean": _ratio(sums.sum(axis=0), counts.sum(axis=0)),
        "low": limits[0],
        "high": limits[1],
    }
    by_error = {
        name: dict(zip(errors, column.reshape(len(errors), len(groups)), strict=True)) for name, column in found.items()
    }
    return GroupMeans(members=groups.sum(axis=1), **by_error)


def _weights(n_units: int, draws: int, seed: int) -> Iterator[Array]:
    """Return how often each unit is in each sample, ``(some, units)`` at a time."""
    random = np.random.default_rng(seed)
    left = draws
    while left:
        some = min(left, max(1, _AT_ONCE // n_units))
        drawn = random.integers(n_units, size=(some, n_units)) + n_units * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * n_units).reshape(some, n_units).astype(float)
        left -= some


def _ratio(sums: Array, counts: Array) -> Array:
    return np.divide(sums, counts, out=np.full(counts.shape, np.nan), where=counts > 0)
