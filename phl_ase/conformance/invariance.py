"""Checks of what a potential may not depend on: the rest of the batch, position, orientation, order of atoms."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from phl_ase.conformance.subject import Subject, filled, frame_of, moved, relative
from phl_ase.derivatives import evaluate
from phl_ase.errors import PHLError
from phl_ase.structures import Batch


def energies(s: Subject) -> float:
    """Return the number of energies that are not finite; an error unless there is one energy for each system."""
    energy = s.potential(s.batch())
    if energy.shape != (len(s.frames),):
        raise PHLError(f"energies have shape {tuple(energy.shape)}; expected {(len(s.frames),)}, one for each system")
    return float((~torch.isfinite(energy)).sum())


def inputs(s: Subject) -> float:
    """Return the number of tensors of the batch and the potential that evaluating changed."""
    batch = s.batch()
    before = [t.detach().clone() for t in _tensors(s, batch)]
    probes = s.tensor(np.concatenate(s.directions(), axis=1))
    evaluate(s.potential, batch, ("forces", "hvp"), probes=probes)
    evaluate(s.potential, batch, ("stress",))  # works on strained copies
    after = _tensors(s, batch)
    return float(sum(not torch.equal(a, b) for a, b in zip(after, before, strict=True)) + batch.positions.requires_grad)


def _tensors(s: Subject, batch: Batch) -> list[Tensor]:
    lists = [t for n in batch.neighbours.values() for t in (n.i, n.j, n.shifts) if t is not None]
    state = list(s.potential.state_dict().values()) if isinstance(s.potential, nn.Module) else []
    state = [value for value in state if isinstance(value, Tensor)]  # modules may keep notes of other kinds there
    return [batch.positions, batch.cell, batch.numbers, batch.system, batch.pbc, batch.charge, *lists, *state]


def batching(s: Subject) -> float:
    """Compare energies and forces of each system in the batch with those of the system alone."""
    together = s.evaluate()
    alone = [s.evaluate([frame]) for frame in s.frames]
    energy = (together.energy - torch.cat([p.energy for p in alone])).abs().max().item() / s.scale
    return max(energy, relative(filled(together.forces), torch.cat([filled(p.forces) for p in alone])))


def crosstalk(s: Subject) -> float:
    """Largest derivative of one system's energy in the positions of another."""
    batch = s.batch()
    positions = batch.positions.detach().requires_grad_()
    energy = s.potential(batch.moved(positions))
    worst = 0.0
    for system in range(batch.n_systems):
        (gradient,) = torch.autograd.grad(energy[system], positions, retain_graph=True, materialize_grads=True)
        others = gradient[batch.system != system]
        worst = max(worst, others.abs().max().item() if others.numel() else 0.0)
    return worst


def translation(s: Subject) -> float:
    """Systems shifted at random, the atoms of cells wrapped back into them."""
    shifted = moved(s.frames, [s.rng.uniform(-4.0, 4.0, size=3) for _ in s.frames])
    wrapped = [
        dataclasses.replace(f, positions=(f.positions @ np.linalg.inv(f.cell) % 1.0) @ f.cell) if f.pbc.all() else f
        for f in shifted
    ]
    return s.change(wrapped, lambda _, forces: forces)


def rotation(s: Subject) -> float:
    """Systems turned by a random rotation."""
    q, _ = np.linalg.qr(s.rng.normal(size=(3, 3)))
    q = q * np.linalg.det(q)
    turned = [dataclasses.replace(f, positions=f.positions @ q.T, cell=f.cell @ q.T) for f in s.frames]
    return s.change(turned, lambda _, forces: forces @ s.tensor(q).T)


def permutation(s: Subject) -> float:
    """Atoms in another order."""
    orders = [s.rng.permutation(len(f)) for f in s.frames]
    shuffled = [
        dataclasses.replace(f, numbers=f.numbers[order], positions=f.positions[order])
        for f, order in zip(s.frames, orders, strict=True)
    ]
    return s.change(shuffled, lambda k, forces: forces[torch.from_numpy(orders[k]).to(forces.device)])


def separation(s: Subject) -> float | None:
    """Compare the energy of two molecules beyond the receptive field with the sum of both."""
    molecules = [f for f in s.frames if not f.pbc.any()]
    if not molecules or not np.isfinite(s.potential.receptive_field):  # charges feel each other at any distance
        return None
    a, b = molecules[0], molecules[-1]
    gap = s.potential.receptive_field + 1.0 - b.positions[:, 2].min() + a.positions[:, 2].max()
    far = b.positions + np.array([0.0, 0.0, gap])
    both = frame_of(np.concatenate([a.numbers, b.numbers]), np.concatenate([a.positions, far]))
    energy = s.energies([both, a, b])
    return (energy[0] - energy[1] - energy[2]).abs().item() / s.scale
