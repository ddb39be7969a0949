"""graph-pes: ``model.pt`` is a pickle of a whole module, made of plain torch modules but for those built on e3nn.

Lengths in Å and energies in eV are assumed, as graph-pes' own calculator does.
"""

from __future__ import annotations

from typing import Any

import torch
from ase.data import atomic_numbers
from jaxtyping import Float
from torch import Tensor, nn

from phl_ase.adapters.containment import vendor
from phl_ase.adapters.foreign import Foreign, existing
from phl_ase.adapters.reading import called, read_plain_or_trusted
from phl_ase.errors import PHLError
from phl_ase.structures import Batch

_PACKAGE, _EXTRA = "graph-pes", "graph-pes"


class GraphPesEnergy(Foreign):
    """Energies of a graph-pes model.

    Args:
        module: A ``GraphPESModel``, possibly an ``AdditionModel``.
    """

    vendor = "graph-pes"
    written_whole = True

    def __init__(self, module: Any) -> None:
        cutoff = float(module.cutoff)
        elements = tuple(atomic_numbers[symbol] for symbol in module.elements_seen)
        # message-passing layers by the names that graph-pes gives their lists; else the longest list, or 1
        lists = {name: len(m) for name, m in module.named_modules() if isinstance(m, nn.ModuleList)}
        passing = [n for name, n in lists.items() if name.rpartition(".")[2] in ("interactions", "layers", "gcn")]
        super().__init__(module, elements, cutoff, max(passing or [1, *lists.values()]) * cutoff)

    def atomic_energies(self) -> tuple[Tensor, Tensor] | None:
        """Return the offsets of the elements, by atomic number."""
        found = next((p for name, p in self.module.named_parameters() if name.endswith("_offsets")), None)
        # as a plain tensor: graph-pes' own class keeps count of what is looked up
        return None if found is None else (found.detach().as_subclass(Tensor), torch.tensor(self.species, device="cpu"))

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphPesEnergy:
        made = super().__deepcopy__(memo)
        # torch copies a parameter without what graph-pes' class keeps beside it: the elements that it was trained on
        for own, copied in zip(self.module.parameters(), made.module.parameters(), strict=True):
            if hasattr(own, "_accessed_Zs"):
                copied._accessed_Zs, copied._index_dims = set(own._accessed_Zs), own._index_dims  # type: ignore
        return made  # type: ignore[return-value]

    def forward(self, batch: Batch) -> Float[Tensor, " systems"]:
        """Return energies in eV, float64."""
        (cutoff,) = self.cutoffs
        pairs = batch.neighbours[cutoff]
        sizes = batch.sizes()
        graph = _graphs().AtomicGraph(
            Z=batch.numbers,
            R=batch.positions,
            cell=batch.cell,
            neighbour_list=torch.stack([pairs.i, pairs.j]),
            neighbour_cell_offsets=batch.positions.new_zeros(len(pairs.i), 3) if pairs.shifts is None else pairs.shifts,
            properties={},
            other={},
            cutoff=cutoff,
            batch=batch.system,
            ptr=torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
        )
        return self._energy(self.module, graph).double()

    def _energy(self, module: Any, graph: Any) -> Tensor:
        """Return energies as ``GraphPESModel.predict`` and ``AdditionModel.predict`` do, without detaching anything."""
        if hasattr(module, "models"):
            parts: Tensor = sum(self._energy(part, graph) for part in module.models.values())  # type: ignore[assignment]
            return parts
        own = _graphs().trim_edges(graph, module.cutoff.item())
        predicted = module(own)
        if "energy" in module.implemented_properties:
            return predicted["energy"]
        return _graphs().sum_per_structure(predicted["local_energies"], own)


def _graphs() -> Any:
    return vendor("graph_pes.atomic_graph", _PACKAGE, _EXTRA)


def load(file: str, *, trust: bool = False) -> GraphPesEnergy:
    """Load a graph-pes model.

    Args:
        file: A ``model.pt``.
        trust: Unpickle it as graph-pes does, which runs code of the file, where it holds more than plain modules.

    Raises:
        PHLError: For a missing package or file, one that is no graph-pes model, or one that needs trust.
    """
    path = existing(file)
    models = vendor("graph_pes.models", _PACKAGE, _EXTRA)
    neural = vendor("graph_pes.utils.nn", _PACKAGE, _EXTRA)
    rebuild = neural._rebuild_per_element_parameter
    others = {(rebuild.__module__, rebuild.__name__): rebuild}
    module = read_plain_or_trusted(path, "graph-pes", ("graph_pes",), others, trust=trust)
    if not isinstance(module, models.GraphPESModel):
        raise PHLError(f"{path.name}: holds {called(module)}; expected a GraphPESModel written whole")
    return GraphPesEnergy(module)
