"""How a command is stopped: SIGTERM, which batch systems send, ends it as Ctrl-C does."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any


@contextmanager
def terminated_as_interrupted():
    """SIGTERM as Ctrl-C, so that both end alike; only in the main thread, where signals can be caught."""
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
