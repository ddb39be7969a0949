"""Work in parallel processes: a free one takes the next piece, a stop ends all of them, a death is noticed."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from phl_ase.reference.executors import end_with_parent
from phl_ase.training import Stopped

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 60.0  # for a stopped run to write its checkpoint

Work = Mapping[str, tuple[Callable[..., None], tuple[Any, ...]]]
"""Name -> function of a module, which a new process imports, and its arguments."""

Tick = Callable[[Sequence[str], Sequence[str], Mapping[str, Any]], None]
"""Called several times a second with the names of what runs, of what waits, and what has ended, name -> process."""


def run_processes(work: Work, processes: int, tick: Tick, noticed: Sequence[int], folder: Path) -> None:
    """Do every piece of work in its order, so many at a time, each in a process of its own.

    Args:
        work: What to do.
        processes: How many at once.
        tick: Called several times a second.
        noticed: Signals that were received, see :func:`phl_ase.training.signals.signals_noticed`.
        folder: What a stop names as the place where the work goes on.

    Raises:
        Stopped: After a signal; the processes have been asked to end and have.
    """
    # one server imports torch, every process is a copy of it: importing takes longer than many a run
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["phl_ase.study.worker"])
    running: dict[str, Any] = {}
    queue = list(work)
    try:
        while queue or running:
            while queue and len(running) < processes:
                name = queue.pop(0)
                target, arguments = work[name]
                process = context.Process(target=_begin, args=(target, *arguments), name=f"phl {name}", daemon=True)
                process.start()
                running[name] = process
            time.sleep(_POLL_SECONDS)
            if noticed:  # before the dead are looked at: Ctrl-C of a terminal reaches them as well
                raise Stopped(
                    f"stopped by {signal.Signals(noticed[0]).name}; nothing is lost: run the same command again "
                    f"to go on in {folder}"
                )
            ended = {name: process for name, process in running.items() if not process.is_alive()}
            for name in ended:
                running.pop(name).join()
            tick(list(running), queue, ended)
    finally:
        _stop(running.values())


def reason_of_death(process: Any) -> str:
    """Return in one line how a process that left no message has ended."""
    code = process.exitcode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"the worker process {how}{hint}"


def _begin(target: Callable[..., None], *arguments: Any) -> None:
    """Call a function, Ctrl-C ignored: it reaches the whole group of a terminal, and comes on as SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(patience=_PATIENCE_SECONDS)
    target(*arguments)


def _stop(processes: Iterable[Any]) -> None:
    processes = list(processes)
    for process in processes:
        process.terminate()
    limit = time.monotonic() + _PATIENCE_SECONDS
    for process in processes:
        process.join(max(limit - time.monotonic(), 0.1))
        if process.is_alive():
            process.kill()
            process.join()
