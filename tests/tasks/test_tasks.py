"""``phl_ase.tasks`` and its commands: symmetry numbers, Molden files, frequencies, searches, whole reactions."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.units import Bohr, invcm
from typer.testing import CliRunner

from phl_ase.cli.app import app
from phl_ase.cli.tasks.common import say_reliability
from phl_ase.datasets import open_dataset, reactions_of
from phl_ase.errors import DomainWarning, PHLError
from phl_ase.paths import guess_transition_state, relax
from phl_ase.potentials import Calibration, Domain
from phl_ase.structures import atoms_from_frame
from phl_ase.tasks import frequencies
from phl_ase.vibrations import harmonic_analysis, molden_text, symmetry_number

pytest.importorskip("tblite")


# ----------------------------------------------------------------------------------------------------- symmetry numbers


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("H", 1),
        ("H2", 2),
        ("HCN", 1),
        ("CO2", 2),
        ("C2H2", 2),
        ("H2O", 2),
        ("H2O2", 2),
        ("NH3", 3),
        ("BF3", 6),
        ("CH4", 12),
        ("C2H4", 4),
        ("C2H6", 6),
        ("C6H6", 12),
        ("CH3OH", 1),
        ("CH3Cl", 3),
    ],
)
def test_symmetry_numbers_are_those_of_the_point_groups(name, number):
    atoms = molecule(name)
    atoms.rotate(37.0, (1.0, 2.0, 3.0))
    atoms.positions += (3.0, -1.0, 2.0)
    assert symmetry_number(atoms) == number


def test_sulphur_hexafluoride_and_what_lowers_its_symmetry():
    octahedron = Atoms("SF6", 1.56 * np.vstack([np.zeros(3), np.eye(3), -np.eye(3)]))
    assert symmetry_number(octahedron) == 24
    octahedron.positions[1, 0] += 0.3
    assert symmetry_number(octahedron) == 4


def test_isotopes_lower_the_symmetry():
    atoms = molecule("CH4")
    masses = atoms.get_masses()
    masses[1] = 2.014
    atoms.set_masses(masses)
    assert symmetry_number(atoms) == 3


def test_symmetry_numbers_of_what_has_none():
    with pytest.raises(PHLError, match="periodic"):
        symmetry_number(bulk("Cu"))
    with pytest.raises(PHLError, match="tolerance"):
        symmetry_number(molecule("H2O"), tolerance=0.0)


# --------------------------------------------------------------------------------------------------------- Molden files


def test_molden_holds_the_modes():
    rng = np.random.default_rng(0)
    atoms = molecule("H2O")
    square = rng.standard_normal((9, 9))
    analysis = harmonic_analysis(atoms, square @ square.T)
    sections = re.split(r"^\[(.+?)\].*\n", molden_text(analysis), flags=re.MULTILINE)[1:]
    content = dict(zip(sections[::2], sections[1::2], strict=True))
    assert list(content) == ["Molden Format", "Atoms", "FREQ", "FR-COORD", "FR-NORM-COORD"]
    assert np.allclose([float(x) for x in content["FREQ"].split()], analysis.wavenumbers, atol=1e-4)
    rows = [line.split() for line in content["FR-COORD"].splitlines()]
    assert [row[0] for row in rows] == list(atoms.symbols)
    assert np.allclose(np.array([row[1:] for row in rows], dtype=float) * Bohr, atoms.positions, atol=1e-7)
    vibrations = re.split(r"vibration \d+\n", content["FR-NORM-COORD"])[1:]
    for text, mode in zip(vibrations, analysis.displacements, strict=True):
        written = np.array(text.split(), dtype=float).reshape(-1, 3)
        assert np.linalg.norm(written, axis=1).max() == pytest.approx(1.0, abs=1e-5)
        assert abs(np.vdot(written, mode)) == pytest.approx(np.linalg.norm(written) * np.linalg.norm(mode), rel=1e-9)


# ---------------------------------------------------------------------------------------------------------- frequencies


def test_frequencies_of_a_diatomic_are_those_of_its_spring():
    atoms = molecule("N2")
    atoms.calc = EMT()
    end = relax(atoms, 1e-5).atoms
    found = frequencies(end)
    # ν = √(k/μ) with the force constant from energies on both sides
    step, energies = 1e-3, []
    for shift in (-step, 0.0, step):
        moved = end.copy()
        moved.calc = EMT()
        axis = moved.positions[1] - moved.positions[0]
        moved.positions[1] += shift * axis / np.linalg.norm(axis)
        energies.append(moved.get_potential_energy())
    constant = (energies[0] - 2 * energies[1] + energies[2]) / step**2
    from phl_ase.units import wavenumbers

    expected = float(wavenumbers(constant / (atoms.get_masses()[0] / 2)))
    assert found.analysis.wavenumbers == pytest.approx([expected], rel=1e-3)
    assert found.nature == "minimum"
    thermo = found.thermochemistry
    assert thermo is not None
    assert thermo.symmetry_number == 2
    assert thermo.zero_point_energy == pytest.approx(0.5 * expected * invcm, rel=1e-3)
    # the rotational entropy of a σ = 2 rotor is R ln 2 below that of σ = 1
    other = frequencies(end, symmetry=1).thermochemistry
    assert other.entropy - thermo.entropy == pytest.approx(8.617333e-5 * np.log(2), rel=1e-6)


def test_modes_on_another_energy_shift_enthalpy_and_gibbs_energy():
    atoms = Atoms("N2", [[0, 0, 0], [0, 0, 1.1]], calculator=EMT())
    found = frequencies(atoms)
    moved = found.with_energy(found.energy + 0.5)
    before, after = found.thermochemistry, moved.thermochemistry
    assert moved.energy - found.energy == after.energy - before.energy == 0.5
    assert after.enthalpy - before.enthalpy == pytest.approx(0.5, abs=1e-12)
    assert after.gibbs_correction == pytest.approx(before.gibbs_correction, abs=1e-12)
    assert after.entropy == before.entropy


def test_a_structure_that_is_not_relaxed_is_said_to_be_none():
    atoms = molecule("N2")
    atoms.positions[1] += 0.2 * (atoms.positions[1] - atoms.positions[0])
    atoms.calc = EMT()
    found = frequencies(atoms)
    assert found.nature == "not a stationary point"
    assert not found.is_stationary


# ------------------------------------------------------------------------------------------------------------- commands


@pytest.fixture
def phl(tmp_path, monkeypatch):
    """Runs a command in an empty folder and returns (exit code, what it printed)."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(words))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return run


def test_relax_then_freq(phl):
    ase.io.write("water.xyz", molecule("H2O"))
    code, said = phl("relax", "water.xyz", "--with", "tblite", "--fmax", "0.0005")
    assert code == 0
    assert "phl freq water_relax.xyz --with tblite" in said
    code, said = phl("freq", "water_relax.xyz", "--with", "tblite")
    assert code == 0
    assert "H2O: minimum" in said
    assert "symmetry number 2" in said
    content = json.loads(Path("water_relax_freq.json").read_text())["structures"][0]
    bend, *stretches = content["wavenumbers_cm-1"]
    assert bend == pytest.approx(1539, abs=5)  # GFN2-xTB's own, as xtb prints it
    assert stretches == pytest.approx([3643, 3651], abs=8)
    assert ase.io.read("water_relax.xyz").get_potential_energy() == pytest.approx(content["energy_eV"], abs=1e-6)


@pytest.mark.parametrize(("command", "outcome"), [("relax", "converged"), ("freq", "minimum")], ids=["relax", "freq"])
def test_results_are_written_where_json_says_too(phl, command, outcome):
    ase.io.write("water.xyz", molecule("H2O"))
    extra = ["--relax"] if command == "freq" else []
    code, said = phl(command, "water.xyz", "--with", "tblite", "--json", "numbers.json", *extra)
    assert code == 0, said
    content = json.loads(Path("numbers.json").read_text())
    assert content["structures"] == json.loads(Path(f"water_{command}.json").read_text())["structures"]
    assert content["method"] == "tblite"
    (one,) = content["structures"]
    assert one["outcome"] == outcome
    if command == "freq":
        thermo = one["thermochemistry"]
        assert len(one["wavenumbers_cm-1"]) == 3
        assert one["imaginary_modes"] == 0
        assert one["zero_point_energy_eV"] == pytest.approx(0.55, abs=0.02)
        gibbs = thermo["enthalpy_eV"] - thermo["temperature_K"] * thermo["entropy_eV_per_K"]
        assert thermo["gibbs_energy_eV"] == pytest.approx(gibbs, abs=1e-9)
    code, said = phl(command, "water.xyz", "--with", "tblite", "--json", "nowhere/numbers.json")
    assert code == 2
    assert "the folder nowhere does not exist" in said


def test_heavy_water_is_slower_by_the_root_of_the_masses(phl):
    ase.io.write("water.xyz", molecule("H2O"))
    waves = {}
    for name, extra in (("light", []), ("heavy", ["--isotope", "1,2=2.014"])):
        code, _ = phl("freq", "water.xyz", "--with", "tblite", "--relax", "-o", name, *extra)
        assert code == 0
        waves[name] = np.array(json.loads(Path(f"{name}.json").read_text())["structures"][0]["wavenumbers_cm-1"])
    # Teller–Redlich: Π ν_D/ν_H = √(Π m_H/m_D · (M_D/M_H)^3 · …), between 1/√2 each and 1
    assert np.all((waves["heavy"] / waves["light"] > 0.70) & (waves["heavy"] / waves["light"] < 0.76))


def test_reaction_from_a_transition_state(phl):
    reaction = reactions_of(open_dataset("reactions-wb97xd-631gd"))["hcn_hnc"]
    ase.io.write("hcn.xyz", atoms_from_frame(reaction.transition_state))
    code, said = phl("reaction", "hcn.xyz", "--with", "default")
    assert code == 0, said
    content = json.loads(Path("hcn_reaction.json").read_text())
    assert set(content["points"]) == {"reactant", "transition state", "product"}
    energies = content["relative_kcal_per_mol"]["energy"]
    dft = [frame.energy for frame in (reaction.reactant, reaction.transition_state, reaction.product)]
    barriers = sorted(23.0605 * (dft[1] - e) for e in (dft[0], dft[2]))
    assert sorted(energies[1] - np.array(energies)[[0, 2]]) == pytest.approx(barriers, abs=0.5)
    assert content["points"]["transition state"]["nature"] == "transition state"
    # the zero-point energy lowers the barrier of a hydrogen shift
    assert content["relative_kcal_per_mol"]["energy with ZPE"][1] < energies[1]
    path = ase.io.read("hcn_reaction.xyz", index=":")
    assert max(atoms.info["path_energy"] for atoms in path) == pytest.approx(
        content["points"]["transition state"]["energy_eV"], abs=1e-4
    )
    page = Path("hcn_reaction.html").read_text()
    assert "<svg" in page
    assert "Breaks C0-H2; makes N1-H2 (atoms are numbered from 0)." in page
    assert '["C0", "N1", "H2"]' in page  # those of changed bonds are shown with their numbers
    # nothing is loaded from anywhere
    assert not re.search(r"(src|href)=[\"']https?:|@import|url\([\"']?http", page)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["freq", "nothing.xyz"], "no file nothing.xyz"),
        (["freq", "water.xyz", "--multiplicity", "2"], "10 electrons; multiplicity 2 is impossible"),
        (["freq", "water.xyz", "--with", "tblite", "--charge", "1"], "9 electrons; multiplicity 1 is impossible"),
        (["freq", "chloride.xyz"], "does not know Cl; it knows H, C, N, O. --with tblite"),
        (["irc", "two.xyz"], "holds 2 structures; expected one"),
        (["ts", "water.xyz", "--strategy", "magic"], "unknown Sella strategy 'magic'; valid: "),
        (["ts", "hcn.xyz", "--product", "water.xyz"], "the reactant is CHN, the product H2O"),
        (["ts", "hcn.xyz", "--product", "cnh.xyz"], "list their atoms in another order"),
        (["ts", "hcn.xyz", "--product", "hcn.xyz"], "are the same structure"),
        (["freq", "water.xyz", "--fix", "0,7"], "has 3 atoms, numbered from 0"),
        (["freq", "water.xyz", "--isotope", "1=heavy"], "expected ATOMS=MASS"),
        (["freq", "water.xyz", "--temperature", "nan"], "expected a number above 0"),
        (["reaction", "hcn.xyz", "--thermo", "magic"], "valid: ideal gas"),
        (["freq", "water.xyz", "--isotope", "0=inf"], "expected ATOMS=MASS"),
        (["freq", "water.xyz", "--fix", "0-999999999999"], "has 3 atoms, numbered from 0"),
        (["freq", "water.xyz", "--animate", "99"], "there is no such mode"),
        (["freq", "water.xyz", "-o", ""], "expected the beginning of a file name"),
        (["freq", "water.xyz", "--charge", "1"], "does not know about charge"),
        (["freq", "water.xyz", "--pressure", "0"], "expected a positive number"),
        (["freq", "water.xyz", "-o", "nowhere/out"], "the folder nowhere does not exist"),
        (["freq", "nan.xyz", "--with", "tblite"], "positions that are NaN or infinite"),
        (["freq", "water.xyz", "--with", "xtb"], "tblite is GFN2-xTB"),
        (["freq", "water.xyz", "--with", "tblite", "--set", "acuracy=1"], "valid: accuracy, "),
        (["freq", "near.xyz", "--with", "tblite"], "0.050 Å apart"),
        (["freq", "short.xyz"], "the file ends after 3 of 4 atoms"),
        (["freq", "comma.xyz"], "could not convert string to float: '0,0'"),
        (["freq", "."], "no file .: give a file of a structure"),
        (["ts", "hcn.xyz", "--guess", "neb"], "give the reactant and --product FILE"),
        (["ts", "hcn.xyz", "--product", "two.xyz"], "holds 2 structures; expected one"),
        (["reaction", "hcn.xyz", "--guess", "idpp"], "give the reactant and --product FILE"),
        (["reactions", "hcn.xyz", "--with", "tblite", "-o", "r.h5", "--guess", "neb"], "give --pairs or --product"),
        (["validate", "ts", "default", "hcn.xyz", "--guess", "neb"], "give the reactant and --product FILE"),
        (["validate", "frequencies", "default", "water.xyz", "--key", "hessian=H"], "no frame has 'H' for hessian"),
        (["sample", "water.xyz", "--with", "tblite", "-o", "s.xyz", "--how", "nms"], "unknown sampler 'nms'; valid: "),
        (["sample", "water.xyz", "--with", "tblite", "-o", "s.xyz", "--key", "enrgy=E"], "unknown label"),
        (["phonons", "copper.cif", "--with", "emt", "--supercell", "1", "1", "1", "--path", ""], "the path is empty"),
        (["phonons", "copper.cif", "--with", "emt"], "give its supercell"),
        (["phonons", "copper.cif", "--with", "emt", "--supercell", "1", "1", "1", "--mesh", "0", "1", "1"], "mesh is"),
        (["phonons", "water.xyz", "--with", "emt"], "a molecule has frequencies: 'phl freq'"),
        (["train", "water.xyz", "-o", "run"], "carries neither energies nor forces"),
        (["train", "--resume", "run"], "holds no run to resume"),
        (["label", "water.xyz", "--with", "tblite", "--hvp", "0", "-o", "w.h5"], "expected at least 1"),
        (["evaluate", "default", "water.xyz"], "there is nothing to compare"),
    ],
)
def test_mistakes_are_one_clear_line(phl, words, message):
    ase.io.write("water.xyz", molecule("H2O"))
    ase.io.write("chloride.xyz", molecule("CH3Cl"))
    ase.io.write("two.xyz", [molecule("H2O"), molecule("H2O")])
    hcn = molecule("HCN")
    ase.io.write("hcn.xyz", hcn)
    ase.io.write("cnh.xyz", hcn[[0, 2, 1]])
    ase.io.write("copper.cif", bulk("Cu", cubic=True))
    for name, rows in {
        "nan": ["O 0 0 0", "H 0 0 nan", "H 0 0.9 0"],
        "near": ["O 0 0 0", "H 0 0 0.05", "H 0 0.9 0"],
        "comma": ["O 0,0 0,0 0,0", "H 0,0 0,0 0,96", "H 0,0 0,93 0,2"],
    }.items():
        Path(f"{name}.xyz").write_text("\n".join(["3", "", *rows, ""]))
    Path("short.xyz").write_text("4\n\nO 0 0 0\nH 0 0 1\nH 0 1 0\n")
    code, said = phl(*words)
    assert code == 2
    (line,) = [one for one in said.splitlines() if one.startswith("error:")]
    assert message in line
    assert not [path for path in Path().iterdir() if path.is_dir()]


@pytest.mark.parametrize("first", ["geodesic", pytest.param("idpp", marks=pytest.mark.slow)])
def test_reactant_and_product_are_joined(first, phl, monkeypatch):
    """From the guess "idpp" the hydrogen leaves: the elastic band is tried after it."""
    monkeypatch.setattr(
        "phl_ase.tasks.search.guess_transition_state",
        lambda *ends, method: guess_transition_state(*ends, method=first if method == "auto" else method),
    )
    reaction = reactions_of(open_dataset("reactions-wb97xd-631gd"))["hcn_hnc"]
    for name, frame in (("hcn", reaction.reactant), ("hnc", reaction.product)):
        ase.io.write(f"{name}.xyz", atoms_from_frame(frame))
    code, said = phl("reaction", "hcn.xyz", "--product", "hnc.xyz")
    assert code == 0, said
    assert "joins reactant and product" in said
    content = json.loads(Path("hcn_reaction.json").read_text())
    assert content["bonds_broken"] == ["C0-H2"]
    assert content["bonds_made"] == ["N1-H2"]
    dft = [frame.energy for frame in (reaction.reactant, reaction.transition_state, reaction.product)]
    expected = [23.0605 * (energy - dft[0]) for energy in dft]
    assert content["relative_kcal_per_mol"]["energy"] == pytest.approx(expected, abs=0.5)


def test_phonons_of_copper(phl):
    ase.io.write("copper.cif", bulk("Cu", cubic=True))
    code, said = phl("phonons", "copper.cif", "--with", "emt", "--relax", "--supercell", "2", "2", "2")
    assert code == 0, said
    assert "warning" not in said
    content = json.loads(Path("copper_phonons.json").read_text())
    # EMT copper: no imaginary modes, the highest of fcc bands near 8 THz
    assert content["values"]["imaginary modes of the mesh"] == 0
    assert content["values"]["highest frequency"] == pytest.approx(8.1, abs=0.4)
    assert {path.name for path in Path("copper_phonons_phonopy").iterdir()} == {
        "FORCE_CONSTANTS",
        "force_constants.hdf5",
        "phonopy.yaml",
    }
    rattled = bulk("Cu", cubic=True)
    rattled.rattle(0.1, seed=1)
    ase.io.write("rattled.cif", rattled)
    _, said = phl("phonons", "rattled.cif", "--with", "emt", "--supercell", "2", "2", "2")
    assert "relax the cell first" in said


def test_treatments_of_soft_modes_are_those_of_the_table():
    from phl_ase.cli.tasks.common import _MODELS
    from phl_ase.vibrations import THERMOCHEMISTRY_MODELS

    assert set(_MODELS) == set(THERMOCHEMISTRY_MODELS)


def test_a_reaction_that_joins_other_ends_is_no_success(phl, monkeypatch):
    from dataclasses import replace

    from phl_ase.paths import connects
    from phl_ase.tasks import search

    def other_ends(*arguments):
        return replace(connects(*arguments), outcome="other ends", flipped=False)

    monkeypatch.setattr(search, "connects", other_ends)
    reaction = reactions_of(open_dataset("reactions-wb97xd-631gd"))["hcn_hnc"]
    for name, frame in (("hcn", reaction.reactant), ("hnc", reaction.product)):
        ase.io.write(f"{name}.xyz", atoms_from_frame(frame))
    code, said = phl("reaction", "hcn.xyz", "--product", "hnc.xyz", "--guess", "neb", "--strategy", "hessian")
    assert code == 1
    assert "This is not the reaction that was asked for" in said
    assert "elastic band guess, hessian: neither direction reaches" in said
    assert "no TS was found that joins" in json.loads(Path("hcn_reaction.json").read_text())["connection"]
    assert "No TS was found that joins" in Path("hcn_reaction.html").read_text()


def test_where_nothing_joins_two_ends_it_is_said_what_may_be_wrong_with_them(phl, monkeypatch):
    from dataclasses import replace

    from phl_ase.paths import PATH_METHODS, connects
    from phl_ase.tasks import search

    def one_end(*arguments):
        return replace(connects(*arguments), outcome="one end", flipped=False)

    monkeypatch.setattr(search, "connects", one_end)
    without = {**PATH_METHODS, "geodesic": replace(PATH_METHODS["geodesic"], package="a_package_that_is_not_there")}
    monkeypatch.setattr(search, "PATH_METHODS", without)
    reaction = reactions_of(open_dataset("reactions-wb97xd-631gd"))["hcn_hnc"]
    for name, frame in (("hcn", reaction.reactant), ("hnc", reaction.product)):
        atoms = atoms_from_frame(frame)
        if name == "hnc":
            atoms.rattle(0.05, seed=0)
        ase.io.write(f"{name}.xyz", atoms)
    words = ("--product", "hnc.xyz", "--guess", "idpp", "-o", "one.json")
    code, said = phl("reaction", "hcn.xyz", *words)
    assert code == 1
    assert "not the reaction that was asked for: one of its ends is another structure" in said
    assert re.search(r"tried:\n  idpp guess, hessian, hessian-3, .*: only one direction reaches", said)  # in one line
    assert "hint: the product is no minimum of this method" in said
    assert "the reactant is no minimum" not in said
    assert "pip install 'phl-ase[geodesic]'" in said
    assert Path("one.json").is_file()  # the ending of --out names one of the files
    assert Path("one_points.xyz").is_file()


def test_several_guesses_have_no_single_next_step(phl):
    atoms = atoms_from_frame(reactions_of(open_dataset("reactions-wb97xd-631gd"))["hcn_hnc"].transition_state)
    ase.io.write("two.xyz", [atoms, atoms])
    code, said = phl("ts", "two.xyz")
    assert code == 0
    assert "next:" not in said


def test_a_guess_that_is_a_minimum(phl):
    ase.io.write("water.xyz", molecule("H2O"))
    code, said = phl("ts", "water.xyz", "--with", "tblite", "--steps", "3")
    assert code == 1
    assert "the guess has no imaginary mode" in said
    assert json.loads(Path("water_ts.json").read_text())["searches"][0]["outcome"] != "converged"


def test_a_relaxation_that_keeps_a_symmetry_is_led_off_the_saddle_point(phl):
    ase.io.write("planar.xyz", Atoms("NH3", [[0, 0, 0], [1.0, 0, 0], [-0.5, 0.866025, 0], [-0.5, -0.866025, 0]]))
    code, said = phl("freq", "planar.xyz", "--with", "tblite", "--relax")
    assert code == 0
    assert "H3N: minimum" in said
    assert "note: relaxing kept a symmetry and ended on a saddle point; it was pushed off it to the minimum" in said
    # the same with an atom held, where modes are those of the others alone
    code, said = phl("freq", "planar.xyz", "--with", "tblite", "--relax", "--fix", "0", "--out", "held")
    assert code == 0
    assert "H3N: minimum" in said


def test_a_soft_imaginary_mode_may_be_that_of_a_rotor(phl):
    """Acetone relaxed from a structure with one methyl group turned by 60° about its bond."""
    acetone = molecule("CH3COCH3")
    methyl = [3, *(k for k in range(4, 10) if acetone.get_distance(3, k) < 1.3)]
    acetone.rotate(60, acetone.positions[3] - acetone.positions[1], center=acetone.positions[3])
    turned, acetone = acetone.positions[methyl[1:]].copy(), molecule("CH3COCH3")
    acetone.positions[methyl[1:]] = turned
    ase.io.write("acetone.xyz", acetone)
    assert phl("relax", "acetone.xyz", "--with", "tblite")[0] == 0
    code, said = phl("freq", "acetone_relax.xyz", "--with", "tblite")
    assert code == 0
    assert "C3H6O: transition state" in said
    assert "if a minimum is meant, phl freq acetone_relax.xyz --with tblite --relax" in said
    code, said = phl("freq", "acetone_relax.xyz", "--with", "tblite", "--relax")
    assert code == 0
    assert "C3H6O: minimum" in said


def test_what_to_type_next_keeps_the_settings_and_replaced_results_are_announced(phl):
    ase.io.write("my water.xyz", molecule("H2O"))
    words = ("relax", "my water.xyz", "--with", "tblite", "--set", "accuracy=0.1")
    code, said = phl(*words)
    assert code == 0
    assert "next:    phl freq 'my water_relax.xyz' --with tblite --set accuracy=0.1" in said
    assert "replaced" not in said
    assert "note: my water_relax.json and the files beside it will be replaced" in phl(*words)[1]


def test_frequencies_of_several_structures(phl):
    ase.io.write("two.xyz", [molecule("H2O"), molecule("NH3")])
    code, said = phl("freq", "two.xyz", "--with", "tblite", "--relax")
    assert code == 0
    assert "structure 0, H2O: minimum" in said
    assert "structure 1, H3N: minimum" in said
    natures = [one["nature"] for one in json.loads(Path("two_freq.json").read_text())["structures"]]
    assert natures == ["minimum", "minimum"]
    _, said = phl("freq", "two.xyz", "--with", "tblite")
    assert "next:    phl freq two.xyz --with tblite --relax" in said


def test_a_calculator_that_fails_is_one_line(phl):
    ase.io.write("chloride.xyz", molecule("CH3Cl"))
    code, said = phl("freq", "chloride.xyz", "--with", "emt")
    assert code == 1
    assert said.splitlines()[-1] == "error: the calculation failed: NotImplementedError: No EMT-potential for Cl"


def test_constraints_do_not_act_on_phonons(phl):
    cell = bulk("Cu", cubic=True)
    cell.set_constraint(FixAtoms([0]))
    ase.io.write("POSCAR", cell, format="vasp")
    code, said = phl("phonons", "POSCAR", "--with", "emt", "--supercell", "1", "1", "1", "--mesh", "2", "2", "2")
    assert code == 0
    assert "note: phonons move every atom" in said


def test_samples_are_kept_when_a_structure_is_stopped(phl, monkeypatch):
    from phl_ase.progress import Progress

    taken = []

    def advance(self, note=""):
        taken.append(note)
        if len(taken) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "advance", advance)
    ase.io.write("water.xyz", molecule("H2O"))
    words = ["--with", "tblite", "--how", "md", "--interval", "2", "--equilibration", "2", "-o", "s.xyz"]
    code, said = phl("sample", "water.xyz", *words)
    assert code == 130
    assert "3 of 20 frames were finished: s.xyz" in said
    assert len(ase.io.read("s.xyz", index=":")) == 3


def model_that_says(in_domain, std=None):
    """A calculator as :func:`say_reliability` sees one: of a single model, or of a calibrated committee."""
    calibration = Calibration(energy=1.0, forces=1.0, forces_limit=0.05, domain=Domain()) if std else None
    provenance = {"level_of_theory": "GFN2-xTB"}

    def evaluate(structures, quantities):
        if not in_domain:
            finding = "structure 0 (H2O) is unlike the model's training data: O and H are 2.00 Å apart"
            warnings.warn(DomainWarning(finding, "Advice"), stacklevel=2)
        answer = {"energy": 0.0, "forces": np.zeros((3, 3)), "in_domain": in_domain}
        spread = {"energy_std": std, "forces_std": np.full((3, 3), std)} if std else {}
        return [answer | spread for _ in structures]

    potential = SimpleNamespace(calibration=calibration, provenance=provenance)
    return SimpleNamespace(evaluate=evaluate, warn_again=lambda: None, potential=potential)


def test_a_single_model_says_that_it_cannot_know_a_new_conformation(capsys):
    water, found = molecule("H2O"), Path("my ts.xyz")
    assert not say_reliability(model_that_says(True), [water], found=found)
    said = capsys.readouterr().err
    assert "a committee does ('phl train --members 3')" in said
    assert "check it: phl freq 'my ts.xyz' --with tblite" in said
    assert not say_reliability(model_that_says(True), [water])  # frequencies search for nothing
    assert not say_reliability(EMT(), [water], found=found)
    assert capsys.readouterr() == ("", "")


def test_a_committee_says_what_errors_to_expect(capsys):
    water, found = molecule("H2O"), Path("ts.xyz")
    assert not say_reliability(model_that_says(True, std=0.01), [water], found=found)
    said = capsys.readouterr()
    assert said.out == "errors to expect: E 0.23 kcal/mol, F 0.01 eV/Å (usual in training: up to 0.05)\n"
    assert said.err == ""
    assert say_reliability(model_that_says(False, std=0.1), [water, water], ["reactant", "TS"], found=found)
    said = capsys.readouterr()
    assert re.search(r"TS +>2\.3 +>0\.1 +0\.05", said.out)  # outside, they are larger than that
    said_of = "unlike the model's training data: O and H are 2.00 Å apart; check it"
    assert said.err == f"warning: reactant, TS are {said_of}: phl freq ts.xyz --with tblite\n"
    say_reliability(model_that_says(False), [water])
    assert capsys.readouterr().err == f"warning: H2O is {said_of} with another method\n"


def test_what_a_search_passes_is_said_where_it_fails(phl):
    """The bundled model knows HCN and HNC, and not every structure that lies between them."""
    frames = reactions_of(open_dataset("reactions-wb97xd-631gd"))["hcn_hnc"]
    for name, frame in (("hcn", frames.reactant), ("hnc", frames.product)):
        ase.io.write(f"{name}.xyz", atoms_from_frame(frame))
    code, said = phl("ts", "hcn.xyz", "--product", "hnc.xyz")
    assert code == 0
    assert "errors to expect: E 0.0" in said
    assert "unlike" not in said
    assert json.loads(Path("hcn_ts.json").read_text())["outside_of_training"] == []
    code, said = phl("ts", "hcn.xyz", "--product", "hnc.xyz", "--guess", "idpp", "--steps", "1")
    assert code == 1
    assert "warning: on the way, CHN is unlike the model's training data" in said


def test_molecules_that_a_model_does_not_know(phl):
    ase.io.write("ethane.xyz", molecule("C2H6"))
    for command in (("relax",), ("freq", "--relax"), ("ts", "--steps", "1")):
        _, said = phl(command[0], "ethane.xyz", *command[1:])
        assert said.count("C2H6 is unlike the model's training data: the training data hold no C2H6 on its own") == 1


def test_training_on_recorded_hvps_says_so_once_and_what_to_type_next(phl):
    water = molecule("H2O")
    frames = [water.copy() for _ in range(12)]
    for place, frame in enumerate(frames):
        frame.rattle(0.05, seed=place)
    ase.io.write("frames.xyz", frames)
    code, said = phl("label", "frames.xyz", "--with", "tblite", "--hvp", "2", "-o", "water.h5")
    assert code == 0, said
    words = ("--set", "training.epochs=1", "--set", "potential.channels=4")
    code, said = phl("train", "water.h5", "-o", "run", *words)
    assert code == 0, said
    assert said.count("note:") == 1
    assert "note: water.h5 carries energy, forces, hvp: scheme E-F-HVP-random, HVPs as recorded; " in said
    assert json.loads(Path("run/config.json").read_text())["scheme"]["n_probes"] == 2
    split = ("--set", "data.fractions=[0.5,0.5,0.0]")
    code, said = phl("train", "water.h5", "-o", "two", "--members", "2", *words, *split)
    assert code == 0, said
    assert said.count("note:") == 1
    assert "next:    phl freq MOLECULE.xyz --with two/committee.safetensors --relax" in said


def test_a_minimum_leads_along_no_path(phl):
    ase.io.write("water.xyz", molecule("H2O"))
    assert phl("relax", "water.xyz", "--with", "tblite")[0] == 0
    code, said = phl("irc", "water_relax.xyz", "--with", "tblite")
    assert code == 1
    assert "it lies near a minimum: give a guess of a TS, or 'phl ts REACTANT --product PRODUCT'" in said
    code, said = phl("ts", "water_relax.xyz", "--with", "tblite")
    assert code == 1
    assert "the start is a minimum already" in said
    assert "the guess has no imaginary mode" not in said  # the same in other words
    code, said = phl("reaction", "water_relax.xyz", "--with", "tblite")
    assert code == 1
    assert "give another guess, or reactant and --product" in said
    assert "--integrator" not in said


def test_files_of_many_structures_are_counted(tmp_path, capsys):
    from phl_ase.cli.tasks.common import Output

    several = Output(tmp_path / "out_ts", "emt")
    several.bytes(".xyz", b"")
    for place in range(1, 13):
        several.numbered(place).bytes(".pdf", b"")
        if place == 11:
            several.end()
            assert str(tmp_path / "out_ts_11.pdf") in capsys.readouterr().out
    several.end()
    said = capsys.readouterr().out
    assert str(tmp_path / "out_ts.xyz") in said
    assert "and 12 of single structures" in said
    assert "out_ts_11.pdf" not in said
