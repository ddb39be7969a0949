"""The progress of a study: one bar over everything with the time left, one line for each cell at work."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from phl_ase.progress import OnTerminal
from phl_ase.study.matrix.budget import Length
from phl_ase.study.matrix.questions import ASKED
from phl_ase.study.matrix.worker import Job, is_trained, unanswered
from phl_ase.study.progress import clock, last_epoch, schedule_length
from phl_ase.study.worker import read_marker

_EVERY = 1.0  # s: markers and logs are read this often


class Bars(OnTerminal):
    """Bars on standard error; silent when that is no terminal.

    Args:
        title: What is going on.
        jobs: Name -> job, finished ones too.
        processes: How many run at once.
        estimates: Name -> estimated seconds of its training.
        lengths: Name -> how long it trains.
        later: Estimated seconds, on one core, of what follows.
    """

    def __init__(
        self,
        title: str,
        jobs: Mapping[str, Job],
        processes: int,
        *,
        estimates: Mapping[str, float] | None = None,
        lengths: Mapping[str, Length] | None = None,
        later: float = 0.0,
    ) -> None:
        self._jobs, self._processes, self._later = jobs, processes, later
        self._estimates, self._lengths = dict(estimates or {}), dict(lengths or {})
        self._lines: dict[str, Any] = {}
        self._at = 0.0
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        # what is long stands last: a narrow terminal cuts it off
        columns = (BarColumn(bar_width=12), TaskProgressColumn(), TextColumn("{task.description}"))
        self._bars = Progress(*columns, console=Console(stderr=True))
        self._title = title
        self._all = self._bars.add_task(title, total=max(self.total, 1e-9))

    @property
    def total(self) -> float:
        """Estimated seconds of everything on one core, what is done already included."""
        guesses = self._guesses()
        own = sum(self._estimates[name] + sum(guesses[v] for v in job.validators) for name, job in self._jobs.items())
        return own + self._later

    def show(self, running: Sequence[str], queue: Sequence[str], ended: Sequence[str]) -> None:
        """Read how everything stands, and draw."""
        if self._bars is None or (time.monotonic() - self._at < _EVERY and not ended):
            return
        self._at = time.monotonic()
        guesses, slower = self._guesses(), self._slower()
        left = {name: self._left(name, guesses, slower) for name in (*running, *queue)}
        seconds = schedule_length([left[n] for n in running], [left[n] for n in queue], self._processes)
        seconds += slower * self._later / self._processes
        total, done = max(self.total, 1e-9), len(self._jobs) - len(left)
        note = f"{self._title}: {done} of {len(self._jobs)} cells, {clock(seconds)} left"
        completed = max(total - self._later - sum(left.values()), 0.0)
        self._bars.update(self._all, total=total, completed=completed, description=note)
        for name in set(self._lines) - set(running):
            self._bars.remove_task(self._lines.pop(name))
        for name in running:
            if name not in self._lines:
                self._lines[name] = self._bars.add_task(name, total=1.0)
            share = 1.0 - left[name] / max(self._left(name, guesses, slower, whole=True), left[name], 1e-9)
            self._bars.update(self._lines[name], completed=share, description=f"{self._doing(name)}: {name}")

    def _left(self, name: str, guesses: Mapping[str, float], slower: float, *, whole: bool = False) -> float:
        """Estimated seconds until a job is done, or of all of it."""
        job = self._jobs[name]
        share = 0.0 if is_trained(job) and not whole else 1.0
        if share and not whole:
            epochs = (last_epoch(job.folder) or (0, 0.0))[0]
            share = max(1.0 - epochs / self._lengths[name].epochs, 0.0)
        open_questions = job.validators if whole else unanswered(job)
        return slower * share * self._estimates[name] + sum(guesses[v] for v in open_questions)

    def _guesses(self) -> dict[str, float]:
        """Seconds of each validator: the mean of those that have answered."""
        seen: dict[str, list[float]] = {}
        for job in self._jobs.values():
            for name, state in read_marker(job.folder).get("validators", {}).items():
                if state.get("outcome") == "done":
                    seen.setdefault(name, []).append(float(state.get("seconds", 0.0)))
        return {name: sum(seen[name]) / len(seen[name]) if name in seen else v.guess for name, v in ASKED.items()}

    def _slower(self) -> float:
        """How many times as long as estimated training takes: validation, and other work of the machine."""
        taken = expected = 0.0
        for name, job in self._jobs.items():
            epochs, seconds = last_epoch(job.folder) or (0, 0.0)
            taken += seconds
            expected += self._estimates[name] * epochs / self._lengths[name].epochs
        return taken / expected if expected > 0 and taken > 0 else 1.0

    def _doing(self, name: str) -> str:
        job = self._jobs[name]
        if is_trained(job):
            return ", ".join(unanswered(job)[:1]) or "done"
        epochs = (last_epoch(job.folder) or (0, 0.0))[0]
        return f"epoch {epochs} of {self._lengths[name].epochs}"
