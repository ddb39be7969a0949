"""Predictions for a loss from energies and gradients at two displaced places: HVPs by differences.

For the probe v of a system, x± = x ± s v, s such that the atom that moves most moves by ``DISPLACEMENTS``:

    H v = (g₊ − g₋) / 2s,    F = −(g₊ + g₋) / 2,    E = (E₊ + E₋) / 2 − s²/2 v·Hv,

right but for terms of s² (E: of s⁴). The gradient of a loss of these takes second derivatives where that of exact
HVPs takes third ones, and a step costs two E-F steps in one batch.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from phl_ase.derivatives.graph import GradientGraph, stress_of
from phl_ase.structures import Batch, Neighbours, Potential, Predictions

DISPLACEMENTS = {torch.float64: 5e-4, torch.float32: 1e-3}
"""Å. On the bundled frames HVPs are right to 4·10⁻⁶ in float64, to 7·10⁻⁵ in float32, where a larger one gains
nothing; forces to 0.02 and 0.07 meV/Å in the mean, 0.2 and 0.8 at most."""


def predictions_by_differences(
    potential: Potential, batch: Batch, probes: Float[Tensor, "1 atoms 3"], *, stress: bool = False
) -> Predictions:
    """Return energy, forces, the HVP along one probe and stress, with the graph that a loss is differentiated in.

    Args:
        potential: Any potential that can be differentiated twice.
        batch: The systems.
        probes: One vector a system; zero where a system has none, which is then evaluated at its own place, twice.
        stress: Whether to differentiate in the strain too.
    """
    probe = probes[0]
    lengths = torch.linalg.vector_norm(probe, dim=-1)
    largest = lengths.new_zeros(batch.n_systems).scatter_reduce(0, batch.system, lengths, "amax")
    # a system without a probe stays where it is, whatever the step
    step = DISPLACEMENTS[probe.dtype] / torch.where(largest > 0, largest, 1.0)
    away = step.index_select(0, batch.system).unsqueeze(-1) * probe
    graph = GradientGraph(potential, _twice(batch, away), measured=False, stress=stress, create_graph=True)
    energies, gradients = (values.unflatten(0, (2, -1)) for values in (graph.energy, graph.gradient))
    hvp = (gradients[0] - gradients[1]) / (2.0 * step).index_select(0, batch.system).unsqueeze(-1)
    along = hvp.new_zeros(batch.n_systems).index_add(0, batch.system, (hvp * probe).sum(-1))
    stresses = None
    if graph.strain_gradient is not None:
        stresses = stress_of(batch, graph.strain_gradient.unflatten(0, (2, -1)).mean(0))
    return Predictions(
        energy=energies.mean(0) - 0.5 * step.square() * along,
        forces=-gradients.mean(0),
        stress=stresses,
        hvp=hvp.unsqueeze(0),
    )


_Pairs = TypeVar("_Pairs", bound=Neighbours)


def _twice(batch: Batch, away: Float[Tensor, "atoms 3"]) -> Batch:
    """Return every system moved forth, then every system moved back; pairs are those of where they are."""
    atoms, systems = batch.numbers.shape[0], batch.n_systems  # symbols where this is traced

    def both(values: Tensor, second: int = 0) -> Tensor:
        return torch.cat([values, values + second if second else values])

    def pairs_of(pairs: _Pairs) -> _Pairs:
        shifts = None if pairs.shifts is None else both(pairs.shifts)
        return type(pairs)(both(pairs.i, atoms), both(pairs.j, atoms), shifts)

    same = ("numbers", "slot", "cell", "pbc", "charge", "multiplicity", "atom_mask")
    doubled: dict[str, Any] = {name: both(value) for name in same if (value := getattr(batch, name)) is not None}
    return dataclasses.replace(
        batch,
        positions=torch.cat([batch.positions + away, batch.positions - away]),
        system=both(batch.system, systems),
        neighbours={cutoff: pairs_of(pairs) for cutoff, pairs in batch.neighbours.items()},
        **doubled,
    )
