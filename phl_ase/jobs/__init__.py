"""Long work as tasks whose results are kept: stopped at any time, the same call goes on where it was.

A task is named by a digest of everything its result depends on. What is known is not computed again, whatever else has
changed; what fails is kept with its reason and traceback and stops no other task.

    >>> from phl_ase.jobs import Task, digest, open_store, run
    >>> def start():                                          # called once in every worker
    ...     return lambda payload: {"square": payload**2}
    >>> tasks = [Task(f"square of {n}", digest("square", n), n) for n in (2, 3)]
    >>> with open_store("squares.work") as store:             # one run at a time for each folder
    ...     done_now = run(tasks, start, store)
    >>> [store.get(task.key).value["square"] for task in tasks]
    [4, 9]

``run(..., executor=processes(4))`` computes in four processes, ``executor=cluster("tcp://127.0.0.1:8786")`` on a
dask.distributed cluster; then ``start`` is a function of a module or a ``functools.partial`` of one.
"""

from phl_ase.jobs.executors import ATTEMPTS, cluster, processes, serial
from phl_ase.jobs.runner import run
from phl_ase.jobs.store import Failure, Record, Store, digest, open_store
from phl_ase.jobs.task import Task

__all__ = [
    "ATTEMPTS",
    "Failure",
    "Record",
    "Store",
    "Task",
    "cluster",
    "digest",
    "open_store",
    "processes",
    "run",
    "serial",
]
