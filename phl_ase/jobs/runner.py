"""Doing the tasks that have no result yet."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from phl_ase.jobs.executors import Executor, serial
from phl_ase.jobs.store import Store
from phl_ase.jobs.task import Start, Task
from phl_ase.progress import Progress, clock

_GLANCE_SECONDS = 0.5


def run(
    tasks: Sequence[Task],
    start: Start,
    store: Store,
    *,
    executor: Executor = serial,
    title: str = "work",
    retry: bool = False,
    keep_going: bool = True,
    load: Callable[[Any], Any] = lambda payload: payload,
    lines: bool = False,
) -> set[str]:
    """Do every task that is not done and keep each result at once; what became of a task is in the store.

    Args:
        tasks: In the order in which they are best done; a task stands behind those that it needs. Tasks with the same
            key are one.
        start: Gives what does a task, once in every worker.
        store: Where results are kept.
        executor: Where they are computed: ``serial`` here, ``processes(4)``, ``cluster("tcp://…")``.
        title: Of the progress bar.
        retry: Whether tasks that failed in an earlier run are tried again.
        keep_going: Whether to go on after a failure.
        load: From a payload to what a worker is sent, when its turn comes: what is large stays on the disk till then.
        lines: Whether a line tells of each finished task where standard error is no terminal.

    Returns:
        Keys of the tasks that were done by this call, failed ones too.

    Raises:
        PHLError: When a result cannot be written, or the workers cannot be started.
        KeyboardInterrupt: On Ctrl-C; what is finished is kept.
    """
    unique = {task.key: task for task in tasks}
    done = {key for key in unique if store.is_done(key)}
    failed = {key for key in unique if not retry and key not in done and store.has_failed(key)}
    waiting = [unique[key] for key in unique if key not in done | failed][::-1]  # the first is popped first
    if not waiting:
        return set()
    total, left = (sum(task.cost for task in some) for some in (unique.values(), waiting))
    worked, times = set[str](), _Times(waiting)
    is_counted = all(task.cost == 1 for task in waiting)
    with Progress(title, total, total - left, counted=is_counted) as bar, executor(start) as pool:
        while True:
            while pool.free and (task := _take(waiting, done, pool.busy, store)) is not None:
                values = [record.value for key in task.needs if (record := store.get(key)) is not None]
                pool.submit(task, load(task.payload), values)
            if not pool.busy:
                return worked
            for task, record in pool.answers(_GLANCE_SECONDS):
                store.keep(task.key, record)
                worked.add(task.key)
                (done if record.failure is None else failed).add(task.key)
                left -= task.cost
                times.add(task, record.seconds)
                if lines and not sys.stderr.isatty():
                    after = f"done in {clock(record.seconds)}"
                    what = after if record.failure is None else f"{record.failure.outcome}: {record.failure.reason}"
                    count = f"{len(done) + len(failed)} of {len(unique)}, {times.left(len(pool.busy))}"
                    print(f"{title}: {task.name}: {what} ({count})", file=sys.stderr, flush=True)  # noqa: T201
                if record.failure is not None and not keep_going:
                    return worked
            shares = [(task, *task.progress()) for task in pool.busy if task.progress is not None]
            notes = [] if is_counted else [times.left(len(pool.busy))]
            notes += [f"{len(failed)} failed"] if failed else []
            notes += [f"{task.name} {words}" for task, _, words in shares[:2]]
            bar.move_to(total - left + sum(task.cost * share for task, share, _ in shares), "; ".join(notes))


class _Times:
    """Estimates the time left: of each kind of task from those that are done, else from their costs."""

    def __init__(self, waiting: Sequence[Task]) -> None:
        self._left, self._cost, self._seconds = (
            defaultdict[str, float](float),
            defaultdict[str, float](float),
            defaultdict[str, float](float),
        )
        for task in waiting:
            self._left[task.kind] += task.cost

    def add(self, task: Task, seconds: float) -> None:
        self._left[task.kind] -= task.cost
        self._cost[task.kind] += task.cost
        self._seconds[task.kind] += seconds

    def left(self, at_once: int) -> str:
        rates = {kind: self._seconds[kind] / cost for kind, cost in self._cost.items() if cost > 0}
        seconds = sum(cost * rates.get(kind, 1.0) for kind, cost in self._left.items())
        return f"about {clock(max(seconds, 0.0) / max(at_once, 1))} left"


def _take(waiting: list[Task], done: set[str], busy: Sequence[Task], store: Store) -> Task | None:
    """Take the next task whose needs are met from the end of a list; those whose needs will never be are dropped."""
    coming: set[str] | None = None
    for place in range(len(waiting) - 1, -1, -1):
        task = waiting[place]
        missing = [key for key in task.needs if key not in done and not store.is_done(key)]
        if not missing:
            return waiting.pop(place)
        if coming is None:
            coming = {one.key for one in (*waiting, *busy)}
        if not coming.issuperset(missing):
            del waiting[place]
            coming.discard(task.key)
    return None
