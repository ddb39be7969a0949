"""One progress bar for several runs, with the time left over all; silent when standard error is no terminal."""

from __future__ import annotations

import heapq
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from phl_ase.progress import OnTerminal
from phl_ase.training.checkpoint import LOG


class ManyRuns(OnTerminal):
    """Bars of runs that other processes work on, read from their logs.

    Args:
        runs: Name -> folder and number of epochs.
    """

    def __init__(self, runs: Mapping[str, tuple[Path, int]]) -> None:
        self._runs = dict(runs)
        self._tasks: dict[str, Any] = {}
        self._latest: dict[str, tuple[int, float]] = {}
        if runs and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bars = Progress(*columns, console=Console(stderr=True))
            for name, (_, epochs) in runs.items():
                self._tasks[name] = self._bars.add_task(name, total=epochs, note="waiting")
            self._all = self._bars.add_task("all", total=sum(epochs for _, epochs in runs.values()), note="")

    def show(self, running: Iterable[str], done: Sequence[str], seconds_left: float | None) -> None:
        """Read the logs of what runs or has just ended, and draw."""
        for name in (*running, *done):
            self._read(name)
        if self._bars is None:
            return
        for name in running:
            self._bars.update(self._tasks[name], completed=self.epochs_done(name), note="")
        for name in done:
            note = "done" if self.epochs_done(name) >= self._runs[name][1] else "ended"
            self._bars.update(self._tasks[name], completed=self.epochs_done(name), note=note)
        left = "" if seconds_left is None else f"{clock(seconds_left)} left"
        self._bars.update(self._all, completed=sum(map(self.epochs_done, self._runs)), note=left)

    def epochs_done(self, name: str) -> int:
        """Finished epochs of a run."""
        return self._latest.get(name, (0, 0.0))[0]

    def seconds_per_epoch(self, name: str) -> float | None:
        """Mean time of an epoch; ``None`` before the first one is finished."""
        epochs, seconds = self._latest.get(name, (0, 0.0))
        return seconds / epochs if epochs else None

    def _read(self, name: str) -> None:
        self._latest[name] = last_epoch(self._runs[name][0]) or self._latest.get(name, (0, 0.0))


def last_epoch(folder: Path) -> tuple[int, float] | None:
    """Number of the last finished epoch of a run and the seconds until then; ``None`` before the first one."""
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
    """Time until all is done, when whoever is free takes the next.

    Args:
        running: Time left of what runs, s.
        waiting: Time of what waits, in its order, s.
        processes: How many run at once.

    Returns:
        Seconds.
    """
    free = [*running, *[0.0] * max(processes - len(running), 0)]
    heapq.heapify(free)
    for seconds in waiting:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return max(free, default=0.0)


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
