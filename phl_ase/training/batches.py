"""Frames of each minibatch: a function of (seed, epoch), so that a resumed run draws the same ones."""

from __future__ import annotations

import numpy as np

from phl_ase.errors import PHLError

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


_REPLAY = 1  # last number of the seed of what is replayed


def replayed_per_batch(share: float, batch_size: int) -> int:
    """Replayed systems in every batch: the share, but at least one, and one new system.

    Raises:
        PHLError: For batches of one system.
    """
    if batch_size < 2:
        raise PHLError("training.batch_size is 1; expected 2 or more, as new and replayed frames share batches")
    return min(max(1, round(share * batch_size)), batch_size - 1)


def batches_with_replay(
    sizes: np.ndarray, n_replayed: int, batch_size: int, *, share: float, seed: int, epoch: int
) -> list[np.ndarray]:
    """Batches of an epoch in which every new frame stands once and every batch holds as many replayed ones.

    Replayed frames are drawn without repetition until all have been taken, then anew.

    Args:
        sizes: Atoms of each frame ``(frames,)``, the new ones first.
        n_replayed: How many of them, at the end, are to be replayed.
        batch_size: Systems per batch, replayed ones included; the last one of an epoch may be smaller.
        share: Of a batch, replayed.
        seed: Seed of the run.
        epoch: Epoch.

    Raises:
        PHLError: For batches of one system.
    """
    number, new = replayed_per_batch(share, batch_size), len(sizes) - n_replayed
    batches = batches_of_epoch(sizes[:new], batch_size - number, seed=seed, epoch=epoch)
    rng = np.random.default_rng([seed, epoch, _REPLAY])
    wanted = number * len(batches)
    order = np.concatenate([rng.permutation(n_replayed) for _ in range(-(-wanted // n_replayed))])[:wanted]
    both = [np.concatenate(parts) for parts in zip(batches, new + order.reshape(-1, number), strict=True)]
    return [batch[np.argsort(sizes[batch], kind="stable")] for batch in both]
