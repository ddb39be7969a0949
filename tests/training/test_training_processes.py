"""Training shared by processes: the same numbers as one process, whatever the share, and nobody left waiting."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from phl_ase.datasets import MemoryDataset, open_dataset, write_dataset
from phl_ase.potentials import load_model
from phl_ase.training import parse_config, prepare_data, train

# 13 frames in batches of 3: of the last batch, of one frame, the second process has no share
CONFIG = {
    "data": {"max_atoms": 4, "split": "random", "fractions": [0.07, 0.05, 0.88]},
    "potential": {"channels": 8, "layers": 1},
    "scheme": {"name": "E-F-HVP-random"},
    "training": {
        "epochs": 3,
        "batch_size": 3,
        "dtype": "float64",
        "validate_every": 1,
        "device": "cpu",
        "rate_factors": {"messages*": 0.3},
    },
}
SCRIPT = """
import json, sys
from phl_ase.training import parse_config, prepare_data, train
values, folder, resume = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3] == "resume"
config = parse_config(values)
train(config, prepare_data(config), folder, resume=resume)
"""


def start(values: dict, folder: Path, count: int, *, resume: bool = False) -> subprocess.Popen:
    """The processes of a run, as ``torchrun`` starts them."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={count}",
        "--no-python",
    ]
    script = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        SCRIPT,
        json.dumps(values),
        str(folder),
        "resume" if resume else "start",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command + script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(processes: subprocess.Popen) -> str:
    """What they said."""
    said, _ = processes.communicate(timeout=240)
    return said


def wait_for_epochs(folder: Path, count: int, processes: subprocess.Popen) -> None:
    """Until the run has finished some epochs."""
    log = folder / "log.jsonl"
    deadline = time.monotonic() + 200
    while not (log.exists() and log.read_text().count("\n") >= count):
        assert time.monotonic() < deadline
        assert processes.poll() is None, finish(processes)
        time.sleep(0.05)


def with_training(**settings: object) -> dict:
    """The configuration with other settings of training."""
    return {**CONFIG, "training": {**CONFIG["training"], **settings}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    config = parse_config(CONFIG)
    data = prepare_data(config)
    assert len(data.train) % CONFIG["training"]["batch_size"] != 0
    return train(config, data, tmp_path_factory.mktemp("alone") / "run")


def same(folder: Path, alone) -> None:
    """Losses and weights of a run are those of the run of one process, up to the order of summation."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert len(records) == len(alone.records)
    for mine, its in zip(records, alone.records, strict=True):
        assert mine.keys() == its.keys()
        for name in mine.keys() - {"seconds"}:
            assert mine[name] == pytest.approx(its[name], rel=1e-9), name
    mine, its = (
        load_model(path, dtype=torch.float64).state_dict() for path in (folder / "best.safetensors", alone.model)
    )
    for name, value in its.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_give_the_losses_and_weights_of_one(count, alone, tmp_path):
    said = finish(processes := start(CONFIG, tmp_path / "run", count))
    assert processes.returncode == 0, said
    same(tmp_path / "run", alone)


@pytest.mark.slow
def test_several_processes_replay_what_one_does(alone, tmp_path):
    config = parse_config(CONFIG)
    with open_dataset(config.data.source) as dataset:
        chosen = [i for i in range(len(dataset)) if dataset.sizes[i] <= 4][:12]
        write_dataset(tmp_path / "old.h5", MemoryDataset(dataset.frames(chosen), dataset.meta))
    values = {
        **with_training(epochs=2),
        "potential": {"from": str(alone.model)},
        "replay": {"source": str(tmp_path / "old.h5"), "share": 0.34},
    }
    again = parse_config(values)
    one = train(again, prepare_data(again), tmp_path / "one")
    assert "replay_forces" in one.records[-1]
    said = finish(processes := start(values, tmp_path / "two", 2))
    assert processes.returncode == 0, said
    same(tmp_path / "two", one)


def test_a_run_of_two_processes_is_stopped_and_resumed_by_one(tmp_path):
    """SIGTERM in the middle: what one process makes of the rest is what it would have made of the whole."""
    values = with_training(epochs=30, validate_every=10)
    config = parse_config(values)
    data = prepare_data(config)
    unbroken = train(config, data, tmp_path / "unbroken")
    folder = tmp_path / "run"
    with start(values, folder, 2) as processes:
        wait_for_epochs(folder, 2, processes)
        processes.send_signal(signal.SIGTERM)
        finish(processes)
    assert 2 <= torch.load(folder / "last.ckpt", weights_only=True)["position"]["epoch"] < 30
    train(config, data, folder, resume=True)
    same(folder, unbroken)


def test_a_mistake_found_by_the_first_process_ends_all(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    said = finish(processes := start(CONFIG, folder, 2))
    assert processes.returncode != 0
    assert said.count("holds a run already; continue it with --resume") >= 2


@pytest.mark.slow
def test_a_process_that_dies_leaves_a_checkpoint_and_a_line(tmp_path):
    """kill -9 of one of two: the other does not wait forever, and says what to do."""
    folder = tmp_path / "run"
    processes = start(with_training(epochs=5000, checkpoint_seconds=0.1), folder, 2)
    wait_for_epochs(folder, 2, processes)
    workers = subprocess.run(
        ["pgrep", "-P", str(processes.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(workers) == 2
    os.kill(int(workers[1]), signal.SIGKILL)
    said = finish(processes)
    assert processes.returncode != 0
    assert torch.load(folder / "last.ckpt", weights_only=True)["position"]["epoch"] >= 1
    assert "Signal 9 (SIGKILL)" in said
