"""Where work is done: in this process, or in processes of this machine, which may die of it.

Each is a generator that takes tasks as it needs them and yields results as they come, in any order. Closing it stops
the work behind it. What the work is (a frame to label, a reaction to build) is the caller's.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from phl_ase.errors import PHLError

Task = TypeVar("Task")
Result = TypeVar("Result")
Start = Callable[[], Callable[[Task], Result]]
"""Called once where the work is done, gives what does a task. It is sent to other processes, as are tasks and results:
a function of a module, or a ``functools.partial`` of one."""

ATTEMPTS = 2
"""How many workers a task may take with it before it is given up; how many may die in a row while they start."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_PATIENCE_SECONDS = 5.0
_READY = "ready"


def in_this_process(tasks: Iterable[Task], start: Start[Task, Result]) -> Generator[Result, None, None]:
    """Do one task after another."""
    do = start()
    for task in tasks:
        yield do(task)


def in_processes(
    tasks: Iterable[Task], start: Start[Task, Result], workers: int, *, died: Callable[[Task, str], Result]
) -> Generator[Result, None, None]:
    """Work in processes of one thread each.

    A worker that dies (killed, a crash of compiled code) is replaced and its task tried again; a task that takes
    ``ATTEMPTS`` workers with it is given up.

    Args:
        tasks: What to do.
        start: See ``Start``.
        workers: Number of processes.
        died: The result of a task that is given up, with how the last of its workers ended.

    Raises:
        PHLError: When workers cannot be started, and what ``start`` or a task raises of a mistake of the caller.
    """
    crew: _Crew[Task, Result] = _Crew(start)
    waiting = iter(tasks)
    again: deque[Task] = deque()
    deaths: Counter[int] = Counter()  # by the identity of tasks, which live until they are done
    try:
        for task in islice(waiting, workers):
            crew.give(crew.hire(), task)
        while crew.busy:
            for worker, answer in crew.answers():
                task, results = crew.busy.pop(worker), []
                if not isinstance(answer, Death):
                    results.append(answer)
                elif deaths[id(task)] + answer.of_a_task < ATTEMPTS:
                    deaths[id(task)] += answer.of_a_task
                    again.append(task)
                else:
                    results.append(died(task, answer.how))
                if results:
                    deaths.pop(id(task), None)
                # before the result is used: a worker should not wait for a disk
                for following in islice(chain(_popped(again), waiting), 1):
                    crew.give(crew.hire() if isinstance(answer, Death) else worker, following)
                yield from results
    finally:
        crew.stop()


def _popped(tasks: deque[Task]) -> Iterator[Task]:
    while tasks:
        yield tasks.popleft()


class Death:
    """How a worker ended, and whether a task was to blame (it may have died while starting)."""

    def __init__(self, exit_code: int, *, of_a_task: bool) -> None:
        ended = f"was ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exited with {exit_code}"
        self.how = f"the worker process {ended}"
        self.of_a_task = of_a_task


class _Crew(Generic[Task, Result]):
    """Worker processes, each at the other end of a pipe."""

    def __init__(self, start: Start[Task, Result]) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._start = start
        self._processes: dict[Connection, Any] = {}
        self._started: set[Connection] = set()
        self._false_starts = 0
        self.busy: dict[Connection, Task] = {}

    def hire(self) -> Connection:
        """Start a worker, without waiting for it."""
        ours, theirs = self._context.Pipe()
        try:
            # pickled here: reading it loads torch and more, and the worker watches its parent before that
            recipe = pickle.dumps(self._start)
            process = self._context.Process(target=_work, args=(theirs, recipe), name="phl worker", daemon=True)
            with theirs, _environment(dict.fromkeys(_THREADS, "1")), _ignoring(signal.SIGINT):
                process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            ours.close()
            raise PHLError(
                f"what makes the calculator cannot be sent to a worker process ({error}); define it at the top of a "
                "module, or use one worker"
            ) from None
        self._processes[ours] = process
        return ours

    def give(self, worker: Connection, task: Task) -> None:
        """Hand a task to an idle worker."""
        self.busy[worker] = task
        with contextlib.suppress(OSError):  # a dead one shows when its answer is asked for
            worker.send(task)

    def answers(self) -> Iterator[tuple[Connection, Result | Death]]:
        """Wait for busy workers; each that has an answer or has died.

        Raises:
            PHLError: What a worker raised of a mistake, or when too many died while starting.
        """
        for worker in [one for one in wait(list(self.busy)) if isinstance(one, Connection)]:
            try:
                answer = worker.recv()
            except (EOFError, OSError):
                yield worker, self._buried(worker)
                continue
            if isinstance(answer, PHLError):
                raise answer
            if answer == _READY:
                self._started.add(worker)
                self._false_starts = 0
            else:
                yield worker, answer

    def _buried(self, worker: Connection) -> Death:
        process = self._processes.pop(worker)
        process.join()
        worker.close()
        death = Death(process.exitcode, of_a_task=worker in self._started)
        self._false_starts += not death.of_a_task
        if self._false_starts >= ATTEMPTS:
            raise PHLError(f"{death.how} while it was starting; try one worker, which runs in this process")
        return death

    def stop(self) -> None:
        """End all workers, whatever they are at."""
        for process in self._processes.values():
            process.terminate()
        for worker, process in self._processes.items():
            process.join(_PATIENCE_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
            worker.close()
        self._processes.clear()


def _work(connection: Connection, recipe: bytes) -> None:
    """What a worker process does until nobody is at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C of a terminal reaches all; the one that asks stops the rest
    end_with_parent()
    with contextlib.suppress(EOFError, OSError):
        try:
            do = pickle.loads(recipe)()
            connection.send(_READY)
            while True:
                connection.send(do(connection.recv()))
        except PHLError as error:
            connection.send(error)


def end_with_parent(*, patience: float = 0.0) -> None:
    """Let this process end when its parent was killed: its work may take hours, and nobody would take the result.

    Args:
        patience: Seconds in which the process may end itself after a SIGTERM; 0 ends it at once.
    """
    parent = multiprocessing.parent_process()

    def watch(parent: Any) -> None:
        parent.join()
        if patience:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(patience)
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables of the environment for processes started in the block: libraries read them when they are loaded."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _ignoring(number: int) -> Iterator[None]:
    """A signal ignored by processes started in the block, which would die of it with a traceback while importing."""
    try:
        previous = signal.signal(number, signal.SIG_IGN)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(number, previous)
