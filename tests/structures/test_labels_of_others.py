"""Labels that another package declares: a gap per system, and a charge per atom, from file to loss, nothing edited."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from surfaces import cluster

from phl_ase import PHLCalculator
from phl_ase.datasets import (
    EXPORTERS,
    Dataset,
    MemoryDataset,
    import_dataset,
    merge,
    open_dataset,
    split,
    summarise,
    write_dataset,
    write_split,
)
from phl_ase.derivatives import evaluate
from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.objective import TERMS, mean_square, register_term
from phl_ase.potentials import ARCHITECTURES, Architecture, PaiNN, PaiNNConfig, load_model
from phl_ase.structures import Label, PackedFrames, atoms_from_frame, collate, label, register_label
from phl_ase.structures.label import LABELS
from phl_ase.training import RunData, parse_config, train

GAP = Label("gap", "system", (), "eV", largest=100.0)
PARTIAL = Label("partial", "atom", (), "e", largest=10.0)


class WithGap(PaiNN):
    """A model that also predicts a gap, as much for every atom, and no charges."""

    predicts = ("gap", "partial")

    def __init__(self, config: PaiNNConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        self.of_atom = torch.nn.Parameter(torch.zeros(()))

    def card(self):
        return {**super().card(), "architecture": "with-gap"}

    def predict(self, batch, names):
        return {"gap": self.of_atom * batch.sizes(), "partial": torch.zeros_like(batch.positions[:, 0])}


@pytest.fixture
def declared(monkeypatch):
    for table in (LABELS, TERMS, ARCHITECTURES):
        for name in ("gap", "partial", "with-gap"):
            monkeypatch.delitem(table, name, raising=False)
    monkeypatch.setitem(LABELS, "gap", GAP)  # taken away again after the test
    monkeypatch.setitem(LABELS, "partial", PARTIAL)
    for one in (GAP, PARTIAL):
        monkeypatch.setitem(TERMS, one.name, mean_square(one))
    monkeypatch.setitem(ARCHITECTURES, "with-gap", Architecture(PaiNNConfig, WithGap))


@pytest.fixture
def frames(rng, declared):
    """Gaps of 0.5 eV an atom on three frames of four, charges on every other one."""
    found = []
    for index in range(12):
        n = 2 + index % 3
        frame = dataclasses.replace(cluster(rng, n, species=(1, 8)), energy=-float(n), forces=rng.normal(size=(n, 3)))
        gap, partial = (0.5 * n if index % 4 else None), (rng.normal(size=n) if index % 2 else None)
        found.append(dataclasses.replace(frame.with_labels({"gap": gap, "partial": partial}), frame_id=index))
    return found


def assert_same_labels(found, frames, tolerance=0.0):
    assert len(found) == len(frames)
    for one, frame in zip(found, frames, strict=True):
        assert one.labels().keys() == frame.labels().keys()
        for name, value in frame.labels().items():
            np.testing.assert_allclose(one.label(name), value, rtol=0, atol=tolerance)


def test_our_file_keeps_them(tmp_path, frames):
    written = write_dataset(tmp_path / "a.h5", frames)
    with Dataset(tmp_path / "a.h5") as dataset:
        dataset.verify()
        assert_same_labels(dataset, frames)
        assert dataset.coverage["gap"].tolist() == [bool(i % 4) for i in range(12)]
        summary = summarise(dataset)
    assert written == MemoryDataset(frames).content_hash()
    assert summary["coverage"]["partial"] == 6
    assert summary["ranges"]["gap_max"] == {
        "min": 1.0, "mean": pytest.approx(1.5, abs=0.2), "max": 2.0, "unit": "eV", "meaning": "largest element of gap",
    }  # fmt: skip


def test_frames_without_them_have_the_hash_that_they_had(rng, tmp_path, monkeypatch):
    frames = [dataclasses.replace(cluster(rng, 3), energy=1.0)]
    before = write_dataset(tmp_path / "a.h5", frames)
    monkeypatch.setitem(LABELS, "gap", GAP)
    assert write_dataset(tmp_path / "b.h5", frames) == MemoryDataset(frames).content_hash() == before
    with Dataset(tmp_path / "a.h5") as dataset:
        dataset.verify()
        assert not dataset.coverage["gap"].any()


def test_a_file_says_whose_label_it_holds(tmp_path, frames, monkeypatch):
    write_dataset(tmp_path / "a.h5", frames)
    monkeypatch.delitem(LABELS, "gap")
    with pytest.raises(PHLError, match=r"'gap', which is no part of a data set; .* import that package first"):
        Dataset(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("name", "path", "tolerance"), [("extxyz", "a.xyz", 1e-7), ("ase-db", "a.db", 0.0), ("deepmd", "a", 0.0)]
)
def test_other_formats_keep_them(tmp_path, frames, name, path, tolerance):
    EXPORTERS[name].write(MemoryDataset(frames), tmp_path / path)
    report = import_dataset(tmp_path / path, tmp_path / "again.h5")
    assert (report.frames, report.coverage["gap"], report.coverage["partial"]) == (12, 9, 6)
    if name == "deepmd":  # sorted by their composition
        return
    with Dataset(tmp_path / "again.h5") as dataset:
        assert_same_labels(dataset, frames, tolerance)
    again = open_dataset(tmp_path / path)
    assert_same_labels(again, frames, tolerance)


def test_their_units_are_converted_and_their_keys_chosen(tmp_path, frames):
    EXPORTERS["extxyz"].write(MemoryDataset(frames[1:4]), tmp_path / "a.xyz")
    text = (tmp_path / "a.xyz").read_text().replace("REF_gap", "lumo_homo")
    (tmp_path / "a.xyz").write_text(text)
    import_dataset(tmp_path / "a.xyz", tmp_path / "a.h5", keys={"gap": "lumo_homo"}, units={"gap": "meV"})
    with Dataset(tmp_path / "a.h5") as dataset:
        assert dataset[0].label("gap") == pytest.approx(1e-3 * frames[1].label("gap"), rel=1e-12)


def test_merging_and_splitting_keep_them(tmp_path, frames):
    merge([MemoryDataset(frames[:5], name="one"), MemoryDataset(frames[5:], name="two")], tmp_path / "both.h5")
    with Dataset(tmp_path / "both.h5") as both:
        assert_same_labels(both, frames)
        parts = split(both, "random", 0, fractions=(0.5, 0.25, 0.25))
        write_split(both, parts, tmp_path / "parts")
    with Dataset(tmp_path / "parts" / "test.h5") as part:
        assert_same_labels(part, [frames[i] for i in parts.test])


def test_batches_mask_what_is_absent(frames):
    _, labels = PackedFrames(frames, ()).select([3, 0, 1])
    assert labels["gap"].tolist() == [0.5 * len(frames[3]), 0.0, 0.5 * len(frames[1])]
    assert labels.carried("gap").tolist() == [True, False, True]
    assert labels["partial"].shape == (len(frames[3]) + len(frames[0]) + len(frames[1]),)


@pytest.mark.parametrize("scheme", ["E-F", "E-F-HVP-random"])
def test_a_model_learns_them(tmp_path, frames, scheme):
    if scheme != "E-F":
        frames = [dataclasses.replace(f, hessian=np.eye(3 * len(f))) for f in frames]
    config = parse_config({
        "potential": {"architecture": "with-gap", "channels": 4, "layers": 1, "n_basis": 4},
        "scheme": {"name": scheme},
        "loss": {"gap": 1.0},
        "training": {"epochs": 40, "batch_size": 4, "learning_rate": 0.05, "warmup_epochs": 0, "validate_every": 40},
    })  # fmt: skip
    assert parse_config(config.to_json()) == config
    result = train(config, RunData(frames[:8], frames[8:]), tmp_path / "run")
    assert {"train_gap", "valid_gap"} <= result.records[-1].keys()
    assert result.records[-1]["train_gap"] < 0.2 * result.records[0]["train_gap"]
    model = load_model(result.model)
    batch, labels = collate(frames[8:], model.cutoffs)
    predictions = evaluate(model, batch.to(dtype=next(model.parameters()).dtype), ("energy", "gap"))
    error = TERMS["gap"].total(batch, predictions, labels) / labels.carried("gap").sum()
    assert float(error.sqrt()) == pytest.approx(result.records[-1]["valid_gap"], rel=1e-3)
    assert float(error.sqrt()) < 0.3


def test_what_a_model_does_not_predict_is_said(frames):
    model = PaiNN(PaiNNConfig((1, 8), channels=4, layers=1))
    batch, _ = collate(frames[:2], model.cutoffs)
    with pytest.raises(PHLError, match="PaiNN does not predict gap"):
        evaluate(model, batch.to(dtype=next(model.parameters()).dtype), ("energy", "gap"))


def test_mistakes_are_said(frames):
    with pytest.raises(PHLError, match=r"unknown key 'loss.gab'; valid: .*energy"):
        parse_config({"loss": {"gab": 1.0}})
    with pytest.raises(PHLError, match=r"loss.gap"):
        parse_config({"loss": {"gap": -1.0}})
    with pytest.raises(PHLError, match=r"frame: partial has shape \(1,\), expected"):
        frames[0].with_labels({"partial": np.zeros(1)}).check()
    with pytest.raises(NonFiniteError, match="gap holds NaN"):
        frames[0].with_labels({"gap": np.nan}).check()
    with pytest.raises(PHLError, match="gap as large as 1e\\+03 eV; expected at most 1e\\+02 eV"):
        MemoryDataset([frames[0].with_labels({"gap": 1000.0})])
    with pytest.raises(PHLError, match="unknown label 'gab'"):
        frames[0].with_labels({"gab": 1.0})


def test_a_label_is_registered_once(monkeypatch):
    monkeypatch.delitem(LABELS, "gap", raising=False)
    monkeypatch.delitem(TERMS, "gap", raising=False)
    try:
        assert register_label(GAP) is register_label(GAP) is LABELS["gap"]
        assert register_term(mean_square(GAP)) is TERMS["gap"]
        for other, words in (
            (dataclasses.replace(GAP, unit="Ha"), "uses the name 'REF_gap', which is taken|uses the name 'gap'"),
            (Label("hvp2", "probe", (3,), "1"), "per probe; expected system, atom or pair"),
            (Label("positions", "atom", (3,), "Å"), "'positions', which is taken"),
            (Label("energy_offsets", "system", (), "1"), "energy_offsets', which is taken"),
            (Label("a b", "system", (), "1"), "expected Python identifiers"),
            (Label("blocks", "pair", (2, 3), "1"), "expected .* square ones"),
        ):
            with pytest.raises(PHLError, match=words):
                register_label(other)
        with pytest.raises(PHLError, match="there is a loss term 'gap'"):
            register_term(mean_square(GAP))
    finally:
        LABELS.pop("gap", None)
        TERMS.pop("gap", None)


PACKAGE = """
from phl_ase.objective import mean_square, register_term
from phl_ase.potentials import ARCHITECTURES, Architecture, PaiNN, PaiNNConfig
from phl_ase.structures import Label, register_label

WIDTH = register_label(Label("width", "system", (), "Å"))
register_term(mean_square(WIDTH))


class WithWidth(PaiNN):
    predicts = ("width",)


ARCHITECTURES["with-width"] = Architecture(PaiNNConfig, WithWidth)
"""


def install(folder, monkeypatch, text, value):
    """Put a package with an entry point on the path, as pip would."""
    (folder / "phl_with_width.py").write_text(text)
    info = folder / "phl_with_width-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: phl-with-width\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[phl_ase.labels]\nwidth = {value}\n")
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    "program",
    [
        "from phl_ase.training import parse_config\n"
        "from phl_ase.potentials.registry import build_model\n"
        "assert parse_config({'loss': {'width': 2.0}}).loss.width == 2.0\n"
        "assert build_model('with-width', {'species': (1, 8)}).predicts == ('width',)",
        "from phl_ase.structures import labels\n"
        "from phl_ase.objective import terms\n"
        "assert terms()['width'].unit == labels()['width'].unit == 'Å'",
        "from phl_ase.potentials.registry import build_model\n"
        "assert build_model('with-width', {'species': (1, 8)}).predicts == ('width',)",
    ],
)
def test_a_package_is_found_by_its_entry_point(tmp_path, monkeypatch, program):
    # the package imports what is being imported when it is looked for
    install(tmp_path, monkeypatch, PACKAGE, "phl_with_width:WIDTH")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [("WIDTH = 1", "it is 1; expected a Label"), ("import nothing_like_it", "ModuleNotFoundError"), ("", "WIDTH")],
)
def test_a_package_that_is_broken_is_named(tmp_path, monkeypatch, text, words):
    install(tmp_path, monkeypatch, text, "phl_with_width:WIDTH")
    monkeypatch.delitem(sys.modules, "phl_with_width", raising=False)
    for _ in range(2):  # again: it is not taken for loaded
        monkeypatch.setattr(label, "_LOADED", set())
        with pytest.raises(PHLError, match=f"'width' of phl_ase.labels .*{words}.* mend or uninstall"):
            label.labels()
    monkeypatch.delitem(sys.modules, "phl_with_width", raising=False)


def test_their_errors_are_measured(frames):
    from phl_ase.scoring import LabelErrors

    errors = LabelErrors()
    predictions = [{"gap": frame.label("gap") and frame.label("gap") + 0.1 * i} for i, frame in enumerate(frames)]
    errors.add(frames[:5], predictions[:5])
    errors.add(frames[5:], predictions[5:])
    wrong = np.array([0.1 * i for i in range(12) if i % 4])
    assert errors.means() == {"gap": (pytest.approx(wrong.mean()), pytest.approx(np.sqrt((wrong**2).mean())), 9)}


def test_the_calculator_gives_them(frames):
    model = WithGap(PaiNNConfig((1, 8), channels=4, layers=1))
    model.of_atom.data += 0.25
    structures = [atoms_from_frame(frame) for frame in frames[:3]]
    rows = PHLCalculator(model).evaluate(structures, ["energy", "gap", "partial"])
    assert [row["gap"] for row in rows] == [pytest.approx(0.25 * len(atoms)) for atoms in structures]
    assert [row["partial"].shape for row in rows] == [(len(atoms),) for atoms in structures]
    with pytest.raises(PHLError, match="unknown quantity 'gap'"):
        PHLCalculator(PaiNN(PaiNNConfig((1, 8), channels=4, layers=1))).evaluate(structures, ["gap"])
