"""Derivatives: against finite differences, one vector at a time against many, batches against single systems."""

from __future__ import annotations

import dataclasses
import gc

import numpy as np
import pytest
import torch
from surfaces import POTENTIALS, cluster, crystal, mixed, morse, painn

from phl_ase.derivatives import GradientGraph, evaluate, rows_per_chunk
from phl_ase.derivatives import graph as graph_module
from phl_ase.errors import PHLError
from phl_ase.structures import Frame, collate

every_potential = pytest.mark.parametrize("name", POTENTIALS)
STEP = 1e-3
# the error of differences extrapolated to h⁴, with derivatives of the fifth order up to 1e4 in eV and Å
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


def batch_of(potential, frames, device="cpu"):
    return collate(frames, potential.cutoffs)[0].to(device)


def slope(function, h: float = STEP):
    """Central differences at h and 2h, extrapolated (Richardson); of NumPy arrays."""
    return (8 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12 * h)


def moved(frame: Frame, index: int, t: float) -> Frame:
    positions = frame.positions.copy()
    positions.reshape(-1)[index] += t
    return dataclasses.replace(frame, positions=positions)


def strained(frame: Frame, strain: np.ndarray) -> Frame:
    f = np.eye(3) + strain
    return dataclasses.replace(frame, positions=frame.positions @ f, cell=frame.cell @ f)


@pytest.fixture(params=["molecule", "cell"])
def frame(request, rng) -> Frame:
    return cluster(rng, 4) if request.param == "molecule" else crystal(rng, 3)


# ------------------------------------------------------------------------------------------------- finite differences


@every_potential
def test_forces(name, frame, device):
    potential = POTENTIALS[name]().to(device)
    forces = evaluate(potential, batch_of(potential, [frame], device)).forces
    displaced = lambda t: [moved(frame, k, t) for k in range(3 * len(frame))]  # noqa: E731
    energies = lambda t: evaluate(potential, batch_of(potential, displaced(t), device), ("energy",)).energy  # noqa: E731
    torch.testing.assert_close(forces.reshape(-1), -slope(energies), **CLOSE)


@every_potential
def test_hessian(name, frame, device):
    potential = POTENTIALS[name]().to(device)
    n = len(frame)
    hessian = evaluate(potential, batch_of(potential, [frame], device), ("hessian",)).hessian[0]
    displaced = lambda t: [moved(frame, k, t) for k in range(3 * n)]  # noqa: E731
    forces = lambda t: evaluate(potential, batch_of(potential, displaced(t), device)).forces.reshape(3 * n, 3 * n)  # noqa: E731
    torch.testing.assert_close(hessian, -slope(forces), **CLOSE)
    assert torch.equal(hessian, hessian.T)


@every_potential
def test_hvps(name, frame, device, generator):
    potential = POTENTIALS[name]().to(device)
    batch = batch_of(potential, [frame], device)
    probes = torch.randn(3, len(frame), 3, dtype=torch.float64, generator=generator).to(device)
    predicted = evaluate(potential, batch, ("hvp", "hessian"), probes=probes)
    along = lambda v: lambda t: evaluate(potential, batch.moved(batch.positions + t * v)).forces  # noqa: E731
    differences = torch.stack([-slope(along(v)) for v in probes])
    torch.testing.assert_close(predicted.hvp, differences, **CLOSE)
    dense = (predicted.hessian[0] @ probes.reshape(3, -1).T).T.reshape(probes.shape)
    torch.testing.assert_close(predicted.hvp, dense, rtol=1e-11, atol=1e-11)


@every_potential
def test_stress(name, rng, device):
    """Against differences of the energy in all strains, per volume; ASE's sign: compressed, it is negative."""
    potential = POTENTIALS[name]().to(device)
    cell = crystal(rng)
    volume = abs(np.linalg.det(cell.cell))
    stress = evaluate(potential, batch_of(potential, [cell], device), ("stress",)).stress[0]
    for a in range(3):
        for b in range(3):
            strain = np.zeros((3, 3))
            strain[a, b] += 0.5
            strain[b, a] += 0.5
            energy = lambda t, e=strain: potential(batch_of(potential, [strained(cell, t * e)], device)).item()  # noqa: E731
            assert stress[a, b].item() == pytest.approx(slope(energy) / volume, rel=1e-6, abs=1e-7)
    assert torch.equal(stress, stress.T)


def test_sign_of_the_stress_is_that_of_ase(rng):
    """Springs longer than their rest length pull inwards: positive stress in ASE."""
    potential = POTENTIALS["harmonic"]()
    pair = Frame(numbers=np.array([1, 1]), positions=np.array([[0, 0, 0], [1.5, 0, 0]]), cell=9 * np.eye(3))
    stress = evaluate(potential, batch_of(potential, [pair]), ("stress",)).stress[0]
    assert stress[0, 0] > 0
    assert stress[1, 1] == stress[2, 2] == 0


def test_no_cell_no_stress(rng):
    potential = morse()
    assert torch.equal(
        evaluate(potential, batch_of(potential, [cluster(rng, 3)]), ("stress",)).stress,
        torch.zeros(1, 3, 3, dtype=torch.float64),
    )


# ---------------------------------------------------------------------------------------------------------- batches


@every_potential
def test_batch_is_single(name, rng, device, generator):
    potential = POTENTIALS[name]().to(device)
    frames = mixed(rng)
    batch = batch_of(potential, frames, device)
    probes = torch.randn(2, len(batch.numbers), 3, dtype=torch.float64, generator=generator).to(device)
    needs = ("energy", "forces", "stress", "hvp", "hessian")
    together = evaluate(potential, batch, needs, probes=probes)
    start = 0
    for s, frame in enumerate(frames):
        atoms = slice(start, start + len(frame))
        start += len(frame)
        alone = evaluate(potential, batch_of(potential, [frame], device), needs, probes=probes[:, atoms])
        pairs = [
            (together.energy[s], alone.energy[0]),
            (together.forces[atoms], alone.forces),
            (together.stress[s], alone.stress[0]),
            (together.hvp[:, atoms], alone.hvp),
            (together.hessian[s, : 3 * len(frame), : 3 * len(frame)], alone.hessian[0]),
        ]
        for got, expected in pairs:
            # only the order of sums may differ: 1e-12 of the largest component
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12 * max(expected.abs().max().item(), 1.0))
        rest = together.hessian[s].clone()
        rest[: 3 * len(frame), : 3 * len(frame)] = 0
        assert not rest.any()


@every_potential
@pytest.mark.parametrize("mode", ["batched", "loop"])
def test_many_vectors_are_one_at_a_time(name, mode, rng, generator, monkeypatch):
    potential = POTENTIALS[name]()
    potential.derivative_modes = (mode,)
    batch = batch_of(potential, mixed(rng))
    probes = torch.randn(5, len(batch.numbers), 3, dtype=torch.float64, generator=generator)
    together = evaluate(potential, batch, ("hvp",), probes=probes).hvp
    single = torch.cat([evaluate(potential, batch, ("hvp",), probes=v[None]).hvp for v in probes])
    torch.testing.assert_close(together, single, rtol=1e-11, atol=1e-11)
    monkeypatch.setattr(graph_module, "CPU_CHUNK", 1)  # chunks of one
    chunked = evaluate(potential, batch, ("hvp",), probes=probes).hvp
    torch.testing.assert_close(chunked, together, rtol=1e-11, atol=1e-11)


def test_one_atom_alone(rng, device):
    model = painn().to(device)
    atom = cluster(rng, 1)
    needs = ("energy", "forces", "hvp", "hessian")
    predicted = evaluate(model, batch_of(model, [atom], device), needs, probes=torch.ones(2, 1, 3).double().to(device))
    assert torch.isfinite(predicted.energy).all()
    assert not predicted.forces.any()
    assert not predicted.hvp.any()
    assert predicted.hvp.shape == (2, 1, 3)
    assert not predicted.hessian.any()
    assert predicted.hessian.shape == (1, 3, 3)


# ------------------------------------------------------------------------------------------------- memory and cost


def test_memory_budget_too_small(rng):
    model = painn()
    for budget in (1, 1000):
        with pytest.raises(
            PHLError, match=r"one Hessian-vector product needs about .* raise the budget or evaluate fewer"
        ):
            evaluate(model, batch_of(model, [cluster(rng, 4)]), ("hessian",), memory_budget=budget)


def test_memory_budget_changes_no_result(rng, device):
    model = painn().to(device)
    batch = batch_of(model, mixed(rng), device)
    saved = GradientGraph(model, batch, curvature=True).saved_bytes
    assert saved > 0
    whole = evaluate(model, batch, ("hessian",)).hessian
    for rows in (1, 2, 7):
        part = evaluate(model, batch, ("hessian",), memory_budget=rows * saved + 1).hessian
        torch.testing.assert_close(part, whole, rtol=1e-11, atol=1e-11)


def test_rows_per_chunk():
    assert rows_per_chunk(100, 1000) == 10
    assert rows_per_chunk(0, 1000) == 1000
    with pytest.raises(PHLError):
        rows_per_chunk(1001, 1000)


def test_no_graph_at_inference(rng):
    model = painn()
    batch = batch_of(model, mixed(rng))
    needs = ("energy", "forces", "stress", "hvp", "hessian")
    predicted = evaluate(model, batch, needs, probes=torch.ones(1, len(batch.numbers), 3).double())
    for name in needs:
        assert not getattr(predicted, name).requires_grad
    assert not evaluate(model, batch, ("energy",)).energy.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_nothing_is_left_behind(rng):
    """Graphs are freed when their results are: a graph that keeps itself alive would fill the memory in an hour."""
    model = painn()
    batch = batch_of(model, [cluster(rng, 3)])
    probes = torch.ones(1, 3, 3).double()

    def alive() -> int:
        for create_graph in (False, True):
            evaluate(model, batch, ("hvp", "hessian"), probes=probes, create_graph=create_graph)
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    alive()
    before = alive()
    assert alive() <= before


def test_forces_do_not_pay_for_curvature(rng, monkeypatch):
    model = painn()
    batch = batch_of(model, [cluster(rng, 4)])
    monkeypatch.setattr(GradientGraph, "hvp", lambda *_: pytest.fail("a second derivative was taken"))
    for create_graph in (False, True):
        predicted = evaluate(model, batch, ("energy", "forces"), create_graph=create_graph)
        assert predicted.hvp is predicted.hessian is predicted.stress is None
        assert predicted.forces.requires_grad is create_graph
    assert evaluate(model, batch, ("energy",)).forces is None


# ------------------------------------------------------------------------------------------- gradients in parameters


@every_potential
def test_gradient_of_an_hvp_loss_in_the_parameters(name, rng, generator, device):
    """∂L/∂θ of L = |Hv − t|² + |F|², a third derivative, against differences along random directions of θ."""
    potential = POTENTIALS[name]().to(device)
    batch = batch_of(potential, mixed(rng), device)
    shape = (2, len(batch.numbers), 3)
    probes, target = (torch.randn(shape, dtype=torch.float64, generator=generator).to(device) for _ in range(2))

    def loss():
        predicted = evaluate(potential, batch, ("forces", "hvp"), probes=probes, create_graph=True)
        return (predicted.hvp - target).square().mean() + predicted.forces.square().mean()

    parameters = list(potential.parameters())
    gradient = torch.autograd.grad(loss(), parameters, allow_unused=True, materialize_grads=True)
    start = [p.detach().clone() for p in parameters]
    for _ in range(3):
        direction = [torch.randn(p.shape, dtype=p.dtype, generator=generator).to(device) for p in parameters]

        def at(t, direction=direction):
            with torch.no_grad():
                for p, p0, d in zip(parameters, start, direction, strict=True):
                    p.copy_(p0 + 0.1 * t * d)
            return loss().item()

        exact = sum(0.1 * (g * d).sum().item() for g, d in zip(gradient, direction, strict=True))
        assert exact == pytest.approx(slope(at), rel=1e-6)
        at(0.0)


# ---------------------------------------------------------------------------------------------------------- mistakes


def test_mistakes(rng):
    potential = morse()
    batch = batch_of(potential, [cluster(rng, 3)])
    with pytest.raises(PHLError, match="unknown quantity 'hesian'; valid: energy, forces, hessian, hvp, stress"):
        evaluate(potential, batch, ("hesian",))
    with pytest.raises(PHLError, match="without probes"):
        evaluate(potential, batch, ("hvp",))
    with pytest.raises(PHLError, match=r"vectors of shape \(1, 4, 3\); expected \(K, 3, 3\)"):
        evaluate(potential, batch, ("hvp",), probes=torch.ones(1, 4, 3, dtype=torch.float64))
