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
            from rich.table import Column
            from rich.text import Text

            class Note(rich.ProgressColumn):
                """What is being worked on, on one line: where the terminal is narrow it is cut off."""

                def render(self, task: rich.Task) -> Text:
                    return Text(str(task.fields["note"]), overflow="ellipsis", no_wrap=True)

            def whole() -> Column:
                """A column that is not narrowed: numbers are read whole, or not at all."""
                return Column(no_wrap=True)

            self._bars = rich.Progress(
                rich.TextColumn("{task.description}", table_column=whole()),
                rich.BarColumn(),
                (rich.MofNCompleteColumn if counted else rich.TaskProgressColumn)(table_column=whole()),
                rich.TimeElapsedColumn(table_column=whole()),  # moves where there are few steps
                *((rich.TextColumn("left"), rich.TimeRemainingColumn(table_column=whole())) if counted else ()),
                Note(),
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
