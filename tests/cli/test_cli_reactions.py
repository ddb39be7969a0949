"""``phl reactions`` and ``phl sample``: files in, a data set and a table out, one line for a mistake."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from reaction_surfaces import RADIUS, WELL, swing
from typer.testing import CliRunner

from phl_ase.cli import app
from phl_ase.datasets import open_dataset

SWING = ("--with", "ase:reaction_surfaces:Swing", "--trust")
LITTLE = ("--temperatures", "", "--irc-points", 1)
TS = Atoms("CNH", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.19], [0.0, 1.15, 0.3]])


def phl(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False, prog_name="phl")


def mistake(*words: object) -> str:
    result = phl(*words)
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def hanging(degrees: float, name: str = "", **known: object) -> Atoms:
    """The swing at an angle."""
    atoms = swing()
    atoms.calc = None
    angle = np.radians(degrees)
    atoms.positions[0] = [RADIUS * np.cos(angle), RADIUS * np.sin(angle), 0.0]
    atoms.info.update({**({"reaction": name} if name else {}), **known})
    return atoms


def written(path: Path, *frames: Atoms) -> Path:
    ase.io.write(path, frames, format="extxyz")
    return path


def test_a_reaction_by_xtb(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    source, out, done = written(tmp_path / "hcn.xyz", TS), tmp_path / "hcn.h5", tmp_path / "done.json"
    options = ("--hvp", 1, "--temperatures", "300,900", "--samples", 2, "--irc-points", 3)
    result = phl("reactions", source, "--with", "tblite", *options, "-o", out, "--json", done)
    assert result.exit_code == 0, result.output
    assert "1 of 1 reactions finished, GFN2-xTB" in result.output
    found = json.loads(done.read_text())["reactions"][0]
    assert (found["name"], found["outcome"], found["frames"]) == ("hcn", "finished", 3 + 6 + 12)
    # GFN2-xTB's own barriers (test_paths): 73.2 and 53.2 kcal/mol, 1426i cm⁻¹
    assert sorted(found["barriers"]) == pytest.approx([2.307, 3.175], abs=0.002)
    assert found["imaginary"] == pytest.approx(-1426, abs=3)
    row = next(line for line in result.output.splitlines() if line.startswith("hcn "))
    assert {"finished", "3", "1426i", "73.2", "53.2", "21"} <= set(row.split())
    assert "transition state: converged" in Path(found["log"]).read_text()
    with open_dataset(out) as dataset:
        dataset.verify()
        assert all(frame.hvp is not None and frame.hessian is None for frame in dataset)
        assert dataset.meta.provenance["source"] == "hcn.xyz"
        assert {frame.temperature for frame in dataset} == {None, 300.0, 900.0}


def test_one_that_fails_among_good_ones(tmp_path):
    frames = [hanging(80.0, "good", description="a swing"), hanging(90 - np.degrees(WELL), "resting")]
    source, out = written(tmp_path / "two.xyz", *frames), tmp_path / "two.h5"
    result = phl("reactions", source, *SWING, *LITTLE, "-o", out)
    assert result.exit_code == 1
    assert "resting: minimum: the guess is a minimum" in result.output
    assert "1 of 2 reactions finished" in result.output
    assert "the same command with --retry" in result.output
    (story,) = (tmp_path / "two.h5.work").glob("good-*/log.txt")
    assert story.read_text().startswith("good — a swing")
    with open_dataset(out) as dataset:
        assert set(dataset.reactions.tolist()) == {"good"}


@pytest.mark.parametrize("files", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_pairs(tmp_path, files):
    ends = [hanging(90 - sign * np.degrees(WELL)) for sign in (-1, 1)]
    if files == 1:
        words: tuple = (written(tmp_path / "ends.xyz", *ends), "--pairs")
    else:
        words = (written(tmp_path / "ends.xyz", ends[0]), "--product", written(tmp_path / "p.xyz", ends[1]))
    result = phl("reactions", *words, *SWING, *LITTLE, "--guess", "idpp", "-o", tmp_path / "out.h5")
    assert result.exit_code == 0, result.output
    with open_dataset(tmp_path / "out.h5") as dataset:
        assert {frame.kind for frame in dataset} == {"reactant", "ts", "product", "irc"}
        assert set(dataset.reactions.tolist()) == {"ends"}


def test_an_odd_number_of_electrons(tmp_path):
    source = written(tmp_path / "hco.xyz", Atoms("CHO", [[0, 0, 0], [1.1, 0, 0], [-1.1, 0.3, 0]]))
    result = phl("reactions", source, "--with", "tblite", *LITTLE, "-o", tmp_path / "out.h5")
    assert result.exit_code == 1
    assert "hco: refused: CHO with charge 0 has 15 electrons, which cannot have multiplicity 1" in result.output
    assert "no data set was written" in result.output
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--with", "dft"), "unknown model 'dft'"),
        (("--with", "ase:reaction_surfaces:Swing"), "--trust"),
        ((*SWING, "--strategy", "downhill"), "unknown Sella strategy 'downhill'"),
        ((*SWING, "--temperatures", "warm"), "expected numbers in K"),
        ((*SWING, "--displacements", "far"), "expected numbers in Å"),
        ((*SWING, "--probes", "onehot"), "add --hvp K"),
        ((*SWING, "--hessian", "guessed"), "unknown kind of Hessian"),
        ((*SWING, "--pairs"), "holds 1 structures; expected pairs"),
        ((*SWING, "--pairs", "--product", "x.xyz"), "both --pairs and --product"),
        ((*SWING, "--work", "one.xyz"), "is a file; choose another"),
        ((*SWING, "-o", "there.h5"), "there.h5 exists; choose another name"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    written(Path("one.xyz"), hanging(80.0))
    Path("there.h5").write_text("mine")
    before = sorted(tmp_path.iterdir())
    output = () if "-o" in words else ("-o", "out.h5")
    assert expected in mistake("reactions", "one.xyz", *words, *output)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ((hanging(80.0, "a"), hanging(85.0, "a")), "two reactions are called 'a'"),
        ((Atoms("HCN", [[0, 0, 0], [0, 0, 0.2], [0, 0, 1.3]]),), "overlap, 0.20 Å apart"),
        ((Atoms("H"),), "a reaction needs at least 2"),
    ],
)
def test_inputs_that_cannot_be(tmp_path, frames, expected):
    source = written(tmp_path / "bad.xyz", *frames)
    assert expected in mistake("reactions", source, *SWING, "-o", tmp_path / "out.h5")
    assert list(tmp_path.iterdir()) == [source]


# ------------------------------------------------------------------------------------------------------------- samples


def test_samples_of_a_molecule(tmp_path):
    source, out = written(tmp_path / "water.xyz", molecule("H2O")), tmp_path / "hot.xyz"
    words = ("--with", "tblite", "--relax", "--temperature", 300, "--temperature", 1000, "--count", 4)
    result = phl("sample", source, *words, "-o", out)
    assert result.exit_code == 0, result.output
    frames = ase.io.read(out, index=":")
    assert [frame.info["temperature"] for frame in frames] == [300.0] * 4 + [1000.0] * 4
    assert {frame.info["kind"] for frame in frames} == {"nms"}
    spread = [np.std([frame.get_distance(0, 1) for frame in part]) for part in (frames[:4], frames[4:])]
    assert all(value > 1e-3 for value in spread)


def test_several_displacements_of_several_structures(tmp_path):
    """Every structure at every size has its own directions."""
    source, out = written(tmp_path / "two.xyz", hanging(80.0), hanging(95.0)), tmp_path / "around.xyz"
    words = ("--how", "displaced", "--displacement", 0.05, "--displacement", 0.1, "--count", 2)
    result = phl("sample", source, *SWING, *words, "-o", out)
    assert result.exit_code == 0, result.output
    frames = ase.io.read(out, index=":")
    assert [frame.info["displacement"] for frame in frames] == [0.05, 0.05, 0.1, 0.1] * 2
    moved = [
        (frame.positions - start.positions).ravel() / frame.info["displacement"]
        for start, part in ((hanging(80.0), frames[:4]), (hanging(95.0), frames[4:]))
        for frame in part
    ]
    assert min(np.abs(a - b).max() for i, a in enumerate(moved) for b in moved[:i]) > 0.1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--how", "boil"), "unknown sampler 'boil'; valid: displaced, md, mode-scan, normal-mode"),
        (("--how", "md", "--mode", 3), "unknown setting of the sampler md 'mode'"),
        (("--how", "mode-scan"), "CHN 0: HCN is no stationary point"),
        (("--how", "md", "--count", 0), "count is 0"),
    ],
)
def test_mistakes_of_samples(tmp_path, words, expected):
    source = written(tmp_path / "one.xyz", hanging(80.0))
    assert expected in mistake("sample", source, *SWING, *words, "-o", tmp_path / "out.xyz")
    assert list(tmp_path.iterdir()) == [source]


def test_samples_are_never_written_over(tmp_path):
    source = written(tmp_path / "one.xyz", hanging(80.0))
    assert "exists; choose another name" in mistake("sample", source, *SWING, "--how", "md", "-o", source)
    assert "expected a name ending in" in mistake("sample", source, *SWING, "-o", tmp_path / "out.h5")
