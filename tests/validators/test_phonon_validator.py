"""Validation of phonons where the answers are known, and where there are none."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from clusters import Broken, raises
from crystals import argon, relaxed
from matplotlib.figure import Figure

from phl_ase.curvature import curvature_of
from phl_ase.errors import PHLError
from phl_ase.phonons import force_constants, make_phonopy, phonons_of
from phl_ase.plots.phonons import draw
from phl_ase.results import Report
from phl_ase.validators import phonons as phonons_module
from phl_ase.validators.phonons import OWN_DISPLACEMENTS, validate_phonons

FAST = {"points": 30, "mesh": (6, 6, 6), "system": "crystal", "potential": "tested"}


@pytest.fixture(scope="module")
def copper():
    return relaxed(bulk("Cu", a=3.59), EMT())


@pytest.fixture(scope="module")
def own(copper):
    return validate_phonons(copper, EMT(), OWN_DISPLACEMENTS, supercell=(2, 2, 2), distance=0.002, **FAST)


def scaled(calculator, factor):
    """The curvature of a calculator times a factor."""
    curvature = curvature_of(calculator)
    return dataclasses.replace(curvature, hvp=lambda v, atoms: factor * curvature.hvp(v, atoms))


def test_hvps_agree_with_own_displacements(own):
    assert own.outcome == "agrees"
    assert own.metric("largest band error").value < 1e-3
    assert own.metric("DOS distance").value < 1e-3
    assert own.metric("acoustic at Γ").value <= 0.01
    assert abs(own.metric("error of free energy at 300 K").value) < 0.01
    assert own.metric("imaginary modes").value == own.metric("imaginary modes").reference == 0
    assert "finite differences" in own.sentence
    assert "non-analytic" in own.sentence
    assert "not relaxed" not in own.sentence
    assert own.provenance["reference_force_constants"] == "phonopy's displacements of 0.002 Å"


def test_a_report_survives_json(own):
    again = Report.from_dict(json.loads(json.dumps(own.to_dict())))
    assert list(again.arrays["labels"]) == list(own.arrays["labels"])
    np.testing.assert_array_equal(again.arrays["frequencies"], own.arrays["frequencies"])


def test_force_constants_too_stiff_by_a_known_factor(copper):
    """1.21 Φ has 1.1 times the frequencies: errors and the distance of the densities of states are a tenth of them."""
    report = validate_phonons(copper, scaled(EMT(), 1.21), EMT(), supercell=(2, 2, 2), **FAST)
    reference = report.arrays["reference_frequencies"]
    assert report.outcome == "agrees"
    assert report.metric("band MAE").value == pytest.approx(0.1 * reference.mean(), rel=1e-5)
    assert report.metric("largest band error").value == pytest.approx(0.1 * reference.max(), rel=1e-5)
    assert report.metric("DOS distance").value == pytest.approx(0.1 * 5.3, rel=0.1)
    assert np.isnan(report.metric("largest force").value)  # a curvature has no forces


def test_imaginary_modes_that_the_reference_has_not(copper):
    report = validate_phonons(copper, scaled(EMT(), -1.0), EMT(), supercell=(2, 2, 2), **FAST)
    assert report.outcome == "wrong stability"
    assert report.metric("imaginary modes").value == 3 * 6**3 - 3
    assert "without its 645 imaginary modes" in report.sentence
    assert isinstance(draw([report]), Figure)


def test_what_a_reader_must_know_is_said():
    """A stretched crystal is not relaxed; its supercell is thinner than twice the cutoff."""
    report = validate_phonons(bulk("Ar", a=5.6), argon(), OWN_DISPLACEMENTS, supercell=(2, 2, 2), **FAST)
    assert "not relaxed" not in report.sentence  # 0.1 GPa
    assert "less than twice the cutoff of 7 Å" in report.sentence
    assert "finite differences" not in report.sentence
    report = validate_phonons(bulk("Cu", a=3.7), EMT(), OWN_DISPLACEMENTS, supercell=(2, 2, 2), **FAST)
    assert "not relaxed" in report.sentence
    assert report.metric("largest stress").value > 1


def test_a_reference_computed_before(copper):
    phonon = make_phonopy(copper, (2, 2, 2))
    before = phonons_of(phonon, force_constants(phonon, EMT()), points=30, mesh=(6, 6, 6))
    report = validate_phonons(phonon, EMT(), before, **FAST)
    # differences about scaled positions that were folded differently, 1e-16, are not bitwise the same
    assert report.metric("band MAE").value < 1e-6
    with pytest.raises(PHLError, match="another path"):
        validate_phonons(phonon, EMT(), before, **{**FAST, "points": 40})
    with pytest.raises(PHLError, match="another path or of another crystal"):
        validate_phonons(bulk("Cu", "hcp", a=2.5), EMT(), before, supercell=(2, 2, 2), **FAST)


@pytest.mark.parametrize(
    ("happens", "outcome", "words"),
    [
        (lambda atoms: {"energy": 0.0, "forces": np.full((len(atoms), 3), np.nan)}, "exploded", "NaN"),
        (raises, "failed", "RuntimeError: SCF did not converge"),
    ],
)
@pytest.mark.parametrize("reference", [EMT(), OWN_DISPLACEMENTS])
def test_force_constants_that_cannot_be_had_are_an_outcome(copper, happens, outcome, words, reference):
    report = validate_phonons(copper, Broken(happens), reference, supercell=(2, 2, 2), **FAST)
    assert report.outcome == outcome
    assert words in report.sentence
    assert np.isnan(report.metric("band MAE").value)
    assert isinstance(draw([report]), Figure)


def test_ctrl_c_is_not_an_outcome(copper):
    def interrupted(atoms):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate_phonons(copper, Broken(interrupted), OWN_DISPLACEMENTS, supercell=(2, 2, 2), **FAST)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crystal": molecule("H2O")}, "need a crystal"),
        ({"supercell": None}, "no supercell"),
        ({"supercell": (2, 2)}, "has 2 numbers"),
        ({"supercell": (2, 2, 1.5)}, "whole numbers"),
        ({"reference": "itself"}, "expected 'own displacements'"),
        ({"reference": Broken(raises)}, "the reference gave no force constants"),
        ({"path": "GZZZ"}, "no path"),
        ({"distance": 0.0}, "positive displacement"),
        ({"temperature": 5000.0}, "from 0 to 1000 K"),
    ],
)
def test_mistakes_of_the_caller(copper, changes, words):
    given = {"crystal": copper, "calculator": EMT(), "reference": OWN_DISPLACEMENTS, "supercell": (2, 2, 2), **changes}
    crystal, calculator, reference = (given.pop(name) for name in ("crystal", "calculator", "reference"))
    with pytest.raises(PHLError, match=words) as caught:
        validate_phonons(crystal, calculator, reference, **given, **FAST)
    assert "\n" not in str(caught.value)


def test_a_supercell_twice(copper):
    with pytest.raises(PHLError, match="has its own"):
        validate_phonons(make_phonopy(copper, (2, 2, 2)), EMT(), OWN_DISPLACEMENTS, supercell=(2, 2, 2), **FAST)


def test_the_figure_has_a_curve_for_each_and_names_the_path(own):
    figure = draw([own, dataclasses.replace(own, potential="another")])
    bands, states = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["reference", "tested", "another"]
    assert len(states.lines) == 3 + 1  # and the line at zero
    assert bands.get_xticklabels()[0].get_text() == "Γ"
    assert "THz" in bands.get_ylabel()
    assert "K|U" in [label.get_text() for label in bands.get_xticklabels()]


@pytest.mark.parametrize("outcome", sorted(phonons_module.PHONON_OUTCOMES))
def test_every_outcome_has_a_sentence(outcome):
    assert len(phonons_module.PHONON_OUTCOMES[outcome].split()) > 3
