"""A foreign potential behind the Potential protocol: one MACE energy through a throw-away adapter.

Runs where the extra [mace] is installed: ``pytest -m mace``. A proof that the contracts suffice, not the product.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from phl_ase.derivatives import evaluate
from phl_ase.structures import Batch, Potential, collate, frame_from_atoms

pytestmark = [pytest.mark.mace, pytest.mark.no_typecheck, pytest.mark.filterwarnings("ignore")]

SPECIES = (1, 6, 8)
CUTOFF = 4.0


class MaceEnergy:
    """Energies of a raw MACE module from a Batch."""

    species = SPECIES
    cutoffs = (CUTOFF,)
    receptive_field = 2 * CUTOFF
    derivative_modes = ("loop",)
    takes_charge = False

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def __call__(self, batch: Batch) -> torch.Tensor:
        pairs = batch.neighbours[CUTOFF]
        unit_shifts = batch.positions.new_zeros(len(pairs.i), 3) if pairs.shifts is None else pairs.shifts
        shifts = torch.einsum("ea,eab->eb", unit_shifts, batch.cell[batch.system[pairs.i]])
        index = torch.searchsorted(torch.tensor(SPECIES), batch.numbers)
        sizes = batch.sizes()
        data = {
            "positions": batch.positions,
            "node_attrs": torch.nn.functional.one_hot(index, len(SPECIES)).to(batch.positions.dtype),
            # MACE's edges run from sender to receiver; vectors are receiver − sender + shift
            "edge_index": torch.stack([pairs.i, pairs.j]),
            "unit_shifts": unit_shifts,
            "shifts": shifts,
            "cell": batch.cell.reshape(-1, 3),
            "batch": batch.system,
            "ptr": torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
            "head": torch.zeros(batch.n_systems, dtype=torch.int64),
        }
        return self.module(data, compute_force=False, training=True)["energy"]


@pytest.fixture(scope="module")
def mace():
    modules = pytest.importorskip("mace.modules")
    from e3nn import o3

    torch.manual_seed(0)
    return modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=6,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=2,
        num_elements=len(SPECIES),
        hidden_irreps=o3.Irreps("8x0e + 8x1o"),
        MLP_irreps=o3.Irreps("8x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros((1, len(SPECIES))),
        avg_num_neighbors=4.0,
        atomic_numbers=list(SPECIES),
        correlation=2,
        radial_type="bessel",
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    ).double()


def _vendor(module, atoms):
    """Energy and forces by MACE's own neighbour list and derivatives."""
    from mace import data, tools

    table = tools.AtomicNumberTable(list(SPECIES))
    atomic = data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=CUTOFF)
    loader = tools.torch_geometric.dataloader.DataLoader([atomic], batch_size=1)
    entry = {
        k: v.double() if v.is_floating_point() else v
        for k, v in next(iter(loader)).to_dict().items()
        if torch.is_tensor(v)
    }
    out = module(entry, compute_force=True)
    return out["energy"].detach(), out["forces"].detach()


def test_mace_energy_through_the_protocol(mace):
    systems = [molecule("H2O"), molecule("CH3CH2OH"), bulk("C", "diamond", a=3.57)]
    for atoms in systems:
        atoms.rattle(0.02, seed=1)
    potential = MaceEnergy(mace)
    assert isinstance(potential, Potential)
    batch, _ = collate([frame_from_atoms(a) for a in systems], potential.cutoffs)
    predicted = evaluate(potential, batch, ("energy", "forces", "hessian"))
    start = 0
    for number, atoms in enumerate(systems):
        energy, forces = _vendor(mace, atoms)
        assert abs(predicted.energy[number] - energy.squeeze()) < 1e-6
        assert (predicted.forces[start : start + len(atoms)] - forces).abs().max() < 1e-6
        start += len(atoms)
    hessian = predicted.hessian[0, :9, :9]
    translations = hessian.reshape(9, 3, 3).sum(1)
    assert translations.abs().max() < 1e-9 * hessian.abs().max()
