"""How long each cell trains: equal epochs, equal time, and a cap on steps; epochs are timed, the schemes in turn."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.scoring.paired import Estimate
from phl_ase.structures import Frame
from phl_ase.study.matrix.cells import Cell, Method, methods
from phl_ase.study.matrix.config import MatrixSection, StudyConfig
from phl_ase.training import RunData, Stopped, TrainConfig, parse_config, prepare_data

CLOCKS: Mapping[str, Callable[[], float]] = {"processor": time.process_time, "wall": time.perf_counter}
"""What time is measured in -> the clock, s."""

_BATCHES = 6  # of frames that are timed: enough for a mean over sizes, few enough for a scheme whose steps take long
_STEPS = 24  # in the difference of two runs, which has neither start nor validation in it


@dataclass(frozen=True)
class Length:
    """How long a cell trains.

    Attributes:
        epochs: Passes over its training frames.
        steps: Optimiser steps.
        capped_from: Epochs that it would have without a cap on steps; 0 without one in force.
    """

    epochs: int
    steps: int
    capped_from: int = 0


def length(cell: Cell, config: StudyConfig, frames: int, all_frames: int, step_seconds: Mapping[str, float]) -> Length:
    """How long a cell trains.

    Args:
        cell: The cell.
        config: The study.
        frames: Training frames of the cell.
        all_frames: Training frames of the same split at fraction 1.
        step_seconds: Key of :func:`cost_key` -> measured seconds of a step.
    """
    batches, all_batches = (-(-count // config.training.batch_size) for count in (frames, all_frames))
    budget = config.budget
    if cell.budget == "epochs":
        steps = budget.epochs_of.get(cell.split, budget.epochs) * all_batches
    else:
        of = step_seconds[cost_key(time_method(config))]
        steps = round(budget.time_epochs * all_batches * of / step_seconds[cost_key(cell.method)])
    wanted = max(1, round(steps / batches))
    cap = budget.step_cap.get(cell.method.scheme)
    epochs = wanted if cap is None else max(1, min(wanted, cap // batches))
    return Length(epochs, epochs * batches, wanted if epochs < wanted else 0)


def time_method(config: StudyConfig) -> Method:
    """The method whose time is everybody's."""
    return methods(MatrixSection(schemes=(config.budget.time_of,)))[0]


def cost_key(method: Method) -> str:
    """Methods that take equally long: those of one scheme, number of probes and kind of products, in any regime."""
    if not method.draws:
        return method.scheme
    return f"{method.scheme} K={method.n_probes}{'' if method.products == 'exact' else ' by differences'}"


def train_config(
    cell: Cell, config: StudyConfig, *, weights: Mapping[str, float] | None = None, epochs: int = 1
) -> TrainConfig:
    """The training configuration of a cell.

    Args:
        cell: The cell.
        config: The study.
        weights: Loss weights of its scheme; by default those of the study.
        epochs: How long it trains.
    """
    method = cell.method
    scheme: dict[str, Any] = {"name": method.scheme}
    if method.draws:
        scheme |= {name: getattr(method, name) for name in ("regime", "n_probes", "probes", "products")}
    chosen = config.weights.get(method.scheme, {}) if weights is None else weights
    # equally many validations, so that none has more chances to be chosen
    base = config.budget.epochs_of.get(cell.split, config.budget.epochs)
    every = max(1, round(config.training.validate_every * epochs / base))
    return parse_config(
        {
            "data": {**config.data.model_dump(), "split": cell.split, "split_seed": cell.seed},
            "potential": config.potential.model_dump(by_alias=True),
            "scheme": scheme,
            "loss": {**config.loss.model_dump(), **chosen},
            "training": {
                **config.training.model_dump(),
                "epochs": epochs,
                "seed": cell.seed,
                "validate_every": min(every, epochs),
            },
        },
        cell.name,
    )


def subset(frames: Sequence[Frame], fraction: float, seed: int) -> list[Frame]:
    """A part of the training frames, spread evenly over the kinds of geometry; a smaller part is in a larger one."""
    random = np.random.default_rng([seed, 1])
    rank = np.zeros(len(frames))
    kinds = np.array([frame.kind for frame in frames])
    for kind in np.unique(kinds):
        (members,) = np.nonzero(kinds == kind)
        rank[random.permutation(members)] = (np.arange(len(members)) + random.random()) / len(members)
    count = max(1, round(fraction * len(frames)))
    return [frames[i] for i in sorted(np.argsort(rank, kind="stable")[:count])]


def cell_data(cell: Cell, config: StudyConfig, *, dataset: Any = None) -> RunData:
    """The frames of a cell.

    Raises:
        PHLError: For data that cannot be read or split so.
    """
    data = prepare_data(train_config(cell, config), dataset)
    if cell.fraction == 1:
        return data
    train = subset(data.train, cell.fraction, cell.seed)
    return replace(
        data, train=train, provenance={**data.provenance, "training_frames": len(train), "fraction": cell.fraction}
    )


def measure(cells: Mapping[str, Cell], config: StudyConfig) -> dict[str, list[float]]:
    """Seconds of an optimiser step, the schemes in turn so that a busy machine is busy for all of them.

    Args:
        cells: Key of :func:`cost_key` -> a cell.
        config: The study.

    Returns:
        Those of the keys that can be trained at all -> one number for each round, s.
    """
    clock = CLOCKS[config.budget.clock]
    first = next(iter(cells.values()))
    data = cell_data(replace(first, fraction=1.0), config)
    few = _BATCHES * config.training.batch_size
    train = subset(data.train, min(1.0, few / len(data.train)), 0)
    part = replace(data, train=train, valid=train[:1])
    batches = -(-len(train) // config.training.batch_size)
    more = -(-_STEPS // batches)
    seconds: dict[str, list[float]] = {key: [] for key in cells}
    with _one_thread():
        for _ in range(config.budget.rounds):
            for key in list(seconds):
                try:
                    short, long = (_seconds(cells[key], config, part, epochs, clock) for epochs in (1, 1 + more))
                except Stopped:
                    raise
                except PHLError:
                    del seconds[key]  # its cells fail by themselves, and say why
                    continue
                seconds[key].append((long - short) / (more * batches))
    # the difference of two short times may be anything on a machine with other work; all of them were not
    return {key: [s for s in values if s > 0] or [max(map(abs, values))] for key, values in seconds.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """As cells are trained; the processor's clock counts threads that wait for each other as well."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _seconds(cell: Cell, config: StudyConfig, data: RunData, epochs: int, clock: Callable[[], float]) -> float:
    from phl_ase.training import train

    settings = train_config(cell, config, epochs=epochs)
    with tempfile.TemporaryDirectory() as folder:
        started = clock()
        train(settings, data, folder)
        return clock() - started


def typical(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median round of each."""
    return {key: float(np.median(values)) for key, values in seconds.items()}


def speed_ratio(slow: Sequence[float], fast: Sequence[float]) -> Estimate:
    """How many times as long the one takes, with a 95 % interval over the rounds (a t interval of the logarithm)."""
    from scipy.stats import t as student

    rounds = min(len(slow), len(fast))
    logs = np.log(np.array(slow[:rounds]) / np.array(fast[:rounds]))
    half = student.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs)) if len(logs) > 1 else np.nan
    value, low, high = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half])
    return Estimate(float(value), float(low), float(high), units=len(logs), unit="rounds", pairs=len(logs))


def gradient_calls(method: Method, atoms: Sequence[int]) -> int:
    """Gradient calls of the reference method that a method's labels cost by central differences.

    One for energy and forces of a frame, two for each recorded product, 6n for a Hessian, which fresh probes need as
    well: their products are those of a stored Hessian.

    Args:
        method: How the model learns.
        atoms: Size of each training frame.
    """
    if not method.probes:
        return len(atoms)
    per_frame = [1 + (2 * method.n_probes if method.regime == "fixed" else 6 * n) for n in atoms]
    return sum(per_frame)
