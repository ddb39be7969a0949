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
LABELLING = """
import slow
from phl_ase.reference.executors import in_processes

if __name__ == "__main__":
    list(in_processes([1, 2], slow.start, 2, died=print))
"""
STUDY = """
from pathlib import Path
import slow
from phl_ase.study.processes import run_processes

if __name__ == "__main__":
    run_processes({"a": (slow.work, (1,))}, 1, lambda *_: None, [], Path("."))
"""


@pytest.mark.parametrize(
    ("program", "at_import"),
    [(LABELLING, True), (LABELLING, False), pytest.param(STUDY, False, marks=pytest.mark.slow)],
)
def test_workers_do_not_outlive_a_killed_parent(tmp_path, program, at_import):
    (tmp_path / "slow.py").write_text(SLOW.format(at_import=at_import))
    (tmp_path / "main.py").write_text(program)
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
