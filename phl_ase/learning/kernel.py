"""Gaussian-process correction of one molecule's energy, from energies, forces and Hessian-vector products.

The correction is a function of the inverse distances of all pairs of atoms with a squared-exponential covariance
(C. E. Rasmussen and C. K. I. Williams, Gaussian Processes for Machine Learning, MIT Press 2006; inverse distances as in
O.-P. Koistinen et al., J. Chem. Theory Comput. 16, 499 (2020), doi:10.1021/acs.jctc.9b01038). Energies, gradients and
HVPs are linear in the energy, so that their covariances are derivatives of one function and every label counts with its
exact meaning: a probe along a chosen direction is one more observation and biases nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from phl_ase.errors import NonFiniteError
from phl_ase.types import Array

LENGTHS = (0.2, 0.3, 0.45, 0.7, 1.0, 1.5, 2.2, 3.3)
"""1/Å: the length scales among which the likelihood of the labels chooses."""

_NOISE = {"energy": 1e-3, "gradient": 2e-3, "hvp": 2e-2}
"""What is left unexplained of labels: eV, eV/Å and eV/Å² for a vector of unit length."""

_CONSTANT = 10.0  # eV: how uncertain the constant between two energy scales is
_LEAST = 0.05  # eV: least standard deviation of a correction


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
    """What is known of an energy: values and gradients at points, HVPs between pairs of points beside others.

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


class KernelCorrection:
    """A Gaussian process fitted to observations.

    Args:
        observations: At least one point.
        lengths: Length scales to choose among, 1/Å.

    Attributes:
        length: The one chosen, 1/Å.
        sigma: Standard deviation of the correction before any label, eV.
    """

    def __init__(self, observations: GradientObservations, lengths: Sequence[float] = LENGTHS):
        self._set(observations)
        trials = [trial for length in lengths if (trial := self._trial(length)) is not None]
        if not trials:
            raise NonFiniteError("the labels cannot be fitted: they hold NaN, infinity, or contradict one another")
        _, self.length, self.sigma, self._factor, weights = max(trials, key=lambda trial: trial[0])
        self._spread(weights)

    def _set(self, known: GradientObservations) -> None:
        self._m, self._k = len(known.positions), len(known.centres)
        self._n = known.positions.shape[1]
        ahead = known.centres + known.step * known.vectors
        behind = known.centres - known.step * known.vectors
        points = np.concatenate([known.positions, ahead, behind])
        made = [inverse_distances(point) for point in points]
        self._q = np.stack([q for q, _ in made])
        self._jacobians = np.stack([jacobian for _, jacobian in made])
        self._step = known.step
        self._offset = float(known.energies.mean())
        self._y = np.concatenate([known.energies - self._offset, known.gradients.reshape(-1), known.hvps.reshape(-1)])
        sizes = (self._m, 3 * self._n * self._m, 3 * self._n * self._k)
        self._noise = np.repeat([value**2 for value in _NOISE.values()], sizes)
        gram = self._q @ self._q.T
        squares = np.diag(gram)
        self._apart2 = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0.0)
        flat = self._jacobians.transpose(0, 2, 1).reshape(-1, self._q.shape[1])  # (points · 3n, D)
        self._overlaps = flat @ flat.T
        # projections J_iᵀ q_j of every point's features, from which those of differences follow
        self._projected = (flat @ self._q.T).reshape(len(points), 3 * self._n, len(points))

    def _covariance(self, length: float) -> Array:
        """Covariance of all observations for a correction of variance 1, without noise."""
        points, size = len(self._q), 3 * self._n
        k = np.exp(-0.5 * self._apart2 / length**2)
        own = self._projected[np.arange(points), :, np.arange(points)]
        left = own[:, :, None] - self._projected  # J_iᵀ (q_i − q_j): (points, 3n, points)
        gradient_energy = -(k[:, None, :] * left) / length**2
        # J_jᵀ (q_i − q_j) = −(J_jᵀ (q_j − q_i))
        right = -left.transpose(2, 0, 1)  # (i, j, 3n)
        overlaps = self._overlaps.reshape(points, size, points, size)
        both = overlaps / length**2 - left[:, :, :, None] * right[:, None, :, :] / length**4
        both *= k[:, None, :, None]
        m, pairs = self._m, self._k
        energies = k[:m, :m]
        at, ahead, behind = slice(0, m), slice(m, m + pairs), slice(m + pairs, m + 2 * pairs)
        g_e = np.concatenate(
            [
                gradient_energy[at, :, :m].reshape(m * size, m),
                ((gradient_energy[ahead, :, :m] - gradient_energy[behind, :, :m]) / (2 * self._step)).reshape(-1, m),
            ]
        )
        rows = np.concatenate([both[at], (both[ahead] - both[behind]) / (2 * self._step)])
        g_g = np.concatenate([rows[:, :, at], (rows[:, :, ahead] - rows[:, :, behind]) / (2 * self._step)], axis=2)
        g_g = g_g.reshape(len(rows) * size, -1)
        return np.block([[energies, g_e.T], [g_e, g_g]])

    def _trial(self, length: float):
        matrix = self._covariance(length)
        constant = np.zeros(len(matrix))
        constant[: self._m] = _CONSTANT
        best = None
        for sigma in self._sigmas(matrix):
            try:
                factor = cho_factor(sigma**2 * matrix + np.outer(constant, constant) + np.diag(self._noise), lower=True)
            except (LinAlgError, ValueError):
                continue
            weights = cho_solve(factor, self._y)
            likelihood = -0.5 * self._y @ weights - np.log(np.diag(factor[0])).sum()
            if np.isfinite(likelihood) and (best is None or likelihood > best[0]):
                best = (likelihood, length, sigma, factor, sigma**2 * weights)
        return best

    def _sigmas(self, matrix: Array) -> Sequence[float]:
        return (0.2, 0.5, 1.25, 3.0, 8.0)

    def _spread(self, weights: Array) -> None:
        """Collect the weights of all observations at the points that they belong to, in inverse distances."""
        m, pairs, size = self._m, self._k, 3 * self._n
        points = len(self._q)
        self._a = np.zeros(points)
        self._a[:m] = weights[:m]
        slopes = np.zeros((points, size))
        slopes[:m] = weights[m : m + m * size].reshape(m, size)
        of_pairs = weights[m + m * size :].reshape(pairs, size) / (2 * self._step)
        slopes[m : m + pairs], slopes[m + pairs :] = of_pairs, -of_pairs
        self._w = np.einsum("pdx,px->pd", self._jacobians, slopes)
        # the constant's own posterior: its weights are those of the energies
        self._constant = _CONSTANT**2 * float(weights[:m].sum()) / self.sigma**2 + self._offset

    def _at(self, positions: Array):
        q, jacobian = inverse_distances(positions)
        apart = q - self._q
        k = np.exp(-0.5 * (apart**2).sum(axis=1) / self.length**2)
        s = self._a + (apart * self._w).sum(axis=1) / self.length**2
        return q, jacobian, apart, k, s

    def energy_and_gradient(self, positions: Array) -> tuple[float, Array]:
        """Return the correction, eV, and its gradient ``(n, 3)`` eV/Å."""
        _, jacobian, apart, k, s = self._at(positions)
        slopes = (k @ self._w - (k * s) @ apart) / self.length**2
        return float(k @ s) + self._constant, (jacobian.T @ slopes).reshape(-1, 3)

    def hessian(self, positions: Array) -> Array:
        """Return the Hessian of the correction ``(3n, 3n)`` eV/Å²."""
        _, jacobian, apart, k, s = self._at(positions)
        slopes = (k @ self._w - (k * s) @ apart) / self.length**2
        projected, weighted = apart @ jacobian, self._w @ jacobian
        mixed = (projected * k[:, None]).T @ weighted
        curved = (projected * (k * s)[:, None]).T @ projected - mixed - mixed.T
        curved = curved / self.length**4 - (k @ s) / self.length**2 * (jacobian.T @ jacobian)
        hessian = curved + bent(positions, slopes)
        return 0.5 * (hessian + hessian.T)
