"""What runs on the CPU runs on another device, to the same numbers, and does not wait for it at every turn."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from conftest import CUDA

from phl_ase import PHLCalculator
from phl_ase.conformance import check_potential
from phl_ase.derivatives import default_budget
from phl_ase.potentials import LennardJones, PaiNN, PaiNNConfig, Sum
from phl_ase.reference import Probes, label_frame
from phl_ase.training import RunData, TrainConfig, parse_config, prepare_data, train, trainer

SCHEMES = (
    {"name": "E-F"},
    {"name": "E-F-HVP-onehot", "regime": "fixed"},
    {"name": "E-F-HVP-random", "n_probes": 2},
    {"name": "E-F-HVP-random", "hvp": "differences"},
    {"name": "E-F-H"},
)


def configuration(device: torch.device | str, **sections) -> TrainConfig:
    training = {"epochs": 2, "batch_size": 48, "validate_every": 1, "warmup_epochs": 1, "dtype": "float64"}
    return parse_config(
        {
            "data": {"max_atoms": 4},
            "potential": {"channels": 8, "n_basis": 4, "cutoff": 3.0},
            **sections,
            "training": {**training, "device": str(device), **sections.get("training", {})},
        }
    )


@pytest.fixture(scope="module")
def data() -> RunData:
    return prepare_data(configuration("cpu"))


@pytest.mark.parametrize("mixed", [lambda a, b: a * b, lambda a, b: a @ b.T, lambda a, b: torch.cat([a, b])])
def test_tensors_of_two_devices_do_not_mix(another_device, mixed):
    here, there = torch.ones(2, 3), torch.ones(2, 3, device=another_device)
    with pytest.raises(RuntimeError, match="are on the CPU"):
        mixed(there, here)
    assert torch.equal(mixed(there, here.to(another_device)).cpu(), mixed(here, here))


def test_transfers_are_counted(another_device):
    from another_device import counting_transfers

    with counting_transfers() as transfers:
        values = torch.arange(4.0, device=another_device).square()
        assert not transfers
        assert float(values.sum()) == 14.0
        assert values.tolist() == [0.0, 1.0, 4.0, 9.0]
    assert len(transfers) == 2


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: "-".join(map(str, scheme.values())))
def test_training(tmp_path, data, device, scheme):
    here, there = (
        train(configuration(place, scheme=scheme), data, tmp_path / name).records[-1]
        for name, place in (("here", "cpu"), ("there", device))
    )
    assert list(here) == list(there)
    assert all(there[name] == pytest.approx(here[name], rel=1e-8) for name in here if name != "seconds")


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: "-".join(map(str, scheme.values())))
def test_a_step_hardly_waits_for_the_device(tmp_path, data, another_device, scheme, monkeypatch):
    from another_device import counting_transfers

    counts = []
    step = trainer._Trainer._step

    def counted(run, *arguments):
        with counting_transfers() as transfers:
            done = step(run, *arguments)
        counts.append(len(transfers))
        return done

    monkeypatch.setattr(trainer._Trainer, "_step", counted)
    train(configuration(another_device, scheme=scheme, training={"epochs": 1}), data, tmp_path / "run")
    # two for the counts of labels, one or two for blocks, one each for the loss, the norm of its gradient, the average;
    # one more for each further chunk of rows or probe
    assert counts
    assert max(counts) <= 7


@pytest.mark.no_typecheck
@pytest.mark.parametrize("device", [pytest.param("another", marks=pytest.mark.slow), CUDA], indirect=True)
def test_compiled_training(tmp_path, data, device):
    """Where the device has no compiler, a warning says that it goes on without."""
    warns = pytest.warns(RuntimeWarning, match="without compiling") if device.type == "another" else nullcontext()
    one = {"scheme": {"name": "E-F-HVP-random"}, "potential": {"layers": 1, "channels": 8, "n_basis": 4, "cutoff": 3.0}}
    with warns:
        compiled = train(
            configuration(device, **one, training={"epochs": 1, "compile": True}), data, tmp_path / "compiled"
        )
    eager = train(configuration("cpu", **one, training={"epochs": 1}), data, tmp_path / "eager")
    for name in ("train_energy", "train_forces", "train_curvature"):
        assert compiled.records[-1][name] == pytest.approx(eager.records[-1][name], rel=1e-8)


def test_hessians_of_the_bundled_committee(device):
    # on a GPU its members are evaluated as one, in chunks of as many rows as memory takes
    structures = [molecule(name) for name in ("CH3CH2OH", "CH4", "H2O", "N2")]
    here, there = (
        PHLCalculator("default", device=str(place), out_of_domain="ignore").evaluate(structures, ["energy", "hessian"])
        for place in ("cpu", device)
    )
    for expected, got in zip(here, there, strict=True):
        assert got["energy"] == pytest.approx(expected["energy"], abs=1e-9)
        np.testing.assert_allclose(got["hessian"], expected["hessian"], rtol=0, atol=1e-9)


def test_memory_that_torch_keeps_is_free(monkeypatch):
    said = {"mem_get_info": (6 * 2**30, 80 * 2**30), "memory_reserved": 5 * 2**30, "memory_allocated": 3 * 2**30}
    for name, value in said.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert default_budget(torch.device("cuda")) == 4 * 2**30


def test_one_row_may_take_three_quarters_of_a_processors_memory(monkeypatch):
    monkeypatch.setattr("phl_ase.derivatives.memory.available_memory", lambda: 8 * 2**30)
    assert default_budget(torch.device("cpu")) == 6 * 2**30


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_is_free_again():
    device = torch.device("cuda")
    before = default_budget(device)
    kept = torch.empty(2**28, device=device)
    assert default_budget(device) <= before - 2**29
    del kept
    assert default_budget(device) == pytest.approx(before, rel=0.01)


# ----------------------------------------------------------------------------------------------- torch's default device


@pytest.fixture
def elsewhere():
    """Tensors that are made without a device have no numbers."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def two_balls() -> Atoms:
    return molecule("C60") + Atoms("C60", molecule("C60").positions + 9.0)


CALCULATORS = {
    "bundled committee": (lambda: "default", molecule("H2O")),
    "network": (lambda: PaiNN(PaiNNConfig((1, 8), channels=8, core="zbl")).double(), molecule("H2O")),
    "crystal": (lambda: LennardJones(epsilon=0.1, sigma=2.2, cutoff=5.0), bulk("Cu") * (2, 1, 1)),
    "sum": (
        lambda: Sum([PaiNN(PaiNNConfig((1, 8), channels=8)), LennardJones(epsilon=0.1, sigma=1.0, cutoff=5.0)]),
        molecule("H2O"),
    ),
    "large molecule": (lambda: LennardJones(epsilon=0.1, sigma=2.2, cutoff=5.0), two_balls()),
}


def numbers_of(model, atoms) -> dict[str, np.ndarray]:
    calc, atoms = PHLCalculator(model(), device="cpu"), atoms.copy()
    atoms.rattle(0.03, seed=1)
    found = {
        "energy": np.array(calc.get_potential_energy(atoms)),
        "forces": calc.get_forces(atoms),
        "hvp": calc.get_hvp(np.eye(3 * len(atoms))[1].reshape(-1, 3), atoms),
        "many": calc.evaluate([atoms] * 3, ("energy", "forces"))[2]["forces"],
    }
    if len(atoms) < 10:
        found["hessian"] = calc.get_hessian(atoms)
        found["sparse"] = calc.get_sparse_hessian(atoms).toarray()
        found["modes"] = calc.get_lowest_modes(atoms, 1)[0]
    if atoms.pbc.any():
        found["stress"] = calc.get_stress(atoms)
    return found


@pytest.mark.parametrize("name", CALCULATORS)
def test_a_calculator_is_where_it_says_whatever_the_default_device(name, request):
    expected = numbers_of(*CALCULATORS[name])
    request.getfixturevalue("elsewhere")
    for quantity, values in numbers_of(*CALCULATORS[name]).items():
        np.testing.assert_allclose(values, expected[quantity], rtol=1e-12, atol=1e-12, err_msg=quantity)


def test_a_potential_that_names_no_device_is_evaluated_where_the_calculator_is(elsewhere):
    """As parts of some other packages' models are."""

    class Springs(LennardJones):
        def forward(self, batch):
            return super().forward(batch) + torch.zeros(batch.n_systems, dtype=torch.float64)

    found = PHLCalculator(Springs(epsilon=0.1, sigma=2.2, cutoff=5.0), device="cpu").get_forces(molecule("H2O"))
    assert np.abs(found).max() > 0.0


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: "-".join(map(str, s.values())))
def test_training_is_where_it_says_whatever_the_default_device(tmp_path, scheme, request):
    config = configuration("cpu", scheme=scheme, data={"max_atoms": 3}, training={"epochs": 1})
    expected = train(config, prepare_data(config), tmp_path / "usual").records
    request.getfixturevalue("elsewhere")
    found = train(config, prepare_data(config), tmp_path / "elsewhere").records
    assert [{**record, "seconds": 0} for record in found] == [{**record, "seconds": 0} for record in expected]


def test_labels_and_checks_do_not_ask_for_the_default_device(elsewhere):
    labelled = label_frame(molecule("H2O"), EMT(), probes=Probes("rademacher", 2)).frame
    assert np.abs(labelled.hvp).max() > 0.0
    assert check_potential(LennardJones(epsilon=0.1, sigma=1.5, cutoff=4.0)).passed
