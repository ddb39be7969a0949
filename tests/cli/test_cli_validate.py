"""``phl validate`` as a user types it, on GFN2-xTB, EMT and the bundled model; and every mistake in one line."""

from __future__ import annotations

import functools
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from test_cli import mistake, phl

from phl_ase.paths import connects
from phl_ase.phonons import make_phonopy, read_force_constants
from phl_ase.resolver import resolve_calculator
from phl_ase.results import read_reports

DATA = "reactions-wb97xd-631gd"


def done(*words: object) -> str:
    result = phl("validate", *words)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def ends(tmp_path):
    """Formaldehyde and hydroxymethylene as GFN2-xTB has them, in two files."""
    from phl_ase.paths import relax

    files = []
    for name, atoms in {
        "h2co": Atoms("COH2", [[0, 0, -0.53], [0, 0, 0.68], [0, 0.93, -1.11], [0, -0.93, -1.11]]),
        "hcoh": Atoms("COH2", [[0, 0, -0.63], [0, 0, 0.68], [0, 0.93, 0.98], [0, -1.05, -0.93]]),
    }.items():
        atoms.calc = resolve_calculator("tblite")
        relaxed = relax(atoms).atoms
        relaxed.calc = None
        files.append(tmp_path / f"{name}.xyz")
        ase.io.write(files[-1], relaxed)
    return files


# -------------------------------------------------------------------------------------------------------- frequencies


def test_frequencies_against_labels(tmp_path):
    json, plot = tmp_path / "f.json", tmp_path / "f.svg"
    shown = done("frequencies", "default", DATA, "--reaction", "hcn_hnc", "--relaxed", "--json", json, "--plot", plot)
    assert "default against wB97X-D/6-31G(d)" in shown
    assert "at the model's own stationary points" in shown
    reports = read_reports(json)
    assert len(reports) == 6
    ts = next(report for report in reports if report.system == "hcn_hnc ts")
    assert ts.metric("imaginary wavenumber").reference == pytest.approx(-1186, abs=5)
    assert ts.metric("frequency MAE").value < 20
    assert plot.read_text(encoding="utf-8").lstrip().startswith("<?xml")


def test_frequencies_against_a_method_are_compared_at_its_own_minimum(tmp_path):
    path = tmp_path / "molecules.xyz"
    ase.io.write(path, [molecule("H2O"), molecule("CO2")])
    json = tmp_path / "f.json"
    shown = done("frequencies", "tblite", path, "--reference", "tblite", "--json", json)
    assert "tblite against tblite" in shown
    water, dioxide = read_reports(json)
    assert (len(water.arrays["wavenumbers"]), len(dioxide.arrays["wavenumbers"])) == (3, 4)
    for report in (water, dioxide):
        assert report.outcome == "agrees"
        assert report.metric("frequency MAE").value < 1e-3
        assert report.provenance["curvature"] == "finite differences of forces"


def test_points_of_a_path_are_compared_by_their_eigenvalues(tmp_path):
    json = tmp_path / "f.json"
    done("frequencies", "default", DATA, "--reaction", "nh3_inversion", "--kind", "irc", "--json", json)
    for report in read_reports(json):
        assert report.outcome == "on a path"
        assert "frequency MAE" not in [metric.name for metric in report.metrics]


def test_isotopes_of_a_file_count(tmp_path):
    light, heavy = molecule("H2O"), molecule("H2O")
    heavy.set_masses([15.999, 2.014, 2.014])
    wavenumbers = []
    for atoms in (light, heavy):
        path = tmp_path / "water.traj"
        ase.io.write(path, atoms)
        json = tmp_path / "f.json"
        done("frequencies", "tblite", path, "--reference", "tblite", "--json", json)
        wavenumbers.append(read_reports(json)[0].arrays["wavenumbers"])
    # O–H to O–D: a factor of √(μ_OD/μ_OH) = 1.37
    np.testing.assert_allclose(wavenumbers[0] / wavenumbers[1], 1.37, atol=0.02)


# -------------------------------------------------------------------------------------------------- transition states


def test_searches_on_a_methods_own_surface(tmp_path):
    json, plot, found, folder = (tmp_path / name for name in ("ts.json", "ts.png", "ts.extxyz", "trajectories"))
    words = ("ts", "tblite", DATA, "--reference", "tblite", "--reaction", "nh3_inversion", "--starts", 1)
    shown = done(
        *words,
        *("--strategy", "gradients", "--strategy", "hvp"),
        *("--json", json, "--plot", plot, "--write", found),
        *("--trajectories", folder),
    )
    assert "found" in shown
    reports = read_reports(json)
    assert [report.provenance["strategy"] for report in reports] == ["gradients", "hvp"]
    assert {report.outcome for report in reports} == {"found"}
    assert plot.read_bytes().startswith(b"\x89PNG")
    images = ase.io.read(found, ":")
    assert [image.info["outcome"] for image in images] == ["found", "found"]
    assert len(list(folder.glob("*.traj"))) == 2


def test_many_searches_become_a_funnel(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # narrower, columns come in blocks
    words = ("ts", "tblite", DATA, "--reference", "tblite", "--reaction", "nh3_inversion", "--no-path")
    names = ("gradients", "hessian-3", "hessian", "hvp")
    shown = done(*words, "--starts", 4, *(word for name in names for word in ("--strategy", name)))
    rows = [line.split() for line in shown.splitlines() if line.startswith(("gradients", "hessian", "hvp"))]
    assert [row[:5] for row in rows] == [[name, "4", "4", "4", "4"] for name in names]


def test_a_search_between_two_structures(ends, tmp_path):
    reactant, product = ends
    found = tmp_path / "ts.extxyz"
    shown = done("ts", "tblite", reactant, "--product", product, "--write", found)
    assert "found" in shown
    assert "H2CO" in shown or "CH2O" in shown
    assert ase.io.read(found).info["outcome"] == "found"


def test_a_users_guess_is_searched_from_as_it_is(ends, tmp_path):
    guess = ase.io.read(ends[0])
    guess.positions = [[0, 0, -0.58], [0, 0, 0.7], [0, 0.93, -0.1], [0, -1.0, -1.0]]
    path = tmp_path / "guess.xyz"
    ase.io.write(path, guess)
    json = tmp_path / "ts.json"
    done("ts", "tblite", path, "--json", json)
    (report,) = read_reports(json)
    assert report.provenance["start"] == "the structure given"
    assert report.outcome == "found"
    assert report.metric("imaginary wavenumber").value < -1000


@pytest.fixture
def migration(tmp_path):
    """A guess of the TS of HCN to HNC."""
    path = tmp_path / "guess.xyz"
    ase.io.write(path, Atoms("CNH", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.2], [1.1, 0.0, 0.5]]))
    return path


def test_a_guess_says_what_its_ts_connects(migration, tmp_path):
    json = tmp_path / "ts.json"
    shown = done("ts", "tblite", migration, "--strategy", "gradients", "--strategy", "hessian", "--json", json)
    # turned, to fit the terminal
    assert [line.split() for line in shown.splitlines() if line.startswith("strategy")] == [
        ["strategy", "gradients", "hessian"]
    ]
    assert "breaks C0-H2, makes N1-H2" in shown
    assert "barrier from end 1" in shown
    for report in read_reports(json):
        # GFN2-xTB's own, HCN before HNC; differences of its three stationary points
        assert report.metric("barrier from end 1").value == pytest.approx(73.2, abs=0.2)
        assert report.metric("barrier from end 2").value == pytest.approx(53.2, abs=0.2)


def test_a_ts_back_to_its_own_start_is_not_found(tmp_path):
    path = tmp_path / "h2.xyz"
    ase.io.write(path, Atoms("H2", [[0, 0, 0], [0, 0, 0.78]]))
    shown = done("ts", "tblite", path)
    assert "0 of 1: found" in shown
    assert "same end" in shown


def test_other_conformers_are_the_same_reaction(tmp_path, monkeypatch):
    """Diels-Alder of butadiene and ethene: the path ends in the bonds of both files, at other conformers of them.

    Planar butadiene beside ethene is a saddle point, and rounding decides to which side a path's end leaves it; with a
    tolerance of nothing either side is another conformer.
    """
    strict = functools.partial(connects, tolerance=1e-9)
    monkeypatch.setattr("phl_ase.validators.transition_state.connects", strict)
    ends = ase.io.read(Path(__file__).parent / "data" / "butadiene_ethene_gfn2.extxyz", ":")  # minima of GFN2-xTB
    files = []
    for name, atoms in zip(("reactant", "product"), ends, strict=True):
        files.append(tmp_path / f"{name}.xyz")
        ase.io.write(files[-1], atoms)
    json = tmp_path / "ts.json"
    shown = done("ts", "tblite", files[0], "--product", files[1], "--json", json)
    (report,) = read_reports(json)
    assert report.outcome == "found", report.sentence
    assert "another conformation" in report.sentence
    assert "another conformation" in shown
    assert "makes C0-C5, C3-C4" in shown
    assert report.metric("imaginary wavenumber").value == pytest.approx(-394, abs=5)
    assert report.metric("barrier from reactant").value == pytest.approx(7.0, abs=0.3)
    assert report.metric("barrier from product").value == pytest.approx(70.6, abs=0.5)
    out = tmp_path / "out.h5"
    words = ("reactions", files[0], "--product", files[1], "--with", "tblite", "--samples", "0", "-o", out)
    built = phl(*words)
    assert built.exit_code == 0, built.output
    assert "1 of 1 reactions finished" in built.output
    assert "394i" in built.output or "393i" in built.output


@pytest.mark.parametrize("guess", ["neb", "idpp"])
def test_guesses_between_two_structures(ends, guess, tmp_path):
    json = tmp_path / "ts.json"
    done("ts", "tblite", ends[0], "--product", ends[1], "--guess", guess, "--json", json)
    (report,) = read_reports(json)
    assert report.outcome == "found"
    assert ("climbed as an elastic band" in report.provenance["start"]) == (guess == "neb")


def test_a_method_that_has_no_such_reaction_is_reported(tmp_path):
    path, json = tmp_path / "h2.xyz", tmp_path / "ts.json"
    ase.io.write(path, Atoms("H2", [[0, 0, 0], [0, 0, 8.0]]))
    shown = done("ts", "tblite", path, "--reference", "tblite", "--json", json)
    assert "no reference" in shown
    assert {report.outcome for report in read_reports(json)} == {"no reference"}


def test_a_reaction_that_the_reference_does_not_have_leaves_the_others_their_funnel(tmp_path, monkeypatch):
    """GFN2-xTB has no reaction from its cis H2O2: counted as no search, told, and nothing is written of it."""
    monkeypatch.setenv("COLUMNS", "200")
    found, json = tmp_path / "ts.extxyz", tmp_path / "ts.json"
    words = ("ts", "tblite", DATA, "--reference", "tblite", "--reaction", "nh3_inversion", "--reaction", "h2o2_cis")
    shown = done(*words, "--starts", 7, "--no-path", "--write", found, "--json", json)
    assert [line.split()[:5] for line in shown.splitlines() if line.startswith("gradients")] == [
        ["gradients", "7", "7", "7", "7"]
    ]
    assert "reach the same structure" in shown
    reports = read_reports(json)
    assert {report.validator for report in reports} == {"transition state"}
    assert sum(report.outcome == "no reference" for report in reports) == 7
    assert len(ase.io.read(found, ":")) == 7


# -------------------------------------------------------------------------------------------------------------- paths


def test_paths_against_labels(tmp_path):
    json, plot = tmp_path / "irc.json", tmp_path / "irc.pdf"
    shown = done("irc", "default", DATA, "--reaction", "nh3_inversion", "--json", json, "--plot", plot)
    assert "connects" in shown
    (report,) = read_reports(json)
    assert report.metric("profile RMSE").value < 1
    assert report.metric("first step overlap").value > 0.999
    assert plot.read_bytes().startswith(b"%PDF")


def test_a_path_without_a_reference(migration, tmp_path):
    json, plot = tmp_path / "irc.json", tmp_path / "irc.png"
    shown = done("irc", "tblite", migration, "--json", json, "--plot", plot)
    assert "1 of 1: converged" in shown
    assert "breaks C0-H2, makes N1-H2" in shown
    (report,) = read_reports(json)
    assert report.metric("barrier forward").value == pytest.approx(73.2, abs=0.2)
    assert report.metric("barrier back").value == pytest.approx(53.2, abs=0.2)
    assert report.metric("reaction energy").value == pytest.approx(20.0, abs=0.2)
    assert report.arrays["energies"].max() == 0
    ase.io.write(tmp_path / "water.xyz", molecule("H2O"))
    assert "no TS" in done("irc", "tblite", tmp_path / "water.xyz")
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_paths_against_a_method(tmp_path):
    json = tmp_path / "irc.json"
    words = ("irc", "tblite", DATA, "--reference", "tblite", "--reaction", "nh3_inversion", "--method", "quadratic")
    done(*words, "--json", json, "--trajectories", tmp_path / "paths")
    (report,) = read_reports(json)
    assert report.outcome == "connects"
    assert report.metric("profile RMSE").value < 0.05
    assert len(ase.io.read(tmp_path / "paths" / "nh3_inversion.traj", ":")) > 5


# ------------------------------------------------------------------------------------------------------------ phonons


def test_phonons_of_copper(tmp_path):
    cell, json, plot, folder = (tmp_path / name for name in ("Cu.cif", "ph.json", "ph.png", "fc"))
    ase.io.write(cell, bulk("Cu", "fcc", a=3.6, cubic=True))
    words = ("phonons", "emt", cell, "--supercell", 2, 2, 2, "--relax", "--mesh", 6, 6, 6)
    shown = done(*words, "--json", json, "--plot", plot, "--write", folder)
    assert "band MAE" in shown
    assert "non-analytic" in shown
    (report,) = read_reports(json)
    # EMT's forces are differentiated numerically in both: 0.005 and 0.01 Å
    assert report.metric("largest band error").value < 0.02
    phonon = make_phonopy(bulk("Cu", "fcc", a=3.6, cubic=True), (2, 2, 2))
    assert read_force_constants(folder / "force_constants.hdf5", phonon).values.shape == (1, 32, 3, 3)
    assert (folder / "FORCE_CONSTANTS").exists()
    assert (folder / "phonopy.yaml").exists()


# ------------------------------------------------------------------------------------------------------------- report


def test_results_become_one_page(tmp_path):
    files = [tmp_path / f"{name}.json" for name in ("frequencies", "ts", "irc", "phonons", "accuracy")]
    words = (DATA, "--reaction", "nh3_inversion")
    done("frequencies", "default", *words, "--json", files[0])
    done("ts", "default", *words, "--starts", 1, "--no-path", "--json", files[1])
    done("irc", "default", *words, "--json", files[2])
    cell = tmp_path / "Cu.cif"
    ase.io.write(cell, bulk("Cu"))
    done("phonons", "emt", cell, "--supercell", 2, 2, 2, "--mesh", 4, 4, 4, "--json", files[3])
    assert phl("evaluate", "default", DATA, "--max-atoms", 3, "--json", files[4]).exit_code == 0
    page = tmp_path / "report.html"
    result = phl("report", *files, "-o", page, "--title", "A & B")
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert "<h1>A &amp; B</h1>" in text
    validators = {one.validator for file in files for one in read_reports(file)}
    assert len(validators) >= len(files)  # of a committee, its uncertainties as well
    assert text.count("data:image/svg+xml;base64,") == len(validators)
    assert "<script" not in text


def test_mistakes_of_report(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"a": 1}')
    assert "not a report" in mistake("report", path)
    path.write_text("[]")
    assert "hold no reports" in mistake("report", path)
    assert "cannot read" in mistake("report", tmp_path / "none.json")


# ----------------------------------------------------------------------------------------------------------- mistakes


@pytest.fixture
def files(tmp_path):
    water = tmp_path / "water.xyz"
    ase.io.write(water, molecule("H2O"))
    ammonia = tmp_path / "ammonia.xyz"
    ase.io.write(ammonia, molecule("NH3"))
    copper = tmp_path / "copper.cif"
    ase.io.write(copper, bulk("Cu"))
    slab = bulk("Cu", cubic=True)
    slab.set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "slab.traj", slab)
    return {path.stem: path for path in (water, ammonia, copper, tmp_path / "slab.traj")}


MISTAKES = {
    "labels": (("frequencies", "tblite", "{water}"), "has no Hessian to compare with; .* --reference METHOD"),
    "reaction": (("frequencies", "default", DATA, "--reaction", "h2o"), "has no reaction h2o; it has hcn_hnc"),
    "kind": (("frequencies", "default", DATA, "--kind", "md"), "holds no structure of kind md"),
    "periodic": (("frequencies", "emt", "{slab}", "--reference", "emt"), "periodic"),
    "missing": (("ts", "tblite", "nothing.xyz"), "no data set 'nothing.xyz': no such file"),
    "strategy": (("ts", "tblite", DATA, "--strategy", "fast"), "unknown Sella strategy 'fast'; valid: all, gradients"),
    "atoms": (("ts", "tblite", "{water}", "--product", "{ammonia}"), "same atoms"),
    "guess": (
        ("ts", "tblite", "{water}", "--product", "{water}", "--guess", "magic"),
        "'magic'; valid: auto, geodesic, idpp, neb",
    ),
    "integrator": (("irc", "default", DATA, "--method", "euler"), "unknown integrator .* 'euler'; valid: quadratic"),
    "figure": (("irc", "default", DATA, "--plot", "paths.bmp"), r"cannot draw paths.bmp: expected .*\.png"),
    "json": (("ts", "tblite", DATA, "--json", "no/where.json"), "folder no does not exist"),
    "supercell": (("phonons", "emt", "{copper}"), "give its supercell, for example --supercell 3 3 3"),
    "matrix": (("phonons", "emt", "{copper}", "--supercell-matrix", "1 2"), "supercell has 2 numbers; expected 3 or 9"),
    "molecule": (("phonons", "emt", "{water}", "--supercell", 2, 2, 2), "periodic"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_clear_line(name, files):
    words, expected = MISTAKES[name]
    said = mistake("validate", *(str(word).format(**files) for word in words))
    assert re.search(expected, said), said


def test_a_stop_keeps_the_finished_reports(tmp_path):
    json = tmp_path / "ts.json"
    words = ["validate", "ts", "tblite", DATA, "--reaction", "nh3_inversion", "--reference", "tblite", "--no-path"]
    words += ["--starts", "500", "--json", str(json)]
    process = subprocess.Popen(
        [sys.executable, "-m", "phl_ase", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        waited = time.monotonic() + 240
        while not json.exists() and time.monotonic() < waited:
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    kept = read_reports(json)
    assert f"{len(kept)} of 500 done; their reports are in" in said
    assert "stopped by SIGTERM" in said
    assert "Traceback" not in said
