"""The progress of a study: bars with the time left on a terminal, elsewhere one line for each finished stage."""

from __future__ import annotations

import heapq
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phl_ase.objective import SCHEMES
from phl_ase.progress import OnTerminal
from phl_ase.study.plan import Task
from phl_ase.study.validation import EVERY_VALIDATOR
from phl_ase.study.worker import is_trained, read_marker, to_validate
from phl_ase.training.checkpoint import LOG

_EVERY = 1.0  # s: markers and logs are read this often


class StudyProgress(OnTerminal):
    """Progress on standard error.

    Args:
        title: What is going on.
        tasks: Name -> task, finished ones too.
        processes: How many run at once.
        step_seconds: ``TrainingMethod.cost_key`` -> seconds of a step, of the methods that were timed.
        later: Estimated seconds, on one core, of what follows.
    """

    def __init__(
        self,
        title: str,
        tasks: Mapping[str, Task],
        processes: int,
        *,
        step_seconds: Mapping[str, float] | None = None,
        later: float = 0.0,
    ) -> None:
        self._title, self._tasks, self._processes, self._later = title, tasks, processes, later
        self._training = {name: training_seconds(task, step_seconds or {}) for name, task in tasks.items()}
        self._at = 0.0
        self._reported = {(name, stage) for name in tasks for stage, _ in self._stages(name)}
        self._lines: dict[str, Any] = {}
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            # what is long stands last: a narrow terminal cuts it off
            columns = (BarColumn(bar_width=12), TaskProgressColumn(), TextColumn("{task.description}"))
            self._bars = Progress(*columns, console=Console(stderr=True))
            self._all = self._bars.add_task(title, total=max(self.total, 1e-9))

    @property
    def total(self) -> float:
        """Estimated seconds of everything on one core, what is done already included."""
        guesses = self._guesses()
        own = sum(self._training[n] + sum(guesses[v] for v in task.validators) for n, task in self._tasks.items())
        return own + self._later

    def show(self, running: Sequence[str], queue: Sequence[str], ended: Sequence[str]) -> None:
        """Read how everything stands, and show it."""
        if time.monotonic() - self._at < _EVERY and not ended:
            return
        self._at = time.monotonic()
        guesses, slower = self._guesses(), self._slower()
        left = {name: self._left(name, guesses, slower) for name in (*running, *queue)}
        seconds = schedule_length([left[n] for n in running], [left[n] for n in queue], self._processes)
        seconds += slower * self._later / self._processes
        done = len(self._tasks) - sum(value > 0 for value in left.values())
        note = f"{done} of {len(self._tasks)} runs, about {clock(seconds)} left"
        if self._bars is None:
            for name in (*ended, *running):
                for stage, text in self._stages(name):
                    if (name, stage) not in self._reported:
                        self._reported.add((name, stage))
                        stage_done(f"{self._title}: {name}: {text} ({note})")
            return
        total = max(self.total, 1e-9)
        completed = max(total - self._later - sum(left.values()), 0.0)
        self._bars.update(self._all, total=total, completed=completed, description=f"{self._title}: {note}")
        for name in set(self._lines) - set(running):
            self._bars.remove_task(self._lines.pop(name))
        for name in running:
            if name not in self._lines:
                self._lines[name] = self._bars.add_task(name, total=1.0)
            share = 1.0 - left[name] / max(self._left(name, guesses, slower, whole=True), left[name], 1e-9)
            self._bars.update(self._lines[name], completed=share, description=f"{self._doing(name)}: {name}")

    def _stages(self, name: str) -> list[tuple[str, str]]:
        """Return the finished stages of a run and what a line says of each."""
        marker, task = read_marker(self._tasks[name].folder), self._tasks[name]
        found = []
        if marker.get("outcome") == "trained":
            found.append(("training", f"trained, {task.length.epochs} epochs in {clock(marker.get('seconds', 0.0))}"))
        elif marker.get("outcome") == "failed":
            found.append(("failure", f"failed: {marker.get('reason')}"))
        for validator, state in marker.get("validators", {}).items():
            if state.get("outcome") == "done" and state.get("digest") in task.validator_digests(validator):
                found.append((validator, f"{validator} done in {clock(state.get('seconds', 0.0))}"))
            elif state.get("outcome") == "failed":
                found.append((f"{validator} failed", f"{validator} failed: {state.get('reason')}"))
        return found

    def _left(self, name: str, guesses: Mapping[str, float], slower: float, *, whole: bool = False) -> float:
        """Return the estimated seconds until a task is done, or of all of it."""
        task = self._tasks[name]
        share = 0.0 if is_trained(task) and not whole else 1.0
        if share and not whole:
            share = max(1.0 - _epochs(task)[0] / task.length.epochs, 0.0)
        validators = task.validators if whole else to_validate(task)
        return slower * share * self._training[name] + sum(guesses[v] for v in validators)

    def _guesses(self) -> dict[str, float]:
        """Return seconds of each validator: the mean of those that are done."""
        seen: dict[str, list[float]] = {}
        for task in self._tasks.values():
            for name, state in read_marker(task.folder).get("validators", {}).items():
                if state.get("outcome") == "done":
                    seen.setdefault(name, []).append(float(state.get("seconds", 0.0)))
        return {n: sum(seen[n]) / len(seen[n]) if n in seen else v.seconds for n, v in EVERY_VALIDATOR.items()}

    def _slower(self) -> float:
        """Return how many times as long as estimated training takes: validation, and other work of the machine."""
        taken = expected = 0.0
        for name, task in self._tasks.items():
            epochs, seconds = _epochs(task)
            taken += seconds
            expected += self._training[name] * epochs / task.length.epochs
        return taken / expected if expected > 0 and taken > 0 else 1.0

    def _doing(self, name: str) -> str:
        task = self._tasks[name]
        if is_trained(task):
            return ", ".join(to_validate(task)[:1]) or "done"
        return f"epoch {_epochs(task)[0]} of {task.length.epochs}"


def stage_done(text: str) -> None:
    """Write a line about a finished stage, where standard error is no terminal, whose bars show it."""
    if not sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def training_seconds(task: Task, step_seconds: Mapping[str, float]) -> float:
    """Return the estimated seconds of a task's training, from timed steps or a guess."""
    method = task.run.method
    directions = method.n_probes if method.draws else 0 if SCHEMES[method.scheme].probes is None else 12
    return task.length.steps * step_seconds.get(method.cost_key, 0.005 * (1.0 + directions))


def _epochs(task: Task) -> tuple[int, float]:
    return last_epoch(task.folder) or (0, 0.0)


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


def schedule_length(running: Sequence[float], waiting: Sequence[float], processes: int) -> float:
    """Return the time until all is done, when a free process takes the next.

    Args:
        running: Time left of what runs, s.
        waiting: Time of what waits, in its order, s.
        processes: How many run at once.
    """
    free = [*running, *[0.0] * max(processes - len(running), 0)]
    heapq.heapify(free)
    for seconds in waiting:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return max(free, default=0.0)


def clock(seconds: float) -> str:
    """Return seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
