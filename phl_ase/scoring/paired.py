"""Two methods compared on the same frames and seeds: ratios of mean errors with 95 % intervals, and what they say.

Seeds and reactions are crossed: every seed trains on its own draw of the same reactions, and what is hard for one seed
is hard for the next. A mean over both varies with each, so that each is drawn with replacement by itself, pairs whole,
and the two variances add up (the pigeonhole bootstrap: A. B. Owen, doi:10.1214/07-AOAS122, which draws both at once and
counts the residual three times). Three seeds and a dozen reactions are few: variances are scaled from n to n − 1, and
the interval is a t interval with Satterthwaite's degrees of freedom (doi:10.2307/3002019), of the logarithm for ratios.
In simulated studies of 1 to 5 seeds and 3 to 40 reactions these intervals held the truth in 92 to 98 % of cases,
percentiles of the pigeonhole bootstrap in 89 to 96 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.scoring.bootstrap import DRAWS, FEWEST_UNITS, resampling_units
from phl_ase.types import Array

MARGIN = (0.8, 1.25)
"""Two methods match when the whole 95 % interval of their error ratio lies between these."""

_LEVEL = 0.975
_FEW = 200  # values; of more, sums that are all alike are no chance


@dataclass(frozen=True, eq=False)
class Observations:
    """Values of one quantity by one method.

    Attributes:
        seeds: Seed of the training run ``(values,)``.
        items: What was predicted, alike for every method ``(values,)``: a frame, a start of a search, ….
        reactions: Reaction of each ``(values,)``, text; empty where unknown.
        values: Errors, not negative, or 0 and 1 ``(values,)``; not finite where there is none.
    """

    seeds: Array
    items: Array
    reactions: Array
    values: Array

    def __post_init__(self) -> None:
        """Arrays of one length.

        Raises:
            PHLError: For other ones.
        """
        shapes = {np.shape(getattr(self, name)) for name in self.__dataclass_fields__}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise PHLError(f"seeds, items, reactions and values have shapes {sorted(shapes)}; expected one length")

    def __len__(self) -> int:
        return len(self.values)

    def chosen(self, mask: Array) -> Observations:
        """Return those where the mask ``(values,)`` holds."""
        return Observations(self.seeds[mask], self.items[mask], self.reactions[mask], self.values[mask])

    @classmethod
    def joined(cls, parts: Sequence[Observations]) -> Observations:
        """Several one after another."""
        if not parts:
            return cls(*(np.zeros(0, dtype=kind) for kind in (int, "U1", "U1", float)))
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


@dataclass(frozen=True)
class Estimate:
    """A mean or a ratio with its 95 % interval.

    Attributes:
        value: The estimate; NaN where there is nothing.
        low: Lower limit; NaN where there are too few units.
        high: Upper limit.
        seeds: Number of seeds in it.
        units: Number of reactions, or frames where reactions are few.
        unit: ``"reactions"`` or ``"frames"``.
        pairs: Number of values, or pairs of values.
        left_out: Values or pairs that are not finite.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")
    seeds: int = 0
    units: int = 0
    unit: str = "frames"
    pairs: int = 0
    left_out: int = 0

    @property
    def has_interval(self) -> bool:
        """Return whether both limits are known."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def decides(self) -> bool:
        """Return whether it may say anything: not with predictions left out, nor of one seed, which varies unseen."""
        return self.has_interval and not self.left_out and self.seeds != 1

    @property
    def matches(self) -> bool:
        """Return whether the whole interval lies in ``MARGIN``."""
        return self.decides and MARGIN[0] <= self.low and self.high <= MARGIN[1]

    @property
    def better(self) -> bool:
        """Return whether the interval lies below 1: smaller errors."""
        return self.decides and self.high < 1.0

    @property
    def worse(self) -> bool:
        """Return whether the interval lies above 1."""
        return self.decides and self.low > 1.0

    @property
    def verdict(self) -> str:
        """``matches``, ``better``, ``worse``, two of these, or ``undecided``."""
        words = [word for word in ("matches", "better", "worse") if getattr(self, word)]
        return ", ".join(words) or "undecided"


def mean_estimate(observed: Observations, *, most: float | None = None, draws: int = DRAWS) -> Estimate:
    """Mean of a quantity over its frames and seeds, with a 95 % interval.

    Args:
        observed: The values; not finite ones are left out and counted.
        most: Of a share, what all is: its interval ends there and at zero. That of an error is one of its logarithm.
        draws: Bootstrap samples.
    """
    present = np.isfinite(observed.values)
    kept = observed.chosen(present)
    left_out = int((~present).sum())
    table = _Table.of(kept, [kept.values, np.ones(len(kept))])
    if most is not None:
        estimate = table.estimate(lambda sums: _divided(sums[0], sums[1]), draws)
        return _estimate(estimate, table, len(kept), left_out, lambda x: np.clip(x, 0.0, most))
    if not kept.values.any():
        return Estimate(0.0 if len(kept) else float("nan"), pairs=len(kept), left_out=left_out)
    return _estimate(table.estimate(lambda s: _log_ratio(s[0], s[1]), draws), table, len(kept), left_out, np.exp)


def ratio_estimate(of: Observations, to: Observations, *, draws: int = DRAWS) -> Estimate:
    """Return the ratio of two methods' mean errors on the same frames and seeds, with a 95 % interval.

    Args:
        of: The method.
        to: What it is compared with.
        draws: Bootstrap samples.

    Returns:
        Below 1 where ``of`` errs less. Frames and seeds that one of them lacks are left aside, pairs that hold NaN or
        infinity are counted as left out.
    """
    pairs = _Pairs.of(of, to)
    table = _Table.of(pairs.kept, [pairs.top, pairs.bottom])
    estimate = table.estimate(lambda sums: _log_ratio(sums[0], sums[1]), draws)
    return _estimate(estimate, table, len(pairs.kept), pairs.left_out, np.exp)


def ratio_change(
    here: tuple[Observations, Observations], there: tuple[Observations, Observations], *, draws: int = DRAWS
) -> Estimate:
    """Return how much an error ratio differs between two kinds of frames: ratio here over ratio there.

    Args:
        here: Two methods on some frames, for example far from equilibrium.
        there: The same two on others, of the same seeds and reactions.
        draws: Bootstrap samples.

    Returns:
        Below 1 where the first method gains more here than there.
    """
    pairs = [_Pairs.of(*both) for both in (here, there)]
    together = Observations.joined([pair.kept for pair in pairs])
    sides = [side for pair in pairs for side in (pair.top, pair.bottom)]
    lengths = np.cumsum([0, *(len(pair.kept) for pair in pairs)])
    columns = []
    for place, side in enumerate(sides):
        column = np.zeros(len(together))
        column[lengths[place // 2] : lengths[place // 2 + 1]] = side
        columns.append(column)
    table = _Table.of(together, columns)
    estimate = table.estimate(lambda s: _log_ratio(s[0], s[1]) - _log_ratio(s[2], s[3]), draws)
    return _estimate(estimate, table, len(together), sum(pair.left_out for pair in pairs), np.exp)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Values of two methods side by side: who they are of, both sides, and how many were not finite."""

    kept: Observations
    top: Array
    bottom: Array
    left_out: int

    @classmethod
    def of(cls, of: Observations, to: Observations) -> _Pairs:
        place = {key: index for index, key in enumerate(zip(to.seeds.tolist(), to.items.tolist(), strict=True))}
        keys = zip(of.seeds.tolist(), of.items.tolist(), strict=True)
        both = [(i, place[key]) for i, key in enumerate(keys) if key in place]
        left, right = (np.array([pair[side] for pair in both], dtype=int) for side in (0, 1))
        top, bottom = of.values[left], to.values[right]
        present = np.isfinite(top) & np.isfinite(bottom)
        kept = of.chosen(left[present])
        return cls(kept, top[present], bottom[present], int((~present).sum()))


@dataclass(frozen=True, eq=False)
class _Table:
    """Sums over the values of each seed and unit ``(columns, seeds, units)``: all that resampling needs."""

    sums: Array
    unit: str

    @classmethod
    def of(cls, observed: Observations, columns: Sequence[Array]) -> _Table:
        seeds, row = np.unique(observed.seeds, return_inverse=True)
        units = resampling_units(observed.reactions.tolist())
        # a frame is one unit, whichever seeds tested it
        name = units.of_frame if units.name == "reactions" else np.unique(observed.items, return_inverse=True)[1]
        sums = np.zeros((len(columns), len(seeds), int(name.max(initial=-1)) + 1))
        for table, column in zip(sums, columns, strict=True):
            np.add.at(table, (row, name), column)
        return cls(sums, units.name)

    def estimate(self, statistic, draws: int) -> tuple[float, float]:
        """Return the statistic and the half width of its 95 % interval; NaN for what cannot be had.

        Args:
            statistic: Of sums ``(columns, …)``, for every draw at once.
            draws: Bootstrap samples.
        """
        from scipy.stats import t as student  # takes long to load, and who only reads errors needs none of it

        if not self.sums.size:
            return float("nan"), float("nan")
        value = float(statistic(self.sums.sum(axis=(1, 2))[:, None])[0])
        parts = [
            (_variance(statistic, self.sums.sum(axis=axis), draws), self.sums.shape[other] - 1)
            for axis, other in ((1, 2), (2, 1))
        ]
        known = [(variance, freedom) for variance, freedom in parts if freedom > 0]
        total = sum(variance for variance, _ in known)
        flat = self.sums.reshape(len(self.sums), -1)
        if flat.shape[1] <= _FEW:
            # of few values, sums over seeds and over units may all be alike by chance
            alone = _variance(statistic, flat, draws)
            total, known = (alone, [(alone, flat.shape[1] - 1)]) if alone > total else (total, known)
        if self.sums.shape[2] < FEWEST_UNITS or not np.isfinite(total) or total <= 0:
            return value, float("nan")
        freedom = total**2 / sum(variance**2 / freedom for variance, freedom in known)
        return value, float(student.ppf(_LEVEL, freedom) * np.sqrt(total))


def _variance(statistic, sums: Array, draws: int) -> float:
    """Bootstrap variance over the last axis ``(columns, n)``, scaled as of n − 1; 0 for one unit alone."""
    count = sums.shape[-1]
    if count < 2:
        return 0.0
    values = np.concatenate([statistic(sums @ weights.T) for weights in _weights(count, draws)])
    values = values[np.isfinite(values)]
    # a draw may hold no error at all; where many do there is no interval
    return float(np.var(values)) * count / (count - 1) if len(values) > 0.9 * draws else float("nan")


def _weights(count: int, draws: int) -> Iterator[Array]:
    """Return how often each unit is drawn, ``(some, units)`` at a time; the same for every quantity and method."""
    random = np.random.default_rng(0)
    left = draws
    while left:
        some = min(left, max(1, 4_000_000 // count))
        yield random.multinomial(count, np.full(count, 1 / count), size=some).astype(float)
        left -= some


def _divided(top: Array, bottom: Array) -> Array:
    return np.divide(top, bottom, out=np.full(np.shape(bottom), np.nan), where=np.asarray(bottom) > 0)


def _log_ratio(top: Array, bottom: Array) -> Array:
    ratio = _divided(top, bottom)
    return np.log(ratio, out=np.full(np.shape(ratio), np.nan), where=np.asarray(ratio) > 0)


def _estimate(found: tuple[float, float], table: _Table, pairs: int, left_out: int, back) -> Estimate:
    """Return an estimate on the scale that it is shown on."""
    value, half = found
    shown, low, high = (float(back(x)) for x in (value, value - half, value + half))
    seeds, units = (table.sums.shape[1], table.sums.shape[2]) if table.sums.size else (0, 0)
    return Estimate(shown, low, high, seeds, units, table.unit, pairs, left_out)
