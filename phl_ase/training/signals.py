"""Ctrl-C and SIGTERM as something to look at, so that no step is broken off in the middle."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def signals_noticed() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; the loop looks after every step."""
    noticed: list[int] = []
    previous: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, lambda received, _: noticed.append(received))
    except ValueError:  # not the main thread: whoever runs this has its own way to stop it
        previous = {}
    try:
        yield noticed
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
