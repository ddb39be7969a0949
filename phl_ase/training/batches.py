"""Which frames go into which minibatch: a function of (seed, epoch), so that a resumed run draws the same ones."""

from __future__ import annotations

import numpy as np

POOL = 8
"""Batches' worth of shuffled frames that are sorted by size together."""


def batches_of_epoch(sizes: np.ndarray, batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """Shuffle, then pack systems of like size together, so that dense blocks carry little padding.

    Args:
        sizes: Atoms of each frame ``(frames,)``.
        batch_size: Systems per batch; the last one of an epoch may be smaller.
        seed: Seed of the run.
        epoch: Epoch.

    Returns:
        Indices of each batch, in the order to take them; every frame stands in exactly one.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(sizes))
    batches = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(sizes[pool], kind="stable")]
        batches += [pool[a : a + batch_size] for a in range(0, len(pool), batch_size)]
    return [batches[b] for b in rng.permutation(len(batches))]
