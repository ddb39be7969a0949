"""Tasks of a study in worker processes: time optimiser steps, train a run's model, validate it."""

from __future__ import annotations

import contextlib
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from phl_ase.calculator import PHLCalculator
from phl_ase.datasets import open_dataset
from phl_ase.errors import DomainWarning, PHLError
from phl_ase.potentials.model_file import load_model, save_model
from phl_ase.results import plain
from phl_ase.study.config import StudyConfig
from phl_ase.study.plan import PlannedRun, Run, gradient_calls, run_data, subset, train_config
from phl_ase.study.validation import EVERY_VALIDATOR, ValidationRequest
from phl_ase.training import RunData, Stopped, train
from phl_ase.training.checkpoint import BEST, CONFIG, LAST

ERROR_FILE = "errors-{stage}.txt"
"""File of what libraries wrote to standard error: one for each task, as those of a run work side by side."""

MODEL = "model.safetensors"
"""The model with its errors on its card."""

CLOCKS: Mapping[str, Callable[[], float]] = {"processor": time.process_time, "wall": time.perf_counter}
"""What time is measured in -> the clock, s."""

_PROCESSOR = "processor_seconds.txt"  # that a stopped training has used so far
_BATCHES = 6  # of frames that are timed: enough for a mean over sizes, few enough for a scheme whose steps take long
_STEPS = 24  # in the difference of two runs, which has neither start nor validation in it


def start() -> Callable[..., Any]:
    """Return what does the tasks of a study: ``(stage, what it is done with)`` to a value."""
    torch.set_num_threads(1)
    opened: dict[str, _Opened] = {}  # of the last run: its training and validators follow each other

    def do(payload: tuple[str, Any], *_: Any) -> Any:
        stage, planned = payload
        if stage == "timing":
            return step_seconds(*planned)
        if planned.key not in opened:
            opened.clear()
            opened[planned.key] = _Opened(planned)
        planned.folder.mkdir(parents=True, exist_ok=True)
        path = planned.folder / ERROR_FILE.format(stage=stage)
        with open(path, "a", encoding="utf-8") as errors, contextlib.redirect_stderr(errors):
            value = opened[planned.key].train() if stage == "training" else opened[planned.key].validate(stage)
        if not path.stat().st_size:
            path.unlink()
        return value

    return do


class _Opened:
    """A run whose tasks are done: its data and its model."""

    def __init__(self, planned: PlannedRun) -> None:
        self.planned = planned
        settings = planned.config.data
        self.dataset = open_dataset(settings.source, keys=settings.keys or None)
        self.data = run_data(planned.run, planned.study, dataset=self.dataset)

    @cached_property
    def calculator(self) -> PHLCalculator:
        return PHLCalculator(str(self.planned.folder / BEST), device=self.planned.config.training.device)

    def train(self) -> dict[str, Any]:
        """Train, going on where there is a checkpoint, and return facts.

        Raises:
            KeyboardInterrupt: Where it was stopped; the checkpoint is written.
        """
        planned, data, folder = self.planned, self.data, self.planned.folder
        if not (folder / LAST).exists():  # stopped before its first checkpoint: nothing to go on from
            (folder / CONFIG).unlink(missing_ok=True)
        before, started = 0.0, time.process_time()
        with contextlib.suppress(OSError, ValueError):
            before = float((folder / _PROCESSOR).read_text())
        try:
            result = train(planned.config, data, folder, resume=(folder / LAST).exists())
        except Stopped:
            (folder / _PROCESSOR).write_text(str(before + time.process_time() - started))
            raise KeyboardInterrupt from None
        frames = {part: getattr(data, part) for part in ("train", "valid", "test")}
        return {
            "seconds": result.records[-1]["seconds"] if result.records else 0.0,
            "cpu_seconds": round(before + time.process_time() - started, 3),
            "best_epoch": result.best_epoch,
            "training_frames": len(data.train),
            "gradient_calls": gradient_calls(planned.run.method, [len(frame) for frame in data.train]),
            "frames": {part: len(some) for part, some in frames.items()},
            "transition_states": {part: [f.reaction for f in some if f.kind == "ts"] for part, some in frames.items()},
            "level_of_theory": data.provenance.get("level_of_theory"),
        }

    def validate(self, name: str) -> list[dict[str, Any]]:
        """Validate the trained model and return the reports in plain values."""
        planned = self.planned
        request = ValidationRequest(planned.run.method.label, self.dataset, self.data, planned.study.validators)
        with warnings.catch_warnings():  # other reactions than those of training are what is asked about
            warnings.simplefilter("ignore", DomainWarning)
            reports = EVERY_VALIDATOR[name].validate(self.calculator, request)
        if name == "accuracy":  # the model once more, with its test errors on its card
            model: Any = load_model(planned.folder / BEST, dtype=getattr(torch, planned.config.training.dtype))
            errors = {f"{m.name} / {m.unit}" if m.unit else m.name: m.value for m in reports[0].metrics}
            save_model(planned.folder / MODEL, model, {**model.provenance, "test_errors": errors})
        return plain(reports)


def step_seconds(runs: Mapping[str, Run], config: StudyConfig) -> dict[str, list[float]]:
    """Return seconds of an optimiser step, the methods in turn so that a busy machine is busy for all of them.

    Args:
        runs: ``TrainingMethod.cost_key`` -> a run.
        config: The study.

    Returns:
        Those of the keys that can be trained at all -> one number for each round, s.
    """
    first = next(iter(runs.values()))
    data = run_data(replace(first, series=replace(first.series, fraction=1.0)), config)
    frames = subset(data.train, min(1.0, _BATCHES * config.training.batch_size / len(data.train)), 0)
    part = replace(data, train=frames, valid=frames[:1])
    batches = -(-len(frames) // config.training.batch_size)
    more = -(-_STEPS // batches)
    seconds: dict[str, list[float]] = {key: [] for key in runs}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in runs; the processor's clock counts threads that wait for each other as well
    try:
        for _ in range(config.budget.rounds):
            for key in list(seconds):
                try:
                    short, long = (training_seconds(runs[key], config, part, epochs) for epochs in (1, 1 + more))
                except Stopped:
                    raise
                except PHLError:
                    del seconds[key]  # its runs fail by themselves, and say why
                    continue
                seconds[key].append((long - short) / (more * batches))
    finally:
        torch.set_num_threads(threads)
    # the difference of two short times may be anything on a machine with other work; all of them were not
    return {key: [s for s in values if s > 0] or [max(map(abs, values))] for key, values in seconds.items() if values}


def training_seconds(run: Run, config: StudyConfig, data: RunData, epochs: int) -> float:
    """Return how long so many epochs take by the clock of the study, s."""
    clock = CLOCKS[config.budget.clock]
    with tempfile.TemporaryDirectory() as folder:
        started = clock()
        train(train_config(run, config, epochs=epochs), data, folder)
        return clock() - started
