"""Validation of transition-state searches where the answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import all_changes
from clusters import BOND, MINIMUM_ENERGY, RHOMBUS_ENERGY, Broken, lennard_jones, raises, rhombus, tetrahedron

from phl_ase.errors import PHLError
from phl_ase.paths import displaced
from phl_ase.results import plain
from phl_ase.units import convert
from phl_ase.validators import (
    EndPoint,
    validate_transition_state,
)
from phl_ase.validators import transition_state as ts_module
from phl_ase.vibrations import finite_difference_hessian


@pytest.fixture(scope="module")
def saddle():
    return rhombus()


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


@pytest.mark.parametrize("outcome", sorted(ts_module.OUTCOMES))
def test_every_outcome_has_a_sentence(outcome):
    assert len(ts_module.OUTCOMES[outcome].split()) > 3
