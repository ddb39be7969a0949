"""Errors by kind of geometry and displacement."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from clusters import lennard_jones, rhombus, tetrahedron

from phl_ase.errors import PHLError
from phl_ase.paths import displaced
from phl_ase.scoring import binned_means
from phl_ase.structures import Frame
from phl_ase.validators import accuracy as accuracy_module
from phl_ase.validators import (
    displacements,
    predict,
    validate_accuracy,
)
from phl_ase.vibrations import finite_difference_hessian


@pytest.fixture(scope="module")
def saddle():
    return rhombus()


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


@pytest.mark.parametrize("outcome", sorted(accuracy_module.OUTCOMES))
def test_every_outcome_has_a_sentence(outcome):
    assert len(accuracy_module.OUTCOMES[outcome].split()) > 3
