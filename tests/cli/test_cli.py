"""The command line as a user types it: what works works, and every mistake is one line and an exit code."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import typer
from ase.build import fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from phl_ase import __version__
from phl_ase.cli import app
from phl_ase.cli.app import COMMANDS, GROUPS
from phl_ase.cli.train import _summary
from phl_ase.datasets import open_dataset, write_dataset
from phl_ase.results import read_reports
from phl_ase.scoring import ERRORS
from phl_ase.tables import text_table
from phl_ase.training import TrainConfig, TrainResult, read_config
from phl_ase.training.checkpoint import load_checkpoint

DATA = "reactions-wb97xd-631gd"
PHL = [sys.executable, "-m", "phl_ase"]
CONFIG = """
[data]
max_atoms = 3
[potential]
channels = 8
n_basis = 4
cutoff = 3.0
[training]
epochs = 2
batch_size = 8
validate_every = 1
device = "cpu"
"""


def phl(*words: object):
    """Run in this process; unexpected exceptions surface here."""
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False, prog_name="phl")


def mistake(*words: object, code: int = 2) -> str:
    """The one line of a mistake."""
    result = phl(*words)
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "train.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A trained model's folder."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "train.toml").write_text(CONFIG)
    result = phl("train", folder / "train.toml", "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return folder / "run"


# ------------------------------------------------------------------------------------------------- help, version, start


def test_help_takes_less_than_a_second_and_loads_nothing_heavy():
    code = (
        "import sys, time\ntry:\n    from phl_ase.cli import main; main(['--help'])\n"
        "finally:\n    print({'torch', 'ase', 'numpy', 'pydantic', 'rich'} & set(sys.modules), file=sys.stderr)\n"
        "    print(time.process_time(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded, seconds = done.stderr.split("\n")[:2]
    assert loaded == "set()"
    assert float(seconds) < 1.0  # of the processor, whatever else the machine does
    assert all(f"  {name} " in done.stdout for name in (*COMMANDS, *GROUPS))


HEAVY = ("torch", "scipy", "jax", "sella", "phonopy", "matplotlib", "pyscf", "networkx", "sympy")


@pytest.mark.parametrize(
    "words",
    [
        ("models",),
        ("models", "default"),
        ("data", "info", "nofile"),
        ("data", "info", DATA),
        ("check", "nofile"),
        ("check", "mace:medium"),
        ("train", "nofile", "-o", "run"),
        ("train", "CONFIG", "-o", "run", "--set", "data.source=nofile"),
        ("train", "CONFIG", "-o", "run", "--set", "potential.from=nofile"),
        ("evaluate", "default", "nofile"),
        ("evaluate", "nofile", DATA),
        ("validate", "ts", "default", "nofile"),
        ("validate", "ts", "default", DATA, "--reference", "nofile"),
        ("validate", "irc", "default", "nofile"),
        ("validate", "frequencies", "default", "nofile"),
        ("validate", "phonons", "default", "nofile"),
        ("label", "nofile", "--with", "tblite", "-o", "x.h5"),
        ("reactions", "nofile", "--with", "tblite", "-o", "x.h5"),
        ("relax", "nofile", "--with", "tblite"),
        ("freq", "nofile", "--with", "default"),
        ("ts", "nofile", "--with", "tblite"),
        ("reaction", "nofile", "--with", "default"),
        ("phonons", "nofile", "--with", "emt"),
        ("study", "nofile"),
        ("sample", "nofile", "--with", "tblite", "-o", "x.xyz"),
    ],
    ids=" ".join,
)
def test_inputs_are_checked_before_anything_heavy_is_loaded(words, tmp_path, config):
    """A mistyped name, and what needs no model, must not cost the seconds in which torch and JAX are imported."""
    words = [str(config) if word == "CONFIG" else word for word in words]
    code = (
        "import sys\nfrom phl_ase.cli import main\ntry:\n    main(sys.argv[1:])\n"
        f"finally:\n    print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert done.stderr.splitlines()[-1] == "[]", done.stderr
    assert done.returncode == (2 if "nofile" in " ".join(words) or "mace:medium" in words else 0)


def test_the_calculator_loads_torch_and_little_else():
    code = f"import sys\nfrom phl_ase import PHLCalculator\nprint(sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "['scipy', 'torch']"


def test_python_m_is_phl():
    done = subprocess.run([*PHL, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"phl {__version__}\n"
    assert phl("--version").output == f"phl {__version__}\n"


@pytest.mark.parametrize(
    "words", [(name,) for name in COMMANDS] + [(g, name) for g, (_, commands) in GROUPS.items() for name in commands]
)
def test_every_command_has_help_with_an_example(words):
    result = phl(*words, "--help")
    assert result.exit_code == 0
    assert f"phl {' '.join(words)}" in result.output.split("\n\n", 1)[1]


@pytest.mark.parametrize("words", [("fit",), ("train", "--epochs", "3"), ("data",), ("evaluate", "emt"), ()])
def test_usage_errors_are_typers(words):
    result = phl(*words)
    assert result.exit_code == 2
    assert "Usage: phl" in result.output
    assert "Traceback" not in result.output


def test_defects_keep_their_traceback(run, monkeypatch):
    def defect(*arguments, **options):
        raise RuntimeError("a defect")

    monkeypatch.setattr("phl_ase.potentials.cards.read_card", defect)
    with pytest.raises(RuntimeError, match="a defect"):
        phl("models", run / "best.safetensors")


def test_ctrl_c_outside_training_is_one_line(monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("phl_ase.datasets.summarise", interrupted)
    result = phl("data", "info", DATA)
    assert (result.exit_code, result.stderr) == (130, "stopped by SIGINT\n")


def test_tables_are_never_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    shown = text_table(("name", "value / eV"), [("x" * 200, 1.23456789), ("y", float("nan")), ("z", None)])
    assert shown.splitlines()[2] == "x" * 200 + "       1.235"
    assert shown.splitlines()[3].split() == ["y", "-"]
    assert shown.splitlines()[4].split() == ["z", "-"]


# ------------------------------------------------------------------------------------------------------------- training


def test_init_writes_a_configuration_that_holds_the_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert phl("train", "--init").output == "wrote train.toml\n"
    assert read_config("train.toml").training == TrainConfig().training
    assert phl("train", "--init", "other.toml").exit_code == 0
    assert Path("other.toml").read_text() == Path("train.toml").read_text()
    assert "exists; name another file" in mistake("train", "--init")
    assert "cannot write none/a.toml" in mistake("train", "--init", "none/a.toml")


def test_train_leaves_a_model_and_says_how_good_it_is(run):
    assert {p.name for p in run.iterdir()} >= {"best.safetensors", "last.ckpt", "log.csv", "log.jsonl", "config.json"}
    result = phl("train", run.parent / "train.toml", "--out", run, "--resume")
    assert result.exit_code == 0
    assert "eV/Å²" in result.output
    assert f"model: {run / 'best.safetensors'}" in result.output
    assert phl("train", "--resume", "--out", run).output == result.output  # the run knows its configuration
    assert result.stderr == ""  # no progress where nobody looks


@pytest.mark.parametrize(
    ("losses", "kept", "said"),
    [
        ((2.0, 1.0), 2, "epoch kept: 2 of 2"),
        ((1.0, 1.25), 1, "epoch kept: 1 of 2 (validation loss 1; 1.25 in the last one, 25.0% more: tr"),
        ((0.0, 1.0), 1, "epoch kept: 1 of 2 (validation loss 0; 1 in the last one: training.keep"),
        ((1.0, math.nan), 1, "epoch kept: 1 of 2"),
    ],
)
def test_summary_says_what_the_last_epoch_would_have_been(tmp_path, losses, kept, said):
    records = tuple(
        {"epoch": n + 1, "train_energy": 1.0, "valid_energy": 1.0, "valid_loss": loss} for n, loss in enumerate(losses)
    )
    line = _summary(TrainResult(tmp_path, losses[kept - 1], kept, records)).splitlines()[-3]
    assert line.startswith(said)
    assert ("(" in line) == ("(" in said)


def test_set_overrides(config, tmp_path):
    words = ("--set", "training.epochs=1", "--set", "scheme.name=E-F")
    assert phl("train", config, "-o", tmp_path / "run", *words).exit_code == 0
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (recorded["training"]["epochs"], recorded["scheme"]["name"]) == (1, "E-F")


def test_training_goes_on_from_a_bundled_committee(tmp_path):
    with open_dataset("organic-gfn2xtb-sample") as sample:
        frames = [frame for frame in sample if frame.kind == "ts"]
        write_dataset(tmp_path / "mine.h5", frames, sample.meta)
    few = ("--set", "training.epochs=1", "--set", "data.fractions=[0.7, 0.3, 0.0]")
    for name, extra, rate in (("one", (), 1e-3), ("two", ("--set", "training.learning_rate=2e-4"), 2e-4)):
        done = phl("train", tmp_path / "mine.h5", "-o", tmp_path / name, "--from", "organic", *few, *extra)
        assert done.exit_code == 0, done.output
        recorded = json.loads((tmp_path / name / "config.json").read_text())
        assert (recorded["potential"]["from"], recorded["training"]["learning_rate"]) == ("organic#1", rate)
    refused = phl("train", tmp_path / "mine.h5", "-o", tmp_path / "three", "--from", "organik", *few)
    assert "unknown model 'organik'" in refused.output
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--set", "training.epoch=3"), "unknown key 'training.epoch'; valid: batch_size, "),
        (("--set", "scheme.name=E-F-G"), "unknown scheme 'E-F-G'; valid: E-F, E-F-H, E-F-HVP-onehot, E-F-HVP-random"),
        (("--set", "data.source=none.h5"), "no data set 'none.h5': no such file"),
        (("--set", "data.split=half"), "unknown split 'half'; valid: by-reaction, random, stationary"),
        (("--set", "training.epochs"), "expected section.key=value"),
        (("--set", "potential.width=3"), "unknown setting of painn 'width'; valid: channels"),
        (("--set", "potential.channels=0"), "PaiNN channels is 0"),
        (("--set", "potential.species=[99]"), "species cannot be set"),
        (("--set", "training.seed=-1"), "training.seed is -1"),
        (("--set", "training.dtype=float16"), "training.dtype is 'float16': "),
        (("--set", "training.device=warp"), "unknown device 'warp'"),
        (("--resume",), "holds no run to resume"),
    ],
)
def test_mistakes_of_train(config, tmp_path, words, expected):
    assert expected in mistake("train", config, "--out", tmp_path / "run", *words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_gpu_is_one_line(config, tmp_path, run):
    assert "no CUDA device" in mistake("train", config, "-o", tmp_path / "r", "--set", "training.device=cuda")
    assert "CUDA" in mistake("evaluate", run / "best.safetensors", DATA, "--device", "cuda")


def test_mistakes_with_files_of_train(config, tmp_path, run):
    out = ("--out", tmp_path / "new")
    assert "none.toml does not exist" in mistake("train", tmp_path / "none.toml", *out)
    assert "no configuration: name one" in mistake("train", *out)
    assert "no output folder: add --out" in mistake("train", config)
    assert "holds a run already; continue it with --resume" in mistake("train", config, "--out", run)
    assert "holds no run to resume" in mistake("train", "--resume", *out)
    said = mistake("train", "--resume", "--set", "training.epochs=3", "--out", run)
    assert "--set and --from need a configuration or data" in said
    assert "another training.epochs" in mistake("train", config, "-o", run, "--resume", "--set", "training.epochs=3")
    config.write_text("[training\nepochs = 3")
    assert "train.toml: not a readable TOML file" in mistake("train", config, *out)
    config.write_text("[trainings]\n")
    valid = "data, loss, potential, replay, scheme, training"
    assert f"unknown key 'trainings'; valid: {valid}" in mistake("train", config, *out)
    assert not (tmp_path / "new").exists()


def test_an_unwritable_folder_is_one_line(config, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write into" in mistake("train", config, "--out", tmp_path / "file" / "run")
    if os.geteuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        assert "Permission denied" in mistake("train", config, "--out", tmp_path / "closed" / "run")


@pytest.fixture
def forces_only(tmp_path) -> Path:
    """An extended XYZ of energies and forces."""
    images = []
    for frame in open_dataset(DATA).frames(range(12)):
        atoms = ase.Atoms(frame.numbers, positions=frame.positions)
        atoms.calc = SinglePointCalculator(atoms, energy=frame.energy, forces=frame.forces)
        images.append(atoms)
    ase.io.write(tmp_path / "forces.extxyz", images)
    return tmp_path / "forces.extxyz"


def test_a_scheme_whose_labels_are_lacking_is_one_line(config, tmp_path, forces_only):
    words = ("train", config, "--set", f"data.source={forces_only}", "--set", "training.epochs=1")
    line = mistake(*words, "--out", tmp_path / "h", "--set", "scheme.name=E-F-H")
    assert "no training frame carries a Hessian" in line
    assert "use the scheme E-F" in line
    assert phl(*words, "--out", tmp_path / "f", "--set", "scheme.name=E-F").exit_code == 0


def test_a_diverged_run_is_one_line_and_exit_code_1(config, tmp_path):
    words = ("--set", "training.learning_rate=1e30", "--set", "training.warmup_epochs=0")
    line = mistake("train", config, "--out", tmp_path / "run", *words, code=1)
    assert line.startswith("epoch 1, step 2: the energy loss is not finite for frames [")


def test_sigterm_ends_with_one_line_and_a_folder_that_resumes(config, tmp_path):
    words = ["train", str(config), "--out", str(tmp_path / "run"), "--set", "training.epochs=20"]
    process = subprocess.Popen([*PHL, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert shown == ""
    assert errors.startswith("stopped by SIGTERM in epoch ")
    assert len(errors.splitlines()) == 1
    done = load_checkpoint(tmp_path / "run" / "last.ckpt")["position"]["epoch"]
    assert 0 < done < 20
    result = phl("train", "--resume", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert load_checkpoint(tmp_path / "run" / "last.ckpt")["position"]["epoch"] == 20


# ----------------------------------------------------------------------------------------------------------- evaluating


def test_evaluate_shows_errors_by_kind_and_writes_them(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    words = ("evaluate", run / "best.safetensors", DATA, "--max-atoms", "3")
    result = phl(*words, "--json", tmp_path / "errors.json", "--plot", tmp_path / "errors.png")
    assert result.exit_code == 0, result.output
    said, _, head, _, *rows = result.output.splitlines()
    assert re.fullmatch(r".*was trained on \d+ of these 41 frames: errors on new structures are larger", said)
    assert head.split("  ")[0] == "geometries"
    assert all(unit in head for unit in ("meV/atom", "meV/Å", "Hessian / (eV/Å²)", "lowest eigenvalue / (eV/Å²)", "%"))
    groups = ["all", "near", "far", "stationary", "mild", "hot", "displaced", "irc", "nms"]
    groups += ["product", "reactant", "ts"]
    assert [row.split()[0] for row in rows[: len(groups)]] == groups
    assert rows[len(groups)] == "in brackets: 95 % bootstrap intervals, 41 frames drawn 2000 times"
    assert "Hessians: the calculator's own" in rows
    (report,) = read_reports(tmp_path / "errors.json")
    assert report.provenance["frames"] == report.metric("frames, all").value == 41
    assert f"{report.metric('hessian, all').value:.3g} [" in rows[0]
    assert report.provenance["phl_ase"] == __version__
    arrays = report.arrays
    assert all(arrays["forces_by_group_low"][0] < arrays[f"forces_by_group{end}"][0] for end in ("", "_high"))
    assert len(arrays["hessian_by_displacement"]) == len(arrays["displacement_means"])
    assert arrays["temperature_means"].tolist() == [300, 600, 900, 1200, 1600, 2000]
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_takes_the_test_part_of_the_runs_split(run, tmp_path):
    words = ("evaluate", run / "best.safetensors", DATA, "--max-atoms", "3")
    by_file = phl(*words, "--split", run / "split.json", "--json", tmp_path / "a.json")
    by_name = phl(*words, "--split", "random", "--part", "test")
    assert by_file.exit_code == by_name.exit_code == 0
    assert by_file.output == by_name.output
    split = json.loads((run / "split.json").read_text())
    sizes = open_dataset(DATA).sizes
    (report,) = read_reports(tmp_path / "a.json")
    assert report.metric("frames, all").value == sum(sizes[i] == 3 for i in split["test"])
    assert re.match(r".* was trained on or chosen by none of these \d+ frames\n", by_file.output)


def test_batches_hold_few_atoms():
    from phl_ase.cli.evaluate import _ATOMS_TOGETHER, _batches

    sizes = np.array([3, 500, 5, 60, 70, 3, 3, 4])
    batches = list(_batches([0, 1, 2, 3, 4, 6, 7], sizes))
    assert sorted(i for batch in batches for i in batch) == [0, 1, 2, 3, 4, 6, 7]
    assert all(len(batch) == 1 or len(batch) * sizes[batch].max() <= _ATOMS_TOGETHER for batch in batches)
    assert batches[-1] == [1]


@pytest.fixture
def slabs(tmp_path) -> Path:
    """Copper slabs labelled by EMT, their Hessians by the same central differences that evaluate takes."""
    from phl_ase.structures import frame_from_atoms
    from phl_ase.vibrations import finite_difference_hessian

    frames = []
    for seed in range(2):
        atoms = fcc111("Cu", (1, 1, 3), vacuum=5.0)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        labels["hessian"] = finite_difference_hessian(atoms)
        frames.append(frame_from_atoms(atoms))
        frames[-1] = type(frames[-1])(**{**vars(frames[-1]), **labels})
    write_dataset(tmp_path / "slabs.h5", frames)
    return tmp_path / "slabs.h5"


def test_evaluate_takes_methods_too(slabs, tmp_path):
    result = phl("evaluate", "emt", slabs, "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    (report,) = read_reports(tmp_path / "a.json")
    assert report.metric("frames, all").value == 2
    assert max(report.metric(f"{name}, all").value for name in ERRORS) < 1e-6
    assert report.provenance["hessians"] == "finite differences of forces"
    assert "Hessians: finite differences of forces" in result.output
    assert "note: no errors against displacement" in result.output
    assert "note: no errors against temperature" in result.output


def test_evaluate_compares_relative_energies_of_another_level_of_theory(tmp_path):
    words = ("evaluate", "tblite", DATA, "--max-atoms", "3", "--split", "random", "--split-seed", "4")
    absolute = phl(*words, "--json", tmp_path / "a.json")
    relative = phl(*words, "--json", tmp_path / "b.json", "--energies", "relative")
    assert absolute.exit_code == relative.exit_code == 0
    assert "compare relative energies" in absolute.output
    assert "energies: relative, within each composition" in relative.output
    reports = [read_reports(tmp_path / name)[0] for name in ("a.json", "b.json")]
    first, second = (report.metric("energy, all").value for report in reports)
    assert first > 1e5 > 1e3 > second > 1
    assert reports[0].metric("forces, all") == reports[1].metric("forces, all")


def test_mistakes_of_evaluate(run, tmp_path):
    model = run / "best.safetensors"
    assert "no data set 'none.h5'" in mistake("evaluate", model, "none.h5")
    assert "does not exist" in mistake("evaluate", "none.safetensors", DATA)
    assert "unknown model 'best'" in mistake("evaluate", "best", DATA)
    assert "has O, which the model never saw; it knows H, C, N" in mistake("evaluate", model, DATA)
    assert "unknown part of a split 'tests'; valid: all, test" in mistake("evaluate", model, DATA, "--part", "tests")
    assert "unknown split 'half'" in mistake("evaluate", model, DATA, "--split", "half")
    assert "cannot be read" in mistake("evaluate", model, DATA, "--split", tmp_path / "none.json")
    assert "holds no split" in mistake("evaluate", model, DATA, "--split", _written(tmp_path / "a.json", "[]"))
    assert "split is broken" in mistake("evaluate", model, DATA, "--split", _written(tmp_path / "b.json", "{}"))
    assert "no frame" in mistake("evaluate", model, DATA, "--max-atoms", "2")
    assert "unknown dtype 'float8'" in mistake("evaluate", model, DATA, "--dtype", "float8")
    json_file = tmp_path / "none" / "a.json"
    assert "the folder" in mistake("evaluate", model, DATA, "--json", json_file)
    assert "it is a folder" in mistake("evaluate", model, DATA, "--json", tmp_path)
    assert "cannot write the figure" in mistake("evaluate", model, DATA, "--plot", tmp_path)
    assert "unknown way to compare energies 'none'" in mistake("evaluate", model, DATA, "--energies", "none")


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_method_that_fails_on_a_structure_is_one_line(tmp_path):
    atoms = molecule("CH3Cl")  # no EMT parameters for Cl
    atoms.calc = SinglePointCalculator(atoms, energy=0.0)
    ase.io.write(tmp_path / "a.extxyz", atoms)
    assert "emt cannot evaluate frame 0, CClH3 (" in mistake("evaluate", "emt", tmp_path / "a.extxyz")


def test_data_without_labels_are_one_line(tmp_path):
    ase.io.write(tmp_path / "a.extxyz", molecule("H2O"))
    assert "nothing to compare" in mistake("evaluate", "emt", tmp_path / "a.extxyz")


# ------------------------------------------------------------------------------------------------- models, data, checks


def test_models_lists_and_shows(run):
    assert phl("models").exit_code == 0
    card = json.loads(phl("models", run / "best.safetensors", "--json").output)
    assert card["config"]["species"] == [1, 6, 7]
    assert card["provenance"]["scheme"]["name"] == "E-F-HVP-random"
    assert "unknown model 'none'" in mistake("models", "none")
    assert "name one" in mistake("models", "--json")


def test_a_model_is_shown_in_a_few_readable_lines(run):
    lines = phl("models", "default").output.splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 100
    shown = {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines if not line.startswith(" ")}
    assert shown["model"].startswith("default, committee of 3: painn")
    assert shown["elements"] == "H C N O"
    assert {"CH2O", "C2H2", "CHN"} <= set(" ".join(lines).replace(",", " ").split())
    assert shown["level of theory"] == "wB97X-D/6-31G(d)"
    assert re.match(r"energy [\d.]+ meV/atom, forces [\d.]+ meV/Å, hessian [\d.]+ eV/Å²", shown["errors"])
    own = phl("models", run / "best.safetensors").output
    assert "scheme:" in own
    assert re.search(r"molecules: +\w+", own)


def test_models_lists_short_facts_of_bundled_models(run, monkeypatch):
    bundled = {"small": run / "best.safetensors"}
    monkeypatch.setattr("phl_ase.potentials.cards.bundled_models", lambda: bundled)
    head, _, row = phl("models").output.splitlines()
    assert head.split("  ")[0] == "model"
    assert row.split() == ["small", "H", "C", "N", "wB97X-D/6-31G(d)", "E-F-HVP-random", "painn"]
    monkeypatch.setattr("phl_ase.potentials.cards.bundled_models", dict)
    assert "'phl demo' or 'phl train' makes one" in phl("models").output


def test_data_info(tmp_path):
    files = ("--json", tmp_path / "a.json", "--plot", tmp_path / "a.png")
    result = phl("data", "info", DATA, *files)
    assert result.exit_code == 0, result.output
    assert f"{DATA}: 1023 frames, 4625 atoms, 3 to 6 a frame" in result.output
    assert "kinds: displaced 200, irc 298, nms 450, product 25, reactant 25, ts 25" in result.output
    assert json.loads((tmp_path / "a.json").read_text())["frames"] == 1023
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_mistakes_of_data_info(tmp_path):
    assert "no data set 'none'" in mistake("data", "info", "none")
    (tmp_path / "a.h5").write_text("no HDF5")
    assert "a.h5" in mistake("data", "info", tmp_path / "a.h5")
    assert "cannot write the figure" in mistake("data", "info", DATA, "--plot", tmp_path / "none" / "a.png")
    assert "cannot write the JSON file" in mistake("data", "info", DATA, "--json", tmp_path / "none" / "a.json")


@pytest.mark.parametrize("passed", [True, False])
def test_check_shows_the_report_and_says_it_in_the_exit_code(run, monkeypatch, passed):
    class Report:
        def table(self) -> str:
            return "the table"

    report = Report()
    report.passed = passed
    seen = []
    monkeypatch.setattr("phl_ase.conformance.check_potential", lambda potential: seen.append(potential) or report)
    result = phl("check", run / "best.safetensors")
    assert (result.exit_code, result.output) == (0 if passed else 1, "the table\n")
    assert seen[0].species == (1, 6, 7)


@pytest.mark.slow
def test_check_for_real(run):
    result = phl("check", run / "best.safetensors")
    assert "HVP" in result.output
    assert result.exit_code == 0, result.output


def test_mistakes_of_check():
    assert "emt is an ASE calculator (EMT); expected a potential" in mistake("check", "emt")
    assert "does not exist" in mistake("check", "none.safetensors")
    assert "--trust" in mistake("check", "ase:some.package:factory")


# ----------------------------------------------------------------------------------------------------------------- demo


def test_demo_hands_its_options_on(tmp_path, monkeypatch):
    seen = []

    def run_and_report(config, out, *, processes):
        seen.append((config.budget.epochs, config.potential.settings()["channels"], out, processes))

    monkeypatch.setattr("phl_ase.cli.demo.run_and_report", run_and_report)
    assert phl("demo", "--out", tmp_path / "d", "--quick", "--epochs", "3", "--processes", "1").exit_code == 0
    assert seen == [(3, 16, tmp_path / "d", 1)]


def test_training_on_structures_without_labels_says_what_is_missing(tmp_path):
    frames = [molecule("H2O") for _ in range(12)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    ase.io.write(tmp_path / "bare.xyz", frames)
    (tmp_path / "bare.toml").write_text(f'[data]\nsource = "{tmp_path / "bare.xyz"}"\n', encoding="utf-8")
    result = CliRunner().invoke(app, ["train", str(tmp_path / "bare.toml"), "-o", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "no training frame carries energies or forces; 'phl label' makes them" in result.stderr


def test_a_signal_within_an_import_ends_with_one_line(capsys):
    """Imports turn an interruption into errors of their own."""
    from phl_ase.cli.error_handling import reported

    def command():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:
            raise ImportError("numpy could not be imported") from None

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as stopped:
        reported(command)()
    assert stopped.value.exit_code == 130
    assert capsys.readouterr().err == "stopped by SIGTERM\n"
    assert signal.getsignal(signal.SIGTERM) is before
