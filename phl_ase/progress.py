"""A progress bar where somebody looks."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """A progress bar with the time left on standard error while a ``with`` block runs; silent when that is no terminal.

    Args:
        description: What is going on.
        total: Number of steps, or any other measure of the work.
        done: What of it is done already, when resuming.
        shown: Whether to show it at all.
        counted: Whether the work is counted in whole steps; else its share is shown, and notes say what time is left.
    """

    _bars: Any = None

    def __init__(
        self, description: str, total: float, done: float = 0, *, shown: bool = True, counted: bool = True
    ) -> None:
        if shown and sys.stderr.isatty():
            from rich import progress as rich
            from rich.console import Console

            self._bars = rich.Progress(
                rich.TextColumn("{task.description}"),
                rich.BarColumn(),
                rich.MofNCompleteColumn() if counted else rich.TaskProgressColumn(),
                rich.TimeElapsedColumn(),  # moves where there are few steps
                *((rich.TextColumn("left"), rich.TimeRemainingColumn()) if counted else ()),
                rich.TextColumn("{task.fields[note]}"),  # what is long stands last: a narrow terminal cuts it off
                console=Console(stderr=True),
            )
            self._task = self._bars.add_task(description, total=total, completed=done, note="")

    def __enter__(self) -> Progress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def advance(self, note: str = "") -> None:
        """One step is done."""
        if self._bars is not None:
            self._bars.update(self._task, advance=1, note=note)

    def move_to(self, done: float, note: str = "") -> None:
        """So much is done."""
        if self._bars is not None:
            self._bars.update(self._task, completed=done, note=note)

    def note(self, note: str) -> None:
        """Say what is being worked on."""
        if self._bars is not None:
            self._bars.update(self._task, note=note)


def clock(seconds: float) -> str:
    """Return seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
