"""The softest vibrations of a structure from Hessian-vector products alone: a preconditioned block Davidson iteration.

E. R. Davidson, J. Comput. Phys. 17, 87 (1975), doi:10.1016/0021-9991(75)90065-0; corrections orthogonal to the present
vectors as in J. Olsen, P. Jørgensen and J. Simons, Chem. Phys. Lett. 169, 463 (1990), doi:10.1016/0009-2614(90)85633-N.
The preconditioner is a model Hessian (``model_hessian``), mass-weighted and shifted, factorised sparsely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from scipy import sparse
from scipy.sparse.linalg import splu

from phl_ase.errors import PHLError, shortened
from phl_ase.hessians import symmetrised
from phl_ase.types import Array
from phl_ase.units import wavenumbers
from phl_ase.vibrations.analysis import short_list
from phl_ase.vibrations.model_hessian import model_hessian
from phl_ase.vibrations.operator import HVPs, VibrationalOperator
from phl_ase.vibrations.rigid import complement

_GUARDS = 2  # vectors beyond those asked for: they tell the gap, and a degenerate partner is not missed
# of a guard's eigenvalue: that one which lies next must be known about, or it may prove to lie lower
_GUARD_TOLERANCE = 1e-2
_SMALL = 24  # vibrations up to which all directions are taken at once: that is the dense Hessian
_DEPTH = 1.5  # the shift under a negative eigenvalue, as a multiple of it
_LARGEST_BASIS = 400  # vectors, beyond which the iteration restarts from its best ones
# (1 cm⁻¹)², eV/(Å² amu): a mode nearer to zero is as good as zero, and has no relative error; nor is the preconditioner
# softer. Ten times the wavenumber took a third more HVPs for the bending of a chain of 302 atoms.
_FLOOR = float(wavenumbers(1.0)) ** -2


@dataclass(frozen=True, eq=False, repr=False)
class LowestModes:
    """The modes of lowest curvature.

    Attributes:
        eigenvalues: ``(k,)`` eV/(Å² amu), ascending.
        modes: Mass-weighted unit modes ``(k, n, 3)``; atoms that are held do not move.
        errors: Estimated error of each eigenvalue, |residual|²/gap ``(k,)``, eV/(Å² amu).
        converged: Whether every one of them met the tolerance.
        n_hvps: Hessian-vector products that were taken.
        start: The modes and their unfinished neighbours ``(any, n, 3)``: what the next geometry is best started from.
    """

    eigenvalues: Array
    modes: Array
    errors: Array
    converged: bool
    n_hvps: int
    start: Array

    def __repr__(self) -> str:
        state = "converged" if self.converged else "not converged"
        what = f"{self.modes.shape[1]} atoms: {short_list(self.wavenumbers)} cm⁻¹"
        return f"<LowestModes of {what}, {state}, {self.n_hvps} HVPs>"

    @property
    def sentence(self) -> str:
        """Return whether they are converged, and at what cost."""
        state = "converged" if self.converged else "not converged"
        largest = self.errors.max(initial=0.0)
        return f"lowest modes {state} after {self.n_hvps} HVPs, errors up to {largest:.1e} eV/(Å² amu)"

    @property
    def wavenumbers(self) -> Array:
        """``(k,)`` cm⁻¹, imaginary ones negative."""
        return wavenumbers(self.eigenvalues)


def lowest_modes(
    atoms: Atoms,
    hvp: HVPs,
    k: int = 3,
    *,
    start: Array | None = None,
    tolerance: float = 1e-6,
    max_hvps: int | None = None,
    indices: Sequence[int] | Array | None = None,
    forces: Array | None = None,
    seed: int = 0,
) -> LowestModes:
    """Return the k lowest modes of the mass-weighted Hessian in the motions that constraints leave free.

    Translations and rotations are projected out, and constraints as in :func:`phl_ase.vibrations.harmonic_analysis`.

    Args:
        atoms: The structure; masses are ``atoms.get_masses()`` (amu).
        hvp: Its Hessian-vector products, for example ``calculator.get_hvp``.
        k: Number of modes.
        start: Modes to start from ``(any, n, 3)``, mass-weighted, for example ``start`` of the last geometry's.
        tolerance: Largest error of an eigenvalue, relative to it (to (1 cm⁻¹)² where it is smaller).
        max_hvps: HVPs after which to give up; by default twice the number of vibrations.
        indices: The atoms that vibrate, in place of what the constraints say.
        forces: Forces without constraints ``(n, 3)`` eV/Å; needed where constraints hold bond lengths or angles.
        seed: Of the random vectors that join the start: no mode is missed for its symmetry.

    Raises:
        PHLError: For more modes than there are vibrations, a single atom, a start of another shape, or constraints that
            there are no vibrations under.
        NonFiniteError: For NaN or infinity in the HVPs.
    """
    operator = VibrationalOperator(atoms, hvp, indices, forces)
    if not isinstance(k, int | np.integer) or isinstance(k, bool):
        raise PHLError(f"k is {shortened(k)}; expected a whole number of modes, for example 3")
    if not 1 <= k <= operator.n_vibrations:
        raise PHLError(
            f"{k} modes were asked for; {atoms.get_chemical_formula()} has {operator.n_vibrations} vibrations "
            f"({operator.size} coordinates less {operator.n_rigid} rigid motions and "
            f"{operator.removed.shape[1] - operator.n_rigid} held by constraints): ask for 1 to {operator.n_vibrations}"
        )
    if not isinstance(tolerance, float | int | np.number) or not tolerance > 0:
        raise PHLError(f"tolerance is {shortened(tolerance)}; expected a positive number, for example 1e-7")
    if max_hvps is not None and (not isinstance(max_hvps, int | np.integer) or max_hvps < 0):
        raise PHLError(f"max_hvps is {shortened(max_hvps)}; expected a whole number, or None")
    model = _Preconditioner(operator)
    basis = _Basis(operator, _start_vectors(operator, model, k, start, np.random.default_rng(seed)))
    limit = 2 * operator.n_vibrations if max_hvps is None else max_hvps
    while True:
        values, vectors, residuals = basis.ritz(min(k + _GUARDS, operator.n_vibrations))
        # |r|²/gap, the gap to the last Ritz value (T. Kato, J. Phys. Soc. Jpn. 4, 334 (1949)); |r| where that is less
        norms = np.linalg.norm(residuals, axis=1)
        errors = np.minimum(norms**2 / np.maximum(values[-1] - values, 1e-300), norms)
        allowed = np.full(len(values), tolerance)
        allowed[k:] = max(tolerance, _GUARD_TOLERANCE)
        allowed[k + 1 :] = np.inf  # the last one's only part is the gap
        open_ = np.nonzero(errors > allowed * np.maximum(np.abs(values), _FLOOR))[0]
        if basis.is_complete or len(open_) == 0 or operator.n_hvps + len(open_) > limit:
            break
        if not basis.extend(model.corrections(values[open_], vectors[open_], residuals[open_])):
            break  # nothing new but rounding: float32 HVPs are no better than this
    done = basis.is_complete or len(open_) == 0
    modes = operator.as_modes(vectors)
    return LowestModes(values[:k], modes[:k], errors[:k], done, operator.n_hvps, modes)


class _Preconditioner:
    """(model + shift)⁻¹, mass-weighted; the shift keeps to the lowest Ritz value and is renewed when that has moved."""

    def __init__(self, operator: VibrationalOperator) -> None:
        places = (3 * operator.vibrating[:, None] + np.arange(3)).ravel()
        weights = sparse.diags_array(operator.weights)
        block = model_hessian(operator.atoms)[places][:, places]
        self._matrix = (weights @ block @ weights).tocsc()
        self._project = operator.project
        self._shift = 0.0
        self._solve: Callable[[Array], Array] | None = None

    def solve(self, vectors: Array, lowest: float) -> Array:
        """Rows ``(K, 3m)`` divided by model − lowest."""
        shift = max(-_DEPTH * lowest, _FLOOR)
        if self._solve is None or not 0.5 < shift / self._shift < 2:
            self._shift = shift
            identity = sparse.eye_array(self._matrix.shape[0], format="csc")
            self._solve = splu((self._matrix + shift * identity).tocsc()).solve
        return self._solve(np.ascontiguousarray(vectors.T)).T

    def corrections(self, values: Array, vectors: Array, residuals: Array) -> Array:
        """Directions to search next, one for each Ritz vector, orthogonal to it after preconditioning (Olsen)."""
        lowest = float(values.min())
        steps, along = self.solve(residuals, lowest), self.solve(vectors, lowest)
        overlap = np.einsum("kd,kd->k", vectors, steps) / np.einsum("kd,kd->k", vectors, along)
        return self._project(steps - overlap[:, None] * along)


class _Basis:
    """An orthonormal basis of the subspace searched so far, and its HVPs."""

    def __init__(self, operator: VibrationalOperator, start: Array) -> None:
        self._operator = operator
        self._vectors = np.zeros((0, operator.size))
        self._images = np.zeros((0, operator.size))
        self.extend(start)

    @property
    def is_complete(self) -> bool:
        return len(self._vectors) == self._operator.n_vibrations

    def extend(self, directions: Array) -> int:
        """Add directions and take their HVPs; how many were new."""
        if len(self._vectors) + len(directions) > max(_LARGEST_BASIS, 4 * len(directions)):
            matrix = self._vectors @ self._images.T
            mix = np.linalg.eigh(symmetrised(matrix))[1][:, : _LARGEST_BASIS // 4].T
            self._vectors, self._images = mix @ self._vectors, mix @ self._images
        new = _orthonormal(self._operator.project(directions), self._vectors)
        room = self._operator.n_vibrations - len(self._vectors)
        new = new[:room]
        self._vectors = np.concatenate([self._vectors, new])
        self._images = np.concatenate([self._images, self._operator(new)])
        return len(new)

    def ritz(self, count: int) -> tuple[Array, Array, Array]:
        """Return the lowest Ritz values ``(count,)``, their vectors and residuals ``(count, 3m)``."""
        matrix = self._vectors @ self._images.T
        values, mix = np.linalg.eigh(symmetrised(matrix))
        values, mix = values[:count], mix[:, :count].T
        vectors = mix @ self._vectors
        return values, vectors, mix @ self._images - values[:, None] * vectors


def _orthonormal(directions: Array, basis: Array | None = None) -> Array:
    """Return what directions add to an orthonormal basis, orthonormal; what adds nothing but rounding is left out."""
    basis = np.zeros((0, directions.shape[1])) if basis is None else basis
    smallest = 1e-10 * np.linalg.norm(directions, axis=1).max(initial=0.0)
    kept: list[Array] = []
    for direction in directions:
        for _ in range(2):  # twice is enough (W. Kahan)
            direction = direction - (direction @ basis.T) @ basis
            for other in kept:
                direction = direction - (direction @ other) * other
        left = np.linalg.norm(direction)
        if left > smallest:
            kept.append(direction / left)
    return np.array(kept).reshape(len(kept), basis.shape[1])


def _start_vectors(
    operator: VibrationalOperator, model: _Preconditioner, k: int, start: Array | None, rng: np.random.Generator
) -> Array:
    """Return the modes of the last geometry, or what an inverse iteration on the model makes of random vectors."""
    if operator.n_vibrations <= max(_SMALL, 4 * (k + _GUARDS)):
        return complement(operator.removed).T
    vectors = rng.standard_normal((k + _GUARDS, operator.size))
    for _ in range(4):
        vectors = _orthonormal(operator.project(model.solve(vectors, 0.0)))
    noise = operator.project(rng.standard_normal(vectors.shape))
    vectors = vectors + 0.05 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    if start is None:
        return vectors
    given = np.asarray(start, dtype=float)
    if given.ndim != 3 or given.shape[1:] != (len(operator.atoms), 3) or not np.all(np.isfinite(given)):
        raise PHLError(
            f"start has shape {given.shape}; expected modes (any number, {len(operator.atoms)}, 3), finite, such as "
            "those found at the last geometry"
        )
    # at least one vector of the model beside them: a mode that came down since then can still be found
    joined = np.concatenate([given[:, operator.vibrating].reshape(len(given), -1), vectors])
    return _orthonormal(operator.project(joined))[: max(k + _GUARDS, len(given) + 1)]
