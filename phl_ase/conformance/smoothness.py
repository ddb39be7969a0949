"""Checks of smoothness: three derivatives that fit together along paths, and none that jumps at a cutoff.

Where a derivative jumps, the integral of the next one along a path differs from its change, however small the step:
this finds activations with kinks (ReLU; CELU in the second derivative) and norms such as √(x + ε), which finite
differences at a point miss. The gradient of an HVP loss is a third derivative (arXiv:2603.04523).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from phl_ase.conformance.report import Measured
from phl_ase.conformance.subject import TINY, Subject, frame_of
from phl_ase.structures import Frame

_NODES = 6
_PANELS, _WORST, _PIECES = 12, 3, 4  # panels of a path at first, how many are cut at a time, and into how many
_ATOMS_TOGETHER = 96  # graphs of third derivatives are large: more at a time is slower, and takes gigabytes
_APPROACHING = 4  # elements that are brought near, at most
_KEPT, _CUTS = 5, 8  # intervals that are cut again, and into how many
ORDERS = ("energy", "force", "Hessian", "third derivative")


def path(s: Subject) -> float:
    """Follow a random path of each molecule, 0.3 Å long; the worst of them counts."""
    worst = 0.0
    for frame in [f for f in s.frames if not f.pbc.any()] or s.frames:
        direction = s.rng.normal(size=(len(frame), 3))
        worst = max(worst, _rough(s, frame, 0.3 * direction / np.linalg.norm(direction)))
    return worst


def symmetric(s: Subject) -> float:
    """Move the centre of a symmetric linear molecule through the point where its vector features vanish."""
    d = 0.4 * min(s.potential.cutoffs)
    outer, inner = s.species[0], s.species[-1]
    direction = np.zeros((3, 3))
    direction[1] = [0.1, 0.0, 0.1]
    frame = frame_of([outer, inner, outer], np.array([[0, 0, -d], [0, 0, 0], [0, 0, d]]) - 0.5 * direction)
    return _rough(s, frame, direction)


def crossing(s: Subject, order: int) -> float:
    """Return the jump of a derivative where an atom leaves the cutoff of another, over its size inside.

    It is the difference of both sides, extrapolated linearly to the cutoff: a slope does not count, a jump does. Of
    several cutoffs the worst counts.
    """
    h, worst = s.steps.crossing, []
    axis = -np.array([2.0, 2.0, 1.0]) / 3.0  # away from the others: no second pair crosses with this one
    away = min(s.potential.receptive_field, 1e3) + 10.0
    numbers = np.resize(np.asarray(s.species), 4)
    for cutoff in [cutoff for cutoff in s.potential.cutoffs if np.isfinite(cutoff)]:
        d = min(1.1, 0.4 * cutoff)
        rest = np.array([[0.0, 0.0, 0.0], [0.9 * d, 0.3 * d, 0.0], [0.2 * d, 0.9 * d, 0.3 * d]])
        ends = [cutoff + x for x in (h, -h, 0.1 * h, -0.1 * h)]
        inside = list(np.linspace(0.5, 0.95, 10) * cutoff)
        frames = [frame_of(numbers, np.vstack([rest, r * axis])) for r in (*ends, *inside, away)]
        q = _derivatives(s, frames, np.vstack([np.zeros((3, 3)), axis]))[order]
        jump = (10.0 * (q[2] - q[3]) - (q[0] - q[1])) / 9.0
        worst.append((jump.abs() / (q[4:-1] - q[-1]).abs().max().clamp(min=TINY)).item())
    return max(worst)


def jumps(s: Subject) -> Measured:
    """Jumps of the second derivative as an atom of each element approaches three others; the worst of them.

    Where it jumps, its change over an interval is not the integral of the third derivative, however short the interval:
    the intervals with the largest difference are cut again and again, which leaves nothing of a smooth function's.
    """
    worst = Measured(0.0)
    for z in s.species[:_APPROACHING]:
        value, size, place = _largest_jump(s, z)
        if value > worst.value * max(size, TINY):
            note = f"the curvature of {chemical_symbols[z]} against its neighbours jumps by {value:.2g} eV/Å² "
            worst = Measured(value / max(size, TINY), note + f"near r = {place:.2f} Å")
    return worst


def _largest_jump(s: Subject, z: int) -> tuple[float, float, float]:
    """Size of the largest jump, of the second derivative itself (eV/Å²), and where it is (Å)."""
    # an atom at distances from the first of three
    rest = np.array([[0.0, 0.0, 0.0], [1.0, 0.35, 0.0], [0.2, 1.0, 0.35]])
    axis = -np.array([2.0, 2.0, 1.0]) / 3.0
    numbers, direction = [*np.resize(np.asarray(s.species), 3), z], np.vstack([np.zeros((3, 3)), axis])
    finite = [cutoff for cutoff in s.potential.cutoffs if np.isfinite(cutoff)]
    grid = np.linspace(0.9, 0.98 * max(finite), 49)
    intervals, parents = np.stack([grid[:-1], grid[1:]], axis=1), np.zeros(0)
    size = jump = place = 0.0
    for cuts in (1, _CUTS, _CUTS, _CUTS):
        edges = intervals[:, :1] + np.diff(intervals, axis=1) * np.linspace(0.0, 1.0, cuts + 1)
        distances, where = np.unique(edges, return_inverse=True)  # neighbouring intervals share an end
        frames = [frame_of(numbers, np.vstack([rest, r * axis])) for r in distances]
        q = _derivatives(s, frames, direction)[2:].cpu().numpy()[:, where].reshape(2, *edges.shape)
        size = max(size, float(np.abs(q[0]).max()))
        mean = 0.5 * (q[1, :, :-1] + q[1, :, 1:])
        defects = np.abs(np.diff(q[0], axis=1) - mean * np.diff(edges, axis=1))
        if len(parents):
            # to no width: a jump of the second derivative stays, one of the third vanishes with the width
            limits = (_CUTS * defects.max(axis=1) - parents) / (_CUTS - 1)
            worst = int(limits.argmax())
            jump, place = max(0.0, float(limits[worst])), float(edges[worst, defects[worst].argmax()])
        order = np.argsort(defects.ravel())[::-1][:_KEPT]
        intervals = np.stack([edges[:, :-1].ravel()[order], edges[:, 1:].ravel()[order]], axis=1)
        parents = defects.ravel()[order]
    return jump, size, place


def _rough(s: Subject, frame: Frame, direction: np.ndarray) -> float:
    """|q(1) − q(0) − ∫ q′|, q the energy and its first two derivatives along the path, over the size of q.

    The panels of the integral that contribute most are cut again and again: what is left of them is no error of the
    quadrature, and a smooth path costs little.
    """
    edges = np.linspace(0.0, 1.0, _PANELS + 1)
    new = np.stack([edges[:-1], edges[1:]], axis=1)
    panels, defects, size, smallest = np.zeros((0, 2)), np.zeros((3, 0)), np.full(3, TINY), float("inf")
    for _ in range(s.steps.cuts):
        found, sizes = _defects(s, frame, direction, new)
        panels, defects = np.concatenate([panels, new]), np.concatenate([defects, found], axis=1)
        size = np.maximum(size, sizes)
        smallest = min(smallest, float((np.abs(defects.sum(axis=1)) / size).max()))
        if smallest <= s.steps.settled:
            break
        worst = (np.abs(defects) / size[:, None]).max(axis=0).argsort()[-_WORST:]
        cuts = panels[worst, :1] + np.diff(panels[worst], axis=1) * np.linspace(0.0, 1.0, _PIECES + 1)
        new = np.stack([cuts[:, :-1].ravel(), cuts[:, 1:].ravel()], axis=1)
        panels, defects = np.delete(panels, worst, axis=0), np.delete(defects, worst, axis=1)
    return smallest


def _defects(s: Subject, frame: Frame, direction: np.ndarray, panels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """q(right) − q(left) − ∫ q′ of each panel ``(3, panels)``, and the sizes of q ``(3,)``."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    left, right = panels[:, :1], panels[:, 1:]
    points = np.concatenate([panels, left + 0.5 * (right - left) * (nodes + 1.0)], axis=1)
    places, where = np.unique(points, return_inverse=True)  # neighbours share an end
    frames = [frame_of(frame.numbers, frame.positions + x * direction) for x in places]
    q = _derivatives(s, frames, direction).cpu().numpy()[:, where].reshape(4, *points.shape)
    integrals = (q[1:, :, 2:] * weights).sum(axis=-1) * 0.5 * (right - left).T
    # the ends of panels may lie on a kink itself, where the next derivative is as large as its spike
    size = np.maximum(np.ptp(q[:3], axis=(1, 2)), np.abs(q[1:, :, 2:]).max(axis=(1, 2)))
    return q[:3, :, 1] - q[:3, :, 0] - integrals, size


def _derivatives(s: Subject, frames: Sequence[Frame], direction: np.ndarray) -> Tensor:
    """Energy and its first three derivatives in t, atoms at R + t·direction, at t = 0: ``(4, frames)``, float64."""
    few = max(1, _ATOMS_TOGETHER // len(direction))
    parts = []
    for start in range(0, len(frames), few):
        batch = s.batch(frames[start : start + few])
        t = torch.zeros(batch.n_systems, dtype=s.dtype, device=s.device, requires_grad=True)
        step = s.tensor(np.tile(direction, (batch.n_systems, 1)))
        value = s.potential(batch.moved(batch.positions + t[batch.system].unsqueeze(-1) * step))
        values = [value.detach().double()]
        for _ in range(3):
            if value.requires_grad:
                (value,) = torch.autograd.grad(value.sum(), t, create_graph=True, materialize_grads=True)
            else:
                value = torch.zeros_like(t)
            values.append(value.detach().double())
        parts.append(torch.stack(values))
    return torch.cat(parts, dim=1)
