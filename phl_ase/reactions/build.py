"""Building a data set of reactions: each in its folder, on several processes, interrupted and continued, then packed.

A reaction is one task: whoever works on it holds its lock, so several runs may share a work folder. What fails is
recorded with its reason and does not stop the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from phl_ase.datasets.schema import check_suffix
from phl_ase.errors import CalculatorError, PHLError, is_defect, reason_of, traceback_of
from phl_ase.progress import Progress
from phl_ase.reactions.folder import REACTION, STAGES, ReactionFolder, Record, describe
from phl_ase.reactions.guesses import ReactionGuess, check_names
from phl_ase.reactions.memory import LABELS, Memory, Remembering, remembering
from phl_ase.reactions.packing import pack
from phl_ase.reactions.settings import ReactionSettings
from phl_ase.reactions.stages import RUN, Plan
from phl_ase.reactions.summary import ReactionResult, result_of, write_log
from phl_ase.reference import LabelMethod, LabelRequest, level_of_theory
from phl_ase.reference.executors import in_processes, in_this_process
from phl_ase.results import provenance

_GLANCE_SECONDS = 0.5


@dataclass(frozen=True)
class BuildResult:
    """What a run has come to.

    Attributes:
        path: The data set; ``None`` where none was written: there are no frames, or other runs hold reactions.
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
        settings: How structures are found. A work folder with finished stages of other settings is refused.
        request: What structures are labelled with beside energy and forces; another one in the same work folder keeps
            the structures and labels them anew.
        workers: 1 works in this process, more in as many processes of one thread each.
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
    _check_paths(path, folder, guesses, workers)
    calculator = method.make()
    level = level_of_theory(calculator)
    about = {"method": method.name, "method_settings": dict(method.settings), "level_of_theory": level}
    plan = Plan(settings or ReactionSettings(), request or LabelRequest())
    builder = Builder(method, about, plan, folder, retry)
    for guess in guesses:
        builder.folder(guess).check(builder.about(guess))
    results = _built(guesses, builder, workers)
    held = any(result.outcome in ("in use", "unfinished") for result in results)
    folders = [builder.folder(guess) for guess in guesses]
    frames = 0 if held else pack(path, folders, results, calculator, plan, about, source)
    return BuildResult(path if frames else None, results, frames, level, folder)


@dataclass(frozen=True)
class Builder:
    """What worker processes are given.

    Attributes:
        method: What computes.
        of_method: What the records say of it.
        plan: What is wanted.
        work: Folder of the folders.
        retry: Whether failed stages are tried again.
    """

    method: LabelMethod
    of_method: Mapping[str, Any]
    plan: Plan
    work: Path
    retry: bool = False

    def folder(self, guess: ReactionGuess) -> ReactionFolder:
        """Where a reaction is."""
        return ReactionFolder(guess, self.work / guess.folder)

    def about(self, guess: ReactionGuess) -> Record:
        """What a reaction's structures depend on."""
        return describe(guess, self.of_method, self.plan.settings)

    def build(self, guess: ReactionGuess) -> ReactionResult:
        """Do the stages of a reaction that are left.

        Raises:
            PHLError: When something cannot be written.
        """
        folder = self.folder(guess)
        with folder.locked() as mine:
            if not mine:
                return ReactionResult(
                    guess.name, len(guess.structures[0]), "in use", f"another run holds {folder.path}"
                )
            folder.open(self.about(guess))
            if self.retry:
                folder.forget(_to_retry(folder))
            memory = Memory(folder.path / LABELS)
            calculator: Remembering | None = None  # made where there is work; what it carries over is this reaction's
            for stage in STAGES:
                if not self.is_done(folder, stage):
                    calculator = calculator or remembering(self.method.make(), memory)
                    folder.write(stage, self._run(folder, stage, calculator))
                    write_log(folder, self.of_method)
                if not folder.stationary():
                    break
            return result_of(folder, memory)

    def is_done(self, folder: ReactionFolder, stage: str) -> bool:
        """Whether a stage needs no more work; labels are those of the request, of all frames."""
        record = folder.record(stage)
        if record is None or stage != "labels":
            return record is not None
        wanted = (self.plan.request.description, len(folder.frames()))
        return (record.get("request"), record.get("frames_labelled")) == wanted

    def _run(self, folder: ReactionFolder, stage: str, calculator: Remembering) -> Record:
        before, started = dict(calculator.computed), time.perf_counter()
        try:
            record = RUN[stage](folder, calculator, self.plan)
        except Exception as error:  # whatever a foreign calculator does to one reaction must not end the others
            if is_defect(error):
                raise
            refused = isinstance(error, PHLError)
            reason = str(error) if isinstance(error, (PHLError, CalculatorError)) else reason_of(error)
            record = {"outcome": "refused" if refused else "failed", "sentence": reason, "frames": []}
            record["traceback"] = traceback_of(error)
        if calculator.memory.trouble is not None:
            raise calculator.memory.trouble
        return record | {
            "reaction": folder.name,
            "description": folder.guess.description,
            "numbers": folder.guess.identity["numbers"],
            "seconds": time.perf_counter() - started,
            "computed": {kind: count - before[kind] for kind, count in calculator.computed.items()},
            "provenance": provenance(level=self.of_method["level_of_theory"]),
        }


def _to_retry(folder: ReactionFolder) -> Sequence[str]:
    """The first stage that failed, and those that stand on it."""
    for place, stage in enumerate(STAGES):
        record = folder.record(stage)
        if record is not None and record["outcome"] != "converged":
            return STAGES[place:]
    return ()


def _built(guesses: Sequence[ReactionGuess], builder: Builder, workers: int) -> tuple[ReactionResult, ...]:
    """Work through reactions, small ones first."""
    tasks = sorted(guesses, key=lambda guess: len(guess.structures[0]))
    start = partial(_builder, builder)
    if workers > 1:
        results = in_processes(tasks, start, workers, died=partial(_died, builder))
    else:
        results = in_this_process(tasks, start)
    found: dict[str, ReactionResult] = {}
    folders = [builder.folder(guess) for guess in guesses]
    with closing(results), _watched(folders, found):
        for result in results:
            found[result.name] = result
    return tuple(found[guess.name] for guess in guesses)


def _builder(builder: Builder) -> Callable[[ReactionGuess], ReactionResult]:
    return builder.build


def _died(builder: Builder, guess: ReactionGuess, how: str) -> ReactionResult:
    folder = builder.folder(guess)
    return result_of(folder, Memory(folder.path / LABELS), "died", how)


@contextmanager
def _watched(folders: Sequence[ReactionFolder], found: Mapping[str, ReactionResult]) -> Iterator[None]:
    """A bar of stages, whichever process does them: their files are counted."""

    def count() -> int:
        return sum(
            len(STAGES) if folder.name in found else sum((folder.path / f"{s}.json").exists() for s in STAGES)
            for folder in folders
        )

    ended, shown = threading.Event(), count()

    def watch() -> None:
        nonlocal shown
        while not ended.wait(_GLANCE_SECONDS):
            shown = _advance(progress, shown, count(), len(found), len(folders))

    with Progress("reactions, stages", len(STAGES) * len(folders), shown) as progress:
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            _advance(progress, shown, count(), len(found), len(folders))


def _advance(progress: Progress, shown: int, counted: int, done: int, total: int) -> int:
    for _ in range(counted - shown):
        progress.advance(f"{done} of {total} reactions done")
    return max(shown, counted)


def _check_paths(path: Path, work: Path, guesses: Sequence[ReactionGuess], workers: int) -> None:
    """What can be wrong with files before anything is computed."""
    check_suffix(path)
    if not path.parent.is_dir():
        raise PHLError(f"cannot write {path}: the folder {path.parent} does not exist; make it first")
    if path.exists() and not any((work / guess.folder / REACTION).exists() for guess in guesses):
        raise PHLError(f"{path} exists; choose another name, or delete it to build anew")
    if work.exists() and not work.is_dir():
        raise PHLError(f"the work folder {work} is a file; choose another")
    if workers < 1:
        raise PHLError(f"workers is {workers}; expected at least 1")
