"""HVPs along rigid motions that Hessians do not compute: right for every shape, not believed where they fail."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from surfaces import POTENTIALS, cluster, crystal, mixed, painn

from phl_ase.derivatives import GradientGraph, evaluate
from phl_ase.derivatives import hessian as hessian_module
from phl_ase.derivatives.rigid import RigidMotions
from phl_ase.structures import Frame, collate, in_faster_form, to_dense


def molecule(positions) -> Frame:
    return Frame(numbers=np.resize([1, 6, 8], len(positions)), positions=np.array(positions, dtype=float))


LINE = np.array([[0.0, 0.0, 0.0], [0.6, 0.7, 0.3], [1.3, 1.5, 0.64], [1.9, 2.2, 0.94]])
SHAPES = {
    "one atom": (molecule([[0.3, 0.2, 0.1]]), 3),
    "two atoms": (molecule([[0, 0, 0], [0.7, 0.6, 0.2]]), 5),
    "on a line": (molecule(np.outer([0.0, 1.1, 2.3], [0.6, 0.0, 0.8])), 5),
    "nearly on a line": (molecule(LINE), 5),
    "bent a little": (molecule([[0, 0, 0], [1.1, 0.15, 0], [2.3, 0, 0.05]]), 6),
    "a triangle": (molecule([[0, 0, 0], [1.1, 0, 0], [0.4, 0.9, 0.1]]), 6),
    "apart": (molecule([[0, 0, 0], [0, 0, 9], [0, 9, 0]]), 6),
}


def by_rows(potential, batch) -> torch.Tensor:
    """Every row of the Hessians computed, none symmetrised."""
    graph = GradientGraph(potential, batch, curvature=True)
    n_max = int(batch.sizes().max())
    rows = graph.hvp(hessian_module.directions(batch.slot, 0, 3 * n_max, batch.positions.dtype))
    return to_dense(batch, rows, n_max).transpose(0, 1)


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """Numbers of HVPs that graphs were asked for."""
    asked: list[int] = []
    hvps = GradientGraph.hvp

    def counting(self, vectors, memory_budget=None):
        asked.append(len(vectors))
        return hvps(self, vectors, memory_budget)

    monkeypatch.setattr(GradientGraph, "hvp", counting)
    return asked


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["painn", "morse", "committee"])
def test_every_shape_and_how_many_hvps_it_takes(name, shape, computed):
    potential = POTENTIALS[name]()
    frame, n_motions = SHAPES[shape]
    batch, _ = collate([frame], potential.cutoffs)
    got = evaluate(potential, batch, ("hessian",)).hessian
    assert computed == [3 * len(frame) - n_motions + 1]
    expected = by_rows(potential, batch)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12 * max(1.0, expected.abs().max().item()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", POTENTIALS)
def test_molecules_of_different_size_and_a_cell_among_them(name, dtype, rng, computed):
    potential = POTENTIALS[name]().to(dtype)
    frames = [cluster(rng, 6), SHAPES["on a line"][0], *mixed(rng)]
    batch = collate(frames, potential.cutoffs)[0].to(dtype=dtype)
    got = evaluate(potential, batch, ("hessian",)).hessian
    assert got.dtype == dtype
    assert computed == [3 * 6 - 6 + 1]
    expected = by_rows(potential, batch)
    rounding = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    torch.testing.assert_close(got, expected, rtol=0, atol=rounding * expected.abs().max().item())


def test_molecules_in_blocks(rng, computed):
    potential = painn(channels=4)
    batch = collate([cluster(rng, 12), cluster(rng, 10), cluster(rng, 11)], potential.cutoffs)[0]
    blocks, _ = in_faster_form(potential, batch, hessians=True)
    assert blocks.atom_mask is not None
    got = evaluate(potential, batch, ("hessian",)).hessian
    assert computed == [3 * 12 - 6 + 1]
    torch.testing.assert_close(got, by_rows(potential, batch), rtol=0, atol=1e-11)


def test_motions_and_what_stands_beside_them_are_a_basis(rng):
    potential = painn(channels=4)
    frames = [cluster(rng, 5), *(frame for frame, _ in SHAPES.values()), crystal(rng)]
    batch = collate(frames, potential.cutoffs)[0]
    rigid = RigidMotions.of(batch, GradientGraph(potential, batch).gradient, 5)
    for s, frame in enumerate(frames):
        basis = torch.cat([rigid.motions[s], rigid.others[s]], dim=1)
        basis = basis[:, basis.abs().sum(0) > 0]
        assert basis.shape[1] == 3 * len(frame)
        assert not basis[3 * len(frame) :].any()
        torch.testing.assert_close(basis.T @ basis, torch.eye(3 * len(frame)).double(), rtol=0, atol=1e-14)


class InField(torch.nn.Module):
    """A potential in an external field, which the molecule can neither leave nor be turned in."""

    def __init__(self, field) -> None:
        super().__init__()
        self.inner, self.field = POTENTIALS["morse"](), field

    def __getattr__(self, name):
        if name in ("species", "cutoffs", "receptive_field", "derivative_modes", "takes_charge"):
            return getattr(self.inner, name)
        return super().__getattr__(name)

    def forward(self, batch):
        field = torch.zeros(batch.n_systems, dtype=batch.positions.dtype)
        return self.inner(batch) + field.index_add(0, batch.system, self.field(batch))


FIELDS = {
    "a trap": lambda batch: 0.3 * batch.positions.square().sum(-1),
    "a wall": lambda batch: torch.exp(-batch.positions[:, 2]),
    "a small one": lambda batch: 1e-5 * batch.positions[:, 0] ** 3,
    # moves along with the molecule, but not round with it
    "of a direction": lambda batch: 0.1 * (batch.positions[:, 0] - batch.positions[:, 0].mean()) ** 2,
    "constant": lambda batch: 0.1 * batch.positions[:, 1],
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("n", [1, 4])
def test_where_the_potential_knows_places_or_directions_nothing_is_taken_for_granted(field, n, rng, computed):
    potential = InField(FIELDS[field])
    batch = collate([cluster(rng, n)], potential.cutoffs)[0]
    got = evaluate(potential, batch, ("hessian",)).hessian
    tried = list(computed)
    torch.testing.assert_close(got, by_rows(potential, batch), rtol=0, atol=1e-12)
    # a constant field pulls a molecule but bends nothing: only that it resists turning gives it away
    known = n == 1 and field in ("constant", "of a direction")
    assert tried == ([3 * n - (3 if n == 1 else 6) + 1] if known else [3 * n - (3 if n == 1 else 6) + 1, 6])


def test_a_graph_that_is_kept_and_large_systems_take_every_row(rng, computed, monkeypatch):
    potential = painn(channels=4)
    batch = collate([cluster(rng, 4)], potential.cutoffs)[0]
    hessian = evaluate(potential, batch, ("hessian",), create_graph=True).hessian
    assert computed == [12]
    hessian.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in potential.parameters() if p.grad is not None)
    computed.clear()
    monkeypatch.setattr(hessian_module, "FEW_ATOMS", 3)
    alone = evaluate(potential, batch, ("hessian",)).hessian
    assert computed == [12]
    torch.testing.assert_close(alone, hessian.detach(), rtol=0, atol=1e-12)


def test_a_field_in_one_of_several_systems_is_seen(rng):
    potential = InField(lambda batch: torch.where(batch.system == 1, batch.positions[:, 0] ** 4, 0.0))
    frames = [cluster(rng, 3), cluster(rng, 4), cluster(rng, 2)]
    frames[1] = dataclasses.replace(frames[1], positions=frames[1].positions + 1.0)
    batch = collate(frames, potential.cutoffs)[0]
    got = evaluate(potential, batch, ("hessian",)).hessian
    torch.testing.assert_close(got, by_rows(potential, batch), rtol=1e-12, atol=1e-11)
