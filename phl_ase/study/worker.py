"""What worker processes do for a study: time optimiser steps, train a run's model, validate it."""

from __future__ import annotations

import contextlib
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from phl_ase.calculator import PHLCalculator
from phl_ase.datasets import open_dataset
from phl_ase.errors import DomainWarning
from phl_ase.potentials.model_file import load_model, save_model
from phl_ase.results import plain
from phl_ase.study.plan import PlannedRun, gradient_calls, run_data
from phl_ase.study.timing import measure
from phl_ase.study.validation import EVERY_VALIDATOR, ValidationRequest
from phl_ase.training import Stopped, train
from phl_ase.training.checkpoint import BEST, CONFIG, LAST, LOG

ERROR_FILE = "errors-{stage}.txt"
"""File of what libraries wrote to standard error: one for each task, as those of a run work side by side."""

MODEL = "model.safetensors"
"""The model with its errors on its card."""

_PROCESSOR = "processor_seconds.txt"  # that a stopped training has used so far
_PARTS = ("train", "valid", "test")


def start() -> Callable[..., Any]:
    """Return what does the tasks of a study: ``(stage, what it is done with)`` to a value."""
    torch.set_num_threads(1)
    opened: dict[str, _Opened] = {}  # of the last run: its training and validators follow each other

    def do(payload: tuple[str, Any], *_: Any) -> Any:
        stage, planned = payload
        if stage == "timing":
            return measure(*planned)
        if planned.key not in opened:
            opened.clear()
            opened[planned.key] = _Opened(planned)
        planned.folder.mkdir(parents=True, exist_ok=True)
        with _errors_in_file(planned.folder / ERROR_FILE.format(stage=stage)):
            return _train(opened[planned.key]) if stage == "training" else _validate(stage, opened[planned.key])

    return do


class _Opened:
    """What the tasks of a run have in common."""

    def __init__(self, planned: PlannedRun) -> None:
        self.planned = planned
        settings = planned.config.data
        self.dataset = open_dataset(settings.source, keys=settings.keys or None)
        self.data = run_data(planned.run, planned.study, dataset=self.dataset)

    @cached_property
    def calculator(self) -> PHLCalculator:
        return PHLCalculator(str(self.planned.folder / BEST), device=self.planned.config.training.device)


@contextmanager
def _errors_in_file(path: Path) -> Iterator[None]:
    """Collect standard error in a file, which is removed where nothing was written."""
    with open(path, "a", encoding="utf-8") as errors, redirect_stderr(errors):
        yield
    if not path.stat().st_size:
        path.unlink()


def _train(opened: _Opened) -> dict[str, Any]:
    """Train, going on where there is a checkpoint, and return facts.

    Raises:
        KeyboardInterrupt: Where it was stopped; the checkpoint is written.
    """
    planned, data, folder = opened.planned, opened.data, opened.planned.folder
    if not (folder / LAST).exists():  # stopped before its first checkpoint: nothing to go on from
        (folder / CONFIG).unlink(missing_ok=True)
    before, started = _number_in(folder / _PROCESSOR), time.process_time()
    try:
        result = train(planned.config, data, folder, resume=(folder / LAST).exists())
    except Stopped:
        (folder / _PROCESSOR).write_text(str(before + time.process_time() - started))
        raise KeyboardInterrupt from None
    frames = {part: getattr(data, part) for part in _PARTS}
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


def _number_in(path: Path) -> float:
    with contextlib.suppress(OSError, ValueError):
        return float(path.read_text())
    return 0.0


def _validate(name: str, opened: _Opened) -> list[dict[str, Any]]:
    """Validate the trained model and return the reports in plain values."""
    planned = opened.planned
    request = ValidationRequest(planned.run.method.label, opened.dataset, opened.data, planned.study.validators)
    with warnings.catch_warnings():  # other reactions than those of training are what is asked about
        warnings.simplefilter("ignore", DomainWarning)
        reports = EVERY_VALIDATOR[name].validate(opened.calculator, request)
    if name == "accuracy":  # the model once more, with its test errors on its card
        model: Any = load_model(planned.folder / BEST, dtype=getattr(torch, planned.config.training.dtype))
        errors = {f"{m.name} / {m.unit}" if m.unit else m.name: m.value for m in reports[0].metrics}
        save_model(planned.folder / MODEL, model, {**model.provenance, "test_errors": errors})
    return plain(reports)


def last_epoch(folder: Path) -> tuple[int, float] | None:
    """Return the last finished epoch of a run and the seconds until then; ``None`` before the first one."""
    try:
        with open(folder / LOG, "rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - 2000, 0))
            lines = file.read().split(b"\n")[:-1]  # what follows the last line break is still being written
        record = json.loads(lines[-1])
        return int(record["epoch"]), float(record["seconds"])
    except (OSError, ValueError, IndexError, KeyError):
        return None
