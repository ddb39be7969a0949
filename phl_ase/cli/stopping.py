"""How a command is stopped: SIGTERM, which batch systems send, ends it as Ctrl-C does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C, so that both end alike; only in the main thread, where signals can be caught."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(received: int, _: Any) -> None:
        raise KeyboardInterrupt(signal.Signals(received).name)

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def nothing_is_lost(folder: Path) -> Iterator[None]:
    """Say, where long work is stopped, how it goes on."""
    import typer

    with terminated_as_interrupted():
        try:
            yield
        except KeyboardInterrupt:
            typer.echo(f"nothing is lost: the same command goes on in {folder}", err=True)
            raise
