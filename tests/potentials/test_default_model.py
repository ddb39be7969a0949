"""The bundled model ``default``: exact derivatives in float64, and a card that tells the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from phl_ase.calculator import PHLCalculator
from phl_ase.datasets import Split, open_dataset
from phl_ase.potentials import read_card
from phl_ase.scoring import frame_errors, mean_errors
from phl_ase.structures import atoms_from_frame
from phl_ase.trained_on import trained_on
from phl_ase.validators.uncertainty import validate_uncertainty
from phl_ase.vibrations import harmonic_analysis


@pytest.fixture(scope="module")
def frames():
    dataset = open_dataset("reactions-wb97xd-631gd")
    # a TS, a point of a path and the hottest sample, of 3, 4 and 5 atoms
    kinds = [("hcn_hnc", "ts"), ("h2co_hcoh", "irc"), ("hcooh_h2o_co", "nms")]
    return [[f for f in dataset if (f.reaction, f.kind) == wanted][-1] for wanted in kinds]


@pytest.fixture(scope="module")
def calculator():
    return PHLCalculator("default", device="cpu", dtype="float64")


def _richardson(calculator, atoms, step=2e-3):
    """Hessian from central differences of forces at h and h/2, the h² term extrapolated away (error h⁴)."""
    columns = []
    for index in range(3 * len(atoms)):
        slopes = []
        for h in (step, step / 2):
            forces = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions.flat[index] += sign * h
                forces.append(calculator.evaluate([moved], ("forces",))[0]["forces"].ravel())
            slopes.append((forces[1] - forces[0]) / (2 * h))
        columns.append((4 * slopes[1] - slopes[0]) / 3)
    hessian = np.array(columns)
    return 0.5 * (hessian + hessian.T)


def test_hessian_is_the_derivative_of_the_forces(calculator, frames):
    for frame in frames:
        atoms = atoms_from_frame(frame)
        hessian = calculator.get_hessian(atoms)
        assert np.abs(hessian - _richardson(calculator, atoms)).max() <= 1e-6
        n = len(atoms)
        assert np.abs(hessian.reshape(3 * n, n, 3).sum(1)).max() <= 1e-9


def test_energy_does_not_change_with_orientation(calculator, frames):
    for frame in frames:
        atoms = atoms_from_frame(frame)
        turned = atoms.copy()
        turned.positions = Rotation.random(random_state=3).apply(atoms.positions) + np.array([1.0, -2.0, 3.0])
        first, second = calculator.evaluate([atoms, turned], ("energy",))
        assert abs(first["energy"] - second["energy"]) <= 1e-9


@pytest.fixture(scope="module")
def card():
    return read_card("default")["provenance"]


@pytest.fixture(scope="module")
def quiet():
    return PHLCalculator("default", device="cpu", out_of_domain="ignore")


@pytest.fixture(scope="module")
def judged(card, quiet):
    """Frames that no member saw, copies of which no member saw either, and what the model says of them."""
    reactions = open_dataset(card["data"])
    assert card["data_hash"] == reactions.content_hash()
    split = Split.from_json(card["split"]).check(reactions)
    held_out = list(reactions.frames(split.test))
    (beside,) = card["beside"]
    assert card["beside"][beside] == open_dataset(beside).content_hash()
    seen = trained_on(quiet).seen(held_out, valid=True)
    frames = [frame for frame, known in zip(held_out, seen.tolist(), strict=True) if not known]
    frames += [frame for frame in open_dataset(beside) if not trained_on(quiet).seen([frame], valid=True)[0]]
    return frames, quiet.evaluate([atoms_from_frame(f) for f in frames], ("energy", "forces", "hessian"))


def test_the_card_states_the_errors_that_the_model_has(card, judged):
    measured = mean_errors(judged[0], frame_errors(*judged))["all"]
    for name, value in card["test_errors"]["all"].items():
        assert measured[name] == pytest.approx(value, rel=1e-4)
    assert card["intended_use"]


def test_the_uncertainties_are_those_that_the_card_states(card, judged):
    report = validate_uncertainty(*judged, system="test", potential="default")
    for name, value in card["in_domain"]["test"]["uncertainty"].items():
        assert report.metric(name).value == pytest.approx(value, rel=1e-4), name
    # the factors come from other frames: what they cover must not be far from 68 and 95 %
    assert 50.0 <= report.metric("forces within 1 std").value <= 85.0
    assert report.metric("forces within 2 std").value >= 75.0
    assert report.metric("frames in domain").value >= 90.0
    assert min(card["in_domain"]["noticed"][f"coordinates times {scale}"] for scale in (0.8, 1.5)) >= 90.0


@pytest.mark.parametrize(("group", "kinds"), [("minima", ("reactant", "product")), ("TSs", ("ts",))])
def test_frequencies_of_its_reactions(card, quiet, group, kinds):
    dataset = open_dataset(card["data"])
    frames = [frame for frame in dataset if frame.kind in kinds]
    found = quiet.evaluate([atoms_from_frame(frame) for frame in frames], ("hessian",))
    errors = []
    for frame, answer in zip(frames, found, strict=True):
        atoms = atoms_from_frame(frame)
        own, reference = (harmonic_analysis(atoms, h).wavenumbers for h in (answer["hessian"], frame.hessian))
        errors.append(np.abs(own - reference).mean())
    stated = card["in_domain"]["downstream"]["frequency error"][group]
    assert len(errors) == stated["number"]
    assert np.mean(errors) == pytest.approx(stated["mean"], rel=1e-3)
    assert np.mean(errors) <= 10.0


def test_molecules_by_themselves(quiet):
    """What the complexes consist of: half an electronvolt off, and in domain, while only pairs had been seen."""
    frames = [frame for frame in open_dataset("fragments-wb97xd-631gd") if frame.kind == "reactant"]
    answers = quiet.evaluate([atoms_from_frame(frame) for frame in frames], ("energy", "forces", "hessian"))
    assert {frame.reaction for frame in frames} == {f"isolated_{name}" for name in ("h2", "co", "co2", "h2o")}
    for frame, answer in zip(frames, answers, strict=True):
        assert answer["in_domain"], frame.reaction
        assert answer["energy"] == pytest.approx(frame.energy, abs=0.01)
        atoms = atoms_from_frame(frame)
        own, reference = (harmonic_analysis(atoms, h).wavenumbers for h in (answer["hessian"], frame.hessian))
        assert np.abs(own - reference).max() <= 20.0


def test_what_it_finds_of_its_reactions(card):
    downstream = card["in_domain"]["downstream"]
    assert downstream["TS searches that pass all stages"]["reactions"]["mean"] >= 95.0
    assert downstream["barrier error of TSs found"]["reactions"]["mean"] <= 1.0
    assert downstream["path profile RMSE"]["reactions"]["mean"] <= 0.5
