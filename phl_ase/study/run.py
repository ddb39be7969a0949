"""A study in its folder: steps timed, loss weights chosen, runs trained and validated in parallel, and resumed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.potentials.registry import build_model
from phl_ase.results import read_reports, write_json
from phl_ase.study.config import PROPERTIES, StudyConfig
from phl_ase.study.plan import (
    Length,
    Run,
    Series,
    StudyData,
    Task,
    TrainingMethod,
    digest,
    plan_runs,
    time_method,
    typical,
)
from phl_ase.study.processes import reason_of_death, run_processes
from phl_ase.study.progress import StudyProgress, stage_done, training_seconds
from phl_ase.study.validation import VALIDATORS, check_inputs
from phl_ase.study.worker import is_trained, note_death, prepare, read_marker, time_steps, to_validate, work
from phl_ase.training import choose_device
from phl_ase.training.checkpoint import run_folder
from phl_ase.training.signals import signals_noticed

FORMAT, SCHEMA = "phl study", 2
"""What ``study.json`` of a study's folder says. Schema 1 kept its runs in another folder."""

MARKER, TIMING, TUNING, TRIALS = "study.json", "timing.json", "tuning.json", "tuning"
RUNS = {1: "cells", 2: "runs"}
"""Schema -> folder of the runs."""


@dataclass(frozen=True, eq=False)
class Study:
    """A study in its folder.

    Attributes:
        config: Its configuration.
        folder: Where everything is.
        runs: Its runs.
        step_seconds: ``TrainingMethod.cost_key`` -> seconds of an optimiser step in each round.
        weights: Scheme -> loss weights that were chosen, of those that were tried.
        trials: Scheme -> score of each setting, ``None`` where it failed.
        tasks: Run -> its task; none for a run whose data cannot be had.
        refused: Run -> why its data cannot be had.
    """

    config: StudyConfig
    folder: Path
    runs: Sequence[Run]
    step_seconds: Mapping[str, Sequence[float]]
    weights: Mapping[str, Mapping[str, float]]
    trials: Mapping[str, Sequence[float | None]]
    tasks: Mapping[Run, Task]
    refused: Mapping[Run, str]


def run_study(config: StudyConfig, folder: str | Path, *, processes: int = 2, train: bool = True) -> Study:
    """Do what of a study is not yet done.

    Args:
        config: The study.
        folder: Where everything is kept; a study that was stopped goes on there.
        processes: How many runs at once, one thread each.
        train: Whether to train and validate; else what is there is read.

    Returns:
        The study, whatever became of its runs.

    Raises:
        PHLError: For a folder that cannot be written, is in use, or holds another study; missing packages; data that
            cannot be read.
        Stopped: After Ctrl-C or SIGTERM; what is finished is kept.
    """
    if processes < 1:
        raise PHLError(f"processes is {processes}; expected at least 1")
    _check(config)
    runs, data = plan_runs(config), StudyData(config)
    # a report may be made while the study runs
    held = run_folder(folder, resume=False) if train else nullcontext(Path(folder))
    with held as root, signals_noticed() as noticed:
        runs_folder = root / RUNS[_open(root, train)]
        session = _Session(config, root, data, processes, noticed, _timed(config, runs, root, noticed, train))
        lengths, refused = data.lengths(runs, session.steps)
        plain = {run: session.task(run, runs_folder / run.name, span) for run, span in lengths.items()}
        later = estimated_seconds(plain.values(), session.steps)
        weights, trials = _tuned(session, runs, later, train)
        tasks = {
            run: session.task(run, runs_folder / run.name, span, weights=weights.get(run.method.scheme))
            for run, span in lengths.items()
        }
        if train:
            session.work(tasks.values())
        return Study(config, root, runs, session.seconds, weights, trials, tasks, refused)


def _check(config: StudyConfig) -> None:
    """Check before hours of training what no run could do without.

    Raises:
        PHLError: For missing packages, unknown devices, architectures and their settings.
    """
    check_inputs(config.validators)
    choose_device(config.training.device)
    if config.potential.start is None:
        build_model(config.potential.architecture, {**config.potential.settings(), "species": (1,)})


def _open(root: Path, train: bool) -> int:
    """Return the schema of a study's folder; make the folder one of this schema where it is new.

    Raises:
        PHLError: For a folder of an unknown schema or of something else, and for none where nothing is trained.
    """
    marker = root / MARKER
    if marker.exists():
        found = read_json(marker)
        if found.get("format") == FORMAT and found.get("schema") in RUNS:
            return int(found["schema"])
        raise PHLError(
            f"{root} holds a study of schema {found.get('schema', '?')} (phl_ase {found.get('phl_ase', 'unknown')}), "
            f"this version reads {', '.join(map(str, RUNS))}: choose another folder with --out"
        )
    if not train:
        raise PHLError(f"{root} holds no study to report on; leave --report out to run it")
    if any(path.name != ".lock" for path in root.iterdir()):
        raise PHLError(f"{root} holds other files and no study; choose another folder with --out")
    write_json(marker, {"format": FORMAT, "schema": SCHEMA})
    return SCHEMA


def estimated_seconds(tasks: Any, steps: Mapping[str, float]) -> float:
    """Return the seconds of one core for training and validating, without validation during training."""
    return sum(training_seconds(t, steps) + sum(VALIDATORS[v].seconds for v in t.validators) for t in tasks)


def _to_time(config: StudyConfig, runs: Sequence[Run]) -> dict[str, Run]:
    """Return a run for each key whose steps are timed."""
    wanted = {run.method.cost_key: run for run in runs} if config.budget.rounds else {}
    if any(run.series.budget == "time" for run in runs):
        method = time_method(config)
        wanted.setdefault(method.cost_key, Run(Series(method, runs[0].series.split), runs[0].seed))
    return wanted


def _timed(
    config: StudyConfig, runs: Sequence[Run], root: Path, noticed: Sequence[int], train: bool
) -> dict[str, list[float]]:
    """Return seconds of a step of every method, measured once, by one process while nothing else of the study runs.

    Raises:
        PHLError: When they could not be measured.
    """
    wanted = _to_time(config, runs)
    known = read_json(root / TIMING)
    seconds = dict(known.get("seconds", {}))
    if known and known.get("clock") != config.budget.clock:
        raise PHLError(f"{root} was timed by the {known.get('clock')} clock; choose another folder with --out")
    missing = {key: run for key, run in wanted.items() if key not in seconds}
    if missing and train:
        target = root / f"{digest(sorted(missing))[:8]}-{TIMING}"
        target.unlink(missing_ok=True)
        with StudyProgress("timing steps", {}, 1):
            run_processes({"timing": (time_steps, (missing, config, target))}, 1, lambda *_: None, noticed, root)
        measured = read_json(target)
        target.unlink(missing_ok=True)
        if "seconds" not in measured:
            raise PHLError(f"steps could not be timed: {measured.get('reason', 'the process ended without a message')}")
        seconds |= measured["seconds"]
        write_json(root / TIMING, {"clock": config.budget.clock, "seconds": seconds})
        stage_done(f"timing steps: {', '.join(missing)} done")
    return {key: list(seconds[key]) for key in wanted if key in seconds}


@dataclass(frozen=True, eq=False)
class _Session:
    """What all tasks of one call have in common."""

    config: StudyConfig
    root: Path
    data: StudyData
    processes: int
    noticed: Sequence[int]
    seconds: Mapping[str, Sequence[float]]

    @property
    def steps(self) -> dict[str, float]:
        return typical(self.seconds)

    def task(self, run: Run, folder: Path, span: Any, **options: Any) -> Task:
        return Task.of(run, folder, self.config, self.data.hash, span, **options)

    def work(self, tasks: Any, *, title: str = "study", later: float = 0.0) -> None:
        """Train and validate what is not finished; a task that fails or dies leaves its reason and stops no other.

        Args:
            tasks: All of them, finished ones too.
            title: What is going on.
            later: Estimated seconds of what comes after these tasks, for the time left.
        """
        named = {task.folder.name: task for task in tasks}
        for task in named.values():
            prepare(task)
        waiting, same = [], TrainingMethod("")
        # of runs that differ in their method alone the longest first, so that none is left alone at the end
        for _, group in itertools.groupby(
            named.items(), lambda one: replace(one[1].run, series=replace(one[1].run.series, method=same))
        ):
            waiting += sorted(group, key=lambda one: -training_seconds(one[1], self.steps))
        todo = {name: (work, (t,)) for name, t in waiting if not is_trained(t) or to_validate(t)}
        with StudyProgress(title, named, self.processes, step_seconds=self.steps, later=later) as progress:

            def tick(running: Sequence[str], queue: Sequence[str], ended: Mapping[str, Any]) -> None:
                for name, process in ended.items():
                    note_death(named[name].folder, reason_of_death(process) if process.exitcode else "it was stopped")
                progress.show(running, queue, list(ended))

            run_processes(todo, self.processes, tick, self.noticed, self.root)


def _tuned(
    session: _Session, runs: Sequence[Run], later: float, train: bool
) -> tuple[dict[str, dict[str, float]], dict[str, list[float | None]]]:
    """Return the loss weights of each scheme, and the scores of what was tried.

    Raises:
        PHLError: When no setting of a scheme could be trained.
    """
    tuning = session.config.tuning
    used = {run.method.scheme: run.method for run in reversed(runs)}
    tried: dict[str, list[Task]] = {}
    for scheme, candidates in tuning.settings.items():
        if scheme not in used:
            continue
        run = Run(Series(used[scheme], tuning.split), tuning.seed)
        batches = -(-session.data.count(run) // session.config.training.batch_size)
        span = Length(tuning.epochs, tuning.epochs * batches)
        tried[scheme] = [
            session.task(
                run, session.root / TRIALS / f"{scheme}-{place}", span, weights=weights, validators=("validation",)
            )
            for place, weights in enumerate(candidates)
        ]
    if train and tried:
        session.work([task for tasks in tried.values() for task in tasks], title="tuning", later=later)
    scores = {scheme: [_score(task) for task in tasks] for scheme, tasks in tried.items()}
    chosen = {}
    for scheme, values in scores.items():
        present = [np.inf if value is None else value for value in values]
        if train and not np.isfinite(min(present)):
            reason = read_marker(tried[scheme][0].folder).get("reason", "no validation gave finite errors")
            raise PHLError(f"no loss weights of {scheme} could be tried: {reason}")
        chosen[scheme] = dict(tuning.settings[scheme][int(np.argmin(present))])
    if train and tried:
        write_json(session.root / TUNING, {"scores": scores, "settings": tuning.settings, "chosen": chosen})
    return chosen, scores


def _score(task: Task) -> float | None:
    """Return the sum of log mean errors over the validation frames; ``None`` where there is none."""
    try:
        (report,) = read_reports(task.file("validation"))
        values = [report.metric(f"{name}, all").value for name in PROPERTIES]
    except PHLError:
        return None
    return float(np.sum(np.log(values))) if np.all(np.isfinite(values)) else None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds; empty where there is none to read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def plan_text(config: StudyConfig, processes: int) -> str:
    """Return the runs of each training method with their epochs, and estimated hours; steps are timed, nothing is kept.

    Args:
        config: The study.
        processes: How many runs at once.

    Raises:
        PHLError: For data that cannot be read.
    """
    from phl_ase.study.timing import measure

    _check(config)
    runs, data = plan_runs(config), StudyData(config)
    twice = config.model_copy(
        update={"budget": config.budget.model_copy(update={"rounds": min(config.budget.rounds, 2)})}
    )
    wanted = _to_time(config, runs)
    steps = typical(measure(wanted, twice)) if wanted else {}
    lengths, refused = data.lengths(runs, steps)
    tasks = {run: Task.of(run, Path(), config, data.hash, span) for run, span in lengths.items()}
    lines = []
    for series in dict.fromkeys(run.series for run in runs):
        known = [tasks[run] for run in runs if run.series == series and run in tasks]
        spans = (f"{t.length.epochs}{' (cap)' if t.length.capped_from else ''}" for t in known)
        epochs = ", ".join(dict.fromkeys(spans)) or "-"
        hours = estimated_seconds(known, steps) / 3600
        where = f"{series.split}, {series.fraction:g} of the frames, equal {series.budget}"
        count = sum(run.series == series for run in runs)
        lines.append(f"{series.method.label:38s} {where:44s} {count:3d} runs  epochs {epochs:14s} {hours:7.2f} h")
    lines += [f"{run.name}: {reason}" for run, reason in refused.items()]
    hours = estimated_seconds(tasks.values(), steps) / 3600
    total = f"{len(runs)} runs: about {hours:.1f} hours of one core"
    return "\n".join([*lines, f"{total}, {hours / processes:.1f} with {processes} processes"])
