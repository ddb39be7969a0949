"""A study in its folder: steps timed, loss weights chosen, runs trained and validated, each a task of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.files import write_atomic
from phl_ase.jobs import Record, Store, Task, digest, open_store, processes, run
from phl_ase.potentials.registry import build_model
from phl_ase.results import Report, json_text, write_json
from phl_ase.study.config import PROPERTIES, StudyConfig
from phl_ase.study.older import FOLDERS, adopt, read_json
from phl_ase.study.plan import (
    Length,
    PlannedRun,
    Run,
    Series,
    StudyData,
    TrainingMethod,
    plan_runs,
    time_method,
    typical,
)
from phl_ase.study.validation import EVERY_VALIDATOR, check_inputs
from phl_ase.study.worker import start, step_seconds
from phl_ase.tables import text_table
from phl_ase.training import choose_device
from phl_ase.training.checkpoint import last_epoch

FORMAT, SCHEMA = "phl study", 3
"""What ``study.json`` of a study's folder says. Older schemas kept results elsewhere."""

MARKER, TUNING, TRIALS, RUNS, JOBS = "study.json", "tuning.json", "tuning", "runs", "jobs"


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
        planned: Run -> its folder and keys; none for a run whose data cannot be had.
        refused: Run -> why its data cannot be had.
        store: What became of its tasks.
    """

    config: StudyConfig
    folder: Path
    runs: Sequence[Run]
    step_seconds: Mapping[str, Sequence[float]]
    weights: Mapping[str, Mapping[str, float]]
    trials: Mapping[str, Sequence[float | None]]
    planned: Mapping[Run, PlannedRun]
    refused: Mapping[Run, str]
    store: Store


def run_study(config: StudyConfig, folder: str | Path, *, workers: int = 2, train: bool = True) -> Study:
    """Do what of a study is not yet done.

    Args:
        config: The study.
        folder: Where everything is kept; a study that was stopped goes on there.
        workers: Processes of one thread each.
        train: Whether to train and validate; else what is there is read.

    Returns:
        The study, whatever became of its runs.

    Raises:
        PHLError: For a folder that cannot be written, is in use, or holds something else; missing packages; data that
            cannot be read.
        KeyboardInterrupt: On Ctrl-C; what is finished is kept.
    """
    _check(config)
    runs, data, root = plan_runs(config), StudyData(config), Path(folder)
    _open(root, train)
    # a report may be made while the study runs
    with open_store(root / JOBS) if train else nullcontext(Store(root / JOBS)) as store:
        session = _Session(config, root, data, store, processes(workers) if train else None)
        seconds = session.timed(runs)
        steps = typical(seconds)
        lengths, refused = data.lengths(runs, steps)
        weights, trials = session.tuned(runs, steps)
        planned = {
            one: session.plan(one, RUNS, span, weights=weights.get(one.method.scheme)) for one, span in lengths.items()
        }
        session.work(planned.values(), steps)
        return Study(config, root, runs, seconds, weights, trials, planned, refused, store)


def _check(config: StudyConfig) -> None:
    """Check before hours of training what no run could do without.

    Raises:
        PHLError: For missing packages, unknown devices, architectures and their settings.
    """
    check_inputs(config.validators)
    choose_device(config.training.device)
    if config.potential.start is None:
        build_model(config.potential.architecture, {**config.potential.settings(), "species": (1,)})


def _open(root: Path, train: bool) -> None:
    """Make a folder that of a study where it is new.

    Raises:
        PHLError: For a folder of an unknown schema or of something else, and for none where nothing is trained.
    """
    marker = root / MARKER
    if marker.exists():
        found, valid = read_json(marker), (*FOLDERS, SCHEMA)
        if found.get("format") != FORMAT or found.get("schema") not in valid:
            raise PHLError(
                f"{root} holds a study of schema {found.get('schema', '?')} (phl_ase "
                f"{found.get('phl_ase', 'unknown')}), this version reads {', '.join(map(str, valid))}: choose another "
                "folder with --out"
            )
        return
    if not train:
        raise PHLError(f"{root} holds no study to report on; leave --report out to run it")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PHLError(f"cannot write into {root}: {error.strerror}; choose another output folder") from None
    if any(path.name != ".lock" for path in root.iterdir()):
        raise PHLError(f"{root} holds other files and no study; choose another folder with --out")
    write_json(marker, {"format": FORMAT, "schema": SCHEMA})


@dataclass(frozen=True, eq=False)
class _Session:
    """One call; without an executor it only reads."""

    config: StudyConfig
    root: Path
    data: StudyData
    store: Store
    executor: Any

    def plan(self, one: Run, part: str, span: Length, *, older: str = "", **options: Any) -> PlannedRun:
        """Return a run in its folder, which may be that of an older schema."""
        planned = PlannedRun.of(one, self.root / part, self.config, self.data.hash, span, **options)
        for folder in [TRIALS] if older else FOLDERS.values():
            planned = adopt(self.store, planned, self.root / folder / (older or one.name))
        return planned

    def work(self, planned: Iterable[PlannedRun], steps: Mapping[str, float], title: str = "study") -> None:
        """Train and validate what is not finished; a task that fails leaves its reason and stops no other."""
        if self.executor is None:
            return
        planned, same = list(planned), TrainingMethod("")
        tasks: list[Task] = []
        # of runs that differ in their method alone the longest first, so that none is left alone at the end
        for _, group in itertools.groupby(planned, lambda o: replace(o.run, series=replace(o.run.series, method=same))):
            for one in sorted(group, key=lambda one: -one.training_seconds(steps)):
                tasks += tasks_of(one, steps)
        run(tasks, start, self.store, executor=self.executor, title=title, retry=True, lines=True)
        for one in planned:  # for phl report
            for name in one.validators:
                reports, file = self.value(one.validator_key(name)), one.folder / f"{name}.json"
                content = json_text(reports).encode()
                if reports is not None and not (file.exists() and file.read_bytes() == content):
                    write_atomic(file, content)

    def value(self, key: str) -> Any:
        """Return the result of a task; ``None`` where there is none."""
        record = self.store.get(key)
        return None if record is None or record.failure is not None else record.value

    def failure(self, key: str, otherwise: str) -> str:
        """Return why a task has no result."""
        record = self.store.get(key)
        return otherwise if record is None or record.failure is None else record.failure.reason

    def timed(self, runs: Sequence[Run]) -> dict[str, list[float]]:
        """Return seconds of a step of every method, measured once, in turn, while nothing else of the study runs.

        Raises:
            PHLError: When they could not be measured.
        """
        config = self.config
        wanted = _to_time(config, runs)
        about = {
            "clock": config.budget.clock,
            "data": [self.data.hash, config.data.max_atoms],
            "potential": config.potential.model_dump(mode="json"),
            "training": config.training.model_dump(mode="json", include={"batch_size", "dtype", "compile"}),
        }
        keys = {method: digest("time of a step", method, about) for method in wanted}
        before = read_json(self.root / "timing.json")  # of schema 2
        known = dict(before.get("seconds", {})) if before.get("clock") == config.budget.clock else {}
        known |= {method: found for method, key in keys.items() if (found := self.value(key)) is not None}
        missing = {method: one for method, one in wanted.items() if method not in known}
        if missing and self.executor is not None:
            key = digest("times of steps", sorted(keys[m] for m in missing))
            task = Task("steps", key, ("timing", (missing, config)))
            run([task], start, self.store, executor=self.executor, title="timing", retry=True, lines=True)
            found = self.value(key)
            if found is None:
                raise PHLError(f"steps could not be timed: {self.failure(key, 'nothing is known')}")
            for method, seconds in found.items():
                self.store.keep(keys[method], Record(seconds))
            known |= found
        return {method: list(known[method]) for method in wanted if method in known}

    def tuned(
        self, runs: Sequence[Run], steps: Mapping[str, float]
    ) -> tuple[dict[str, dict[str, float]], dict[str, list[float | None]]]:
        """Return the loss weights of each scheme, and the scores of what was tried.

        A score is the sum of the logarithms of the mean errors of the validation frames; ``None`` where there is none.

        Raises:
            PHLError: When no setting of a scheme could be trained.
        """
        tuning = self.config.tuning
        used = {one.method.scheme: one.method for one in reversed(runs)}
        tried: dict[str, list[PlannedRun]] = {}
        for scheme in [scheme for scheme in tuning.settings if scheme in used]:
            one = Run(Series(used[scheme], tuning.split), tuning.seed)
            batches = -(-self.data.count(one) // self.config.training.batch_size)
            span, options = Length(tuning.epochs, tuning.epochs * batches), {"validators": ("validation",)}
            tried[scheme] = [
                self.plan(one, TRIALS, span, older=f"{scheme}-{place}", weights=weights, **options)
                for place, weights in enumerate(tuning.settings[scheme])
            ]
        self.work([one for some in tried.values() for one in some], steps, "tuning")
        scores: dict[str, list[float | None]] = {scheme: [] for scheme in tried}
        chosen = {}
        for scheme, some in tried.items():
            for trial in some:
                reports = self.value(trial.validator_key("validation"))
                report = None if reports is None else Report.from_dict(reports[0])
                errors = [np.inf if report is None else report.metric(f"{name}, all").value for name in PROPERTIES]
                scores[scheme].append(float(np.sum(np.log(errors))) if np.all(np.isfinite(errors)) else None)
            present = [np.inf if value is None else value for value in scores[scheme]]
            if self.executor is not None and not np.isfinite(min(present)):
                reason = self.failure(some[0].key, "no validation gave finite errors")
                raise PHLError(f"no loss weights of {scheme} could be tried: {reason}")
            chosen[scheme] = dict(tuning.settings[scheme][int(np.argmin(present))])
        if tried and self.executor is not None:
            write_json(self.root / TUNING, {"scores": scores, "settings": tuning.settings, "chosen": chosen})
        return chosen, scores


def tasks_of(planned: PlannedRun, steps: Mapping[str, float]) -> list[Task]:
    """Return a run's training and the validations of its model.

    Args:
        planned: The run.
        steps: ``TrainingMethod.cost_key`` -> seconds of a step, of the methods that were timed.
    """

    def progress() -> tuple[float, str]:
        epoch = last_epoch(planned.folder)
        return min(epoch / planned.length.epochs, 1.0), f"epoch {epoch} of {planned.length.epochs}"

    name, seconds = planned.run.name, planned.training_seconds(steps)
    kind = "training"
    tasks = [Task(f"{name}, {kind}", planned.key, (kind, planned), cost=seconds, kind=kind, progress=progress)]
    for kind in planned.validators:
        key, seconds = planned.validator_key(kind), EVERY_VALIDATOR[kind].seconds
        tasks.append(Task(f"{name}, {kind}", key, (kind, planned), needs=(planned.key,), cost=seconds, kind=kind))
    return tasks


def _to_time(config: StudyConfig, runs: Sequence[Run]) -> dict[str, Run]:
    """Return a run for each key whose steps are timed."""
    wanted = {run.method.cost_key: run for run in runs} if config.budget.rounds else {}
    if any(run.series.budget == "time" for run in runs):
        method = time_method(config)
        wanted.setdefault(method.cost_key, Run(Series(method, runs[0].series.split), runs[0].seed))
    return wanted


def plan_text(config: StudyConfig, workers: int) -> str:
    """Return the runs of each training method with their epochs, and estimated hours; steps are timed, nothing is kept.

    Args:
        config: The study.
        workers: Processes.

    Raises:
        PHLError: For data that cannot be read.
    """
    _check(config)
    runs, data = plan_runs(config), StudyData(config)
    budget = config.budget.model_copy(update={"rounds": min(config.budget.rounds, 2)})
    wanted = _to_time(config, runs)
    steps = typical(step_seconds(wanted, config.model_copy(update={"budget": budget}))) if wanted else {}
    lengths, refused = data.lengths(runs, steps)
    rows, total = [], 0.0
    for series in dict.fromkeys(one.series for one in runs):
        spans = {one: lengths[one] for one in runs if one.series == series and one in lengths}
        planned = [PlannedRun.of(one, Path(), config, data.hash, span) for one, span in spans.items()]
        # without validation during training
        hours = sum(task.cost for one in planned for task in tasks_of(one, steps)) / 3600
        total += hours
        epochs = dict.fromkeys(f"{span.epochs}{' (cap)' if span.capped_from else ''}" for span in spans.values())
        where = f"{series.split}, {series.fraction:g} of the frames, equal {series.budget}"
        count = sum(one.series == series for one in runs)
        rows.append([series.method.label, where, count, ", ".join(epochs) or "-", f"{hours:.2f}"])
    table = text_table(["training method", "setting", "runs", "epochs", "time / h"], rows, words=2)
    lines = [table, *(f"{one.name}: {reason}" for one, reason in refused.items())]
    lines.append(
        f"{len(runs)} runs: about {total:.1f} hours of one core, {total / workers:.1f} with {workers} processes"
    )
    return "\n".join(lines)
