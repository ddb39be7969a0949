"""Exact Hessian-vector products in Sella's own eigensolver, in place of its differences of gradients.

Sella (E. D. Hermes, K. Sargsyan, H. N. Najm, J. Zádor, J. Chem. Theory Comput. 18, 6974 (2022),
doi:10.1021/acs.jctc.2c00395) finds the curvature it needs with an iterative eigensolver that takes its HVPs from
(g(x + ηd) − g(x))/η. There is no hook for exact ones, but the energy and gradient at the probe x + ηd come from one
method of its surface, ``PES._calc_eg``, which nothing else calls. Put in its place, :class:`ExactProbes` answers with
the linear model g(x) + ηHd, of which Sella's quotient is Hd to rounding; projection, constraints and the update of
Sella's approximate Hessian stay its own.

In internal coordinates q(x), dummy atoms included, with B = ∂q/∂x, its pseudo-inverse B⁺ and g_q = B⁺ᵀg_x:

    H_q d = B⁺ᵀ (H_x − Σ_i g_q,i ∂²q_i/∂x²) B⁺ d

All of this is private to Sella. It is held down by the version that is asked for, by one HVP compared with a
difference of gradients at the start of every search, and by a test of Sella's own source.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
from ase import Atoms
from sella import Sella

from phl_ase.errors import PHLError
from phl_ase.paths.counting import CountingHessian, CountingHVP
from phl_ase.types import Array

SUPPORTED = "2.6"
"""The minor version of Sella whose private methods are known."""

# Å: the probe of the check. At Sella's own 1e-4 the noise of forces hides the HVP: 19 % of it with GFN2-xTB,
# all of it with the 1e-3 eV/Å of a float32 model on a GPU. At 0.002 what the third derivative adds was at most 6 % of
# the HVP in 144 displaced starts; a wrong sign or unit changes it by 90 % and more.
_CHECK_STEP = 0.002
_CHECK_TOLERANCE = 0.3
_CHECK_NOISE = 1e-3  # eV/Å, of the forces


def require_supported_sella() -> None:
    """Refuse a Sella whose private methods have not been looked at.

    Raises:
        PHLError: For a version that is not 2.6.
    """
    version = importlib.metadata.version("sella")
    if version.split(".")[:2] != SUPPORTED.split("."):
        raise PHLError(
            f"Sella {version} is installed; exact Hessian-vector products work in Sella {SUPPORTED} alone: "
            f"pip install 'sella=={SUPPORTED}.*', or search with gradients or Hessians, which any version takes"
        )


class ExactProbes:
    """Energy and gradient at the probes of Sella's eigensolver, from the exact linear model of the gradient.

    Attributes:
        pes: Sella's surface, Cartesian or internal.
        hvps: ``hvp(vectors, atoms)``.
        fallbacks: Points that were no probe (not at the distance η) and were answered by Sella's own method.
    """

    def __init__(self, pes: Any, hvps: CountingHVP):
        self.pes = pes
        self.hvps = hvps
        self.fallbacks = 0
        self._differences = pes._calc_eg

    def __call__(self, x: Array) -> tuple[float, Array]:
        """Return the energy (eV, to second order) and gradient at a point, in the coordinates of the surface."""
        pes = self.pes
        step = np.asarray(x, dtype=float) - pes.get_x()
        length = np.linalg.norm(step)
        if not np.isclose(length, pes.eta, rtol=1e-3, atol=0.0):
            self.fallbacks += 1
            return self._differences(x)
        gradient = pes.get_g()
        change = length * self.hvp(step / length)
        return pes.get_f() + step @ (gradient + 0.5 * change), gradient + change

    def hvp(self, direction: Array) -> Array:
        """H·d at the present point, in the coordinates of the surface."""
        pes = self.pes
        if pes.int is None:
            return self.hvps(direction.reshape(-1, 3), pes.atoms).ravel()
        inverse = pes._get_Binv()
        moved = inverse @ direction
        change = -pes.int.hessian().ldot(pes.get_g()) @ moved
        n_real = 3 * len(pes.atoms)  # dummy atoms come after them and have no energy
        change[:n_real] += self.hvps(moved[:n_real].reshape(-1, 3), pes.atoms).ravel()
        return inverse.T @ change


def check_hvp(atoms: Atoms, hvps: CountingHVP) -> None:
    """Compare one HVP with a difference of gradients: one gradient more, which is counted as any other.

    In Cartesian coordinates, where nothing but the HVPs can be wrong: in internal ones the curvature of the
    coordinates themselves may hide a mistake.

    Args:
        atoms: The structure, with its calculator.
        hvps: ``hvp(vectors, atoms)``.

    Raises:
        PHLError: Where they have nothing to do with each other.
    """
    # every atom moved as far: along a single coordinate the curvature may be zero
    direction = np.random.default_rng(0).choice((-1.0, 1.0), (len(atoms), 3)) / np.sqrt(3 * len(atoms))
    exact = hvps(direction, atoms)
    ahead = atoms.copy()
    ahead.calc = atoms.calc
    here = atoms.get_forces(apply_constraint=False)
    ahead.positions += _CHECK_STEP * direction
    difference = (here - ahead.get_forces(apply_constraint=False)) / _CHECK_STEP
    sizes = np.linalg.norm(exact), np.linalg.norm(difference)
    allowed = _CHECK_TOLERANCE * max(sizes) + _CHECK_NOISE * np.sqrt(direction.size) / _CHECK_STEP
    if not np.linalg.norm(exact - difference) <= allowed:
        cosine = np.vdot(exact, difference) / max(sizes[0] * sizes[1], np.finfo(float).tiny)
        raise PHLError(
            f"hvp(vectors, atoms) gave an HVP of size {sizes[0]:.3g} eV/Å² where the gradients change by "
            f"{sizes[1]:.3g} eV/Å² (cosine {cosine:.2f}); expected the same: look at its sign, its units (eV/Å²) "
            "and whether it uses the atoms it is given"
        )


class HVPSella(Sella):
    """Sella whose eigensolver takes exact Hessian-vector products.

    Args:
        atoms: The structure, with a calculator; Sella moves it.
        hvps: ``hvp(vectors, atoms)``.
        start: ``hessian(atoms)`` for the first curvature; by default that, too, comes from the eigensolver.
        **options: What Sella takes.

    Raises:
        PHLError: For a version of Sella that is not known.
    """

    def __init__(self, atoms: Atoms, hvps: CountingHVP, *, start: CountingHessian | None = None, **options: Any):
        require_supported_sella()
        self._hvps, self._start = hvps, start
        self._probes: list[ExactProbes] = []
        super().__init__(atoms, **options)

    @property
    def fallbacks(self) -> int:
        """Points that Sella's own method had to answer; none is known."""
        return sum(probes.fallbacks for probes in self._probes)

    def initialize_pes(self, *arguments: Any, **options: Any) -> None:
        """Make the surface, also anew after internal coordinates went bad, and put the exact probes in."""
        super().initialize_pes(*arguments, **options)
        surface: Any = self.pes
        self._probes.append(ExactProbes(surface, self._hvps))
        surface._calc_eg = self._probes[-1]

    def _initialize_eigensolver(self) -> None:
        if len(self._probes) == 1:
            check_hvp(self.atoms, self._hvps)
        if self._start is None:
            super()._initialize_eigensolver()
            return
        surface: Any = self.pes
        surface.hessian_function = self._start
        try:
            super()._initialize_eigensolver()
        finally:
            surface.hessian_function = None
        # there is a Hessian to precondition with, so that the eigensolver need not begin at the gradient
        surface.first_diag = False
