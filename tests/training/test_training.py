"""Training: resumed runs end where unbroken ones do, every failure keeps the work, gradients do not depend on how they
were put together."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import errno
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from phl_ase.datasets import DatasetMeta, MemoryDataset, open_dataset
from phl_ase.derivatives import GradientGraph, evaluate
from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.objective import TERMS, with_curvature_targets
from phl_ase.potentials import PaiNNConfig
from phl_ase.potentials.model_file import load_model
from phl_ase.structures import collate
from phl_ase.training import (
    RunData,
    Stopped,
    TrainConfig,
    choose_device,
    default_toml,
    parse_config,
    prepare_data,
    read_config,
    train,
    trainer,
)
from phl_ase.training.batches import POOL, batches_of_epoch
from phl_ase.training.checkpoint import BEST, CONFIG, LAST, LOG, load_checkpoint, run_folder, save_checkpoint
from phl_ase.training.optimiser import moving_average
from phl_ase.training.schedule import curvature_weight, learning_rate
from phl_ase.training.setup import new_model
from phl_ase.training.step import accumulate_gradients, label_counts

SMALL = {
    "data": {"max_atoms": 3},
    # at these settings the untrained model's forces are a few eV/Å, like the labels
    "potential": {"channels": 8, "n_basis": 4, "cutoff": 3.0},
    "training": {"epochs": 3, "batch_size": 12, "validate_every": 1, "warmup_epochs": 1, "device": "cpu"},
}
BUDGET = 2**31


def settings(**sections) -> dict:
    return {name: {**SMALL.get(name, {}), **sections.get(name, {})} for name in {*SMALL, *sections}}


def configuration(**sections) -> TrainConfig:
    return parse_config(settings(**sections))


@pytest.fixture(scope="module")
def data() -> RunData:
    return prepare_data(configuration())


@pytest.fixture
def model(data):
    return new_model(configuration(), data.train).double()


def end_of(folder: Path) -> dict:
    """What a run ends with, but for the time that it took."""
    state = load_checkpoint(folder / LAST)
    state["records"] = [{k: v for k, v in record.items() if k != "seconds"} for record in state["records"]]
    state["position"] = {k: v for k, v in state["position"].items() if k != "seconds"}
    return state


def assert_same(a, b, where="") -> None:
    """Equal to the last bit."""
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for place, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{place}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    else:
        assert a == b, where


@contextlib.contextmanager
def stopping_after(steps: int, monkeypatch, number=signal.SIGTERM):
    """The process gets a signal in the middle of a step."""
    taken = [0]

    def step(*arguments, **options):
        taken[0] += 1
        if taken[0] == steps:
            signal.raise_signal(number)
        return accumulate_gradients(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "accumulate_gradients", step)
        yield


# ------------------------------------------------------------------------------------------------------ stop and resume


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scheme", ["E-F", "E-F-HVP-random"])
@pytest.mark.parametrize("steps", [1, 5, 6])  # first step, middle and end of the second epoch (3 steps an epoch)
def test_a_resumed_run_ends_bit_for_bit_like_an_unbroken_one(tmp_path, data, monkeypatch, dtype, scheme, steps):
    config = configuration(training={"dtype": dtype}, scheme={"name": scheme})
    train(config, data, tmp_path / "whole")
    with stopping_after(steps, monkeypatch), pytest.raises(Stopped, match=r"SIGTERM.*--resume"):
        train(config, data, tmp_path / "broken")
    stopped = load_checkpoint(tmp_path / "broken" / LAST)["position"]
    assert (stopped["epoch"], stopped["batch"]) == ((steps - 1) // 3, (steps - 1) % 3 + 1)
    train(config, data, tmp_path / "broken", resume=True)
    assert_same(end_of(tmp_path / "whole"), end_of(tmp_path / "broken"))
    assert (tmp_path / "whole" / BEST).read_bytes() == (tmp_path / "broken" / BEST).read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "broken" / LOG).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]


def test_ctrl_c_stops_after_the_step_and_gives_the_handlers_back(tmp_path, data, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    with stopping_after(2, monkeypatch, signal.SIGINT), pytest.raises(Stopped, match="SIGINT in epoch 1, step 2"):
        train(configuration(), data, tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before


_UNTIL_KILLED = """
import sys
from phl_ase.training import parse_config, prepare_data, train
import json
config = parse_config(json.loads(sys.argv[1]))
train(config, prepare_data(config), sys.argv[2])
"""


def test_a_killed_run_resumes_to_the_same_weights(tmp_path, data):
    values = settings(training={"epochs": 15, "checkpoint_seconds": 0.0})
    command = [sys.executable, "-c", _UNTIL_KILLED, json.dumps(values), str(tmp_path / "killed")]
    # sums over other numbers of threads are rounded otherwise
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    log = tmp_path / "killed" / LOG
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") >= 3):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = load_checkpoint(tmp_path / "killed" / LAST)["position"]["epoch"]
    assert 0 < done < 15
    config = parse_config(values)
    train(config, data, tmp_path / "killed", resume=True)
    train(config, data, tmp_path / "whole")
    assert_same(end_of(tmp_path / "whole"), end_of(tmp_path / "killed"))


def test_a_run_killed_before_its_first_epoch_can_be_resumed(tmp_path, data, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*arguments, **options):
        raise Killed

    config = configuration()
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "accumulate_gradients", die)
        with pytest.raises(Killed):
            train(config, data, tmp_path / "run")
    train(config, data, tmp_path / "run", resume=True)
    train(config, data, tmp_path / "whole")
    assert_same(end_of(tmp_path / "whole"), end_of(tmp_path / "run"))


def test_resuming_a_finished_run_adds_nothing(tmp_path, data):
    first = train(configuration(), data, tmp_path / "run")
    weights = (tmp_path / "run" / BEST).read_bytes()
    again = train(configuration(), data, tmp_path / "run", resume=True)
    assert again.records == first.records
    assert (tmp_path / "run" / BEST).read_bytes() == weights


# --------------------------------------------------------------------------------------------------------- run folders


def test_a_folder_takes_one_run(tmp_path, data):
    with (
        run_folder(tmp_path / "run", resume=False),
        pytest.raises(PHLError, match="in use by another run"),
    ):
        train(configuration(), data, tmp_path / "run")
    train(configuration(), data, tmp_path / "run")
    with pytest.raises(PHLError, match=r"holds a run already.*--resume"):
        train(configuration(), data, tmp_path / "run")


def test_resuming_nothing_is_refused(tmp_path, data):
    with pytest.raises(PHLError, match="holds no run to resume: there is no such folder"):
        train(configuration(), data, tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()  # a mistyped name does not become a folder
    (tmp_path / "run").mkdir()
    with pytest.raises(PHLError, match="holds no run to resume; leave --resume out"):
        train(configuration(), data, tmp_path / "run", resume=True)


@pytest.mark.parametrize("scheme", ["E-F-HVP-random", "E-F-H"])
def test_a_step_of_many_rows_is_left_off_in_the_middle(tmp_path, data, monkeypatch, scheme):
    """A step may take minutes; what it was about to change is made anew, to the same weights."""
    config = configuration(scheme={"name": scheme, "n_probes": 3}, training={"epochs": 1})
    monkeypatch.setattr("phl_ase.training.step.rows_per_chunk", lambda *_: 1)
    rows = 0

    def hvps(graph, vectors):
        nonlocal rows
        rows += 1
        if rows == 4:
            signal.raise_signal(signal.SIGTERM)
        return GradientGraph.hvp(graph, vectors)

    class Counting(GradientGraph):
        pass

    Counting.hvp = hvps
    train(config, data, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("phl_ase.training.step.GradientGraph", Counting)
        with pytest.raises(Stopped, match=r"SIGTERM in epoch 1, step [01];"):
            train(config, data, tmp_path / "broken")
    assert rows == 4  # not one more
    train(config, data, tmp_path / "broken", resume=True)
    assert_same(end_of(tmp_path / "whole"), end_of(tmp_path / "broken"))


def test_a_validation_is_left_off_and_made_anew(tmp_path, data, monkeypatch):
    config = configuration()
    validated = [0]

    def evaluated(*arguments, **options):
        validated[0] += 1
        if validated[0] == 1:
            signal.raise_signal(signal.SIGTERM)
        return evaluate(*arguments, **options)

    many = dataclasses.replace(data, valid=[*data.valid] * (4 * 12 // len(data.valid) + 1))
    train(config, many, tmp_path / "whole of many")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate", evaluated)
        with pytest.raises(Stopped, match=r"SIGTERM in epoch 1, step 3"):
            train(config, many, tmp_path / "broken")
    train(config, many, tmp_path / "broken", resume=True)
    assert_same(end_of(tmp_path / "whole of many"), end_of(tmp_path / "broken"))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, data):
    (tmp_path / "file").write_text("")
    with pytest.raises(PHLError, match="cannot write into"):
        train(configuration(), data, tmp_path / "file" / "run")


@pytest.fixture
def finished(tmp_path, data) -> Path:
    return train(configuration(training={"epochs": 1}), data, tmp_path / "run").folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_refused_resume_leaves_the_folder_as_it_was(finished, data):
    before = contents(finished)
    with pytest.raises(PHLError, match=r"another training\.learning_rate, training\.seed"):
        train(configuration(training={"epochs": 1, "seed": 5, "learning_rate": 1e-4}), data, finished, resume=True)
    changed = dataclasses.replace(data, provenance={**data.provenance, "data_hash": "0"})
    with pytest.raises(PHLError, match="data set has changed"):
        train(configuration(training={"epochs": 1}), changed, finished, resume=True)
    assert contents(finished) == before


def test_a_run_of_an_older_version_is_resumed_as_it_was_meant(tmp_path, data):
    """Keys that did not exist then have the meaning of that time; what is not said is the default."""
    folder = train(configuration(training={"epochs": 1}), data, tmp_path / "run").folder
    state = load_checkpoint(folder / LAST)
    for section, key in (("training", "keep"), ("training", "matmul_precision"), ("scheme", "hvp")):
        state["config"][section].pop(key)
    state["config"].pop("replay")
    save_checkpoint(folder / LAST, state)
    train(configuration(training={"epochs": 1}), data, folder, resume=True)  # as it was
    save_checkpoint(folder / LAST, state)
    for changes, key in (
        ({"training": {"epochs": 1, "keep": "last"}}, "training.keep"),
        ({"training": {"epochs": 1}, "scheme": {"hvp": "differences"}}, "scheme.hvp"),
        ({"training": {"epochs": 1}, "potential": {"core": "zbl"}}, "potential.core"),
        ({"training": {"epochs": 1}, "replay": {"seed": 3}}, "replay.seed"),
    ):
        with pytest.raises(PHLError, match=f"another {key};"):
            train(configuration(**changes), data, folder, resume=True)
    # what a configuration leaves out is the default
    train(configuration(training={"epochs": 1}, potential={"core": "none", "layers": 2}), data, folder, resume=True)


class Hostile:
    """Unpickling this makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def hostile_archive(path: Path, marker: Path) -> None:
    torch.save({"position": {}, "model": Hostile(marker)}, path)


def hostile_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Hostile(marker)))


@pytest.mark.parametrize("write", [hostile_archive, hostile_pickle])
def test_a_hostile_checkpoint_is_refused_and_not_run(finished, data, tmp_path, write):
    marker = tmp_path / "executed"
    write(finished / LAST, marker)
    with pytest.raises(PHLError, match="not a readable checkpoint"):
        train(configuration(training={"epochs": 1}), data, finished, resume=True)
    assert not marker.exists()


@pytest.mark.parametrize("length", [0, 1, 100, 5_000, -1])
def test_a_truncated_checkpoint_is_refused(finished, data, length):
    content = (finished / LAST).read_bytes()
    (finished / LAST).write_bytes(content[:length])
    with pytest.raises(PHLError, match="not a readable checkpoint"):
        train(configuration(training={"epochs": 1}), data, finished, resume=True)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_checkpoint_is_read_or_refused(finished, seed):
    rng = np.random.default_rng(seed)
    content = bytearray((finished / LAST).read_bytes())
    start = content.find(b"data.pkl")
    for place in rng.integers(start, start + 2000, 5):
        content[place] = rng.integers(256)
    (finished / LAST).write_bytes(content)
    with contextlib.suppress(PHLError):
        load_checkpoint(finished / LAST)


@pytest.mark.parametrize("foreign", [{"weights": torch.zeros(3)}, {"position": {}}, [1, 2], torch.zeros(2)])
def test_a_foreign_checkpoint_is_refused(finished, data, foreign):
    torch.save(foreign, finished / LAST)
    with pytest.raises(PHLError, match="is no checkpoint of phl_ase"):
        train(configuration(training={"epochs": 1}), data, finished, resume=True)


def test_a_checkpoint_that_does_not_fit_is_refused(finished, data):
    state = load_checkpoint(finished / LAST)
    for broken in ({"model": {}}, {"position": {"epoch": 1, "lap": 2}}, {"optimiser": {"state": 1}}):
        save_checkpoint(finished / LAST, {**state, **broken})
        with pytest.raises(PHLError, match="does not fit this model"):
            train(configuration(training={"epochs": 1}), data, finished, resume=True)


# ---------------------------------------------------------------------------------------------------------- full disks


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_full_disk_keeps_the_older_checkpoint(tmp_path, data, monkeypatch, failing):
    config = configuration(training={"checkpoint_seconds": 0.0, "epochs": 6})
    real, calls = getattr(os, failing), [0]

    def full(*arguments):
        if failing == "fsync" or str(arguments[1]).endswith(LAST):
            calls[0] += 1
            if calls[0] > (4 if failing == "replace" else 7):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(PHLError, match=r"the disk is full.*an older file is kept"):
            train(config, data, tmp_path / "full")
    assert not list((tmp_path / "full").glob("*.tmp"))
    assert not list((tmp_path / "full").glob(".*.tmp"))
    assert load_checkpoint(tmp_path / "full" / LAST)["position"]["epoch"] >= 1
    # with room again it goes on
    assert len(train(config, data, tmp_path / "full", resume=True).records) == 6


def test_a_full_disk_while_logging_is_one_line(tmp_path, data, monkeypatch):
    import phl_ase.training.log as log

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(log, "open", full, raising=False)
    with pytest.raises(PHLError, match=r"cannot write .*log\.jsonl: No space left"):
        train(configuration(), data, tmp_path / "run")


# ---------------------------------------------------------------------------------------------------------- divergence


def test_a_diverged_loss_names_frames_term_and_step_and_keeps_the_checkpoint(tmp_path, data):
    # weights of 1e30 overflow float32 in the second step
    config = configuration(training={"learning_rate": 1e30, "warmup_epochs": 0, "schedule": "constant"})
    with pytest.raises(NonFiniteError) as caught:
        train(config, data, tmp_path / "run")
    message = str(caught.value)
    assert message.startswith("epoch 1, step 2: the energy loss is not finite for frames [")
    named = {int(i) for i in message[message.index("[") + 1 : message.index("]")].split(",")}
    assert named <= {frame.frame_id for frame in data.train}
    assert "the last good checkpoint is kept" in message
    assert load_checkpoint(tmp_path / "run" / LAST)["position"]["batch"] == 0


def test_a_step_that_is_not_finite_changes_no_weight(model, data):
    batch, labels = collate(data.train[:3], model.cutoffs)
    with torch.no_grad():
        model.readout_out.bias.fill_(float("nan"))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(NonFiniteError, match="energy loss is not finite for frames"):
        accumulate_gradients(model, batch, labels, {"energy": 1.0}, memory_budget=BUDGET)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, model.parameters(), strict=True))


# ------------------------------------------------------------------------------------------------------- configuration


def test_a_configuration_comes_back():
    config = configuration(loss={"curvature_ramp": 4}, scheme={"name": "E-F-H"}, data={"keys": {"energy": "e"}})
    assert parse_config(json.loads(json.dumps(config.to_json()))) == config


def test_the_default_file_holds_the_defaults(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text(default_toml(), encoding="utf-8")
    read, default = read_config(path), TrainConfig()
    for section in ("data", "replay", "scheme", "loss", "training"):
        assert getattr(read, section) == getattr(default, section)
    assert read.potential.architecture == default.potential.architecture
    assert PaiNNConfig(species=(1,), **read.potential.settings()) == PaiNNConfig(species=(1,))
    for section, field in TrainConfig.model_fields.items():
        assert f"[{section}]" in default_toml()
        for name, item in field.annotation.model_fields.items():
            key = item.alias or name
            assert f"\n{key} =" in default_toml() or f"\n# {key} =" in default_toml()


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.epochs=7", "training", "epochs", 7),
        ("training.learning_rate = 1e-4", "training", "learning_rate", 1e-4),
        ("scheme.name=E-F-H", "scheme", "name", "E-F-H"),
        ('scheme.name="E-F"', "scheme", "name", "E-F"),
        ("data.fractions=[0.5, 0.25, 0.25]", "data", "fractions", (0.5, 0.25, 0.25)),
        ("training.compile=true", "training", "compile", True),
        ('data.keys={energy = "dft"}', "data", "keys", {"energy": "dft"}),
        ("data.source=a/b=c.h5", "data", "source", "a/b=c.h5"),
    ],
)
def test_overrides(tmp_path, override, section, key, value):
    path = tmp_path / "a.toml"
    path.write_text("[training]\nepochs = 3\n")
    assert getattr(getattr(read_config(path, [override]), section), key) == value


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("[training]\nepoch = 3", (), r"unknown key 'training\.epoch'; valid: batch_size, .*epochs"),
        ("[trainig]\nepochs = 3", (), r"unknown key 'trainig'; valid: data, loss, potential, replay, scheme, training"),
        ("[training]\nepochs = 0", (), r"training\.epochs is 0: "),
        ("[training]\nepochs = 'many'", (), r"training\.epochs is 'many': "),
        ("[training]\nschedule = 'sine'", (), r"training\.schedule is 'sine': .*'cosine', 'plateau' or 'constant'"),
        ("[training]\nlearning_rate = nan", (), r"training\.learning_rate is nan: .*finite"),
        ("training = 3", (), "training is 3: "),
        ("[training]\nseed = -1", (), r"training\.seed is -1: "),
        (f"[training]\nseed = {2**63}", (), rf"training\.seed is {2**63}: "),
        ("[data]\nsplit_seed = -1", (), r"data\.split_seed is -1: "),
        (f"[replay]\nseed = {10**30}", (), r"replay\.seed is 10+: "),
        ("[potential]\ntrainable = ['*']", (), "trainable chooses parameters of a trained model, but from names none"),
        ("[potential]\nspecies = [99]", (), "species cannot be set: they are those of the training frames"),
        (f"a = {'[' * 5000}", (), r"a\.toml: not a readable TOML file: nested too deeply"),
        ("", (f"training.epochs={'[' * 5000}",), r"--set training\.epochs=…: the value is nested too deeply"),
        ("training = 3", ("training.epochs=4",), "training is 3 in the configuration"),
        ("[potential]\nfrom = 3", (), r"potential\.from is 3: "),
        ("[training", (), r"a\.toml: not a readable TOML file"),
        ("", ("epochs=3",), r"expected section\.key=value"),
        ("", ("training.epochs",), r"expected section\.key=value"),
        ("", ("training.=3",), r"expected section\.key=value"),
    ],
)
def test_configurations_that_are_refused(tmp_path, text, overrides, message):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(PHLError, match=message) as caught:
        read_config(path, overrides)
    assert "\n" not in str(caught.value)


def test_binary_and_missing_configurations_are_refused(tmp_path):
    with pytest.raises(PHLError, match=r"does not exist.*--init"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PHLError, match="not a readable TOML"):
        read_config(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme": {"name": "E-F-G"}}, "unknown scheme 'E-F-G'; valid: E-F, E-F-H"),
        ({"scheme": {"regime": "stale"}}, "unknown regime 'stale'; valid: fixed, fresh"),
        ({"scheme": {"probes": "cauchy"}}, "unknown probe family 'cauchy'; valid: "),
        ({"scheme": {"probes": "orthogonal", "n_probes": 10}}, "at most 9 orthogonal"),
        ({"scheme": {"n_probes": 1_000_000}}, "n_probes is 1000000, but 9 directions carry all curvature"),
        ({"potential": {"channels": 8.0}}, r"potential\.channels is 8\.0; painn expects a whole number"),
        ({"potential": {"channels": True}}, r"potential\.channels is True; painn expects a whole number"),
        ({"potential": {"channels": "big"}}, r"potential\.channels is 'big'; painn expects a whole number"),
        ({"potential": {"layers": 1.5}}, r"potential\.layers is 1\.5; painn expects a whole number"),
        ({"potential": {"n_basis": 3.5}}, r"potential\.n_basis is 3\.5; painn expects a whole number"),
        ({"potential": {"cutoff": "far"}}, r"potential\.cutoff is 'far'; painn expects a number"),
        ({"potential": {"cutoff": True}}, r"potential\.cutoff is True; painn expects a number"),
        ({"potential": {"core": ["zbl"]}}, r"potential\.core is \['zbl'\]; painn expects a name"),
        ({"potential": {"architecture": "schnet"}}, "unknown architecture 'schnet'; valid: painn"),
        ({"potential": {"width": 3}}, "unknown setting of painn 'width'; valid: channels"),
        ({"potential": {"from": "none.safetensors"}}, "model file 'none.safetensors' does not exist"),
        ({"potential": {"from": "default#1"}}, r"potential\.channels is 8, but the model has 128; leave the settings"),
        ({"training": {"device": "warp"}}, "unknown device 'warp'"),
        ({"loss": {"stress": 1.0}}, r"loss\.stress is 1\.0, but no training frame carries stress; set it to 0"),
        ({"loss": {"energy": 0.0, "forces": 0.0, "curvature": 0.0}}, "nothing to learn"),
        (
            {"training": {"matmul_precision": "high", "dtype": "float64"}},
            r'training\.matmul_precision is "high", which does not act on training\.dtype="float64"',
        ),
        (
            {"training": {"matmul_precision": "medium"}, "scheme": {"hvp": "differences"}},
            r'"medium", which spoils scheme\.hvp="differences"; use "exact", or "highest"',
        ),
    ],
)
def test_settings_that_do_not_go_with_the_data_are_refused_at_the_start(tmp_path, data, changes, message):
    with pytest.raises(PHLError, match=message):
        train(configuration(**changes), data, tmp_path / "run")
    assert not (tmp_path / "run" / CONFIG).exists()  # the folder can be used again


@pytest.mark.parametrize("asked", ["highest", "high"])
def test_factors_are_rounded_only_where_a_run_asks_for_it(tmp_path, data, monkeypatch, asked):
    """Whatever the process has set, which is as it was afterwards."""
    seen = []

    def step(*arguments, **options):
        seen.append(torch.get_float32_matmul_precision())
        return accumulate_gradients(*arguments, **options)

    monkeypatch.setattr(trainer, "accumulate_gradients", step)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        train(configuration(training={"epochs": 1, "matmul_precision": asked}), data, tmp_path / "run")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == [asked] * len(seen) != []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_gpu_is_said():
    with pytest.raises(PHLError, match=r"no CUDA device.*'cpu'"):
        choose_device("cuda")


# ------------------------------------------------------------------------------------------------------- data of a run


def without(frames, *labels):
    return [dataclasses.replace(frame, **dict.fromkeys(labels)) for frame in frames]


@pytest.mark.parametrize("scheme", ["E-F-HVP-random", "E-F-HVP-onehot", "E-F-H"])
def test_curvature_without_labels_is_an_error_at_the_start(tmp_path, data, scheme):
    bare = dataclasses.replace(data, train=without(data.train, "hessian"))
    with pytest.raises(PHLError, match=r"no training frame carries a Hessian.*use the scheme E-F"):
        train(configuration(scheme={"name": scheme}), bare, tmp_path / "run")


@pytest.mark.parametrize("label", ["energy", "forces"])
def test_a_weighted_term_without_labels_is_an_error_at_the_start(tmp_path, data, label):
    bare = dataclasses.replace(data, train=without(data.train, label))
    with pytest.raises(PHLError, match=rf"loss\.{label} is .*no training frame carries {label}; set it to 0"):
        train(configuration(), bare, tmp_path / "run")


def test_a_species_that_only_validation_holds_is_refused(tmp_path, data):
    numbers = data.valid[0].numbers.copy()
    numbers[0] = 9
    valid = [dataclasses.replace(data.valid[0], numbers=numbers), *data.valid[1:]]
    with pytest.raises(PHLError, match="validation frames hold F, which no training frame holds"):
        train(configuration(), dataclasses.replace(data, valid=valid), tmp_path / "run")


def test_charged_frames_need_a_model_that_takes_charge(tmp_path, data):
    charged = [dataclasses.replace(data.train[0], charge=-1), *data.train[1:]]
    number = data.train[0].frame_id
    with pytest.raises(PHLError, match=rf"1 training frames are charged \(first: frame {number}, charge -1\)"):
        train(configuration(), dataclasses.replace(data, train=charged), tmp_path / "run")


def test_a_split_part_that_is_empty_is_an_error(data):
    with pytest.raises(PHLError, match="nothing to valid with"):
        prepare_data(configuration(data={"fractions": [0.9, 0.0, 0.1]}))
    with pytest.raises(PHLError, match="nothing to train with"):
        prepare_data(configuration(data={"max_atoms": 1}))


def mixed(frames, seed=0):
    """A third with energies and forces alone, a third with two recorded HVPs, a third with Hessians."""
    rng = np.random.default_rng(seed)
    result = []
    for place, frame in enumerate(frames):
        n = len(frame)
        if place % 3 == 0:
            frame = dataclasses.replace(frame, hessian=None)
        elif place % 3 == 1:
            probes = rng.choice([-1.0, 1.0], (2, n, 3))
            hvps = (probes.reshape(2, -1) @ frame.hessian).reshape(2, n, 3)
            frame = dataclasses.replace(frame, hessian=None, probes=probes, hvp=hvps)
        result.append(frame)
    return result


@pytest.mark.parametrize("scheme", ["E-F", "E-F-HVP-random", "E-F-H"])
def test_mixed_supervision_trains(tmp_path, data, scheme):
    both = RunData(mixed(data.train), mixed(data.valid * 3, seed=1))
    # batches of 2: some without any curvature label, some with recorded HVPs alone
    config = configuration(scheme={"name": scheme}, training={"epochs": 2, "batch_size": 2})
    last = train(config, both, tmp_path / "run").records[-1]
    expected = {"energy", "forces"} | ({"curvature"} if scheme != "E-F" else set())
    assert {k.removeprefix("valid_") for k in last if k.startswith("valid_")} == expected | {"loss"}
    assert all(np.isfinite(value) for value in last.values())


@pytest.mark.filterwarnings("error")
def test_recorded_hvps_alone_train(tmp_path, data):
    recorded = [f for f in mixed(data.train) if f.probes is not None]
    config = configuration(scheme={"regime": "fixed", "n_probes": 2}, training={"epochs": 1})
    record = train(config, RunData(recorded, recorded[:2]), tmp_path / "run").records[0]
    assert np.isfinite(record["valid_curvature"])


def test_fresh_probes_of_recorded_hvps_are_said_to_be_fixed(tmp_path, data):
    """Nothing but the recorded HVPs is known of such frames: no probe can be drawn anew."""
    recorded = [f for f in mixed(data.train) if f.probes is not None]
    both, asked = RunData(recorded, recorded[:2]), {"name": "E-F-HVP-onehot", "regime": "fresh"}
    said = r'frames carry 2 recorded HVPs each and no Hessian.*\(scheme.regime = "fixed"\)'
    with pytest.warns(UserWarning, match=said):
        fresh = train(configuration(scheme=asked, training={"epochs": 1}), both, tmp_path / "fresh")
    with pytest.warns(UserWarning, match=said):  # one probe was asked for
        fixed = train(
            configuration(scheme={**asked, "regime": "fixed"}, training={"epochs": 1}), both, tmp_path / "fixed"
        )
    one, other = (load_checkpoint(result.folder / LAST) for result in (fresh, fixed))
    assert_same(one["model"], other["model"])
    assert load_model(fresh.model).provenance["scheme"]["regime"] == "fixed"
    # where some frames have Hessians, their probes are fresh, and nothing is said
    some = train(configuration(training={"epochs": 1}), RunData(mixed(data.train), data.valid), tmp_path / "mixed")
    assert load_model(some.model).provenance["scheme"]["regime"] == "fresh"
    with pytest.raises(PHLError, match="E-F-H learns whole Hessians, but the training frames carry recorded"):
        train(configuration(scheme={"name": "E-F-H"}), both, tmp_path / "full")


def test_hvps_by_differences_train_as_exact_ones_do(tmp_path, data):
    """The same frames and probes in the same order: the losses of all epochs, and the models, are nearly the same."""
    ways, ends = ("exact", "differences"), []
    for hvps in ways:
        config = configuration(scheme={"hvp": hvps}, training={"dtype": "float64"})
        records = train(config, data, tmp_path / hvps).records
        ends.append([record["train_curvature"] for record in records])
    assert ends[1] == pytest.approx(ends[0], rel=1e-4)
    assert ends[1] != ends[0]
    with pytest.raises(PHLError, match=r"scheme\.hvp.*'exact' or 'differences'"):
        configuration(scheme={"hvp": "approximate"})


def test_an_absent_label_never_counts_as_a_zero_loss(model, data):
    """The loss of frames with labels is the same beside frames without."""
    weights = {"energy": 1.0, "forces": 1.0, "curvature": 1.0}
    full = data.train[:3]
    for frames in (full, [*full, *without(data.train[3:8], "energy", "forces", "hessian")]):
        batch, labels = collate(frames, model.cutoffs)
        labels = with_curvature_targets(batch, labels, "complete")
        result = accumulate_gradients(model, batch, labels, weights, memory_budget=BUDGET)
        assert result.counts == dict.fromkeys(weights, 3)
        if frames is full:
            first = result
    assert result.sums == pytest.approx(first.sums, rel=1e-12)


# ------------------------------------------------------------------------------- starting from a trained model


def start_from(model, **sections) -> TrainConfig:
    # nothing of SMALL's architecture: it is the model's
    return parse_config({**settings(**sections), "potential": {"from": str(model)}})


def test_a_model_goes_on_from_another_at_a_new_level(finished, data):
    """Labels of the same frames at another zero of energy per species: only reference energies have to change."""
    zeros = {1: -3.0, 6: 500.0, 7: 70.0, 8: 0.25}
    moved = [dataclasses.replace(f, energy=f.energy + sum(zeros[int(z)] for z in f.numbers)) for f in data.train]
    old = load_model(finished / BEST)
    new = new_model(start_from(finished / BEST), moved)
    batch, _ = collate(moved, old.cutoffs)
    before, after = (evaluate(model, batch, ("energy", "forces")) for model in (old, new))
    torch.testing.assert_close(before.forces, after.forces, rtol=0, atol=1e-12)
    labels = torch.tensor([f.energy for f in moved], dtype=torch.float64)
    rests = after.energy - labels
    # what is left is what no energy per species can mend: orthogonal to the compositions
    counts = torch.tensor([[(f.numbers == z).sum() for z in old.species] for f in moved], dtype=torch.float64)
    gaps = labels - before.energy
    left = gaps - counts @ torch.linalg.lstsq(counts, gaps[:, None], driver="gelsd").solution[:, 0]
    torch.testing.assert_close(rests, -left, rtol=0, atol=1e-6)
    torch.testing.assert_close(counts.T @ rests, torch.zeros(len(old.species), dtype=torch.float64), rtol=0, atol=1e-6)
    assert float(new.scale) == float(old.scale)
    assert all(parameter.requires_grad for parameter in new.parameters())


def test_a_species_that_the_new_labels_lack_keeps_its_energy(data):
    old = load_model("default#1")  # knows oxygen, which none of these frames holds
    moved = [dataclasses.replace(f, energy=f.energy + 10.0 * len(f)) for f in data.train]
    new = new_model(parse_config({"potential": {"from": "default#1"}}), moved)
    assert not any((f.numbers == 8).any() for f in data.train)
    assert new.species == old.species == (1, 6, 7, 8)
    shift = (new.reference_energies - old.reference_energies).tolist()
    # hydrogen, carbon, nitrogen always come together; what the model itself errs by is far below 0.1 eV
    assert shift == pytest.approx([10.0, 10.0, 10.0, 0.0], abs=0.1)
    assert shift[3] == pytest.approx(0.0, abs=1e-9)


def test_fine_tuning_goes_on_where_the_model_was_and_says_so(finished, data, tmp_path):
    standing = {"epochs": 1, "learning_rate": 1e-12, "final_learning_rate": 1e-12}
    config = start_from(finished / BEST, training=standing)
    whole = train(config, data, tmp_path / "fine-tuned")
    before = json.loads((finished / LOG).read_text().splitlines()[0])
    assert whole.records[0]["valid_forces"] == pytest.approx(before["valid_forces"], rel=1e-4)  # float32 weights
    assert parse_config(config.to_json()) == config
    card = load_model(whole.model).provenance
    assert card["started_from"]["data_hash"] == data.provenance["data_hash"]
    assert card["config"]["potential"]["from"] == str(finished / BEST)


def test_a_resumed_fine_tuning_ends_like_an_unbroken_one(finished, data, tmp_path, monkeypatch):
    config = start_from(finished / BEST, training={"epochs": 2})
    train(config, data, tmp_path / "whole")
    with stopping_after(3, monkeypatch), pytest.raises(Stopped):
        train(config, data, tmp_path / "broken")
    train(config, data, tmp_path / "broken", resume=True)
    assert_same(end_of(tmp_path / "whole"), end_of(tmp_path / "broken"))


def test_a_species_that_the_model_does_not_know_is_refused(finished, data, tmp_path):
    strange = dataclasses.replace(data.train[0], numbers=np.full(len(data.train[0]), 9))
    with pytest.raises(PHLError, match="training frames hold F, which the model to start from does not know"):
        train(start_from(finished / BEST), dataclasses.replace(data, train=[*data.train, strange]), tmp_path / "other")


def test_data_in_memory_take_the_place_of_the_named(tmp_path, data):
    frames = open_dataset("reactions-wb97xd-631gd").frames(range(30))
    dataset = MemoryDataset(frames, DatasetMeta("HF", "absolute"), name="mine")
    run = prepare_data(configuration(data={"max_atoms": None}), dataset)
    assert run.provenance["data"] == "mine"
    assert len(run.train) + len(run.valid) + len(run.test) == 30


# ------------------------------------------------------------------------------------------------------------ schedules


def section(**values):
    return configuration(training={"epochs": 105, "warmup_epochs": 5, "learning_rate": 1e-3, **values}).training


@pytest.mark.parametrize("schedule", ["cosine", "plateau", "constant"])
def test_the_learning_rate_warms_up_linearly(schedule):
    training = section(schedule=schedule)
    rates = [learning_rate(training, epoch) for epoch in (0.0, 1.0, 2.0, 3.0, 4.0)]
    assert rates[0] > 0
    assert np.diff(rates) == pytest.approx(np.full(4, 1e-3 / 5.1))
    assert learning_rate(training, 5.0) == pytest.approx(1e-3)


def test_the_shapes_of_the_schedules():
    cosine = section(schedule="cosine", final_learning_rate=1e-5)
    assert learning_rate(cosine, 55.0) == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate(cosine, 105.0) == pytest.approx(1e-5)
    assert learning_rate(cosine, 30.0) == pytest.approx(1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi / 4)) / 2)
    assert np.all(np.diff([learning_rate(cosine, e) for e in range(5, 106)]) < 0)
    assert learning_rate(section(schedule="constant"), 100.0) == 1e-3
    plateau = section(schedule="plateau", final_learning_rate=1e-5)
    assert [learning_rate(plateau, 50.0, halvings) for halvings in (0, 1, 3)] == [1e-3, 5e-4, 1.25e-4]
    assert learning_rate(plateau, 50.0, 20) == 1e-5  # never below the last


def test_the_curvature_weight_grows_over_its_ramp():
    loss = configuration(loss={"curvature": 0.5, "curvature_ramp": 10}).loss
    weights = [curvature_weight(loss, epoch) for epoch in (0.0, 2.4, 4.9, 9.9, 50.0)]
    assert weights == pytest.approx([0.005, 0.125, 0.25, 0.5, 0.5])
    assert curvature_weight(configuration(loss={"curvature": 0.5}).loss, 0.0) == 0.5


def test_a_run_takes_the_rate_and_the_curvature_weight_of_each_step(tmp_path, data, monkeypatch):
    config = configuration(loss={"curvature": 1.0, "curvature_ramp": 2}, training={"epochs": 3})
    seen = []

    def step(model, batch, labels, weights, **options):
        seen.append(weights["curvature"])
        return accumulate_gradients(model, batch, labels, weights, **options)

    monkeypatch.setattr(trainer, "accumulate_gradients", step)
    records = train(config, data, tmp_path / "run").records
    progress = np.arange(9) / 3
    assert seen == pytest.approx(np.minimum(1.0, (progress + 0.1) / 2).tolist())
    last_steps = [learning_rate(config.training, epoch + 2 / 3) for epoch in range(3)]
    assert [record["learning_rate"] for record in records] == pytest.approx(last_steps)


# --------------------------------------------------------------------------------------------- choosing the best model


def test_averaged_weights_are_judged_and_kept(tmp_path, data):
    config = configuration(training={"ema_decay": 0.9, "dtype": "float64"}, scheme={"name": "E-F-H"})
    result = train(config, data, tmp_path / "run")
    assert result.best_epoch == 3  # the test reads the last averages
    state = load_checkpoint(result.folder / LAST)
    best = load_model(result.model)
    averaged = {k.removeprefix("module."): v for k, v in state["averaged"].items() if k != "n_averaged"}
    assert_same(dict(best.state_dict()), averaged)
    assert not torch.equal(state["model"]["embedding"], averaged["embedding"])
    batch, labels = collate(data.valid, best.cutoffs)
    labels = with_curvature_targets(batch, labels, "complete")
    predicted = evaluate(best, batch, ("energy", "forces", "hvp"), probes=labels.probes)
    weights = {"energy": config.loss.energy, "forces": config.loss.forces, "curvature": config.loss.curvature}
    loss = sum(w * float(TERMS[n].total(batch, predicted, labels)) / len(data.valid) for n, w in weights.items())
    assert result.best_loss == pytest.approx(loss, rel=1e-12)


def test_the_average_follows_its_definition():
    update = moving_average(0.9)
    averaged, current = [torch.tensor([1.0])], [torch.tensor([2.0])]
    update(averaged, current, torch.tensor(1))  # weight 1 − (1 + 1)/(10 + 1), as long as that is below the decay
    assert averaged[0].item() == pytest.approx(1.0 + 9 / 11)
    update(averaged, current, torch.tensor(1000))
    assert averaged[0].item() == pytest.approx(2.0 - 0.9 * 2 / 11)


@pytest.fixture
def never_better(monkeypatch):
    """Validations that gain nothing after the first."""

    def validate(run):
        run._judge(1.0)
        return {"valid_loss": 1.0}

    monkeypatch.setattr(trainer._Trainer, "_validate", validate)


@pytest.mark.usefixtures("never_better")
@pytest.mark.parametrize(("keep", "epoch"), [("best", 1), ("last", 3)])
def test_the_best_weights_are_kept_or_the_last(tmp_path, data, keep, epoch):
    config = configuration(training={"epochs": 3, "keep": keep, "dtype": "float64", "ema_decay": 0.9})
    result = train(config, data, tmp_path / "run")
    assert (result.best_epoch, result.best_loss) == (epoch, 1.0)
    assert load_model(result.model).provenance["epoch"] == epoch
    state = load_checkpoint(result.folder / LAST)
    averaged = {k.removeprefix("module."): v for k, v in state["averaged"].items() if k != "n_averaged"}
    kept = dict(load_model(result.model).state_dict())
    assert all(torch.equal(kept[k], v) for k, v in averaged.items()) == (keep == "last")
    again = train(config, data, tmp_path / "run", resume=True)
    assert (again.best_epoch, again.best_loss) == (epoch, 1.0)


def test_a_validation_that_is_not_finite_is_not_kept(tmp_path, data, monkeypatch):
    losses = iter((2.0, 3.0, math.nan))

    def mean_terms(run, frames):
        return {"energy": next(losses) / run.weights["energy"]}

    monkeypatch.setattr(trainer._Trainer, "_mean_terms", mean_terms)
    result = train(configuration(training={"epochs": 3, "keep": "last"}), data, tmp_path / "run")
    assert (result.best_epoch, result.best_loss) == (2, pytest.approx(3.0))
    assert load_model(result.model).provenance["validation_loss"] == pytest.approx(3.0)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_that_keeps_no_model_fails(tmp_path, data, epochs):
    config = configuration(training={"epochs": epochs, "batch_size": 1000, "learning_rate": 1e300})
    with pytest.raises(NonFiniteError, match=r"not finite|no validation gave a finite loss.*1e\+300"):
        train(config, data, tmp_path / "run")
    assert not (tmp_path / "run" / BEST).exists()


@pytest.mark.usefixtures("never_better")
def test_early_stopping(tmp_path, data):
    config = configuration(training={"epochs": 50, "early_stopping": 3, "dtype": "float64"})
    result = train(config, data, tmp_path / "run")
    assert len(result.records) == 4
    assert (result.best_epoch, result.best_loss) == (1, 1.0)
    assert len(train(config, data, tmp_path / "run", resume=True).records) == 4


@pytest.mark.usefixtures("never_better")
def test_a_plateau_halves_the_rate_and_ends_at_the_last_one(tmp_path, data):
    training = {"epochs": 50, "schedule": "plateau", "plateau_patience": 2, "warmup_epochs": 0}
    config = configuration(training={**training, "learning_rate": 8e-4, "final_learning_rate": 1.5e-4})
    rates = [record["learning_rate"] for record in train(config, data, tmp_path / "run").records]
    # the first validation is the best; every second one after it halves the rate, which ends at 1.5e-4
    assert rates == pytest.approx([8e-4] * 3 + [4e-4] * 2 + [2e-4] * 2)


def test_training_learns(tmp_path, data):
    """Twenty epochs of a small model on 22 frames reduce every error."""
    config = configuration(training={"epochs": 20, "learning_rate": 5e-3, "ema_decay": 0.5})
    records = train(config, data, tmp_path / "run").records
    for term in ("energy", "forces", "curvature"):
        assert records[-1][f"train_{term}"] < 0.8 * records[0][f"train_{term}"], term


def test_training_in_float64_leaves_float64_weights(tmp_path, data):
    config = configuration(training={"dtype": "float64", "epochs": 1})
    result = train(config, data, tmp_path / "run")
    state = load_checkpoint(result.folder / LAST)
    assert {v.dtype for v in state["model"].values()} == {torch.float64}
    assert {v.dtype for v in load_model(result.model).state_dict().values()} == {torch.float64}


def test_the_same_seed_gives_the_same_run_and_another_does_not(tmp_path, data):
    runs = [
        train(configuration(training={"epochs": 1, "seed": seed}), data, tmp_path / str(place)).folder
        for place, seed in enumerate((3, 3, 4))
    ]
    same, again, other = (load_checkpoint(folder / LAST)["model"] for folder in runs)
    assert_same(same, again)
    assert not torch.equal(same["embedding"], other["embedding"])


# ------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize(("frames", "batch_size"), [(1, 4), (22, 8), (200, 7), (300, 16)])
def test_every_frame_stands_in_exactly_one_batch(frames, batch_size, rng):
    sizes = rng.integers(2, 30, frames)
    batches = batches_of_epoch(sizes, batch_size, seed=1, epoch=4)
    assert sorted(np.concatenate(batches)) == list(range(frames))
    assert max(map(len, batches)) <= batch_size
    assert len(batches) <= math.ceil(frames / batch_size) + math.ceil(frames / (POOL * batch_size))


def test_batches_depend_on_seed_and_epoch_alone(rng):
    sizes = rng.integers(2, 30, 100)
    drawn = [batches_of_epoch(sizes, 8, seed=s, epoch=e) for s, e in ((0, 0), (0, 0), (0, 1), (1, 0))]
    as_lists = [[batch.tolist() for batch in batches] for batches in drawn]
    assert as_lists[0] == as_lists[1]
    assert as_lists[0] != as_lists[2]
    assert as_lists[0] != as_lists[3]


# ----------------------------------------------------------------------------------------------- gradients, in any way

WEIGHTS = {"energy": 10.0, "forces": 1.0, "curvature": 0.5}


def drawn(model, frames, family="rademacher", n_probes=2):
    batch, labels = collate(frames, model.cutoffs)
    return batch, with_curvature_targets(batch, labels, family, n_probes=n_probes, seed=3)


def gradients(model, *steps, **options):
    """The gradient that a number of accumulations leave, as one vector."""
    model.zero_grad(set_to_none=True)
    for batch, labels, counts in steps:
        options.setdefault("memory_budget", BUDGET)
        accumulate_gradients(model, batch, labels, WEIGHTS, counts=counts, **options)
    return torch.cat([p.grad.ravel() for p in model.parameters() if p.grad is not None])


def assert_close(a, b, relative=1e-10):
    """Summation order alone differs: 1e-10 leaves five digits above float64's rounding."""
    assert (a - b).norm() <= relative * b.norm()


@pytest.mark.parametrize("family", ["complete", "rademacher"])
def test_rows_in_chunks_give_the_same_gradient(model, data, family):
    batch, labels = drawn(model, data.train[:5], family, n_probes=5)
    saved = GradientGraph(model, batch, curvature=True, create_graph=True).saved_bytes
    # a training HVP is reckoned at three times what the gradient's graph keeps: here two rows together
    chunked = gradients(model, (batch, labels, None), memory_budget=2 * 3 * saved)
    assert_close(chunked, gradients(model, (batch, labels, None)))
    with pytest.raises(PHLError, match="raise the budget or evaluate fewer systems"):
        gradients(model, (batch, labels, None), memory_budget=1000)


def test_the_full_hessian_term_is_the_frobenius_norm(model, data):
    batch, labels = drawn(model, data.train[:4], "complete")
    result = accumulate_gradients(model, batch, labels, WEIGHTS, memory_budget=BUDGET)
    difference = evaluate(model, batch, ("hessian",)).hessian - labels.hessian
    expected = (difference.square().sum((1, 2)) / (3 * batch.sizes()) ** 2).sum()
    assert result.sums["curvature"] == pytest.approx(float(expected), rel=1e-10)


def test_the_gradient_is_that_of_finite_differences(model, data):
    """Along random directions of the parameters; δ = 1e-5 leaves about 1e-7 of truncation and rounding."""
    batch, labels = drawn(model, data.train[:4])

    def loss() -> float:
        result = accumulate_gradients(copy.deepcopy(model), batch, labels, WEIGHTS, memory_budget=BUDGET)
        return sum(WEIGHTS[name] * result.sums[name] / result.counts[name] for name in WEIGHTS)

    gradients(model, (batch, labels, None))
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        steps = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in model.parameters()]
        values = []
        slope = sum(float((p.grad * d).sum()) for p, d in zip(model.parameters(), steps, strict=True))
        for sign in (1, -1):
            moved = [p.detach().clone() for p in model.parameters()]
            with torch.no_grad():
                for parameter, d in zip(model.parameters(), steps, strict=True):
                    parameter.add_(d, alpha=sign * 1e-5)
            values.append(loss())
            with torch.no_grad():
                for parameter, old in zip(model.parameters(), moved, strict=True):
                    parameter.copy_(old)
        assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


def uneven(frames):
    """Frames whose labels differ: two without energies, three without a Hessian."""
    some = [dataclasses.replace(f, hessian=None) if i in (0, 1, 5) else f for i, f in enumerate(frames)]
    return [dataclasses.replace(f, energy=None) if i in (2, 5) else f for i, f in enumerate(some)]


@pytest.mark.parametrize("shares", [(range(4), range(4, 7)), (range(2), range(2, 7)), ([6, 0], [3, 2, 5], [1, 4])])
def test_shares_of_a_batch_with_global_counts_add_up_to_the_whole(model, data, shares):
    """The second case leaves one share without any curvature label."""
    frames = uneven(data.train[:7])
    batch, labels = drawn(model, frames)
    whole = gradients(model, (batch, labels, None))
    counts = label_counts(labels, WEIGHTS)
    assert counts == {"energy": 5, "forces": 7, "curvature": 4}
    parts = []
    for share in shares:
        part, part_labels = collate([frames[i] for i in share], model.cutoffs)
        if part_labels.hessian is not None:
            part_labels = with_curvature_targets(part, part_labels, "rademacher", n_probes=2, seed=3)
        parts.append((part, part_labels, counts))
    assert_close(gradients(model, *parts), whole)


def _process(rank: int, folder: str, model, frames, steps) -> None:
    """One of two processes: its share of every batch, counts and gradients added up by hand."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    result = []
    for step in steps:
        chosen = step[rank::2]
        batch, labels = collate([frames[i] for i in chosen], model.cutoffs)
        if labels.hessian is not None:
            labels = with_curvature_targets(batch, labels, "rademacher", n_probes=2, seed=3)
        counts = torch.tensor(list(label_counts(labels, WEIGHTS).values()))
        dist.all_reduce(counts)
        model.zero_grad(set_to_none=False)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        accumulate_gradients(
            model, batch, labels, WEIGHTS, memory_budget=BUDGET, counts=dict(zip(WEIGHTS, counts.tolist(), strict=True))
        )
        flat = torch.cat([p.grad.ravel() for p in model.parameters()])
        dist.all_reduce(flat)
        result.append(flat)
    torch.save(result, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_gradient_of_one(model, data, tmp_path):
    frames = uneven(data.train[:11])
    steps = [list(range(6)), [6, 7, 8, 9, 10]]  # the last batch is uneven: three and two
    context = torch.multiprocessing.spawn(
        _process, args=(str(tmp_path), model, frames, steps), nprocs=2, join=False, daemon=True
    )
    while not context.join(timeout=60):
        pass
    both = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for place, step in enumerate(steps):
        alone = gradients(model, (*drawn(model, [frames[i] for i in step]), None))
        for rank in range(2):
            assert_close(both[rank][place], alone)


@pytest.mark.no_typecheck
def test_gradients_of_a_compiled_loss_lie_in_memory_like_their_parameters(model, data):
    # inductor is free to return them transposed, and a fused optimiser would then step along the wrong components
    parameters = [p for p in model.parameters() if p.requires_grad]
    given = [torch.randn(p.shape[::-1], dtype=p.dtype).permute(*range(p.dim())[::-1]) for p in parameters]
    assert any(g.stride() != p.stride() for g, p in zip(given, parameters, strict=True))
    batch, labels = collate(data.train[:2], model.cutoffs)
    for times in (1, 2):
        accumulate_gradients(
            model,
            batch,
            labels,
            {"energy": 1.0},
            memory_budget=2**20,
            compiled=lambda batch, labels, weights: (dict.fromkeys(weights, 0.0), given),
        )
        for parameter, gradient in zip(parameters, given, strict=True):
            assert torch.equal(parameter.grad, times * gradient)
            assert parameter.grad.stride() == parameter.stride()


@pytest.mark.no_typecheck
@pytest.mark.slow
@pytest.mark.timeout(1200)  # compiling takes minutes where cores are shared
def test_a_compiled_run_learns_like_an_eager_one(tmp_path, data):
    ends = []
    for compile_ in (False, True):
        config = configuration(
            potential={"layers": 1}, training={"epochs": 1, "dtype": "float64", "compile": compile_, "batch_size": 11}
        )
        ends.append(train(config, data, tmp_path / str(compile_)).records[-1])
    for key in ("train_energy", "train_forces", "train_curvature", "valid_loss"):
        assert ends[0][key] == pytest.approx(ends[1][key], rel=1e-8)
