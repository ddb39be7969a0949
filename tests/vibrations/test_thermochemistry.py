"""Thermochemistry against ASE called directly and against closed forms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.thermochemistry import IdealGasThermo, MSRRHOThermo, QuasiHarmonicThermo
from ase.units import invcm, kB
from scipy import constants

from phl_ase.errors import PHLError
from phl_ase.paths import relax
from phl_ase.resolver import resolve_calculator
from phl_ase.vibrations import (
    THERMOCHEMISTRY_MODELS,
    HarmonicAnalysis,
    finite_difference_hessian,
    harmonic_analysis,
    thermochemistry,
)

SYMMETRY = {"H2O": 2, "CO2": 2, "CH3OH": 1}
TEMPERATURE, PRESSURE = 350.0, 2e5


@pytest.fixture(scope="module", params=sorted(SYMMETRY))
def relaxed(request) -> tuple[HarmonicAnalysis, float, int]:
    """GFN2-xTB molecules: bent, linear, and one with a soft torsion."""
    atoms = molecule(request.param)
    atoms.calc = resolve_calculator("tblite")
    found = relax(atoms, 1e-3)
    assert found.converged
    analysis = harmonic_analysis(found.atoms, finite_difference_hessian(found.atoms))
    return analysis, found.energy, SYMMETRY[request.param]


def energies_of(analysis: HarmonicAnalysis) -> np.ndarray:
    return analysis.wavenumbers[analysis.wavenumbers > 0] * invcm


def of_ase(analysis: HarmonicAnalysis, energy: float, sigma: int, spin: float = 0.0) -> IdealGasThermo:
    return IdealGasThermo(
        vib_energies=energies_of(analysis),
        geometry=analysis.shape,
        potentialenergy=energy,
        atoms=analysis.atoms,
        symmetrynumber=sigma,
        spin=spin,
        vib_selection="all",
    )


def test_ideal_gas_is_ase(relaxed):
    analysis, energy, sigma = relaxed
    ours = thermochemistry(analysis, energy, temperature=TEMPERATURE, pressure=PRESSURE, symmetry_number=sigma)
    theirs = of_ase(analysis, energy, sigma)
    assert analysis.n_imaginary == ours.n_left_out == 0
    assert ours.enthalpy == pytest.approx(theirs.get_enthalpy(TEMPERATURE, verbose=False), abs=1e-10)
    assert ours.entropy == pytest.approx(theirs.get_entropy(TEMPERATURE, PRESSURE, verbose=False), rel=1e-10)
    assert ours.gibbs_energy == pytest.approx(theirs.get_gibbs_energy(TEMPERATURE, PRESSURE, verbose=False), abs=1e-10)
    assert ours.zero_point_energy == pytest.approx(theirs.get_ZPE_correction(), abs=1e-10)
    assert ours.gibbs_correction == pytest.approx(ours.gibbs_energy - energy)
    assert "left out" not in ours.sentence
    assert ours.shape in ours.sentence


@pytest.mark.parametrize("model", ["quasi-harmonic", "quasi-RRHO"])
def test_soft_modes_as_ase_treats_them(relaxed, model):
    """The ideal gas with its vibrations taken out and those of ASE's class put in."""
    analysis, energy, sigma = relaxed
    # a torsion of 40 cm⁻¹, where the models differ
    soft = dataclasses.replace(analysis, wavenumbers=np.sort(np.append(analysis.wavenumbers[1:], 40.0)))
    harmonic = thermochemistry(soft, energy, symmetry_number=sigma)
    ours = thermochemistry(soft, energy, symmetry_number=sigma, model=model)
    energies = energies_of(soft)
    made = {
        "quasi-harmonic": lambda: QuasiHarmonicThermo(energies),
        "quasi-RRHO": lambda: MSRRHOThermo(energies, soft.atoms, tau=100.0),
    }[model]()
    bare = dataclasses.replace(soft, wavenumbers=np.zeros(0))
    gas = thermochemistry(bare, energy, symmetry_number=sigma)
    assert ours.entropy == pytest.approx(gas.entropy + made.get_entropy(298.15, verbose=False), rel=1e-12)
    assert ours.enthalpy == pytest.approx(gas.enthalpy + made.get_internal_energy(298.15, verbose=False), rel=1e-12)
    # a soft mode has less entropy than the oscillator, which would have without bound
    assert ours.entropy < harmonic.entropy
    assert ours.zero_point_energy == harmonic.zero_point_energy


def sackur_tetrode(mass: float, temperature: float, pressure: float) -> float:
    """S/k of a monatomic ideal gas, from CODATA constants alone."""
    k, h = constants.k, constants.h
    wavelength = h / np.sqrt(2 * np.pi * mass * constants.atomic_mass * k * temperature)
    return np.log(k * temperature / (pressure * wavelength**3)) + 2.5


@pytest.mark.parametrize(("symbol", "spin"), [("He", 0.0), ("Ar", 0.0), ("H", 0.5)])
def test_an_atom_is_sackur_and_tetrode(symbol, spin):
    atoms = Atoms(symbol)
    result = thermochemistry(
        harmonic_analysis(atoms, np.zeros((3, 3))), -1.0, temperature=TEMPERATURE, pressure=PRESSURE, spin=spin
    )
    expected = sackur_tetrode(atoms.get_masses()[0], TEMPERATURE, PRESSURE) + np.log(2 * spin + 1)
    assert result.shape == "monatomic"
    assert result.entropy == pytest.approx(kB * expected, rel=1e-6)  # CODATA 2014 and 2022
    assert result.enthalpy == pytest.approx(-1.0 + 2.5 * kB * TEMPERATURE, rel=1e-12)
    assert (result.zero_point_energy, result.n_modes) == (0.0, 0)


def test_imaginary_modes_are_left_out_and_said(relaxed):
    analysis, energy, sigma = relaxed
    flipped = analysis.wavenumbers.copy()
    flipped[0] *= -1
    saddle = dataclasses.replace(analysis, wavenumbers=flipped)
    result = thermochemistry(saddle, energy, symmetry_number=sigma)
    assert result.n_left_out == 1
    assert result.sentence.endswith("; 1 imaginary mode left out")
    without = dataclasses.replace(analysis, wavenumbers=analysis.wavenumbers[1:])
    assert result.gibbs_energy == thermochemistry(without, energy, symmetry_number=sigma).gibbs_energy


@pytest.mark.parametrize("model", sorted(THERMOCHEMISTRY_MODELS))
@pytest.mark.parametrize("noise", [1e-9, 8e-6, 0.3, 4.0, 9.9])
def test_the_sign_of_noise_changes_nothing(relaxed, model, noise):
    analysis, energy, _ = relaxed
    above, below = (thermochemistry(with_modes(analysis, sign * noise), energy, model=model) for sign in (1.0, -1.0))
    assert above.gibbs_energy == below.gibbs_energy
    assert above.entropy == below.entropy
    for one in (above, below):
        assert (one.n_near_zero, one.n_left_out) == (1, 0)
        assert "1 mode within noise of zero counts by absolute value, at least 1 cm⁻¹" in one.sentence
    # and its size nothing, below 1 cm⁻¹: the entropy of a harmonic oscillator of no frequency has no bound
    softest = thermochemistry(with_modes(analysis, 1.0), energy, model=model)
    expected = softest if noise < 1 else above
    assert above.gibbs_energy == pytest.approx(expected.gibbs_energy, abs=1e-12)
    # beyond noise, a mode is what it is: the harmonic free energy of 10.1 cm⁻¹ at 298.15 K by hand
    if model == "ideal gas":
        real = thermochemistry(with_modes(analysis, 10.1), energy)
        bare = thermochemistry(with_modes(analysis), energy)
        kT = kB * 298.15
        by_hand = 0.5 * 10.1 * invcm + kT * np.log(1 - np.exp(-10.1 * invcm / kT))
        assert real.gibbs_energy - bare.gibbs_energy == pytest.approx(by_hand, rel=1e-9)
        assert real.n_near_zero == 0


def with_modes(analysis: HarmonicAnalysis, *wavenumbers: float) -> HarmonicAnalysis:
    """The softest mode replaced by others."""
    return dataclasses.replace(analysis, wavenumbers=np.sort([*analysis.wavenumbers[1:], *wavenumbers]))


def test_molecules_that_float_apart_have_one_free_energy():
    """Two waters 20 to 35 Å apart: whatever rounding makes of the modes between them, G is the same."""
    one = molecule("H2O")
    one.calc = resolve_calculator("tblite")
    one = relax(one, 1e-4).atoms
    rng = np.random.default_rng(0)
    free_energies = []
    for distance in (20.0, 25.0, 30.0, 35.0):
        other = one.copy()
        other.rotate(40, (1, 2, 3))
        other.positions += [distance, 0, 0]
        pair = one + other
        hessian = np.zeros((18, 18))
        hessian[:9, :9] = finite_difference_hessian(one)
        turned = one.copy()
        turned.positions[:] = other.positions
        turned.calc = one.calc
        hessian[9:, 9:] = finite_difference_hessian(turned)
        # free of the rotations of each, with rounding in their place
        for block, part in ((slice(0, 9), one), (slice(9, 18), turned)):
            hessian[block, block] = harmonic_analysis(part, hessian[block, block]).hessian
        noise = 1e-10 * rng.standard_normal((18, 18))
        analysis = harmonic_analysis(pair, hessian + noise + noise.T)
        assert analysis.n_near_zero == 6
        free_energies.append(thermochemistry(analysis, 0.0, model="ideal gas").gibbs_energy)
    # what is left is the rotation of the whole: k ln of the moments of inertia
    assert np.ptp(free_energies) < 2 * kB * 298.15 * np.log(35 / 20) + 1e-3
    assert "modes within 10 cm^-1 of zero, on either side: 6" in analysis.table()


@pytest.mark.parametrize("model", sorted(THERMOCHEMISTRY_MODELS))
def test_pressure_symmetry_and_spin_enter_as_they_should(relaxed, model):
    analysis, energy, _ = relaxed
    plain = thermochemistry(analysis, energy, model=model)
    assert (plain.temperature, plain.pressure, plain.spin) == (298.15, 101325.0, 0.0)
    for change, difference in (({"pressure": 202650.0}, -1), ({"symmetry_number": 2}, -1), ({"spin": 0.5}, 1)):
        changed = thermochemistry(analysis, energy, model=model, **change)
        assert changed.entropy - plain.entropy == pytest.approx(difference * kB * np.log(2), abs=1e-12)
        assert changed.enthalpy == plain.enthalpy
    triplet = dataclasses.replace(analysis, atoms=analysis.atoms.copy())
    triplet.atoms.info["multiplicity"] = 3
    assert thermochemistry(triplet, energy, model=model).spin == 1.0


def test_mistakes():
    water = molecule("H2O")
    hessian = np.eye(9)
    fixed = water.copy()
    fixed.set_constraint(FixAtoms([0]))
    crystal = bulk("Cu", cubic=True)
    for analysis, words in (
        (harmonic_analysis(water, hessian, project=False), "project=True"),
        (harmonic_analysis(fixed, hessian), "fixed"),
        (harmonic_analysis(crystal, np.eye(12)), "periodic"),
    ):
        with pytest.raises(PHLError, match=words):
            thermochemistry(analysis, 0.0)
    good = harmonic_analysis(water, hessian)
    for change, words in (
        ({"temperature": 0.0}, "temperature is 0"),
        ({"pressure": -1.0}, "pressure is -1"),
        ({"symmetry_number": 0}, "symmetry_number is 0"),
        ({"spin": 0.3}, "multiple of ½"),
        ({"model": "classical"}, "valid: ideal gas, quasi-RRHO, quasi-harmonic"),
    ):
        with pytest.raises(PHLError, match=words):
            thermochemistry(good, 0.0, **change)
