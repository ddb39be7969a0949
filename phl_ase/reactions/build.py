"""Building a data set of reactions, on several processes, interrupted and continued, then packed.

Each stage of a reaction is a task of :mod:`phl_ase.jobs` that needs the stages before it. What fails is recorded with
its reason and does not stop the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from phl_ase.datasets.schema import check_suffix
from phl_ase.errors import CalculatorError, PHLError, is_defect, reason_of, traceback_of
from phl_ase.jobs import Failure, Store, Task, digest, open_store, processes, run, serial
from phl_ase.reactions.folder import STAGES, ReactionFolder, StageRecord
from phl_ase.reactions.guesses import ReactionGuess, check_names
from phl_ase.reactions.memory import LABEL_FILE, Memory, remembering
from phl_ase.reactions.packing import pack
from phl_ase.reactions.settings import OF_PATH, OF_SAMPLES, OF_SEARCH, ReactionSettings
from phl_ase.reactions.stages import RUN, Plan
from phl_ase.reactions.summary import ReactionResult, result_of, write_log
from phl_ase.reference import LabelMethod, LabelRequest, level_of_theory
from phl_ase.results import plain, provenance

_SCHEMA = 1  # of what a stage keeps


@dataclass(frozen=True)
class BuildResult:
    """Result of building reactions.

    Attributes:
        path: The data set; ``None`` where none was written because there are no frames.
        reactions: What became of each, in the order of the input.
        frames: Number of frames in the data set.
        level_of_theory: Of the labels.
        work: Where every reaction has its folder, with its log and its calculations.
    """

    path: Path | None
    reactions: tuple[ReactionResult, ...]
    frames: int
    level_of_theory: str
    work: Path


def build_reactions(
    guesses: Sequence[ReactionGuess],
    method: LabelMethod,
    path: str | Path,
    *,
    settings: ReactionSettings | None = None,
    request: LabelRequest | None = None,
    workers: int = 1,
    time_limit: float | None = None,
    retry: bool = False,
    work: str | Path | None = None,
    source: str = "",
) -> BuildResult:
    """Find reactions, label their structures and write the data set; called again, it goes on where it stopped.

    With several workers a script calls this under ``if __name__ == "__main__":``, because worker processes import it.

    Args:
        guesses: What is built.
        method: What computes.
        path: The data set to write, HDF5; it must not exist, unless the work folder holds these reactions.
        settings: How structures are found; in the same work folder only the stages that depend on a changed one are
            done anew, and no calculation is.
        request: What structures are labelled with beside energy and forces.
        workers: 1 works in this process, more in as many processes of one thread each.
        time_limit: Most seconds for a stage; with one, reactions are worked on in worker processes.
        retry: Try stages again that failed before.
        work: Work folder; by default the name of the data set and ``.work``. It is kept.
        source: What the guesses were read from, for the provenance.

    Raises:
        PHLError: For a mistake in the request, or when something cannot be written. What goes wrong with a reaction is
            in the result.
        KeyboardInterrupt: On Ctrl-C; every calculation that was finished is kept.
    """
    path = Path(path)
    folder = Path(work) if work is not None else path.with_name(path.name + ".work")
    check_names(guesses)
    check_suffix(path)
    if not path.parent.is_dir():
        raise PHLError(f"cannot write {path}: the folder {path.parent} does not exist; make it first")
    if folder.exists() and not folder.is_dir():
        raise PHLError(f"the work folder {folder} is a file; choose another")
    if workers < 1:
        raise PHLError(f"workers is {workers}; expected at least 1")
    calculator = method.make()
    level = level_of_theory(calculator)
    about = {"method": method.name, "method_settings": dict(method.settings), "level_of_theory": level}
    plan = Plan(settings or ReactionSettings(), request or LabelRequest())
    tasks = {guess.name: _tasks(guess, about, plan, folder) for guess in guesses}
    if path.exists() and not any(some[0].payload[1].is_dir() for some in tasks.values()):
        raise PHLError(f"{path} exists; choose another name, or delete it to build anew")
    with open_store(folder) as store:
        for some in tasks.values() if retry else ():
            # the first stage that did not go well, and those that stand on it
            records = [store.get(task.key) for task in some]
            went_well = [one is not None and not one.failure and one.value["outcome"] == "converged" for one in records]
            store.forget([task.key for task in some[([*went_well, False]).index(False) :]])
        small_first = sorted(guesses, key=lambda guess: len(guess.structures[0]))
        run(
            [task for guess in small_first for task in tasks[guess.name]],
            partial(_worker, method.make, about, plan),
            store,
            executor=serial if workers == 1 and time_limit is None else processes(workers, time_limit=time_limit),
            title="reactions, stages",
            retry=retry,
        )
        folders = [_reaction(guess, store, tasks[guess.name]) for guess in guesses]
        for one in folders:
            if one.path.is_dir():
                write_log(one, about)
        results = tuple(result_of(one, Memory(one.path / LABEL_FILE)) for one in folders)
        frames = pack(path, folders, results, calculator, plan, about, source)
        return BuildResult(path if frames else None, results, frames, level, folder)


def read_reactions(
    guesses: Sequence[ReactionGuess],
    method: LabelMethod,
    work: str | Path,
    *,
    settings: ReactionSettings | None = None,
    request: LabelRequest | None = None,
) -> list[ReactionFolder]:
    """Return how reactions stand in a work folder; nothing is computed. Arguments as of :func:`build_reactions`."""
    about = {"method": method.name, "method_settings": dict(method.settings)}
    about["level_of_theory"] = level_of_theory(method.make())
    plan, store = Plan(settings or ReactionSettings(), request or LabelRequest()), Store(work)
    return [_reaction(guess, store, _tasks(guess, about, plan, Path(work))) for guess in guesses]


def _tasks(guess: ReactionGuess, about: Mapping[str, Any], plan: Plan, work: Path) -> list[Task]:
    """Return the stages of a reaction; the key of each is of its own settings and the key of the stage before."""
    settings = plan.settings.description
    # the search of a pair follows the path of what it finds
    search = {name: settings[name] for name in (*OF_SEARCH, *(OF_PATH if guess.is_pair else ()))}
    own: dict[str, Any] = {
        "ts": {**guess.identity, "structures": [np.round(atoms.positions, 8).tolist() for atoms in guess.structures]},
        "path": {name: settings[name] for name in (*OF_PATH, "irc_points")},
        "samples": {name: settings[name] for name in OF_SAMPLES},
        "labels": plan.request.description,
    }
    own["ts"] |= {"reaction": guess.name, **about, **search}
    # calculations are of this molecule and method, whatever its guess and settings
    path = work / f"{guess.folder}-{digest(guess.name, guess.identity, about)[:8]}"
    keys, tasks = list[str](), list[Task]()
    for stage in STAGES:
        key = digest("reaction", _SCHEMA, stage, plain(own[stage]), keys)
        tasks.append(Task(f"{guess.name}, {stage}", key, (guess, path, stage), needs=tuple(keys)))
        keys.append(key)
    return tasks


def _reaction(guess: ReactionGuess, store: Store, tasks: Sequence[Task]) -> ReactionFolder:
    """Return what became of a reaction."""
    found = {task.payload[2]: record for task in tasks if (record := store.get(task.key)) is not None}
    failure = next((record.failure for record in found.values() if record.failure is not None), None)
    records = {stage: record.value for stage, record in found.items() if record.failure is None}
    return ReactionFolder(guess, tasks[0].payload[1], records, failure)


def _worker(make: Callable[[], Any], about: Mapping[str, Any], plan: Plan) -> Callable[..., StageRecord | Failure]:
    """Return a function that does a stage and writes the log of the reaction."""

    def do(task: tuple[ReactionGuess, Path, str], *before: StageRecord) -> StageRecord | Failure:
        guess, path, stage = task
        known = dict(zip(STAGES, before, strict=False))
        folder = ReactionFolder(guess, path, known)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PHLError(f"cannot write into {path}: {error.strerror}; choose another work folder") from None
        # a calculator of its own: what one carries over does not depend on the order of tasks
        calculator = remembering(make(), Memory(path / LABEL_FILE))
        started = time.perf_counter()
        try:
            record = RUN[stage](folder, calculator, plan)
        except Exception as error:  # whatever a foreign calculator does to one reaction must not end the others
            if calculator.memory.trouble is not None:
                raise calculator.memory.trouble from None
            if is_defect(error):
                raise
            outcome = "refused" if isinstance(error, PHLError) else "failed"
            reason = str(error) if isinstance(error, (PHLError, CalculatorError)) else reason_of(error)
            record = {"outcome": outcome, "sentence": reason, "frames": [], "traceback": traceback_of(error)}
        if calculator.memory.trouble is not None:
            raise calculator.memory.trouble
        record["seconds"] = time.perf_counter() - started
        record["computed"] = dict(calculator.computed)
        record["provenance"] = provenance(level=about["level_of_theory"])
        done = ReactionFolder(guess, path, {**known, stage: record})
        write_log(done, about)
        if done.stationary():
            return record
        return Failure(record["outcome"], record["sentence"], record.get("traceback", ""))

    return do
