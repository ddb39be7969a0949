"""Potentials of other packages through the adapters: the same numbers as their own calculators, safely loaded.

What needs a package runs where it is installed: ``pytest -m foreign``, or one alone: ``pytest -m mace``.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile

import foreign_models
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from typer.testing import CliRunner

from phl_ase import PHLCalculator, PHLError
from phl_ase.adapters import ADAPTERS, is_foreign, load_foreign
from phl_ase.adapters.foreign import recorded_provenance
from phl_ase.adapters.reading import read_module, read_records
from phl_ase.cli.app import app
from phl_ase.datasets import open_dataset
from phl_ase.derivatives import evaluate
from phl_ase.structures import Potential, collate, frame_from_atoms
from phl_ase.training import parse_config
from phl_ase.training.setup import new_model

VENDORS = foreign_models.VENDORS


@pytest.fixture(scope="module")
def written(request, tmp_path_factory) -> tuple[str, str]:
    """(prefix, file) of a small model."""
    name = request.param
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(VENDORS[name].package)
        return name, VENDORS[name].make(tmp_path_factory.mktemp(name.replace("-", "_")))


over_vendors = pytest.mark.parametrize("written", foreign_models.cases(), indirect=True)


# ------------------------------------------------------------------------------------------------------- with a package


@over_vendors
def test_energies_and_forces_are_the_vendors_own(written):
    name, file = written
    vendor = VENDORS[name]
    potential = load_foreign(f"{name}:{file}")  # warnings are errors here: loading and evaluating give none
    assert isinstance(potential, Potential)
    systems = foreign_models.structures(vendor.periodic)
    if potential.takes_charge:
        systems[2].info["charge"] = -1
    batch, _ = collate([frame_from_atoms(atoms) for atoms in systems], potential.cutoffs)
    predicted = evaluate(potential, batch, ("energy", "forces"))
    pieces = predicted.forces.split([len(atoms) for atoms in systems])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = vendor.calculator(file)
        expected = [(own.get_potential_energy(atoms), own.get_forces(atoms)) for atoms in systems]
    for k, (energy, forces) in enumerate(expected):
        assert predicted.energy[k].item() == pytest.approx(float(energy), abs=vendor.tolerance)
        assert np.abs(pieces[k].numpy() - forces).max() < vendor.tolerance
    assert np.abs(np.concatenate([forces for _, forces in expected])).max() > 1e-3  # the models are not flat


@over_vendors
def test_another_device(written, device):
    name, file = written
    systems = [molecule("H2O"), molecule("CH3CH2OH")]
    here, there = (
        PHLCalculator(f"{name}:{file}", device=str(place)).evaluate(systems, ["energy", "hessian"])
        for place in ("cpu", device)
    )
    for expected, got in zip(here, there, strict=True):
        assert got["energy"] == pytest.approx(expected["energy"], abs=VENDORS[name].tolerance)
        np.testing.assert_allclose(got["hessian"], expected["hessian"], rtol=0, atol=1e-6)


@over_vendors
def test_stress_is_the_derivative_of_the_energy_in_the_strain(written):
    name, file = written
    calculator = PHLCalculator(f"{name}:{file}")
    atoms = bulk("C", "diamond", a=3.57)
    atoms.rattle(0.03, seed=1)
    atoms.calc = calculator
    if not VENDORS[name].periodic:
        with pytest.raises(PHLError, match="is periodic, but the model sums over all pairs"):
            atoms.get_potential_energy()
        return
    stress = atoms.get_stress(voigt=False)
    strain, h = np.array([[1.0, 0.3, 0.0], [0.3, -0.5, 0.2], [0.0, 0.2, 0.4]]), 1e-4
    energies = []
    for t in (h, -h):
        moved = atoms.copy()
        moved.set_cell(atoms.cell.array @ (np.eye(3) + t * strain), scale_atoms=True)
        energies.append(calculator.get_potential_energy(moved))
    slope = (energies[0] - energies[1]) / (2 * h) / atoms.get_volume()
    # differences of h² and of energies of 2 keV at 1e-12
    assert slope == pytest.approx((stress * strain).sum(), rel=1e-4, abs=1e-5)


@over_vendors
def test_a_calculator_with_curvature(written):
    name, file = written
    calculator = PHLCalculator(f"{name}:{file}", device="cpu")
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=2)
    atoms.calc = calculator
    hessian = calculator.get_hessian(atoms)
    v = np.random.default_rng(0).normal(size=(3, 3))
    ahead, behind = atoms.copy(), atoms.copy()
    ahead.positions += 1e-4 * v
    behind.positions -= 1e-4 * v
    difference = (calculator.get_forces(behind) - calculator.get_forces(ahead)) / 2e-4
    scale = np.abs(hessian).max()
    assert np.abs(hessian - hessian.T).max() < 1e-8 * scale
    # differences of h²: 1e-4² × the fourth derivative
    assert np.abs(calculator.get_hvp(v, atoms) - difference).max() < 2e-5 * max(scale, 1.0)
    assert np.abs(hessian @ v.ravel() - difference.ravel()).max() < 2e-5 * max(scale, 1.0)
    atoms.symbols[0] = "F"
    if calculator.potential.species:
        with pytest.raises(PHLError, match="F, which the model never saw; it knows H, C, O"):
            atoms.get_potential_energy()


@over_vendors
def test_loading_changes_nothing_of_the_process(written):
    name, file = written
    code = (
        "import os, random, sys, warnings, numpy, torch\n"
        "from phl_ase.adapters import load_foreign\n"
        "def state(): return (dict(os.environ), torch.get_default_dtype(), torch.random.get_rng_state().tolist(),\n"
        "    random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_num_threads(), os.getcwd(),\n"
        "    warnings.filters[:], torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),\n"
        "    torch.get_float32_matmul_precision(), sys.getrecursionlimit())\n"
        "before = state()\n"
        f"load_foreign({f'{name}:{file}'!r})\n"
        "after = state()\n"
        "changed = [k for k, (a, b) in enumerate(zip(before, after)) if a != b]\n"
        "assert not changed, changed\n"
        "assert 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' not in os.environ\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "TORCH_FORCE"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@over_vendors
def test_check_runs_on_it(written):
    name, file = written
    result = CliRunner().invoke(app, ["check", f"{name}:{file}"])
    assert result.exit_code in (0, 1), result.output
    assert "parameter gradient" in result.output
    assert "HVP, loop" in result.output
    for row in ("forces ", "batch = single", "u·Hv = v·Hu", "HVP "):
        line = next(line for line in result.output.splitlines() if line.startswith(row))
        assert " ok " in line, result.output


@over_vendors
def test_written_in_the_vendors_format_it_is_the_same(written, tmp_path):
    name, file = written
    potential = load_foreign(f"{name}:{file}")
    if name in ("aimnet", "hippynn"):
        with pytest.raises(PHLError, match="cannot be written in its own format"):
            potential.write(tmp_path / "again")
        return
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.mul_(1.01)
    again = potential.write(tmp_path / "again")
    atoms = molecule("CH3CH2OH")
    batch, _ = collate([frame_from_atoms(atoms)], potential.cutoffs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = VENDORS[name].calculator(str(again)).get_potential_energy(atoms)
    assert potential(batch).item() == pytest.approx(float(own), abs=1e-6)
    assert load_foreign(f"{name}:{again}")(batch).item() == pytest.approx(float(own), abs=1e-6)


@over_vendors
def test_a_file_that_runs_code_needs_trust(written, tmp_path):
    name, _ = written
    if name == "hippynn":
        (tmp_path / "experiment_structure.pt").write_bytes(_program(tmp_path))
        file = tmp_path
    else:
        file = tmp_path / "model.pt"
        file.write_bytes(_program(tmp_path))
    with pytest.raises(PHLError) as caught:
        load_foreign(f"{name}:{file}")
    assert not (tmp_path / "was-here").exists(), "the file ran"
    assert len(str(caught.value).splitlines()) == 1


# ---------------------------------------------------------------------------------------------------- without a package


def test_the_prefixes_are_the_extras():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    assert set(ADAPTERS) <= set(project["optional-dependencies"])
    assert set(ADAPTERS) == set(VENDORS)
    assert is_foreign("mace:file")
    assert not any(is_foreign(text) for text in ("mace", "default", "emt:", "/a/b:c"))


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_missing_package_names_the_line_that_installs_it(name, tmp_path, monkeypatch):
    package = VENDORS[name].package
    for module in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    file = tmp_path / "model.pt"
    file.write_bytes(b"anything")
    with pytest.raises(PHLError, match=rf"pip install 'phl-ase\[{name}\]'"):
        PHLCalculator(f"{name}:{file}")


@pytest.mark.parametrize("name", ADAPTERS)
def test_mistakes(name):
    with pytest.raises(PHLError, match=r"model file 'nowhere/model\.pt' does not exist"):
        PHLCalculator(f"{name}:nowhere/model.pt")
    with pytest.raises(PHLError, match=f"expected {name}:FILE"):
        PHLCalculator(f"{name}:")
    with pytest.raises(PHLError, match="unknown kind of foreign potential 'nequip'"):
        load_foreign("nequip:file")


class _Shout:
    def __reduce__(self):
        return os.system, (f"touch {_Shout.target}",)


def _program(folder, protocol: int = 2) -> bytes:
    """A file of ``torch.save`` whose pickle would make a file."""
    _Shout.target = folder / "was-here"
    path = folder / "program.pt"
    torch.save({"module": _Shout()}, path, pickle_protocol=protocol)
    return path.read_bytes()


@pytest.mark.parametrize("protocol", [2, 4])
def test_reading_runs_nothing(tmp_path, protocol):
    (tmp_path / "evil.pt").write_bytes(_program(tmp_path, protocol))
    with pytest.raises(PHLError, match=r"names posix\.system, which a model file has no use for"):
        read_module(tmp_path / "evil.pt", ("phl_ase",), {})
    with pytest.raises(PHLError, match="holds a dictionary"):
        read_records(tmp_path / "evil.pt", {})
    assert not (tmp_path / "was-here").exists()


class Custom(torch.nn.Module):
    """Unpickles itself by code of its own."""

    def __setstate__(self, state):
        raise AssertionError("ran")


def test_modules_are_made_of_named_packages_alone(tmp_path):
    inner = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.SiLU())
    torch.save(inner, tmp_path / "plain.pt")
    read = read_module(tmp_path / "plain.pt", ("torch.nn",), {})
    assert torch.equal(read[0].weight, inner[0].weight)
    torch.save(torch.nn.Sequential(Custom()), tmp_path / "custom.pt")
    with pytest.raises(PHLError, match=r"names .*Custom"):
        read_module(tmp_path / "custom.pt", ("test_adapters", "tests"), {})
    record = read_records(tmp_path / "plain.pt", {})
    assert type(record).__name__ == "Sequential"
    assert set(record.tensors()) == {"0.weight", "0.bias"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"nothing", "is no file of torch.save"),
        (b"", "is no file of torch.save"),
    ],
)
def test_what_is_no_model_file(tmp_path, content, reason):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(PHLError, match=reason):
        read_module(tmp_path / "a.pt", (), {})


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    """torch would enlarge the storage to whatever the file declares."""

    class Absurd:
        def __reduce_ex__(self, protocol):
            storage = torch.zeros(2).storage()
            return torch._utils._rebuild_tensor_v2, (storage, 0, (10**9,), (1,), False, {})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(Absurd(), tmp_path / "absurd.pt")
    with pytest.raises(PHLError, match=r"shape \(1000000000,\) in a storage of 2 numbers"):
        read_records(tmp_path / "absurd.pt", {})


def test_a_torchscript_program_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", pickle.dumps(()))
    with pytest.raises(PHLError, match="is a TorchScript program"):
        read_module(tmp_path / "script.pt", (), {})


def test_which_parameters_of_a_model_to_start_from_are_trained():
    def start(*patterns):
        return new_model(parse_config({"potential": {"from": "default#1", "trainable": list(patterns)}}), frames)

    frames = open_dataset("reactions-wb97xd-631gd").frames(range(3))
    everything = {name for name, p in start().named_parameters() if p.requires_grad}
    first = sorted(everything)[0]
    assert {name for name, p in start(first).named_parameters() if p.requires_grad} == {first}
    assert everything == {name for name, p in start("*").named_parameters() if p.requires_grad}
    with pytest.raises(PHLError, match=r"no parameter is called 'nothing'; the model has, among others, \w"):
        start("nothing")


# ------------------------------------------------------------------------------------ cards beside files of other kinds


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ({"sha256": "OWN", "provenance": {"data": "a", "domain": {}}}, {"started_from": {}, "data": "a"}),
        ({"provenance": {"data": "a", "started_from": {"data": "b"}}}, {"started_from": {"data": "b"}, "data": "a"}),
        ({"sha256": 64 * "0", "provenance": {"data": "a"}}, {}),  # the file was replaced
        ({"sha256": "OWN"}, {}),
        ({"sha256": "OWN", "provenance": "text"}, {}),
        ([1, 2], {}),
        (None, {}),
    ],
)
def test_the_card_beside_a_model_file_is_read_where_it_belongs_to_it(tmp_path, card, found):
    """What a run trained on is known again; not its domain, since the model that it started from saw more."""
    file = tmp_path / "best.model"
    file.write_bytes(b"weights")
    if card is not None:
        own = hashlib.sha256(b"weights").hexdigest()
        (tmp_path / "best.json").write_text(json.dumps(card).replace("OWN", own))
    assert recorded_provenance(file) == found
