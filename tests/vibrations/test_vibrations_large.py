"""Vibrations without a Hessian: the lowest modes and sums over all of them, against dense diagonalisation."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.units import invcm, kB

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.units import wavenumbers
from phl_ase.vibrations import (
    finite_difference_hessian,
    harmonic_analysis,
    lowest_modes,
    rigid_motions,
    stochastic_spectrum,
)
from phl_ase.vibrations.model_hessian import model_hessian


def hvps_of(hessian: np.ndarray):
    return lambda vectors, atoms: (vectors.reshape(len(vectors), -1) @ hessian).reshape(vectors.shape)


def with_hessian(atoms: Atoms, seed: int = 0, *, soften: float = 0.3) -> tuple[Atoms, np.ndarray]:
    """A Hessian as far from the model's as a real one is: other stiffness for every pair, and a negative mode."""
    rng = np.random.default_rng(seed)
    n = len(atoms)
    weights = rng.uniform(0.3, 1.7, (n, n))
    blocks = model_hessian(atoms).toarray().reshape(n, 3, n, 3) * (0.5 * (weights + weights.T))[:, None, :, None]
    own = np.arange(n)
    blocks[own, :, own, :] = 0
    blocks[own, :, own, :] = -blocks.sum(axis=2)
    hessian = blocks.reshape(3 * n, 3 * n)
    direction = rng.standard_normal(3 * n)
    direction /= np.linalg.norm(direction)
    hessian = hessian - soften * np.outer(direction, direction)
    return atoms, 0.5 * (hessian + hessian.T)


def copper() -> tuple[Atoms, np.ndarray]:
    """Periodic, symmetric, its modes degenerate: 32 atoms of copper, EMT."""
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.calc = EMT()
    return atoms, finite_difference_hessian(atoms)


def two_benzenes() -> tuple[Atoms, np.ndarray]:
    other = molecule("C6H6")
    other.translate([0.5, 0.3, 3.5])
    return with_hessian(molecule("C6H6") + other)


SYSTEMS = {
    "benzene": lambda: with_hessian(molecule("C6H6")),
    "two benzenes": two_benzenes,
    "copper": copper,
}


def eigenvalues_of(analysis) -> np.ndarray:
    scale = float(wavenumbers(1.0))
    return np.sign(analysis.wavenumbers) * (analysis.wavenumbers / scale) ** 2


@pytest.fixture(scope="module", params=SYSTEMS)
def system(request):
    atoms, hessian = SYSTEMS[request.param]()
    return atoms, hessian, harmonic_analysis(atoms, hessian)


# ------------------------------------------------------------------------------------------------------- lowest modes


@pytest.mark.parametrize("k", [1, 3, 7])
def test_lowest_modes_are_those_of_the_dense_hessian(system, k):
    atoms, hessian, dense = system
    found = lowest_modes(atoms, hvps_of(hessian), k)
    expected = eigenvalues_of(dense)[:k]
    assert found.converged
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=1e-6)
    np.testing.assert_allclose(found.wavenumbers, dense.wavenumbers[:k], rtol=1e-6)
    flat = found.modes.reshape(k, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(k), atol=1e-10)
    rigid = rigid_motions(atoms.positions, atoms.get_masses(), rotations=not atoms.pbc.any())
    np.testing.assert_allclose(flat @ rigid, 0, atol=1e-9)
    # as eigenvectors: (A − λ) x = 0 to the square root of the eigenvalues' tolerance
    weights = np.repeat(atoms.get_masses() ** -0.5, 3)
    images = flat @ (weights[:, None] * hessian * weights)
    images -= (images @ rigid) @ rigid.T
    scale = eigenvalues_of(dense).max()
    assert np.abs(images - found.eigenvalues[:, None] * flat).max() < 1e-2 * scale
    assert found.n_hvps < 3 * len(atoms)


def test_no_degenerate_partner_is_missed():
    """The stretches of a ring of 40 carbon atoms come in triples of pairs, whatever the seed."""
    atoms, hvp, expected = harmonic_chain(40)
    for seed in range(4):
        found = lowest_modes(atoms, hvp, 8, seed=seed)
        np.testing.assert_allclose(found.eigenvalues, np.sort(expected)[:8], rtol=1e-6)


def test_warm_start():
    """From the modes of a geometry nearby it takes fewer HVPs; a start that knows nothing harms nothing."""
    atoms, hessian = two_benzenes()
    cold = lowest_modes(atoms, hvps_of(hessian))
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(hessian.shape)
    next_hessian = hessian + 1e-4 * (noise + noise.T)
    warm = lowest_modes(atoms, hvps_of(next_hessian), start=cold.start)
    expected = eigenvalues_of(harmonic_analysis(atoms, next_hessian))[:3]
    np.testing.assert_allclose(warm.eigenvalues, expected, rtol=1e-6)
    assert warm.n_hvps < cold.n_hvps
    translation = np.ones_like(cold.modes)
    for start in (translation, cold.modes[:1], np.repeat(cold.modes[:1], 9, axis=0)):
        found = lowest_modes(atoms, hvps_of(next_hessian), start=start)
        np.testing.assert_allclose(found.eigenvalues, expected, rtol=1e-6)


def test_fixed_atoms_do_not_move():
    atoms, hessian = with_hessian(molecule("C6H6"))
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    found = lowest_modes(atoms, hvps_of(hessian), 2)
    dense = harmonic_analysis(atoms, hessian)
    np.testing.assert_allclose(found.eigenvalues, eigenvalues_of(dense)[:2], rtol=1e-6)
    assert not found.modes[:, :3].any()
    chosen = lowest_modes(atoms, hvps_of(hessian), 1, indices=[4, 5, 7])
    again = harmonic_analysis(atoms, hessian, indices=[4, 5, 7])
    np.testing.assert_allclose(chosen.eigenvalues, eigenvalues_of(again)[:1], rtol=1e-6)


@pytest.mark.parametrize(("name", "vibrations"), [("H2", 1), ("CO2", 4), ("H2O", 3), ("CH4", 9)])
def test_small_molecules_are_exact(name, vibrations):
    atoms = molecule(name)
    rng = np.random.default_rng(2)
    matrix = rng.standard_normal((3 * len(atoms), 3 * len(atoms)))
    hessian = matrix + matrix.T
    found = lowest_modes(atoms, hvps_of(hessian), vibrations)
    assert found.n_hvps == vibrations
    np.testing.assert_allclose(found.wavenumbers, harmonic_analysis(atoms, hessian).wavenumbers, rtol=1e-8)


def test_giving_up_is_said():
    atoms, hessian = two_benzenes()
    found = lowest_modes(atoms, hvps_of(hessian), max_hvps=10)
    assert not found.converged
    assert found.n_hvps <= 10
    assert np.all(found.errors > 0)


def test_mistakes_of_lowest_modes():
    atoms, hessian = with_hessian(molecule("H2O"))
    hvp = hvps_of(hessian)
    for k in (0, 4, 9):
        with pytest.raises(PHLError, match=rf"{k} modes were asked for; H2O has 3 vibrations \(9 coord"):
            lowest_modes(atoms, hvp, k)
    with pytest.raises(PHLError, match=r"H has no vibrations: .* at least two atoms"):
        lowest_modes(Atoms("H"), hvps_of(np.eye(3)), 1)
    with pytest.raises(PHLError, match="tolerance is 0"):
        lowest_modes(atoms, hvp, 1, tolerance=0.0)
    benzene, matrix = with_hessian(molecule("C6H6"))
    with pytest.raises(PHLError, match=r"start has shape \(3, 5, 3\); expected modes \(any number, 12, 3\)"):
        lowest_modes(benzene, hvps_of(matrix), 3, start=np.ones((3, 5, 3)))
    with pytest.raises(PHLError, match=r"hvp\(vectors, atoms\) returned shape"):
        lowest_modes(atoms, lambda v, a: v[:, :2], 1)
    with pytest.raises(NonFiniteError, match="NaN"):
        lowest_modes(atoms, lambda v, a: np.nan * v, 1)


def test_model_hessian_resists_shape_changes_alone():
    for atoms, n_rigid in ((molecule("C6H6"), 6), (molecule("CH3CH2OH"), 6), (bulk("Cu", cubic=True).repeat(2), 3)):
        matrix = model_hessian(atoms).toarray()
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-10)
        values = np.linalg.eigvalsh(matrix)
        assert np.all(np.abs(values[:n_rigid]) < 1e-9)
        assert values[n_rigid] > 1e-3
        rigid = rigid_motions(atoms.positions, np.ones(len(atoms)), rotations=n_rigid == 6)
        np.testing.assert_allclose(matrix @ rigid, 0, atol=1e-9)


# ------------------------------------------------------------------------------------------------ stochastic spectra


def harmonic_chain(n: int, stiffness: float = 20.0):
    """A ring of carbon atoms, springs of every component: λ_j = 2k/m (1 − cos 2πj/n), three times each, no zeros."""
    atoms = Atoms(f"C{n}", positions=np.arange(n)[:, None] * [1.5, 0, 0], cell=[1.5 * n, 10, 10], pbc=True)
    eigenvalues = 2 * stiffness / atoms.get_masses()[0] * (1 - np.cos(2 * np.pi * np.arange(1, n) / n))

    def hvp(vectors, _):
        return stiffness * (2 * vectors - np.roll(vectors, 1, axis=1) - np.roll(vectors, -1, axis=1))

    return atoms, hvp, np.repeat(eigenvalues, 3)


TEMPERATURE = 300.0


def exact_sums(eigenvalues) -> dict[str, float]:
    energies = invcm * wavenumbers(eigenvalues[eigenvalues > 0])
    thermal = kB * TEMPERATURE * np.log1p(-np.exp(-energies / (kB * TEMPERATURE)))
    return {"zero point": 0.5 * energies.sum(), "free energy": (0.5 * energies + thermal).sum()}


ESTIMATES = {
    "zero point": lambda spectrum: spectrum.zero_point_energy(),
    "free energy": lambda spectrum: spectrum.free_energy(TEMPERATURE),
}


def test_error_bars_are_honest():
    """Deviations from the closed form over seeds: two standard errors hold about 95 %, and are not too large."""
    atoms, hvp, eigenvalues = harmonic_chain(60)
    spectra = [stochastic_spectrum(atoms, hvp, n_probes=8, steps=30, seed=seed) for seed in range(40)]
    for name, exact in exact_sums(eigenvalues).items():
        found = [ESTIMATES[name](spectrum) for spectrum in spectra]
        deviations = np.array([(estimate.value - exact) / estimate.error for estimate in found])
        # of 40 draws of Student's t with 7 degrees of freedom 3.4 lie outside ±2; more than 8 in 1 of 100 such tests
        assert np.sum(np.abs(deviations) > 2) <= 8
        assert 0.6 < np.sqrt(np.mean(deviations**2)) < 1.6
        assert abs(np.mean(deviations)) < 0.6
        assert np.mean([estimate.error for estimate in found]) < 0.03 * exact


def test_all_directions_are_the_trace():
    """With as many probes and steps as there are vibrations nothing is left to chance."""
    atoms, hessian = with_hessian(molecule("CH4"))
    dense = harmonic_analysis(atoms, hessian)
    spectrum = stochastic_spectrum(atoms, hvps_of(hessian), n_probes=9, steps=9)
    assert spectrum.n_hvps == 81
    for name, exact in exact_sums(eigenvalues_of(dense)).items():
        estimate = ESTIMATES[name](spectrum)
        assert estimate.value == pytest.approx(exact, rel=1e-8)
        assert estimate.error < 1e-8
    assert spectrum.zero_point_energy().value == pytest.approx(dense.zero_point_energy, rel=1e-8)
    assert spectrum.count(-1e5, 0.0).value == pytest.approx(np.sum(dense.wavenumbers < 0), abs=1e-8)


def test_density_of_states():
    atoms, hvp, eigenvalues = harmonic_chain(60)
    spectrum = stochastic_spectrum(atoms, hvp, n_probes=16, steps=60)
    grid = np.arange(-300.0, 1700.0, 5.0)
    density = spectrum.density_of_states(grid, width=40.0)
    assert density.value.shape == density.error.shape == grid.shape
    assert np.sum(density.value) * 5.0 == pytest.approx(len(eigenvalues), rel=1e-6)
    exact = np.exp(-0.5 * ((grid[:, None] - wavenumbers(eigenvalues)) / 40.0) ** 2).sum(axis=1) / (
        40 * np.sqrt(2 * np.pi)
    )
    assert np.mean(np.abs(density.value - exact) <= 3 * density.error + 1e-6) > 0.95
    assert np.abs(density.value - exact).max() < 0.2 * exact.max()


def test_soft_modes_taken_out():
    """Exact soft modes: the free energy's error falls, its value stays."""
    atoms, hvp, eigenvalues = harmonic_chain(60)
    exact = exact_sums(eigenvalues)["free energy"]
    plain = stochastic_spectrum(atoms, hvp, n_probes=8, steps=20).free_energy(TEMPERATURE)
    soft = lowest_modes(atoms, hvp, 6)
    found = stochastic_spectrum(atoms, hvp, n_probes=8, steps=20, soft_modes=soft).free_energy(TEMPERATURE)
    assert abs(found.value - exact) < 4 * found.error
    assert found.error < plain.error


def test_mistakes_of_spectra():
    atoms, hvp, _ = harmonic_chain(6)
    with pytest.raises(PHLError, match="got 1 probes and 10 steps; expected at least 2 probes"):
        stochastic_spectrum(atoms, hvp, n_probes=1, steps=10)
    with pytest.raises(PHLError, match="1 vibrations are left to probe"):
        stochastic_spectrum(molecule("H2"), hvps_of(np.eye(6)))
    with pytest.raises(PHLError, match="no vibrations"):
        stochastic_spectrum(Atoms("H"), hvps_of(np.eye(3)))
    spectrum = stochastic_spectrum(atoms, hvp, n_probes=2, steps=4)
    with pytest.raises(PHLError, match="temperature is 0"):
        spectrum.free_energy(0.0)
    with pytest.raises(PHLError, match="width is -1"):
        spectrum.density_of_states(np.arange(3), width=-1.0)
