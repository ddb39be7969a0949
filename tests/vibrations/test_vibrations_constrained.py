"""Vibrations under constraints against other coordinates: generalised eigenproblems and Wilson's GF matrices."""

from __future__ import annotations

import inspect
import itertools

import ase.constraints
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import (
    ExternalForce,
    FixAtoms,
    FixBondLength,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixConstraint,
    FixedLine,
    FixedMode,
    FixedPlane,
    FixInternals,
    FixLinearTriatomic,
    FixScaled,
    FixSubsetCom,
    Hookean,
    MirrorForce,
)
from scipy import linalg, optimize

from phl_ase import PHLCalculator
from phl_ase.errors import PHLError
from phl_ase.paths import displaced, find_transition_state, relax
from phl_ase.reactions import sample
from phl_ase.resolver import resolve_calculator
from phl_ase.units import wavenumbers
from phl_ase.validators import ReferenceCurvature, validate_frequencies
from phl_ase.vibrations import (
    finite_difference_hessian,
    free_atoms,
    free_motions,
    harmonic_analysis,
    lowest_modes,
    stochastic_spectrum,
    thermochemistry,
)
from phl_ase.vibrations.constraints import _READERS, _REFUSED

# a molecule A-B-C-D by its bond lengths (Å), angles and dihedral (degrees)
START = np.array([1.12, 1.12, 1.12, 60.0, 60.0, 70.0])
NAMES = ("AB", "BC", "CD", "ABC", "BCD", "ABCD")


def from_internals(q: np.ndarray) -> np.ndarray:
    """Positions ``(4, 3)`` of a chain with these bond lengths, angles and dihedral."""
    ab, bc, cd, abc, bcd, abcd = *q[:3], *np.radians(q[3:])
    b, c = np.zeros(3), np.array([bc, 0.0, 0.0])
    a = ab * np.array([np.cos(abc), np.sin(abc), 0.0])
    d = c + cd * np.array([-np.cos(bcd), np.sin(bcd) * np.cos(abcd), np.sin(bcd) * np.sin(abcd)])
    return np.array([a, b, c, d])


def lennard_jones() -> LennardJones:
    return LennardJones(sigma=1.0, epsilon=1.0, rc=100.0)


def energy(q: np.ndarray) -> float:
    pairs = [np.linalg.norm(a - b) for a, b in itertools.combinations(from_internals(q), 2)]
    return float(sum(4 * (r**-12 - r**-6) for r in pairs))


def second_derivatives(function, x: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Fourth-order differences of a scalar function."""
    weights = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    found = np.zeros((len(x), len(x)))
    for i, j in np.ndindex(*found.shape):
        for (m, p), (n, r) in itertools.product(weights.items(), weights.items()):
            moved = x.copy()
            moved[i] += m * steps[i]
            moved[j] += n * steps[j]
            found[i, j] += p * r * function(moved) / (steps[i] * steps[j])
    return found


def wilson(held: tuple[int, ...], masses: np.ndarray, values: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """A minimum under constraints and its wavenumbers, all in internal coordinates."""
    start = START.copy()
    for place, value in values.items():
        start[place] = value
    free = [place for place in range(6) if place not in held]

    def of_free(x):
        q = start.copy()
        q[free] = x
        return energy(q)

    found = optimize.minimize(
        of_free,
        start[free],
        method="Nelder-Mead",
        options={"xatol": 1e-10, "fatol": 1e-15, "maxiter": 20000, "maxfev": 20000},
    )
    q = start.copy()
    q[free] = found.x
    scale = np.where(np.arange(6) < 3, 2e-3, 0.2)
    # dx/dq beside the rigid motions of the frame: kinetic energy without angular and linear momentum
    slopes = np.stack(
        [
            (from_internals(q + step) - from_internals(q - step)).ravel() / (2 * h)
            for step, h in zip(np.diag(scale / 20), scale / 20, strict=True)
        ],
        axis=1,
    )
    root = np.repeat(np.sqrt(masses), 3)[:, None]
    centred = from_internals(q) - np.average(from_internals(q), axis=0, weights=masses)
    rigid = np.stack(
        [*(np.tile(axis, 4) for axis in np.eye(3)), *(np.cross(axis, centred).ravel() for axis in np.eye(3))], axis=1
    )
    rigid = np.linalg.qr(root * rigid)[0]
    moving = root * slopes
    moving -= rigid @ (rigid.T @ moving)
    kinetic = (moving.T @ moving)[np.ix_(free, free)]
    potential = second_derivatives(of_free, q[free], scale[free])
    return q, wavenumbers(linalg.eigh(potential, kinetic, eigvals_only=True))


MASSES = np.array([2.0, 11.0, 5.0, 3.0])
HELD = {
    "a bond": ({0: 1.3}, FixBondLength(0, 1)),
    "a bond from the end": ({0: 1.3}, FixBondLength(-4, -3)),
    "a bond as an internal": ({1: 1.02}, FixInternals(bonds=[[None, [1, 2]]])),
    "an angle": ({3: 75.0}, FixInternals(angles_deg=[[None, [0, 1, 2]]])),
    "a dihedral": ({5: 95.0}, FixInternals(dihedrals_deg=[[None, [0, 1, 2, 3]]])),
    "three": (
        {0: 1.2, 4: 65.0, 5: 80.0},
        [FixBondLength(0, 1), FixInternals(angles_deg=[[None, [1, 2, -1]]], dihedrals_deg=[[None, [0, 1, 2, 3]]])],
    ),
}


@pytest.mark.parametrize("name", HELD)
def test_lengths_and_angles_are_those_of_internal_coordinates(name):
    """Off the unconstrained minimum forces of constraint bend the surface: without them the modes would be others."""
    values, constraint = HELD[name]
    q, expected = wilson(tuple(values), MASSES, values)
    atoms = Atoms("Ar4", from_internals(q), masses=MASSES, calculator=lennard_jones())
    atoms.set_constraint(constraint)
    forces = atoms.get_forces(apply_constraint=False)
    assert np.abs(forces).max() > 0.1
    hessian = finite_difference_hessian(atoms, delta=1e-4)
    found = harmonic_analysis(atoms, hessian, forces=forces)
    assert found.n_projected == 6
    assert found.n_constrained == len(values)
    np.testing.assert_allclose(found.wavenumbers, expected, atol=0.02)
    assert f"{len(values)} more by constraints" in found.table()
    # without the forces it cannot be told
    with pytest.raises(PHLError, match=r"forces=atoms\.get_forces\(apply_constraint=False\)"):
        harmonic_analysis(atoms, hessian)
    # a rotation has no curvature of its own: unprojected, there are six zeros beside the vibrations
    free = harmonic_analysis(atoms, hessian, forces=forces, project=False)
    assert len(free.wavenumbers) == 12 - len(values)
    np.testing.assert_allclose(
        np.sort(np.abs(free.wavenumbers))[:6], 0, atol=2
    )  # square roots of the differences' error

    # the same from HVPs alone
    def hvp(vectors, _):
        return (vectors.reshape(len(vectors), -1) @ hessian).reshape(vectors.shape)

    softest = lowest_modes(atoms, hvp, 2, forces=forces)
    np.testing.assert_allclose(softest.wavenumbers, found.wavenumbers[:2], atol=1e-6)
    with pytest.raises(PHLError, match="forces"):
        lowest_modes(atoms, hvp, 2)


def test_combinations_of_bonds(rng):
    """r(AB) − 2 r(CD) held: one direction, the same as that of the two gradients."""
    atoms = Atoms("Ar4", from_internals(START), masses=MASSES)
    atoms.set_constraint(FixInternals(bondcombos=[[None, [[0, 1, 1.0], [2, 3, -2.0]]]]))
    (row,) = free_motions(atoms).jacobian()
    step = 1e-6 * rng.standard_normal((4, 3))

    def value(sign):
        moved = atoms.positions + sign * step
        return np.linalg.norm(moved[0] - moved[1]) - 2 * np.linalg.norm(moved[2] - moved[3])

    assert row @ step.ravel() == pytest.approx(value(0.5) - value(-0.5), rel=1e-6)


CELL = np.array([[4.0, 0.3, 0.0], [0.5, 5.0, 0.2], [-0.4, 0.1, 6.0]])


def linear_constraints() -> dict[str, tuple[object, np.ndarray]]:
    """Constraint of four atoms -> the displacements that it allows, as columns ``(12, k)``, written by hand."""
    everything = np.eye(12)
    masses = np.repeat(MASSES, 3)
    diagonal = np.array([1.0, 1.0, 0.0]) / np.sqrt(2)
    across = np.array([1.0, -1.0, 0.0]) / np.sqrt(2)
    up = np.eye(3)[2]

    def with_atom(place: int, *directions: np.ndarray) -> np.ndarray:
        others = [column for k, column in enumerate(everything) if k // 3 != place % 4]
        own = np.zeros((len(directions), 4, 3))
        own[:, place] = np.array(directions).reshape(-1, 3)
        return np.array([*others, *own.reshape(-1, 12)]).T

    mode = np.arange(1.0, 13.0)
    com = np.stack([np.tile(axis, 4) * masses for axis in np.eye(3)])
    pair = com * np.repeat([1, 0, 0, 1], 3)
    return {
        "FixAtoms": (FixAtoms([-1]), with_atom(-1)),
        "FixCartesian, all": (FixCartesian([-2]), with_atom(2)),
        "FixCartesian, one axis": (FixCartesian([1], mask=(False, True, False)), with_atom(1, np.eye(3)[0], up)),
        "FixScaled": (FixScaled([-4], mask=(False, False, True)), with_atom(0, CELL[0], CELL[1])),
        "FixedPlane": (FixedPlane([2], diagonal), with_atom(2, across, up)),
        "FixedLine": (FixedLine([2], diagonal), with_atom(2, diagonal)),
        "FixCom": (FixCom(), linalg.null_space(com)),
        "FixSubsetCom": (FixSubsetCom([0, -1]), linalg.null_space(pair)),
        "FixedMode": (FixedMode(mode), linalg.null_space(mode[None])),
        "twice": ([FixedPlane([2], up), FixedPlane([-2], up)], with_atom(2, np.eye(3)[0], np.eye(3)[1])),
        "FixAtoms and a plane": ([FixAtoms([2]), FixedPlane([2], up)], with_atom(2)),
    }


@pytest.mark.parametrize("name", linear_constraints())
def test_linear_constraints_are_a_generalised_eigenproblem(name, rng):
    """Zᵀ H Z c = λ Zᵀ M Z c for displacements Z c."""
    constraint, allowed = linear_constraints()[name]
    hessian = rng.standard_normal((12, 12))
    hessian = hessian + hessian.T
    atoms = Atoms("Ar4", from_internals(START), masses=MASSES, cell=CELL)
    atoms.set_constraint(constraint)
    expected = linalg.eigh(
        allowed.T @ hessian @ allowed, allowed.T @ np.diag(np.repeat(MASSES, 3)) @ allowed, eigvals_only=True
    )
    found = harmonic_analysis(atoms, hessian, project=False)
    np.testing.assert_allclose(found.wavenumbers, wavenumbers(expected), rtol=1e-9, atol=1e-6)
    # ASE itself keeps every mode
    there = atoms.copy()
    step = np.zeros((4, 3))
    step[found.indices] = 1e-3 * found.displacements[0]
    there.set_positions(atoms.positions + step)
    np.testing.assert_allclose(there.positions, atoms.positions + step, atol=1e-12)


@pytest.mark.parametrize(
    ("constraint", "rigid", "held"),
    [
        ([], 6, 0),
        (FixCom(), 6, 0),  # the translations are gone either way
        (FixAtoms([0]), 3, 0),
        (FixedPlane([0, 1, 2, 3], [0, 0, 1]), 3, 4),  # it slides and turns in the plane
        (FixedPlane([0], [0, 0, 1]), 5, 1),
        (FixedLine([0], [0, 0, 1]), 4, 2),
        (FixBondLength(0, 1), 6, 1),
    ],
)
def test_rigid_motions_that_constraints_allow(constraint, rigid, held):
    flat = from_internals(np.array([1.1, 1.2, 1.3, 100.0, 110.0, 0.0]))
    atoms = Atoms("Ar4", flat)
    atoms.set_constraint(constraint)
    found = harmonic_analysis(atoms, np.eye(12), forces=np.zeros((4, 3)))
    assert (found.n_projected, found.n_constrained) == (rigid, held)
    assert len(found.wavenumbers) == 3 * len(found.indices) - rigid - held
    # thermochemistry is that of a molecule that turns freely
    if rigid == 6:
        assert thermochemistry(found, 0.0).shape == "nonlinear"
    else:
        with pytest.raises(PHLError, match="free molecule"):
            thermochemistry(found, 0.0)


def test_a_rigid_linear_molecule_has_no_vibrations():
    atoms = molecule("CO2")
    carbon = atoms.symbols.indices()["C"][0]
    others = [i for i in range(3) if i != carbon]
    atoms.set_constraint(FixLinearTriatomic([[others[0], carbon, others[1]]]))
    found = harmonic_analysis(atoms, np.eye(9), forces=np.zeros((3, 3)))
    assert (found.n_projected, found.n_constrained, len(found.wavenumbers)) == (5, 4, 0)


def test_every_constraint_of_ase_is_read_or_refused():
    kinds = [
        kind
        for _, kind in inspect.getmembers(ase.constraints, inspect.isclass)
        if issubclass(kind, FixConstraint) and kind is not FixConstraint
    ]
    assert len(kinds) > 15
    for kind in kinds:
        names = {one.__name__ for one in kind.__mro__}
        assert names & {"FixAtoms", *_READERS, *_REFUSED}, kind


class Unheard(FixConstraint):
    """A constraint of the user's own."""

    def copy(self):
        return self


REFUSED = {
    "Hookean": (Hookean(0, 1, 5.0, 1.0), "Hookean adds forces whose energy and curvature are not in the Hessian"),
    "ExternalForce": (ExternalForce(0, 1, 0.5), "ExternalForce adds forces"),
    "MirrorForce": (MirrorForce(0, 1), "MirrorForce turns forces round"),
    "unknown": (Unheard(), "Unheard is not known here.*known: FixAtoms, FixBondLengths"),
    "no such atom": (FixAtoms([7]), "FixAtoms names atom 7 of a structure of 3"),
    "no such atom in a bond": (FixBondLengths([[0, -5]]), "FixBondLengths names atom -5 of a structure of 3"),
    "another size": (FixedMode(np.ones(6)), "FixedMode has 6 numbers; expected 9"),
    "everything": (FixAtoms([0, 1, 2]), "no atom is free"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name):
    constraint, words = REFUSED[name]
    atoms = molecule("H2O")
    atoms.calc = EMT()
    atoms.set_constraint(constraint)
    with pytest.raises(PHLError, match=words):
        harmonic_analysis(atoms, np.eye(9), forces=np.zeros((3, 3)))
    with pytest.raises(PHLError, match=words):
        lowest_modes(atoms, lambda vectors, _: vectors, 1, forces=np.zeros((3, 3)))
    with pytest.raises(PHLError, match=words):
        displaced(atoms, 0.1, 0)


@pytest.mark.parametrize(
    "constraint",
    [FixInternals(angles_deg=[[170.0, [2, 0, 1]]]), FixInternals(dihedrals_deg=[[10.0, [2, 0, 1, 3]]])],
)
def test_a_straight_angle_has_no_direction(constraint):
    atoms = molecule("C2H2")
    atoms.set_constraint(constraint)
    with pytest.raises(PHLError, match="not defined here"):
        harmonic_analysis(atoms, np.eye(12), forces=np.zeros((4, 3)))


def test_given_indices_take_the_place_of_constraints():
    atoms = molecule("H2O")
    atoms.set_constraint([FixAtoms([0]), Hookean(0, 1, 5.0, 1.0)])
    found = harmonic_analysis(atoms, np.eye(9), indices=[0, -1])
    np.testing.assert_array_equal(found.indices, [0, 2])


def test_atoms_counted_from_the_end_are_fixed_everywhere():
    """FixAtoms([-3, -2]) of a molecule of four is FixAtoms([1, 2])."""
    calculator = PHLCalculator()
    results = []
    for fixed in ([1, 2], [-3, -2]):
        atoms = relax(Atoms(molecule("H2CO"), calculator=calculator), 1e-3).atoms
        atoms.set_constraint(FixAtoms(fixed))
        np.testing.assert_array_equal(free_atoms(atoms), [0, 3])
        analysis = harmonic_analysis(atoms, calculator.get_hessian(atoms))
        part = calculator.get_hessian(atoms, indices="free")
        softest, modes = calculator.get_lowest_modes(atoms, k=2)
        np.testing.assert_allclose(modes[:, [1, 2]], 0, atol=1e-12)
        moved = sample(atoms, "displaced", displacement=0.05, count=1).frames[0].positions - atoms.positions
        nms = sample(atoms, "normal-mode", count=1).frames[0].positions - atoms.positions
        for displacement in (moved, nms):
            assert np.abs(displacement[[1, 2]]).max() == 0 < np.abs(displacement[[0, 3]]).min()
        results.append([analysis.wavenumbers, part, softest, moved, nms])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


def test_samples_keep_lengths_and_planes():
    atoms = relax(Atoms(molecule("H2CO"), calculator=PHLCalculator()), 1e-3).atoms
    length = atoms.get_distance(0, 1)
    atoms.set_constraint([FixBondLength(0, 1), FixedPlane([2], [1, 0, 0])])
    for how, options in {
        "normal-mode": {"temperature": 600.0},
        "mode-scan": {"amplitude": 0.3},
        "displaced": {"displacement": 0.1},
        "md": {"temperature": 600.0, "equilibration": 20, "interval": 5},
    }.items():
        drawn = sample(atoms, how, count=4, **options).frames
        assert len(drawn) == 4
        for frame in drawn:
            assert np.abs(frame.positions - atoms.positions).max() > 0.01
            assert frame.get_distance(0, 1) == pytest.approx(length, abs=1e-7), how
            assert frame.positions[2, 0] == pytest.approx(atoms.positions[2, 0], abs=1e-9), how


def test_a_saddle_under_its_constraint_is_of_first_order():
    """HCN torn to C–N 1.8 Å: the hydrogen passes from C to N, and without the constraint two modes are imaginary."""
    guess = Atoms("CNH", [[0, 0, 0], [0, 0, 1.8], [0, 1.0, 0.9]], calculator=resolve_calculator("tblite"))
    guess.set_constraint(FixBondLength(-3, -2))
    found = find_transition_state(guess)
    assert found.outcome == "converged", found.sentence
    assert found.analysis is not None
    assert found.analysis.n_constrained == 1
    assert found.atoms.get_distance(0, 1) == pytest.approx(1.8, abs=1e-5)
    loose = found.atoms.copy()
    loose.set_constraint()
    loose.calc = guess.calc
    assert harmonic_analysis(loose, finite_difference_hessian(loose)).n_imaginary == 2


@pytest.mark.parametrize("fixed", [[0, 1], [-4, -3]])
def test_searches_know_atoms_counted_from_the_end(fixed):
    """Sella's own reading of such constraints fails."""
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    atoms.set_constraint(FixAtoms(fixed))
    atoms.positions[3] += [0.4, 0.0, 0.1]
    found = find_transition_state(atoms, max_steps=3)
    assert found.outcome != "failed", found.sentence
    np.testing.assert_allclose(found.atoms.positions[[0, 1]], atoms.positions[[0, 1]], atol=1e-9)
    # of the caller's own
    np.testing.assert_array_equal(atoms.constraints[0].index, fixed)


def test_the_model_s_lowest_modes_know_forces_of_constraint():
    calculator = PHLCalculator()
    atoms = molecule("H2CO")
    atoms.set_distance(0, 1, 1.3, fix=0)
    atoms.set_constraint(FixBondLength(0, 1))
    atoms.calc = calculator
    atoms = relax(atoms, 1e-3).atoms
    forces = atoms.get_forces(apply_constraint=False)
    assert np.abs(forces).max() > 1
    expected = harmonic_analysis(atoms, calculator.get_hessian(atoms), forces=forces)
    found, modes = calculator.get_lowest_modes(atoms, k=5)
    np.testing.assert_allclose(wavenumbers(found), expected.wavenumbers, atol=0.01)
    overlaps = np.einsum("kia,kia->k", modes, expected.modes)
    np.testing.assert_allclose(np.abs(overlaps), 1, atol=1e-5)
    spectrum = stochastic_spectrum(atoms, calculator.get_hvp, n_probes=5, steps=5, forces=forces)
    assert spectrum.n_vibrations == 5
    assert spectrum.zero_point_energy().value == pytest.approx(expected.zero_point_energy, rel=1e-6)


def test_validators_refuse_what_they_cannot_compare():
    atoms = molecule("H2O")
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(PHLError, match="lengths or angles"):
        validate_frequencies(ReferenceCurvature(atoms, np.eye(9)), np.eye(9), system="water", potential="none")
    # planes are compared within them
    atoms.set_constraint(FixedPlane([0, 1, 2], [1, 0, 0]))
    report = validate_frequencies(
        ReferenceCurvature(atoms, np.zeros((9, 9)), kind="elsewhere"), np.eye(9), system="water", potential="none"
    )
    assert len(report.arrays["eigenvalues"]) == 3
