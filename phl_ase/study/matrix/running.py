"""A study from its configuration to its folder: epochs timed, weights chosen, cells trained and asked in parallel."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import phl_ase
from phl_ase.datasets import open_dataset
from phl_ase.errors import PHLError, missing_package
from phl_ase.results import read_reports, write_json
from phl_ase.study.matrix.bars import Bars
from phl_ase.study.matrix.budget import Length, cell_data, cost_key, length, time_method, train_config, typical
from phl_ase.study.matrix.cells import Cell, Plan, plan
from phl_ase.study.matrix.config import StudyConfig
from phl_ase.study.matrix.questions import VALIDATORS
from phl_ase.study.matrix.worker import (
    TIMING,
    Job,
    digest,
    is_trained,
    model_digest,
    note_death,
    prepare,
    time_steps,
    unanswered,
    work,
)
from phl_ase.study.processes import reason_of_death, run_processes
from phl_ase.study.worker import read_marker
from phl_ase.training.checkpoint import run_folder
from phl_ase.training.signals import signals_noticed

FORMAT, SCHEMA = "phl study", 1
MARKER, TUNING = "study.json", "tuning.json"
CELLS, TRIALS = "cells", "tuning"
QUANTITIES = ("energy", "forces", "hessian")
"""Errors that loss weights are chosen by: the sum of the logarithms of their means over the validation frames."""


@dataclass(frozen=True, eq=False)
class Study:
    """A study in its folder.

    Attributes:
        config: What was asked for.
        folder: Where everything is.
        plan: Its cells.
        step_seconds: Key of ``cost_key`` -> seconds of an optimiser step in each round.
        weights: Scheme -> loss weights that were chosen, of those that were tried.
        trials: Scheme -> score of each setting, ``None`` where it failed.
        lengths: Cell -> how long it trains; none for a cell whose data cannot be had.
        jobs: Cell -> its job; likewise.
        refused: Cell -> why its data cannot be had.
    """

    config: StudyConfig
    folder: Path
    plan: Plan
    step_seconds: Mapping[str, Sequence[float]]
    weights: Mapping[str, Mapping[str, float]]
    trials: Mapping[str, Sequence[float | None]]
    lengths: Mapping[Cell, Length]
    jobs: Mapping[Cell, Job]
    refused: Mapping[Cell, str]


def run_study(config: StudyConfig, folder: str | Path, *, processes: int = 2, train: bool = True) -> Study:
    """Do what of a study is not yet done.

    Args:
        config: The study.
        folder: Where everything is kept; a study that was stopped goes on there.
        processes: How many cells at once, one thread each.
        train: Whether to train and ask; else what is there is read.

    Returns:
        The study, whatever became of its cells.

    Raises:
        PHLError: For a folder that cannot be written, is in use, or holds another study; missing packages; data that
            cannot be read.
        Stopped: After Ctrl-C or SIGTERM; what is finished is kept.
    """
    if processes < 1:
        raise PHLError(f"processes is {processes}; expected at least 1")
    _check_packages(config)
    planned = plan(config)
    if not planned.cells:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in planned.impossible)
        raise PHLError(f"the configuration has no cell that can be{': ' + reasons if reasons else ''}")
    # a report may be made while the study runs
    held = run_folder(folder, resume=False) if train else nullcontext(Path(folder))
    with held as root, signals_noticed() as noticed:
        _open(root, train)
        frames = Frames(config)
        seconds = _timing(config, planned, root, noticed, train)
        lengths = frames.lengths(planned, seconds)
        here = _Here(config, root, seconds, processes, noticed, train, frames)
        weights, trials = _tuned(here, planned, estimated_seconds(lengths, seconds, config))
        jobs = {
            cell: here.job(cell, root / CELLS / cell.name, weights.get(cell.method.scheme), span.epochs)
            for cell, span in lengths.items()
        }
        if train:
            here.work({c.name: job for c, job in jobs.items()}, {c.name: span for c, span in lengths.items()})
        return Study(config, root, planned, seconds, weights, trials, lengths, jobs, frames.refused)


def _check_packages(config: StudyConfig) -> None:
    """Before hours of training, not after.

    Raises:
        PHLError: When a package that a validator needs is missing.
    """
    import importlib.util

    for name in config.validators.run:
        for package, extra in VALIDATORS[name].packages.items():
            if importlib.util.find_spec(package) is None:
                raise missing_package(package, extra or "all", f"the validator {name!r} of validators.run")


def _open(root: Path, train: bool) -> None:
    """Check that a folder is new or of a study of this version, and say whose it is.

    Raises:
        PHLError: For another version's, and for none where nothing is trained.
    """
    marker, own = root / MARKER, {"format": FORMAT, "schema": SCHEMA, "phl_ase": phl_ase.__version__}
    if marker.exists():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if found != own:
            version = found.get("phl_ase", "unknown") if isinstance(found, dict) else "unknown"
            raise PHLError(
                f"{root} holds a study of phl_ase {version} (schema "
                f"{found.get('schema') if isinstance(found, dict) else '?'}), this is {own['phl_ase']} (schema "
                f"{SCHEMA}): choose another folder with --out, or go on with that version"
            )
        return
    if not train:
        raise PHLError(f"{root} holds no study to report on; leave --report out to run it")
    if any(path.name != ".lock" for path in root.iterdir()):
        raise PHLError(f"{root} holds other files and no study; choose another folder with --out")
    write_json(marker, own)


class Frames:
    """How many frames cells have, split by split; the data are opened once.

    Args:
        config: The study.

    Raises:
        PHLError: For data that cannot be read.
    """

    def __init__(self, config: StudyConfig) -> None:
        self._config = config
        self._counts: dict[tuple[str, float, int], int] = {}
        self.refused: dict[Cell, str] = {}
        data = config.data
        self._dataset = open_dataset(data.source, keys=data.keys or None)
        self.hash = self._dataset.content_hash()

    def count(self, cell: Cell) -> int:
        """Training frames of a cell.

        Raises:
            PHLError: When the data cannot be split so.
        """
        key = (cell.split, cell.fraction, cell.seed)
        if key not in self._counts:
            self._counts[key] = len(cell_data(cell, self._config, dataset=self._dataset).train)
        return self._counts[key]

    def lengths(self, planned: Plan, seconds: Mapping[str, Sequence[float]]) -> dict[Cell, Length]:
        """How long each cell trains; those whose data cannot be had are put down as refused."""
        found = {}
        for cell in planned.cells:
            untimed = {cost_key(cell.method), cost_key(time_method(self._config))} - set(seconds)
            if cell.budget == "time" and untimed:
                self.refused[cell] = f"no equal time: steps of {', '.join(sorted(untimed))} are not timed"
                continue
            try:
                counts = self.count(cell), self.count(replace(cell, fraction=1.0))
            except PHLError as error:
                self.refused[cell] = " ".join(str(error).split())
                continue
            found[cell] = length(cell, self._config, *counts, typical(seconds))
        return found


def estimated_seconds(
    lengths: Mapping[Cell, Length], seconds: Mapping[str, Sequence[float]], config: StudyConfig
) -> float:
    """Of one core, for training and asking; without validation during training."""
    steps = typical(seconds)
    asking = sum(VALIDATORS[name].guess for name in config.validators.run)
    return sum(span.steps * steps.get(cost_key(cell.method), 0.05) + asking for cell, span in lengths.items())


def _timing(
    config: StudyConfig, planned: Plan, root: Path, noticed: Sequence[int], train: bool
) -> dict[str, list[float]]:
    """Seconds of a step of every method, measured once, by one process while nothing else of the study runs.

    Raises:
        PHLError: When they could not be measured.
    """
    wanted = {cost_key(cell.method): cell for cell in planned.cells}
    if any(cell.budget == "time" for cell in planned.cells):
        first = planned.cells[0]
        method = time_method(config)
        wanted.setdefault(cost_key(method), Cell(method, first.split, 1.0, "epochs", first.seed))
    known = _read_json(root / TIMING)
    seconds = dict(known.get("seconds", {}))
    if known and known.get("clock") != config.budget.clock:
        raise PHLError(f"{root} was timed by the {known.get('clock')} clock; choose another folder with --out")
    missing = {key: cell for key, cell in wanted.items() if key not in seconds}
    if missing and train:
        # all of them again only where none is known: the ratios of one sitting are worth more than new numbers
        target = root / f"{digest(sorted(missing))[:8]}-{TIMING}"
        target.unlink(missing_ok=True)
        with Bars("timing steps", {}, 1):
            run_processes({"timing": (time_steps, (missing, config, target))}, 1, lambda *_: None, noticed, root)
        measured = _read_json(target)
        target.unlink(missing_ok=True)
        if "seconds" not in measured:
            raise PHLError(f"steps could not be timed: {measured.get('reason', 'the process ended without a word')}")
        seconds |= measured["seconds"]
        write_json(root / TIMING, {"clock": config.budget.clock, "seconds": seconds})
    return {key: list(seconds[key]) for key in wanted if key in seconds}


@dataclass(frozen=True, eq=False)
class _Here:
    """What all jobs of one run have in common."""

    config: StudyConfig
    root: Path
    seconds: Mapping[str, Sequence[float]]
    processes: int
    noticed: Sequence[int]
    train: bool
    frames: Frames

    def job(
        self,
        cell: Cell,
        folder: Path,
        weights: Mapping[str, float] | None,
        epochs: int,
        validators: Sequence[str] | None = None,
    ) -> Job:
        """A job; without weights those of the study, without validators all of the study's."""
        settings = train_config(cell, self.config, weights=weights, epochs=epochs)
        found = model_digest(settings, cell.fraction, self.frames.hash)
        asked = self.config.validators.run if validators is None else validators
        return Job(cell, cell.method.label, folder, self.config, settings, tuple(asked), found)

    def work(self, jobs: Mapping[str, Job], lengths: Mapping[str, Length], *, later: float = 0.0) -> None:
        """Train and ask what is not finished; a job that fails or dies leaves its reason and stops nobody else.

        Args:
            jobs: Name -> job.
            lengths: Name -> how long it trains.
            later: Estimated seconds of what comes after these jobs, for the time left.
        """
        for job in jobs.values():
            prepare(job)
        waiting = {name: job for name, job in jobs.items() if not is_trained(job) or unanswered(job)}
        steps = typical(self.seconds)
        estimates = {
            name: lengths[name].steps * steps.get(cost_key(job.cell.method), 0.05) for name, job in jobs.items()
        }
        with Bars("study", jobs, self.processes, estimates=estimates, lengths=lengths, later=later) as bars:

            def tick(running: Sequence[str], queue: Sequence[str], ended: Mapping[str, Any]) -> None:
                for name, process in ended.items():
                    note_death(jobs[name].folder, reason_of_death(process) if process.exitcode else "it was stopped")
                bars.show(running, queue, list(ended))

            todo = {name: (work, (job,)) for name, job in waiting.items()}
            run_processes(todo, self.processes, tick, self.noticed, self.root)


def _tuned(
    here: _Here, planned: Plan, later: float
) -> tuple[dict[str, dict[str, float]], dict[str, list[float | None]]]:
    """Loss weights of each scheme, and the scores of what was tried.

    Raises:
        PHLError: When no setting of a scheme could be trained.
    """
    tuning = here.config.tuning
    used = {cell.method.scheme: cell.method for cell in reversed(planned.cells)}
    tried: dict[str, list[Job]] = {}
    lengths: dict[str, Length] = {}
    for scheme, candidates in tuning.settings.items():
        if scheme not in used:
            continue
        cell = Cell(used[scheme], tuning.split, 1.0, "epochs", tuning.seed)
        batches = -(-here.frames.count(cell) // here.config.training.batch_size)
        tried[scheme] = []
        for place, weights in enumerate(candidates):
            folder = here.root / TRIALS / f"{scheme}-{place}"
            tried[scheme].append(here.job(cell, folder, weights, tuning.epochs, ("validation",)))
            lengths[f"{scheme}-{place}"] = Length(tuning.epochs, tuning.epochs * batches)
    if here.train and tried:
        here.work({job.folder.name: job for jobs in tried.values() for job in jobs}, lengths, later=later)
    scores = {scheme: [_score(job) for job in jobs] for scheme, jobs in tried.items()}
    chosen = {}
    for scheme, values in scores.items():
        present = [np.inf if value is None else value for value in values]
        if here.train and not np.isfinite(min(present)):
            reason = read_marker(tried[scheme][0].folder).get("reason", "no validation gave finite errors")
            raise PHLError(f"no loss weights of {scheme} could be tried: {reason}")
        chosen[scheme] = dict(tuning.settings[scheme][int(np.argmin(present))])
    if here.train and tried:
        write_json(here.root / TUNING, {"scores": scores, "settings": tuning.settings, "chosen": chosen})
    return chosen, scores


def _score(job: Job) -> float | None:
    """Sum of log mean errors over the validation frames; ``None`` where there is none."""
    try:
        (report,) = read_reports(job.file("validation"))
        values = [report.metric(f"{name}, all").value for name in QUANTITIES]
    except PHLError:
        return None
    return float(np.sum(np.log(values))) if np.all(np.isfinite(values)) else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
