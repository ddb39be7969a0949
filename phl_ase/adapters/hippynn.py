"""hippynn (doi:10.1063/1.5011181): the folder of an experiment, ``experiment_structure.pt`` and the weights beside it.

All systems of a batch are one conformation to hippynn: its pair finder is replaced by our neighbour list, and atomic
energies are summed here. A model says nothing of its units; hippynn's own calculator takes kcal/mol unless told
otherwise, and so does this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ase import units
from jaxtyping import Float
from torch import Tensor, nn

from phl_ase.adapters.containment import contained, vendor
from phl_ase.adapters.foreign import Foreign, existing, sum_atoms
from phl_ase.adapters.reading import PickledObject, called, not_trusted, read_module, read_trusted, record_kind
from phl_ase.errors import PHLError, reason_of, unknown
from phl_ase.structures import Batch

_PACKAGE, _EXTRA = "hippynn", "hippynn"

ENERGY_UNITS = {"kcal/mol": units.kcal / units.mol, "eV": 1.0, "Hartree": units.Hartree}
"""Energy units that ``FILE#UNIT`` may name, in eV."""

_STRUCTURE, _WEIGHTS = "experiment_structure.pt", ("best_model.pt", "last_model.pt")


class HippynnEnergy(Foreign):
    """Energies of a hippynn graph.

    Args:
        graph: The model's ``GraphModule``.
        unit: Of its energies, eV.
    """

    vendor = "hippynn"

    def __init__(self, graph: Any, unit: float) -> None:
        module, species, cutoff, layers = _energy_graph(graph)
        super().__init__(module, species, cutoff, max(layers, 1) * cutoff)
        self.unit = unit

    def forward(self, batch: Batch) -> Float[Tensor, " systems"]:
        """Return energies in eV, float64."""
        (cutoff,) = self.cutoffs
        pairs, positions = batch.neighbours[cutoff], batch.positions
        # shifts in Å and a cell of 1 Å: one conformation has one cell, a batch has many
        shifts = positions.new_zeros(len(pairs.i), 3)
        if pairs.shifts is not None:
            cells = batch.cell.index_select(0, batch.system.index_select(0, pairs.i))
            shifts = torch.einsum("ea,eab->eb", pairs.shifts, cells)
        cell = torch.eye(3, dtype=positions.dtype, device=positions.device)
        with _plain_kernels():
            (energies,) = self.module(
                batch.numbers.unsqueeze(0), positions.unsqueeze(0), cell.unsqueeze(0), pairs.i, pairs.j, shifts
            )
        return sum_atoms(batch, energies.reshape(-1)) * self.unit


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Hippynn's sum over pairs by plain torch operations: its default goes through torch.compile, and not by vmap."""
    kernels: Any = vendor("hippynn.custom_kernels", _PACKAGE, _EXTRA)
    active = kernels.envsum
    kernels.envsum = kernels.env_pytorch.envsum
    try:
        yield
    finally:
        kernels.envsum = active


def _energy_graph(graph: Any) -> tuple[nn.Module, tuple[int, ...], float, int]:
    """The part of a graph that gives atomic energies from pairs given to it; species, cutoff (Å), interactions."""
    graphs = vendor("hippynn.graphs", _PACKAGE, _EXTRA)
    nodes, tags = graphs.nodes, vendor("hippynn.graphs.nodes.tags", _PACKAGE, _EXTRA)
    found = graphs.find_relatives(graph.nodes_to_compute, tags.Energies)
    kinds = sorted(type(node).__name__ for node in found)
    if len(found) != 1 or not hasattr(next(iter(found)), "atom_energies"):
        raise PHLError(f"the hippynn graph has the energy nodes {kinds}; expected one HEnergyNode")
    wanted = [next(iter(found))]
    subgraph = graphs.get_subgraph(wanted)
    finders = [node for node in subgraph if isinstance(node, tags.PairIndexer)]
    (energy,), copied = graphs.copy_subgraph(wanted, assume_inputed=finders)
    finders = [node for node in copied if isinstance(node, tags.PairIndexer)]
    cutoff = max(float(node.dist_hard_max) for node in finders)

    def only(kind: type) -> Any:
        return graphs.find_unique_relative([energy], lambda node: node in copied and isinstance(node, kind))

    species, positions = only(nodes.inputs.SpeciesNode), only(nodes.inputs.PositionsNode)
    encoder, indexer = only(tags.Encoder), only(tags.AtomIndexer)
    cell = nodes.inputs.CellNode("cell")
    first, second, shift = (nodes.base.InputNode(name) for name in ("pair_first", "pair_second", "shift_vector"))
    given = nodes.pairs.ExternalNeighborIndexer(
        "pairs", (positions, indexer.real_atoms, shift, cell, first, second), hard_dist_cutoff=cutoff
    )
    for node in finders:
        near = node.dist_hard_max
        filtered = given if near == cutoff else nodes.pairs.PairFilter("near", (given,), dist_hard_max=near)
        graphs.replace_node(node, filtered, disconnect_old=True)
    module = graphs.GraphModule([species, positions, cell, first, second, shift], [energy.atom_energies])
    layers = [m for m in module.modules() if type(m).__name__.startswith("InteractLayer")]
    known = tuple(int(z) for z in encoder.species_set if int(z) > 0)
    return module, known, cutoff, len(layers)


def load(file: str, *, trust: bool = False) -> HippynnEnergy:
    """Load a hippynn model; ``FILE#UNIT`` names the unit of its energies.

    Args:
        file: The folder of an experiment, or its structure file.
        trust: Unpickle it as hippynn does, which runs code of the file, where it holds more than hippynn's graphs.

    Raises:
        PHLError: For a missing package or file, one that is no hippynn model, or one that needs trust.
    """
    name, _, unit = file.partition("#") if not Path(file).exists() else (file, "", "")
    if unit and unit not in ENERGY_UNITS:
        raise unknown("unit of energy", unit, ENERGY_UNITS)
    path = existing(name)
    path = path / _STRUCTURE if path.is_dir() else path
    vendor("hippynn", _PACKAGE, _EXTRA)
    kinds = vendor("hippynn.graphs.indextypes", _PACKAGE, _EXTRA).IdxType
    try:
        structure = read_module(
            path,
            ("hippynn.graphs", "hippynn.layers", "hippynn.networks"),
            {(kinds.__module__, kinds.__name__): kinds},
            base=object,
            # optimisers, schedules and data of the training are of no use here
            rest=record_kind,
        )
    except PHLError:
        if not trust:
            raise
        structure = read_trusted(path)
    graph = _model(structure)
    if graph is None or _holds_records(graph):
        if not trust:
            raise not_trusted(path, f"holds {called(structure)} with more than hippynn's own graphs", "hippynn")
        graph = _model(read_trusted(path))
    weights = next((path.parent / w for w in _WEIGHTS if (path.parent / w).is_file()), None)
    try:
        if weights is not None:
            graph.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        with contained():
            return HippynnEnergy(graph, ENERGY_UNITS[unit or "kcal/mol"])
    except PHLError:
        raise
    except Exception as error:  # whatever the vendor's graph tools raise is one line here
        raise PHLError(f"{path.name}: is no hippynn model that can be used ({reason_of(error)[:200]})") from error


def _holds_records(module: nn.Module) -> bool:
    children = [child for child in module._modules.values() if child is not None]
    return any(isinstance(child, PickledObject) or _holds_records(child) for child in children)


def _model(structure: Any) -> Any:
    modules = structure.get("training_modules") if isinstance(structure, dict) else structure
    if isinstance(modules, PickledObject):  # a named tuple (model, loss, evaluator)
        modules = modules.__dict__.get("arguments", (None,))
    model = modules[0] if isinstance(modules, tuple) and modules else modules
    return model if isinstance(model, nn.Module) else None
