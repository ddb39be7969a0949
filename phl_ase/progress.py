"""A progress bar where somebody looks."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

Bars = TypeVar("Bars", bound="OnTerminal")


class OnTerminal:
    """Bars of rich that are shown while a ``with`` block runs; ``None`` where nobody looks."""

    _bars: Any = None

    def __enter__(self: Bars) -> Bars:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()


class Progress(OnTerminal):
    """A progress bar with the time left on standard error; silent when that is no terminal.

    Args:
        description: What is going on.
        total: Number of steps.
        done: Steps done already, when resuming.
        shown: Whether to show it at all.
    """

    def __init__(self, description: str, total: int, done: int = 0, *, shown: bool = True) -> None:
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bars = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._task = self._bars.add_task(description, total=total, completed=done, note="")

    def advance(self, note: str = "") -> None:
        """One step is done."""
        if self._bars is not None:
            self._bars.update(self._task, advance=1, note=note)

    def note(self, note: str) -> None:
        """Say what is being worked on."""
        if self._bars is not None:
            self._bars.update(self._task, note=note)
