"""What a MODEL or METHOD string stands for."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from phl_ase.adapters import ADAPTERS
from phl_ase.calculator import PHLCalculator
from phl_ase.errors import PHLError
from phl_ase.potentials import PaiNN, PaiNNConfig
from phl_ase.potentials.model_file import save_model
from phl_ase.resolver import CALCULATORS, resolve_calculator


@pytest.fixture
def model_file(tmp_path):
    return save_model(tmp_path / "small", PaiNN(PaiNNConfig(species=(1, 8), channels=8, layers=1)), {})


@pytest.fixture
def methods(tmp_path, monkeypatch):
    """A user's module of factories."""
    (tmp_path / "phl_test_methods.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "def make():\n    return EMT()\n"
        "def nothing():\n    return 42\n"
        "def broken():\n    raise RuntimeError('no\\nlicence')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "ase:phl_test_methods"
    sys.modules.pop("phl_test_methods", None)


def mistake(text, **options) -> str:
    with pytest.raises(PHLError) as error:
        resolve_calculator(text, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_model_file(model_file):
    calculator = resolve_calculator(str(model_file), device="cpu", dtype="float32")
    assert isinstance(calculator, PHLCalculator)
    assert calculator.parameters["dtype"] == "float32"
    assert calculator.device.type == "cpu"
    assert np.isfinite(calculator.get_property("energy", molecule("H2O")))


def test_emt():
    atoms = bulk("Cu")
    atoms.calc = resolve_calculator("emt")
    assert isinstance(atoms.calc, EMT)
    assert np.isfinite(atoms.get_potential_energy())
    assert "stands alone" in mistake("emt:more")
    assert resolve_calculator("emt") is not atoms.calc


def test_code_runs_only_when_trusted(methods):
    message = mistake(f"{methods}:make")
    assert "--trust" in message
    assert "runs the code of phl_test_methods" in message
    assert "phl_test_methods" not in sys.modules
    assert isinstance(resolve_calculator(f"{methods}:make", trust=True), EMT)


def test_code_that_does_not_work(methods):
    assert "RuntimeError: no licence" in mistake(f"{methods}:broken", trust=True)
    assert "made a int; expected an ASE calculator" in mistake(f"{methods}:nothing", trust=True)
    assert "no attribute 'absent'" in mistake(f"{methods}:absent", trust=True)
    assert "PYTHONPATH" in mistake("ase:phl_no_such_module:make", trust=True)
    for text in ("ase", "ase:", "ase:module", "ase::make", "ase:module:"):
        assert "expected ase:package.module:factory" in mistake(text, trust=True)


def test_foreign_models(monkeypatch, tmp_path):
    assert "expected mace:FILE" in mistake("mace")
    message = mistake("mace:medium")
    assert "model file 'medium' does not exist" in message
    assert "mace_mp(model='medium') leaves them in ~/.cache/mace" in message
    for name in ADAPTERS:
        assert ADAPTERS[name].source in mistake(f"{name}:medium")
    made = []
    monkeypatch.setattr("phl_ase.calculator.PHLCalculator", lambda text, **options: made.append((text, options)))
    file = tmp_path / "model.pt"
    file.touch()
    resolve_calculator(f"graph-pes:{file}", device="cpu", dtype="float32", trust=True)
    assert made == [(f"graph-pes:{file}", {"device": "cpu", "dtype": "float32", "trust": True})]


def test_unknown():
    message = mistake("gfn2")
    assert "unknown model 'gfn2'" in message
    for name in CALCULATORS:
        assert name in message
        assert name in mistake("")
    assert "does not exist" in mistake("nowhere/model.safetensors")
    assert "unknown device" in mistake("default", device="abacus")


def test_tblite_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tblite", None)
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    assert "pip install 'phl-ase[reference]'" in mistake("tblite")


def test_tblite():
    pytest.importorskip("tblite")
    atoms = molecule("H2O")
    atoms.calc = calculator = resolve_calculator("tblite")
    # the energy in tblite's own documentation (GFN2-xTB at ASE's geometry)
    neutral = atoms.get_potential_energy()
    assert neutral == pytest.approx(-137.96777625, abs=1e-5)
    atoms.info["charge"] = 1
    cation = atoms.get_potential_energy()
    assert cation > neutral + 5
    atoms.info.clear()
    assert atoms.get_potential_energy() == pytest.approx(neutral, abs=1e-7)
    oxygen = Atoms("O2", [[0, 0, 0], [0, 0, 1.21]])
    oxygen.calc = calculator
    singlet = oxygen.get_potential_energy()
    oxygen.info["multiplicity"] = 3
    assert abs(oxygen.get_potential_energy() - singlet) > 0.01
    assert resolve_calculator("tblite:GFN1-xTB").parameters["method"] == "GFN1-xTB"
    assert "valid: tblite:GFN2-xTB" in mistake("tblite:AM1")
