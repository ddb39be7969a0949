"""Labelling whole data sets: right labels, nothing twice, nothing lost, every failure with its reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from typer.testing import CliRunner

from phl_ase.cli import app
from phl_ase.curvature import finite_difference_hvp
from phl_ase.datasets import MemoryDataset, open_dataset, write_dataset
from phl_ase.errors import PHLError
from phl_ase.jobs import ATTEMPTS, open_store
from phl_ase.reference import (
    LabelMethod,
    LabelRequest,
    Probes,
    energy_reference,
    label_dataset,
    label_frame,
    make_method,
)
from phl_ase.resolver import resolve_calculator
from phl_ase.structures import atoms_from_frame, frame_from_atoms
from phl_ase.vibrations import finite_difference_hessian

FRAMES = 20


def rattled(count: int = FRAMES) -> list[Atoms]:
    """HCN and water, rattled; what they are stands in ``info``."""
    frames = []
    for i in range(count):
        atoms = molecule("H2O" if i % 2 else "HCN")
        atoms.set_initial_magnetic_moments(None)
        atoms.rattle(0.05, seed=i)
        atoms.info.update(kind="nms", temperature=300.0 + i)
        frames.append(atoms)
    return frames


def written(path: Path, frames: list[Atoms]) -> Path:
    ase.io.write(path, frames, format="extxyz")
    return path


def in_memory(frames: list[Atoms]) -> MemoryDataset:
    return MemoryDataset([frame_from_atoms(atoms) for atoms in frames])


@pytest.fixture
def molecules(tmp_path) -> Path:
    return written(tmp_path / "molecules.xyz", rattled())


def phl(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False, prog_name="phl")


def mistake(*words: object, code: int = 2) -> str:
    result = phl(*words)
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


# ------------------------------------------------------------------------------------------------------------- labels


def test_labels_are_those_of_direct_calls(molecules, tmp_path):
    out, done = tmp_path / "out.h5", tmp_path / "done.json"
    options = ("--hvp", 2, "--probes", "gaussian", "--seed", 5, "--hessian", "differences", "--estimate-error", 3)
    result = phl("label", molecules, "--with", "tblite", *options, "-o", out, "--json", done)
    assert result.exit_code == 0, result.output
    calculator = resolve_calculator("tblite")
    with open_dataset(out) as dataset:
        assert len(dataset) == FRAMES
        dataset.verify()
        for i in (0, 7, 19):
            frame = dataset[i]
            atoms = atoms_from_frame(frame)
            atoms.calc = calculator
            # densities are carried from frame to frame: the same to the noise of the self-consistent field
            assert frame.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
            np.testing.assert_allclose(frame.forces, atoms.get_forces(), atol=1e-5)
            np.testing.assert_array_equal(frame.probes, Probes("gaussian", 2, 5).draw(frame))
            # the same step: what remains is noise, 1e-7 eV/Å over 0.0005 Å and its carry-over
            hvps = finite_difference_hvp(frame.probes, atoms, delta=0.0005)
            np.testing.assert_allclose(frame.hvp, hvps, atol=2e-3)
            np.testing.assert_allclose(frame.hessian, finite_difference_hessian(atoms, delta=0.0005), atol=2e-3)
            assert (frame.kind, frame.temperature) == ("nms", 300.0 + i)
        recorded = dataset.meta.provenance
    assert recorded["probes"] == {"family": "gaussian", "count": 2, "seed": 5}
    assert (recorded["step"], recorded["hessian"], recorded["method"]) == (0.0005, "differences", "tblite")
    # 1 for energy and forces, 2K, 6n; 2K more where the error is estimated
    assert recorded["gradients"] == FRAMES * (1 + 4 + 18) + 3 * 4
    # second order in the step: about 1e-3 eV/Å² here (test_reference measures it)
    assert len(recorded["hvp_error_frames"]) == 3
    assert 1e-5 < recorded["hvp_error"] < 2e-2
    assert {"tblite", "source", "units"} <= set(recorded) | set(recorded["versions"])
    assert json.loads(done.read_text())["labelled"] == FRAMES
    assert not (tmp_path / "out.h5.work").exists()
    shown = phl("data", "info", out).output
    assert "level of theory: GFN2-xTB; energies: absolute" in shown
    assert "2 gaussian probes a frame, seed 5 (central differences of 0.0005 Å)" in shown


def test_a_model_labels_too(tmp_path):
    source, out = tmp_path / "three.h5", tmp_path / "out.h5"
    write_dataset(source, in_memory(rattled(3)))
    assert phl("label", source, "--with", "default", "--hessian", "own", "-o", out).exit_code == 0
    model = resolve_calculator("default")
    with open_dataset(out) as dataset:
        assert dataset.meta.level_of_theory == "PHLCalculator trained on wB97X-D/6-31G(d)"
        assert dataset.meta.energy_reference == energy_reference(model) == "absolute"
        for frame in dataset:
            hessian = model.get_hessian(atoms_from_frame(frame))
            np.testing.assert_allclose(frame.hessian, hessian, atol=1e-9)


@pytest.mark.parametrize(
    ("method", "crystal"),
    [("emt", "Cu"), ("tblite", "Si"), ("default", None)],
)
def test_periodic_frames_get_a_stress(tmp_path, method, crystal):
    """The stress is the derivative of the labelled energy by the strain over the volume, and others get none."""
    atoms = molecule("HCN", cell=[7.0, 7.5, 8.0], pbc=True) if crystal is None else bulk(crystal)
    atoms.rattle(0.02, seed=1)
    bare = molecule("HCN") if crystal is None else Atoms(crystal)
    source, out = written(tmp_path / "source.xyz", [atoms, bare]), tmp_path / "out.h5"
    result = phl("label", source, "--with", method, "-o", out, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "stress: 1 periodic frame" in result.stdout
    with open_dataset(out) as dataset:
        first, second = dataset.frames()
        assert "Stress of 1 periodic frame." in dataset.meta.notes
    assert second.stress is None
    strain = 1e-3 * np.array([[1.0, 0.3, 0.0], [0.3, -0.5, 0.2], [0.0, 0.2, 0.4]])
    energies = []
    for sign in (1, -1):
        strained = open_dataset(source)[0]
        strained = atoms_from_frame(strained)
        strained.calc = resolve_calculator(method)
        strained.set_cell(strained.cell @ (np.eye(3) + sign * strain), scale_atoms=True)
        energies.append(strained.get_potential_energy())
    expected = (energies[0] - energies[1]) / 2 / atoms.get_volume()
    assert np.sum(first.stress * strain) == pytest.approx(expected, rel=2e-3, abs=1e-9)


def test_atoms_on_top_of_each_other_are_refused_by_every_method(tmp_path):
    close = Atoms("H2", [[0, 0, 0], [0, 0, 0.001]])
    across = Atoms("Cu2", [[0, 0, 0.05], [0, 0, 5.95]], cell=[6, 6, 6], pbc=True)
    thin = Atoms("Cu", cell=[3, 3, 0.2], pbc=True)
    reasons = [
        "H2: atoms 0 and 1 are 0.001 Å apart; expected at least 0.3 Å",
        "Cu2: atoms 0 and 1 are 0.100 Å apart",
        "Cu: its cell is 0.2 Å thick along c: atoms lie on their own images",
    ]
    for method in ("emt", "tblite"):
        calculator = make_method(method)
        for atoms, reason in zip((close, across, thin), reasons, strict=True):
            failure = label_frame(atoms, calculator).failure
            assert failure.outcome == "refused"
            assert failure.reason.startswith(reason)
    # 0.74 Å in another frame of reference, and across a face of the cell
    for atoms in (molecule("H2"), Atoms("H2", [[0, 0, 0.1], [0, 0, 5.36]], cell=[6, 6, 6], pbc=True)):
        assert label_frame(atoms, EMT()).failure is None
    close.calc = make_method("tblite")
    with pytest.raises(PHLError, match=r"0\.001 Å apart"):
        close.get_potential_energy()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("electronic_temperature=-300", "a temperature in K, 0 or more"),
        ("electronic_temperature=nan", "a temperature in K, 0 or more"),
        ("accuracy=0", "a number above 0"),
        ("accuracy=inf", "a number above 0"),
        ("max_iterations=0", "a whole number, at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(setting, expected):
    key, _, text = setting.partition("=")
    with pytest.raises(PHLError, match=f"tblite: {key} is '{text}'; expected {expected}"):
        make_method("tblite", {key: text})
    assert make_method("tblite", {"electronic_temperature": "0"}).parameters["electronic_temperature"] == 0.0


@pytest.mark.parametrize(("name", "message"), [("r" * 300, "300 bytes"), ("a\0b", "3 bytes")])
@pytest.mark.parametrize("command", ["label", "reactions"])
def test_a_name_that_a_data_set_cannot_keep_is_refused_before_the_work(tmp_path, command, name, message):
    (tmp_path / "a.xyz").write_text(f'3\nreaction="{name}"\nH 0 0 0\nC 0 0 1.1\nN 0.8 0 1.8\n')
    line = mistake(command, tmp_path / "a.xyz", "--with", "emt", "-o", tmp_path / "out.h5")
    assert f"({message}); expected UTF-8 text of at most 256 bytes without NUL" in line
    assert [path.name for path in tmp_path.iterdir()] == ["a.xyz"]


@pytest.mark.parametrize("text", ["cartesian=maybe", "grid_level=fine", "mesh=4", "grid_level", "=5"])
def test_settings_that_a_method_does_not_take(molecules, tmp_path, text):
    mistake("label", molecules, "--with", "pyscf", "--set", text, "-o", tmp_path / "out.h5")


def test_settings_are_read():
    assert make_method("tblite", {"accuracy": "0.5"}).parameters["accuracy"] == 0.5
    assert make_method("tblite").parameters["accuracy"] == 0.01
    with pytest.raises(PHLError, match="the method emt has none"):
        make_method("emt", {"accuracy": "1"})


def test_training_on_recorded_hvps_alone(molecules, tmp_path):
    out, run = tmp_path / "out.h5", tmp_path / "run"
    assert phl("label", molecules, "--with", "tblite", "--hvp", 1, "-o", out).exit_code == 0
    config = tmp_path / "train.toml"
    config.write_text(
        f"""
[data]
source = "{out}"
[potential]
channels = 8
n_basis = 4
cutoff = 3.0
[scheme]
name = "E-F-HVP-random"
regime = "fixed"
[training]
epochs = 2
batch_size = 8
validate_every = 1
device = "cpu"
"""
    )
    result = phl("train", config, "--out", run)
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert all(record["train_curvature"] > 0 for record in records)
    assert (run / "best.safetensors").exists()


# ----------------------------------------------------------------------------------------------- stopped and continued


class Logging(EMT):
    """EMT that writes down what it computes, and can be slow, stopped, or die of a frame.

    Frames are told apart by the first coordinate: ``i`` Å for frame i.
    """

    def __init__(self, folder: str, *, seconds: float = 0.0, stops: int = -1, dies_once: int = -1, dies: int = -1,
                 slow: int = -1):  # fmt: skip
        super().__init__()
        self.folder, self.seconds = Path(folder), seconds
        self.stops, self.dies_once, self.dies, self.slow = stops, dies_once, dies, slow

    def calculate(self, atoms=None, *arguments, **options):
        index = round(atoms.positions[0, 0])
        with open(self.folder / "log", "a") as log:
            log.write(f"{index} {os.environ.get('OMP_NUM_THREADS')} {os.getpid()}\n")
        time.sleep(600.0 if index == self.slow else self.seconds)
        died = self.folder / "died"
        if index == self.dies or (index == self.dies_once and not died.exists()):
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if index == self.stops:
            self.stops = -1
            raise KeyboardInterrupt
        super().calculate(atoms, *arguments, **options)


def copper(count: int) -> list[Atoms]:
    return [Atoms("Cu2", [[float(i), 0, 0], [i + 2.4, 0, 0.01 * i]]) for i in range(count)]


def logged(folder: Path) -> list[list[str]]:
    path = folder / "log"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_interrupted_and_continued_nothing_is_labelled_twice(tmp_path):
    frames, out = in_memory(copper(6)), tmp_path / "out.h5"
    with pytest.raises(KeyboardInterrupt):
        label_dataset(frames, LabelMethod(partial(Logging, str(tmp_path), stops=3), "logging"), out)
    assert not out.exists()
    result = label_dataset(frames, LabelMethod(partial(Logging, str(tmp_path)), "logging"), out)
    assert (result.labelled, result.computed, result.path, result.work) == (6, 3, out, None)
    # one energy-and-forces calculation each; the interrupted one is done again
    assert Counter(int(index) for index, *_ in logged(tmp_path)) == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1, 5: 1}
    reference = EMT()
    with open_dataset(out) as dataset:
        for i, atoms in enumerate(copper(6)):
            atoms.calc = reference
            assert dataset[i].energy == pytest.approx(atoms.get_potential_energy(), abs=1e-12)


@pytest.mark.parametrize("dies", [-1, pytest.param(3, marks=pytest.mark.slow)])  # five processes that load torch
def test_workers_that_die_are_replaced(tmp_path, monkeypatch, dies):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    frames, out = in_memory(copper(6)), tmp_path / "out.h5"
    make = partial(Logging, str(tmp_path), dies_once=2, dies=dies)
    result = label_dataset(frames, LabelMethod(make, "logging"), out, workers=2)
    died = {dies} - {-1}
    assert result.labelled == 6 - len(died)
    assert {i: f.outcome for i, f in result.failures.items()} == dict.fromkeys(died, "died")
    assert all("SIGKILL" in failure.reason for failure in result.failures.values())
    counts = Counter(int(index) for index, *_ in logged(tmp_path))
    assert counts == {i: 2 if i == 2 else ATTEMPTS if i in died else 1 for i in range(6)}
    # one thread each, set before the child loads anything; the parent's own setting is left alone
    assert {threads for _, threads, _ in logged(tmp_path)} == {"1"}
    assert str(os.getpid()) not in {process for *_, process in logged(tmp_path)}
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_frame_that_takes_too_long_has_failed(tmp_path):
    frames, out = in_memory([*copper(3)]), tmp_path / "out.h5"
    method = LabelMethod(partial(Logging, str(tmp_path), slow=1), "logging")
    result = label_dataset(frames, method, out, time_limit=5.0)
    assert {i: f.outcome for i, f in result.failures.items()} == {1: "time limit"}
    assert result.labelled == 2


MODULE = """
import sys
sys.path.insert(0, {tests!r})
from test_label import Logging

def slow():
    return Logging({folder!r}, seconds={seconds})
"""


@pytest.mark.parametrize(
    ("number", "workers"),
    [(signal.SIGKILL, 1), (signal.SIGTERM, 1), pytest.param(signal.SIGKILL, 2, marks=pytest.mark.slow),
     pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_run_that_is_killed_goes_on(tmp_path, monkeypatch, number, workers):
    count, out = 12, tmp_path / "out.h5"
    source = written(tmp_path / "copper.xyz", copper(count))
    module = tmp_path / "slow_method.py"
    texts = {"tests": str(Path(__file__).parent), "folder": str(tmp_path)}
    module.write_text(MODULE.format(**texts, seconds=0.3))
    words = ["label", str(source), "--with", "ase:slow_method:slow", "--trust", "-o", str(out)]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "phl_ase", *words, "--workers", str(workers)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    work = tmp_path / "out.h5.work"
    limit = time.monotonic() + 120
    while len(list(work.glob("*/*.npz"))) < 3 and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 130}[number], errors
    if number == signal.SIGTERM:
        assert errors.splitlines()[-2:] == [
            f"nothing is lost: the same command goes on in {out}.work",
            "stopped by SIGTERM",
        ]
    finished = len(list(work.glob("*/*.npz")))
    assert 3 <= finished < count
    assert not out.exists()
    # workers end with the process that hired them: nothing is logged once the frames in hand are done
    workers_of = {int(process) for *_, process in logged(tmp_path)}
    while any(Path(f"/proc/{one}").exists() for one in workers_of) and time.monotonic() < limit:
        time.sleep(0.05)

    module.write_text(MODULE.format(**texts, seconds=0.0))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "slow_method", raising=False)
    result = phl(*words)
    assert result.exit_code == 0, result.output
    counts = Counter(int(index) for index, *_ in logged(tmp_path))
    assert sum(number == 1 for number in counts.values()) >= finished
    assert sum(counts.values()) <= count + workers
    with open_dataset(out) as dataset:
        assert len(dataset) == count
        assert dataset.coverage["forces"].all()


def test_ctrl_c_is_130_and_leaves_no_data_set(molecules, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(EMT, "calculate", interrupted)
    result = phl("label", molecules, "--with", "emt", "-o", tmp_path / "out.h5")
    assert result.exit_code == 130
    assert not (tmp_path / "out.h5").exists()


def test_stop_at_the_first_failure(tmp_path):
    source = written(tmp_path / "mixed.xyz", [*copper(2), molecule("CH3Cl"), *copper(4)[2:]])
    words = ("label", source, "--with", "emt", "-o", tmp_path / "out.h5")
    result = phl(*words, "--stop")
    assert result.exit_code == 1
    assert "no data set was written: stopped at a failure" in result.output
    assert "2 of 5 frames labelled by EMT, 1 failed" in result.output
    result = phl(*words)  # goes on after it
    assert result.exit_code == 1
    assert "4 of 5 frames labelled by EMT, 1 failed; 2 in this run" in result.output


# ------------------------------------------------------------------------------------------------------------ failures


def test_failures_are_listed_here_and_in_the_file(tmp_path):
    frames, out = rattled(5), tmp_path / "out.h5"
    frames[1].positions[1] = frames[1].positions[0]
    frames[3] = molecule("CH3")  # nine electrons, of which a singlet cannot be made
    result = phl("label", written(tmp_path / "in.xyz", frames), "--with", "tblite", "-o", out)
    assert result.exit_code == 1, result.output
    assert "3 of 5 frames labelled by GFN2-xTB, 2 failed" in result.output
    assert "CH3" in result.output
    with open_dataset(out) as dataset:
        assert len(dataset) == 3
        np.testing.assert_allclose([frame.temperature for frame in dataset], [300.0, 302.0, 304.0])
        failures = dataset.meta.provenance["failures"]
        assert [(one["frame"], one["outcome"]) for one in failures] == [(1, "refused"), (3, "refused")]
        assert "atoms 0 and 1 are 0.000 Å apart" in failures[0]["reason"]
        assert "9 electrons, which cannot have multiplicity 1" in failures[1]["reason"]
        assert "2 of 5 frames of the input failed" in dataset.meta.notes


def test_failures_are_tried_again_when_asked(tmp_path):
    frames, out = in_memory([*copper(2), molecule("CH3Cl"), *copper(4)[2:]]), tmp_path / "out.h5"
    method = LabelMethod(partial(Logging, str(tmp_path)), "logging")
    first = label_dataset(frames, method, out)
    assert (first.labelled, set(first.failures), first.work) == (4, {2}, tmp_path / "out.h5.work")
    again = label_dataset(frames, method, out)
    assert (again.computed, again.labelled, set(again.failures)) == (0, 4, {2})
    retried = label_dataset(frames, method, out, retry=True)
    assert (retried.computed, retried.labelled, set(retried.failures)) == (1, 4, {2})


def test_a_self_consistent_field_that_does_not_converge(molecules, tmp_path):
    out = tmp_path / "out.h5"
    result = phl("label", molecules, "--with", "tblite", "--set", "max_iterations=2", "-o", out)
    assert result.exit_code == 1
    assert "SCF not converged" in result.output
    assert "scf" in result.output
    assert "no data set was written: no frame has labels" in result.output
    assert not out.exists()


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--with", "ccsd"), "pyscf, tblite"),
        (("--with", "ase:package.module:factory"), "--trust"),
        (("--with", "emt", "--hvp", 0), "got 0 probes per frame; expected at least 1"),
        (("--with", "emt", "--hvp", 1, "--probes", "random"), "unknown probe family 'random'; valid: complete"),
        (("--with", "emt", "--hvp", 10, "--probes", "orthogonal"), "at most 9 orthogonal directions"),
        (("--with", "emt", "--probes", "gaussian"), "add --hvp K"),
        (("--with", "emt", "--estimate-error", 2), "add --hvp K"),
        (("--with", "emt", "--hessian", "analytic"), "unknown kind of Hessian 'analytic'; valid: differences, own"),
        (("--with", "emt", "--hvp", 1, "--step", -0.1), "expected a positive displacement"),
        (("--with", "emt", "--hvp", 1, "--step", "inf"), "expected a positive displacement"),
        (("--with", "emt", "--hvp", 1, "--estimate-error", -1), "expected 0 or more"),
        (("--with", "emt", "--workers", 0), "workers is 0; expected at least 1"),
        (("--with", "emt", "--workers", 2, "--scheduler", "tcp://127.0.0.1:1"), "both workers and a scheduler"),
        (("--with", "emt", "--time-limit", 9, "--scheduler", "tcp://127.0.0.1:1"), "a time limit and a scheduler"),
        (("--with", "emt:x"), "'emt' stands alone"),
        (("--with", "default", "--set", "a=1"), "takes no settings"),
    ],
)
def test_mistakes_in_the_request(molecules, tmp_path, options, message):
    assert message in mistake("label", molecules, *options, "-o", tmp_path / "out.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["molecules.xyz"]  # nothing half-written


def test_mistakes_in_the_output(molecules, tmp_path):
    words = ("label", molecules, "--with", "emt", "-o")
    assert "does not exist; make it first" in mistake(*words, tmp_path / "no" / "out.h5")
    assert "expected a name ending in .h5" in mistake(*words, tmp_path / "out.xyz")
    there = tmp_path / "there.h5"
    there.write_bytes(b"mine")
    assert "exists; choose another name" in mistake(*words, there)
    assert there.read_bytes() == b"mine"
    assert "holds other files (molecules.xyz" in mistake(*words, tmp_path / "out.h5", "--work", tmp_path)


CARRIED = 'Properties=species:S:1:pos:R:3 pbc="F F F"'


@pytest.mark.parametrize(
    ("text", "message", "code"),
    [
        (f"1\n{CARRIED} charge=half\nH 0 0 0\n", "charge", 2),
        (f"1\n{CARRIED} charge=0.5\nH 0 0 0\n", "expected a whole number", 2),
        (f"1\n{CARRIED}\nH nan 0 0\n", "expected finite numbers", 1),
        ("2\n\nH\nH\n", "cannot be read by ASE", 2),
        ("", "", 2),
    ],
    ids=["charge that is no number", "half a charge", "NaN", "no positions", "empty"],
)
def test_mistakes_in_the_input(tmp_path, text, message, code):
    source = tmp_path / "in.xyz"
    source.write_text(text)
    assert message in mistake("label", source, "--with", "emt", "-o", tmp_path / "out.h5", code=code)
    assert [path.name for path in tmp_path.iterdir()] == ["in.xyz"]


def test_a_work_folder_serves_several_requests(tmp_path):
    """Results are found by what they depend on: nothing is refused, nothing labelled twice."""
    out, frames = tmp_path / "out.h5", in_memory(copper(3))
    log = partial(Logging, str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        label_dataset(frames, LabelMethod(partial(log, stops=1), "emt"), out)
    others = [
        (frames, LabelMethod(log, "other"), LabelRequest()),
        (frames, LabelMethod(log, "emt", {"a": 1}), LabelRequest()),
        (frames, LabelMethod(log, "emt"), LabelRequest(probes=Probes())),
        (frames, LabelMethod(EMT, "emt"), LabelRequest()),  # another level of theory
    ]
    for place, (structures, method, request) in enumerate(others):
        target = tmp_path / f"{place}.h5"
        assert label_dataset(structures, method, target, request=request, work=f"{out}.work").computed == 3
    # a longer input: the frames that are there already are not labelled again
    assert label_dataset(in_memory(copper(4)), LabelMethod(log, "emt"), out).computed == 3


def test_a_data_set_of_another_request_is_not_written_over(tmp_path):
    frames, out = in_memory([*copper(2), molecule("CH3Cl")]), tmp_path / "out.h5"
    assert label_dataset(frames, LabelMethod(EMT, "emt"), out).work is not None
    with pytest.raises(PHLError, match="exists; choose another name"):
        label_dataset(frames, LabelMethod(EMT, "emt"), out, request=LabelRequest(probes=Probes()))
    assert label_dataset(frames, LabelMethod(EMT, "emt"), out, retry=True).computed == 1


def test_frames_that_are_alike_are_labelled_once(tmp_path):
    frames = in_memory([copper(2)[1]] * 3)
    result = label_dataset(frames, LabelMethod(partial(Logging, str(tmp_path)), "logging"), tmp_path / "out.h5")
    assert (result.labelled, result.gradients, len(logged(tmp_path))) == (3, 1, 1)


def test_the_second_of_two_runs_is_refused(molecules, tmp_path):
    out = tmp_path / "out.h5"
    with open_store(tmp_path / "out.h5.work"):
        assert "in use by another run" in mistake("label", molecules, "--with", "emt", "-o", out)


def test_frames_of_nobody_knows_what_are_not_taken(tmp_path):
    """What is left when a finished run is killed while it tidies up."""
    frames, out = in_memory(copper(3)), tmp_path / "out.h5"
    with pytest.raises(KeyboardInterrupt):
        label_dataset(frames, LabelMethod(partial(Logging, str(tmp_path), stops=2), "logging"), out)
    (tmp_path / "out.h5.work" / "jobs.json").unlink()
    with pytest.raises(PHLError, match="holds other files"):
        label_dataset(frames, LabelMethod(partial(Logging, str(tmp_path)), "logging"), out)


def test_unfinished_work_of_older_versions_is_refused_in_one_line(tmp_path):
    for name in ("campaign.json", "swing/reaction.json"):
        file = tmp_path / name.replace("/", "-") / "out.h5.work" / name
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        target = tmp_path / name.replace("/", "-") / "out.h5"
        with pytest.raises(PHLError, match="holds unfinished work of an older version"):
            label_dataset(in_memory(copper(1)), LabelMethod(EMT, "emt"), target)


def test_a_damaged_shard_is_named(tmp_path):
    frames, out = in_memory(copper(3)), tmp_path / "out.h5"
    with pytest.raises(KeyboardInterrupt):
        label_dataset(frames, LabelMethod(partial(Logging, str(tmp_path), stops=2), "logging"), out)
    shard = next((tmp_path / "out.h5.work").glob("*/*.npz"))
    shard.write_bytes(shard.read_bytes()[:100])
    method = LabelMethod(partial(Logging, str(tmp_path)), "logging")
    with pytest.raises(PHLError, match=rf"{shard.name} is damaged .*; delete it and run again"):
        label_dataset(frames, method, out)
    shard.unlink()
    assert label_dataset(frames, method, out).computed == 1


# ------------------------------------------------------------------------------------------------- processes, clusters


def test_what_cannot_be_sent_to_a_worker(tmp_path):
    with pytest.raises(PHLError, match="define it at the top of a module, or use one worker"):
        label_dataset(in_memory(copper(2)), LabelMethod(lambda: EMT(), "emt"), tmp_path / "out.h5", workers=2)


def test_a_cluster_needs_its_package(molecules, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = ("label", molecules, "--with", "emt", "--scheduler", "tcp://127.0.0.1:1", "-o", tmp_path / "out.h5")
    assert "pip install 'phl-ase[cluster]'" in mistake(*words)


@pytest.mark.filterwarnings("default")
def test_a_cluster_labels(tmp_path):
    import distributed

    options = {
        "n_workers": 1,
        "threads_per_worker": 2,
        "processes": False,
        "protocol": "tcp://",
        "dashboard_address": None,
    }
    method = LabelMethod(partial(resolve_calculator, "tblite"), "tblite")
    frames, request = in_memory(rattled(6)), LabelRequest(probes=Probes())
    with distributed.LocalCluster(host="127.0.0.1", **options) as cluster:
        address = cluster.scheduler_address
        there = label_dataset(frames, method, tmp_path / "there.h5", request=request, scheduler=address)
    assert there.labelled == 6
    label_dataset(frames, method, tmp_path / "here.h5", request=request)
    with open_dataset(tmp_path / "there.h5") as there, open_dataset(tmp_path / "here.h5") as here:
        for one, other in zip(there, here, strict=True):
            np.testing.assert_array_equal(one.probes, other.probes)
            np.testing.assert_allclose(one.forces, other.forces, atol=1e-5)


@pytest.mark.filterwarnings("default")
def test_no_scheduler_at_the_address(molecules, tmp_path, monkeypatch):
    from phl_ase.jobs import executors

    monkeypatch.setattr(executors, "_CONNECT_SECONDS", 1)
    words = ("label", molecules, "--with", "emt", "--scheduler", "tcp://127.0.0.1:1", "-o", tmp_path / "out.h5")
    assert "no dask scheduler answers at 'tcp://127.0.0.1:1'" in mistake(*words)
