"""Executors of tasks: in this process, in processes of this machine, on a dask.distributed cluster.

An executor takes ``start`` (see :data:`phl_ase.jobs.task.Start`) and gives a :class:`Pool` while a ``with`` block runs;
the end of the block stops the work behind it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from phl_ase.errors import PHLError, missing_package, reason_of
from phl_ase.jobs.store import Failure, Record
from phl_ase.jobs.task import Do, Start, Task, perform

ATTEMPTS = 2
"""How many workers a task may take with it before it has failed; how many may die in a row while they start."""

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_PATIENCE_SECONDS = 60.0  # for a stopped training run to write its checkpoint
_READY = "ready"

_CONNECT_SECONDS = 20
_AHEAD = 2  # tasks for each thread of a cluster, so that none waits for the network


class Pool(Protocol):
    """Workers."""

    @property
    def busy(self) -> Sequence[Task]:
        """Tasks that were submitted and have no answer yet."""

    @property
    def free(self) -> bool:
        """True where another task can be submitted."""

    def submit(self, task: Task, payload: Any, values: Sequence[Any]) -> None:
        """Have a task done with a payload and the values that it needs."""

    def answers(self, seconds: float) -> Sequence[tuple[Task, Record]]:
        """Return what became of tasks since the last call; wait a little where nothing has."""


Executor = Callable[[Start], AbstractContextManager[Pool]]


# --------------------------------------------------------------------------------------------------------- this process


@contextmanager
def serial(start: Start) -> Iterator[Pool]:
    """Do one task after another in this process."""
    yield _Serial(start())


class _Serial:
    def __init__(self, do: Do) -> None:
        self._do = do
        self._next: tuple[Task, Any, Sequence[Any]] | None = None

    @property
    def busy(self) -> Sequence[Task]:
        return [] if self._next is None else [self._next[0]]

    @property
    def free(self) -> bool:
        return self._next is None

    def submit(self, task: Task, payload: Any, values: Sequence[Any]) -> None:
        self._next = (task, payload, values)

    def answers(self, seconds: float) -> Sequence[tuple[Task, Record]]:
        if self._next is None:
            return []
        (task, payload, values), self._next = self._next, None
        return [(task, perform(self._do, payload, values))]


# ------------------------------------------------------------------------------------------- processes of this machine


def processes(workers: int, *, time_limit: float | None = None) -> Executor:
    """Return an executor of processes of one thread each.

    A worker that dies (killed, a crash of compiled code) is replaced and its task tried again; a task that takes
    ``ATTEMPTS`` workers with it has failed. Workers end with this process, even where it is killed.

    Args:
        workers: Number of processes.
        time_limit: Most seconds that a task may take; one that takes longer has failed.

    Raises:
        PHLError: For less than one worker.
    """
    if workers < 1:
        raise PHLError(f"got {workers} worker processes; expected at least 1")

    @contextmanager
    def opened(start: Start) -> Iterator[Pool]:
        pool = _Processes(start, workers, time_limit)
        try:
            yield pool
        finally:
            pool.stop()

    return opened


class _Processes:
    """Worker processes, each at the other end of a pipe."""

    def __init__(self, start: Start, workers: int, time_limit: float | None) -> None:
        self._context = multiprocessing.get_context("spawn")
        try:
            # pickled here: reading it loads torch and more, and the worker watches its parent before that
            self._recipe = pickle.dumps(start)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise PHLError(
                f"what makes the calculator cannot be sent to a worker process ({error}); define it at the top of a "
                "module, or use one worker"
            ) from None
        self._workers, self._time_limit = workers, time_limit
        self._processes: dict[Connection, Any] = {}
        self._idle: list[Connection] = []
        self._started: dict[Connection, float] = {}  # and since when it is at its task
        self._false_starts = 0
        self._at: dict[Connection, tuple[Task, Any, Sequence[Any]]] = {}
        self._deaths: Counter[str] = Counter()

    @property
    def busy(self) -> Sequence[Task]:
        return [task for task, *_ in self._at.values()]

    @property
    def free(self) -> bool:
        return len(self._at) < self._workers

    def submit(self, task: Task, payload: Any, values: Sequence[Any]) -> None:
        if self._idle:
            worker = self._idle.pop()
        else:
            worker, theirs = self._context.Pipe()
            arguments = (theirs, self._recipe)
            process = self._context.Process(target=_work, args=arguments, name="phl worker", daemon=True)
            with theirs, _environment(dict.fromkeys(_THREADS, "1")), _ignoring(signal.SIGINT):
                process.start()
            self._processes[worker] = process
        self._at[worker] = (task, payload, values)
        if worker in self._started:
            self._started[worker] = time.monotonic()
        with contextlib.suppress(OSError):  # a dead one shows when its answer is asked for
            worker.send((payload, values))

    def answers(self, seconds: float) -> Sequence[tuple[Task, Record]]:
        """Return what became of tasks.

        Raises:
            PHLError: What a worker raised of a mistake or a full disk, or when too many died while they started.
        """
        found = []
        for worker in [one for one in wait(list(self._at), seconds) if isinstance(one, Connection)]:
            try:
                answer = worker.recv()
            except (EOFError, OSError):
                found += self._died(worker)
                continue
            if isinstance(answer, PHLError):
                raise answer
            if answer == _READY:
                self._started[worker] = time.monotonic()
                self._false_starts = 0
                continue
            self._idle.append(worker)
            found.append((self._at.pop(worker)[0], answer))
        latest = float("-inf") if self._time_limit is None else time.monotonic() - self._time_limit
        for worker in [one for one, since in self._started.items() if one in self._at and since < latest]:
            process, (task, *_) = self._processes.pop(worker), self._at.pop(worker)
            process.kill()
            process.join()
            worker.close()
            del self._started[worker]
            found.append((task, Record(failure=Failure("time limit", f"took more than {self._time_limit:g} s"))))
        return found

    def _died(self, worker: Connection) -> list[tuple[Task, Record]]:
        """Remove a worker that died: its task is tried again, or has failed."""
        process, (task, payload, values) = self._processes.pop(worker), self._at.pop(worker)
        process.join()
        worker.close()
        code = process.exitcode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        how = f"the worker process {how}{' (out of memory?)' if code == -signal.SIGKILL else ''}"
        if self._started.pop(worker, None) is None:
            self._false_starts += 1
            if self._false_starts >= ATTEMPTS:
                raise PHLError(f"{how} while it was starting; try one worker, which runs in this process")
        else:
            self._deaths[task.key] += 1
            if self._deaths[task.key] >= ATTEMPTS:
                return [(task, Record(failure=Failure("died", how)))]
        self.submit(task, payload, values)
        return []

    def stop(self) -> None:
        """End all workers, whatever they are at; a training run may write its checkpoint before."""
        for process in self._processes.values():
            process.terminate()
        limit = time.monotonic() + _PATIENCE_SECONDS
        for worker, process in self._processes.items():
            process.join(max(limit - time.monotonic(), 0.1))
            if process.is_alive():
                process.kill()
                process.join()
            worker.close()


def _work(connection: Connection, recipe: bytes) -> None:
    """Do tasks until nobody is at the other end."""

    def end_with_parent() -> None:
        # its work may take hours, and nobody would take the result where the parent was killed
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_PATIENCE_SECONDS)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C of a terminal reaches all; the one that asks stops the rest
    threading.Thread(target=end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        try:
            do = pickle.loads(recipe)()
            connection.send(_READY)
            while True:
                connection.send(perform(do, *connection.recv()))
        except PHLError as error:
            connection.send(error)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for processes started in the block: libraries read them when they are loaded."""
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


@contextmanager
def _ignoring(number: int) -> Iterator[None]:
    """Ignore a signal in processes started in the block, which would die of it with a traceback while importing."""
    try:
        previous = signal.signal(number, signal.SIG_IGN)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(number, previous)


# -------------------------------------------------------------------------------------------------------------- cluster


def cluster(address: str) -> Executor:
    """Return an executor on a dask.distributed cluster that somebody has started, which needs this package installed.

    Nothing here listens: the client connects to the scheduler and hands tasks over. Whoever starts a scheduler decides
    who can reach it; anybody who can, can run code on its workers (``dask scheduler --host 127.0.0.1`` keeps it to one
    machine, ``tls://`` addresses to those with a key).

    Args:
        address: Of the scheduler, as ``tcp://127.0.0.1:8786``.
    """

    @contextmanager
    def opened(start: Start) -> Iterator[Pool]:
        try:
            from distributed import Client
        except ImportError:
            raise missing_package("distributed", "cluster", "work on a dask cluster") from None
        try:
            recipe = pickle.dumps(start)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise PHLError(
                f"what makes the calculator cannot be sent to a cluster ({error}); define it at the top of a module "
                "that its workers can import"
            ) from None
        try:
            client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise PHLError(f"no dask scheduler answers at {address!r} ({reason}); expected tcp://HOST:PORT") from None
        with client:
            threads = sum(client.nthreads().values())
            if not threads:
                raise PHLError(f"the scheduler at {address} has no workers; start some: dask worker {address}")
            yield _Cluster(client, recipe, threads)

    return opened


class _Cluster:
    def __init__(self, client: Any, recipe: bytes, threads: int) -> None:
        self._client, self._recipe, self._most = client, recipe, _AHEAD * threads
        self._at: dict[Any, Task] = {}

    @property
    def busy(self) -> Sequence[Task]:
        return list(self._at.values())

    @property
    def free(self) -> bool:
        return len(self._at) < self._most

    def submit(self, task: Task, payload: Any, values: Sequence[Any]) -> None:
        future = self._client.submit(_perform_there, self._recipe, payload, values, pure=False, retries=0)
        self._at[future] = task

    def answers(self, seconds: float) -> Sequence[tuple[Task, Record]]:
        """Return what became of tasks.

        Raises:
            PHLError: For what went wrong with a worker and not with a task.
        """
        from distributed import KilledWorker
        from distributed import wait as wait_for

        with contextlib.suppress(TimeoutError), self._client.as_current():
            wait_for(list(self._at), timeout=seconds, return_when="FIRST_COMPLETED")
        found = []
        for future in [one for one in self._at if one.done()]:
            task, error = self._at.pop(future), future.exception()
            if error is None:
                found.append((task, future.result()))
            elif isinstance(error, KilledWorker):  # workers died of it, one after another
                found.append((task, Record(failure=Failure("died", reason_of(error)[:200]))))
            else:
                reason = reason_of(error)[:200]
                raise PHLError(f"a worker of the cluster failed ({reason}); the same command goes on from what is kept")
        return found


_made = threading.local()


def _perform_there(recipe: bytes, payload: Any, values: Sequence[Any]) -> Record:
    """Do a task on a worker of a cluster; what does it is kept, one for each thread, as few calculators are shared."""
    if getattr(_made, "recipe", None) != recipe:
        _made.recipe, _made.do = recipe, pickle.loads(recipe)()
    return perform(_made.do, payload, values)
