"""Motions that the constraints of ``ase.Atoms`` leave free: the one place that reads ``atoms.constraints``.

A constraint holds atoms, or functions σ of the positions (a coordinate, a bond length, an angle). Vibrations are the
motions that change none of them to first order: those orthogonal to every gradient ∇σ. Where the force along σ is λ
and σ is curved, the energy has on the constrained surface the Hessian of E − Σ λ σ (Lagrange): H − Σ λ ∇²σ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.geometry import find_mic, get_angles_derivatives, get_dihedrals_derivatives, get_distances_derivatives

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.hessians import symmetrised
from phl_ase.types import Array

if TYPE_CHECKING:
    from scipy import sparse

_STEP = 1e-4  # Å; ∇²σ by central differences of ∇σ is then right to 1e-7
_CORRECTIONS, _RESTORED = 200, 1e-9  # Å
_STEEPEST = 1e5  # degrees/Å: an angle that is straight within 0.03 degrees has no direction to change in
_NO_VOLUME = 1e-10  # Å³
_NONE_FREE = "no atom is free to move; expected at least one: loosen the constraints or give indices"
_DEPENDENT = 1e-8  # of the largest singular value: held twice is held once


@dataclass(frozen=True)
class HeldCoordinate:
    """A function σ of the positions of a few atoms that a constraint keeps.

    Attributes:
        atoms: Their indices ``(k,)``.
        gradient: Positions ``(k, 3)`` Å to ∇σ ``(k, 3)``.
        is_curved: Whether ∇σ changes with the positions.
        is_centre: Whether σ is a coordinate of the centre of mass of the whole structure.
    """

    atoms: tuple[int, ...]
    gradient: Callable[[Array], Array]
    is_curved: bool = False
    is_centre: bool = False


@dataclass(frozen=True, eq=False)
class FreeMotions:
    """Motions that constraints leave to a structure.

    Attributes:
        atoms: Indices of the atoms that can move in some direction ``(m,)``, ascending.
        held: Coordinates of these atoms that are kept nevertheless.
        positions: Of all atoms ``(n, 3)`` Å.
    """

    atoms: Array
    held: tuple[HeldCoordinate, ...]
    positions: Array

    @property
    def is_curved(self) -> bool:
        """Return whether the Hessian needs the forces of constraint: some held coordinate is a length or an angle."""
        return any(one.is_curved for one in self.held)

    @property
    def is_whole(self) -> bool:
        """Return whether every motion of the structure is free, but for translations."""
        return len(self.atoms) == len(self.positions) and all(one.is_centre for one in self.held)

    def jacobian(self) -> Array:
        """Return the gradients ∇σ of the held coordinates with respect to the free atoms ``(c, 3m)``."""
        rows = np.zeros((len(self.held), len(self.positions), 3))
        for row, one in zip(rows, self.held, strict=True):
            np.add.at(row, list(one.atoms), one.gradient(self.positions[list(one.atoms)]))
        return rows[:, self.atoms].reshape(len(rows), 3 * len(self.atoms))

    def directions(self, masses: Array) -> Array:
        """Return orthonormal mass-weighted directions that are held ``(3m, c')``, those held twice once.

        Args:
            masses: Of the free atoms ``(m,)`` amu; ones for unweighted directions.
        """
        weights = np.repeat(np.asarray(masses, dtype=float) ** -0.5, 3)
        columns = (self.jacobian() * weights).T
        sizes = np.linalg.norm(columns, axis=0)
        columns = columns[:, sizes > 0] / sizes[sizes > 0]
        if columns.shape[1] == 0:
            return np.zeros((len(weights), 0))
        basis, found, _ = np.linalg.svd(columns, full_matrices=False)
        return basis[:, found > _DEPENDENT * found[0]]

    def curvature(self, forces: Array | None, masses: Array) -> sparse.csr_array:
        """Return Σ λ ∇²σ ``(3m, 3m)`` eV/Å²: what the forces of constraint take from the Hessian.

        Args:
            forces: Forces of the potential, without constraints, on all atoms ``(n, 3)`` eV/Å.
            masses: Of the free atoms ``(m,)`` amu: −F = Σ λ ∇σ is solved in mass-weighted coordinates.

        Raises:
            PHLError: For no forces where a held coordinate is curved, or forces of another shape.
            NonFiniteError: For NaN or infinity in the forces.
        """
        from scipy import sparse

        size = 3 * len(self.positions)
        rows = (3 * self.atoms[:, None] + np.arange(3)).ravel()
        if not self.is_curved:
            return sparse.csr_array((len(rows), len(rows)))
        if forces is None:
            raise PHLError(
                "the constraints hold bond lengths or angles, whose forces belong to the curvature; give them: "
                "forces=atoms.get_forces(apply_constraint=False), or remove the constraints (atoms.set_constraint())"
            )
        given = np.asarray(forces, dtype=float)
        if given.shape != self.positions.shape:
            raise PHLError(f"the forces have shape {given.shape}; expected {self.positions.shape}, eV/Å")
        if not np.all(np.isfinite(given)):
            raise NonFiniteError("the forces hold NaN or infinity; check the structure and what made them")
        weights = np.repeat(np.asarray(masses, dtype=float) ** -0.5, 3)
        gradient = -given[self.atoms].ravel()
        multipliers = np.linalg.lstsq((self.jacobian() * weights).T, weights * gradient, rcond=_DEPENDENT)[0]
        values, places = [], []
        for multiplier, one in zip(multipliers, self.held, strict=True):
            if one.is_curved:
                own = (3 * np.array(one.atoms)[:, None] + np.arange(3)).ravel()
                places.append((np.repeat(own, len(own)), np.tile(own, len(own))))
                here = self.positions[list(one.atoms)]
                second = np.zeros((*here.shape, *here.shape))
                for place in np.ndindex(*here.shape):
                    step = np.zeros_like(here)
                    step[place] = _STEP
                    second[place] = (one.gradient(here + step) - one.gradient(here - step)) / (2 * _STEP)
                values.append(multiplier * symmetrised(second.reshape(len(own), len(own))).ravel())
        entries = (np.concatenate(values), np.concatenate(places, axis=1))
        total = sparse.coo_array(entries, shape=(size, size)).tocsr()
        return total[rows][:, rows]

    def restore(self, atoms: Atoms, positions: Array) -> Array:
        """Return displaced positions ``(n, 3)`` with the lengths and angles of a structure that constraints hold.

        Straight displacements change them to second order; ASE's own corrections, repeated until they agree, undo that.

        Args:
            atoms: The structure with its constraints; it is not changed.
            positions: Displaced along free motions ``(n, 3)`` Å.

        Raises:
            PHLError: Where no such positions are found: the displacement is too large.
        """
        moved = np.array(positions, dtype=float)
        if not self.is_curved:
            return moved
        start = atoms.copy()
        try:
            for _ in range(_CORRECTIONS):
                before = moved.copy()
                for constraint in start.constraints:
                    constraint.adjust_positions(start, moved)
                if np.abs(moved - before).max() < _RESTORED:
                    return moved
        except (RuntimeError, ValueError, ZeroDivisionError, FloatingPointError):
            pass
        raise PHLError("the constraints cannot be kept at so large a displacement; make it smaller")


def free_motions(atoms: Atoms, indices: Sequence[int] | Array | None = None) -> FreeMotions:
    """Return the motions that the constraints of a structure leave free.

    Args:
        atoms: The structure.
        indices: Atoms that move freely in place of what the constraints say; all others are fixed.

    Raises:
        PHLError: For no atoms, no free atom, wrong indices, or a constraint that is no condition on positions (a
            spring, an external force, a symmetry) or that is not known.
    """
    if len(atoms) == 0:
        raise PHLError("the structure has no atoms; expected at least one")
    if indices is not None:
        chosen, n_atoms = np.asarray(indices), len(atoms)
        if chosen.size == 0:
            raise PHLError(_NONE_FREE)
        if chosen.dtype.kind not in "iu" or chosen.ndim != 1 or not np.all((chosen >= -n_atoms) & (chosen < n_atoms)):
            raise PHLError(
                f"indices are {chosen.tolist()}; expected whole numbers below {n_atoms}, the number of atoms"
            )
        chosen = chosen % n_atoms
        # ascending, because ASE takes the masses of a selection in the order of the atoms, not of the indices
        if np.any(np.diff(chosen) <= 0):
            raise PHLError(f"indices are {chosen.tolist()}; expected each atom once, in ascending order: sort them")
        return FreeMotions(chosen, (), atoms.positions)
    fixed, held = _read(atoms)
    free = np.nonzero(~fixed)[0]
    if len(free) == 0:
        raise PHLError(_NONE_FREE)
    return FreeMotions(free, tuple(one for one in held if not fixed[list(one.atoms)].all()), atoms.positions)


def free_atoms(atoms: Atoms) -> Array:
    """Return the indices of the atoms that can move in some direction ``(m,)``, ascending; empty where all are fixed.

    Raises:
        PHLError: For a constraint that :func:`free_motions` refuses.
    """
    return np.nonzero(~_read(atoms)[0])[0]


def count_from_zero(atoms: Atoms) -> None:
    """Rewrite the constraints of a structure without negative atom numbers, for programs that do not know these.

    Raises:
        PHLError: For an atom that the structure does not have.
    """
    changed = []
    for constraint in atoms.constraints:
        copy = constraint.copy()
        kinds = _kinds(copy)
        if "FixInternals" in kinds:
            for kind in _DERIVATIVES:
                setattr(copy, kind, [[value, [*_indices(p, copy, len(atoms))]] for value, p in getattr(copy, kind)])
            copy.bondcombos = [
                [value, [[*_indices(term[:2], copy, len(atoms)), term[2]] for term in terms]]
                for value, terms in copy.bondcombos
            ]
        elif "FixBondLengths" in kinds:
            copy.pairs = np.array([_indices(pair, copy, len(atoms)) for pair in copy.pairs]).reshape(-1, 2)
            copy.bondlengths = constraint.bondlengths  # which ASE's own copy forgets
        elif isinstance(getattr(copy, "index", None), np.ndarray):
            copy.index = np.array(_indices(copy.index, copy, len(atoms)), dtype=int)
        changed.append(copy)
    atoms.set_constraint(changed)


def _read(atoms: Atoms) -> tuple[Array, list[HeldCoordinate]]:
    """Return which atoms are fixed in all directions ``(n,)``, and the coordinates that are held beside them.

    Raises:
        PHLError: For a constraint that no vibrations can be taken under, with the reason.
    """
    fixed = np.zeros(len(atoms), dtype=bool)
    held: list[HeldCoordinate] = []
    for constraint in atoms.constraints:
        kinds = _kinds(constraint)
        has_mask = "FixCartesian" in kinds or "FixScaled" in kinds
        if "FixAtoms" in kinds or (has_mask and np.all(constraint.mask)):
            fixed[list(_indices(constraint.index, constraint, len(atoms)))] = True
            continue
        if getattr(constraint, "use_cell", False):
            continue  # a relation of the cell holds no atom
        kind = next((kind for kind in kinds if kind in _REFUSED or kind in _READERS), None)
        if kind is None:
            known = ", ".join(sorted({"FixAtoms", *_READERS}))
            raise PHLError(
                f"the constraint {type(constraint).__name__} is not known here, and ignoring it would give other "
                f"modes; known: {known}; remove it (atoms.set_constraint()) or give the indices of the free atoms"
            )
        if kind in _REFUSED:
            raise PHLError(f"the constraint {kind} {_REFUSED[kind]}: remove it (atoms.set_constraint())")
        held += _READERS[kind](constraint, atoms)
    return fixed, held


def _indices(given: Any, constraint: Any, n_atoms: int) -> tuple[int, ...]:
    """Atoms that a constraint names, negative numbers counted from the end, as ASE itself reads them.

    Raises:
        PHLError: For an atom that the structure does not have.
    """
    numbers = np.atleast_1d(np.arange(n_atoms)[given] if isinstance(given, slice) else given)
    if not np.all((numbers >= -n_atoms) & (numbers < n_atoms)):
        raise PHLError(
            f"the constraint {type(constraint).__name__} names atom {int(numbers[np.argmax(np.abs(numbers))])} of a "
            f"structure of {n_atoms}; expected numbers below {n_atoms}: mend it (atoms.set_constraint)"
        )
    return tuple(int(number) % n_atoms for number in numbers)


def _kinds(constraint: Any) -> list[str]:
    """Return ASE's classes that a constraint is of by name, narrowest first: ``ase.constraints`` loads slowly."""
    return [kind.__name__ for kind in type(constraint).__mro__ if kind.__module__.startswith("ase.constraints")]


def _linear(places: Sequence[int], gradient: Any) -> HeldCoordinate:
    """Return a coordinate with the same gradient ``(k, 3)`` everywhere."""
    fixed = np.asarray(gradient, dtype=float).reshape(len(places), 3)
    return HeldCoordinate(tuple(places), lambda _: fixed)


def _axes(constraint: Any, atoms: Atoms, axes: Array) -> list[HeldCoordinate]:
    """Return each atom of a constraint held along each of some axes ``(any, 3)``."""
    places = _indices(constraint.index, constraint, len(atoms))
    return [_linear([place], axis) for place in places for axis in axes]


def _centre(constraint: Any, atoms: Atoms) -> list[HeldCoordinate]:
    """Return the centre of mass of all atoms or of some."""
    places = _indices(constraint.index, constraint, len(atoms))
    masses = atoms.get_masses()[list(places)]
    whole = len(places) == len(atoms)
    rows = [_linear(places, np.outer(masses / masses.sum(), axis)) for axis in np.eye(3)]
    return [replace(row, is_centre=whole) for row in rows]


def _mode(constraint: Any, atoms: Atoms) -> list[HeldCoordinate]:
    if np.size(constraint.mode) != 3 * len(atoms):
        raise PHLError(
            f"the constraint FixedMode has {np.size(constraint.mode)} numbers; expected {3 * len(atoms)} for "
            f"{len(atoms)} atoms: mend it (atoms.set_constraint)"
        )
    return [_linear(range(len(atoms)), constraint.mode)]


def _internals(constraint: Any, atoms: Atoms) -> list[HeldCoordinate]:
    held = [
        _internal(constraint, atoms, kind, definition[1], mic=constraint.mic)
        for kind in _DERIVATIVES
        for definition in getattr(constraint, kind)
    ]
    for _, terms in constraint.bondcombos:
        parts = [_internal(constraint, atoms, "bonds", term[:2], mic=constraint.mic) for term in terms]
        places = tuple(place for part in parts for place in part.atoms)
        held.append(HeldCoordinate(places, _combination(parts, [float(term[2]) for term in terms]), is_curved=True))
    return held


def _combination(parts: Sequence[HeldCoordinate], factors: Sequence[float]) -> Callable[[Array], Array]:
    """Gradient of Σ c σ, the atoms of each part one after the other."""

    def gradient(positions: Array) -> Array:
        own = positions.reshape(len(parts), -1, 3)
        return np.concatenate([c * part.gradient(p) for c, part, p in zip(factors, parts, own, strict=True)])

    return gradient


def _internal(constraint: Any, atoms: Atoms, kind: str, places: Any, *, mic: bool) -> HeldCoordinate:
    """Return a bond length, angle or dihedral; ASE's derivatives (angles in degrees)."""
    vectors_of, derivatives = _DERIVATIVES[kind]
    periodic = mic and bool(np.any(atoms.pbc))
    if periodic and abs(np.linalg.det(atoms.cell.complete())) < _NO_VOLUME:
        raise PHLError(
            f"the cell is {np.array(atoms.cell).tolist()}, whose vectors lie in a plane; the constraint "
            f"{type(constraint).__name__} cannot find the nearest images in it: set the cell"
        )
    cell, pbc = (atoms.cell, atoms.pbc) if periodic else (None, None)
    names = _indices(places, constraint, len(atoms))

    def gradient(positions: Array) -> Array:
        try:
            slopes = derivatives(*([vector] for vector in vectors_of(positions)), cell=cell, pbc=pbc)[0]
        except ZeroDivisionError:
            slopes = np.array(np.inf)
        if not np.abs(slopes).max() < _STEEPEST:
            raise PHLError(
                f"the constraint {type(constraint).__name__} holds a coordinate of the atoms {list(names)} that is not "
                "defined here (atoms at one place, or a straight angle); hold another one"
            )
        return slopes

    return HeldCoordinate(names, gradient, is_curved=True)


def _triples(constraint: Any, atoms: Atoms) -> list[HeldCoordinate]:
    """Rigid linear triples: the outer distance, and the central atom at its place between the outer two."""
    held = []
    for triple in constraint.triples:
        outer, centre, other = _indices(triple, constraint, len(atoms))
        arms = atoms.positions[[outer, other]] - atoms.positions[centre]
        lengths = np.linalg.norm(find_mic(arms, atoms.cell, atoms.pbc)[0] if np.any(atoms.pbc) else arms, axis=1)
        share = lengths[::-1] / lengths.sum()
        places = (outer, centre, other)
        held += [_linear(places, np.outer([-share[0], 1.0, -share[1]], axis)) for axis in np.eye(3)]
        held.append(_internal(constraint, atoms, "bonds", [outer, other], mic=True))
    return held


_DERIVATIVES: dict[str, tuple[Callable[[Array], tuple[Array, ...]], Callable[..., Array]]] = {
    # vectors between the atoms as ASE wants them, and its derivatives
    "bonds": (lambda p: (p[1] - p[0],), get_distances_derivatives),
    "angles": (lambda p: (p[0] - p[1], p[2] - p[1]), get_angles_derivatives),
    "dihedrals": (lambda p: (p[1] - p[0], p[2] - p[1], p[3] - p[2]), get_dihedrals_derivatives),
}

_READERS: dict[str, Callable[[Any, Atoms], list[HeldCoordinate]]] = {
    "FixCartesian": lambda constraint, atoms: _axes(constraint, atoms, np.eye(3)[constraint.mask]),
    # fractional coordinates: their gradients are the reciprocal vectors
    "FixScaled": lambda constraint, atoms: _axes(
        constraint, atoms, np.linalg.inv(atoms.cell.complete()).T[constraint.mask]
    ),
    "FixedPlane": lambda constraint, atoms: _axes(constraint, atoms, constraint.dir[None, :]),
    # both directions across the line
    "FixedLine": lambda constraint, atoms: _axes(constraint, atoms, np.linalg.svd(constraint.dir[None, :])[2][1:]),
    "FixCom": _centre,
    "FixedMode": _mode,
    "FixBondLengths": lambda constraint, atoms: [
        _internal(constraint, atoms, "bonds", pair, mic=True) for pair in constraint.pairs
    ],
    "FixInternals": _internals,
    "FixLinearTriatomic": _triples,
}
"""Constraint -> the coordinates that it holds."""

_NO_CONDITION = "adds forces whose energy and curvature are not in the Hessian"
_REFUSED: dict[str, str] = {
    "Hookean": _NO_CONDITION,
    "ExternalForce": _NO_CONDITION,
    "MirrorForce": "turns forces round: where they vanish is no stationary point",
    "MirrorTorque": "turns forces round: where they vanish is no stationary point",
    "FixSymmetry": "allows motions of full symmetry alone, and most modes break it",
    "FixParametricRelations": "ties atoms to parameters, which is not known here",
}
"""Constraint -> why there are no vibrations under it."""
