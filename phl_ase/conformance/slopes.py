"""Checks of derivatives: against finite differences, against each other, and by every mode the potential declares."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from phl_ase.conformance.report import Measured
from phl_ase.conformance.subject import TINY, Subject, filled, frame_of, moved, relative, slope
from phl_ase.derivatives import evaluate
from phl_ase.structures import Batch, Frame, Potential, to_dense

_REPEATS = 2


def forces(s: Subject) -> float:
    """−F·v against differences of the energy, along random v."""
    exact, batch = s.forces(s.frames), s.batch()
    size = s.sums(batch, exact.square()).sqrt().clamp(min=TINY)

    def error(v: list[np.ndarray], h: float) -> float:
        steps = slope(lambda t: s.energies(_along(s.frames, v, t)), h)
        return ((steps + s.sums(batch, exact * s.tensor(np.concatenate(v)))).abs() / size).max().item()

    return max(s.steps.best(partial(error, v), s.steps.displacement) for v in _several(s))


def stress(s: Subject) -> float | None:
    """Stress against differences of the energy in the six strains of each cell."""
    cells = [f for f in s.frames if f.pbc.all()]
    if not cells:
        return None
    exact = filled(s.evaluate(cells, ("stress",)).stress)
    volumes = s.tensor(np.array([abs(np.linalg.det(f.cell)) for f in cells]))

    def strained_energies(strain: np.ndarray, t: float) -> Tensor:
        turn = np.eye(3) + t * strain
        return s.energies([dataclasses.replace(f, positions=f.positions @ turn, cell=f.cell @ turn) for f in cells])

    def error(h: float) -> float:
        steps = torch.zeros_like(exact)
        for a, b in zip(*np.triu_indices(3), strict=True):
            strain = np.zeros((3, 3))
            strain[a, b] += 0.5
            strain[b, a] += 0.5
            change = slope(partial(strained_energies, strain), h)
            steps[:, a, b] = steps[:, b, a] = (change / volumes).to(steps.dtype)
        return relative(exact, steps)

    return s.steps.best(error, s.steps.displacement)


def hvps(s: Subject) -> float:
    """H·v against differences of the forces, along random v."""
    batch = s.batch()

    def error(v: list[np.ndarray], h: float) -> float:
        steps = slope(lambda t: s.forces(_along(s.frames, v, t)), h)
        return relative(_hvps(s, batch, s.tensor(np.concatenate(v))[None])[0], -steps)

    return max(s.steps.best(partial(error, v), s.steps.displacement) for v in _several(s))


def symmetry(s: Subject) -> float:
    """U·H·v − v·H·u of random u and v."""
    batch, pair = s.batch(), s.tensor(np.concatenate(s.directions(2), axis=1))
    u, v = pair[0], pair[1]
    hu, hv = _hvps(s, batch, pair).unbind()
    size = s.sums(batch, hv.square()).sqrt().clamp(min=TINY)
    return ((s.sums(batch, u * hv) - s.sums(batch, v * hu)).abs() / size).max().item()


def hessian(s: Subject) -> float:
    """Compare the Hessian times v with the HVP."""
    batch, v = s.batch(), s.tensor(np.concatenate(s.directions(), axis=1))
    dense = filled(evaluate(s.potential, batch, ("hessian",)).hessian)
    n = dense.shape[-1] // 3
    expected = to_dense(batch, _hvps(s, batch, v), n)[0]
    return relative(torch.einsum("sab,sb->sa", dense, to_dense(batch, v, n)[0]), expected)


def acoustic(s: Subject) -> float:
    """Sums of Hessian rows over the atoms, which a translation makes zero."""
    dense = filled(s.evaluate(needs=("hessian",)).hessian)
    sums = dense.reshape(len(dense), -1, dense.shape[-1] // 3, 3).sum(2)
    return (sums.abs().max() / dense.abs().max().clamp(min=TINY)).item()


def batched_mode(s: Subject) -> float | None:
    """HVPs by vectorised reverse mode against one at a time."""
    if "batched" not in s.potential.derivative_modes:
        return None
    batch, v = s.batch(), s.tensor(np.concatenate(s.directions(_REPEATS), axis=1))
    one = evaluate(OneMode(s.potential, "loop"), batch, ("hvp",), probes=v).hvp
    together = evaluate(OneMode(s.potential, "batched"), batch, ("hvp",), probes=v).hvp
    return relative(filled(together), filled(one))


def func_mode(s: Subject) -> float | None:
    """HVPs by torch.func transforms against one at a time."""
    if "func" not in s.potential.derivative_modes:
        return None
    batch, v = s.batch(), s.tensor(np.concatenate(s.directions(_REPEATS), axis=1))
    return relative(
        func_hvps(s, batch, v), filled(evaluate(OneMode(s.potential, "loop"), batch, ("hvp",), probes=v).hvp)
    )


def func_hvps(s: Subject, batch: Batch, vectors: Tensor) -> Tensor:
    """H·v by torch.func transforms alone."""
    gradient = torch.func.grad(lambda positions: s.potential(batch.moved(positions)).sum())
    pull = torch.func.vjp(gradient, batch.positions)[1]
    (together,) = torch.func.vmap(pull)(vectors)
    return together


def parameters(s: Subject) -> Measured | None:
    """Gradient of an HVP loss in the parameters against its differences along random directions of the parameters."""
    if not isinstance(s.potential, nn.Module):
        return None
    leaves = [p.requires_grad_() for p in s.potential.parameters() if p.is_floating_point()]
    if not leaves:
        return None
    batch, v = s.batch(), s.tensor(np.concatenate(s.directions(2), axis=1))
    # a target as large as the HVPs, so that the loss is not at a minimum
    target = 0.5 * _hvps(s, batch, v).roll(1, dims=-1)

    def loss() -> Tensor:
        hvp = filled(evaluate(s.potential, batch, ("hvp",), probes=v, create_graph=True).hvp)
        return (hvp - target).square().mean()

    value = loss()
    if not value.requires_grad:
        return Measured(0.0)
    gradient = torch.autograd.grad(value, leaves, materialize_grads=True, allow_unused=True)
    sizes = [p.detach().square().mean().sqrt().item() or 1.0 for p in leaves]
    directions = [
        [s.tensor(s.rng.normal(size=tuple(p.shape))) * size for p, size in zip(leaves, sizes, strict=True)]
        for _ in range(_REPEATS)
    ]
    exact = torch.stack([torch.stack([(g * d).sum() for g, d in zip(gradient, ds, strict=True)]) for ds in directions])

    def loss_at(direction: Sequence[Tensor], t: float) -> Tensor:
        kept = [p.detach().clone() for p in leaves]
        with torch.no_grad():
            for p, d in zip(leaves, direction, strict=True):
                p.add_(t * d)
        value = loss().detach().double()
        with torch.no_grad():
            for p, old in zip(leaves, kept, strict=True):
                p.copy_(old)
        return value

    found: dict[float, str] = {}

    def error(h: float) -> float:
        steps = torch.stack([slope(partial(loss_at, ds), h) for ds in directions])
        got = exact.double().sum(1)
        worst = relative(got, steps)
        place = (got - steps).abs().argmax()  # the component that is furthest off
        factor = (got[place] / steps[place]).item()
        found[worst] = f"E-F-HVP gradients of this model are {factor:.2g} × what they should be"
        return worst

    best = s.steps.best(error, s.steps.parameter)
    return Measured(best, found[best])


def degenerate(s: Subject) -> float:
    """Return the number of gradients in the parameters that are not finite where vector features are zero.

    A lone atom, a dimer and a symmetric linear molecule: the norm of a zero vector has no derivative.
    """
    d = 0.4 * min(s.potential.cutoffs)
    z = s.species[0], s.species[-1], s.species[0]
    frames = [frame_of(z[:1], np.zeros((1, 3))), frame_of(z[:2], [[0, 0, 0], [0, 0, d]])]
    frames.append(frame_of(z, [[0, 0, -d], [0, 0, 0], [0, 0, d]]))
    batch = s.batch(frames)
    probes = s.tensor(s.rng.normal(size=(1, 6, 3)))
    predicted = evaluate(s.potential, batch, ("forces", "hvp"), probes=probes, create_graph=True)
    values = [predicted.energy, filled(predicted.forces), filled(predicted.hvp)]
    if isinstance(s.potential, nn.Module):
        leaves = [p.requires_grad_() for p in s.potential.parameters() if p.is_floating_point()]
        predicted = evaluate(s.potential, batch, ("hvp",), probes=probes, create_graph=True)
        loss = filled(predicted.hvp).square().sum()
        if leaves and loss.requires_grad:
            values += torch.autograd.grad(loss, leaves, materialize_grads=True, allow_unused=True)
    return float(sum(int((~torch.isfinite(x)).sum()) for x in values))


class OneMode:
    """A potential that offers one derivative mode only.

    Args:
        potential: The potential.
        mode: One of its modes.
    """

    def __init__(self, potential: Potential, mode: str) -> None:
        self.potential = potential
        self.species, self.cutoffs = potential.species, potential.cutoffs
        self.receptive_field, self.takes_charge = potential.receptive_field, potential.takes_charge
        self.derivative_modes: tuple[str, ...] = (mode,)

    def __call__(self, batch: Batch) -> Float[Tensor, " systems"]:
        """Energies, eV."""
        return self.potential(batch)


def _hvps(s: Subject, batch: Batch, vectors: Tensor) -> Tensor:
    return filled(evaluate(s.potential, batch, ("hvp",), probes=vectors).hvp)


def _several(s: Subject) -> list[list[np.ndarray]]:
    return [[vectors[0] for vectors in s.directions()] for _ in range(_REPEATS)]


def _along(frames: Sequence[Frame], directions: Sequence[np.ndarray], t: float) -> list[Frame]:
    return moved(frames, [t * v for v in directions])
