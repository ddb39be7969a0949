"""Force constants, bands and files of phonons against closed forms, phonopy's displacements and its command line."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time

import numpy as np
import phonopy
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from crystals import CRYSTALS, argon, counted, springs
from phonopy.file_IO import parse_FORCE_CONSTANTS, read_force_constants_hdf5

from phl_ase.curvature import curvature_of
from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.phonons import (
    displaced_force_constants,
    force_constants,
    make_phonopy,
    parse_supercell,
    phonons_of,
    read_force_constants,
    read_phonopy_yaml,
    supercell_atoms,
    write_force_constants,
    write_phonopy_yaml,
)
from phl_ase.potentials.radial import envelope

FAST = {"points": 40, "mesh": (6, 6, 6)}


@pytest.fixture(scope="module", params=CRYSTALS)
def crystal(request):
    calculator, cell, supercell, primitive = CRYSTALS[request.param]()
    return calculator, make_phonopy(cell, supercell), primitive


@pytest.fixture(scope="module")
def fcc():
    calculator, cell, supercell, _ = CRYSTALS["LJ argon, fcc"]()
    phonon = make_phonopy(cell, supercell)
    return calculator, phonon, force_constants(phonon, calculator)


# ------------------------------------------------------------------------------------------------------ force constants


def test_hvps_give_what_phonopy_gets_from_displacements(crystal):
    """1e-3 THz: displacements of 0.002 Å are good to about 1e-4 (third order in the step), HVPs to better."""
    calculator, phonon, primitive = crystal
    found = force_constants(phonon, calculator)
    assert found.values.shape == (primitive, len(phonon.supercell), 3, 3)
    got = phonons_of(phonon, found, **FAST)
    displaced = phonons_of(phonon, displaced_force_constants(phonon, calculator, distance=0.002), **FAST)
    assert np.abs(got.frequencies - displaced.frequencies).max() < 1e-3
    assert np.abs(got.gamma_acoustic).max() <= 0.01
    assert got.n_imaginary == 0
    assert found.sum_rule < 1e-5
    assert not found.symmetrised


def test_springs_of_an_fcc_crystal_have_their_closed_form():
    """Nearest neighbours with stiffness k: mω² is 8k and 4k at X, 8k and 2k at L (longitudinal, transverse)."""
    length, cutoff = 2.6, 3.4
    calculator = springs(3.0, length, cutoff)
    phonon = make_phonopy(bulk("Al", a=length * 2**0.5), (3, 3, 3))
    stiffness = 3.0 * float(envelope(torch.tensor([length / cutoff], dtype=torch.float64), 6))
    mass = phonon.primitive.masses[0]
    got = phonons_of(phonon, force_constants(phonon, calculator), path="XL", points=2, mesh=(2, 2, 2))
    hertz = np.sqrt(units._e / units._amu) * 1e10 / (2 * np.pi)
    for frequencies, factors in zip(got.frequencies, ([4, 4, 8], [2, 2, 8]), strict=True):
        expected = 1e-12 * hertz * np.sqrt(np.array(factors) * stiffness / mass)
        # constants of CODATA 2014 (ASE) and 2018 (phonopy) differ in the eighth digit
        np.testing.assert_allclose(frequencies, expected, rtol=1e-6)


def test_only_the_columns_of_primitive_atoms_are_asked_for():
    calculator, cell, supercell, primitive = CRYSTALS["LJ argon, hcp"]()
    phonon = make_phonopy(cell, supercell)
    curvature = curvature_of(calculator)
    hvp, seen = counted(curvature.hvp)
    force_constants(phonon, dataclasses.replace(curvature, hvp=hvp))
    assert sum(seen) == 3 * primitive


def test_the_full_form_is_the_hessian_of_the_supercell():
    calculator = argon()
    phonon = make_phonopy(bulk("Ar", a=5.3), (2, 2, 2))
    full = force_constants(phonon, calculator, compact=False)
    expected = calculator.get_hessian(supercell_atoms(phonon), layout="nn33")
    np.testing.assert_allclose(full.values, expected, atol=1e-12)
    compact = force_constants(phonon, calculator)
    np.testing.assert_array_equal(full.values[compact.primitive_atoms], compact.values)
    both = [phonons_of(phonon, found, **FAST).frequencies for found in (full, compact)]
    np.testing.assert_allclose(*both, atol=1e-9)


def test_differences_say_so_and_are_counted(fcc):
    assert "differences" in force_constants(make_phonopy(bulk("Cu", a=3.59), (2, 2, 2)), EMT()).source
    _, phonon, exact = fcc
    assert "differences" not in exact.source
    assert exact.gradients == 0
    assert phonon.force_constants is None  # what was given is not changed


def test_symmetrisation_is_asked_for(fcc):
    """A curvature that breaks translation invariance by a known sum, before and after."""
    calculator, phonon, _ = fcc
    curvature = curvature_of(calculator)
    broken = dataclasses.replace(curvature, hvp=lambda v, atoms: curvature.hvp(v, atoms) + 0.01 * np.asarray(v))
    asked = force_constants(phonon, broken)
    assert asked.sum_rule == pytest.approx(0.01, abs=1e-6)
    assert np.abs(phonons_of(phonon, asked, **FAST).gamma_acoustic).max() > 0.05
    mended = force_constants(phonon, broken, symmetrise=True)
    assert mended.symmetrised
    assert mended.sum_rule == asked.sum_rule  # what is reported is what the potential gave
    assert np.abs(mended.values.sum(axis=1)).max() < 1e-6
    assert np.abs(phonons_of(phonon, mended, **FAST).gamma_acoustic).max() < 0.01


@pytest.mark.parametrize(
    ("hvp", "error", "words"),
    [
        (lambda v, atoms: np.asarray(v)[..., :1], PHLError, r"hvp\(vectors, atoms\) returned shape"),
        (lambda v, atoms: np.full_like(v, np.nan), NonFiniteError, "NaN"),
    ],
)
def test_bad_hvps(fcc, hvp, error, words):
    calculator, phonon, _ = fcc
    with pytest.raises(error, match=words):
        force_constants(phonon, dataclasses.replace(curvature_of(calculator), hvp=hvp))


# ---------------------------------------------------------------------------------------------------------------- bands


def test_thermal_properties_follow_from_the_frequencies(fcc):
    """F = Σ hν/2 + kT ln(1 − exp(−hν/kT)) over the mesh; the heat capacity tends to 3 k_B (Dulong and Petit)."""
    _, phonon, found = fcc
    got = phonons_of(phonon, found, points=10, mesh=(6, 6, 6))
    temperature = 300.0
    quanta = got.mesh_frequencies * 1e12 * units._hplanck / units._e
    weights = got.mesh_weights[:, None] / got.mesh_weights.sum() * (got.mesh_frequencies > 0.01)
    kt = units.kB * temperature
    expected = np.sum(weights * (0.5 * quanta + kt * np.log1p(-np.exp(-np.maximum(quanta, 1e-9) / kt))))
    assert got.at_temperature(got.free_energy, temperature) == pytest.approx(expected, rel=1e-5)
    # 3 of the 648 modes of this mesh, acoustic at Γ, take no part
    assert got.heat_capacity[-1] == pytest.approx(3 * units.kB * (1 - 3 / 648), rel=1e-3)
    derivative = -np.gradient(got.free_energy, got.temperatures)
    np.testing.assert_allclose(derivative[5:-5], got.entropy[5:-5], rtol=1e-2)


def test_the_density_of_states_counts_every_mode(fcc):
    _, phonon, found = fcc
    got = phonons_of(phonon, found, points=10, mesh=(12, 12, 12))
    assert np.trapezoid(got.dos, got.dos_frequencies) == pytest.approx(3.0, rel=0.02)
    assert got.mesh_weights.sum() == 12**3
    assert set("GXWKLU") <= set(got.labels)
    assert np.all(np.diff(got.frequencies, axis=1) >= 0)


def test_results_in_a_console_are_one_line(fcc):
    _, phonon, found = fcc
    result = phonons_of(phonon, found, **FAST)
    assert repr(result).startswith("<Phonons 3 bands at ")
    assert repr(result).endswith(" THz, 0 imaginary>")
    assert repr(found).startswith("<ForceConstants (1, 27, 3, 3): Hessian-vector products of the calculator")
    assert max(len(repr(result)), len(repr(found))) < 140


def test_a_maximum_has_imaginary_modes(fcc):
    _, phonon, found = fcc
    got = phonons_of(phonon, dataclasses.replace(found, values=-found.values), points=10, mesh=(4, 4, 4))
    assert got.n_imaginary == 3 * 4**3 - 3
    assert got.frequencies.min() < -1


def test_isotopes_keep_their_masses():
    """Two masses on one sublattice each: two atoms in the primitive cell, where symmetry alone would see one."""
    atoms = bulk("Ar", a=5.3, cubic=True)
    heavy = atoms.copy()
    heavy.set_masses([40.0, 36.0, 40.0, 36.0])
    assert len(make_phonopy(atoms, (2, 2, 2)).primitive) == 1
    phonon = make_phonopy(heavy, (2, 2, 2))
    assert len(phonon.primitive) == 4
    assert sorted(set(phonon.primitive.masses)) == [36.0, 40.0]
    assert np.sum(supercell_atoms(phonon).get_masses()) == pytest.approx(8 * heavy.get_masses().sum())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"path": "GQQ"}, "no path 'GQQ'"),
        ({"points": 1}, "points is 1"),
        ({"mesh": (4, 4)}, "mesh is"),
        ({"mesh": (4, 4, 0)}, "mesh is"),
        ({"temperatures": (300.0, 100.0)}, "not ascending"),
        ({"temperatures": (-1.0,)}, "at least 0 K"),
    ],
)
def test_bad_settings(fcc, settings, words):
    _, phonon, found = fcc
    with pytest.raises(PHLError, match=words):
        phonons_of(phonon, found, **{"mesh": (2, 2, 2), **settings})


def test_a_temperature_that_was_not_computed(fcc):
    _, phonon, found = fcc
    got = phonons_of(phonon, found, points=5, mesh=(2, 2, 2), temperatures=(100.0, 200.0))
    with pytest.raises(PHLError, match="100 to 200 K"):
        got.at_temperature(got.free_energy, 300.0)


# ----------------------------------------------------------------------------------------------------------- supercells


@pytest.mark.parametrize(
    ("given", "diagonal"),
    [
        ((2, 3, 4), (2, 3, 4)),
        ("2 2 2", (2, 2, 2)),
        (np.diag([1, 2, 3]), (1, 2, 3)),
        ([2, 0, 0, 0, 2, 0, 0, 0, 1], (2, 2, 1)),
    ],
)
def test_supercells_that_are_read(given, diagonal):
    np.testing.assert_array_equal(parse_supercell(given), np.diag(diagonal))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((2, 2), "has 2 numbers"),
        ((2, 2, 2.5), "whole numbers"),
        ((2, 2, float("nan")), "whole numbers"),
        ("two by two", "expected 3 or 9"),
        ((2, 2, 0), "determinant 0"),
        (np.diag([-1, 1, 1]), "determinant -1"),
        ([[1, 2], [3, 4]], "has 4 numbers"),
        (2, "has 1 numbers"),
        ((100, 100, 100), "at most"),
    ],
)
def test_supercells_that_are_none(given, words):
    with pytest.raises(PHLError, match=words):
        make_phonopy(bulk("Cu"), given)


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (molecule("H2O"), "need a crystal"),
        (Atoms("Cu", cell=[3, 3, 0], pbc=True), "need a crystal"),
        (Atoms("Cu", cell=[3, 3, 9], pbc=[True, True, False]), "need a crystal"),
        (Atoms(cell=[3, 3, 3], pbc=True), "no atoms"),
        (Atoms("Cu", [[np.nan, 0, 0]], cell=[3, 3, 3], pbc=True), "NaN"),
        (Atoms("Cu2", [[0, 0, 0], [0, 0, 0]], cell=[3, 3, 3], pbc=True), "phonopy cannot build"),
        (Atoms("Cu", cell=[[3, 0, 0], [3, 0, 0], [0, 0, 3]], pbc=True), "lie in a plane"),
        (Atoms("Cu", cell=[[3, 0, 0], [3, 1e-5, 0], [0, 0, 3]], pbc=True), "lie in a plane"),
        (Atoms("Cu", cell=[3, 3, 1e-7], pbc=True), "lie in a plane"),
        (Atoms("CuX", [[0, 0, 0], [1.5, 1.5, 1.5]], cell=[3, 3, 3], pbc=True), "atom 1 of CuX is no element"),
    ],
)
def test_structures_that_are_no_crystal(atoms, words):
    with pytest.raises(PHLError, match=words):
        make_phonopy(atoms, (2, 2, 2))


@pytest.mark.parametrize("swap", [(1, 0, 2), (0, 2, 1), (2, 1, 0)])
def test_a_left_handed_cell_is_the_same_crystal(tmp_path, swap):
    """One crystal without inversion in right- and left-handed vectors: the same phonons at the same points."""
    cell = np.array([[3.1, 0.0, 0.0], [0.4, 3.4, 0.0], [-0.3, 0.5, 3.7]])
    right = Atoms("ArNeAr", [[0.1, 0.2, 0.3], [1.5, 1.8, 0.4], [0.6, 0.3, 2.0]], cell=cell, pbc=True)
    left = right.copy()
    left.set_cell(cell[list(swap)])
    assert np.linalg.det(left.cell) < 0
    calculator = springs(2.0, 1.9, 4.0)
    frequencies = []
    for atoms in (right, left):
        phonon = make_phonopy(atoms, (2, 2, 2))
        assert np.linalg.det(phonon.unitcell.cell) > 0
        np.testing.assert_allclose(phonon.unitcell.cell, atoms.cell if atoms is right else -atoms.cell)
        phonon.force_constants = force_constants(phonon, calculator).values
        # of the same waves: their Cartesian vectors
        waves = np.array([[0.05, 0.02, -0.03], [0.11, -0.07, 0.02]])
        frequencies.append(phonon.run_qpoints(waves @ np.array(phonon.primitive.cell).T).frequencies)
    np.testing.assert_allclose(frequencies[1], frequencies[0], atol=1e-8)
    # and from a file
    lattice = cell[list(swap)].tolist()
    content = f"unit_cell:\n  lattice: {lattice}\n  points: [{{symbol: Ar, coordinates: [0.1, 0.2, 0.3]}}]\n"
    (tmp_path / "phonopy.yaml").write_text(content + "supercell_matrix: [[2, 0, 0], [0, 2, 0], [0, 0, 2]]")
    read = read_phonopy_yaml(tmp_path / "phonopy.yaml")
    np.testing.assert_allclose(read.unitcell.cell, -cell[list(swap)])
    expected = np.array([0.1, 0.2, 0.3]) @ cell[list(swap)]
    shift = np.linalg.solve(cell.T, read.unitcell.positions[0] - expected)
    np.testing.assert_allclose(shift, np.rint(shift), atol=1e-9)


def test_a_primitive_matrix_that_does_not_fit():
    with pytest.raises(PHLError, match="primitive_matrix"):
        make_phonopy(bulk("Cu"), (2, 2, 2), primitive_matrix="Q")
    with pytest.raises(PHLError, match="phonopy cannot build"):
        make_phonopy(bulk("Cu"), (2, 2, 2), primitive_matrix="F")


# ---------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("name", "reader"), [("FORCE_CONSTANTS", parse_FORCE_CONSTANTS), ("fc.hdf5", read_force_constants_hdf5)]
)
@pytest.mark.parametrize("compact", [True, False])
def test_phonopy_reads_what_is_written(tmp_path, name, reader, compact):
    phonon = make_phonopy(bulk("Ar", a=5.3, cubic=True), (2, 2, 2))
    found = force_constants(phonon, argon(), compact=compact)
    write_force_constants(tmp_path / name, found)
    np.testing.assert_allclose(reader(str(tmp_path / name), p2s_map=phonon.primitive.p2s_map), found.values, atol=1e-15)
    again = read_force_constants(tmp_path / name, phonon)
    np.testing.assert_allclose(again.values, found.values, atol=1e-15)
    assert again.sum_rule == pytest.approx(found.sum_rule, abs=1e-12)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_phonopy_goes_on_from_the_files(tmp_path, fcc):
    """phonopy.load, with nothing but the folder, gives the same frequencies."""
    _, phonon, found = fcc
    write_phonopy_yaml(tmp_path / "phonopy.yaml", phonon)
    write_force_constants(tmp_path / "FORCE_CONSTANTS", found)
    loaded = phonopy.load(
        tmp_path / "phonopy.yaml", force_constants_filename=tmp_path / "FORCE_CONSTANTS", is_nac=False, log_level=0
    )
    qpoints = [[0.1, 0.2, 0.3], [0.5, 0.5, 0.0]]
    own = phonon.replicate()
    own.force_constants = found.values
    expected, got = (p.run_qpoints(qpoints).frequencies for p in (own, loaded))
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.slow
def test_the_command_line_of_phonopy_goes_on(tmp_path, fcc):
    _, phonon, found = fcc
    write_phonopy_yaml(tmp_path / "phonopy.yaml", phonon)
    write_force_constants(tmp_path / "force_constants.hdf5", found)
    command = [sys.executable, "-c", "from phonopy.scripts.phonopy_load import run; run()", "phonopy.yaml"]
    done = subprocess.run(
        [*command, "--mesh", "4", "4", "4", "-t"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "thermal_properties.yaml").exists()


def test_displacements_of_phonopy_are_read(tmp_path, fcc):
    calculator, phonon, found = fcc
    own = phonon.replicate()
    own.generate_displacements(distance=0.01)
    own.save(filename=str(tmp_path / "phonopy_disp.yaml"))
    read = read_phonopy_yaml(tmp_path / "phonopy_disp.yaml")
    np.testing.assert_array_equal(read.supercell_matrix, phonon.supercell_matrix)
    np.testing.assert_allclose(force_constants(read, calculator).values, found.values, atol=1e-9)
    smaller = read_phonopy_yaml(tmp_path / "phonopy_disp.yaml", supercell=(2, 2, 2))
    assert len(smaller.supercell) == 8


def test_reading_runs_no_code(tmp_path):
    """phonopy's own reader would make the file."""
    trap = tmp_path / "ran"
    path = tmp_path / "phonopy_disp.yaml"
    path.write_text(
        f"unit_cell: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{trap}]]\n"
    )
    with pytest.raises(PHLError, match="not plain YAML"):
        read_phonopy_yaml(path)
    assert not trap.exists()


CELL = "unit_cell:\n  lattice: [[3, 0, 0], [0, 3, 0], [0, 0, 3]]\n  points: [{symbol: Cu, coordinates: [0, 0, 0]}]\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no settings"),
        (b"just words", "no settings"),
        (b"a: [1, 2", "not plain YAML"),
        (b"\x00\x01binary\xff", "not plain YAML"),
        (b"a: &a [1, 2]\nb: &b [*a, *a]\nlattice: [*b, *b]", "references"),
        (b"[" * 50_000, "more than 20 deep"),
        (b"{a: " * 50_000, "more than 20 deep"),
        (b"phonopy: {version: 4}", "no unit cell"),
        (b"unit_cell: {lattice: 7, points: 8}", "not a file of a phonopy calculation"),
        (CELL.encode(), "no supercell_matrix"),
        ((CELL + "supercell_matrix: [[2, 0], [0, 2]]").encode(), "has 4 numbers"),
        ((CELL + "supercell_matrix: [[900, 0, 0], [0, 900, 0], [0, 0, 900]]").encode(), "at most"),
        ((CELL + "phonopy: {calculator: qe}\nsupercell_matrix: [[2, 0, 0], [0, 2, 0], [0, 0, 2]]").encode(), "units"),
    ],
)
def test_files_that_are_broken(tmp_path, content, words):
    path = tmp_path / "phonopy_disp.yaml"
    path.write_bytes(content)
    started = time.perf_counter()
    with pytest.raises(PHLError, match=words) as caught:
        read_phonopy_yaml(path)
    assert time.perf_counter() - started < 5
    assert "\n" not in str(caught.value)


def test_files_that_are_missing(tmp_path, fcc):
    _, phonon, found = fcc
    with pytest.raises(PHLError, match="cannot read"):
        read_phonopy_yaml(tmp_path / "none.yaml")
    with pytest.raises(PHLError, match="cannot read force constants"):
        read_force_constants(tmp_path / "FORCE_CONSTANTS", phonon)
    with pytest.raises(PHLError, match="does not exist"):
        write_force_constants(tmp_path / "nowhere" / "FORCE_CONSTANTS", found)


def test_force_constants_of_another_crystal(tmp_path, fcc):
    *_, found = fcc
    write_force_constants(tmp_path / "fc.hdf5", found)
    with pytest.raises(PHLError, match="expected"):
        read_force_constants(tmp_path / "fc.hdf5", make_phonopy(bulk("Ar", a=5.3), (2, 2, 2)))
    with pytest.raises(PHLError, match="expected"):
        phonons_of(make_phonopy(bulk("Ar", "hcp", a=3.75), (2, 2, 2)), found, **FAST)
