"""What the calculator does for large systems and for many at once: sparse Hessians, lowest modes, groups, budgets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from surfaces import painn

from phl_ase.calculator import PHLCalculator, ase_calculator
from phl_ase.calculator.grouping import groups_of
from phl_ase.derivatives import GradientGraph
from phl_ase.errors import PHLError
from phl_ase.structures import PackedFrames, collate, frame_from_atoms
from phl_ase.vibrations import harmonic_analysis, stochastic_spectrum


def small(seed: int = 0):
    return painn(seed, species=(1, 6, 8), cutoff=2.6, layers=1, channels=4)


def chain(n: int) -> Atoms:
    positions = np.stack([1.2 * np.arange(n), 0.3 * (np.arange(n) % 2), np.zeros(n)], axis=1)
    positions += np.random.default_rng(n).uniform(-0.05, 0.05, (n, 3))
    return Atoms(np.resize([6, 1, 8], n), positions)


def dense_values(atoms, hessian):
    analysis = harmonic_analysis(atoms, hessian)
    return np.sign(analysis.wavenumbers) * analysis.wavenumbers**2


def test_sparse_is_dense(device):
    atoms = chain(60)
    calculator = PHLCalculator(small(), device=device)
    matrix = calculator.get_sparse_hessian(atoms)
    dense = calculator.get_hessian(atoms)
    np.testing.assert_allclose(matrix.toarray(), dense, rtol=0, atol=1e-12 * np.abs(dense).max())
    assert matrix.nnz < 0.3 * dense.size
    committee = PHLCalculator([small(0), small(1)], device=device)
    single = [PHLCalculator(small(s), device=device).get_sparse_hessian(atoms).toarray() for s in (0, 1)]
    np.testing.assert_allclose(committee.get_sparse_hessian(atoms).toarray(), np.mean(single, axis=0), atol=1e-11)


def test_sparse_needs_a_receptive_field():
    model = small()
    model.receptive_field = float("inf")
    calculator = PHLCalculator(model, device="cpu")
    with pytest.raises(PHLError, match="no finite receptive field"):
        calculator.get_sparse_hessian(molecule("H2O"))
    assert calculator.get_hessian(molecule("H2O")).shape == (9, 9)


@pytest.mark.parametrize("kind", ["chain", "crystal", "held"])
def test_lowest_modes(kind, device):
    atoms = bulk("C", "diamond", a=3.6, cubic=True).repeat((2, 1, 1)) if kind == "crystal" else chain(24)
    if kind == "crystal":
        atoms.rattle(0.05, seed=1)
    if kind == "held":
        atoms.set_constraint(FixAtoms([0, 1]))
    calculator = PHLCalculator(small(), device=device)
    values, modes = calculator.get_lowest_modes(atoms)
    assert values.shape == (3,)
    assert modes.shape == (3, len(atoms), 3)
    # wavenumbers² are proportional to the eigenvalues
    expected = dense_values(atoms, calculator.get_hessian(atoms))[:3]
    np.testing.assert_allclose(values / values[0], expected / expected[0], rtol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(modes.reshape(3, -1), axis=1), 1, rtol=1e-12)


def test_single_precision_ends():
    """Rounding of HVPs bounds what can be told: no search without an end for more."""
    atoms, model = chain(24), small()
    values, _ = PHLCalculator(model, device="cpu", dtype="float32").get_lowest_modes(atoms)
    exact, _ = PHLCalculator(model, device="cpu").get_lowest_modes(atoms)
    np.testing.assert_allclose(values, exact, rtol=2e-3)


def test_the_next_geometry_starts_from_the_last(monkeypatch):
    starts = []
    original = ase_calculator.lowest_modes
    monkeypatch.setattr(
        ase_calculator, "lowest_modes", lambda *a, start, **k: starts.append(start) or original(*a, start=start, **k)
    )
    calculator, atoms = PHLCalculator(small(), device="cpu"), chain(20)
    _, modes = calculator.get_lowest_modes(atoms)
    atoms.rattle(0.001, seed=2)
    calculator.get_lowest_modes(atoms, k=2)
    calculator.get_lowest_modes(chain(18))
    assert starts[0] is None
    np.testing.assert_array_equal(starts[1][:3], modes)
    assert starts[2] is None


def test_mistakes_of_lowest_modes():
    calculator = PHLCalculator(small(), device="cpu")
    with pytest.raises(PHLError, match="4 modes were asked for; H2O has 3 vibrations"):
        calculator.get_lowest_modes(molecule("H2O"), k=4)
    with pytest.raises(PHLError, match="no vibrations"):
        calculator.get_lowest_modes(Atoms("H"))
    with pytest.warns(UserWarning, match="not converged after"):
        calculator.get_lowest_modes(chain(20), max_hvps=6)
    with pytest.raises(PHLError, match="memory budget"):
        PHLCalculator(small(), device="cpu", memory_budget=1000).get_lowest_modes(chain(20))


def test_sums_over_modes_of_a_model():
    """The calculator's HVPs in stochastic quadrature: all probes, all steps, the exact sums."""
    atoms = molecule("CH4")
    calculator = PHLCalculator(small(), device="cpu")
    spectrum = stochastic_spectrum(atoms, calculator.get_hvp, n_probes=9, steps=9)
    dense = harmonic_analysis(atoms, calculator.get_hessian(atoms))
    assert spectrum.zero_point_energy().value == pytest.approx(dense.zero_point_energy, rel=1e-7)


# -------------------------------------------------------------------------------------------------------- many at once


def mixture() -> list[Atoms]:
    names = ("H2O", "CH3CH2OH", "CH4", "H2CO", "C6H6", "H2O", "CO2", "CH3OH", "C6H6", "H2")
    return [molecule(name) for name in names] + [Atoms("H"), chain(30)]


def test_groups_hold_everything_once_and_keep_to_the_budget():
    model = small()
    frames = [frame_from_atoms(atoms) for atoms in mixture()]
    packed = PackedFrames(frames, model.cutoffs)
    where = {"dtype": torch.float64, "device": torch.device("cpu")}
    saved = [GradientGraph(model, collate([f], model.cutoffs)[0], curvature=True).saved_bytes for f in frames]
    for budget in (max(saved) + 1, 3 * max(saved), 2**40):
        groups = groups_of(packed, model, needs=("hessian",), memory_budget=budget, **where)
        assert sorted(i for group in groups for i in group) == list(range(len(frames)))
        for group in groups:
            sizes = [len(frames[i]) for i in group]
            assert max(sizes) <= 1.25 * min(sizes) + 1
            graph = GradientGraph(model, packed.select(group)[0], curvature=True)
            # what one structure needs is told from another's: within a third
            assert len(group) == 1 or graph.saved_bytes <= 1.33 * budget
    assert groups_of(packed, model, needs=("energy",), memory_budget=1, **where) == [list(range(len(frames)))]


def test_any_budget_gives_the_same(device):
    model = small()
    structures = mixture()
    whole = PHLCalculator(model, device=device)
    expected = [whole.get_hessian(atoms) for atoms in structures]
    needed = GradientGraph(
        model, collate([frame_from_atoms(structures[-1])], model.cutoffs)[0], curvature=True
    ).saved_bytes
    for budget in (int(1.1 * needed), 20 * needed, None):
        calculator = PHLCalculator(model, device=device, memory_budget=budget)
        found = calculator.evaluate(structures, ("hessian", "energy"))
        for one, matrix in zip(found, expected, strict=True):
            np.testing.assert_allclose(one["hessian"], matrix, atol=1e-11 * max(np.abs(matrix).max(), 1))
    with pytest.raises(PHLError, match="one Hessian-vector product needs about"):
        PHLCalculator(model, device=device, memory_budget=needed // 10).evaluate(structures, ["hessian"])


def test_many_structures_without_hessians():
    """Energies and forces of more structures than are measured at once come back in their order."""
    structures = [chain(2 + k % 5) for k in range(70)]
    calculator = PHLCalculator(small(), device="cpu", memory_budget=2**20)
    found = calculator.evaluate(structures)
    for atoms, one in list(zip(structures, found, strict=True))[:6]:
        np.testing.assert_allclose(one["forces"], calculator.get_property("forces", atoms), atol=1e-11)
