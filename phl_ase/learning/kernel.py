"""Gaussian-process correction of one molecule's energy, from energies, forces and Hessian-vector products.

The correction is a function of the inverse distances of all pairs of atoms with a squared-exponential covariance
(C. E. Rasmussen and C. K. I. Williams, Gaussian Processes for Machine Learning, MIT Press 2006; inverse distances as in
O.-P. Koistinen et al., J. Chem. Theory Comput. 16, 499 (2020), doi:10.1021/acs.jctc.9b01038). Energies, gradients and
HVPs are linear in the energy, so that their covariances are derivatives of one function and every label counts with its
exact meaning: a probe along a chosen direction is one more observation and biases nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.free_memory import available_memory
from phl_ase.hessians import symmetrised
from phl_ase.types import Array

LABEL_NOISE = {"energy": 1e-3, "gradient": 2e-3, "hvp": 2e-2}
"""Noise of labels: eV, eV/Å and eV/Å² for a vector of unit length."""

_PAIRS_TOGETHER = 2**22  # numbers in a temporary array of covariances of pairs
_FEWEST_KEPT = 2  # covariance matrices: one of whole geometries, one of bonds
_CONSTANT = 10.0  # eV: how uncertain the constant between two energy scales is


class OutOfMemoryError(PHLError):
    """The labels need more memory than a fit may take."""


def inverse_distances(positions: Array) -> tuple[Array, Array]:
    """Return inverse distances of all pairs and their derivatives.

    Args:
        positions: ``(n, 3)`` Å.

    Returns:
        ``(D,)`` 1/Å and ``(D, 3n)`` 1/Å², D = n(n − 1)/2.
    """
    n = len(positions)
    i, j = np.triu_indices(n, 1)
    apart = positions[i] - positions[j]
    inverse = 1.0 / np.linalg.norm(apart, axis=1)
    slope = -apart * inverse[:, None] ** 3
    jacobian = np.zeros((len(i), n, 3))
    pairs = np.arange(len(i))
    jacobian[pairs, i], jacobian[pairs, j] = slope, -slope
    return inverse, jacobian.reshape(len(i), 3 * n)


def bent(positions: Array, slopes: Array) -> Array:
    """Return what curved inverse distances add to a Hessian.

    Args:
        positions: ``(n, 3)`` Å.
        slopes: Derivatives of an energy by the inverse distances ``(D,)`` eV Å.

    Returns:
        ``(3n, 3n)`` eV/Å².
    """
    n = len(positions)
    i, j = np.triu_indices(n, 1)
    apart = positions[i] - positions[j]
    inverse = 1.0 / np.linalg.norm(apart, axis=1)
    blocks = 3 * inverse[:, None, None] ** 5 * apart[:, :, None] * apart[:, None, :]
    blocks -= inverse[:, None, None] ** 3 * np.eye(3)
    blocks *= slopes[:, None, None]
    hessian = np.zeros((n, n, 3, 3))
    hessian[i, j] = hessian[j, i] = -blocks
    np.add.at(hessian, (i, i), blocks)
    np.add.at(hessian, (j, j), blocks)
    return hessian.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)


@dataclass(frozen=True, eq=False)
class GradientObservations:
    """Observations of an energy: values and gradients at points, HVPs between pairs of points beside others.

    Attributes:
        positions: ``(m, n, 3)`` Å.
        energies: ``(m,)`` eV.
        gradients: ``(m, n, 3)`` eV/Å.
        centres: Where HVPs belong ``(k, n, 3)`` Å.
        vectors: Their directions ``(k, n, 3)``.
        hvps: ``(k, n, 3)`` eV/Å².
        step: Displacement along the vectors in the differences behind the HVPs, Å.
    """

    positions: Array
    energies: Array
    gradients: Array
    centres: Array
    vectors: Array
    hvps: Array
    step: float = 1e-3


@dataclass(frozen=True)
class KernelChoice:
    """Settings of a covariance.

    Attributes:
        shape: Standard deviation of what depends on the whole geometry, eV.
        shape_length: Its length scale, 1/Å.
        bonds: Standard deviation of what a pair of atoms adds, eV.
        bond_length: Its length scale, 1/Å.
    """

    shape: float
    shape_length: float
    bonds: float = 0.0
    bond_length: float = 1.0


KERNEL_GRID: dict[str, tuple[float, ...]] = {
    "shape": (0.03, 0.1, 0.3, 1.0, 3.0),
    "shape_length": (0.1, 0.2, 0.45, 1.0, 2.0),
    "bonds": (0.1, 0.3, 1.0, 3.0),
    "bond_length": (0.05, 0.1, 0.2, 0.4, 0.8),
}
"""Values of each setting; the likelihood climbs from one to the next."""

USUAL_KERNEL = KernelChoice(0.1, 0.2, 0.3, 0.2)
"""Where the likelihood begins to climb."""


@dataclass(frozen=True, eq=False)
class _Points:
    """Geometries in inverse distances.

    Attributes:
        q: Inverse distances ``(m, D)`` 1/Å.
        jacobians: Their derivatives ``(m, D, 3n)``.
    """

    q: Array
    jacobians: Array

    @classmethod
    def of(cls, positions: Array) -> _Points:
        made = [inverse_distances(one) for one in positions]
        return cls(np.stack([q for q, _ in made]), np.stack([jacobian for _, jacobian in made]))


class _Shape:
    """Correlation of whole geometries: near one another in all inverse distances, they have like energies."""

    def __init__(self, length: float) -> None:
        self.length = length

    def covariance(self, points: _Points) -> tuple[Array, Array, Array]:
        """Return covariances of energies ``(m, m)``, of gradients with energies ``(m, 3n, m)``, and of gradients."""
        q, flat = points.q, points.jacobians.transpose(0, 2, 1).reshape(-1, points.q.shape[1])
        m, size = len(q), points.jacobians.shape[2]
        k = np.exp(-0.5 * ((q[:, None] - q[None]) ** 2).sum(axis=2) / self.length**2)
        projected = (flat @ q.T).reshape(m, size, m)
        left = projected[np.arange(m), :, np.arange(m)][:, :, None] - projected  # J_iᵀ (q_i − q_j)
        mixed = (flat @ flat.T).reshape(m, size, m, size) / self.length**2
        mixed += left[:, :, :, None] * left.transpose(2, 0, 1)[:, None] / self.length**4
        return k, -(k[:, None] * left) / self.length**2, mixed * k[:, None, :, None]

    def crossed(self, points: _Points, q: Array) -> tuple[Array, Array, float]:
        """Return covariances of the energy at a geometry with energies ``(m,)`` and gradients, and its variance."""
        apart = points.q - q
        k = np.exp(-0.5 * (apart**2).sum(axis=1) / self.length**2)
        return k, np.einsum("mdx,md->mx", points.jacobians, -k[:, None] * apart / self.length**2), 1.0

    def evaluate(self, points: _Points, a: Array, w: Array, q: Array) -> tuple[float, Array, Array]:
        """Return energy, its derivatives by inverse distances ``(D,)``, and the second ones ``(D, D)``."""
        apart = q - points.q
        k = np.exp(-0.5 * (apart**2).sum(axis=1) / self.length**2)
        s = a + (apart * w).sum(axis=1) / self.length**2
        slopes = (k @ w - (k * s) @ apart) / self.length**2
        mixed = (apart * k[:, None]).T @ w
        curved = ((apart * (k * s)[:, None]).T @ apart - mixed - mixed.T) / self.length**4
        return float(k @ s), slopes, curved - (k @ s) / self.length**2 * np.eye(len(q))


class _Bonds:
    """Correlation of pairs of atoms: pairs of the same elements, wherever they are, have like energies."""

    def __init__(self, length: float, numbers: Array) -> None:
        self.length = length
        i, j = np.triu_indices(len(numbers), 1)
        kinds = np.sort(np.stack([numbers[i], numbers[j]], axis=1), axis=1)
        self._kinds = [np.flatnonzero((kinds == kind).all(axis=1)) for kind in np.unique(kinds, axis=0)]

    def covariance(self, points: _Points) -> tuple[Array, Array, Array]:
        """Return the same quantities as :class:`_Shape`."""
        m, size = len(points.q), points.jacobians.shape[2]
        energies, crossed, mixed = np.zeros((m, m)), np.zeros((m, size, m)), np.zeros((m, size, m, size))
        for kind in self._kinds:
            d, q = len(kind), points.q[:, kind].ravel()
            jacobians = points.jacobians[:, kind]  # (m, d, 3n)
            rows = max(1, _PAIRS_TOGETHER // (m * d * max(d, size)))
            for first in range(0, m, rows):
                some = slice(first, min(first + rows, m))
                apart = q[some.start * d : some.stop * d, None] - q[None]
                k = np.exp(-0.5 * apart**2 / self.length**2)
                shape = (some.stop - some.start, d, m, d)
                energies[some] += k.reshape(shape).sum(axis=(1, 3))
                slopes = (-k * apart / self.length**2).reshape(shape).sum(axis=3)  # (rows, d, m)
                crossed[some] += np.einsum("idx,idj->ixj", jacobians[some], slopes)
                second = (k * (1 / self.length**2 - apart**2 / self.length**4)).reshape(shape[0], d, -1)
                half = jacobians[some].transpose(0, 2, 1) @ second  # (rows, 3n, m · d)
                half = half.reshape(-1, m, d).transpose(1, 0, 2) @ jacobians  # (m, rows · 3n, 3n)
                mixed[some] += half.transpose(1, 0, 2).reshape(shape[0], size, m, size)
        return energies, crossed, mixed

    def crossed(self, points: _Points, q: Array) -> tuple[Array, Array, float]:
        """Return the same quantities as :class:`_Shape`."""
        energies, slopes, variance = np.zeros(len(points.q)), np.zeros_like(points.q), 0.0
        for kind in self._kinds:
            apart = points.q[:, kind, None] - q[kind]
            k = np.exp(-0.5 * apart**2 / self.length**2)
            energies += k.sum(axis=(1, 2))
            slopes[:, kind] = (-k * apart / self.length**2).sum(axis=2)
            variance += float(np.exp(-0.5 * (q[kind][:, None] - q[kind]) ** 2 / self.length**2).sum())
        return energies, np.einsum("mdx,md->mx", points.jacobians, slopes), variance

    def evaluate(self, points: _Points, a: Array, w: Array, q: Array) -> tuple[float, Array, Array]:
        """Return the same quantities as :class:`_Shape`."""
        energy, slopes, curved = 0.0, np.zeros(len(q)), np.zeros(len(q))
        for kind in self._kinds:
            apart = q[kind][:, None] - points.q[:, kind].reshape(1, -1)
            k = np.exp(-0.5 * apart**2 / self.length**2)
            weights = w[:, kind].reshape(1, -1) / self.length**2
            s = np.repeat(a, len(kind)) + apart * weights
            energy += float((k * s).sum())
            slopes[kind] = (k * (weights - apart * s / self.length**2)).sum(axis=1)
            inner = (apart**2 / self.length**2 - 1) * s - 2 * weights * apart
            curved[kind] = (k * inner).sum(axis=1) / self.length**2
        return energy, slopes, np.diag(curved)


class KernelCorrection:
    """A Gaussian process fitted to observations.

    Its covariance is the sum of two: of whole geometries, and of pairs of atoms of the same elements. The second
    carries what is learnt of one bond to all bonds of its kind. The likelihood of the labels weighs them.

    Args:
        observations: At least one point.
        numbers: Atomic numbers ``(n,)``.
        begin: Settings near which those of the highest likelihood are looked for, values of :data:`KERNEL_GRID`.
        memory_budget: Bytes that the fit may take; three quarters of the free memory unless given.

    Attributes:
        choice: What it chose.

    Raises:
        OutOfMemoryError: Where the labels need more memory than the budget.
        NonFiniteError: Where the labels hold NaN or infinity, or contradict one another.
    """

    def __init__(
        self,
        observations: GradientObservations,
        numbers: Array,
        begin: KernelChoice = USUAL_KERNEL,
        memory_budget: int | None = None,
    ) -> None:
        known = observations
        self._m, self._k = len(known.positions), len(known.centres)
        self._step, self._size = known.step, 3 * len(numbers)
        beside = [known.centres + sign * known.step * known.vectors for sign in (1, -1)]
        self._points = _Points.of(np.concatenate([known.positions, *beside]))
        self._offset = float(known.energies.mean())
        y = np.concatenate([known.energies - self._offset, known.gradients.ravel(), known.hvps.ravel()])
        sizes = (self._m, self._size * self._m, self._size * self._k)
        noise = np.repeat([value**2 for value in LABEL_NOISE.values()], sizes)
        kept = self._matrices_kept(len(y), 3 * available_memory() // 4 if memory_budget is None else memory_budget)
        known_parts: dict[tuple[str, float], tuple[Any, Array]] = {}

        def part(name: str, length: float) -> tuple[Any, Array]:
            found = known_parts.pop((name, length), None)
            if found is None:
                if len(known_parts) >= kept:  # the one that was asked for longest ago
                    known_parts.pop(next(iter(known_parts)))
                made = _Shape(length) if name == "shape" else _Bonds(length, numbers)
                found = made, self._observed(*made.covariance(self._points))
            known_parts[name, length] = found
            return found

        def trial(choice: KernelChoice) -> tuple[float, KernelChoice, Array, Any]:
            parts = (("shape", choice.shape_length, choice.shape), ("bonds", choice.bond_length, choice.bonds))
            matrix = np.zeros((len(y), len(y)))
            for name, length, sigma in parts:
                if sigma:
                    matrix += sigma**2 * part(name, length)[1]
            matrix[: self._m, : self._m] += _CONSTANT**2
            matrix[np.diag_indices_from(matrix)] += noise
            try:
                factor = cho_factor(matrix, lower=True, overwrite_a=True)
                weights = cho_solve(factor, y)
            except (LinAlgError, ValueError):
                return -np.inf, choice, y, None
            likelihood = float(-0.5 * y @ weights - np.log(np.diag(factor[0])).sum())
            return likelihood if np.isfinite(likelihood) else -np.inf, choice, weights, factor

        best = _highest(trial, begin)
        if best[3] is None:
            raise NonFiniteError("the labels cannot be fitted: they hold NaN, infinity, or contradict one another")
        self.likelihood, self.choice, weights, self._factor = best
        chosen = self.choice
        self._parts = [
            (sigma**2, part(name, length)[0])
            for name, length, sigma in (
                ("shape", chosen.shape_length, chosen.shape),
                ("bonds", chosen.bond_length, chosen.bonds),
            )
            if sigma
        ]
        # the weights of all observations at the points that they belong to, in inverse distances
        m, k, size = self._m, self._k, self._size
        self._a = np.zeros(len(self._points.q))
        self._a[:m] = weights[:m]
        of_gradients = np.zeros((len(self._points.q), size))
        of_gradients[:m] = weights[m : m + m * size].reshape(m, size)
        of_hvps = weights[m + m * size :].reshape(k, size) / (2 * self._step)
        of_gradients[m : m + k], of_gradients[m + k :] = of_hvps, -of_hvps
        self._w = np.einsum("pdx,px->pd", self._points.jacobians, of_gradients)
        # of the constant itself: the weights of all energies
        self._constant = _CONSTANT**2 * float(weights[:m].sum()) + self._offset

    def _matrices_kept(self, labels: int, memory_budget: int) -> int:
        """Return how many covariance matrices of all labels the budget lets the climb over the settings keep."""
        matrix = 8 * labels**2
        # at once: three arrays of all points' gradients, the best fit, the sum on trial
        least = 3 * 8 * (len(self._points.q) * self._size) ** 2 + (2 + _FEWEST_KEPT) * matrix
        if least > memory_budget:
            raise OutOfMemoryError(
                f"a fit of {self._m} gradients and {self._k} HVPs of {self._size // 3} atoms needs {least / 2**30:.1f} "
                f"GiB of memory; {memory_budget / 2**30:.1f} GiB may be used"
            )
        return _FEWEST_KEPT + int((memory_budget - least) // matrix)

    def _observed(self, energies: Array, crossed: Array, mixed: Array) -> Array:
        """Return the covariance of all observations from that of energies and gradients at all points."""
        m, ahead, behind = self._m, slice(self._m, self._m + self._k), slice(self._m + self._k, None)

        def differences(rows: Array) -> Array:
            return np.concatenate([rows[:m], (rows[ahead] - rows[behind]) / (2 * self._step)])

        of_energies = differences(crossed[:, :, :m]).reshape(-1, m)
        rows = differences(mixed).transpose(2, 3, 0, 1)
        both = differences(rows)  # (points, 3n, points, 3n), turned
        return np.block([[energies[:m, :m], of_energies.T], [of_energies, both.reshape(len(of_energies), -1)]])

    def _evaluate(self, q: Array) -> tuple[float, Array, Array]:
        found = [
            [variance * value for value in part.evaluate(self._points, self._a, self._w, q)]
            for variance, part in self._parts
        ]
        energy, slopes, curved = (sum(values) for values in zip(*found, strict=True))
        return energy + self._constant, slopes, curved

    def energy_and_gradient(self, positions: Array) -> tuple[float, Array]:
        """Return the correction, eV, and its gradient ``(n, 3)`` eV/Å."""
        q, jacobian = inverse_distances(positions)
        energy, slopes, _ = self._evaluate(q)
        return float(energy), (jacobian.T @ slopes).reshape(-1, 3)

    def energy_std(self, positions: Array) -> float:
        """Return the standard deviation of the correction that the labels leave, eV."""
        q, m = inverse_distances(positions)[0], self._m
        ahead, behind = slice(m, m + self._k), slice(m + self._k, None)
        known, variance = np.zeros(len(self._factor[0])), _CONSTANT**2
        for scale, part in self._parts:
            energies, gradients, own = part.crossed(self._points, q)
            hvps = (gradients[ahead] - gradients[behind]) / (2 * self._step)
            known += scale * np.concatenate([energies[:m], gradients[:m].ravel(), hvps.ravel()])
            variance += scale * own
        known[:m] += _CONSTANT**2
        return float(np.sqrt(max(variance - known @ cho_solve(self._factor, known), 0.0)))

    def hessian(self, positions: Array) -> Array:
        """Return the Hessian of the correction ``(3n, 3n)`` eV/Å²."""
        q, jacobian = inverse_distances(positions)
        _, slopes, curved = self._evaluate(q)
        hessian = jacobian.T @ curved @ jacobian + bent(positions, slopes)
        return symmetrised(hessian)


def _highest(trial: Callable[[KernelChoice], tuple[float, KernelChoice, Array, Any]], begin: KernelChoice) -> Any:
    """Climb over the grid, one setting at a time, to where a neighbour is no better."""
    best = trial(begin)
    tried = {begin}
    improved = True
    while improved:
        improved = False
        for name, values in KERNEL_GRID.items():
            for direction in (-1, 1):
                while True:
                    place = values.index(getattr(best[1], name)) + direction
                    if not 0 <= place < len(values):
                        break
                    other = replace(best[1], **{name: values[place]})
                    if other in tried:
                        break
                    tried.add(other)
                    found = trial(other)
                    if found[0] <= best[0]:
                        break
                    best, improved = found, True
    return best
