"""A task: what is computed, by what its result is found again, and doing it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from phl_ase.errors import CalculatorError, DiskError, PHLError, is_defect, reason_of, traceback_of
from phl_ase.jobs.store import Failure, Record

Do = Callable[..., Any]
"""Does a task: from its payload and the values that it needs to a value of plain data and NumPy arrays, to a
:class:`Record`, or to a :class:`Failure`."""
Start = Callable[[], Do]
"""Called once in every worker, gives what does a task. It is sent to other processes, as are payloads and values: a
function of a module, or a ``functools.partial`` of one."""


@dataclass(frozen=True, eq=False)
class Task:
    """One piece of work.

    Attributes:
        name: For a reader.
        key: Digest of all that the result depends on, see :func:`phl_ase.jobs.digest`.
        payload: What is computed with, sent to where the work is done.
        needs: Keys of tasks whose values come with the payload; without all of them the task is not done.
        cost: Expected seconds, or any other measure of its share of the work.
        kind: Tasks of one kind take times that are as their costs, from which the time left is estimated.
        progress: Tells how far the task is while it runs: share from 0 to 1, and a few words.
    """

    name: str
    key: str
    payload: Any = None
    needs: tuple[str, ...] = ()
    cost: float = 1.0
    kind: str = ""
    progress: Callable[[], tuple[float, str]] | None = None


def perform(do: Do, payload: Any, values: Sequence[Any]) -> Record:
    """Do a task and record what became of it: an exception is a failure with its traceback.

    Raises:
        DiskError: From the task: the next one could not be kept either.
    """
    wall, processor = time.perf_counter(), time.process_time()
    try:
        found = do(payload, *values)
    except DiskError:
        raise
    except Exception as error:  # one task must not end the others
        known = isinstance(error, (PHLError, CalculatorError))
        reason = " ".join(str(error).split()) if known else reason_of(error)
        found = Failure("defect" if is_defect(error) else "failed", reason, traceback_of(error))
    if not isinstance(found, Record):
        found = Record(failure=found) if isinstance(found, Failure) else Record(found)
    return replace(found, seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - processor)
