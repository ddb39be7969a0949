"""Tasks whose results are kept: nothing twice, failures with tracebacks, needs, dead workers, time limits."""

from __future__ import annotations

import doctest
import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import phl_ase.jobs
from phl_ase.errors import DiskError, PHLError
from phl_ase.jobs import ATTEMPTS, Failure, Record, Store, Task, digest, open_store, processes, run


def work(log, payload, *values):
    """Do what a payload says."""
    with open(log, "a") as file:
        file.write(f"{payload}\n")
    kind, *rest = payload
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "sleep":
        time.sleep(*rest)
    if kind == "raise":
        raise rest[0]
    if kind == "return":
        return rest[0]
    return {"sum": sum(rest) + sum(value["sum"] for value in values), "array": np.arange(3.0) / 3}


def start(log):
    return partial(work, log)


@pytest.fixture
def log(tmp_path) -> Path:
    path = tmp_path / "log"
    path.touch()
    return path


def add(name: str, *numbers: int, **options) -> Task:
    return Task(name, digest(name, *numbers), ("add", *numbers), **options)


def test_the_example_of_the_documentation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(phl_ase.jobs).attempted > 3
    assert doctest.testmod(phl_ase.jobs).failed == 0  # again, from the store


def test_results_are_found_again_bit_for_bit(tmp_path, log):
    value = {"a": [1, {"b": np.eye(2)}], "c": None, "d": 0.1 + 0.2, "e": np.array(["x", "y"]), "f": np.float64(1e-300)}
    with open_store(tmp_path / "store") as store:
        store.keep("aa", Record(value, seconds=1.0))
    found = Store(tmp_path / "store").get("aa").value
    assert (found["c"], found["d"], found["f"]) == (None, 0.1 + 0.2, 1e-300)
    np.testing.assert_array_equal(found["a"][1]["b"], np.eye(2))
    assert found["e"].tolist() == ["x", "y"]
    assert Store(tmp_path / "store").get("bb") is None


def test_what_is_known_is_not_done_again_and_needs_come_first(tmp_path, log):
    one, two = add("one", 1), add("two", 2)
    both = add("both", 10, needs=(one.key, two.key))
    with open_store(tmp_path / "store") as store:
        assert run([one], partial(start, log), store) == {one.key}
        assert run([both, one, two, two], partial(start, log), store) == {two.key, both.key}
        assert store.get(both.key).value["sum"] == 13
        assert run([one, two, both], partial(start, log), store) == set()
    assert len(log.read_text().splitlines()) == 3


def test_failures_are_kept_with_their_traceback_and_tried_again_when_asked(tmp_path, log):
    tasks = {
        "mistake": ("raise", PHLError("no such\nmolecule")),
        "defect": ("raise", TypeError("a defect")),
        "foreign": ("raise", RuntimeError("SCF")),
        "said": ("return", Failure("scf", "it did not converge")),
        "good": ("add", 1),
    }
    made = [Task(name, digest(name), payload) for name, payload in tasks.items()]
    after = Task("after", digest("after"), ("add", 1), needs=(digest("mistake"),))
    with open_store(tmp_path / "store") as store:
        worked = run([*made, after], partial(start, log), store)
        assert worked == {task.key for task in made}
        failures = {t.name: f for t in made if (f := store.get(t.key).failure) is not None}
        assert {name: f.reason for name, f in failures.items()} == {
            "mistake": "no such molecule",
            "defect": "TypeError: a defect",
            "foreign": "RuntimeError: SCF",
            "said": "it did not converge",
        }
        assert failures["said"].outcome == "scf"
        assert "in work" in failures["foreign"].traceback
        assert store.get(after.key) is None
        assert run([*made, after], partial(start, log), store) == set()
        assert run([*made, after], partial(start, log), store, retry=True) == {t.key for t in made[:4]}


def test_stop_at_the_first_failure(tmp_path, log):
    tasks = [Task("no", digest("no"), ("raise", PHLError("no"))), add("one", 1)]
    with open_store(tmp_path / "store") as store:
        assert run(tasks, partial(start, log), store, keep_going=False) == {digest("no")}
        assert run(tasks, partial(start, log), store) == {tasks[1].key}


def test_a_full_disk_is_no_failed_task(tmp_path, log):
    task = Task("full", digest("full"), ("raise", DiskError("cannot write")))
    for executor in (phl_ase.jobs.serial, processes(1)):
        with open_store(tmp_path / "store") as store, pytest.raises(DiskError, match="cannot write"):
            run([task], partial(start, str(log)), store, executor=executor)
        assert store.get(task.key) is None


def test_a_task_that_kills_its_workers_or_takes_too_long_has_failed_and_stops_no_other(tmp_path, log):
    tasks = [
        Task("killer", digest("killer"), ("kill",)),
        add("one", 1),
        Task("long", digest("long"), ("sleep", 600.0)),
        add("two", 2),
    ]
    with open_store(tmp_path / "store") as store:
        run(tasks, partial(start, str(log)), store, executor=processes(2, time_limit=3.0))
        records = {task.name: store.get(task.key) for task in tasks}
    assert records["killer"].failure == Failure("died", "the worker process was ended by SIGKILL (out of memory?)")
    assert log.read_text().count("kill") == ATTEMPTS
    assert records["long"].failure == Failure("time limit", "took more than 3 s")
    assert [records[name].value["sum"] for name in ("one", "two")] == [1, 2]


def test_a_line_for_each_task_where_nobody_looks(tmp_path, log, capsys):
    tasks = [add("one", 1), Task("no", digest("no"), ("raise", PHLError("no\nway")))]
    with open_store(tmp_path / "store") as store:
        run(tasks, partial(start, log), store, title="sums", lines=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("sums: one: done in 0:00 (1 of 2, about 0:0")
    assert lines[1].startswith("sums: no: failed: no way (2 of 2, about 0:00 left)")


def test_folders_of_others_are_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(PHLError, match=r"holds other files \(notes\.txt, …\)"), open_store(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    folder = tmp_path / "store"
    with open_store(folder), pytest.raises(PHLError, match="in use by another"), open_store(folder):
        pass
    (folder / "jobs.json").write_text('{"schema": 99}')
    with pytest.raises(PHLError, match="of schema 99, this version reads 1"), open_store(folder):
        pass
