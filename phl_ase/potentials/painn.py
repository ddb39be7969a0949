"""PaiNN: equivariant message passing (Schütt, Unke and Gastegger, arXiv:2102.03150).

Differences from the paper, all for the sake of third derivatives or speed: the norm of vector features is
√(1 + |v|²) − 1, analytic where v = 0; radial functions vanish with three derivatives at the cutoff; filters of all
layers are one matrix product; what is known to be zero (the vector features before the first message) or unused (those
after the last update) is never computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from phl_ase.errors import PHLError
from phl_ase.potentials.model import Model
from phl_ase.potentials.painn_blocks import PairMoments, first_messages, later_messages
from phl_ase.potentials.radial import bessel_basis
from phl_ase.potentials.repulsion import check_core, core_named
from phl_ase.structures import Batch, BlockedNeighbours


@dataclass(frozen=True)
class PaiNNConfig:
    """Architecture of a :class:`PaiNN`.

    Attributes:
        species: Atomic numbers the model knows, ascending.
        channels: Width of scalar and vector features.
        layers: Number of message-passing layers.
        cutoff: Å.
        n_basis: Number of radial functions.
        core: Repulsive core that the network is added to, a key of ``repulsion.CORES``; ``"none"`` where a model file
            does not say.
    """

    species: tuple[int, ...]
    channels: int = 64
    layers: int = 2
    cutoff: float = 5.0
    n_basis: int = 8
    core: str = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "species", tuple(sorted(int(z) for z in self.species)))
        if not self.species:
            raise PHLError("a PaiNN needs at least one species; got none")
        if not all(0 < z < 119 for z in self.species):
            raise PHLError(f"PaiNN species are {self.species}; expected atomic numbers from 1 to 118")
        for name, largest in (("channels", 2048), ("layers", 32), ("cutoff", 50.0), ("n_basis", 256)):
            if not 0 < getattr(self, name) <= largest:
                raise PHLError(f"PaiNN {name} is {getattr(self, name)}; expected more than 0 and at most {largest}")
        check_core(self.core)


class _Message(nn.Module):
    def __init__(self, channels: int, first: bool) -> None:
        super().__init__()
        self.channels, self.first = channels, first
        self.parts = 2 if first else 3
        self.hidden = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, self.parts * channels)

    def features(self, s: Tensor) -> Tensor:
        x: Tensor = self.out(nn.functional.silu(self.hidden(s)))
        return x

    def forward(self, s: Tensor, v: Tensor | None, filters: Tensor, unit: Tensor, i: Tensor, j: Tensor):
        atoms, edges, c = s.shape[0], unit.shape[0], self.channels
        x = self.features(s)
        if v is None:
            scalar, along = (x.index_select(0, j) * filters).split(c, dim=-1)
            vector = along.unsqueeze(1) * unit.unsqueeze(-1)
        else:
            # one gather of scalar and vector features together, one scatter of both messages
            # (split, not slices: the derivative of a slice fills a tensor of zeros)
            gathered = torch.cat([x, v.reshape(atoms, 3 * c)], dim=-1).index_select(0, j)
            x_j, v_j = gathered.split(3 * c, dim=-1)
            scalar, along, through = (x_j * filters).split(c, dim=-1)
            vector = along.unsqueeze(1) * unit.unsqueeze(-1) + through.unsqueeze(1) * v_j.reshape(edges, 3, c)
        messages = torch.cat([scalar, vector.reshape(edges, 3 * c)], dim=-1)
        ds, dv = messages.new_zeros(atoms, 4 * c).index_add(0, i, messages).split([c, 3 * c], dim=-1)
        return ds, dv.reshape(atoms, 3, c)


class _Update(nn.Module):
    def __init__(self, channels: int, last: bool) -> None:
        super().__init__()
        self.channels, self.last = channels, last
        self.mix = nn.Linear(channels, 2 * channels, bias=False)
        self.hidden = nn.Linear(2 * channels, channels)
        self.out = nn.Linear(channels, (2 if last else 3) * channels)

    def forward(self, s: Tensor, v: Tensor):
        # flat, as products of three axes are of fixed size in traces of torch 2.11
        mixed = self.mix(v.flatten(0, 1)).reshape(v.shape[0], 3, 2 * self.channels)
        left, right = mixed.split(self.channels, dim=-1)
        norm = torch.sqrt(1.0 + (right * right).sum(1)) - 1.0
        gates = self.out(nn.functional.silu(self.hidden(torch.cat([s, norm], dim=-1)))).split(self.channels, dim=-1)
        s = s + gates[0] + gates[1] * (left * right).sum(1)
        return s, None if self.last else v + gates[2].unsqueeze(1) * left


class PaiNN(Model):
    """The built-in potential: reference energies, a repulsive core, and ``scale`` × a sum of atomic contributions.

    Args:
        config: Architecture.
        generator: Source of the initial weights; a fixed one when ``None``.
    """

    takes_blocks = True
    species_index: Tensor
    reference_energies: Tensor
    scale: Tensor

    def __init__(self, config: PaiNNConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.provenance = {}
        c, layers = config.channels, config.layers
        self.species = config.species
        self.cutoffs = (config.cutoff,)
        self.receptive_field = config.cutoff * layers
        with torch.device("cpu"):  # as the generator is, whatever torch's default device
            self.embedding = nn.Parameter(torch.empty(len(config.species), c))
            self.messages = nn.ModuleList(_Message(c, first=layer == 0) for layer in range(layers))
            self.updates = nn.ModuleList(_Update(c, last=layer == layers - 1) for layer in range(layers))
            self._filter_widths = [(2 if layer == 0 else 3) * c for layer in range(layers)]
            self.filters = nn.Linear(config.n_basis, sum(self._filter_widths), bias=False)
            self.readout_hidden = nn.Linear(c, c)
            self.readout_out = nn.Linear(c, 1)
            index = torch.full((119,), -1, dtype=torch.int64)
            index[list(config.species)] = torch.arange(len(config.species))
            self.register_buffer("species_index", index, persistent=False)
            self.core = core_named(config.core, config.species, config.cutoff)
            # float64 whatever the weights are: absolute energies do not fit float32
            self.register_buffer("reference_energies", torch.zeros(len(config.species), dtype=torch.float64))
            self.register_buffer("scale", torch.ones((), dtype=torch.float64))
            generator = generator or torch.Generator().manual_seed(0)
            with torch.no_grad():
                self.embedding.normal_(generator=generator)
                for module in self.modules():
                    if isinstance(module, nn.Linear):
                        nn.init.xavier_uniform_(module.weight, generator=generator)
                        if module.bias is not None:
                            module.bias.zero_()

    def card(self) -> dict[str, Any]:
        """Architecture as plain data, enough to build the model again."""
        return {"architecture": "painn", "config": asdict(self.config)}

    def set_references(self, energies: Tensor, scale: float) -> None:
        """Set the energy per species (eV, in the order of ``species``) and the energy scale (eV)."""
        self.reference_energies.copy_(energies)
        self.scale.fill_(scale)

    def tables(self, batch: Batch) -> tuple[Int[Tensor, " atoms"], Tensor]:
        """Row of each atom in the tables of species, and the energy scale, eV."""
        return self.species_index[batch.numbers], self.scale

    def forward(self, batch: Batch) -> Float[Tensor, " systems"]:
        """Return energies in eV, float64 (the atomic contributions in the dtype of the weights)."""
        rows, scale = self.tables(batch)
        pairs = batch.neighbours[self.config.cutoff]
        s, r = self._features(batch, rows)
        atomic = self.readout_out(nn.functional.silu(self.readout_hidden(s))).squeeze(-1).double() * scale
        atomic = atomic + self.reference_energies[rows]
        if self.core is not None:
            # every pair stands twice in the list
            halves = 0.5 * self.core(r, batch.numbers[pairs.i], batch.numbers[pairs.j])
            atomic = atomic.index_add(0, pairs.i, halves)
        if batch.atom_mask is not None:
            atomic = atomic * batch.atom_mask
        return atomic.new_zeros(batch.n_systems).index_add(0, batch.system, atomic)

    def features(self, batch: Batch) -> Float[Tensor, "atoms channels"]:
        """Return the scalar features of every atom, of which the energy is read: for models that predict more."""
        return self._features(batch, self.tables(batch)[0])[0]

    def _features(
        self, batch: Batch, rows: Int[Tensor, " atoms"]
    ) -> tuple[Float[Tensor, "atoms channels"], Float[Tensor, " edges"]]:
        """Return scalar features of atoms and distances of pairs, Å, by dense matrices where the batch is in blocks."""
        vectors = batch.vectors(self.config.cutoff)
        r = vectors.square().sum(-1).sqrt()
        unit = vectors / r.unsqueeze(-1)
        basis = bessel_basis(r, self.config.cutoff, self.config.n_basis)
        s: Tensor = self.embedding[rows]
        v: Tensor | None = None
        pairs = batch.neighbours[self.config.cutoff]
        messages = cast(Iterable[_Message], self.messages)
        if not isinstance(pairs, BlockedNeighbours):
            per_layer = self.filters(basis).split(self._filter_widths, dim=-1)
            for message, update, layer_filters in zip(messages, self.updates, per_layer, strict=True):
                ds, dv = message(s, v, layer_filters, unit, pairs.i, pairs.j)
                s, v = update(s + ds, dv if v is None else v + dv)
            return s, r
        moments = basis.unsqueeze(1) * torch.cat([torch.ones_like(unit[:, :1]), unit], dim=-1).unsqueeze(-1)
        in_system = batch.numbers.shape[0] // batch.n_systems
        geometry = PairMoments(moments, pairs, in_system, rows, len(self.species))
        blocks = geometry.blocks() if len(self.messages) > 1 else None
        weights = self.filters.weight.T.split(self._filter_widths, dim=-1)
        for message, update, weight in zip(messages, self.updates, weights, strict=True):
            if v is None or blocks is None:
                ds, dv = first_messages(geometry.by_species(), message.features(self.embedding), weight)
            else:
                ds, dv = later_messages(blocks, message.features(s), v, weight)
            s, v = update(s + ds, dv if v is None else v + dv)
        return s, r
