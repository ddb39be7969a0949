"""Where frames are labelled: in this process, in processes of this machine, or on a dask.distributed cluster.

Each is a generator that takes tasks as it needs them and yields results as they come, in any order. Closing it stops
the work behind it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any

from phl_ase.errors import PHLError
from phl_ase.reference.labels import Failure, LabelledFrame, LabelRequest
from phl_ase.structures import Frame

Make = Callable[[], Any]
"""Makes an ASE calculator; sent to other processes, so a function of a module or a ``functools.partial`` of one."""
Task = tuple[Frame, bool]
"""A frame, and whether the error of its products is estimated."""

ATTEMPTS = 2
"""How many workers a frame may take with it before it is given up; how many may die in a row while they start."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_PATIENCE_SECONDS = 5.0
_READY = "ready"


def in_this_process(tasks: Iterable[Task], make: Make, request: LabelRequest) -> Generator[LabelledFrame, None, None]:
    """Label one frame after another."""
    calculator = make()
    for frame, estimate_error in tasks:
        yield request.label(frame, calculator, estimate_error=estimate_error)


def in_processes(
    tasks: Iterable[Task], make: Make, request: LabelRequest, workers: int
) -> Generator[LabelledFrame, None, None]:
    """Label in worker processes of one thread each.

    A worker that dies (killed, a crash of compiled code) is replaced and its frame tried again; a frame that takes
    ``ATTEMPTS`` workers with it has failed.

    Raises:
        PHLError: When workers cannot be started or cannot make the calculator.
    """
    crew = _Crew(make, request)
    waiting = iter(tasks)
    again: deque[Task] = deque()
    deaths: Counter[int] = Counter()
    try:
        for task in islice(waiting, workers):
            crew.give(crew.hire(), task)
        while crew.busy:
            for worker, answer in crew.answers():
                task = crew.busy.pop(worker)
                result: LabelledFrame | None = None
                if not isinstance(answer, Death):
                    result = answer
                elif deaths[task[0].frame_id] + answer.of_a_frame < ATTEMPTS:
                    deaths[task[0].frame_id] += answer.of_a_frame
                    again.append(task)
                else:
                    result = LabelledFrame(task[0], Failure("died", answer.how), 0, 0.0)
                following = again.popleft() if again else next(waiting, None)
                if following is not None:  # before the result is used: a worker should not wait for a disk
                    crew.give(crew.hire() if isinstance(answer, Death) else worker, following)
                if result is not None:
                    yield result
    finally:
        crew.stop()


class Death:
    """How a worker ended, and whether a frame was to blame (it may have died while starting)."""

    def __init__(self, exit_code: int, *, of_a_frame: bool) -> None:
        ended = f"was ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exited with {exit_code}"
        self.how = f"the worker process {ended}"
        self.of_a_frame = of_a_frame


class _Crew:
    """Worker processes, each at the other end of a pipe."""

    def __init__(self, make: Make, request: LabelRequest) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._arguments = (make, request)
        self._processes: dict[Connection, Any] = {}
        self._started: set[Connection] = set()
        self._false_starts = 0
        self.busy: dict[Connection, Task] = {}

    def hire(self) -> Connection:
        """Start a worker, without waiting for it."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, *self._arguments), name="phl label", daemon=True)
        try:
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

    def answers(self) -> Iterator[tuple[Connection, LabelledFrame | Death]]:
        """Wait for busy workers; each that has an answer or has died.

        Raises:
            PHLError: When a worker cannot make the calculator, or too many died while starting.
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
        death = Death(process.exitcode, of_a_frame=worker in self._started)
        self._false_starts += not death.of_a_frame
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


def _work(connection: Connection, make: Make, request: LabelRequest) -> None:
    """What a worker process does until nobody is at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C of a terminal reaches all; the one that asks stops the rest
    with contextlib.suppress(EOFError, OSError):
        try:
            calculator = make()
        except PHLError as error:
            connection.send(error)
            return
        connection.send(_READY)
        while True:
            frame, estimate_error = connection.recv()
            connection.send(request.label(frame, calculator, estimate_error=estimate_error))


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
