"""What a worker process does for one run: train, then validate; each finished stage is kept and not repeated.

How a run stands is in ``run.json`` of its folder: outcome (started, trained, failed), the digest of what its model
depends on, and for each validator its outcome and digest.
"""

from __future__ import annotations

import functools
import json
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch

from phl_ase.calculator import PHLCalculator
from phl_ase.datasets import open_dataset
from phl_ase.errors import DomainWarning, PHLError, reason_of
from phl_ase.files import write_atomic
from phl_ase.potentials.model_file import load_model, save_model
from phl_ase.results import write_json
from phl_ase.study.config import StudyConfig
from phl_ase.study.plan import Run, Task, gradient_calls, run_data
from phl_ase.study.timing import measure
from phl_ase.study.validation import EVERY_VALIDATOR, ValidationRequest
from phl_ase.training import RunData, Stopped, train
from phl_ase.training.checkpoint import BEST, CONFIG, LAST

MARKER = "run.json"
ERRORS = "errors.txt"
"""File with the traceback of a run that failed for a reason of ours, and what libraries wrote to standard error."""

MODEL = "model.safetensors"
"""The model with its errors on its card."""

PARTS = ("train", "valid", "test")


def read_marker(folder: Path) -> dict[str, Any]:
    """Return how a run stands; empty where nothing can be read."""
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_marker(folder: Path, **changes: Any) -> None:
    """Add to what is known of a run, by atomic replace.

    Raises:
        PHLError: When it cannot be written.
    """
    write_atomic(folder / MARKER, json.dumps({**read_marker(folder), **changes}, indent=1).encode())


def is_trained(task: Task) -> bool:
    """Return whether a task's model is there."""
    return read_marker(task.folder).get("outcome") == "trained" and (task.folder / BEST).exists()


def to_validate(task: Task) -> list[str]:
    """Return the validators of a task that have no result yet, or one with other options."""
    done = read_marker(task.folder).get("validators", {})
    return [
        name
        for name in task.validators
        if done.get(name, {}).get("outcome") != "done"
        or done[name].get("digest") not in task.validator_digests(name)
        or not task.file(name).exists()
    ]


def prepare(task: Task) -> None:
    """Make a task's folder ready.

    Raises:
        PHLError: When it holds a run with other settings, or cannot be made.
    """
    folder = task.folder
    marker = read_marker(folder)
    if marker.get("fingerprint", task.digest) != task.digest:
        old, new = marker.get("config", {}), task.config.to_json()
        keys = [(section, key) for section in new for key in new[section] if key in old.get(section, {})]
        changed = [f"{section}.{key}" for section, key in keys if old[section][key] != new[section][key]]
        raise PHLError(
            f"{folder} holds a run with other settings or data ({', '.join(changed) or 'data'}); choose another folder "
            "with --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PHLError(f"cannot write into {folder}: {error.strerror}; choose another output folder") from None
    if is_trained(task):
        return
    if not (folder / LAST).exists():  # stopped before its first checkpoint: nothing to go on from
        (folder / CONFIG).unlink(missing_ok=True)
    write_marker(folder, outcome="started", reason="", fingerprint=task.digest, config=task.config.to_json())


def work(task: Task) -> None:
    """Train and validate; how it went is in the marker, nothing is raised."""
    torch.set_num_threads(1)
    folder, settings = task.folder, task.config.data
    with errors_in_file(folder), open_dataset(settings.source, keys=settings.keys or None) as dataset:
        try:
            data = run_data(task.run, task.study, dataset=dataset)
        except PHLError as error:
            write_marker(folder, outcome="failed", reason=" ".join(str(error).split()))
            return
        frames = {part: getattr(data, part) for part in PARTS}
        write_marker(
            folder,
            training_frames=len(data.train),
            gradient_calls=gradient_calls(task.run.method, [len(frame) for frame in data.train]),
            frames={part: len(some) for part, some in frames.items()},
            transition_states={part: [f.reaction for f in some if f.kind == "ts"] for part, some in frames.items()},
            level_of_theory=data.provenance.get("level_of_theory"),
        )
        if not is_trained(task):
            train_model(task.config, data, folder)
        if is_trained(task):
            _validate(task, dataset, data)


@contextmanager
def errors_in_file(folder: Path) -> Iterator[None]:
    """Collect standard error in a file of the folder, which is removed where nothing was written."""
    with open(folder / ERRORS, "a", encoding="utf-8") as errors, redirect_stderr(errors):
        yield
    if not (folder / ERRORS).stat().st_size:
        (folder / ERRORS).unlink()


def train_model(config: Any, data: Any, folder: Path) -> None:
    """Train, resuming where there is a checkpoint; how it ended is in the marker, nothing is raised."""
    started = time.process_time()

    def trained() -> dict[str, Any]:
        result = train(config, data, folder, resume=(folder / LAST).exists())
        seconds = result.records[-1]["seconds"] if result.records else 0.0
        return {
            "outcome": "trained",
            "seconds": seconds,
            "best_loss": result.best_loss,
            "best_epoch": result.best_epoch,
        }

    outcome = _outcome(trained)
    before = read_marker(folder).get("cpu_seconds", 0.0)
    write_marker(folder, **outcome, cpu_seconds=round(before + time.process_time() - started, 3))


def _outcome(action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what an action returns, or that and why it failed; nothing where it was stopped."""
    try:
        return action()
    except Stopped:
        return {}
    except PHLError as error:
        return {"outcome": "failed", "reason": " ".join(str(error).split())}
    except Exception as error:  # a defect in one run must not cost the others
        traceback.print_exc()
        return {"outcome": "failed", "reason": reason_of(error)}


def _validate(task: Task, dataset: Any, data: RunData) -> None:
    """Validate where there is no result yet."""
    calculator = functools.cache(lambda: PHLCalculator(str(task.folder / BEST), device=task.config.training.device))
    request = ValidationRequest(task.run.method.label, dataset, data, task.study.validators)
    for name in to_validate(task):
        digest = task.validator_digests(name)[0]
        _note(task.folder, name, {"outcome": "started", "digest": digest})
        started = time.process_time()

        def validated(name: str = name) -> dict[str, Any]:
            with warnings.catch_warnings():  # other reactions than those of training are what is asked about
                warnings.simplefilter("ignore", DomainWarning)
                reports = EVERY_VALIDATOR[name].validate(calculator(), request)
            write_json(task.file(name), reports)
            if name == "accuracy":  # the model once more, with its test errors on its card
                model: Any = load_model(task.folder / BEST, dtype=getattr(torch, task.config.training.dtype))
                errors = {f"{m.name} / {m.unit}" if m.unit else m.name: m.value for m in reports[0].metrics}
                save_model(task.folder / MODEL, model, {**model.provenance, "test_errors": errors})
            return {"outcome": "done"}

        state = _outcome(validated)
        _note(task.folder, name, {**state, "digest": digest, "seconds": round(time.process_time() - started, 3)})


def _note(folder: Path, validator: str, state: dict[str, Any]) -> None:
    write_marker(folder, validators={**read_marker(folder).get("validators", {}), validator: state})


def note_death(folder: Path, reason: str) -> None:
    """Write down that what was under way when a process ended without a message has failed."""
    marker = read_marker(folder)
    if marker.get("outcome") == "started":
        write_marker(folder, outcome="failed", reason=reason)
    for name, state in marker.get("validators", {}).items():
        if state.get("outcome") == "started":
            _note(folder, name, {**state, "outcome": "failed", "reason": reason})


def time_steps(runs: dict[str, Run], study: StudyConfig, target: Path) -> None:
    """Time an optimiser step of each run; the result, or why there is none, goes into a file."""
    log = target.with_suffix(".txt")
    with open(log, "w", encoding="utf-8") as errors, redirect_stderr(errors):
        content = _outcome(lambda: {"seconds": measure(runs, study)})
    if "seconds" in content:
        log.unlink()
    if content:
        write_json(target, {"clock": study.budget.clock, **content})
