"""Samplers against closed forms: harmonic amplitudes, the energy of an Einstein crystal, straight scans."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.units import kB

from phl_ase.errors import PHLError
from phl_ase.paths import relax
from phl_ase.reactions import SAMPLERS, draw_normal_modes, sample
from phl_ase.resolver import resolve_calculator
from phl_ase.units import wavenumbers
from phl_ase.vibrations import harmonic_analysis

KELVIN = 500.0


class Springs(Calculator):
    """Every atom on a spring of its own: V = ½ k Σ |r − r₀|²."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012
    stiffness = 5.0

    def __init__(self, atoms: Atoms, *, breaks: float = np.inf):
        super().__init__()
        self.rest, self.breaks = atoms.positions.copy(), breaks

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        moved = atoms.positions - self.rest
        if np.abs(moved).max() > self.breaks:
            raise RuntimeError("a spring broke")
        self.results = {"energy": 0.5 * self.stiffness * np.sum(moved**2), "forces": -self.stiffness * moved}


def crystal(**options) -> Atoms:
    atoms = Atoms("C8", [[x, y, z] for x in (0, 3) for y in (0, 3) for z in (0, 3)])
    atoms.calc = Springs(atoms, **options)
    return atoms


@pytest.fixture(scope="module")
def water() -> Atoms:
    """GFN2-xTB's own minimum."""
    atoms = molecule("H2O")
    atoms.calc = resolve_calculator("tblite")
    return relax(atoms, 1e-3).atoms


def test_harmonic_amplitudes(rng):
    """⟨Q²⟩ = kT/λ of each mode, ⟨QQ'⟩ = 0 between two; the centre of mass does not move, nothing rotates."""
    atoms = crystal()
    hessian = Springs.stiffness * np.eye(24) + 2.0 * np.diag(np.arange(24))
    analysis = harmonic_analysis(atoms, hessian)
    count = 4000
    drawn = np.array([draw_normal_modes(analysis, KELVIN, rng, softest=1.0) for _ in range(count)])
    weighted = (drawn - atoms.positions) * np.sqrt(atoms.get_masses())[:, None]
    amplitudes = weighted.reshape(count, -1) @ analysis.modes.reshape(len(analysis.modes), -1).T
    eigenvalues = (analysis.wavenumbers / float(wavenumbers(1.0))) ** 2
    scaled = amplitudes * np.sqrt(eigenvalues / (kB * KELVIN))
    covariance = scaled.T @ scaled / count
    # the mean of count squares of normal numbers: √(2/count), five times that; off the diagonal √(1/count)
    np.testing.assert_allclose(np.diag(covariance), 1.0, atol=5 * np.sqrt(2 / count))
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 5 / np.sqrt(count)
    np.testing.assert_allclose((weighted * np.sqrt(12.011)).sum(axis=1), 0.0, atol=1e-9)


def test_soft_and_imaginary_modes_are_bounded(rng):
    """An imaginary mode is taken by its absolute value, a soft one as if it were stiffer."""
    atoms = Atoms("C2", [[0, 0, 0], [0, 0, 1.3]])
    stretch = np.zeros((6, 6))
    stretch[2::3, 2::3] = [[1, -1], [-1, 1]]
    spread = {}
    for curvature in (-4.0, 4.0, 1e-3):
        analysis = harmonic_analysis(atoms, curvature * stretch)
        drawn = [draw_normal_modes(analysis, KELVIN, rng)[1, 2] - 1.3 for _ in range(1000)]
        spread[curvature] = float(np.std(drawn))
    # half the stretch is on this atom, its reduced mass half of carbon's: σ = √(kT/k)/2
    for curvature in (-4.0, 4.0):
        assert spread[curvature] == pytest.approx(0.5 * np.sqrt(kB * KELVIN / 4.0), rel=0.12)
    softest = (250.0 / float(wavenumbers(1.0))) ** 2 * 12.011 / 2
    assert spread[1e-3] == pytest.approx(0.5 * np.sqrt(kB * KELVIN / softest), rel=0.12)


def test_normal_mode_samples_are_fit(water):
    drawn = sample(water, "normal-mode", temperature=KELVIN, count=30, seed=3)
    assert len(drawn.frames) == 30
    bottom = water.get_potential_energy()
    for frame in drawn.frames:
        assert (frame.info["kind"], frame.info["temperature"]) == ("nms", KELVIN)
        frame.calc = water.calc
        assert -1e-4 < frame.get_potential_energy() - bottom <= 3 * 1.5 * kB * KELVIN
    again = sample(water, "normal-mode", temperature=KELVIN, count=30, seed=3)
    # the density carried over leaves its noise in the Hessian
    np.testing.assert_allclose(drawn.frames[7].positions, again.frames[7].positions, atol=1e-7)
    other = sample(water, "normal-mode", temperature=KELVIN, count=1, seed=4)
    assert np.abs(other.frames[0].positions - again.frames[0].positions).max() > 1e-3


def test_the_temperature_of_dynamics():
    """⟨V⟩ = ½ kT for each of 3n − 3 coordinates of an Einstein crystal whose centre of mass rests."""
    atoms = crystal()
    drawn = sample(
        atoms, "md", temperature=KELVIN, count=150, seed=1, time_step=2.0, friction=0.05, interval=20, equilibration=100
    )
    assert [frame.info["time"] for frame in drawn.frames[:3]] == [200.0, 240.0, 280.0]
    energies = []
    for frame in drawn.frames:
        assert frame.info["kind"] == "md"
        assert not frame.constraints
        assert "momenta" not in frame.arrays
        frame.calc = atoms.calc
        energies.append(frame.get_potential_energy())
        np.testing.assert_allclose(frame.positions.mean(axis=0), atoms.positions.mean(axis=0), atol=1e-9)
    dof = 3 * len(atoms) - 3
    expected = 0.5 * dof * kB * KELVIN
    # V of one frame scatters by √(2/dof); neighbouring frames share a little of it
    error = expected * np.sqrt(2 / dof / len(energies))
    assert np.mean(energies) == pytest.approx(expected, abs=5 * error)
    # and they have forgotten one another
    centred = np.array(energies) - np.mean(energies)
    assert abs(centred[1:] @ centred[:-1] / (centred @ centred)) < 0.35


def test_dynamics_that_break_off():
    drawn = sample(crystal(breaks=0.3), "md", temperature=3000.0, count=50, time_step=2.0, interval=5, equilibration=5)
    assert len(drawn.frames) < 50
    assert "the dynamics broke off: RuntimeError: a spring broke" in drawn.refused[0]


def test_a_scan_is_straight(water):
    drawn = sample(water, "mode-scan", mode=-1, amplitude=0.1, count=5)
    assert [frame.info["amplitude"] for frame in drawn.frames] == [-0.1, -0.05, 0.0, 0.05, 0.1]
    assert {frame.info["mode"] for frame in drawn.frames} == {2}
    moved = np.array([frame.positions - water.positions for frame in drawn.frames])
    assert np.linalg.norm(moved, axis=2).max(axis=1) == pytest.approx([0.1, 0.05, 0.0, 0.05, 0.1], abs=1e-12)
    np.testing.assert_allclose(moved[4], -moved[0], atol=1e-12)
    # 3600-odd cm⁻¹: the antisymmetric stretch, whose energy is even
    assert 3300 < drawn.frames[0].info["wavenumber"] < 4000
    energies = []
    for frame in drawn.frames:
        frame.calc = water.calc
        energies.append(frame.get_potential_energy())
    assert energies[0] == pytest.approx(energies[4], abs=1e-4)
    assert energies[2] == min(energies)


@pytest.mark.parametrize("how", SAMPLERS)
def test_structures_are_not_changed(how):
    atoms = crystal()
    before = atoms.positions.copy()
    few = {"interval": 2, "equilibration": 2} if how == "md" else {}
    drawn = sample(atoms, how, count=2, **few)
    assert len(drawn.frames) == 2
    assert all(frame.calc is None for frame in drawn.frames)
    np.testing.assert_array_equal(atoms.positions, before)
    assert SAMPLERS[how].settings["count"] > 2


@pytest.mark.parametrize(
    ("how", "settings", "words"),
    [
        ("boil", {}, "unknown sampler 'boil'"),
        ("md", {"amplitude": 1.0}, "unknown setting of the sampler md 'amplitude'"),
        ("md", {"temperature": -1.0}, "temperature is -1.0"),
        ("normal-mode", {"count": 0}, "count is 0"),
        ("mode-scan", {"mode": 99}, "mode 99 does not exist"),
        ("mode-scan", {"count": 1}, "a scan needs at least its two ends"),
        ("displaced", {"displacement": 0.0}, "displacement is 0.0; expected a positive number"),
    ],
)
def test_requests_that_cannot_be(how, settings, words):
    with pytest.raises(PHLError, match=words):
        sample(crystal(), how, **settings)


def test_random_displacements(water):
    """Of the size asked for, in all directions alike, from structures at rest or not; nothing is computed."""
    start = water.copy()
    start.calc = None
    drawn = sample(start, "displaced", displacement=0.15, count=400, seed=2)
    assert len(drawn.frames) == 400
    moved = np.array([frame.positions - water.positions for frame in drawn.frames])
    np.testing.assert_allclose(np.sqrt((moved**2).sum(axis=2).mean(axis=1)), 0.15, rtol=1e-12)
    # three internal coordinates share the square of the size alike: mean 1/3, spread of 400 (4/45 each) five times
    analysis = harmonic_analysis(water, 100.0 * np.eye(9))
    internal = np.linalg.svd(moved.reshape(400, 9), full_matrices=False)[1] ** 2 / (400 * 3 * 0.15**2)
    assert len(analysis.modes) == 3
    np.testing.assert_allclose(internal, [1 / 3] * 3 + [0.0] * 6, atol=5 * np.sqrt(4 / 45 / 400))
    assert {frame.info["kind"] for frame in drawn.frames} == {"displaced"}
    assert {frame.info["displacement"] for frame in drawn.frames} == {0.15}


def test_atoms_that_run_into_each_other_are_drawn_again():
    close = Atoms("H2", [[0, 0, 0], [0, 0, 0.5]])
    drawn = sample(close, "displaced", displacement=0.2, count=20, seed=0)
    assert len(drawn.frames) + len(drawn.refused) > 20
    assert all("times the sum of their radii" in reason for reason in drawn.refused)
    radii = 0.65 * 2 * 0.31
    assert min(frame.get_distance(0, 1) for frame in drawn.frames) >= radii


@pytest.mark.parametrize("how", ["normal-mode", "mode-scan"])
def test_structures_that_do_not_rest(how):
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.0]], calculator=EMT())
    with pytest.raises(PHLError, match=r"Cu2 is no stationary point: its largest force .*; relax it first"):
        sample(atoms, how)
    with pytest.raises(PHLError, match="the atoms have no calculator"):
        sample(Atoms("Cu2", [[0, 0, 0], [0, 0, 2.0]]), how)
