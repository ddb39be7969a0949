"""Harmonic analysis against closed forms and against ASE."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.units import invcm
from ase.vibrations import Vibrations, VibrationsData
from scipy import constants, linalg
from scipy.spatial.transform import Rotation

from phl_ase.datasets import open_dataset
from phl_ase.datasets.reactions import reactions_of
from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.paths import relax
from phl_ase.resolver import resolve_calculator
from phl_ase.vibrations import (
    finite_difference_hessian,
    harmonic_analysis,
    lowest_modes,
    match_modes,
    rigid_motions,
    stochastic_spectrum,
)

SI = constants.e * 1e20  # eV/Å² in N/m


def closed_form(force_constant, mass):
    """Wavenumber in cm⁻¹ of a force constant in eV/Å² and a mass in amu, from CODATA constants and nothing of ours."""
    return np.sqrt(force_constant * SI / (mass * constants.atomic_mass)) / (2 * np.pi * constants.c * 100)


def springs(rows, force_constants):
    """Hessian Σ k b bᵀ of harmonic coordinates b·x."""
    return sum(k * np.outer(row, row) for row, k in zip(rows, force_constants, strict=True))


def diatomic(k=30.0, symbols="CO"):
    atoms = Atoms(symbols, [[0, 0, 0], [0, 0, 1.13]])
    return atoms, springs([np.array([0, 0, -1, 0, 0, 1.0])], [k])


def carbon_dioxide(k=100.0, k_bend=5.0, length=1.16):
    atoms = Atoms("OCO", [[-length, 0, 0], [0, 0, 0], [length, 0, 0]])
    rows = np.zeros((4, 3, 3))
    rows[0, 1, 0], rows[0, 0, 0] = 1, -1
    rows[1, 2, 0], rows[1, 1, 0] = 1, -1
    for row, axis in ((2, 1), (3, 2)):
        rows[row, :, axis] = np.array([1, -2, 1]) / length
    return atoms, springs(rows.reshape(4, 9), [k, k, k_bend, k_bend])


def turned(atoms, hessian, seed):
    rotation = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    copy = atoms.copy()
    copy.positions = atoms.positions @ rotation.T + [1.0, -2.0, 3.0]
    block = np.kron(np.eye(len(atoms)), rotation)
    return copy, block @ hessian @ block.T


@pytest.fixture(scope="module")
def water():
    """Water, as EMT would have it, at its minimum, with its Hessian."""
    atoms = molecule("H2O")
    atoms.calc = EMT()
    found = relax(atoms, 1e-4)
    assert found.converged
    return found.atoms, finite_difference_hessian(found.atoms, delta=0.01)


def ase_wavenumbers(data):
    energies = data.get_energies() / invcm
    return np.sort(energies.real - energies.imag)


def test_diatomic():
    atoms, hessian = diatomic()
    result = harmonic_analysis(atoms, hessian)
    m1, m2 = atoms.get_masses()
    expected = closed_form(30.0, m1 * m2 / (m1 + m2))
    # CODATA 2014 (ASE) and 2018/2022 (scipy) differ in the ninth digit
    assert result.wavenumbers == pytest.approx([expected], rel=1e-7)
    assert result.n_projected == 5
    quantum = expected * 100 * constants.h * constants.c / constants.e
    assert result.zero_point_energy == pytest.approx(quantum / 2, rel=1e-7)
    assert result.zero_point_energy_mev == pytest.approx(1e3 * result.zero_point_energy)
    assert result.modes.shape == (1, 2, 3)
    assert np.sum(result.modes**2) == pytest.approx(1.0)
    # the lighter atom moves further: displacements go as 1/m
    x = result.displacements[0, :, 2]
    assert m1 * x[0] == pytest.approx(-m2 * x[1])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_carbon_dioxide(seed):
    """Herzberg, Infrared and Raman Spectra (1945), valence force field of a linear XY2."""
    atoms, hessian = turned(*carbon_dioxide(), seed)
    m_o, m_c = atoms.get_masses()[:2]
    bend = closed_form(2 * 5.0 / 1.16**2 * (1 + 2 * m_o / m_c), m_o)
    expected = [bend, bend, closed_form(100.0, m_o), closed_form(100.0 * (1 + 2 * m_o / m_c), m_o)]
    result = harmonic_analysis(atoms, hessian)
    assert result.wavenumbers == pytest.approx(expected, rel=1e-7)
    assert result.n_projected == 5


@pytest.mark.parametrize(
    ("atoms", "count"),
    [
        (Atoms("He"), 3),
        (molecule("N2"), 5),
        (molecule("C2H2"), 5),
        (Atoms("OCO", [[-1.16, 0.005, 0], [0, 0, 0], [1.16, 0.005, 0]]), 5),  # half a degree: an optimiser's noise
        (molecule("H2O"), 6),
        (molecule("CH4"), 6),
        (Atoms("HNCO", [[0.75, 0.65, 0], [0, 0, 0], [-1.2, 0, 0], [-2.4, 0.0, 0]]), 6),
        (bulk("Cu", cubic=True), 3),
    ],
)
def test_rigid_motions_are_removed(atoms, count):
    """As many modes as are left, each orthogonal to every rigid motion, whatever noise the Hessian puts on those."""
    rng = np.random.default_rng(0)
    masses = atoms.get_masses()
    rigid = rigid_motions(atoms.positions, masses, rotations=not atoms.pbc.any())
    assert rigid.shape == (3 * len(atoms), count)
    np.testing.assert_allclose(rigid.T @ rigid, np.eye(count), atol=1e-12)
    hessian = rng.standard_normal((3 * len(atoms),) * 2)
    hessian = hessian + hessian.T
    result = harmonic_analysis(atoms, hessian)
    assert result.wavenumbers.shape == (3 * len(atoms) - count,)
    assert result.n_projected == count
    assert np.all(np.diff(result.wavenumbers) >= 0)
    modes = result.modes.reshape(-1, 3 * len(atoms))
    np.testing.assert_allclose(modes @ modes.T, np.eye(len(modes)), atol=1e-12)
    np.testing.assert_allclose(modes @ rigid, 0, atol=1e-12)

    root = np.repeat(np.sqrt(masses), 3)
    noise = rng.standard_normal((count, count))
    noisy = hessian + np.outer(root, root) * (rigid @ (noise + noise.T) @ rigid.T)
    np.testing.assert_allclose(harmonic_analysis(atoms, noisy).wavenumbers, result.wavenumbers, atol=1e-6)


def test_single_atom_has_no_modes():
    result = harmonic_analysis(Atoms("He"), np.eye(3))
    assert (len(result.wavenumbers), result.zero_point_energy, result.n_imaginary) == (0, 0.0, 0)
    assert len(harmonic_analysis(Atoms("He"), np.eye(3), project=False).wavenumbers) == 3


def test_water_rotated(water):
    atoms, hessian = water
    here = harmonic_analysis(atoms, hessian)
    there = harmonic_analysis(*turned(atoms, hessian, 4))
    assert here.n_imaginary == 0
    assert len(here.wavenumbers) == 3
    np.testing.assert_allclose(there.wavenumbers, here.wavenumbers, atol=1e-6)
    # at a minimum the vibrations of an exact Hessian need no projection; of this one, up to the differences' error
    raw = harmonic_analysis(atoms, hessian, project=False)
    np.testing.assert_allclose(raw.wavenumbers[-3:], here.wavenumbers, atol=0.5)


def test_isotopes(water):
    atoms, hessian = diatomic(35.0, "H2")
    heavy = atoms.copy()
    heavy.set_masses([2.014, 2.014])
    light = harmonic_analysis(atoms, hessian).wavenumbers
    ratio = np.sqrt(atoms.get_masses()[0] / 2.014)
    np.testing.assert_allclose(harmonic_analysis(heavy, hessian).wavenumbers, light * ratio, rtol=1e-12)
    # Teller-Redlich: the product of wavenumbers goes as the masses, total mass and moments of inertia
    atoms, hessian = water
    heavy = atoms.copy()
    heavy.set_masses([15.999, 2.014, 2.014])
    products = [
        np.prod(harmonic_analysis(x, hessian).wavenumbers)
        * np.prod(x.get_masses()) ** 1.5
        / (x.get_masses().sum() ** 1.5 * np.sqrt(np.prod(x.get_moments_of_inertia())))
        for x in (atoms, heavy)
    ]
    # exact for a Hessian that obeys the sum rules; this one does to about 1e-4
    assert products[1] == pytest.approx(products[0], rel=1e-3)


def test_unprojected_is_ase(water):
    for atoms, hessian in (water, carbon_dioxide(), diatomic()):
        ours = harmonic_analysis(atoms, hessian, project=False)
        data = VibrationsData.from_2d(atoms, hessian)
        np.testing.assert_allclose(ours.wavenumbers, ase_wavenumbers(data), atol=1e-6)
        assert ours.zero_point_energy == pytest.approx(data.get_zero_point_energy(), abs=1e-9)
        assert ours.n_projected == 0
        np.testing.assert_allclose(ours.vibrations_data().get_hessian_2d(), hessian, atol=1e-14)
        np.testing.assert_allclose(np.abs(ours.displacements[-1]), np.abs(data.get_modes()[-1]), atol=1e-9)


def test_projected_vibrations_data(water):
    atoms, hessian = water
    ours = harmonic_analysis(atoms, hessian)
    theirs = ase_wavenumbers(ours.vibrations_data())
    np.testing.assert_allclose(np.abs(theirs[:6]), 0, atol=1e-4)  # a square root of rounding
    np.testing.assert_allclose(theirs[6:], ours.wavenumbers, atol=1e-6)


@pytest.mark.parametrize("fixed", [(), (0,), (1, 2)])
def test_finite_differences_are_ase_vibrations(water, tmp_path, fixed):
    atoms = water[0].copy()
    if fixed:
        atoms.set_constraint(FixAtoms(fixed))
    atoms.calc = EMT()
    before = atoms.positions.copy()
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"), delta=0.01)
    vibrations.run()
    data = vibrations.get_vibrations()
    free = [i for i in range(3) if i not in fixed]
    partial = finite_difference_hessian(atoms, delta=0.01, indices=free)
    np.testing.assert_allclose(partial, data.get_hessian_2d(), atol=1e-9)
    np.testing.assert_array_equal(atoms.positions, before)
    ours = harmonic_analysis(atoms, partial, project=False)
    np.testing.assert_allclose(ours.wavenumbers[-2:], ase_wavenumbers(data)[-2:], atol=1e-6)
    np.testing.assert_array_equal(ours.indices, free)
    # a Hessian of all atoms gives the same, its block being taken
    full = finite_difference_hessian(atoms, delta=0.01)
    again = harmonic_analysis(atoms, full, project=False)
    np.testing.assert_allclose(again.wavenumbers[-2:], ours.wavenumbers[-2:], atol=1e-6)
    if fixed:
        projected = harmonic_analysis(atoms, full)
        # about one fixed atom the molecule can turn in three ways, about two in one
        assert projected.n_projected == {1: 3, 2: 1}[len(fixed)]
        assert len(projected.wavenumbers) == 3 * len(free) - projected.n_projected
        assert projected.shape is None
        np.testing.assert_allclose(projected.vibrations_data().get_indices(), free)
        # at a minimum these rotations have no restoring force: projecting changes nothing else
        np.testing.assert_allclose(projected.wavenumbers, ours.wavenumbers[projected.n_projected :], atol=0.5)
        loose = atoms.copy()
        loose.set_constraint()
        chosen = harmonic_analysis(loose, full, indices=free)
        np.testing.assert_array_equal(chosen.wavenumbers, projected.wavenumbers)


@pytest.mark.parametrize(
    ("structure", "fixed", "count"),
    [
        (molecule("CH4"), [0], 3),
        (molecule("CH4"), [0, 1], 1),
        (molecule("CH4"), [0, 1, 2], 0),
        (molecule("C2H2"), [0], 2),  # linear: no rotation about its axis
        (molecule("C2H2"), [0, 1], 0),
        (molecule("C2H4"), [0, 1], 1),
        (bulk("Cu", cubic=True), [0], 0),
    ],
)
def test_fixed_atoms_leave_the_rotations_about_them(structure, fixed, count):
    """An energy of internal distances alone: every motion that keeps them, and the fixed atoms, has no force."""
    atoms = structure.copy()
    atoms.set_constraint(FixAtoms(fixed))
    rows = np.zeros((len(atoms), len(atoms), len(atoms), 3))
    for i in range(len(atoms)):
        for j in range(i):
            bond = atoms.positions[i] - atoms.positions[j]
            rows[i, j, i], rows[i, j, j] = bond, -bond
    rows = rows.reshape(-1, 3 * len(atoms))
    result = harmonic_analysis(atoms, 0.1 * rows.T @ rows)
    assert result.n_projected == count
    if not atoms.pbc.any() and count:
        unprojected = harmonic_analysis(atoms, 0.1 * rows.T @ rows, project=False)
        # square roots of rounding on one side, the same modes beyond
        np.testing.assert_allclose(unprojected.wavenumbers[:count], 0, atol=1e-3)
        np.testing.assert_allclose(unprojected.wavenumbers[count:], result.wavenumbers, atol=1e-3)


def curved_valley(x, y):
    """Gradient and Hessian of a curved valley: ½ k (r − 2)² + ½ c (1 − x/2)² in the plane."""
    k, c, r = 5.0, 0.5, np.hypot(x, y)
    radial = np.array([x, y]) / r
    tangent = np.array([-y, x]) / r
    gradient = k * (r - 2) * radial + c / 2 * (x / 2 - 1) * np.array([1.0, 0.0])
    hessian = k * np.outer(radial, radial) + k * (r - 2) / r * np.outer(tangent, tangent)
    hessian[0, 0] += c / 4
    return gradient, hessian


def test_gradient_is_projected_out():
    """One atom bound to two heavy fixed ones, on a surface of two coordinates whose curvature across is known."""
    point = np.array([1.2, 1.7])
    gradient, hessian = curved_valley(*point)
    atoms = Atoms("C3", [[0, 0, -3.0], [0, 0.5, 3.0], [*point, 0]], constraint=FixAtoms([0, 1]))
    matrix = np.zeros((9, 9))
    matrix[6:8, 6:8] = hessian
    matrix[8, 8] = 7.0
    forces = np.zeros((3, 3))
    forces[2, :2] = -gradient
    result = harmonic_analysis(atoms, matrix, gradient=forces, project=False)
    assert result.gradient_projected
    across = np.array([-gradient[1], gradient[0]]) / np.linalg.norm(gradient)
    mass = atoms.get_masses()[2]
    expected = sorted([closed_form(across @ hessian @ across, mass), closed_form(7.0, mass)])
    np.testing.assert_allclose(result.wavenumbers, expected, rtol=1e-7)
    # the sign of the gradient does not matter, its direction is in no mode
    again = harmonic_analysis(atoms, matrix, gradient=-5 * forces, project=False)
    np.testing.assert_allclose(again.wavenumbers, result.wavenumbers, rtol=1e-12)
    np.testing.assert_allclose(result.modes[:, 0, :2] @ gradient, 0, atol=1e-12)
    assert "the gradient as well" in result.table()


def test_gradient_and_rigid_motions_leave_3n_minus_7(water):
    atoms, hessian = water
    rng = np.random.default_rng(3)
    forces = rng.standard_normal((3, 3))
    result = harmonic_analysis(atoms, hessian, gradient=forces)
    assert (len(result.wavenumbers), result.n_projected) == (2, 6)
    modes = result.modes.reshape(2, 9)
    rigid = rigid_motions(atoms.positions, atoms.get_masses())
    weighted = (forces / np.sqrt(atoms.get_masses())[:, None]).ravel()
    np.testing.assert_allclose(modes @ np.column_stack([rigid, weighted]), 0, atol=1e-12)
    # ASE finds the same and seven zeros
    theirs = ase_wavenumbers(result.vibrations_data())
    np.testing.assert_allclose(theirs[7:], result.wavenumbers, atol=1e-6)
    np.testing.assert_allclose(theirs[:7], 0, atol=1e-3)
    for wrong, words in ((np.zeros((3, 3)), "vanishes"), (forces[:2], r"expected \(3, 3\)"), (forces * np.nan, "NaN")):
        with pytest.raises(PHLError, match=words):
            harmonic_analysis(atoms, hessian, gradient=wrong)
    # pure translation and rotation are no direction of a path
    with pytest.raises(PHLError, match="vanishes"):
        harmonic_analysis(atoms, hessian, gradient=np.outer(atoms.get_masses(), [1.0, 0, 0]))


def eckart_by_constraints(atoms, hessian):
    """Wavenumbers by another road: Cartesian H x = λ M x under Eckart's linear conditions on x, by LAPACK's sygvd."""
    motions = [np.tile(axis, (len(atoms), 1)) for axis in np.eye(3)]
    motions += [np.cross(axis, atoms.positions) for axis in np.eye(3)]
    mass = np.diag(np.repeat(atoms.get_masses(), 3))
    conditions = np.array([motion.ravel() for motion in motions]) @ mass
    allowed = linalg.null_space(conditions, rcond=1e-3)  # of a linear molecule one condition says nothing
    eigenvalues = linalg.eigh(allowed.T @ hessian @ allowed, allowed.T @ mass @ allowed, eigvals_only=True)
    return np.sign(eigenvalues) * closed_form(np.abs(eigenvalues), 1.0)


@pytest.mark.parametrize("kind", ["transition_state", "reactant", "product"])
def test_projected_wavenumbers_equal_an_independent_analysis(kind):
    """On every stationary point of the bundled set; constants of two CODATA sets differ in the ninth digit."""
    for name, reaction in reactions_of(open_dataset("reactions-wb97xd-631gd")).items():
        frame = getattr(reaction, kind)
        atoms = Atoms(frame.numbers, frame.positions)
        ours = harmonic_analysis(atoms, frame.hessian)
        assert ours.n_imaginary == (kind == "transition_state"), name
        theirs = eckart_by_constraints(atoms, frame.hessian)
        np.testing.assert_allclose(ours.wavenumbers, theirs, atol=1e-3, err_msg=name)


def test_phonopy_finds_the_same_wavenumbers(water):
    """A molecule in a box, the projected Hessian as force constants: phonopy's Γ point is the molecule's spectrum."""
    phonopy = pytest.importorskip("phonopy")
    from phonopy.structure.atoms import PhonopyAtoms

    atoms, hessian = water
    ours = harmonic_analysis(atoms, hessian)
    cell = PhonopyAtoms(atoms.symbols, cell=20 * np.eye(3), positions=atoms.positions, masses=atoms.get_masses())
    phonon = phonopy.Phonopy(cell, np.eye(3), primitive_matrix=np.eye(3), log_level=0)
    phonon.force_constants = ours.hessian.reshape(3, 3, 3, 3).transpose(0, 2, 1, 3)
    phonon.run_qpoints([[0, 0, 0]])
    frequencies = np.sort(phonon.qpoints.frequencies[0]) * 1e12 / constants.c / 100
    np.testing.assert_allclose(frequencies[6:], ours.wavenumbers, atol=0.01)
    np.testing.assert_allclose(frequencies[:6], 0, atol=0.1)


@pytest.mark.parametrize(
    ("name", "shape", "n_projected"),
    [("CO2", "linear", 5), ("HCN", "linear", 5), ("H2O", "nonlinear", 6), ("NH3", "nonlinear", 6)],
)
def test_molecules_on_tight_binding(name, shape, n_projected):
    """GFN2-xTB: right number of modes, none imaginary, pairs of bends of the linear ones degenerate."""
    atoms = molecule(name)
    atoms.calc = resolve_calculator("tblite")
    found = relax(atoms, 1e-4)
    assert found.converged
    result = harmonic_analysis(found.atoms, finite_difference_hessian(found.atoms))
    assert (result.shape, result.n_projected, result.n_imaginary) == (shape, n_projected, 0)
    assert result.wavenumbers[0] > 400  # cm⁻¹: the bends, not a rotation
    if shape == "linear":
        assert result.wavenumbers[1] == pytest.approx(result.wavenumbers[0], abs=0.5)


def test_imaginary_modes_and_table():
    atoms, hessian = carbon_dioxide(k_bend=-5.0)
    result = harmonic_analysis(atoms, hessian)
    assert result.n_imaginary == 2
    bend = result.wavenumbers[0]
    assert bend < -100
    table = result.table()
    assert f"{-bend:.2f}i" in table
    assert "cm^-1" in table
    assert "meV" in table
    assert table.count("i\n") == 2
    assert result.zero_point_energy == pytest.approx(0.5 * invcm * result.wavenumbers[2:].sum())
    assert harmonic_analysis(atoms, hessian, imaginary_threshold=1e4).n_imaginary == 0


def test_mistakes(water):
    atoms, hessian = water
    for wrong in (hessian[:6, :6], hessian.reshape(3, 3, 3, 3), np.zeros(81)):
        with pytest.raises(PHLError, match=r"expected \(9, 9\)"):
            harmonic_analysis(atoms, wrong)
    with pytest.raises(NonFiniteError, match="NaN"):
        harmonic_analysis(atoms, hessian * np.nan)
    for indices in ([3], [-4], [0, 0], [1, 0], np.array([0.5]), np.array([[0]]), []):
        with pytest.raises(PHLError, match="expected"):
            harmonic_analysis(atoms, hessian, indices=indices)
    massless = atoms.copy()
    massless.set_masses([0, 1, 1])
    with pytest.raises(PHLError, match="mass of atom 0"):
        harmonic_analysis(massless, hessian)
    with pytest.raises(PHLError, match="no atoms"):
        harmonic_analysis(Atoms(), np.zeros((0, 0)))
    with pytest.raises(PHLError, match="calculator"):
        finite_difference_hessian(atoms.copy())
    with pytest.raises(PHLError, match="delta"):
        finite_difference_hessian(atoms, delta=0.0)


def test_results_in_a_console_are_one_line(water):
    atoms, hessian = water
    analysis = harmonic_analysis(atoms, hessian)
    low, middle, high = analysis.wavenumbers
    assert repr(analysis) == f"<HarmonicAnalysis H2O: 3 modes, 0 imaginary; {low:.1f} {middle:.1f} {high:.1f} cm⁻¹>"
    assert repr(harmonic_analysis(atoms, -hessian)).startswith("<HarmonicAnalysis H2O: 3 modes, 3 imaginary; ")
    large = molecule("C6H6")
    many = harmonic_analysis(large, np.eye(36))
    assert "…" in repr(many)

    def hvp(vectors, _):
        return (vectors.reshape(len(vectors), -1) @ hessian).reshape(vectors.shape)

    results = (
        analysis,
        many,
        match_modes(analysis, analysis),
        lowest_modes(atoms, hvp, 2),
        stochastic_spectrum(atoms, hvp, n_probes=2, steps=2),
    )
    for result in results:
        assert repr(result).startswith(f"<{type(result).__name__} ")
        assert len(repr(result)) < 130
