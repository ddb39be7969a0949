"""Small models of other packages with random weights, written as their packages write them, and their own calculators.

A new adapter is one entry of ``VENDORS``; every test of ``test_adapters.py`` runs over it where the package is there.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

SYMBOLS = ("H", "C", "O")


@dataclass(frozen=True)
class Vendor:
    """One package.

    Attributes:
        package: What is imported to see whether it is there.
        make: Writes a model to a folder; returns what follows ``PREFIX:``.
        calculator: The package's own calculator of that file, in float64 where it can.
        periodic: Whether the model takes cells.
        tolerance: Of energies (eV) and forces (eV/Å) against its calculator.
    """

    package: str
    make: Callable[[Path], str]
    calculator: Callable[[str], Any]
    periodic: bool = True
    tolerance: float = 1e-6


@contextlib.contextmanager
def default_dtype(dtype):
    """torch's default dtype for the vendors' own code."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def structures(periodic: bool) -> list:
    """Different molecules, and cells where they are taken, off their symmetric places."""
    found = [molecule("H2O"), molecule("CH3CH2OH"), molecule("CH3O")]
    if periodic:
        found += [bulk("C", "diamond", a=3.57), bulk("C", "diamond", a=3.57) * (2, 1, 1)]
    for k, atoms in enumerate(found):
        atoms.rattle(0.03, seed=k)
    return found


# ----------------------------------------------------------------------------------------------------------------- MACE


def mace_module(dtype=torch.float64, **changes):
    # mace before e3nn, which reads a file at its import that torch's safe loading refuses
    modules = importlib.import_module("mace.modules")
    from e3nn import o3

    settings = {
        "r_max": 4.0,
        "num_bessel": 6,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        "interaction_cls_first": modules.interaction_classes["RealAgnosticInteractionBlock"],
        "num_interactions": 2,
        "num_elements": 3,
        "hidden_irreps": o3.Irreps("8x0e + 8x1o"),
        "MLP_irreps": o3.Irreps("8x0e"),
        "gate": torch.nn.functional.silu,
        "atomic_energies": np.array([[-13.6, -1029.0, -2041.0]]),
        "avg_num_neighbors": 4.0,
        "atomic_numbers": [1, 6, 8],
        "correlation": 2,
        "radial_type": "bessel",
        "atomic_inter_scale": 1.3,
        "atomic_inter_shift": 0.1,
    }
    torch.manual_seed(0)
    with default_dtype(dtype):
        return modules.ScaleShiftMACE(**(settings | changes))


def _mace(folder: Path) -> str:
    torch.save(mace_module(), folder / "small.model")
    return str(folder / "small.model")


def mace_calculator(file: str):
    from mace.calculators import MACECalculator

    return MACECalculator(models=torch.load(file, weights_only=False), default_dtype="float64")


# ------------------------------------------------------------------------------------------------------------- TorchANI


def ani_module(**changes):
    from torchani.arch import simple_ani

    torch.manual_seed(0)
    settings = {"lot": "wb97x-631gd", "ensemble_size": 2, "repulsion": True, "dispersion": True}
    return simple_ani(SYMBOLS, **(settings | changes))


def _ani(folder: Path) -> str:
    torch.save(ani_module(), folder / "ani.pt")
    return str(folder / "ani.pt")


def _ani_calculator(file: str):
    return torch.load(file, weights_only=False).double().ase()


# ------------------------------------------------------------------------------------------------------------- AIMNet2

_AIMNET = """
class: aimnet.models.AIMNet2
kwargs:
  nfeature: 8
  d2features: true
  ncomb_v: 4
  hidden: [[32, 16], [32, 16], [32, 16]]
  aim_size: 16
  aev: {rc_s: 5.0, nshifts_s: 8}
  outputs:
    energy_mlp:
      class: aimnet.modules.Output
      kwargs:
        n_in: 16
        n_out: 1
        key_in: aim
        key_out: energy
        mlp: {activation_fn: torch.nn.GELU, last_linear: true, hidden: [16]}
    atomic_shift: {class: aimnet.modules.AtomicShift, kwargs: {key_in: energy, key_out: energy}}
    atomic_sum: {class: aimnet.modules.AtomicSum, kwargs: {key_in: energy, key_out: energy}}
"""


def _aimnet(folder: Path) -> str:
    import yaml
    from aimnet.config import build_module

    torch.manual_seed(0)
    artifact = {
        "format_version": 2,
        "model_yaml": _AIMNET,
        "cutoff": 5.0,
        "needs_coulomb": True,
        "needs_dispersion": True,
        "coulomb_mode": "none",
        "has_embedded_lr": False,
        "d3_params": {"s8": 0.3908, "a1": 0.566, "a2": 3.128, "s6": 1.0},
        "implemented_species": [1, 6, 8],
        "state_dict": build_module(yaml.safe_load(_AIMNET)).state_dict(),
    }
    torch.save(artifact, folder / "aimnet.pt")
    return str(folder / "aimnet.pt")


class _Aimnet:
    """A calculator for whatever charge a structure says."""

    def __init__(self, file: str) -> None:
        self.file = file

    def get_property(self, name, atoms, allow_calculation=True):
        from aimnet.calculators import AIMNet2ASE, AIMNet2Calculator
        from aimnet.models.base import load_model

        own = AIMNet2Calculator(load_model(self.file)[0], device="cpu")
        return AIMNet2ASE(own, charge=atoms.info.get("charge", 0)).get_property(name, atoms)

    def get_potential_energy(self, atoms, force_consistent=False):
        return self.get_property("energy", atoms)

    def get_forces(self, atoms):
        return self.get_property("forces", atoms)


# -------------------------------------------------------------------------------------------------------------- hippynn


def _hippynn(folder: Path) -> str:
    from hippynn.experiment.assembly import TrainingModules
    from hippynn.graphs import GraphModule, inputs, networks, physics, targets

    torch.manual_seed(0)
    species, positions = inputs.SpeciesNode(db_name="Z"), inputs.PositionsNode(db_name="R")
    settings = {"possible_species": [0, 1, 6, 8], "n_features": 8, "n_sensitivities": 6, "n_atom_layers": 1}
    settings |= {"dist_soft_min": 0.5, "dist_soft_max": 3.5, "dist_hard_max": 4.0, "n_interaction_layers": 2}
    network = networks.Hipnn("hipnn", (species, positions), module_kwargs=settings)
    energy = targets.HEnergyNode("HEnergy", network)
    forces = physics.GradientNode("forces", (energy.mol_energy, positions), sign=-1)
    model = GraphModule([species, positions], [energy.mol_energy, forces])
    optimiser = torch.optim.Adam(model.parameters())
    structure = {"training_modules": TrainingModules(model, None, None), "controller": optimiser}
    torch.save(structure, folder / "experiment_structure.pt")
    torch.save(model.state_dict(), folder / "best_model.pt")
    return str(folder)


def _hippynn_calculator(folder: str):
    from hippynn.interfaces.ase_interface.calculator import calculator_from_model

    structure = torch.load(Path(folder) / "experiment_structure.pt", weights_only=False)
    with default_dtype(torch.float64):
        calculator = calculator_from_model(structure["training_modules"].model)
        calculator.to(torch.float64)
    calculator.dtype = torch.float64
    return calculator


# ------------------------------------------------------------------------------------------------------------ graph-pes


def _graph_pes(folder: Path) -> str:
    from graph_pes import models

    torch.manual_seed(0)
    painn = models.PaiNN(cutoff=4.0, channels=16, radial_features=8, layers=2)
    model = models.AdditionModel(offset=models.FixedOffset(H=-13.6, C=-1029.0, O=-2041.0), many_body=painn)
    torch.save(model, folder / "model.pt")
    return str(folder / "model.pt")


class _GraphPes:
    """The vendor's calculator, its graphs in float64."""

    def __init__(self, file: str) -> None:
        self.inner = torch.load(file, weights_only=False).double().ase_calculator(skin=0.0)

    def __getattr__(self, name):
        def call(*arguments, **options):
            with default_dtype(torch.float64):
                return getattr(self.inner, name)(*arguments, **options)

        return call


VENDORS: dict[str, Vendor] = {
    "mace": Vendor("mace", _mace, mace_calculator),
    "ani": Vendor("torchani", _ani, _ani_calculator),
    # its calculator stays in float32
    "aimnet": Vendor("aimnet", _aimnet, _Aimnet, periodic=False, tolerance=2e-6),
    "hippynn": Vendor("hippynn", _hippynn, _hippynn_calculator),
    "graph-pes": Vendor("graph_pes", _graph_pes, _GraphPes),
}


def cases() -> list:
    """The vendors as parameters of a test, each under its marker and that of all."""
    marks = {name: [pytest.mark.foreign, getattr(pytest.mark, name.replace("-", "_"))] for name in VENDORS}
    return [pytest.param(name, marks=marks[name], id=name) for name in VENDORS]
