"""Every public method of the calculator given a wrong type or shape: one clear line; and what threads and copies do."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError

from phl_ase.calculator import PHLCalculator
from phl_ase.curvature import finite_difference_hvp
from phl_ase.derivatives import evaluate
from phl_ase.errors import PHLError
from phl_ase.potentials import Committee, PaiNN, PaiNNConfig
from phl_ase.structures import collate, frame_from_atoms

NOTHING = object()


def painn(seed: int = 0) -> PaiNN:
    config = PaiNNConfig(species=(1, 6, 7, 8), channels=4, cutoff=4.0, n_basis=4)
    return PaiNN(config, torch.Generator().manual_seed(seed)).double().requires_grad_(False).eval()


@pytest.fixture(scope="module")
def calculator() -> PHLCalculator:
    return PHLCalculator(painn(), device="cpu")


def water(seed: int = 0) -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=seed)
    return atoms


def charged(value) -> Atoms:
    atoms = water()
    atoms.info["charge"] = value
    return atoms


class Unreadable:
    """Neither a number nor a list."""

    def __repr__(self) -> str:
        return "x" * 10_000


STRUCTURES = (None, NOTHING, "H2O", 8, ["H", "O"], np.zeros((3, 3)), {"atoms": 1}, Unreadable(), Atoms, [water()])
CHARGES = (np.nan, np.inf, "much", 0.5, None, [1], 1 + 1j, Unreadable())
ASKING = {
    "get_property": lambda c, a: c.get_property("energy", a),
    "get_potential_energy": lambda c, a: c.get_potential_energy(a),
    "get_forces": lambda c, a: c.get_forces(a),
    "get_stress": lambda c, a: c.get_stress(a),
    "calculate": lambda c, a: c.calculate(a),
    "check_state": lambda c, a: c.check_state(a),
    "get_hessian": lambda c, a: c.get_hessian(a),
    "get_hvp": lambda c, a: c.get_hvp(np.ones((3, 3)), a),
    "hessian_operator": lambda c, a: c.hessian_operator(a),
    "get_sparse_hessian": lambda c, a: c.get_sparse_hessian(a),
    "get_lowest_modes": lambda c, a: c.get_lowest_modes(a),
    "evaluate": lambda c, a: c.evaluate([water(), a]),
}


VECTORS = {
    "complex": (np.ones((3, 3)) * (1 + 2j), "complex"),
    "complex without imaginary part": (np.ones((2, 3, 3), dtype=complex), "complex"),
    "nothing": (None, "shape"),
    "text": ("xyz", "no array of real numbers"),
    "digits": ([["1", "2", "3"]] * 3, "no array of real numbers"),
    "ragged": ([[1.0, 2.0], [3.0]], "no array of real numbers"),
    "object": (Unreadable(), "no array of real numbers"),
    "mapping": ({"a": 1}, "no array of real numbers"),
    "tensor with a graph": (torch.ones(3, 3, requires_grad=True), "no array of real numbers"),
    "number": (1.0, "shape"),
    "flat": (np.ones(9), "shape"),
    "matrix": (np.ones((9, 9)), "shape"),
    "too deep": (np.ones((1, 1, 3, 3)), "shape"),
    "NaN": (np.full((3, 3), np.nan), "NaN"),
}
HESSIANS = (
    *({"layout": layout} for layout in (None, ["3n3n"], 3, "33nn")),
    *({"indices": chosen} for chosen in ("all", [[0], [1, 2]], [None], [0.0, 1.0], [True, False, True])),
    *({"indices": chosen} for chosen in (np.eye(3, dtype=int), Unreadable(), [7], [1, 0], {"a": 1}, 10**30)),
)
MODES = (
    *({"k": k} for k in ("2", 2.0, None, np.nan, [2], True, 0, -1, 10**9)),
    *({"tolerance": tolerance} for tolerance in ("small", -1.0, 0, np.nan, [1e-3])),
    *({"max_hvps": most} for most in ("many", -1, 1.5, [3])),
)
LISTS = (None, 3, water(), "H2O", [None], [water(), "H2O"], [[water()]], Unreadable(), {1: water()})
QUANTITIES = (None, 5, "energi", ["energy", None], [["energy"]], ("energy", "hvp"), Unreadable())
CALCULATORS = (
    *({"model": model} for model in (None, 3, "", "no-such", [], [None], {"a": 1}, np.zeros(3), [["no-such"]], True)),
    *({"device": device} for device in (None, 3, "gpu", ["cpu"], "cuda:x")),
    *({"dtype": dtype} for dtype in (None, torch.float64, "half", ["float64"], 64)),
    *({"memory_budget": size} for size in ("big", 0, -1, np.nan, np.inf, [1], True)),
    *({"out_of_domain": action} for action in (None, "shout", ["warn"], 3)),
)


def mistakes() -> Iterator[tuple[str, Callable[[PHLCalculator], Any], str]]:
    """Every wrong call: what it is, the call, what its error says."""
    for method, ask in ASKING.items():
        for given in STRUCTURES:
            yield f"{method} of {given!r:.30}", lambda c, ask=ask, given=given: ask(c, given), ""
        for charge in CHARGES:
            wrong = charged(charge)
            yield f"{method}, charge {charge!r:.30}", lambda c, ask=ask, wrong=wrong: ask(c, wrong), "charge"
    for name, (vectors, match) in VECTORS.items():
        yield f"vectors: {name}", lambda c, v=vectors: c.get_hvp(v, water()), match
        yield f"vectors of differences: {name}", lambda c, v=vectors: finite_difference_hvp(v, held_by(c)), match
    for settings in HESSIANS:
        yield f"get_hessian {settings!r:.50}", lambda c, s=settings: c.get_hessian(water(), **s), ""
    for settings in MODES:
        yield f"get_lowest_modes {settings!r:.50}", lambda c, s=settings: c.get_lowest_modes(water(), **s), ""
    for given in LISTS:
        yield f"evaluate {given!r:.30}", lambda c, given=given: c.evaluate(given), ""
    for given in QUANTITIES:
        yield f"evaluate of quantities {given!r:.30}", lambda c, given=given: c.evaluate([water()], given), ""
    for settings in CALCULATORS:
        arguments = {"model": painn(), "device": "cpu", **settings}
        yield f"PHLCalculator of {settings!r:.50}", lambda c, arguments=arguments: PHLCalculator(**arguments), ""
    for name in ("dipole", None, 3, ["energy"]):
        yield f"property {name}", lambda c, name=name: c.get_property(name, water()), "property"
        yield f"calculate {name}", lambda c, name=name: c.calculate(water(), [name]), "property"
    yield "calculate nothing", lambda c: c.calculate(water(), None), "expected a list"


@pytest.mark.no_typecheck
def test_every_mistake_is_said_in_one_clear_line():
    """In one process without the checks of annotations, which would refuse most of these first."""
    model, wrong = painn(), []
    for name, call, match in mistakes():
        fresh = PHLCalculator(model, device="cpu")  # remembers no structure
        expected = PropertyNotImplementedError if match == "property" else PHLError
        try:
            call(fresh)
            wrong.append(f"{name}: accepted")
        except expected as error:
            said = str(error)
            if "\n" in said or len(said) > 400 or (match not in said and match != "property"):
                wrong.append(f"{name}: said {said[:200]}")
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__} {error!s:.200}")
    assert not wrong, "\n".join(wrong)


def held_by(calculator: PHLCalculator) -> Atoms:
    atoms = water()
    atoms.calc = calculator
    return atoms


def test_the_operator_takes_complex_vectors(calculator):
    """ARPACK and Krylov solvers of complex systems hand them over."""
    operator, hessian = calculator.hessian_operator(water()), calculator.get_hessian(water())
    vector = np.random.default_rng(0).normal(size=(9, 2)) @ np.array([1.0, 1j])
    np.testing.assert_allclose(operator @ vector, hessian @ vector, atol=1e-10)
    np.testing.assert_allclose(operator @ np.outer(vector, [1, 2]), hessian @ np.outer(vector, [1, 2]), atol=1e-10)


def test_structures_may_come_from_a_generator(calculator):
    listed = calculator.evaluate([water(0), water(1)])
    generated = calculator.evaluate((water(seed) for seed in range(2)), "energy")
    assert [one["energy"] for one in generated] == [one["energy"] for one in listed]
    assert calculator.evaluate(iter([])) == []


def test_a_property_may_be_asked_for_by_its_name_alone(calculator):
    calculator.calculate(water(), "forces")
    assert calculator.results["forces"].shape == (3, 3)


def test_settings_that_would_have_no_effect_are_refused(calculator):
    with pytest.raises(PHLError, match="device of a PHLCalculator cannot be changed"):
        calculator.set(device="cuda")
    assert calculator.set() == {}


def test_its_text_is_short():
    assert repr(PHLCalculator("default", device="cpu")) == "PHLCalculator('default', device='cpu', dtype='float64')"
    made = PHLCalculator([painn(k) for k in range(5)], device="cpu", dtype="float32")
    assert repr(made) == "PHLCalculator(a committee of 5, device='cpu', dtype='float32')"
    assert repr(PHLCalculator([painn(), painn(1)], device="cpu")).startswith("PHLCalculator(['PaiNN', 'PaiNN']")


# -------------------------------------------------------------------------------------------------------------- memory


def test_hvps_keep_to_the_memory_budget():
    potential = painn()
    batch, _ = collate([frame_from_atoms(water())], potential.cutoffs)
    probes = torch.ones(4, 3, 3, dtype=torch.float64)
    with pytest.raises(PHLError, match="one Hessian-vector product needs about"):
        evaluate(potential, batch, ("hvp",), probes=probes, memory_budget=1)
    enough = evaluate(potential, batch, ("hvp",), probes=probes, memory_budget=10**8)
    assert torch.allclose(enough.hvp, evaluate(potential, batch, ("hvp",), probes=probes).hvp)


# -------------------------------------------------------------------------------------------------------------- threads


def test_threads_share_a_calculator():
    calculator, alone = (
        PHLCalculator([painn(), painn(1)], device="cpu"),
        PHLCalculator([painn(), painn(1)], device="cpu"),
    )
    structures = [molecule(name) for name in ("H2O", "CH4", "NH3", "HCN", "CO2", "C2H2")]
    vectors = [np.random.default_rng(k).normal(size=(len(atoms), 3)) for k, atoms in enumerate(structures)]
    asked = {
        "energy": lambda c, a, v: c.get_potential_energy(a),
        "forces": lambda c, a, v: c.get_forces(a),
        "hvp": lambda c, a, v: c.get_hvp(v, a),
        "hessian": lambda c, a, v: c.get_hessian(a, indices=[0]),
        "operator": lambda c, a, v: c.hessian_operator(a) @ v.ravel(),
        "evaluate": lambda c, a, v: c.evaluate([a], ("energy",))[0]["energy"],
    }
    work = [(name, k) for _ in range(4) for k in range(len(structures)) for name in asked]
    np.random.default_rng(0).shuffle(work)
    expected = {(name, k): asked[name](alone, structures[int(k)], vectors[int(k)]) for name, k in map(tuple, work)}

    def one(item):
        name, k = item
        return asked[name](calculator, structures[int(k)].copy(), vectors[int(k)])

    with ThreadPoolExecutor(8) as pool:
        for item, found in zip(work, pool.map(one, work), strict=True):
            np.testing.assert_allclose(found, expected[tuple(item)], rtol=1e-9, atol=1e-9, err_msg=str(item))


def test_one_thread_waits_for_another(monkeypatch):
    """The results of a structure are read before another thread's are written."""
    calculator, inside, most = PHLCalculator(painn(), device="cpu"), [0], [0]
    own = calculator.potential.forward

    def forward(batch):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        inside[0] -= 1
        return own(batch)

    monkeypatch.setattr(calculator.potential, "forward", forward)
    threads = [threading.Thread(target=calculator.get_forces, args=(water(seed),)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1


# --------------------------------------------------------------------------------------------------------------- copies


def pickled(calculator: PHLCalculator) -> PHLCalculator:
    stream = BytesIO()
    pickle.dump(calculator, stream)
    stream.seek(0)
    return pickle.load(stream)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, copy.copy])
def test_copies_evaluate_members_side_by_side_as_well(copied):
    """That is what made them half as fast."""
    calculator = PHLCalculator([painn(), painn(1), painn(2)], device="cpu")
    forces = calculator.get_forces(water())
    again = copied(calculator)
    assert isinstance(again.potential, Committee)
    assert type(again.potential.together) is type(calculator.potential.together) is not type(None)
    assert np.array_equal(again.get_forces(water()), forces)
    assert np.array_equal(again.get_forces(water(3)), calculator.get_forces(water(3)))
    assert again._lock is not calculator._lock


def test_copies_made_in_inference_mode_have_derivatives_outside():
    calculator = PHLCalculator(painn(), device="cpu")
    expected = calculator.get_hessian(water())
    with torch.inference_mode():
        copies = [copy.deepcopy(calculator), pickled(calculator)]
    for again in copies:
        again.reset()
        np.testing.assert_allclose(again.get_hessian(water()), expected, atol=1e-10)
