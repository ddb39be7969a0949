"""The ASE calculator against derivatives, finite differences, and the programs that use it."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from ase.vibrations import Vibrations, VibrationsData
from scipy.sparse.linalg import eigsh

from phl_ase.calculator import CALCULATED, LAYOUTS, PHLCalculator, ase_calculator
from phl_ase.derivatives import evaluate
from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.paths import find_transition_state
from phl_ase.potentials import Committee, LennardJones, PaiNN, PaiNNConfig
from phl_ase.potentials.model_file import save_model
from phl_ase.structures import collate, frame_from_atoms
from phl_ase.vibrations import harmonic_analysis


def painn(seed=0, species=(1, 6, 7, 8)) -> PaiNN:
    config = PaiNNConfig(species=species, channels=16, layers=2, cutoff=4.0, n_basis=6)
    model = PaiNN(config, torch.Generator().manual_seed(seed))
    model.set_references(torch.linspace(-13.0, -2000.0, len(species), dtype=torch.float64), 1.0)
    return model.double()


def argon() -> LennardJones:
    """Lennard-Jones with a bond length of 3.8 Å and 1 eV a bond: stiff enough for modes far from zero."""
    return LennardJones(epsilon=1.0, sigma=3.4, cutoff=12.0)


@pytest.fixture(scope="module")
def model() -> PaiNN:
    return painn()


def shaken(atoms: Atoms, size=0.05, seed=3) -> Atoms:
    atoms.positions += size * np.random.default_rng(seed).standard_normal(atoms.positions.shape)
    return atoms


def formaldehyde() -> Atoms:
    return shaken(molecule("H2CO"))


def crystal() -> Atoms:
    """Two atoms in a skewed cell, each seeing its own images."""
    atoms = bulk("C", "diamond", a=4.6)
    atoms.set_cell(atoms.cell @ (np.eye(3) + 0.03 * np.random.default_rng(1).standard_normal((3, 3))), scale_atoms=True)
    return shaken(atoms)


STRUCTURES = {"molecule": formaldehyde, "crystal": crystal}


def rhombus_guess() -> Atoms:
    """Four argon atoms near the planar rhombus, the saddle between two tetrahedra."""
    b, y = 3.8, 3.3
    return shaken(Atoms("Ar4", [[-b / 2, 0, 0], [b / 2, 0, 0], [0, y, 0.2], [0, -y, 0.2]]), 0.05)


class Counting:
    """A potential that counts how often it is asked."""

    takes_charge = False

    def __init__(self, inner):
        self.inner, self.calls = inner, 0
        self.species, self.cutoffs = inner.species, inner.cutoffs
        self.receptive_field, self.derivative_modes = inner.receptive_field, inner.derivative_modes

    def __call__(self, batch):
        self.calls += 1
        return self.inner(batch)


class Charged(Counting):
    """A surface that depends on charge and multiplicity."""

    takes_charge = True

    def __call__(self, batch):
        return super().__call__(batch) * (1.0 + batch.charge.double() + 0.1 * batch.multiplicity.double())


def richardson(atoms: Atoms, calculator, h=0.002):
    """Hessian from forces at ±h and ±2h: the error is h⁴/30 of the sixth derivative of the energy."""

    def forces(atom, axis, step):
        moved = atoms.copy()
        moved.positions[atom, axis] += step
        return calculator.get_property("forces", moved).ravel()

    rows = []
    for atom in range(len(atoms)):
        for axis in range(3):
            near, far = (forces(atom, axis, -s) - forces(atom, axis, s) for s in (h, 2 * h))
            rows.append((8 * near - far) / (12 * h))
    return np.array(rows)


# ----------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("kind", STRUCTURES)
def test_what_derivatives_give(kind, device, model):
    atoms = STRUCTURES[kind]()
    atoms.calc = calculator = PHLCalculator(model, device=device)
    batch, _ = collate([frame_from_atoms(atoms)], model.cutoffs)
    expected = evaluate(model, batch, ("energy", "forces", "stress", "hessian"))
    # the same sums in another order on a GPU: rounding of numbers of the size of 100
    near = {"rtol": 1e-10, "atol": 1e-10}
    np.testing.assert_allclose(atoms.get_potential_energy(), expected.energy[0], **near)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, **near)
    hessian = calculator.get_hessian(atoms)
    np.testing.assert_allclose(hessian, expected.hessian[0], **near)
    assert hessian.dtype == np.float64
    assert hessian.flags.c_contiguous
    np.testing.assert_array_equal(hessian, hessian.T)
    if kind == "crystal":
        np.testing.assert_allclose(atoms.get_stress(voigt=False), expected.stress[0], **near)
    else:
        with pytest.raises(PropertyNotImplementedError, match="volume"):
            atoms.get_stress()


@pytest.mark.parametrize("kind", STRUCTURES)
def test_finite_differences(kind, model):
    atoms = STRUCTURES[kind]()
    atoms.calc = calculator = PHLCalculator(model, device="cpu")
    # central differences of an energy of 2000 eV: truncation 1e-8·f‴, rounding 4e-13/1e-4
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, 1e-4), atol=1e-6)
    difference = np.abs(calculator.get_hessian(atoms) - richardson(atoms, calculator)).max()
    assert difference < 1e-6
    if kind == "crystal":
        np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, 1e-5), atol=1e-7)


def test_a_box_around_a_molecule(model):
    """A cell that nothing repeats has a stress when asked for; a cell without a volume has none, and harms nothing."""
    atoms = formaldehyde()
    atoms.calc = PHLCalculator(model, device="cpu")
    energy = atoms.get_potential_energy()
    atoms.center(vacuum=5.0)
    assert "stress" not in atoms.calc.results
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, 1e-5), atol=1e-7)
    atoms.cell[2] = atoms.cell[1]
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_layouts(model):
    atoms = formaldehyde()
    calculator = PHLCalculator(model, device="cpu")
    hessian = calculator.get_hessian(atoms)
    blocks = {name: calculator.get_hessian(atoms, layout=name) for name in LAYOUTS}
    for a in range(4):
        for b in range(4):
            block = hessian[3 * a : 3 * a + 3, 3 * b : 3 * b + 3]
            np.testing.assert_array_equal(blocks["3n3n"][3 * a : 3 * a + 3, 3 * b : 3 * b + 3], block)
            np.testing.assert_array_equal(blocks["n3n3"][a, :, b], block)
            np.testing.assert_array_equal(blocks["nn33"][a, b], block)
    assert all(value.flags.c_contiguous for value in blocks.values())
    np.testing.assert_array_equal(VibrationsData(atoms, blocks["n3n3"]).get_hessian_2d(), hessian)


def test_partial_hessian(model):
    atoms = formaldehyde()
    atoms.set_constraint(FixAtoms([1, 2]))
    atoms.calc = calculator = PHLCalculator(model, device="cpu")
    # before the full one is known: from the rows of these atoms alone
    part = calculator.get_hessian(atoms, indices=[0, -1])
    assert "hessian" not in calculator.results
    assert part.shape == (6, 6)
    full = calculator.get_hessian(atoms)
    assert full.shape == (12, 12)
    rows = [0, 1, 2, 9, 10, 11]
    np.testing.assert_allclose(part, full[np.ix_(rows, rows)], atol=1e-10)
    np.testing.assert_array_equal(part, part.T)
    np.testing.assert_array_equal(calculator.get_hessian(atoms, indices=[0, 3]), full[np.ix_(rows, rows)])
    # what ASE takes of a constrained structure
    free = calculator.get_hessian(atoms, indices="free", layout="n3n3")
    data = VibrationsData(atoms, free)
    expected = harmonic_analysis(atoms, full, project=False)
    assert expected.indices.tolist() == data.get_indices().tolist() == [0, 3]
    frequencies = data.get_frequencies()
    np.testing.assert_allclose(frequencies.real - frequencies.imag, expected.wavenumbers, rtol=1e-9)


def test_frequencies_are_those_of_ase(model, tmp_path):
    """Against ASE's own finite differences: 4-point, h = 0.002 Å, so that the error is below 1e-6 eV/Å² (see above)."""
    atoms = formaldehyde()
    atoms.calc = calculator = PHLCalculator(model, device="cpu")
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"), delta=0.002, nfree=4)
    vibrations.run()
    theirs = vibrations.get_vibrations()
    ours = VibrationsData.from_2d(atoms, calculator.get_hessian(atoms))
    np.testing.assert_allclose(ours.get_hessian_2d(), theirs.get_hessian_2d(), atol=2e-6)
    # ν² is linear in the Hessian: 2e-6 eV/Å² over 1 amu are 0.54 cm⁻² · 2e-6/1e-6 … below 1 (cm⁻¹)²
    squares = [(data.get_frequencies() ** 2).real for data in (ours, theirs)]
    np.testing.assert_allclose(*squares, atol=1.0)
    assert np.abs(squares[0]).max() > 1e5


@pytest.mark.parametrize("kind", STRUCTURES)
def test_hvps_and_operator(kind, device, model, rng):
    atoms = STRUCTURES[kind]()
    n = len(atoms)
    calculator = PHLCalculator(model, device=device)
    hessian = calculator.get_hessian(atoms)
    vectors = rng.standard_normal((5, n, 3))
    expected = (vectors.reshape(5, -1) @ hessian).reshape(5, n, 3)
    hvps = calculator.get_hvp(vectors, atoms)
    np.testing.assert_allclose(hvps, expected, atol=1e-9)
    assert hvps.dtype == np.float64
    np.testing.assert_allclose(calculator.get_hvp(vectors[0].tolist()), expected[0], atol=1e-9)
    assert calculator.get_hvp(np.zeros((0, n, 3)), atoms).shape == (0, n, 3)
    operator = calculator.hessian_operator(atoms)
    assert operator.dtype == np.float64
    assert operator.shape == hessian.shape
    flat = vectors.reshape(5, -1).T
    # a later structure does not change it
    calculator.get_property("forces", shaken(atoms.copy()))
    calculator.get_hvp(vectors, shaken(atoms.copy()))
    np.testing.assert_allclose(operator @ flat, hessian @ flat, atol=1e-9)
    np.testing.assert_allclose(operator @ flat[:, 0], hessian @ flat[:, 0], atol=1e-9)
    np.testing.assert_allclose(operator.H @ flat[:, :1], hessian @ flat[:, :1], atol=1e-9)
    lowest = eigsh(operator, k=2, which="SA", tol=1e-10, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(lowest), np.linalg.eigvalsh(hessian)[:2], atol=1e-7)


def test_memory_budget(model, rng):
    atoms = formaldehyde()
    whole = PHLCalculator(model, device="cpu")
    hessian, needed = whole.get_hessian(atoms), whole._hvps(atoms) and whole._geometry.graph.saved_bytes
    few = PHLCalculator(model, device="cpu", memory_budget=2 * needed)
    np.testing.assert_allclose(few.get_hessian(atoms), hessian, atol=1e-10)
    vectors = rng.standard_normal((7, 4, 3))
    np.testing.assert_allclose(few.get_hvp(vectors, atoms), whole.get_hvp(vectors, atoms), atol=1e-10)
    with pytest.raises(PHLError, match="memory budget"):
        PHLCalculator(model, device="cpu", memory_budget=100).get_hessian(atoms)
    with pytest.raises(PHLError, match="memory_budget is 0"):
        PHLCalculator(model, device="cpu", memory_budget=0)


def test_single_precision(device, model):
    atoms = formaldehyde()
    exact = PHLCalculator(model, device=device)
    rough = PHLCalculator(model, device=device, dtype="float32")
    # relative rounding of 6e-8 times a few hundred operations
    for name, tolerance in (("forces", 1e-4), ("hessian", 1e-3)):
        a, b = exact.get_property(name, atoms), rough.get_property(name, atoms)
        assert b.dtype == np.float64
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(a).max())
        assert not np.array_equal(a, b)
    hessian = rough.get_hessian(atoms)
    np.testing.assert_array_equal(hessian, hessian.T)


# ------------------------------------------------------------------------------------------------------------ caching


def test_cache(model, monkeypatch):
    counting = Counting(model)
    lists = []

    def counted(*arguments):
        lists.append(1)
        return collate(*arguments)

    monkeypatch.setattr(ase_calculator, "collate", counted)
    atoms = formaldehyde()
    atoms.calc = calculator = PHLCalculator(counting, device="cpu")
    forces = atoms.get_forces()
    atoms.get_potential_energy()
    atoms.get_forces()
    assert (counting.calls, len(lists)) == (1, 1)
    # curvature at the same geometry: one more evaluation, no other neighbour list, then none
    hessian = calculator.get_hessian(atoms)
    calculator.get_property("hessian", atoms)
    assert (counting.calls, len(lists)) == (2, 1)
    calculator.get_hvp(forces, atoms)
    calculator.get_hvp(forces)
    operator = calculator.hessian_operator(atoms)
    operator @ forces.ravel()
    assert (counting.calls, len(lists)) == (3, 1)
    # what is handed out is the caller's
    hessian[:] = 0
    forces[:] = 0
    assert np.abs(calculator.get_hessian()).max() > 1
    assert np.abs(atoms.get_forces()).max() > 0
    # moved, and there a Hessian first: the energy and forces come with it
    atoms.positions[0, 0] += 0.01
    calculator.get_hessian(atoms)
    atoms.get_forces()
    atoms.get_potential_energy()
    assert (counting.calls, len(lists)) == (4, 2)
    # what the model does not read is no change
    atoms.set_tags(1)
    atoms.set_initial_charges([1, 0, 0, 0])
    atoms.set_initial_magnetic_moments([0, 1, 0, 0])
    atoms.info["comment"] = "the same"
    atoms.get_forces()
    assert counting.calls == 4
    atoms.numbers[0] = 7
    assert "numbers" in calculator.check_state(atoms)
    atoms.get_potential_energy()
    assert counting.calls == 5
    calculator.reset()
    atoms.get_potential_energy()
    assert counting.calls == 6


@pytest.mark.parametrize(
    ("key", "value", "factor"), [("charge", 1, 2.1 / 1.1), ("multiplicity", 3, 1.3 / 1.1), ("spin", 2, 1.2 / 1.1)]
)
def test_charge_and_spin_are_a_change(model, key, value, factor):
    counting = Charged(model)
    atoms = formaldehyde()
    atoms.calc = calculator = PHLCalculator(counting, device="cpu")
    before, hessian = atoms.get_potential_energy(), calculator.get_hessian(atoms)
    hvp = calculator.get_hvp(np.ones((4, 3)), atoms)
    calls = counting.calls
    atoms.info[key] = value
    assert calculator.check_state(atoms) == ["multiplicity" if key == "spin" else key]
    assert atoms.get_potential_energy() == pytest.approx(factor * before, rel=1e-12)
    assert counting.calls == calls + 1
    np.testing.assert_allclose(calculator.get_hessian(atoms), factor * hessian, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(calculator.get_hvp(np.ones((4, 3)), atoms), factor * hvp, rtol=1e-9, atol=1e-9)
    del atoms.info[key]
    assert atoms.get_potential_energy() == before


def test_after_a_mistake_all_is_well(model):
    atoms = formaldehyde()
    atoms.calc = PHLCalculator(model, device="cpu")
    energy, sound = atoms.get_potential_energy(), atoms.positions.copy()
    for wrong in ({"charge": 0.5}, {"charge": 1}):
        atoms.info.update(wrong)
        with pytest.raises(PHLError, match="charge"):
            atoms.get_potential_energy()
        atoms.info.clear()
        assert atoms.get_potential_energy() == energy
    atoms.positions[0] = np.nan
    with pytest.raises(NonFiniteError):
        atoms.get_forces()
    with pytest.raises(NonFiniteError):
        atoms.get_forces()
    atoms.positions = sound
    assert atoms.get_potential_energy() == energy


def test_copies_and_files(model, tmp_path):
    atoms = crystal()
    atoms.calc = calculator = PHLCalculator([model, painn(1)], device="cpu")
    calculator.get_hessian(atoms)
    calculator.get_hvp(np.ones((2, 3)), atoms)
    for other in (copy.deepcopy(atoms), pickle.loads(pickle.dumps(atoms))):
        other.positions[0, 0] += 1e-3
        assert other.calc is not calculator
        assert np.isfinite(other.calc.get_hvp(np.ones((2, 3)), other)).all()
        assert other.get_potential_energy() != atoms.get_potential_energy()
    for name in ("a.traj", "a.extxyz", "a.json"):
        write(tmp_path / name, atoms)
        stored = read(tmp_path / name)
        assert stored.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(stored.get_forces(), atoms.get_forces(), atol=1e-6)
        np.testing.assert_allclose(stored.get_stress(), atoms.get_stress(), atol=1e-6)
    assert set(atoms.get_properties(["energy", "stress"])) >= {"energy", "stress", "forces"}
    assert calculator.todict() == {"model": ["PaiNN", "PaiNN"], "device": "cpu", "dtype": "float64"}


def test_the_users_model_is_left_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    PHLCalculator(model, device="cpu", dtype="float32").get_hessian(formaldehyde())
    assert all(p.requires_grad and p.dtype == torch.float64 for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# ------------------------------------------------------------------------------------------ many structures, committees


def test_batch_is_the_sum_of_its_parts(device, model):
    structures = [
        formaldehyde(),
        crystal(),
        molecule("CH4"),
        Atoms("H"),
        molecule("HCOOH"),
        crystal().repeat((2, 1, 1)),
    ]
    calculator = PHLCalculator(model, device=device)
    found = calculator.evaluate(structures, ("energy", "forces", "hessian"))
    assert [set(one) for one in found] == [{"energy", "forces", "hessian"}] * len(structures)
    for atoms, one in zip(structures, found, strict=True):
        for name, value in one.items():
            single = calculator.get_property(name, atoms)
            assert np.shape(value) == np.shape(single)
            # relative to the largest element: blocks that are zero by symmetry hold rounding
            np.testing.assert_allclose(value, single, rtol=1e-12, atol=1e-12 * max(np.abs(single).max(), 1.0))
    (alone,) = calculator.evaluate([structures[1]], ["stress"])
    np.testing.assert_allclose(alone["stress"], calculator.get_property("stress", structures[1]), rtol=1e-12)
    assert calculator.evaluate([structures[0]], "energy") == [{"energy": found[0]["energy"]}]
    assert calculator.evaluate([]) == []
    assert set(CALCULATED) == {"energy", "forces", "stress", "hessian"}


def test_committee(model, rng):
    members = [painn(seed) for seed in range(3)]
    singles = [PHLCalculator(member, device="cpu") for member in members]
    atoms = crystal()
    for spelled in (members, tuple(members), Committee(members)):
        calculator = PHLCalculator(spelled, device="cpu")
        for name in ("energy", "free_energy", "forces", "stress", "hessian"):
            values = np.array([single.get_property(name, atoms) for single in singles])
            np.testing.assert_allclose(calculator.get_property(name, atoms), values.mean(0), rtol=1e-12, atol=1e-12)
            if name in ("energy", "forces"):
                np.testing.assert_allclose(
                    calculator.results[f"{name}_std"], values.std(0, ddof=1), rtol=1e-9, atol=1e-12
                )
    assert calculator.results["energy_std"] > 0.01
    assert calculator.get_property("forces_std", atoms).shape == (2, 3)
    vector = rng.standard_normal((2, 3))
    expected = np.mean([single.get_hvp(vector, atoms) for single in singles], axis=0)
    np.testing.assert_allclose(calculator.get_hvp(vector, atoms), expected, atol=1e-10)
    (found,) = calculator.evaluate([atoms], ("energy",))
    assert set(found) == {"energy", "energy_std"}
    single = PHLCalculator([model], device="cpu")
    atoms.calc = single
    atoms.get_forces()
    assert "energy_std" not in single.results
    with pytest.raises(PropertyNotImplementedError):
        single.get_property("forces_std", atoms)
    with pytest.raises(PHLError, match="species"):
        PHLCalculator([model, painn(species=(1, 8))], device="cpu")


def test_models_from_files(model, tmp_path):
    path = save_model(tmp_path / "model", model, {"level_of_theory": "none"})
    other = save_model(tmp_path / "other", painn(1), {"level_of_theory": "none"})
    atoms = formaldehyde()
    expected = PHLCalculator(model, device="cpu").get_property("energy", atoms)
    for spelled in (path, str(path)):
        calculator = PHLCalculator(spelled, device="cpu")
        assert calculator.get_property("energy", atoms) == pytest.approx(expected, rel=1e-12)
        assert calculator.parameters["model"] == str(path)
    committee = PHLCalculator([path, str(other), model], device="cpu")
    assert len(committee.potential.members) == 3
    stranger = save_model(tmp_path / "stranger", model, {"level_of_theory": "another"})
    with pytest.raises(PHLError, match="level_of_theory"):
        PHLCalculator([path, stranger], device="cpu")


# ------------------------------------------------------------------------------------------------------------ programs


def test_relaxation_and_cell():
    atoms = shaken(Atoms("Ar3", [[0, 0, 0], [4, 0, 0], [1, 3.5, 0]]))
    atoms.calc = PHLCalculator(argon(), device="cpu")
    assert BFGS(atoms, logfile=None).run(fmax=1e-4, steps=60)
    # three bonds of 1 eV; the envelope at 3.8/12 Å takes some hundredths of it
    assert atoms.get_potential_energy() == pytest.approx(-3.0, rel=0.05)
    solid = bulk("Ar", a=5.6)
    solid.calc = PHLCalculator(argon(), device="cpu")
    assert BFGS(FrechetCellFilter(solid), logfile=None).run(fmax=1e-4, steps=60)
    assert np.abs(solid.get_stress()).max() < 1e-5
    assert 5.0 < (4 * solid.get_volume()) ** (1 / 3) < 5.4


def test_dynamics_conserves_energy():
    """The error of velocity Verlet is of second order in the step: a quarter at half of it, where forces are exact."""

    def fluctuation(step, n):
        atoms = Atoms("Ar3", [[0, 0, 0], [3.85, 0, 0], [1.9, 3.35, 0]])
        atoms.calc = PHLCalculator(argon(), device="cpu")
        atoms.set_momenta(0.8 * np.random.default_rng(1).standard_normal((3, 3)))
        dynamics = VelocityVerlet(atoms, timestep=step * units.fs, logfile=None)
        energies = [atoms.get_total_energy() for _ in dynamics.irun(n)]
        return np.ptp(energies)

    coarse, fine = fluctuation(4.0, 50), fluctuation(2.0, 100)
    assert coarse < 2e-3
    assert coarse / fine == pytest.approx(4.0, rel=0.2)


def test_saddle_by_sella_and_by_neb():
    """One saddle, found by a search with the exact Hessian and as the highest image of a climbing band."""
    calculator = PHLCalculator(argon(), device="cpu")
    guess = rhombus_guess()
    guess.calc = calculator
    search = find_transition_state(guess, calculator.get_hessian, fmax=1e-3, internal=False)
    assert search.converged, search.sentence
    assert search.hessian_calls >= 1
    b, h = 3.8, 3.8 * np.sqrt(0.5) / 2
    ends = []
    for sign in (1, -1):
        end = Atoms("Ar4", [[-b / 2, 0, 0], [b / 2, 0, 0], [0, b / 2, 2 * sign * h], [0, -b / 2, 2 * sign * h]])
        end.calc = calculator
        assert BFGS(end, logfile=None).run(fmax=1e-3, steps=50)
        ends.append(end)
    images = [ends[0], *(ends[0].copy() for _ in range(3)), ends[1]]
    for image in images[1:-1]:
        image.calc = calculator
    band = NEB(images, climb=True, allow_shared_calculator=True, k=0.1, method="improvedtangent")
    band.interpolate()
    for image, stretch in zip(images[1:-1], (1.3, 1.7, 1.3), strict=True):  # off the square, a saddle of higher order
        image.positions[2:, 1] *= stretch
    assert FIRE(band, logfile=None).run(fmax=0.02, steps=100)
    assert max(image.get_potential_energy() for image in images) == pytest.approx(search.energy, abs=1e-3)


def test_sella_takes_the_hessian_as_it_is():
    from sella import Sella

    counting = Counting(argon())
    atoms = rhombus_guess()
    atoms.calc = PHLCalculator(counting, device="cpu")
    before = np.linalg.norm(atoms.get_forces(), axis=1).max()
    with Sella(atoms, order=1, hessian_function=atoms.calc.get_hessian, logfile=None, diag_every_n=0) as optimiser:
        optimiser.run(fmax=1e-3, steps=5)
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < before


def test_phonons():
    """A supercell Hessian against phonopy's own displacements: 0.002 Å, both signs, so that the error is δ²."""
    phonopy = pytest.importorskip("phonopy")
    from phonopy.structure.atoms import PhonopyAtoms

    calculator = PHLCalculator(argon(), device="cpu")
    unit = bulk("Ar", a=5.25)
    cell = PhonopyAtoms(symbols=["Ar"], cell=unit.cell[:], scaled_positions=[[0, 0, 0]])

    def phonons():
        return phonopy.Phonopy(cell, supercell_matrix=np.eye(3) * 2, primitive_matrix=np.eye(3), log_level=0)

    def atoms_of(structure):
        return Atoms(structure.symbols, positions=structure.positions, cell=structure.cell, pbc=True)

    exact = phonons()
    supercell = atoms_of(exact.supercell)
    exact.force_constants = calculator.get_hessian(supercell, layout="nn33")
    displaced = phonons()
    displaced.generate_displacements(distance=0.002, is_plusminus=True)
    displaced.forces = [calculator.get_property("forces", atoms_of(s)) for s in displaced.supercells_with_displacements]
    displaced.produce_force_constants()
    points = np.array([[0, 0, 0], [0.5, 0, 0.5], [0.5, 0.5, 0.5], [0.25, 0.1, 0.3], [0.05, 0.0, 0.0]])
    found = []
    for phonon in (exact, displaced):
        phonon.run_qpoints(points)
        found.append(phonon.qpoints.frequencies)
    assert np.abs(found[0]).max() > 1.0
    np.testing.assert_allclose(found[0][1:], found[1][1:], atol=1e-3)
    # the acoustic modes at Γ are zero: the square root of the rounding of a Hessian
    np.testing.assert_allclose(found[0][0], 0, atol=1e-3)


# ------------------------------------------------------------------------------------------------------------- mistakes


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "nothing-of-that-name"}, "unknown model"),
        ({"model": "nowhere/model.safetensors"}, "does not exist"),
        ({"model": []}, "no models"),
        ({"model": 3}, "expected a bundled name"),
        ({"dtype": "float16"}, "valid: float32, float64"),
        ({"device": "abacus"}, "expected auto, cpu, cuda"),
        ({"device": "meta"}, "expected auto, cpu, cuda"),
        ({"device": "cuda:99"}, "cuda"),
    ],
)
def test_wrong_calculator(model, arguments, message):
    with pytest.raises(PHLError, match=message) as error:
        PHLCalculator(**{"model": model, "device": "cpu", **arguments})
    one_line(error)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_no_gpu(model):
    with pytest.raises(PHLError, match="no CUDA device; use device='cpu' or 'auto'"):
        PHLCalculator(model, device="cuda")
    assert PHLCalculator(model, device="auto").device.type == "cpu"


def without_a_position(atoms):
    atoms.positions[2, 1] = np.nan


def twice_the_same(atoms):
    atoms.positions[1] = atoms.positions[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.symbols.__setitem__(0, "Fe"), "Fe, which the model never saw; it knows H, C, N, O"),
        (lambda a: a.info.update(charge=1), r"charge \+1"),
        (lambda a: a.info.update(charge="positive"), "whole number"),
        (lambda a: a.info.update(multiplicity=0), "multiplicity"),
        (without_a_position, "position of atom 2"),
        (twice_the_same, "apart"),
        (lambda a: a.__delitem__(slice(None)), "no atoms"),
        (lambda a: a.set_pbc(True), "lattice vector"),
    ],
)
def test_wrong_structure(model, change, message):
    atoms = formaldehyde()
    change(atoms)
    atoms.calc = calculator = PHLCalculator(model, device="cpu")
    for ask in (
        atoms.get_potential_energy,
        lambda: calculator.get_hessian(atoms),
        lambda: calculator.get_hvp(np.zeros((len(atoms), 3)), atoms),
        lambda: calculator.hessian_operator(atoms),
        lambda: calculator.evaluate([formaldehyde(), atoms]),
    ):
        with pytest.raises(PHLError, match=message) as error:
            ask()
        one_line(error)


def test_a_batch_names_the_structure(model):
    calculator = PHLCalculator(model, device="cpu")
    bad = formaldehyde()
    bad.symbols[0] = "Fe"
    with pytest.raises(PHLError, match=r"structure 1 \(.*Fe.*\)"):
        calculator.evaluate([formaldehyde(), bad])
    double = formaldehyde()
    twice_the_same(double)
    with pytest.raises(PHLError, match=r"structure 1 \(CH2O\): atoms"):
        calculator.evaluate([formaldehyde(), double])


def test_a_multiplicity_that_is_not_told_apart(model):
    atoms = molecule("CH3")
    atoms.info["multiplicity"] = 2
    atoms.calc = PHLCalculator(model, device="cpu")
    with pytest.warns(UserWarning, match="does not tell spins apart"):
        atoms.get_potential_energy()
    atoms.rattle(0.01)
    atoms.get_potential_energy()  # said once


@pytest.mark.parametrize("shape", [(12,), (4, 4), (3, 3), (2, 5, 3), (1, 1, 4, 3)])
def test_wrong_vectors(model, shape):
    calculator = PHLCalculator(model, device="cpu")
    with pytest.raises(PHLError, match=r"expected \(4, 3\) or \(K, 4, 3\)") as error:
        calculator.get_hvp(np.zeros(shape), formaldehyde())
    one_line(error)


def test_other_mistakes(model):
    calculator = PHLCalculator(model, device="cpu")
    atoms = formaldehyde()
    for ask in (calculator.get_hessian, calculator.hessian_operator, calculator.calculate):
        with pytest.raises(PHLError, match="no atoms"):
            ask()
    for arguments, message in (
        ({"layout": "33nn"}, "valid: 3n3n, n3n3, nn33"),
        ({"indices": [4]}, "below 4"),
        ({"indices": [1, 0]}, "ascending"),
        ({"indices": [0, 0]}, "ascending"),
        ({"indices": np.array([], dtype=int)}, "at least one"),
        ({"indices": np.array([0.5])}, "whole numbers"),
        ({"indices": "all"}, "'free'"),
    ):
        with pytest.raises(PHLError, match=message):
            calculator.get_hessian(atoms, **arguments)
    with pytest.raises(PHLError, match="unknown quantity 'dipole'; valid: energy"):
        calculator.evaluate([atoms], ("energy", "dipole"))
    with pytest.raises(PHLError, match="expected a list"):
        calculator.evaluate(atoms)
    with pytest.raises(PropertyNotImplementedError):
        calculator.evaluate([crystal(), atoms], ("stress",))
    with pytest.raises(PropertyNotImplementedError):
        calculator.get_property("energies", atoms)
    with pytest.raises(NonFiniteError, match="vectors"):
        calculator.get_hvp(np.full((4, 3), np.inf), atoms)
    with pytest.raises(PHLError, match="no array"):
        calculator.get_hvp("xyz", atoms)


class Broken(Counting):
    """Infinite where asked for curvature, NaN in the energy."""

    def __call__(self, batch):
        energy = super().__call__(batch)
        return energy + batch.positions.new_tensor(float("nan"))


def test_non_finite_results(model):
    atoms = formaldehyde()
    calculator = PHLCalculator(Broken(model), device="cpu")
    with pytest.raises(NonFiniteError, match="CH2O: the model gave energy") as error:
        calculator.get_property("energy", atoms)
    one_line(error)
    with pytest.raises(NonFiniteError, match="structure 0"):
        calculator.evaluate([atoms])


# ------------------------------------------------------------------------------------------- extreme cells, free memory

FLAT = [[3, 0, 0], [3, 1e-5, 0], [0, 0, 3]]


def test_a_structure_that_has_no_neighbour_list_is_named():
    calc = PHLCalculator("default", out_of_domain="ignore")
    flat = Atoms("CO", [[0, 0, 0], [0, 0, 1.2]], cell=FLAT, pbc=True)
    for call in (calc.get_potential_energy, calc.get_hessian, calc.get_lowest_modes):
        with pytest.raises(PHLError, match=r"^CO: an atom and its own image are 1e-05 Å apart"):
            call(flat)
    with pytest.raises(PHLError, match=r"^structure 1 \(CO\): an atom and its own image"):
        calc.evaluate([molecule("H2O"), flat])
    with pytest.raises(NonFiniteError, match=r"^CO: atom 1 is at .*did an optimiser or a dynamics step explode"):
        calc.get_forces(Atoms("CO", [[0, 0, 0], [0, 0, 2e7]]))


def test_free_memory_is_not_looked_up_at_every_call(monkeypatch):
    """Reading /proc/meminfo takes as long as the forces of a small molecule."""
    from phl_ase.derivatives import memory

    calc, atoms = PHLCalculator("default", out_of_domain="ignore"), molecule("H2O")
    monkeypatch.setattr(memory, "available_memory", lambda: pytest.fail("free memory was looked up"))
    calc.get_forces(atoms)
    calc.get_hvp(np.eye(9)[:3].reshape(3, 3, 3), atoms)
    calc.get_lowest_modes(atoms, 1)
