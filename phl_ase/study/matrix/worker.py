"""What a worker process does for one cell: train, then ask everything; each finished part is kept and not repeated."""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phl_ase.errors import PHLError, reason_of
from phl_ase.results import write_json
from phl_ase.study.matrix.cells import Cell
from phl_ase.study.matrix.config import StudyConfig
from phl_ase.study.worker import ERRORS, read_marker, run, write_marker
from phl_ase.training import Stopped, TrainConfig
from phl_ase.training.checkpoint import BEST, CONFIG, LAST

TIMING = "timing.json"


@dataclass(frozen=True)
class Job:
    """The work of one process.

    Attributes:
        cell: What is trained.
        label: How reports name the model.
        folder: Where everything of it is kept.
        study: The study.
        config: How it is trained.
        validators: What its model is asked.
        digest: Of all that the trained model depends on.
    """

    cell: Cell
    label: str
    folder: Path
    study: StudyConfig
    config: TrainConfig
    validators: tuple[str, ...]
    digest: str

    def digest_of(self, validator: str) -> str:
        """Of all that a validator's answer depends on."""
        from phl_ase.study.matrix.questions import ASKED

        settings = self.study.validators
        section = ASKED[validator].section
        values = getattr(settings, section).model_dump(mode="json") if section else {}
        return digest(self.digest, validator, values, sorted(settings.reactions))

    def file(self, validator: str) -> Path:
        """Where the reports of a validator are, as ``phl report`` reads them."""
        return self.folder / f"{validator}.json"


def digest(*parts: Any) -> str:
    """A sha256 of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def model_digest(config: TrainConfig, fraction: float, data_hash: str) -> str:
    """Of everything that a trained model depends on, but for the device."""
    return digest(config.identity(), fraction, data_hash)


def is_trained(job: Job) -> bool:
    """Whether a job's model is there."""
    return read_marker(job.folder).get("outcome") == "trained" and (job.folder / BEST).exists()


def unanswered(job: Job) -> list[str]:
    """Validators of a job that have not answered, or not to these questions."""
    done = read_marker(job.folder).get("validators", {})
    return [
        name
        for name in job.validators
        if done.get(name, {}).get("outcome") != "done"
        or done[name].get("digest") != job.digest_of(name)
        or not job.file(name).exists()
    ]


def prepare(job: Job) -> None:
    """Make a job's folder ready.

    Raises:
        PHLError: When it holds a run or answers with other settings, or cannot be made.
    """
    folder = job.folder
    marker = read_marker(folder)
    if marker.get("fingerprint", job.digest) != job.digest:
        raise PHLError(f"{folder} holds a run with other settings or data; choose another folder with --out")
    for name, state in marker.get("validators", {}).items():
        if name in job.validators and state.get("digest") != job.digest_of(name):
            raise PHLError(f"{folder} holds answers to {name} with other settings; choose another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PHLError(f"cannot write into {folder}: {error.strerror}; choose another output folder") from None
    if is_trained(job):
        return
    if not (folder / LAST).exists():  # stopped before its first checkpoint: nothing to go on from
        (folder / CONFIG).unlink(missing_ok=True)
    started = {"outcome": "started", "fingerprint": job.digest, "config": job.config.to_json()}
    write_marker(folder, {**started, "cpu_seconds": marker.get("cpu_seconds", 0.0)})


def work(job: Job) -> None:
    """Train and ask; how it went stands in the marker, nothing is raised."""
    from phl_ase.datasets import open_dataset
    from phl_ase.study.matrix.budget import cell_data, gradient_calls

    data_settings = job.config.data
    with open_dataset(data_settings.source, keys=data_settings.keys or None) as dataset:
        try:
            data = cell_data(job.cell, job.study, dataset=dataset)
        except PHLError as error:
            marker = read_marker(job.folder)
            write_marker(job.folder, {**marker, "outcome": "failed", "reason": " ".join(str(error).split())})
            return
        calls = gradient_calls(job.cell.method, [len(frame) for frame in data.train])
        facts = {"training_frames": len(data.train), "gradient_calls": calls}
        write_marker(job.folder, {**read_marker(job.folder), **facts})
        if not is_trained(job):
            run(job.config, data, str(job.folder))
        if is_trained(job):
            with open(job.folder / ERRORS, "a", encoding="utf-8") as errors, redirect_stderr(errors):
                _ask(job, dataset, data)
            if not (job.folder / ERRORS).stat().st_size:
                (job.folder / ERRORS).unlink()


def _ask(job: Job, dataset: Any, data: Any) -> None:
    """Everything that has not been answered."""
    import torch

    from phl_ase.calculator import PHLCalculator
    from phl_ase.study.matrix.questions import ASKED, Asked

    torch.set_num_threads(1)
    asked = Asked(job.label, dataset, data, job.study.validators)
    calculator = PHLCalculator(str(job.folder / BEST), device=job.config.training.device)
    for name in unanswered(job):
        note(job.folder, name, {"outcome": "started", "digest": job.digest_of(name)})
        started = time.process_time()
        try:
            write_json(job.file(name), ASKED[name].ask(calculator, asked))
            state = {"outcome": "done"}
        except PHLError as error:
            state = {"outcome": "failed", "reason": " ".join(str(error).split())}
        except Exception as error:  # a defect in one validator must not cost the answers of the others
            traceback.print_exc()
            state = {"outcome": "failed", "reason": reason_of(error)}
        seconds = round(time.process_time() - started, 3)
        note(job.folder, name, {**state, "digest": job.digest_of(name), "seconds": seconds})


def note(folder: Path, validator: str, state: dict[str, Any]) -> None:
    """Write down how a validator stands."""
    marker = read_marker(folder)
    write_marker(folder, {**marker, "validators": {**marker.get("validators", {}), validator: state}})


def note_death(folder: Path, reason: str) -> None:
    """What was under way when the process of a cell ended without a word has failed."""
    marker = read_marker(folder)
    if marker.get("outcome") == "started":
        write_marker(folder, {**marker, "outcome": "failed", "reason": reason})
    for name, state in marker.get("validators", {}).items():
        if state.get("outcome") == "started":
            note(folder, name, {**state, "outcome": "failed", "reason": reason})


def time_steps(cells: dict[str, Cell], study: StudyConfig, target: Path) -> None:
    """Time an optimiser step of each cell in a process of its own; the result, or why there is none, in a file."""
    from phl_ase.study.matrix.budget import measure

    log = target.with_suffix(".txt")
    content: dict[str, Any]
    with open(log, "w", encoding="utf-8") as errors, redirect_stderr(errors):
        try:
            content = {"seconds": measure(cells, study)}
        except Stopped:
            return
        except PHLError as error:
            content = {"reason": " ".join(str(error).split())}
        except Exception as error:
            traceback.print_exc()
            content = {"reason": reason_of(error)}
    if "seconds" in content:
        log.unlink()
    write_json(target, {"clock": study.budget.clock, **content})
