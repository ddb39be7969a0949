"""Curvature of any calculator: its own where it has it, differences of forces where not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.units import Bohr, Hartree
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
    assert curvature.gradients_per_hessian(3) == curvature.gradients_per_hvp == 0
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


LAYOUTS = {
    "(3n, 3n)": lambda h, n: h,
    "flat rows": lambda h, n: h.reshape(3 * n, n, 3),
    "ASE's": lambda h, n: h.reshape(n, 3, n, 3),
    "phonopy's": lambda h, n: h.reshape(n, 3, n, 3).transpose(0, 2, 1, 3),
}


class Foreign(Calculator):
    """Energies and forces of a model; curvature as subclasses hand it out."""

    implemented_properties = ("energy", "forces")

    def __init__(self, change=lambda h, n: h):
        super().__init__()
        self.own, self.change, self.asked = PHLCalculator(morse()), change, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.asked += 1
        self.results = {name: self.own.get_property(name, atoms) for name in ("energy", "forces")}

    def changed(self, atoms):
        return self.change(self.own.get_hessian(atoms), len(atoms))


class HessianOnly(Foreign):
    """As MACE's and Nequix's calculators."""

    def get_hessian(self, atoms):
        return self.changed(atoms)


class Result(Foreign):
    """As fairchem's: a result that ASE does not know."""

    implemented_properties = ("energy", "forces", "hessian")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["hessian"] = self.changed(atoms).astype(np.float32)


class AIMNet(Foreign):
    """HVPs of the base calculator, single-precision tensors; the Hessian of molecules alone."""

    charge, mult = 0, 1

    def __init__(self, factor=1.0):
        super().__init__()
        self.base_calc, self.factor, self.data = self, factor, None

    def hessian_vector_product(self, data, vectors):
        self.data = data
        atoms = Atoms(data["numbers"], data["coord"], cell=data.get("cell"), pbc=data.get("pbc"))
        return torch.tensor(self.factor * self.own.get_hvp(vectors, atoms), dtype=torch.float32, requires_grad=True)

    def get_hessian(self, atoms):
        if atoms.pbc.any():
            raise PropertyNotImplementedError("periodic")
        return torch.tensor(self.factor * self.own.get_hessian(atoms), requires_grad=True).detach().numpy()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [HessianOnly, Result])
@pytest.mark.parametrize("name", ["H2", "H2O", "NH3", "CH4"])
def test_hessians_of_others_come_in_every_layout(rng, layout, kind, name):
    """Of three atoms two layouts look alike."""
    calculator, atoms = kind(LAYOUTS[layout]), molecule(name)
    atoms.rattle(0.05, seed=1)
    curvature, vectors = curvature_of(calculator), rng.normal(size=(2, len(atoms), 3))
    expected = calculator.own.get_hessian(atoms)
    tolerance = 1e-12 if kind is HessianOnly else 1e-4
    assert curvature.is_exact
    np.testing.assert_allclose(curvature.hessian(atoms), expected, atol=tolerance)
    hvps = (vectors.reshape(2, -1) @ expected).reshape(vectors.shape)
    np.testing.assert_allclose(curvature.hvp(vectors, atoms), hvps, atol=10 * tolerance)


def test_a_layout_is_found_out_once_for_each_calculator():
    calculator, atoms = HessianOnly(LAYOUTS["phonopy's"]), water()
    curvature_of(calculator).hessian(atoms)
    assert calculator.asked == 2
    expected = calculator.own.get_hessian(atoms)
    np.testing.assert_array_equal(curvature_of(calculator).hessian(atoms), expected)
    assert calculator.asked == 2
    fresh = HessianOnly(LAYOUTS["phonopy's"])
    curvature_of(fresh).hessian(molecule("NH3"))  # its shape tells, and holds for three atoms
    asked = fresh.asked
    np.testing.assert_array_equal(curvature_of(fresh).hessian(atoms), expected)
    assert fresh.asked == asked


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h, n: -h, "derivative of the forces: turn its sign"),
        (lambda h, n: h * Bohr**2 / Hartree, "it is in Hartree/Bohr²"),
        (lambda h, n: h * 23.06, "it is in kcal/mol/Å²"),
        (lambda h, n: h[::-1, ::-1], "disagrees with differences of its forces"),
        (lambda h, n: 0 * h, "disagrees with differences of its forces"),
        (lambda h, n: h.reshape(n, 3, n, 3).transpose(0, 1, 3, 2), "disagrees with differences of its forces"),
        (lambda h, n: np.zeros((3, 3)), r"shape \(3, 3\), expected \(9, 9\)"),
        (lambda h, n: None, "no array of numbers|holds NaN|shape"),
        (lambda h, n: h * np.nan, "NaN"),
    ],
)
def test_what_is_no_hessian_is_refused(change, said):
    with pytest.raises(PHLError, match=said):
        curvature_of(HessianOnly(change)).hessian(water())


def test_hvps_of_others_are_taken_and_checked(rng):
    calculator, vectors = AIMNet(), rng.normal(size=(2, 3, 3))
    curvature, atoms = curvature_of(calculator), water()
    expected = calculator.own.get_hvp(vectors, water())
    np.testing.assert_allclose(curvature.hvp(vectors, atoms), expected, atol=1e-4)
    np.testing.assert_allclose(curvature.hvp(vectors[0], atoms), expected[0], atol=1e-4)
    assert (calculator.data["charge"], calculator.data["mult"], "cell" in calculator.data) == (0, 1, False)
    np.testing.assert_allclose(curvature.hessian(atoms), calculator.own.get_hessian(water()), atol=1e-4)
    assert calculator.asked == 4
    periodic = water()
    periodic.set_cell([9, 9, 9])
    periodic.pbc = True
    np.testing.assert_allclose(curvature.hessian(periodic), calculator.own.get_hessian(periodic), atol=1e-4)
    assert calculator.data["pbc"].all()
    with pytest.raises(PHLError, match="Hessian-vector product disagrees"):
        curvature_of(AIMNet(factor=2.0)).hvp(vectors, water())


def test_hvps_of_another_shape_are_refused():
    class Wrong(Foreign):
        def get_hvp(self, vectors, atoms):
            return np.zeros(5)

    with pytest.raises(PHLError, match=r"own HVP returned shape \(5,\), expected that of the vectors, \(3, 3\)"):
        curvature_of(Wrong()).hvp(np.ones((3, 3)), water())


def test_hvps_ignore_constraints_and_length_of_the_vector(rng):
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
