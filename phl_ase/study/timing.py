"""The time of an optimiser step of each training method, measured in turn, for equal time and for progress."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from phl_ase.errors import PHLError
from phl_ase.scoring.paired import Estimate
from phl_ase.study.config import StudyConfig
from phl_ase.study.plan import Run, run_data, subset, train_config
from phl_ase.training import RunData, Stopped, train

CLOCKS: Mapping[str, Callable[[], float]] = {"processor": time.process_time, "wall": time.perf_counter}
"""What time is measured in -> the clock, s."""

_BATCHES = 6  # of frames that are timed: enough for a mean over sizes, few enough for a scheme whose steps take long
_STEPS = 24  # in the difference of two runs, which has neither start nor validation in it


def measure(runs: Mapping[str, Run], config: StudyConfig) -> dict[str, list[float]]:
    """Return seconds of an optimiser step, the methods in turn so that a busy machine is busy for all of them.

    Args:
        runs: ``TrainingMethod.cost_key`` -> a run.
        config: The study.

    Returns:
        Those of the keys that can be trained at all -> one number for each round, s.
    """
    clock = CLOCKS[config.budget.clock]
    first = next(iter(runs.values()))
    data = run_data(replace(first, series=replace(first.series, fraction=1.0)), config)
    few = _BATCHES * config.training.batch_size
    frames = subset(data.train, min(1.0, few / len(data.train)), 0)
    part = replace(data, train=frames, valid=frames[:1])
    batches = -(-len(frames) // config.training.batch_size)
    more = -(-_STEPS // batches)
    seconds: dict[str, list[float]] = {key: [] for key in runs}
    with _one_thread():
        for _ in range(config.budget.rounds):
            for key in list(seconds):
                try:
                    short, long = (_seconds(runs[key], config, part, epochs, clock) for epochs in (1, 1 + more))
                except Stopped:
                    raise
                except PHLError:
                    del seconds[key]  # its runs fail by themselves, and say why
                    continue
                seconds[key].append((long - short) / (more * batches))
    # the difference of two short times may be anything on a machine with other work; all of them were not
    return {key: [s for s in values if s > 0] or [max(map(abs, values))] for key, values in seconds.items() if values}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread, as runs do; the processor's clock counts threads that wait for each other as well."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _seconds(run: Run, config: StudyConfig, data: RunData, epochs: int, clock: Callable[[], float]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = clock()
        train(train_config(run, config, epochs=epochs), data, folder)
        return clock() - started


def speed_ratio(slow: Sequence[float], fast: Sequence[float]) -> Estimate:
    """Return how many times as long the one takes, with a 95 % t interval of the logarithm over the rounds."""
    from scipy.stats import t as student

    rounds = min(len(slow), len(fast))
    logs = np.log(np.array(slow[:rounds]) / np.array(fast[:rounds]))
    half = student.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs)) if len(logs) > 1 else np.nan
    value, low, high = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half])
    return Estimate(float(value), float(low), float(high), units=len(logs), unit="rounds", pairs=len(logs))
