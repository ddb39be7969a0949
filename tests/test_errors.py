"""Failures of calculators are results that keep their traceback; defects of the package are raised."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from clusters import Broken

from phl_ase.errors import CalculatorError, GuardedCalculator, NonFiniteError, PHLError, attempt, guarded, is_defect
from phl_ase.paths import find_reaction, find_transition_state, follow_irc, relax
from phl_ase.reference.labels import label_frame


def fails(error):
    def function(*_, **__):
        raise error

    return function


OF_CALCULATORS = [TypeError("no"), KeyError("Xx"), AttributeError("no"), RuntimeError("SCF"), AssertionError()]


@pytest.mark.parametrize("error", OF_CALCULATORS, ids=lambda error: type(error).__name__)
def test_what_a_calculator_raises_is_a_result_with_its_traceback(error):
    answer = attempt(guarded(fails(error)))
    assert (answer.value, answer.outcome, answer.of_calculator) == (None, "failed", True)
    assert answer.reason.startswith(type(error).__name__)
    assert "in function" in answer.traceback
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]])
    atoms.calc = Broken(fails(error))
    for failed in (relax(atoms), find_transition_state(atoms), follow_irc(atoms).backward):
        assert failed.outcome == "failed"
        assert "in function" in failed.traceback
    labelled = label_frame(atoms, Broken(fails(error)))
    assert labelled.failure.outcome == "crashed"
    assert "in function" in labelled.failure.traceback


def test_numbers_that_cannot_be_are_a_result():
    assert attempt(fails(NonFiniteError("NaN"))).outcome == "exploded"
    assert attempt(lambda: np.linalg.inv(np.zeros((2, 2)))).reason == "LinAlgError: Singular matrix"


@pytest.mark.parametrize(
    ("defect", "kind"),
    [
        (lambda: None + 1, TypeError),
        (lambda: {}["key"], KeyError),
        (lambda: [].absent, AttributeError),
        (lambda: np.linalg.norm(None), TypeError),
        (lambda: np.zeros(2) + np.zeros(3), ValueError),
    ],
)
def test_a_defect_is_raised(defect, kind):
    with pytest.raises(kind) as error:
        attempt(defect)
    assert is_defect(error.value)


@pytest.mark.parametrize(
    ("place", "run"),
    [
        ("phl_ase.paths.transition_state.harmonic_analysis", lambda atoms: find_transition_state(atoms, fmax=100.0)),
        ("phl_ase.paths.irc.harmonic_analysis", find_reaction),
        ("phl_ase.paths.counting.NonFiniteError", lambda atoms: relax(_nan(atoms))),
    ],
)
def test_a_defect_on_the_way_is_raised(place, run, monkeypatch):
    """Not a failed search: that would be counted against the model."""
    atoms = Atoms("Cu3", [[0, 0, 0], [0, 0, 2.3], [0, 2.0, 1.1]])
    atoms.calc = EMT()
    monkeypatch.setattr(place, fails(TypeError("a defect")))
    with pytest.raises(TypeError, match="a defect"):
        run(atoms)


def _nan(atoms: Atoms) -> Atoms:
    atoms.calc = Broken(lambda _: {"energy": float("nan"), "forces": np.zeros((3, 3))})
    return atoms


def test_a_guarded_calculator_is_the_calculator():
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]])
    atoms.calc = LennardJones()
    expected = atoms.get_forces()
    atoms.calc = GuardedCalculator(LennardJones())
    np.testing.assert_array_equal(atoms.get_forces(), expected)
    assert "energy" in atoms.calc.results
    assert not hasattr(atoms.calc, "get_hessian")
    for again in (copy.deepcopy(atoms.calc), pickle.loads(pickle.dumps(atoms.calc))):
        assert again.get_potential_energy(atoms) == pytest.approx(atoms.get_potential_energy())
    with pytest.raises(NotImplementedError):  # ASE asks in this way whether there is a stress
        atoms.calc.get_property("dipole", atoms)


def test_a_mistake_of_the_caller_stays_one():
    with pytest.raises(PHLError, match="charge"):
        attempt(guarded(fails(PHLError("charge 1 is not known"))))
    with pytest.raises(CalculatorError) as error:
        guarded(fails(ZeroDivisionError("no")))()
    assert isinstance(error.value.__cause__, ZeroDivisionError)
