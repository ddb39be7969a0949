"""Curvature of any ASE calculator: its own Hessians and Hessian-vector products, or differences of its forces.

Searches, paths, frequencies and phonons ask here: any ASE calculator can be scored, and reports say which it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.units import Bohr, Hartree, kcal, mol

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.hessians import checked_hessian
from phl_ase.types import ASECalculator
from phl_ase.vibrations import checked_hvps, checked_vectors, finite_difference_hessian

Array = np.ndarray
HessianFunction = Callable[[Atoms], Array]
"""``hessian(atoms) -> (3n, 3n)`` eV/Å², symmetric, ordered x1 y1 z1 x2 …"""
HVPFunction = Callable[[Array, Atoms], Array]
"""``hvp(vectors, atoms)``: vectors ``(n, 3)`` or ``(K, n, 3)`` to HVPs of the same shape, eV/Å² per unit."""

EXACT = "the calculator's own"
DIFFERENCES = "finite differences of forces"

_DISPLACEMENT = 0.005  # Å, the largest displacement of an atom along a vector


@dataclass(frozen=True)
class Curvature:
    """Second derivatives of a calculator.

    Attributes:
        hessian: ``hessian(atoms)``.
        hvp: ``hvp(vectors, atoms)``.
        source: ``EXACT`` or ``DIFFERENCES``, for reports.
        gradients_per_hessian: Gradients behind one Hessian of n atoms; 0 where it is exact.
        gradients_per_hvp: Gradients behind one HVP.
    """

    hessian: HessianFunction
    hvp: HVPFunction
    source: str
    gradients_per_hessian: Callable[[int], int]
    gradients_per_hvp: int

    @property
    def is_exact(self) -> bool:
        """Return whether the calculator has curvature of its own."""
        return self.source == EXACT


def curvature_of(calculator: ASECalculator) -> Curvature:
    """Return the curvature of an ASE calculator: its own where it has some, else differences of forces.

    A calculator's own is ``get_hessian(atoms)`` or ``get_hvp(vectors, atoms)``, a result ``hessian`` (fairchem,
    NewtonNet), or the Hessian-vector products of AIMNet2's base calculator. A difference of two forces tells once for
    each calculator in which layout its Hessians come, and whether they are Hessians in eV/Å² at all; a
    ``PHLCalculator``, whose curvature is tested here, is believed.

    Args:
        calculator: A ``PHLCalculator`` or any other ASE calculator; callables put it on copies of the atoms.
    """
    own_hessian, own_hvp = _own_hessian(calculator), _own_hvp(calculator)
    if getattr(type(calculator), "curvature_is_tested", False) and own_hessian and own_hvp:
        return Curvature(own_hessian, own_hvp, EXACT, lambda n: 0, 0)
    if own_hessian or own_hvp:
        checked = _Checked(calculator, own_hessian, own_hvp)
        return Curvature(checked.hessian, checked.hvp, EXACT, lambda n: 0, 0)

    def hessian(atoms: Atoms) -> Array:
        return finite_difference_hessian(_with(atoms, calculator))

    def hvp(vectors: Array, atoms: Atoms) -> Array:
        return finite_difference_hvp(vectors, _with(atoms, calculator))

    return Curvature(hessian, hvp, DIFFERENCES, lambda n: 6 * n, 2)


def _own_hessian(calculator: ASECalculator) -> Callable[[Atoms], Any] | None:
    """Return the calculator's own Hessians, in whatever layout."""
    if callable(own := getattr(calculator, "get_hessian", None)):
        return own
    ase_own: Any = calculator
    if "hessian" in (getattr(calculator, "implemented_properties", None) or ()):
        return lambda atoms: ase_own.get_property("hessian", atoms)
    return None


def _own_hvp(calculator: ASECalculator) -> Callable[[Array, Atoms], Any] | None:
    """Return the calculator's own HVPs."""
    if callable(own := getattr(calculator, "get_hvp", None)):
        return own
    base: Any = getattr(calculator, "base_calc", None)
    if not callable(getattr(base, "hessian_vector_product", None)):
        return None

    def of_aimnet(vectors: Array, atoms: Atoms) -> Any:
        info = atoms.info
        data = {
            "coord": atoms.positions,
            "numbers": atoms.numbers,
            "charge": info.get("charge", getattr(calculator, "charge", 0)),
            "mult": info.get("mult", info.get("spin", getattr(calculator, "mult", 1))),
            **({"cell": atoms.cell.array, "pbc": atoms.pbc} if atoms.pbc.any() else {}),
        }
        return base.hessian_vector_product(data, vectors)

    return of_aimnet


_FOREIGN_LAYOUTS: dict[str, tuple[Callable[[int], tuple[int, ...]], Callable[[Array], Array]]] = {
    "(3n, 3n)": (lambda n: (3 * n, 3 * n), lambda h: h),
    "(3n, n, 3)": (lambda n: (3 * n, n, 3), lambda h: h),
    "(n, 3, n, 3)": (lambda n: (n, 3, n, 3), lambda h: h),
    "(n, n, 3, 3)": (lambda n: (n, n, 3, 3), lambda h: h.transpose(0, 2, 1, 3)),
}
"""Layout -> its shape for n atoms, and how it is brought into ASE's order. Of three atoms the last two look alike."""

_LARGEST_DISAGREEMENT = 0.1
"""Largest relative difference from the forces: a wrong layout, sign or unit is off by all of it."""

_FORCE_NOISE = 0.05  # eV/Å²: differences of single-precision forces are as uncertain as this

_OWN = "the calculator's own HVP"

_MISTAKES = {
    -1.0: "it is the derivative of the forces: turn its sign",
    Bohr**2 / Hartree: "it is in Hartree/Bohr²: multiply by 97.17",
    mol / kcal: "it is in kcal/mol/Å²: divide by 23.06",
}
"""Ratio of a wrong Hessian to the right one -> the mistake."""


@dataclass
class _Agreement:
    """The layout of a calculator's Hessians, and whether its HVPs agree with its forces; once checked."""

    layout: str | None = None
    hvps_agree: bool = False


_AGREEMENTS: WeakKeyDictionary[Any, _Agreement] = WeakKeyDictionary()


class _Checked:
    """Curvature of a foreign calculator, compared with a difference of its forces before it is believed."""

    def __init__(
        self,
        calculator: ASECalculator,
        own_hessian: Callable[[Atoms], Any] | None,
        own_hvp: Callable[[Array, Atoms], Any] | None,
    ) -> None:
        self._calculator, self._own_hessian, self._own_hvp = calculator, own_hessian, own_hvp
        try:
            self._known = _AGREEMENTS.setdefault(calculator, _Agreement())
        except TypeError:  # it cannot be looked up
            self._known = _Agreement()

    def hessian(self, atoms: Atoms) -> Array:
        """Return the Hessian ``(3n, 3n)``, symmetrised."""
        n = len(atoms)
        try:
            if self._own_hessian is None:
                raise NotImplementedError
            given = _as_array(self._own_hessian(atoms))
        except (PropertyNotImplementedError, NotImplementedError):  # as AIMNet2's, of periodic structures
            if self._own_hvp is None:
                raise
            return checked_hessian(self.hvp(np.eye(3 * n).reshape(3 * n, n, 3), atoms).reshape(3 * n, 3 * n), n)
        found = {
            layout: np.ascontiguousarray(ordered(given)).reshape(3 * n, 3 * n)
            for layout, (shape, ordered) in _FOREIGN_LAYOUTS.items()
            if given.shape == shape(n)
        }
        if not found:
            raise PHLError(
                f"the calculator's Hessian has shape {given.shape}, expected {(3 * n, 3 * n)} for {n} atoms in eV/Å² "
                f"(or {', '.join(list(_FOREIGN_LAYOUTS)[1:])}): give it a get_hessian that returns that"
            )
        if self._known.layout not in found:
            vector, hvp = self._by_forces(atoms)
            errors = {name: _error((h @ vector.ravel()).reshape(n, 3), hvp) for name, h in found.items()}
            best = min(errors, key=lambda name: errors[name])
            if errors[best] > _LARGEST_DISAGREEMENT:
                raise _disagreement("Hessian", (found[best] @ vector.ravel()).reshape(n, 3), hvp)
            # the next structure may tell them apart
            if sum(error <= _LARGEST_DISAGREEMENT for error in errors.values()) > 1:
                return checked_hessian(found[best], n)
            self._known.layout = best
        return checked_hessian(found[self._known.layout], n)

    def hvp(self, vectors: Array, atoms: Atoms) -> Array:
        """HVPs of vectors ``(n, 3)`` or ``(K, n, 3)``."""
        given = checked_vectors(vectors, len(atoms))
        if self._own_hvp is None:
            return (given.reshape(-1, 3 * len(atoms)) @ self.hessian(atoms)).reshape(given.shape)
        if not self._known.hvps_agree:
            vector, hvp = self._by_forces(atoms)
            own = checked_hvps(_as_array(self._own_hvp(vector, atoms)), vector, _OWN)
            if _error(own, hvp) > _LARGEST_DISAGREEMENT:
                raise _disagreement("Hessian-vector product", own, hvp)
            self._known.hvps_agree = True
        return checked_hvps(_as_array(self._own_hvp(given, atoms)), given, _OWN)

    def _by_forces(self, atoms: Atoms) -> tuple[Array, Array]:
        """Return a random direction and the HVP along it, by two forces."""
        vector = np.random.default_rng(0).normal(size=(len(atoms), 3))
        vector /= np.linalg.norm(vector)
        return vector, finite_difference_hvp(vector, _with(atoms, self._calculator))


def _error(own: Array, by_forces: Array) -> float:
    """Return how far an HVP is from that of forces, relative to the longer one."""
    scale = max(np.linalg.norm(own), np.linalg.norm(by_forces)) + _FORCE_NOISE / _LARGEST_DISAGREEMENT
    return float(np.linalg.norm(own - by_forces) / scale)


def _disagreement(what: str, own: Array, by_forces: Array) -> PHLError:
    fitting = (mistake for k, mistake in _MISTAKES.items() if _error(own / k, by_forces) <= _LARGEST_DISAGREEMENT)
    guess = f" ({mistake})" if (mistake := next(fitting, "")) else ""
    sizes = f"{np.linalg.norm(own):.4g} against {np.linalg.norm(by_forces):.4g} eV/Å²"
    return PHLError(
        f"the calculator's {what} disagrees with differences of its forces{guess}: along one direction {sizes}, "
        f"{100 * _error(own, by_forces):.0f} % apart; expected second derivatives of the energy in eV/Å², atoms in "
        "ASE's order"
    )


def _as_array(values: Any) -> Array:
    """Numbers of a calculator: an array, or a tensor of any library on any device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise PHLError(f"the calculator's curvature is no array of numbers ({error})") from None
    if not np.all(np.isfinite(array)):
        raise NonFiniteError("the calculator's curvature holds NaN or infinity; check the structure")
    return array


def finite_difference_hvp(vectors: Array, atoms: Atoms, *, delta: float = _DISPLACEMENT) -> Array:
    """Return H·v by central differences of the forces of the attached calculator: two gradient calls a vector.

    Args:
        vectors: ``(n, 3)`` or ``(K, n, 3)``; a vector of zeros has an HVP of zeros.
        atoms: A structure with a calculator; it is not changed. Constraints do not act.
        delta: Displacement of the atom that a vector moves most, Å.

    Returns:
        HVPs of the same shape, eV/Å² per unit of vector; the error is of second order in ``delta``.

    Raises:
        PHLError: For no calculator, a wrong shape, or a displacement that is not positive.
        NonFiniteError: For NaN or infinity in the vectors or forces.
    """
    if atoms.calc is None:
        raise PHLError("the atoms have no calculator; expected one that gives forces: set atoms.calc")
    if not delta > 0:
        raise PHLError(f"delta is {delta!r} Å; expected a positive displacement, for example {_DISPLACEMENT}")
    given = checked_vectors(vectors, len(atoms))
    moved = atoms.copy()
    moved.calc = atoms.calc

    def forces(positions: Array) -> Array:
        moved.positions[:] = positions
        return np.array(moved.get_forces(apply_constraint=False), dtype=float)

    hvps = np.zeros(given.reshape(-1, len(atoms), 3).shape)
    for hvp, vector in zip(hvps, given.reshape(hvps.shape), strict=True):
        longest = np.linalg.norm(vector, axis=1).max(initial=0.0)
        if longest > 0:
            step = delta / longest
            back, ahead = (forces(atoms.positions + sign * step * vector) for sign in (-1, +1))
            hvp[:] = (back - ahead) / (2 * step)
    if not np.all(np.isfinite(hvps)):
        raise NonFiniteError("the calculator gave forces with NaN or infinity near these positions; check both")
    return hvps.reshape(given.shape)


def _with(atoms: Atoms, calculator: ASECalculator) -> Atoms:
    copy = atoms.copy()
    copy.calc = calculator
    return copy
