"""``phl data`` as a user types it: import, export, merge, split, info."""

from __future__ import annotations

import json
import os

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from test_cli import DATA, mistake, phl

from phl_ase.datasets import Dataset, DatasetMeta, open_dataset, summarise, write_dataset
from phl_ase.datasets.summary import MEASURES, measures
from phl_ase.plots.frames import _PANELS, Spread, draw
from phl_ase.structures.frame import Frame


def water(energy: float = -76.0, **info) -> Atoms:
    atoms = Atoms("OHH", positions=[[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
    atoms.info = {"energy_of_mine": energy, **info}
    atoms.arrays["REF_forces"] = np.zeros((3, 3))
    return atoms


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.xyz"
    ase.io.write(path, [water(-76.0), water(-75.0), water(-74.0)], format="extxyz")
    return path


def test_import(tmp_path, source):
    words = ("--key", "energy=energy_of_mine", "--level", "HF/STO-3G", "--energy-reference", "absolute")
    result = phl("data", "import", source, "-o", tmp_path / "a.h5", *words, "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    assert "3 of 3 frames taken, 0 refused; format extxyz" in result.stdout
    assert "duplicates (same atoms, positions within 0.0001 Å): 2, first 0 and 1" in result.stdout
    with Dataset(tmp_path / "a.h5") as dataset:
        assert dataset.meta.level_of_theory == "HF/STO-3G"
        assert [frame.energy for frame in dataset] == [-76.0, -75.0, -74.0]
        report = json.loads((tmp_path / "a.json").read_text())
        assert report["content_hash"] == dataset.content_hash()
    assert report["coverage"] == {"energy": 3, "forces": 3, "stress": 0, "hessian": 0, "hvp": 0}
    assert report["keys"]["energy"] == {"energy_of_mine": 3}


def test_import_with_refused_frames_ends_with_one(tmp_path):
    ase.io.write(tmp_path / "a.xyz", [water(), water(REF_hessian=np.arange(81.0))], format="extxyz")
    result = phl("data", "import", tmp_path / "a.xyz", "-o", tmp_path / "a.h5")
    assert result.exit_code == 1
    assert "1 of 2 frames taken, 1 refused" in result.stdout
    assert "refused a.xyz: frame 1: the Hessian is asymmetric by" in result.stdout
    with open_dataset(tmp_path / "a.h5") as dataset:
        assert dataset.meta.provenance["refused"] == 1
        assert "asymmetric" in dataset.meta.provenance["refusals"][0]["reason"]


def test_mistakes_of_an_import(tmp_path, source):
    target = ("-o", tmp_path / "b.h5")
    assert "unknown format 'cif'; valid: ase," in mistake("data", "import", source, *target, "--format", "cif")
    assert "expected LABEL=…, as --key energy=dft_energy" in mistake(
        "data", "import", source, *target, "--key", "energy"
    )
    assert "unknown label in the key" in mistake("data", "import", source, *target, "--key", "enthalpy=a")
    assert "no frame has 'a' for energy" in mistake("data", "import", source, *target, "--key", "energy=a")
    assert "unknown unit 'foot'; valid: Bohr" in mistake("data", "import", source, *target, "--unit", "energy=foot")
    assert "unknown unit of force 'Ha'; valid: Ha/Bohr" in mistake(
        "data", "import", source, *target, "--unit", "forces=Ha"
    )
    assert "unknown label with a unit 'mass'" in mistake("data", "import", source, *target, "--unit", "mass=Ha")
    assert "no file or folder" in mistake("data", "import", tmp_path / "none", *target)
    assert "does not exist; make it first" in mistake("data", "import", source, "-o", tmp_path / "none" / "b.h5")
    source.write_text("3\n\nO 0 0 0\n")
    assert "it is truncated" in mistake("data", "import", source, *target)
    assert os.listdir(tmp_path) == ["a.xyz"]


@pytest.mark.parametrize(
    ("target", "loses"), [("a.xyz", "level of theory, energy reference"), ("a", "kind"), ("a.db", "level of theory")]
)
def test_export_and_import(tmp_path, target, loses):
    result = phl("data", "export", DATA, "-o", tmp_path / target)
    assert result.exit_code == 0, result.output
    assert loses in result.stdout.splitlines()[-1]
    assert phl("data", "import", tmp_path / target, "-o", tmp_path / "back.h5").exit_code == 0
    with open_dataset(DATA) as before, Dataset(tmp_path / "back.h5") as after:
        assert len(after) == len(before)
        assert after.coverage["hessian"].all()
        lowest, found = (sorted(frame.energy for frame in dataset) for dataset in (before, after))
        np.testing.assert_allclose(found, lowest, atol=1e-8)  # the decimals of extxyz


def test_mistakes_of_an_export(tmp_path):
    assert "no format has the suffix" in mistake("data", "export", DATA, "-o", tmp_path / "a.png")
    assert "unknown format to export" in mistake("data", "export", DATA, "-o", tmp_path / "a", "--format", "horm")
    (tmp_path / "b").mkdir()
    assert "it is a folder" in mistake("data", "export", DATA, "-o", tmp_path / "b", "--format", "deepmd")


def test_merge(tmp_path):
    frames = [Frame(numbers=np.array([1, 1]), positions=np.eye(3)[:2] * scale, energy=scale) for scale in (1.0, 2.0)]
    write_dataset(tmp_path / "a.h5", frames, DatasetMeta("HF", "absolute"))
    write_dataset(tmp_path / "b.h5", frames[1:], DatasetMeta("HF", "absolute"))
    write_dataset(tmp_path / "c.h5", frames, DatasetMeta("B3LYP", "absolute"))
    result = phl("data", "merge", tmp_path / "a.h5", tmp_path / "b.h5", "-o", tmp_path / "ab.h5")
    assert result.exit_code == 0, result.output
    assert "3 frames of 2 data sets" in result.stdout
    assert "positions within 0.0001 Å): 1, first 1 and 2" in result.stdout
    words = ("data", "merge", tmp_path / "a.h5", tmp_path / "c.h5", "-o", tmp_path / "ac.h5")
    assert "differ in level of theory" in mistake(*words)
    assert not (tmp_path / "ac.h5").exists()
    assert phl(*words, "--allow-mixed").exit_code == 0
    with Dataset(tmp_path / "ac.h5") as dataset:
        assert dataset.meta.level_of_theory == "mixed: HF, B3LYP"
    assert "expected two or more" in mistake("data", "merge", tmp_path / "a.h5", "-o", tmp_path / "ac.h5")


def test_split(tmp_path):
    result = phl("data", "split", DATA, "--by", "by-reaction", "--seed", 3, "-o", tmp_path / "parts")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "parts" / "split.json").read_text())
    assert (record["name"], record["seed"]) == ("by-reaction", 3)
    reactions = []
    for part in ("train", "valid", "test"):
        with Dataset(tmp_path / "parts" / f"{part}.h5") as dataset:
            assert len(dataset) == len(record[part])
            reactions.append(set(dataset.reactions.tolist()))
    assert len(set.union(*reactions)) == sum(map(len, reactions)) == 25
    assert "unknown split 'alphabet'; valid: by-" in mistake("data", "split", DATA, "--by", "alphabet", "-o", tmp_path)
    assert "fractions are" in mistake("data", "split", DATA, "-o", tmp_path / "a", "--fractions", 1, 1, 1)


def test_info(tmp_path):
    result = phl("data", "info", DATA, "--histogram", tmp_path / "a.png", "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    assert "sizes: 41 of 3 atoms, 490 of 4 atoms, 410 of 5 atoms, 82 of 6 atoms" in result.stdout
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with open_dataset(DATA) as dataset:
        assert json.loads((tmp_path / "a.json").read_text()) == summarise(dataset)


def test_energies_are_compared_within_a_composition(tmp_path):
    rows = [(8, -10.0), (8, -14.0), (6, -3.0), (6, None), (7, None)]
    frames = [Frame(numbers=np.array([z, 1]), positions=np.eye(3)[:2], energy=energy) for z, energy in rows]
    write_dataset(tmp_path / "a.h5", frames)
    with Dataset(tmp_path / "a.h5") as dataset:
        table = measures(dataset)
    np.testing.assert_array_equal(table["energy_above_lowest"], [2.0, 0.0, 0.0, np.nan, np.nan])
    figure = draw(Spread("a", np.array(["ts", "", "ts", "md", "md"]), table))
    assert set(_PANELS) <= set(MEASURES)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["no frame carries this"] * 2  # neither forces nor Hessians
    assert all(MEASURES[name][0] in axes.get_xlabel() for name, axes in zip(_PANELS, figure.axes, strict=True))


def test_a_newer_or_linked_data_set_is_refused(tmp_path):
    write_dataset(tmp_path / "a.h5", [Frame(numbers=np.array([1]), positions=np.zeros((1, 3)))])
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["positions"]
        file["positions"] = h5py.ExternalLink("b.h5", "/positions")
    for words in (("info", tmp_path / "a.h5"), ("import", tmp_path / "a.h5", "-o", tmp_path / "b.h5")):
        assert "is an external link; refused" in mistake("data", *words)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["schema"] = 2
    assert "is newer than 1" in mistake("data", "split", tmp_path / "a.h5", "-o", tmp_path / "parts")


# ---------------------------------------------------------------------------------------------- labels under other keys


def test_every_command_that_reads_labels_takes_their_keys(tmp_path, source):
    result = phl("data", "info", source, "--key", "energy=energy_of_mine", "--json", tmp_path / "info.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "info.json").read_text())["coverage"]["energy"] == 3

    result = phl("data", "export", source, "-o", tmp_path / "b.extxyz", "--key", "energy=energy_of_mine")
    assert result.exit_code == 0, result.output
    assert [frame.energy for frame in open_dataset(tmp_path / "b.extxyz")] == [-76.0, -75.0, -74.0]

    result = phl("data", "split", source, "-o", tmp_path / "parts", "--key", "energy=energy_of_mine")
    assert result.exit_code == 0, result.output
    assert open_dataset(tmp_path / "parts" / "train.h5")[0].energy is not None

    result = phl("data", "merge", source, source, "-o", tmp_path / "c.h5", "--key", "energy=energy_of_mine")
    assert result.exit_code == 0, result.output
    assert open_dataset(tmp_path / "c.h5").coverage["energy"].all()


def test_evaluate_takes_the_keys_of_labels(tmp_path):
    atoms = bulk_of_copper()
    atoms.info["mine"] = 1.25
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    words = ("evaluate", "emt", tmp_path / "a.xyz", "--key", "energy=mine", "--json", tmp_path / "a.json")
    result = phl(*words)
    assert result.exit_code == 0, result.output
    atoms.calc = EMT()
    expected = 1000 * abs(atoms.get_potential_energy() - 1.25) / len(atoms)
    report = json.loads((tmp_path / "a.json").read_text())
    errors = [m["value"] for m in report["metrics"] if "energy" in m["name"].lower() and m["unit"] == "meV/atom"]
    assert errors
    np.testing.assert_allclose(errors[0], expected, rtol=1e-6)


@pytest.mark.parametrize("words", [["energy"], ["=mine"], ["energy=mine", "energy=yours"]])
def test_keys_of_another_form_are_refused(source, words):
    options = [word for key in words for word in ("--key", key)]
    assert "--key" in mistake("data", "info", source, *options)


def bulk_of_copper() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms
