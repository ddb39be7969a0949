"""Worker processes end with the process that hired them, whatever they are at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# what a worker loads: it takes far longer than a worker may outlive its parent
SLOW = """
import multiprocessing, os, time
from pathlib import Path

def born():
    Path(__file__).with_name("born").write_text(str(os.getpid()))

if multiprocessing.parent_process() is not None and {at_import}:
    born()
    time.sleep(120)

def start():
    return work

def work(task):
    born()
    time.sleep(120)
"""
PROGRAM = """
import slow
from phl_ase.jobs import Task, open_store, processes, run

if __name__ == "__main__":
    with open_store("store") as store:
        run([Task("one", "aa", 1), Task("two", "bb", 2)], slow.start, store, executor=processes(2))
"""


@pytest.mark.parametrize("at_import", [True, False])
def test_workers_do_not_outlive_a_killed_parent(tmp_path, at_import):
    (tmp_path / "slow.py").write_text(SLOW.format(at_import=at_import))
    (tmp_path / "main.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    parent = subprocess.Popen([sys.executable, tmp_path / "main.py"], env=environment, cwd=tmp_path)
    limit = time.monotonic() + 100
    while not (tmp_path / "born").exists() and parent.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    time.sleep(0.1)
    worker = int((tmp_path / "born").read_text())
    assert is_alive(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    killed = time.monotonic()
    while is_alive(worker) and time.monotonic() < killed + 30:
        time.sleep(0.05)
    assert not is_alive(worker)
    assert time.monotonic() - killed < 5


def is_alive(process: int) -> bool:
    """Whether a process runs; one that has ended may stay in the table until somebody asks how."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
