"""Reaction paths from exact Hessians: local quadratic approximation as predictor, two expansions as corrector.

Predictor: steepest descent on the quadratic expansion about the last point where the surface was evaluated (M. Page,
J. W. McIver, J. Chem. Phys. 88, 922 (1988), doi:10.1063/1.454172). Corrector: the same step once more, on the surface
that interpolates the expansions about that point and the predicted one by distance (H. P. Hratchian, H. B. Schlegel,
J. Chem. Phys. 120, 9918 (2004), doi:10.1063/1.1724823). One gradient and one Hessian a step; points of the path are the
corrected ones, their energies those of the expansion about the predicted point beside them.

Steepest descent is followed in the "time" t of dx/dt = −∇E, which has no singularity at the minimum, with the arc
length as one more variable: a stiff but small and smooth system, left to LSODA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from phl_ase.paths.branch import Branch, StepError
from phl_ase.types import Array
from phl_ase.vibrations import rigid_motions

# A step is good enough where the corrector moves its end by less than this part of its length.
_CORRECTION = 0.05
# Steps are halved at most to this part of the longest.
_SHORTEST = 1 / 64
# How far along the imaginary mode the descent from a TS begins, as a part of the first step: at the TS itself it has no
# direction.
_FOOTHOLD = 0.05
# eV/(√amu·Å): the descent on a model surface ends in a minimum when its gradient is below this.
_FLAT = 1e-7
# amu·Å²/eV: in this time a mode of 5 cm⁻¹ decays to 1/e; what is slower has come to rest.
_LONGEST = 1e4


@dataclass(frozen=True, eq=False)
class Expansion:
    """The surface to second order about a point, in mass-weighted coordinates.

    Attributes:
        point: ``(d,)`` √amu·Å.
        energy: eV.
        gradient: ``(d,)`` eV/(√amu·Å).
        hessian: ``(d, d)`` eV/(amu·Å²).
    """

    point: Array
    energy: float
    gradient: Array
    hessian: Array

    def at(self, x: Array) -> tuple[float, Array]:
        """Return the energy (eV) and gradient ``(d,)`` eV/(√amu·Å) of the expansion at a point ``(d,)``."""
        step = x - self.point
        bend = self.hessian @ step
        return float(self.energy + (self.gradient + 0.5 * bend) @ step), self.gradient + bend


@dataclass(frozen=True, eq=False)
class Surface:
    """A potential-energy surface in mass-weighted coordinates.

    Attributes:
        expand: ``expand(x)``: the expansion about a point.
        internal: ``internal(x)``: the projector ``(d, d)`` that takes out the translations and rotations at x.
        at_rest: ``at_rest(gradient)``: whether a gradient is small enough to be a minimum's.
    """

    expand: Callable[[Array], Expansion]
    internal: Callable[[Array], Array]
    at_rest: Callable[[Array], bool]


def interpolated_gradient(first: Expansion, second: Expansion, x: Array) -> Array:
    """Gradient of the distance-weighted interpolant of two expansions ``(d,)`` eV/(√amu·Å).

    E = w₁ T₁ + w₂ T₂ with w₁ = r₂² / (r₁² + r₂²), w₂ = 1 − w₁ and r the distances to the two points.
    """
    steps = x - first.point, x - second.point
    squares = steps[0] @ steps[0], steps[1] @ steps[1]
    total = squares[0] + squares[1]
    if total == 0:  # both expansions are about this point
        return first.gradient
    weight = squares[1] / total
    slope = 2 * (squares[0] * steps[1] - squares[1] * steps[0]) / total**2
    (energy, gradient), (other_energy, other_gradient) = first.at(x), second.at(x)
    return weight * gradient + (1 - weight) * other_gradient + (energy - other_energy) * slope


def descend(gradient: Callable[[Array], Array], x: Array, length: float) -> Array:
    """Return where steepest descent from x is after an arc length, or in the minimum that comes before.

    Args:
        gradient: ``gradient(x)`` of a model surface, eV/(√amu·Å).
        x: Where to start ``(d,)`` √amu·Å.
        length: √amu·Å.

    Raises:
        StepError: For a length that is not positive, or when the integration fails.
    """
    if not length > 0:
        raise StepError(f"no step of {length:.1e} √amu·Å can be taken")

    def flow(_: float, state: Array) -> Array:
        slope = gradient(state[:-1])
        return np.append(-slope, np.linalg.norm(slope))

    def arrived(_: float, state: Array) -> float:
        return state[-1] - length

    def rests(_: float, state: Array) -> float:
        return float(np.linalg.norm(gradient(state[:-1]))) - _FLAT

    for event in (arrived, rests):
        event.terminal = True  # type: ignore[attr-defined]
    if rests(0.0, np.append(x, 0.0)) <= 0:
        return x.copy()
    times = (0.0, _LONGEST)
    solution = solve_ivp(flow, times, np.append(x, 0.0), method="LSODA", events=(arrived, rests), rtol=1e-6, atol=1e-8)
    if solution.status < 0:
        raise StepError(f"steepest descent on the model surface failed: {solution.message}")
    return solution.y[:-1, -1]


def steepest_descent(
    surface: Surface, ts: Expansion, direction: Array, *, step: float, max_points: int
) -> Iterator[tuple[Array, float, bool]]:
    """Follow the path down from a transition state.

    Args:
        surface: What to follow.
        ts: The expansion about the transition state, with a gradient of zero.
        direction: Unit vector along the imaginary mode ``(d,)``.
        step: Longest step, √amu·Å.
        max_points: Most points.

    Yields:
        Point ``(d,)`` √amu·Å, energy (eV), and whether the path ends here.

    Raises:
        StepError: When even the shortest step does not lead down the path.
    """
    node, place, length = ts, ts.point, step
    for _ in range(max_points):
        while True:
            gone = 0.0
            if node is ts:  # the foothold is taken anew for each length, and covers a part of it
                gone = _FOOTHOLD * length
                place = ts.point + gone * direction
            ahead, corrected, error = _attempt(surface, node, place, length - gone)
            travel, slope = corrected - place, ahead.at(corrected)[1]
            at_rest = surface.at_rest(slope)
            # judged by gradients: the energies of a float32 model are too coarse to tell uphill from downhill
            if error <= _CORRECTION * length and (at_rest or slope @ travel < 0):
                break
            length *= 0.5
            if length < _SHORTEST * step:
                raise StepError(f"no step of {2 * length:.1e} √amu·Å or more leads down the path")
        node, place = ahead, corrected
        # positive curvature along the path: the end of a valley, not a shoulder; without any way to go it ends as well
        ended = at_rest and (travel @ node.hessian @ travel > 0 or not travel.any())
        yield place, node.at(place)[0], bool(ended)
        if ended:
            return
        if error < 0.5 * _CORRECTION * length:
            length = min(step, 1.5 * length)


def _attempt(surface: Surface, node: Expansion, place: Array, length: float) -> tuple[Expansion, Array, float]:
    """Return the expansion about the predicted end of a step, its corrected end, and how far these are apart."""
    internal = surface.internal(place)
    predicted = descend(lambda x: internal @ node.at(x)[1], place, length)
    ahead = surface.expand(predicted)
    corrected = descend(lambda x: internal @ interpolated_gradient(node, ahead, x), place, length)
    return ahead, corrected, float(np.linalg.norm(corrected - predicted))


def follow_quadratic(branch: Branch) -> bool:
    """Follow one side with a Hessian at every step; whether it converged."""
    weights, masses = branch.weights, branch.start.get_masses()
    working = branch.working()

    def expand(x: Array) -> Expansion:
        working.positions = (x / weights).reshape(-1, 3)
        gradient = -working.get_forces().ravel() / weights
        energy = branch.calculator.energy
        return Expansion(x.copy(), energy, gradient, branch.hessian(working) / np.outer(weights, weights))

    def internal(x: Array) -> Array:
        rigid = rigid_motions((x / weights).reshape(-1, 3), masses)
        return np.eye(len(x)) - rigid @ rigid.T

    def at_rest(gradient: Array) -> bool:
        return bool(np.linalg.norm((gradient * weights).reshape(-1, 3), axis=1).max() <= branch.fmax)

    surface = Surface(expand, internal, at_rest)
    origin = branch.start.positions.ravel() * weights
    ts = Expansion(origin, branch.ts_energy, np.zeros_like(origin), branch.ts_hessian / np.outer(weights, weights))
    points = steepest_descent(surface, ts, branch.mode.ravel(), step=branch.step, max_points=branch.max_points)
    ended = False
    for place, energy, ended in points:  # noqa: B007 (the last one is what is asked)
        branch.record((place / weights).reshape(-1, 3), energy)
    return ended
