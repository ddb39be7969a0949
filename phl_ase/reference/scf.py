"""PySCF's self-consistent field behind bounded threads: where it starts, and what is tried when it does not converge.

Q. Sun et al., J. Chem. Phys. 153, 024109 (2020), doi:10.1063/5.0006074. Nothing here is imported from PySCF before a
calculation is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.calculators.calculator import SCFError

from phl_ase.errors import missing_package

Array = np.ndarray

CONVERGENCE = 1e-10
"""Largest change of the energy at the last cycle, Ha."""
GRADIENT_CONVERGENCE = 1e-6
"""Largest norm of the orbital gradient, Ha: forces are then good to about 1e-5 eV/Å."""


class SCFNotConverged(SCFError):
    """No rung of the ladder converged: a result of the structure, not a mistake of the caller."""


def pyscf_package() -> Any:
    """Return the package, its modules for Kohn–Sham calculations loaded.

    Raises:
        PHLError: When it is not installed.
    """
    try:
        import pyscf
        import pyscf.dft
        import pyscf.hessian
    except ImportError:
        raise missing_package("pyscf", "reference", "the method pyscf") from None
    return pyscf


@contextmanager
def bounded_threads(threads: int) -> Iterator[None]:
    """PySCF's number of threads, which is one for the whole process, set for a block and put back."""
    lib = pyscf_package().lib
    before = lib.num_threads()
    lib.num_threads(threads)
    try:
        yield
    finally:
        lib.num_threads(before)


# ------------------------------------------------------------------------------------------------- where it starts


@dataclass
class DensityHistory:
    """Densities of the last geometries of one molecule, and a start for the next one.

    A density is kept in the Löwdin basis, S^½ D S^½, where it stays idempotent when atoms move. The next one is the
    combination whose geometries add up to the new geometry best, the weights summing to 1: along a path, in dynamics or
    in differences of gradients this is an extrapolation.

    Attributes:
        length: How many geometries are kept.
    """

    length: int = 8
    _key: Any = None
    _entries: list[tuple[Array, Array]] = field(default_factory=list)

    def start(self, key: Any, positions: Array, overlap: Array) -> Array | None:
        """Return a density matrix to start from; ``None`` when nothing is known of this molecule.

        Args:
            key: What must agree for densities to carry over: species, charge, multiplicity, basis.
            positions: ``(n, 3)`` Å.
            overlap: S of the new geometry ``(orbitals, orbitals)``.
        """
        if key != self._key or not self._entries:
            return None
        offsets = np.array([old.ravel() - positions.ravel() for old, _ in self._entries])
        # weights summing to 1 that bring Σ w_i offsets_i near zero, large ones of far points held back
        gram = offsets @ offsets.T
        gram += 1e-4 * np.diag(np.diag(gram)) + 1e-10 * np.eye(len(offsets))
        weights = np.linalg.solve(gram, np.ones(len(offsets)))
        weights /= weights.sum()
        density = sum(w * d for w, (_, d) in zip(weights, self._entries, strict=True))
        back = _power(overlap, -0.5)
        return back @ density @ back

    def add(self, key: Any, positions: Array, overlap: Array, density: Array) -> None:
        """Keep a converged density."""
        if key != self._key:
            self._key, self._entries = key, []
        root = _power(overlap, 0.5)
        self._entries = [*self._entries, (positions.copy(), root @ density @ root)][-self.length :]


def _power(matrix: Array, exponent: float) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    # a nearly dependent basis: what is lost of a starting density does not matter
    return (vectors * np.maximum(values, 1e-9) ** exponent) @ vectors.T


# --------------------------------------------------------------------------------------- what is tried, in this order


def _plain(mean_field: Any) -> Any:
    return mean_field


def _shifted(mean_field: Any) -> Any:
    mean_field.level_shift = 0.3
    mean_field.damp = 0.3
    mean_field.max_cycle = 200
    return mean_field


def _second_order(mean_field: Any) -> Any:
    second = mean_field.newton()
    second.max_cycle = 60
    return second


@dataclass(frozen=True)
class Rung:
    """One attempt.

    Attributes:
        name: How results and errors call it.
        prepare: Changes a fresh mean field, or wraps it.
        carried: Start from the density carried over, where there is one, instead of from atoms.
    """

    name: str
    prepare: Callable[[Any], Any]
    carried: bool = False


LADDER: tuple[Rung, ...] = (
    Rung("DIIS from the carried density", _plain, carried=True),
    Rung("DIIS from atoms", _plain),
    Rung("level shift and damping", _shifted),
    Rung("second-order solver", _second_order),
)
"""Attempts in their order, until one converges."""


def converge(make: Callable[[], Any], start: Array | None) -> tuple[Any, str]:
    """Return a converged mean field.

    Args:
        make: Makes a fresh mean field.
        start: Density matrix to start from, if any.

    Returns:
        The mean field, and the name of the rung that converged.

    Raises:
        SCFNotConverged: When no rung does.
    """
    tried = []
    for rung in LADDER:
        if rung.carried and start is None:
            continue
        mean_field = rung.prepare(make())
        mean_field.kernel(dm0=start if rung.carried else None)
        if mean_field.converged and np.isfinite(mean_field.e_tot):
            return mean_field, rung.name
        tried.append(rung.name)
    raise SCFNotConverged(
        f"the self-consistent field did not converge ({', then '.join(tried)}): check the geometry, the charge and the "
        "multiplicity"
    )
