"""Validators on plain ASE calculators, where the answers are known."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones

from phl_ase.errors import PHLError
from phl_ase.paths import displaced, find_transition_state
from phl_ase.results import Report, plain
from phl_ase.scoring import ERRORS, binned_means
from phl_ase.structures import Frame
from phl_ase.units import convert
from phl_ase.validators import (
    EndPoint,
    displacements,
    predict,
    validate_accuracy,
    validate_frequencies,
    validate_transition_state,
)
from phl_ase.validators import accuracy as accuracy_module
from phl_ase.validators import frequencies as frequencies_module
from phl_ase.validators import transition_state as ts_module
from phl_ase.vibrations import finite_difference_hessian, harmonic_analysis

SIGMA = 2.5
BOND = SIGMA * 2 ** (1 / 6)
# LJ4: its minimum has six bonds; the saddle that joins two of them is a rhombus (D. J. Wales, Energy Landscapes, 2003)
MINIMUM_ENERGY, RHOMBUS_ENERGY = -6.0, -5.073421


def lennard_jones():
    return LennardJones(sigma=SIGMA, epsilon=1.0, rc=100.0)


def tetrahedron():
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * BOND / 8**0.5
    return Atoms("Ar4", corners, calculator=lennard_jones())


def rhombus():
    height = BOND * 3**0.5 / 2
    atoms = Atoms("Ar4", [[0, 0, 0], [BOND, 0, 0], [BOND / 2, height, 0], [BOND / 2, -height, 0]])
    atoms.calc = lennard_jones()
    found = find_transition_state(atoms, finite_difference_hessian, fmax=1e-4)
    assert found.converged
    return found.atoms


@pytest.fixture(scope="module")
def saddle():
    return rhombus()


class Broken(Calculator):
    """Whatever the test wants instead of forces."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, happens):
        super().__init__()
        self.happens = happens

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = self.happens(atoms)


def raises(*_):
    raise RuntimeError("SCF did not\nconverge")


# --------------------------------------------------------------------------------------------------------- frequencies


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


# --------------------------------------------------------------------------------------------------- transition states


def ends(atoms, energy=MINIMUM_ENERGY):
    return {"tetrahedron": EndPoint(atoms, energy)}


@pytest.mark.parametrize("geometry", sorted(ts_module.END_POINTS))
def test_search_against_itself(saddle, geometry):
    report = validate_transition_state(
        displaced(saddle, 0.1, 3),
        lennard_jones(),
        finite_difference_hessian,
        saddle,
        system="LJ4",
        potential="LJ",
        reference_energy=RHOMBUS_ENERGY,
        reference_hessian=finite_difference_hessian(saddle),
        end_points=ends(tetrahedron()),
        end_geometry=geometry,
        fmax=1e-3,
    )
    assert report.outcome == "converged"
    assert report.metric("RMSD to the reference TS").value < 1e-3
    wavenumber = report.metric("imaginary wavenumber")
    assert wavenumber.value == pytest.approx(wavenumber.reference, abs=0.1)
    assert report.metric("Hessian calls").value >= 1
    assert report.metric("force calls").value >= report.metric("steps").value > 0
    expected = convert(RHOMBUS_ENERGY - MINIMUM_ENERGY, "eV", "kcal/mol")
    barrier = report.metric("barrier from tetrahedron")
    assert barrier.reference == pytest.approx(expected)
    assert barrier.value == pytest.approx(expected, abs=0.01)
    assert abs(report.metric("barrier error from tetrahedron").value) < 0.01
    assert ("RMSD of tetrahedron" in [m.name for m in report.metrics]) == (geometry == "relaxed")
    assert geometry in report.provenance["end_points"] or "reference's geometry" in report.provenance["end_points"]


def test_search_without_hessians_and_without_reference_energies(saddle):
    report = validate_transition_state(
        displaced(saddle, 0.05, 1),
        lennard_jones(),
        None,
        saddle,
        system="LJ4",
        potential="LJ",
        end_points=ends(tetrahedron(), None),
    )
    assert report.outcome == "converged"
    assert report.metric("Hessian calls").value == 0
    assert report.metric("barrier from tetrahedron").reference is None
    assert "barrier error from tetrahedron" not in [m.name for m in report.metrics]


@pytest.mark.parametrize(
    ("calculator", "options", "outcome"),
    [
        (lennard_jones(), {"max_steps": 1}, "not converged"),
        (lennard_jones(), {"same_within": 1e-9}, "another saddle"),
        (Broken(raises), {}, "failed"),
        (Broken(lambda atoms: {"energy": np.nan, "forces": np.zeros((4, 3))}), {}, "exploded"),
    ],
)
def test_a_search_that_fails_is_an_outcome(saddle, calculator, options, outcome):
    report = validate_transition_state(
        displaced(saddle, 0.1, 0),
        calculator,
        None,
        saddle,
        system="LJ4",
        potential="broken",
        reference_energy=RHOMBUS_ENERGY,
        end_points=ends(tetrahedron()),
        **options,
    )
    assert report.outcome == outcome
    assert report.outcome in ts_module.OUTCOMES
    assert report.sentence
    if outcome != "another saddle":
        assert np.isnan(report.metric("barrier from tetrahedron").value)
    plain(report)


def test_a_broken_end_point_leaves_the_barrier_unknown(saddle):
    calls = []

    def answer(atoms):
        calls.append(1)
        if np.allclose(atoms.get_all_distances()[np.triu_indices(4, 1)], BOND, atol=1e-3):
            raises()
        inner = lennard_jones()
        inner.calculate(atoms, ["energy", "forces"], all_changes)
        return inner.results

    for geometry in ts_module.END_POINTS:
        report = validate_transition_state(
            displaced(saddle, 0.05, 0),
            Broken(answer),
            None,
            saddle,
            system="LJ4",
            potential="broken",
            end_points=ends(tetrahedron()),
            end_geometry=geometry,
        )
        assert report.outcome == "converged"
        assert np.isnan(report.metric("barrier from tetrahedron").value)


def test_other_atoms_than_the_reference_are_a_mistake(saddle):
    with pytest.raises(PHLError, match="same atoms"):
        validate_transition_state(
            Atoms("Ne4", saddle.positions), lennard_jones(), None, saddle, system="", potential=""
        )
    with pytest.raises(PHLError, match="relaxed"):
        validate_transition_state(
            saddle, lennard_jones(), None, saddle, system="", potential="", end_geometry="guessed"
        )


# ------------------------------------------------------------------------------------------------------------- accuracy


def labelled(atoms, **labels):
    atoms = atoms.copy()
    atoms.calc = lennard_jones()
    return Frame(
        numbers=atoms.numbers.copy(),
        positions=atoms.positions.copy(),
        energy=atoms.get_potential_energy(),
        forces=atoms.get_forces(),
        hessian=finite_difference_hessian(atoms),
        **labels,
    )


@pytest.fixture(scope="module")
def frames(saddle):
    well = tetrahedron()
    return [
        labelled(saddle, kind="ts", reaction="LJ4"),
        labelled(well, kind="reactant", reaction="LJ4"),
        labelled(displaced(well, 0.05, 1), kind="nms", reaction="LJ4", temperature=300.0),
        labelled(displaced(saddle, 0.3, 2), kind="nms", reaction="LJ4", temperature=2000.0),
        labelled(displaced(saddle, 0.1, 3), kind="irc", reaction="LJ4"),
        labelled(well, kind="nms", reaction="elsewhere", temperature=300.0),
    ]


def test_displacement_from_the_nearest_stationary_point(frames):
    np.testing.assert_allclose(displacements(frames)[:5], [0, 0, 0.05, 0.3, 0.1], atol=1e-6)
    assert np.isnan(displacements(frames)[5])
    assert np.isnan(displacements(frames[2:])).all()
    np.testing.assert_allclose(displacements(frames[2:], frames)[:3], [0.05, 0.3, 0.1], atol=1e-6)


def test_accuracy_against_itself_is_exact(frames):
    structures = [Atoms(frame.numbers, frame.positions) for frame in frames]
    predictions = predict(structures, lennard_jones(), finite_difference_hessian)
    report = validate_accuracy(frames, predictions, system="LJ4", potential="LJ")
    assert report.outcome == "scored"
    assert all(m.value == pytest.approx(0, abs=1e-9) for m in report.metrics if not m.name.startswith("frames"))
    assert structures[0].calc is None


def test_accuracy_of_known_errors_by_region(frames):
    """Everything off by a known amount, far frames by twice as much."""
    predictions = []
    for number, frame in enumerate(frames):
        factor = 2 if number in (3, 4) else 1
        predictions.append(
            {
                "energy": frame.energy + 0.004 * factor,
                "forces": frame.forces - 0.01 * factor,
                "hessian": frame.hessian + 0.5 * factor,
            }
        )
    report = validate_accuracy(frames, predictions, system="LJ4", potential="off")
    for region, factor in (("near", 1), ("far", 2), ("ts", 1), ("irc", 2)):
        assert report.metric(f"energy, {region}").value == pytest.approx(1.0 * factor)
        assert report.metric(f"energy, {region}").unit == "meV/atom"
        assert report.metric(f"forces, {region}").value == pytest.approx(10.0 * factor)
        assert report.metric(f"hessian, {region}").value == pytest.approx(0.5 * factor)
    assert report.metric("frames, far").value == 2
    edges, by_displacement = report.arrays["displacement_edges"], report.arrays["forces_by_displacement"]
    place = int(np.digitize(0.3 - 1e-6, edges)) - 1
    assert report.arrays["displacement_frames"].sum() == 5
    assert by_displacement[0] == pytest.approx(10.0)
    assert np.nanmax(by_displacement) == pytest.approx(20.0)
    assert by_displacement[place : place + 2][np.isfinite(by_displacement[place : place + 2])][0] == pytest.approx(20.0)


def test_missing_labels_and_nan_predictions(frames):
    bare = [dataclasses.replace(frame, hessian=None) for frame in frames]
    rows = [{"energy": f.energy, "forces": f.forces} for f in frames]
    report = validate_accuracy(bare, rows, system="LJ4", potential="LJ")
    assert report.outcome == "scored"
    assert not [m for m in report.metrics if m.name.startswith("hessian")]
    rows[0]["energy"] = np.nan
    assert validate_accuracy(bare, rows, system="LJ4", potential="LJ").outcome == "exploded"
    with pytest.raises(PHLError, match="5 predictions for 6 frames"):
        validate_accuracy(bare, rows[:5], system="LJ4", potential="LJ")
    with pytest.raises(PHLError):
        validate_accuracy([], [], system="LJ4", potential="LJ")


def test_binned_means():
    x, values = np.array([0.0, 0.1, 0.5, np.nan, 3.0]), np.array([1.0, 3.0, np.nan, 1.0, 1.0])
    means, counts = binned_means(x, values, [0, 0.2, 1])
    assert means[0] == 2
    assert np.isnan(means[1])
    assert counts.tolist() == [2, 0]


@pytest.mark.parametrize("module", [accuracy_module, frequencies_module, ts_module])
def test_every_outcome_has_a_sentence(module):
    assert all(len(sentence) > 20 for sentence in module.OUTCOMES.values())
    assert set(ERRORS) == {"energy", "forces", "hessian"}
