"""Curvature of any calculator: its own where it has it, differences of forces where not."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from surfaces import morse

from phl_ase import PHLCalculator
from phl_ase.curvature import DIFFERENCES, EXACT, curvature_of, finite_difference_hvp
from phl_ase.errors import NonFiniteError, PHLError


def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=1)
    return atoms


def test_a_calculator_with_its_own_curvature_is_asked():
    calculator = PHLCalculator(morse())
    curvature, atoms = curvature_of(calculator), water()
    assert curvature.is_exact
    assert curvature.source == EXACT
    assert curvature.gradients_per_hessian(3) == curvature.gradients_per_product == 0
    np.testing.assert_array_equal(curvature.hessian(atoms), calculator.get_hessian(atoms))


def test_differences_agree_with_the_calculators_own(rng):
    calculator, atoms = PHLCalculator(morse()), water()
    vectors = rng.normal(size=(4, 3, 3))
    atoms.calc = calculator
    # central differences of 0.005 Å: δ²/6 of the fourth derivative, 20 eV/Å⁴ here
    np.testing.assert_allclose(finite_difference_hvp(vectors, atoms), calculator.get_hvp(vectors, atoms), atol=2e-3)
    np.testing.assert_allclose(
        finite_difference_hvp(vectors[0], atoms, delta=1e-4), calculator.get_hvp(vectors[0], atoms), atol=1e-5
    )


def test_a_calculator_without_curvature_gets_differences_and_says_so(rng):
    atoms = water()
    curvature = curvature_of(EMT())
    assert (curvature.source, curvature.is_exact) == (DIFFERENCES, False)
    assert curvature.gradients_per_hessian(3) == 18
    before = atoms.positions.copy()
    hessian, vector = curvature.hessian(atoms), rng.normal(size=(3, 3))
    np.testing.assert_allclose(
        curvature.hvp(vector, atoms).ravel(), hessian @ vector.ravel(), atol=5e-3 * np.abs(hessian).max()
    )
    np.testing.assert_array_equal(atoms.positions, before)
    assert atoms.calc is None


@pytest.mark.parametrize("layout", [(9, 9), (9, 3, 3), (3, 3, 3, 3)], ids=["square", "MACE's", "ASE's"])
def test_a_calculator_with_hessians_alone(rng, layout):
    own, atoms = PHLCalculator(morse()), water()

    class HessianOnly(EMT):
        def get_hessian(self, atoms):
            return own.get_hessian(atoms).reshape(layout)

    curvature, vectors = curvature_of(HessianOnly()), rng.normal(size=(2, 3, 3))
    assert curvature.is_exact
    np.testing.assert_array_equal(curvature.hessian(atoms), own.get_hessian(atoms))
    np.testing.assert_allclose(curvature.hvp(vectors, atoms), own.get_hvp(vectors, atoms), atol=1e-10)


def test_a_hessian_of_another_shape_is_a_mistake():
    class Wrong(EMT):
        def get_hessian(self, atoms):
            return np.zeros((3, 3))

    with pytest.raises(PHLError, match=r"shape \(3, 3\), expected \(9, 9\)"):
        curvature_of(Wrong()).hessian(water())


def test_products_ignore_constraints_and_length_of_the_vector(rng):
    atoms = water()
    atoms.calc = EMT()
    vector = rng.normal(size=(3, 3))
    free = finite_difference_hvp(vector, atoms)
    np.testing.assert_allclose(finite_difference_hvp(1e3 * vector, atoms), 1e3 * free, rtol=1e-9)
    assert not finite_difference_hvp(np.zeros((3, 3)), atoms).any()
    atoms.set_constraint(FixAtoms([0]))
    np.testing.assert_array_equal(finite_difference_hvp(vector, atoms), free)


def test_mistakes_are_one_clear_line():
    atoms = water()
    with pytest.raises(PHLError, match="no calculator"):
        finite_difference_hvp(np.zeros((3, 3)), atoms)
    atoms.calc = EMT()
    with pytest.raises(PHLError, match=r"shape \(9,\); expected \(3, 3\)"):
        finite_difference_hvp(np.zeros(9), atoms)
    with pytest.raises(PHLError, match="positive displacement"):
        finite_difference_hvp(np.zeros((3, 3)), atoms, delta=0.0)
    with pytest.raises(NonFiniteError):
        finite_difference_hvp(np.full((3, 3), np.nan), atoms)
