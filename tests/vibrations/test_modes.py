"""Matching of modes where the answer is known, and modes as trajectories."""

from __future__ import annotations

import dataclasses

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.units import kB
from scipy.linalg import expm
from scipy.stats import ortho_group

from phl_ase.errors import PHLError
from phl_ase.vibrations import HarmonicAnalysis, harmonic_analysis, match_modes, mode_trajectory


def stiff(name: str, seed: int) -> HarmonicAnalysis:
    """A molecule with a random positive Hessian, about as stiff as a real one (eV/Å²)."""
    atoms = molecule(name)
    root = np.random.default_rng(seed).standard_normal((3 * len(atoms),) * 2)
    return harmonic_analysis(atoms, root @ root.T + 3 * np.eye(len(root)))


def changed(analysis: HarmonicAnalysis, turn: np.ndarray, wavenumbers: np.ndarray) -> HarmonicAnalysis:
    """Other modes, combinations of the old ones, with other wavenumbers."""
    modes = np.einsum("ab,bnk->ank", turn, analysis.modes)
    return dataclasses.replace(analysis, modes=modes, wavenumbers=wavenumbers)


def test_modes_match_themselves():
    analysis = stiff("CH4", 0)
    match = match_modes(analysis, analysis)
    np.testing.assert_array_equal(match.assignment, np.arange(9))
    np.testing.assert_allclose(match.overlaps, 1)
    np.testing.assert_array_equal(match.errors, 0)


def test_crossed_modes_are_found():
    """Two neighbours that change places, as they do when a potential gets their order wrong."""
    analysis = stiff("H2O", 1)
    order = [1, 0, 2]
    values = analysis.wavenumbers + np.array([-30.0, 20.0, 7.0])
    match = match_modes(changed(analysis, np.eye(3)[order], values), analysis)
    np.testing.assert_array_equal(match.assignment, order)
    np.testing.assert_allclose(match.errors, values[order] - analysis.wavenumbers)
    np.testing.assert_allclose(match.overlaps, 1)


@pytest.mark.parametrize("size", [2, 3])
def test_turned_degenerate_modes_score_one(size):
    """Any basis of a degenerate space is as good as another; a single pair of a turned one overlaps by less."""
    analysis = stiff("CH4", 2)
    values = np.concatenate([1000 + 2.0 * np.arange(size), 2000 + 100.0 * np.arange(9 - size)])
    reference = dataclasses.replace(analysis, wavenumbers=values)
    turn = np.eye(9)
    turn[:size, :size] = expm(0.6 * (np.triu(np.ones((size, size)), 1) - np.tril(np.ones((size, size)), -1)))
    match = match_modes(changed(reference, turn, values + 3), reference)
    np.testing.assert_allclose(match.overlaps, 1, atol=1e-12)
    np.testing.assert_allclose(match.errors, 3, atol=1e-9)
    np.testing.assert_array_equal(match.groups, [0] * size + list(range(1, 10 - size)))
    alone = match_modes(changed(reference, turn, values + 3), reference, degenerate_within=0.0)
    assert alone.overlaps[:size].min() < 0.9


def test_overlap_of_a_group_is_the_mean_of_its_squared_singular_values():
    analysis = stiff("NH3", 3)
    values = np.array([900, 903, 1500, 1504, 3000, 3200.0])
    reference = dataclasses.replace(analysis, wavenumbers=values)
    turn = ortho_group.rvs(6, random_state=1) @ np.diag([1, 1, 1, 1, 1, -1])
    small = np.linalg.qr(np.eye(6) + 0.4 * turn)[0]
    other = changed(reference, small, values + 10)
    match = match_modes(other, reference)
    scalar = reference.modes.reshape(6, -1) @ other.modes.reshape(6, -1).T
    for group in np.unique(match.groups):
        members = match.groups == group
        block = scalar[np.ix_(members, match.assignment[members])]
        expected = np.mean(np.linalg.svd(block, compute_uv=False) ** 2)
        np.testing.assert_allclose(match.overlaps[members], expected)
    assert sorted(match.assignment) == list(range(6))


def test_a_mode_too_few():
    """A bent structure that should be linear has one vibration less: one reference mode has no partner."""
    reference = stiff("H2O", 4)
    fewer = dataclasses.replace(reference, modes=reference.modes[1:], wavenumbers=reference.wavenumbers[1:])
    match = match_modes(fewer, reference)
    np.testing.assert_array_equal(match.assignment, [-1, 0, 1])
    assert match.overlaps[0] == 0
    assert np.isnan(match.errors[0])
    np.testing.assert_allclose(match_modes(reference, fewer).assignment, [1, 2])


def test_nothing_to_match_and_wrong_partners():
    lone = harmonic_analysis(Atoms("He"), np.zeros((3, 3)))
    assert match_modes(lone, lone).overlaps.shape == (0,)
    with pytest.raises(PHLError, match="same atoms in the same order"):
        match_modes(stiff("H2O", 0), stiff("SH2", 0))
    with pytest.raises(PHLError, match="zero or a positive number"):
        match_modes(lone, lone, degenerate_within=-1.0)


# ------------------------------------------------------------------------------------------------------ trajectories


def potential_energy(analysis: HarmonicAnalysis, frame: Atoms) -> float:
    step = (frame.positions - analysis.atoms.positions).ravel()
    return 0.5 * step @ analysis.hessian @ step


@pytest.mark.parametrize("mode", [0, 2, -1])
def test_turning_point_has_the_thermal_energy(mode):
    analysis = stiff("H2O", 6)
    frames = mode_trajectory(analysis, mode, temperature=500.0, n_frames=20)
    assert len(frames) == 20
    np.testing.assert_array_equal(frames[0].positions, analysis.atoms.positions)
    assert potential_energy(analysis, frames[5]) == pytest.approx(kB * 500.0, rel=1e-9)
    np.testing.assert_allclose(frames[5].positions + frames[15].positions, 2 * analysis.atoms.positions, atol=1e-12)
    default = mode_trajectory(analysis, mode, n_frames=4)
    assert potential_energy(analysis, default[1]) == pytest.approx(kB * 298.15, rel=1e-9)
    assert default[0].info["mode"] == mode % 3


@pytest.mark.parametrize("suffix", ["extxyz", "traj"])
def test_amplitude_and_files(tmp_path, suffix):
    analysis = stiff("NH3", 7)
    frames = mode_trajectory(analysis, 1, amplitude=0.3, n_frames=8)
    moved = np.linalg.norm(frames[2].positions - analysis.atoms.positions, axis=1)
    assert moved.max() == pytest.approx(0.3)
    # no mode moves or turns the molecule
    np.testing.assert_allclose(frames[2].get_center_of_mass(), analysis.atoms.get_center_of_mass(), atol=1e-12)
    ase.io.write(tmp_path / f"mode.{suffix}", frames)
    again = ase.io.read(tmp_path / f"mode.{suffix}", ":")
    assert len(again) == 8
    np.testing.assert_allclose(again[2].positions, frames[2].positions, atol=1e-7)
    if suffix == "extxyz":
        assert again[2].info["wavenumber"] == pytest.approx(analysis.wavenumbers[1])


def test_imaginary_and_soft_modes():
    analysis = stiff("H2O", 8)
    imaginary = dataclasses.replace(analysis, wavenumbers=-analysis.wavenumbers)
    for one, other in zip(mode_trajectory(analysis, 0), mode_trajectory(imaginary, 0), strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
    soft = dataclasses.replace(analysis, wavenumbers=np.zeros(3))
    with pytest.raises(PHLError, match="too soft"):
        mode_trajectory(soft, 0)
    assert len(mode_trajectory(soft, 0, amplitude=0.1)) == 30


@pytest.mark.parametrize(
    ("mode", "options", "words"),
    [
        (3, {}, "mode 3 does not exist; the analysis has 3"),
        (-4, {}, "does not exist"),
        (0, {"amplitude": 0.1, "temperature": 300.0}, "one of them"),
        (0, {"amplitude": 0.0}, "positive"),
        (0, {"temperature": float("nan")}, "positive"),
        (0, {"n_frames": 0}, "at least 1"),
    ],
)
def test_mistakes(mode, options, words):
    with pytest.raises(PHLError, match=words):
        mode_trajectory(stiff("H2O", 9), mode, **options)
