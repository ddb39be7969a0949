"""E-F steps of other packages' models on the frames of ``training_step.py``: their own batches, models and derivatives.

Random weights, float32, cutoff 5 Å, two layers, 8 radial functions where the package takes their number.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from phl_ase.structures import Frame

CUTOFF = 5.0
Step = Callable[[], None]


def _squared(energy: Tensor, forces: Tensor, frames: Sequence[Frame], weights: dict[str, float]) -> Tensor:
    """The loss of our E-F step."""
    sizes = torch.tensor([len(f) for f in frames])
    reference = torch.as_tensor(np.concatenate([f.forces for f in frames]), dtype=forces.dtype)
    per_atom = ((energy.flatten() - torch.tensor([f.energy for f in frames])) / sizes).square().mean()
    return weights["energy"] * per_atom + weights["forces"] * (forces - reference).square().mean()


def _atoms(frames: Sequence[Frame]) -> list[Atoms]:
    return [Atoms(f.numbers, f.positions) for f in frames]


def _graph_pes(frames: Sequence[Frame], channels: int, species: Sequence[int], weights: dict[str, float]) -> Step:
    from graph_pes import AtomicGraph
    from graph_pes.atomic_graph import to_batch
    from graph_pes.models import PaiNN

    model = PaiNN(cutoff=CUTOFF, channels=channels, layers=2, radial_features=8).float().train()
    graph = to_batch([AtomicGraph.from_ase(atoms, cutoff=CUTOFF) for atoms in _atoms(frames)])
    model.pre_fit_all_components([AtomicGraph.from_ase(atoms, cutoff=CUTOFF) for atoms in _atoms(frames)])

    def step() -> None:
        model.zero_grad(set_to_none=True)
        found = model.predict(graph, ["energy", "forces"])
        _squared(found["energy"], found["forces"], frames, weights).backward()

    return step


def _mace(frames: Sequence[Frame], channels: int, species: Sequence[int], weights: dict[str, float]) -> Step:
    from e3nn import o3
    from mace import data, modules, tools

    model = modules.MACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=2,
        num_elements=len(species),
        hidden_irreps=o3.Irreps(f"{channels}x0e + {channels}x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros((1, len(species))),
        avg_num_neighbors=10.0,
        atomic_numbers=list(species),
        correlation=3,
        radial_type="bessel",
    ).float()
    table = tools.AtomicNumberTable(list(species))
    items = [
        data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=CUTOFF)
        for atoms in _atoms(frames)
    ]
    loader = tools.torch_geometric.dataloader.DataLoader(items, batch_size=len(items))
    batch = {
        k: v.float() if torch.is_tensor(v) and v.is_floating_point() else v
        for k, v in next(iter(loader)).to_dict().items()
    }

    def step() -> None:
        model.zero_grad(set_to_none=True)
        found = model(batch, training=True, compute_force=True)
        _squared(found["energy"], found["forces"], frames, weights).backward()

    return step


VENDORS = {
    "graph-pes PaiNN, E-F": ("graph_pes", _graph_pes),
    "MACE (l = 1, correlation 3), E-F": ("mace", _mace),
}
"""Name in the table -> package that must be there, what makes its step."""


def vendor_steps(
    frames: Sequence[Frame], channels: int, species: Sequence[int], weights: dict[str, float]
) -> dict[str, Step]:
    """A step of each package that is installed; of the others, or where one fails, a line."""
    steps = {}
    for name, (package, make) in VENDORS.items():
        if importlib.util.find_spec(package) is None:
            print(f"{name}: skipped, {package} is not installed")
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                steps[name] = make(frames, channels, species, weights)
                steps[name]()
        except (ImportError, RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
            steps.pop(name, None)
            print(f"{name}: skipped ({str(error).splitlines()[0]})")
    return steps
