"""Sums over all vibrations of a large structure without its Hessian: stochastic Lanczos quadrature.

Random directions (Hutchinson's probes, doi:10.1080/03610919008812866) give the trace of a function of the mass-weighted
Hessian, a few Lanczos steps from each the function's quadrature (Z. Bai, M. Fahey and G. Golub, J. Comput. Appl. Math.
74, 71 (1996), doi:10.1016/0377-0427(96)00018-0; S. Ubaru, J. Chen and Y. Saad, SIAM J. Matrix Anal. Appl. 38, 1075
(2017), doi:10.1137/16M1104974). The directions are orthonormal and uniformly distributed in the space of the vibrations
(the ``orthogonal`` family of ``phl_ase.probes``), so that the error ends with their number, not only falls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.units import invcm, kB

from phl_ase.errors import PHLError
from phl_ase.types import Array
from phl_ase.units import wavenumbers
from phl_ase.vibrations.analysis import IMAGINARY_THRESHOLD
from phl_ase.vibrations.lowest import LowestModes
from phl_ase.vibrations.operator import HVPs, VibrationalOperator
from phl_ase.vibrations.thermodynamics import SOFTEST_COUNTED

_BREAKDOWN = 1e-12  # of the largest off-diagonal element so far: an invariant subspace is complete


@dataclass(frozen=True)
class ProbeEstimate:
    """A number or an array with its standard error, in the same unit.

    Attributes:
        value: The estimate.
        error: One standard error: the scatter of the probes and what fewer Lanczos steps would have given, added in
            squares.
    """

    value: float | Array
    error: float | Array


@dataclass(frozen=True, eq=False, repr=False)
class StochasticSpectrum:
    """Spectral measures of the mass-weighted Hessian, one for each probe.

    Attributes:
        diagonals: Of the Lanczos matrices ``(K, steps)``, eV/(Å² amu).
        off_diagonals: ``(K, steps − 1)``, eV/(Å² amu).
        n_vibrations: Number of vibrations, those known exactly included.
        exact: Eigenvalues of modes taken out beforehand ``(any,)``, eV/(Å² amu).
        n_hvps: Hessian-vector products that were taken.
    """

    diagonals: Array
    off_diagonals: Array
    n_vibrations: int
    exact: Array
    n_hvps: int

    def __repr__(self) -> str:
        n_probes, steps = self.diagonals.shape
        return f"<StochasticSpectrum of {self.n_vibrations} vibrations: {n_probes} probes × {steps} steps>"

    def sum_over_modes(self, function: Callable[[Array], Array]) -> ProbeEstimate:
        """Return Σ f(ν̃) over all vibrations.

        Args:
            function: f of wavenumbers in cm⁻¹ ``(any shape)``, imaginary ones negative; may append axes.
        """
        n_probes, steps = self.diagonals.shape
        sampled = self.n_vibrations - len(self.exact)
        known = function(wavenumbers(self.exact)).sum(axis=0)
        of_probes = sampled * self._quadrature(function, steps)
        fewer = sampled * self._quadrature(function, max(1, steps - max(1, steps // 4)))
        # probes are drawn without replacement: K of N directions leave (1 − K/N) of the variance
        left = max(1 - n_probes / sampled, 0.0) if sampled else 0.0
        scatter = of_probes.var(axis=0, ddof=1) * left / n_probes
        bias = 0.0 if steps >= sampled else of_probes.mean(axis=0) - fewer.mean(axis=0)
        value, error = known + of_probes.mean(axis=0), np.sqrt(scatter + np.square(bias))
        return ProbeEstimate(value, error) if np.ndim(value) else ProbeEstimate(float(value), float(error))

    def zero_point_energy(self) -> ProbeEstimate:
        """Return ½ Σ h c ν̃ over the real modes, eV."""
        return self.sum_over_modes(lambda nu: 0.5 * invcm * np.maximum(nu, 0.0))

    def free_energy(self, temperature: float) -> ProbeEstimate:
        """Return the harmonic vibrational free energy of the real modes, zero-point energy included, eV.

        Modes within noise of zero count as in :func:`phl_ase.vibrations.thermochemistry`, whatever their sign.

        Args:
            temperature: K.

        Raises:
            PHLError: For a temperature that is not positive.
        """
        if not 0 < temperature < np.inf:
            raise PHLError(f"temperature is {temperature!r} K; expected a positive number")

        def of_mode(nu: Array) -> Array:
            near = np.abs(nu) <= IMAGINARY_THRESHOLD
            energy = invcm * np.where(near, np.maximum(np.abs(nu), SOFTEST_COUNTED), np.maximum(nu, SOFTEST_COUNTED))
            thermal = kB * temperature * np.log(-np.expm1(-energy / (kB * temperature)))
            return np.where(nu >= -IMAGINARY_THRESHOLD, 0.5 * energy + thermal, 0.0)

        return self.sum_over_modes(of_mode)

    def count(self, lowest: float, highest: float) -> ProbeEstimate:
        """Number of modes between two wavenumbers, cm⁻¹, imaginary ones negative."""
        return self.sum_over_modes(lambda nu: ((nu >= lowest) & (nu < highest)).astype(float))

    def density_of_states(self, grid: Array, *, width: float = 20.0) -> ProbeEstimate:
        """Vibrational density of states, modes per cm⁻¹; its integral is the number of vibrations.

        Args:
            grid: Wavenumbers ``(any,)``, cm⁻¹.
            width: Standard deviation of the Gaussian that stands for a mode, cm⁻¹.

        Raises:
            PHLError: For a width that is not positive.
        """
        if not 0 < width < np.inf:
            raise PHLError(f"width is {width!r} cm⁻¹; expected a positive number, for example 20")
        points = np.asarray(grid, dtype=float)
        height = 1.0 / (width * np.sqrt(2 * np.pi))
        return self.sum_over_modes(
            lambda nu: height * np.exp(-0.5 * np.square((points - np.asarray(nu)[..., None]) / width))
        )

    def _quadrature(self, function: Callable[[Array], Array], steps: int) -> Array:
        """Return uᵀ f(A) u of each unit probe by Gauss quadrature of some steps ``(K, …)``."""
        matrices = np.zeros((len(self.diagonals), steps, steps))
        own = np.arange(steps)
        matrices[:, own, own] = self.diagonals[:, :steps]
        matrices[:, own[1:], own[:-1]] = matrices[:, own[:-1], own[1:]] = self.off_diagonals[:, : steps - 1]
        nodes, vectors = np.linalg.eigh(matrices)
        return np.einsum("ks,ks...->k...", vectors[:, 0, :] ** 2, function(wavenumbers(nodes)))


def stochastic_spectrum(
    atoms: Atoms,
    hvp: HVPs,
    *,
    n_probes: int = 8,
    steps: int = 40,
    soft_modes: LowestModes | None = None,
    indices: Sequence[int] | Array | None = None,
    forces: Array | None = None,
    seed: int = 0,
) -> StochasticSpectrum:
    """Probe the spectrum of the mass-weighted Hessian, translations and rotations projected out.

    It takes ``n_probes`` × ``steps`` HVPs, whatever the number of atoms.

    Args:
        atoms: The structure; masses are ``atoms.get_masses()`` (amu).
        hvp: Its Hessian-vector products, for example ``calculator.get_hvp``.
        n_probes: K ≥ 2: the scatter is what the error is told from.
        steps: Lanczos steps from each probe; energies need 20 to 60, sharp densities of states more.
        soft_modes: Modes to treat exactly: free energies feel the softest most, where a quadrature is worst.
        indices: The atoms that vibrate, in place of what the constraints say.
        forces: Forces without constraints ``(n, 3)`` eV/Å; needed where constraints hold bond lengths or angles.
        seed: Of the probes.

    Raises:
        PHLError: For fewer than two probes or one step, or nothing left to probe.
        NonFiniteError: For NaN or infinity in the HVPs.
    """
    operator = VibrationalOperator(atoms, hvp, indices, forces)
    known = np.zeros((0, operator.size))
    if soft_modes is not None:
        known = soft_modes.modes[:, operator.vibrating].reshape(-1, operator.size)
    left = operator.n_vibrations - len(known)
    if n_probes < 2 or steps < 1:
        raise PHLError(f"got {n_probes} probes and {steps} steps; expected at least 2 probes and 1 step")
    if left < 2:
        raise PHLError(f"{left} vibrations are left to probe; expected at least 2: take the dense Hessian instead")

    def project(vectors: Array) -> Array:
        vectors = operator.project(vectors)
        return vectors - (vectors @ known.T) @ known

    rng = np.random.default_rng(seed)
    draws = project(rng.standard_normal((min(n_probes, left), operator.size)))
    diagonals, off_diagonals = _lanczos(
        lambda vectors: project(operator(vectors)), np.linalg.qr(draws.T)[0].T, min(steps, left)
    )
    exact = np.zeros(0) if soft_modes is None else soft_modes.eigenvalues
    return StochasticSpectrum(diagonals, off_diagonals, operator.n_vibrations, exact, operator.n_hvps)


def _lanczos(apply: Callable[[Array], Array], probes: Array, steps: int) -> tuple[Array, Array]:
    """Lanczos matrices from each of some unit vectors ``(K, d)``, fully reorthogonalised; all advance together."""
    basis = np.zeros((len(probes), steps, probes.shape[1]))
    diagonals, off_diagonals = np.zeros((len(probes), steps)), np.zeros((len(probes), steps - 1))
    basis[:, 0] = probes
    for step in range(steps):
        images = apply(basis[:, step])
        diagonals[:, step] = np.einsum("kd,kd->k", images, basis[:, step])
        if step == steps - 1:
            break
        done = basis[:, : step + 1]
        for _ in range(2):
            images = images - np.einsum("ks,ksd->kd", np.einsum("ksd,kd->ks", done, images), done)
        sizes = np.linalg.norm(images, axis=1)
        scale = np.maximum(np.abs(diagonals).max(axis=1), off_diagonals.max(axis=1, initial=0.0))
        ended = sizes <= _BREAKDOWN * np.maximum(scale, 1e-300)
        # a probe whose subspace is complete goes on with zeros, which have no weight in its quadrature
        off_diagonals[:, step] = np.where(ended, 0.0, sizes)
        basis[:, step + 1] = np.where(ended[:, None], 0.0, images / np.where(ended, 1.0, sizes)[:, None])
    return diagonals, off_diagonals
