"""Validation of frequencies where the answers are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from clusters import raises, rhombus, tetrahedron

from phl_ase.errors import PHLError
from phl_ase.results import Report
from phl_ase.validators import frequencies as frequencies_module
from phl_ase.validators import (
    validate_frequencies,
)
from phl_ase.vibrations import finite_difference_hessian, harmonic_analysis


@pytest.fixture(scope="module")
def saddle():
    return rhombus()


def test_frequencies_against_themselves_have_no_error(saddle):
    report = validate_frequencies(
        saddle, finite_difference_hessian, finite_difference_hessian(saddle), system="LJ4", potential="LJ"
    )
    assert report.outcome == "agrees"
    for name in ("frequency MAE", "largest frequency error", "ZPE error", "Hessian MAE"):
        assert report.metric(name).value == 0
    assert report.metric("imaginary modes").value == report.metric("imaginary modes").reference == 1
    assert report.metric("overlap of the imaginary modes").value == pytest.approx(1)
    assert report.metric("imaginary wavenumber").value < 0
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))).outcome == "agrees"


def test_a_hessian_too_stiff_by_a_known_factor(saddle):
    """1.21 H has 1.1 times the wavenumbers."""
    hessian = finite_difference_hessian(saddle)
    report = validate_frequencies(saddle, 1.21 * hessian, hessian, system="LJ4", potential="stiff")
    reference = harmonic_analysis(saddle, hessian)
    assert report.outcome == "agrees"
    assert report.metric("frequency MAE").value == pytest.approx(0.1 * np.abs(reference.wavenumbers).mean())
    assert report.metric("largest frequency error").value == pytest.approx(0.1 * np.abs(reference.wavenumbers).max())
    assert report.metric("imaginary wavenumber").value == pytest.approx(1.1 * reference.wavenumbers[0])
    assert report.metric("ZPE error").value == pytest.approx(0.1 * reference.zero_point_energy_mev)
    assert report.metric("Hessian MAE").value == pytest.approx(0.21 * np.abs(hessian).mean())
    np.testing.assert_allclose(report.arrays["wavenumbers"], 1.1 * reference.wavenumbers)


def test_wrong_number_of_imaginary_modes_is_an_outcome():
    atoms = tetrahedron()
    hessian = finite_difference_hessian(atoms)
    report = validate_frequencies(atoms, -hessian, hessian, system="LJ4", potential="upside down")
    assert report.outcome == "wrong order"
    assert report.metric("imaginary modes").value == 6
    assert report.metric("imaginary modes").reference == 0
    assert "imaginary wavenumber" not in [m.name for m in report.metrics]


@pytest.mark.parametrize(
    ("hessian", "outcome", "words"),
    [
        (lambda atoms: np.full((12, 12), np.nan), "exploded", "NaN"),
        (raises, "failed", "RuntimeError: SCF did not converge"),
    ],
)
def test_a_hessian_that_cannot_be_had_is_an_outcome(hessian, outcome, words):
    atoms = tetrahedron()
    report = validate_frequencies(atoms, hessian, finite_difference_hessian, system="LJ4", potential="broken")
    assert report.outcome == outcome
    assert words in report.sentence
    assert np.isnan(report.metric("frequency MAE").value)
    assert report.metric("ZPE").reference > 0


def test_the_caller_gets_told_of_wrong_shapes_and_of_a_bad_reference():
    atoms = tetrahedron()
    good = finite_difference_hessian(atoms)
    for pair in ((good.reshape(4, 3, 4, 3), good), (good, good[:6, :6]), (good, np.full_like(good, np.inf))):
        with pytest.raises(PHLError):
            validate_frequencies(atoms, *pair, system="LJ4", potential="LJ")


@pytest.mark.parametrize("outcome", sorted(frequencies_module.OUTCOMES))
def test_every_outcome_has_a_sentence(outcome):
    assert len(frequencies_module.OUTCOMES[outcome].split()) > 3
