"""MACE's own matters: what its files hold, heads, charges, dtypes; its Hessian's time; fine-tuning, there and back.

Runs where the extra [mace] is installed: ``pytest -m mace``.
"""

from __future__ import annotations

import sys
import time
import warnings
import zipfile

import foreign_models
import numpy as np
import pytest
import torch
from ase.build import molecule

from phl_ase import PHLCalculator, PHLError
from phl_ase.adapters import load_foreign
from phl_ase.adapters.tensor_products import own_products, use_matrix_products
from phl_ase.trained_on import trained_on
from phl_ase.training import parse_config, prepare_data, train

pytestmark = [pytest.mark.foreign, pytest.mark.mace]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    pytest.importorskip("mace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return foreign_models.VENDORS["mace"].make(tmp_path_factory.mktemp("mace"))


def test_unpickling_it_as_mace_does_would_run_code_of_the_file(file):
    """So the file is read as records and the module built anew: the pickle holds Python source and TorchScript."""
    with zipfile.ZipFile(file) as archive:
        content = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    assert b"reduce_graph_module" in content


def test_another_kind_of_module_needs_trust(file, tmp_path):
    module = torch.load(file, weights_only=False)
    module.__class__ = type("MyMACE", (type(module),), {"__module__": "elsewhere"})
    sys.modules["elsewhere"] = type(sys)("elsewhere")
    sys.modules["elsewhere"].MyMACE = type(module)
    other = tmp_path / "other.model"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(module, other)
        with pytest.raises(PHLError, match=r"runs? code from the file.*--trust"):
            load_foreign(f"mace:{other}")
        atoms = molecule("H2O")
        trusted = PHLCalculator(f"mace:{other}", trust=True).get_potential_energy(atoms)
    finally:
        del sys.modules["elsewhere"]
    assert trusted == pytest.approx(PHLCalculator(f"mace:{file}").get_potential_energy(atoms), abs=1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hidden", ["8x0e", "8x0e + 8x1o", "4x0e + 4x1o + 4x2e"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_messages_by_products_of_matrices_are_those_of_e3nn(hidden, dtype):
    """Values, gradients, and gradients of these along a direction."""
    pytest.importorskip("mace.modules")
    from e3nn.o3 import Irreps

    module = foreign_models.mace_module(dtype, hidden_irreps=Irreps(hidden), max_ell=3)
    products = [part.conv_tp for part in module.interactions]
    generator = torch.Generator().manual_seed(0)
    for product in products:
        shapes = product.irreps_in1.dim, product.irreps_in2.dim, product.weight_numel
        inputs = [torch.randn(7, n, generator=generator, dtype=dtype).requires_grad_() for n in shapes]
        along = [torch.randn(7, n, generator=generator, dtype=dtype) for n in shapes]
        mixing = torch.randn(7, product.irreps_out.dim, generator=generator, dtype=dtype)

        def derivatives(product=product, inputs=inputs, along=along, mixing=mixing):
            values = product(*inputs)
            first = torch.autograd.grad((values * mixing).sum(), inputs, create_graph=True)
            second = torch.autograd.grad(sum((g * v).sum() for g, v in zip(first, along, strict=True)), inputs)
            return values, *first, *second

        expected = derivatives()
        assert use_matrix_products(product) == 1
        for got, wanted in zip(derivatives(), expected, strict=True):
            error = 3e-15 if dtype == torch.float64 else 2e-6
            assert (got - wanted).abs().max() <= error * max(wanted.abs().max().item(), 1.0)
        nothing = [torch.zeros(0, n, dtype=dtype) for n in shapes]
        assert product(*nothing).shape == (0, product.irreps_out.dim)
        with own_products(product):
            assert "forward" not in vars(product)
        assert "forward" in vars(product)


@pytest.mark.filterwarnings("ignore")
def test_another_tensor_product_is_left_to_e3nn():
    pytest.importorskip("mace.modules")
    from e3nn.o3 import FullyConnectedTensorProduct, Irreps, TensorProduct

    paths = [(0, 0, 0, "uvu", True), (1, 0, 1, "uvu", True)]
    unequal = TensorProduct(Irreps("4x0e + 2x1o"), Irreps("1x0e"), Irreps("4x0e + 2x1o"), paths, shared_weights=False)
    full = FullyConnectedTensorProduct("4x0e", "1x0e", "4x0e")
    assert use_matrix_products(torch.nn.ModuleList([unequal, full])) == 0


def test_a_written_file_holds_nothing_of_ours(file, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        potential = load_foreign(f"mace:{file}")
        written = potential.write(tmp_path / "written.model")
    with zipfile.ZipFile(written) as archive:
        assert not [name for name in archive.namelist() if b"phl_ase" in archive.read(name)]
    assert any("forward" in vars(part) for part in potential.module.modules())


def test_a_float32_file_in_float64(tmp_path):
    pytest.importorskip("mace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(foreign_models.mace_module(torch.float32), tmp_path / "single.model")
        own = foreign_models.mace_calculator(tmp_path / "single.model")
        atoms = molecule("CH3CH2OH")
        expected = own.get_potential_energy(atoms), own.get_forces(atoms)
    calculator = PHLCalculator(f"mace:{tmp_path / 'single.model'}")
    assert calculator.get_potential_energy(atoms) == pytest.approx(expected[0], abs=1e-6)
    assert np.abs(calculator.get_forces(atoms) - expected[1]).max() < 1e-6


def test_charge_and_multiplicity_where_it_takes_them(tmp_path):
    spec = {"type": "categorical", "per": "graph", "num_classes": 7, "emb_dim": 4}
    specs = {"total_charge": spec | {"offset": 3}, "total_spin": spec | {"offset": 0}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(foreign_models.mace_module(embedding_specs=specs), tmp_path / "charged.model")
        own = foreign_models.mace_calculator(tmp_path / "charged.model")
        atoms = molecule("CH3O")
        energies = {}
        for charge, multiplicity in ((0, 2), (-1, 1)):
            atoms.info.update(charge=charge, spin=multiplicity)
            energies[charge] = own.get_potential_energy(atoms)
    assert abs(energies[0] - energies[-1]) > 1e-4
    calculator = PHLCalculator(f"mace:{tmp_path / 'charged.model'}")
    for charge, multiplicity in ((0, 2), (-1, 1)):
        atoms.info.update(charge=charge, spin=multiplicity)
        assert calculator.get_potential_energy(atoms) == pytest.approx(energies[charge], abs=1e-6)


def test_heads(tmp_path):
    changes = {
        "heads": ["wb97x", "pbe"],
        "atomic_energies": np.array([[-13.6, -1029.0, -2041.0], [-12, -1e3, -2e3]]),
    }
    changes |= {"atomic_inter_scale": [1.3, 1.1], "atomic_inter_shift": [0.1, 0.2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(foreign_models.mace_module(**changes), tmp_path / "heads.model")
    with pytest.raises(PHLError, match="has several heads; choose one of wb97x, pbe"):
        load_foreign(f"mace:{tmp_path / 'heads.model'}")
    assert load_foreign(f"mace:{tmp_path / 'heads.model'}#pbe").head == 1
    with pytest.raises(PHLError, match="has no head 'lda'"):
        load_foreign(f"mace:{tmp_path / 'heads.model'}#lda")


@pytest.mark.slow
def test_fine_tuning_with_hvps_gives_a_file_that_mace_loads(tmp_path):
    """HVP loss through the foreign module, parts of it frozen; written in MACE's format, the same numbers."""
    file = tmp_path / "start.model"
    energies = np.array([[-13.6, -1029.0, -1485.0, -2041.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(
            foreign_models.mace_module(num_elements=4, atomic_numbers=[1, 6, 7, 8], atomic_energies=energies), file
        )
    sections = {
        "data": {"max_atoms": 3},
        "potential": {"from": f"mace:{file}", "trainable": ["*readouts*", "*products*"]},
        "scheme": {"name": "E-F-HVP-random"},
        "training": {"epochs": 2, "dtype": "float64", "learning_rate": 1e-3, "device": "cpu"},
    }
    config = parse_config(sections)
    result = train(config, prepare_data(config), tmp_path / "run")
    assert result.model == tmp_path / "run" / "best.model"
    before, after = load_foreign(f"mace:{file}"), load_foreign(f"mace:{result.model}")
    changed = {
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert changed
    assert all("readouts" in name or "products" in name for name in changed)
    atoms = molecule("HCN")
    atoms.rattle(0.05, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = foreign_models.mace_calculator(result.model)
        expected = own.get_potential_energy(atoms), own.get_forces(atoms)
    calculator = PHLCalculator(f"mace:{result.model}")
    assert calculator.get_potential_energy(atoms) == pytest.approx(expected[0], abs=1e-6)
    assert np.abs(calculator.get_forces(atoms) - expected[1]).max() < 1e-6
    data = prepare_data(config)
    # the card beside the file says what the run trained on; of MACE's own training nothing is known
    known = trained_on(calculator)
    assert known.seen(data.train).all()
    assert not known.known
    assert not trained_on(PHLCalculator(f"mace:{file}")).known
    wrong = parse_config({**sections, "training": {"epochs": 1}})
    with pytest.raises(PHLError, match=r"training\.dtype is float32, but mace:"):
        train(wrong, data, tmp_path / "wrong")


@pytest.mark.slow
def test_a_hessian_is_faster_than_maces_own(file):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = foreign_models.mace_calculator(file)
        ours = PHLCalculator(f"mace:{file}", device="cpu")
        times = {"own": [], "ours": []}
        for k in range(4):
            for name, action in (("own", own.get_hessian), ("ours", ours.get_hessian)):
                atoms.positions += 1e-6  # a new structure: nothing is cached
                start = time.process_time()
                found = action(atoms=atoms)
                if k:  # the first compiles
                    times[name].append(time.process_time() - start)
                if name == "own":
                    expected = found.reshape(27, 27)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert min(times["ours"]) < 0.4 * min(times["own"])  # measured in workflows/benchmarks/mace_hessian.py
