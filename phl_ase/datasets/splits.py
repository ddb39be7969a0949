"""Splits: which frames train, which choose the model, which test it. Named, seeded and recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from phl_ase.datasets.base import BaseDataset
from phl_ase.errors import PHLError, unknown
from phl_ase.types import Array

Shares = tuple[float, float, float]
Parts = tuple[Array, Array, Array]

STATIONARY = ("reactant", "product", "ts", "minimum")
PARTS = ("train", "valid", "test")
_ROUNDING = 5e-6  # Å: positions in float32 are good to 1e-6, those of extended XYZ to 5e-9


@dataclass(frozen=True)
class Split:
    """A division of a data set into three parts: disjoint, together complete, each ascending.

    Attributes:
        name: Key of :data:`SPLITS`.
        seed: Seed it was drawn with.
        train: Indices to train on.
        valid: Indices to choose the model by.
        test: Indices to judge it by.
        fractions: Train, valid, test.
        mild: Highest temperature of a mild sample, K (``stationary`` alone reads it).
        dataset: Content hash of the data set that was split.
        structures: Its :attr:`~phl_ase.datasets.base.BaseDataset.projections`, by which a copy of it in another format
            is known; empty in splits that older versions recorded.
    """

    name: str
    seed: int
    train: tuple[int, ...]
    valid: tuple[int, ...]
    test: tuple[int, ...]
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    mild: float = 600.0
    dataset: str = ""
    structures: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the split as values that JSON holds."""
        parts = {part: list(getattr(self, part)) for part in PARTS}
        rest = {"name": self.name, "seed": self.seed, "fractions": list(self.fractions), "mild": self.mild}
        return {**rest, "dataset": self.dataset, "structures": list(self.structures), **parts}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Split:
        """Return the split that :meth:`to_json` recorded.

        Raises:
            PHLError: When something is missing, unknown, or an index stands twice.
        """
        try:
            values = dict(values)
            for key in (*PARTS, "fractions", "structures"):
                if key in values:
                    values[key] = tuple(int(v) if key in PARTS else float(v) for v in values[key])
            split = cls(**values)
        except (TypeError, ValueError) as error:
            raise PHLError(f"a recorded split is broken: {error}; expected name, seed, train, valid, test") from error
        indices = split.train + split.valid + split.test
        if len(set(indices)) != len(indices):
            raise PHLError(f"a recorded split ({split.name}) names a frame twice; its parts must be disjoint")
        return split

    def check(self, dataset: BaseDataset) -> Split:
        """Check that the split was made for this data set, or for one of the same structures in the same order.

        Raises:
            PHLError: When the data set is another one, or the parts do not make it up.
        """
        if self.dataset and self.dataset != dataset.content_hash():
            # the same structures in another format, with other labels, or rounded
            found, allowed = dataset.projections, _ROUNDING * np.sqrt(3.0 * dataset.sizes.sum())
            same = len(found) == len(self.structures) and np.allclose(found, self.structures, rtol=0.0, atol=allowed)
            if not same:
                old = "" if self.structures else " (an older version recorded it, by which only the very file is known)"
                raise PHLError(
                    f"the split {self.name!r} was made for other data than {dataset.name}{old}; split it again"
                )
        if sorted(self.train + self.valid + self.test) != list(range(len(dataset))):
            raise PHLError(f"the split {self.name!r} does not cover the {len(dataset)} frames of {dataset.name}")
        return self


def split(
    dataset: BaseDataset,
    name: str,
    seed: int,
    *,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    mild: float = 600.0,
) -> Split:
    """Divide a data set into training, validation and test frames.

    - ``random``: by the fractions, at random but spread evenly over the kinds of geometry (stratified).
    - ``stationary``: train on reactants, products, TSs and the mild samples (a temperature of at most ``mild``, no IRC
      points); validate on a stratified part of these, valid / (train + valid) of them; test on everything else: IRC
      points, structures displaced at random, hot samples, samples whose temperature is unknown.
    - ``by-reaction``: whole reactions, by the fractions of their number.

    Args:
        dataset: What to divide.
        name: Key of :data:`SPLITS`.
        seed: Same seed, same data set, same split.
        fractions: Train, valid, test; their sum is 1. A part whose fraction is above 0 gets one frame or reaction at
            least.
        mild: Highest temperature of a mild sample, K.

    Raises:
        PHLError: For an unknown name, fractions that do not add up, or data that cannot be split so.
    """
    if name not in SPLITS:
        raise unknown("split", name, SPLITS)
    shares = tuple(float(f) for f in fractions)
    if len(shares) != 3 or not all(0 <= f <= 1 for f in shares) or abs(sum(shares) - 1) > 1e-6 or shares[0] == 0:
        raise PHLError(f"split fractions are {list(fractions)}; expected train, valid, test: train > 0, the sum 1")
    if seed < 0:
        raise PHLError(f"split seed is {seed}; expected 0 or more")
    divided = SPLITS[name](dataset, (shares[0], shares[1], shares[2]), mild, np.random.default_rng(seed))
    train, valid, test = (tuple(sorted(map(int, indices))) for indices in divided)
    if not train:
        raise PHLError(
            f"the split {name!r} leaves nothing of {dataset.name} ({len(dataset)} frames) to train on; "
            "give more data, or other fractions"
        )
    return Split(
        name=name,
        seed=seed,
        train=train,
        valid=valid,
        test=test,
        fractions=(shares[0], shares[1], shares[2]),
        mild=mild,
        dataset=dataset.content_hash(),
        structures=dataset.projections,
    )


def _drawn(order: Array, fraction: float, generator: np.random.Generator) -> tuple[Array, Array]:
    """Draw a fraction evenly along an order (systematic sampling); return it and the rest."""
    count = min(len(order), max(1, round(fraction * len(order)))) if fraction > 0 and len(order) else 0
    chosen = np.zeros(len(order), dtype=bool)
    if count:
        chosen[((np.arange(count) + generator.random()) * len(order) / count).astype(int)] = True
    return order[chosen], order[~chosen]


def _by_kind(dataset: BaseDataset, indices: Array, generator: np.random.Generator) -> Array:
    """Return indices shuffled, then grouped by kind: an even draw along this order is a stratified one."""
    shuffled = generator.permutation(indices)
    return shuffled[np.argsort(dataset.kinds[shuffled], kind="stable")]


def _three(order: Array, shares: Shares, generator: np.random.Generator) -> Parts:
    """Draw test and validation parts evenly along an order; the rest is for training."""
    _, valid_share, test_share = shares
    test, rest = _drawn(order, test_share, generator)
    valid, train = _drawn(rest, min(1.0, valid_share / (1 - test_share)), generator)
    return train, valid, test


def _random(dataset: BaseDataset, shares: Shares, mild: float, generator: np.random.Generator) -> Parts:
    return _three(_by_kind(dataset, np.arange(len(dataset)), generator), shares, generator)


def _stationary(dataset: BaseDataset, shares: Shares, mild: float, generator: np.random.Generator) -> Parts:
    stationary = np.isin(dataset.kinds, STATIONARY)
    if not stationary.any():
        has = ", ".join(sorted({kind or "unknown" for kind in dataset.kinds.tolist()}))
        needs = ", ".join(STATIONARY)
        raise PHLError(f"the split 'stationary' needs frames of kind {needs}; {dataset.name} has: {has}")
    near = stationary | ((dataset.temperatures <= mild) & (dataset.kinds != "irc"))  # NaN, the unknown, is not mild
    if near.all():
        raise PHLError(
            f"the split 'stationary' needs IRC points or samples above {mild:g} K to test on; "
            f"{dataset.name} has none: use 'random' or lower the limit"
        )
    order = _by_kind(dataset, np.nonzero(near)[0], generator)
    valid, train = _drawn(order, shares[1] / (shares[0] + shares[1]), generator)
    return train, valid, np.nonzero(~near)[0]


def _by_reaction(dataset: BaseDataset, shares: Shares, mild: float, generator: np.random.Generator) -> Parts:
    reactions = dataset.reactions
    if unnamed := int((reactions == "").sum()):
        raise PHLError(f"the split 'by-reaction' needs a reaction for every frame; {unnamed} frames have none")
    names = np.unique(reactions)
    wanted = sum(share > 0 for share in shares)
    if len(names) < wanted:
        raise PHLError(f"the split 'by-reaction' needs at least {wanted} reactions; {dataset.name} has {len(names)}")
    train, valid, test = _three(generator.permutation(names), shares, generator)
    return tuple(np.nonzero(np.isin(reactions, part))[0] for part in (train, valid, test))  # type: ignore[return-value]


SPLITS: dict[str, Callable[[BaseDataset, Shares, float, np.random.Generator], Parts]] = {
    "random": _random,
    "stationary": _stationary,
    "by-reaction": _by_reaction,
}
"""Name -> function that divides a data set into train, valid and test indices."""
