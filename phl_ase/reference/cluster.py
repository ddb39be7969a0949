"""Labelling on a dask.distributed cluster that somebody has started: its scheduler's address is all that is needed.

Nothing here listens: the client connects to the scheduler and hands tasks over. Whoever starts a scheduler decides who
can reach it; anybody who can, can run code on its workers (``dask scheduler --host 127.0.0.1`` keeps it to one machine,
``tls://`` addresses to those with a key).
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Generator, Iterable
from itertools import islice
from typing import Any

from phl_ase.errors import PHLError, missing_package, reason_of
from phl_ase.reference.labels import Failure, LabelledFrame, LabelRequest, Make, Task
from phl_ase.structures import Frame

_CONNECT_SECONDS = 20
# tasks for each thread of the cluster, so that none waits for the network
_AHEAD = 2

_made = threading.local()


def on_cluster(
    tasks: Iterable[Task], make: Make, request: LabelRequest, address: str
) -> Generator[LabelledFrame, None, None]:
    """Label on the workers of a cluster, which need this package and the method's installed.

    Args:
        tasks: What to label.
        make: Makes a calculator, once on each thread of each worker.
        request: What to label with.
        address: Of the scheduler, as ``tcp://127.0.0.1:8786``.

    Raises:
        PHLError: When dask.distributed is not installed, or no scheduler with workers answers at the address.
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise missing_package("distributed", "cluster", "labelling on a dask cluster") from None
    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise PHLError(f"no dask scheduler answers at {address!r} ({reason}); expected tcp://HOST:PORT") from None
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise PHLError(f"the scheduler at {address} has no workers; start some: dask worker {address}")
        recipe, waiting = _recipe(make, request), iter(tasks)
        frames: dict[str, Frame] = {}

        def submitted(task: Task) -> Any:
            future = client.submit(_label, task, recipe, pure=False, retries=0)
            frames[future.key] = task[0]
            return future

        running = as_completed([submitted(task) for task in islice(waiting, _AHEAD * threads)], loop=client.loop)
        for future in running:
            for following in islice(waiting, 1):
                running.add(submitted(following))
            yield _result(future, frames.pop(future.key))


def _recipe(make: Make, request: LabelRequest) -> bytes:
    try:
        return pickle.dumps((make, request))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise PHLError(
            f"what makes the calculator cannot be sent to a cluster ({error}); define it at the top of a module that "
            "its workers can import"
        ) from None


def _result(future: Any, frame: Frame) -> LabelledFrame:
    """The result of a frame; a failure where workers died of it, one after another.

    Raises:
        PHLError: For everything else: what goes wrong with a structure raises nothing on a worker.
    """
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        return future.result()
    reason = reason_of(error)[:200]
    if isinstance(error, KilledWorker):
        return LabelledFrame(frame, Failure("died", reason), 0, 0.0)
    raise PHLError(f"a worker of the cluster failed ({reason}); the same command goes on from the finished frames")


def _label(task: Task, recipe: bytes) -> LabelledFrame:
    """Label one frame on a worker; calculators are kept, one for each thread, as few can be shared."""
    if getattr(_made, "recipe", None) != recipe:
        make, request = pickle.loads(recipe)
        _made.recipe, _made.calculator, _made.request = recipe, make(), request
    frame, estimate_error = task
    return _made.request.label(frame, _made.calculator, estimate_error=estimate_error)
