"""Neighbour lists of whole batches, and our potentials inside torch-sim: the numbers of ``PHLCalculator``.

What needs torch-sim runs where it is installed: ``pytest -m torch_sim``.
"""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
import warnings

import foreign_models
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress

from phl_ase import PHLCalculator, PHLError
from phl_ase.errors import NonFiniteError
from phl_ase.interop.neighbours import batched_neighbours
from phl_ase.potentials import LennardJones, PaiNN, PaiNNConfig
from phl_ase.structures.neighbours import neighbour_list

# ------------------------------------------------------------------------------------------------- lists of all systems

PERIODIC = [(False, False, False), (True, True, True), (True, True, False), (False, False, True), (True, False, True)]


def random_systems(rng, sizes=(1, 2, 5, 30, 70)):
    """Systems of different size in skewed cells, narrow and wide, atoms outside of them as well."""
    for n in sizes:
        cell = np.diag(rng.uniform(2.0, 12.0, 3)) + 0.5 * rng.normal(size=(3, 3))
        yield rng.uniform(-2.0, 3.0, size=(n, 3)) @ cell, cell


def packed(systems):
    """Positions, system of each atom, cells."""
    sizes = torch.tensor([len(positions) for positions, _ in systems])
    positions = torch.tensor(np.concatenate([positions for positions, _ in systems]))
    return positions, torch.repeat_interleave(sizes), torch.tensor(np.stack([cell for _, cell in systems]))


def one_by_one(systems, pbc, cutoff):
    """(i, j, shift) of all pairs from the list of each system alone."""
    found, first = set(), 0
    for positions, cell in systems:
        cell = np.where(np.array(pbc)[:, None], cell, 0.0)
        i, j, shifts = neighbour_list(positions, cell, np.array(pbc), cutoff)
        found |= set(map(tuple, np.column_stack([i + first, j + first, shifts]).tolist()))
        first += len(positions)
    return found


@pytest.mark.parametrize("pbc", PERIODIC)
@pytest.mark.parametrize("cutoff", [1.0, 4.0, 6.5])
def test_all_lists_at_once_are_those_of_each_system(pbc, cutoff, rng, device):
    systems = list(random_systems(rng))
    positions, system, cell = (tensor.to(device) for tensor in packed(systems))
    pairs = batched_neighbours(positions, system, cell, torch.tensor(pbc, device=device), cutoff)
    shifts = torch.zeros(len(pairs.i), 3) if pairs.shifts is None else pairs.shifts.cpu()
    columns = [pairs.i.cpu().numpy(), pairs.j.cpu().numpy(), shifts.numpy().astype(int)]
    listed = list(map(tuple, np.column_stack(columns).tolist()))
    expected = one_by_one(systems, pbc, cutoff)
    assert len(listed) == len(expected)
    assert set(listed) == expected
    assert bool((pairs.i.diff() >= 0).all())
    assert (pairs.shifts is None) == (not any(pbc))


def test_molecules_without_a_cutoff_and_far_flown_ones(rng):
    systems = list(random_systems(rng, (3, 7)))
    systems[1][0][0] += 9e5  # no memory for empty space
    positions, system, cell = packed(systems)
    free = torch.zeros(3, dtype=torch.bool)
    everyone = batched_neighbours(positions, system, 0.0 * cell, free, float("inf"))
    assert len(everyone.i) == 3 * 2 + 7 * 6
    near = batched_neighbours(positions, system, cell, free, 3.0)
    assert set(zip(near.i.tolist(), near.j.tolist(), strict=True)) == {
        pair[:2] for pair in one_by_one(systems, (False,) * 3, 3.0)
    }


FLAT = torch.tensor([[3.0, 0, 0], [3, 1e-5, 0], [0, 0, 3]]).double().expand(2, 3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": [[0.0, 0, 0], [1, 0, 0], [1, 0, 0.001]]}, r"system 1: atoms 0 and 1 are 0\.001 Å apart"),
        ({"cell": torch.zeros(2, 3, 3, dtype=torch.float64)}, "system 0: pbc is .* span no volume; set the cell"),
        ({"cell": FLAT}, "system 0: pbc is .* have .* images within 3 Å of an atom"),
        ({"cell": 0.05 * torch.eye(3).double().expand(2, 3, 3)}, "system 0: pbc is .* more than any matter has"),
        ({"cutoff": float("inf")}, "sums over all pairs of a molecule; expected molecules"),
    ],
)
def test_what_has_no_list(change, message, float64):
    given = {"positions": [[0.0, 0, 0], [1, 0, 0], [2, 0, 0]], "cell": 5.0 * torch.eye(3).double().expand(2, 3, 3)}
    given |= {"system": torch.tensor([0, 1, 1]), "pbc": torch.ones(3, dtype=torch.bool), "cutoff": 3.0} | change
    given["positions"] = float64(given["positions"])
    with pytest.raises(PHLError, match=message):
        batched_neighbours(**given)


def test_a_missing_package_names_the_line_that_installs_it(monkeypatch):
    for name in [m for m in sys.modules if m.partition(".")[0] == "torch_sim" or m == "phl_ase.interop.torch_sim"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    with pytest.raises(PHLError, match=r"PHLTorchSimModel needs .* pip install 'phl-ase\[torch-sim\]'") as caught:
        importlib.import_module("phl_ase.interop.torch_sim")
    assert len(str(caught.value).splitlines()) == 1


# ------------------------------------------------------------------------------------------------------- with torch-sim


def with_torch_sim(test):
    """The marks of what needs torch-sim."""
    return pytest.mark.foreign(pytest.mark.torch_sim(test))


def simulation():
    """torch-sim, and the model class that needs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = pytest.importorskip("torch_sim")
        return engine, importlib.import_module("phl_ase.interop.torch_sim").PHLTorchSimModel


def of_reactions(periodic: bool) -> list[Atoms]:
    """Molecules that the bundled model knows, off their minima, of different size; or the same in narrow cells."""
    found = [molecule(name) for name in ("H2O", "HCN", "CH3OH", "N2", "NH3")]
    for k, atoms in enumerate(found):
        atoms.rattle(0.05, seed=k)
        if periodic:
            atoms.set_cell([[4.6, 0, 0], [0.3, 5.1, 0], [0, -0.4, 4.9]])
            atoms.pbc = True
    return found


def same(output, calculator, systems, tolerance=1e-10) -> None:
    """A model's numbers are the calculator's, forces relative to the largest where that is more than 1 eV/Å."""
    periodic = bool(systems[0].pbc.any())
    expected = calculator.evaluate(systems, ["energy", "forces", *["stress"] * periodic])
    output = {name: value.cpu() for name, value in output.items()}
    energy, forces = output["energy"], output["forces"].double().numpy()
    assert energy.dtype == torch.float64
    # energies are sums of the atoms' own, exact, and of the model's, some 10 eV
    assert np.abs(energy.numpy() - [one["energy"] for one in expected]).max() < 10 * tolerance
    reference = np.concatenate([one["forces"] for one in expected])
    assert np.abs(forces - reference).max() < tolerance * max(1.0, np.abs(reference).max())
    for k, one in enumerate(expected if periodic else []):
        stress = full_3x3_to_voigt_6_stress(output["stress"][k].double().numpy())
        assert np.abs(stress - one["stress"]).max() < tolerance
    assert periodic or not output["stress"].any()


@with_torch_sim
@pytest.mark.parametrize("periodic", [False, True], ids=["molecules", "cells"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-6)])
@pytest.mark.parametrize("given", ["default", ["default", "default"]], ids=["model", "committee"])
def test_the_numbers_are_those_of_the_calculator(given, dtype, tolerance, periodic, device):
    engine, model_class = simulation()
    model = model_class(given, device, dtype=getattr(torch, dtype))
    systems = of_reactions(periodic)
    state = engine.io.atoms_to_state(systems, model.device, model.dtype)
    before = state.positions.clone()
    output = model(state)
    same(output, PHLCalculator(given, "cpu", dtype=dtype, out_of_domain="ignore"), systems, tolerance)
    assert torch.equal(before, state.positions)
    assert output["forces"].dtype == output["stress"].dtype == model.dtype
    assert not any(value.requires_grad for value in output.values())


@with_torch_sim
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu")])
def test_the_numbers_do_not_depend_on_the_mode_of_torch(mode):
    engine, model_class = simulation()
    systems, outside = of_reactions(periodic=True), model_class("default", "cpu")
    calculator = PHLCalculator("default", "cpu", out_of_domain="ignore")
    with mode():
        inside = model_class("default", "cpu")
        state = engine.io.atoms_to_state(systems, inside.device, inside.dtype)
        found = [model(state) for model in (outside, inside)]
    for output in (*found, inside(state)):
        same(output, calculator, systems)


@with_torch_sim
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_validator_of_torch_sim_finds_nothing(dtype):
    _, model_class = simulation()
    validate = importlib.import_module("torch_sim.models.interface").validate_model_outputs
    torch.random.manual_seed(0)
    potential = PaiNN(PaiNNConfig((1, 6, 12, 14, 26), channels=8, layers=1))
    model = model_class(potential, "cpu", dtype=dtype, compute_stress=False, compute_forces=False)
    validate(model, model.device, dtype)
    assert model.compute_stress
    assert model.compute_forces


@with_torch_sim
@pytest.mark.filterwarnings("ignore")
def test_relaxations_end_in_the_minima_of_ase():
    engine, model_class = simulation()
    model, calculator = model_class("default", "cpu"), PHLCalculator()
    systems = of_reactions(periodic=False)
    optimisers = getattr(engine, "Optimizer", engine.optimizers)
    converged = engine.generate_force_convergence_fn(2e-4, include_cell_forces=False)
    final = engine.optimize(systems, model, optimizer=optimisers.fire, convergence_fn=converged, max_steps=3000)
    relaxed = final.to_atoms()
    same(model(final), calculator, relaxed)
    for atoms, found, energy in zip(systems, relaxed, final.energy.tolist(), strict=True):
        atoms.calc = found.calc = calculator
        BFGS(atoms, logfile=None).run(fmax=1e-4)
        # quadratic in what is left of the forces: (2e-4)²/2k with k of 0.02 eV/Å² for the softest mode
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        assert np.abs(found.get_all_distances() - atoms.get_all_distances()).max() < 1e-3


@with_torch_sim
@pytest.mark.filterwarnings("ignore")
def test_dynamics_is_that_of_ase():
    engine, model_class = simulation()
    model, calculator = model_class("default", "cpu"), PHLCalculator()
    systems = of_reactions(periodic=False)
    integrators = getattr(engine, "Integrator", engine.integrators)
    steps, femtoseconds = 20, 0.5
    final = engine.integrate(  # from rest: nothing is random; its unit of time is the picosecond
        systems, model, integrator=integrators.nve, n_steps=steps, temperature=0.0, timestep=1e-3 * femtoseconds
    )
    moved = final.to_atoms()
    same(model(final), calculator, moved)
    for atoms, found in zip(systems, moved, strict=True):
        start = atoms.positions.copy()
        atoms.calc = calculator
        VelocityVerlet(atoms, femtoseconds * units.fs).run(steps)
        # torch-sim and ASE differ in the last digits of their constants (1e-8), and how they remove drift
        assert np.abs(found.positions - atoms.positions).max() < 1e-6
        assert np.abs(atoms.positions - start).max() > 1e-3


@pytest.mark.parametrize("name", foreign_models.cases())
@pytest.mark.torch_sim
@pytest.mark.filterwarnings("ignore")
def test_potentials_of_other_packages(name, tmp_path):
    engine, model_class = simulation()
    vendor = foreign_models.VENDORS[name]
    pytest.importorskip(vendor.package)
    text = f"{name}:{vendor.make(tmp_path)}"
    model, calculator = model_class(text, "cpu"), PHLCalculator(text)
    molecules, cells = [], []
    for atoms in foreign_models.structures(vendor.periodic):
        (cells if atoms.pbc.any() else molecules).append(atoms)
    tolerance = 1e-6 if name == "aimnet" else 1e-10  # AIMNet2 keeps parts in float32
    for systems in filter(None, (molecules, cells)):
        same(model(engine.io.atoms_to_state(systems, model.device, model.dtype)), calculator, systems, tolerance)
    if not model.potential.takes_charge:
        return
    for atoms in molecules:  # a state of torch-sim keeps no charges: the model is told
        atoms.info["charge"] = -1
    state = engine.io.atoms_to_state(molecules, model.device, model.dtype)
    same(model_class(text, "cpu", charge=-1)(state), calculator, molecules, tolerance)
    assert not torch.allclose(model_class(text, "cpu", charge=-1)(state)["energy"], model(state)["energy"])


@with_torch_sim
def test_a_model_is_copied_pickled_and_given_mappings():
    engine, model_class = simulation()
    model = model_class(LennardJones(cutoff=5.0, epsilon=0.01, sigma=3.0), "cpu")
    atoms = bulk("Ar", "fcc", a=5.2, cubic=True)
    state = engine.io.atoms_to_state([atoms, atoms], model.device, model.dtype)
    expected = model(state)
    fields = {name: getattr(state, name) for name in ("positions", "cell", "pbc", "atomic_numbers", "system_idx")}
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        found = other(fields)
        assert all(torch.equal(found[name], expected[name]) for name in ("energy", "forces", "stress"))
    model.compute_forces = model.compute_stress = False
    assert set(model(state)) == {"energy"}


@with_torch_sim
def test_mistakes():
    engine, model_class = simulation()
    model = model_class("default", "cpu")
    with pytest.raises(PHLError, match=r"system 1 has F, which the model never saw; it knows H, C, N, O"):
        model(engine.io.atoms_to_state([molecule("H2O"), molecule("HF")], model.device, model.dtype))
    state = engine.io.atoms_to_state([molecule("H2O"), molecule("CO")], model.device, model.dtype)
    state.positions[4] = float("nan")
    with pytest.raises(NonFiniteError, match="system 1: positions with NaN or infinity"):
        model(state)
    with pytest.raises(PHLError, match=r"charge is \+1, but the model does not take charge"):
        model_class("default", "cpu", charge=1)
    with pytest.raises(PHLError, match=r"unknown dtype torch\.float16"):
        model_class("default", "cpu", dtype=torch.float16)
    with pytest.raises(PHLError, match="unknown model 'nothing'"):
        model_class("nothing", "cpu")
