"""The domain of a model: distances and molecules of its training frames, kept on its card and compared with new ones.

Energies are learnt of whole frames, so a molecule that was only ever seen beside another one has an unknown energy: the
errors of the two cancel. A molecule counts as known once a frame held it alone (or several of it and nothing else),
and several count as known together once a frame held them so.

Of many molecules a model learns what atoms and groups of atoms are worth: where training held ``BROAD`` molecules
alone, another one counts as known that has no more atoms of any element, nor fewer or more atoms, than those, or that
was seen beside known ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache, reduce
from math import gcd
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from ase.formula import Formula
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from phl_ase.errors import PHLError
from phl_ase.potentials.cards import bundled_models, read_card
from phl_ase.structures import Frame
from phl_ase.structures.neighbours import neighbour_list

Array = np.ndarray
Molecules = tuple[str, ...]
"""Formulas of the molecules of a structure; ``[CuO]`` for one that periodic images continue without end."""

DOMAIN_MARGIN = 0.97
"""Factor on the shortest distance seen, below which a pair counts as closer than any; its inverse on the farthest.

Of single held-out frames of the reactions that were trained on, 3.1 % have a pair below the shortest seen itself, and
1.1 % one below this share of it.
"""

BOND_SCALES = (1.7, 1.3)
"""Times the sum of covalent radii, below which atoms belong to one molecule: loosely, so that bonds of a transition
state hold, and tightly, so that hydrogen bonds do not."""

BROAD = 50
"""Molecules seen alone, from which on others of the same elements and sizes count as known."""

LONGEST_BOND = 4.0
"""Å; no model has a shorter cutoff, and what is beyond a cutoff cannot be told apart from what is not there."""

_REACH = 6.0  # Å: of periodic and large frames, pairs beyond say nothing new
_LARGE = 100  # atoms of a molecule from which on not all its pairs are looked at
_MOST = 2000  # entries of ``molecules`` on a card
_ALONE = re.compile(r"[A-Z][A-Za-z0-9]*")
_ENTRY = re.compile(r"(\d{1,6} )?(\[[A-Za-z]{1,240}\]|[A-Z][A-Za-z0-9]{0,240})")


@dataclass(frozen=True)
class Domain:
    """Distances and molecules in the training data of a model.

    Attributes:
        shortest: Shortest distance of each pair of elements, lower atomic number first, Å.
        farthest: Farthest nearest neighbour of an atom of each element, Å.
        molecules: What frames consisted of, as written by :func:`group`: a molecule alone, or several together. Empty
            where that was not recorded (files of earlier versions): nothing is said about it then.
        listed_atoms: Atoms of the largest frames whose molecules are listed, where there are too many to list them all;
            of larger structures nothing is said.
    """

    shortest: Mapping[tuple[int, int], float] = field(default_factory=dict)
    farthest: Mapping[int, float] = field(default_factory=dict)
    molecules: frozenset[str] = frozenset()
    listed_atoms: int | None = None

    def __post_init__(self) -> None:
        distances = {f"shortest distance {_named(pair)}": value for pair, value in self.shortest.items()}
        farthest = {f"farthest neighbour {_named([z])}": value for z, value in self.farthest.items()}
        for name, value in {**distances, **farthest}.items():
            if not (np.isfinite(value) and value > 0):
                raise PHLError(f"domain of a model: {name} is {value}; expected a positive number")

    @classmethod
    def fit(cls, frames: Iterable[Frame]) -> Domain:
        """Return the domain of a model trained on frames; nearest images where periodic."""
        shortest: dict[tuple[int, int], float] = {}
        farthest: dict[int, float] = {}
        sizes: dict[str, int] = {}
        for frame in frames:
            pairs = Pairs.of_frame(frame)
            low, high = np.sort([pairs.numbers[pairs.i], pairs.numbers[pairs.j]], axis=0)
            nearest = np.full(len(pairs.numbers), np.inf)
            np.minimum.at(nearest, pairs.i, pairs.distances)
            for a, b in np.unique(np.stack([low, high], axis=1), axis=0).tolist():
                distance = float(pairs.distances[(low == a) & (high == b)].min())
                shortest[a, b] = min(distance, shortest.get((a, b), np.inf))
            for number in np.unique(pairs.numbers).tolist():
                met = nearest[(pairs.numbers == number) & np.isfinite(nearest)]
                if len(met):
                    farthest[number] = max(float(met.max()), farthest.get(number, 0.0))
            loose, tight = (split_molecules(pairs, scale)[1] for scale in BOND_SCALES)
            # parts that are loosely one molecule (a stretched bond) do not count as seen apart
            for found in (loose, tight) if len(loose) > 1 else (loose,):
                known = group(found)
                sizes[known] = min(len(frame), sizes.get(known, len(frame)))
        listed = None
        if len(sizes) > _MOST:
            listed = sorted(sizes.values())[_MOST] - 1
            sizes = {known: size for known, size in sizes.items() if size <= listed}
        return cls(shortest, farthest, frozenset(sizes), listed)

    def joined(self, other: Domain, *, with_molecules: bool = True) -> Domain:
        """Return the domain of a model that saw what either did.

        Args:
            other: Another domain.
            with_molecules: Whether its molecules are known too, not only how near atoms may come.
        """
        shortest = dict(self.shortest)
        for pair, distance in other.shortest.items():
            shortest[pair] = min(distance, shortest.get(pair, np.inf))
        farthest = dict(self.farthest)
        for number, distance in other.farthest.items():
            farthest[number] = max(distance, farthest.get(number, 0.0))
        if not with_molecules:
            return Domain(shortest, farthest, self.molecules, self.listed_atoms)
        # where one side recorded none, nothing can be said of molecules
        both = self.molecules | other.molecules if self.molecules and other.molecules else frozenset()
        listed = [one.listed_atoms for one in (self, other) if one.listed_atoms is not None]
        return Domain(shortest, farthest, both, min(listed, default=None))

    def unknown(self, pairs: Pairs) -> Molecules:
        """Return the molecules of a structure whose energy training cannot have determined; empty where there are none.

        Args:
            pairs: Of one structure.
        """
        if not self.molecules or (self.listed_atoms is not None and len(pairs.numbers) > self.listed_atoms):
            return ()
        (loose, formulas), (tight, parts) = (split_molecules(pairs, scale) for scale in BOND_SCALES)
        strange = [k for k, formula in enumerate(formulas) if not self.knows(formula)]
        if not strange or group([formulas[k] for k in strange]) in self.molecules:
            return ()
        inside = np.unique(tight[np.isin(loose, strange)])
        rest = [parts[k] for k in inside if not self.knows(parts[k])]
        if not rest or group(rest) in self.molecules:
            return ()
        return tuple(dict.fromkeys(formulas[k] for k in strange))

    def knows(self, formula: str) -> bool:
        """Return whether training determined the energy of a molecule: seen alone, or one among many that were."""
        return formula in self.molecules or formula in self._parts or self._lies_among(formula)

    def _lies_among(self, formula: str) -> bool:
        if self._among is None or formula.startswith("["):
            return False
        counts = Formula(formula).count()
        return (
            self._among.fewest <= sum(counts.values()) <= self._among.most
            and all(n <= self._among.largest[name] for name, n in counts.items())
            and _parity(formula) in self._among.parities
        )

    @cached_property
    def _among(self) -> _Among | None:
        alone = [known for known in self.molecules if _ALONE.fullmatch(known)]
        if len(alone) < BROAD:
            return None
        counts = [Formula(formula).count() for formula in alone]
        sizes = [sum(one.values()) for one in counts]
        largest = reduce(Counter.__or__, map(Counter, counts))
        return _Among(min(sizes), max(sizes), largest, {_parity(formula) for formula in alone})

    @cached_property
    def _parts(self) -> frozenset[str]:
        """Molecules that were seen beside known ones alone, where many are known: what they are worth is the rest."""
        if self._among is None:
            return frozenset()
        known = set(self.molecules)
        groups = [{one.split(" ")[-1] for one in together.split(" + ")} for together in known if " + " in together]
        while True:
            strange = [{one for one in group if not (one in known or self._lies_among(one))} for group in groups]
            new = {one for group in strange if len(group) == 1 for one in group}
            new = {one for one in new if not one.startswith("[") and _parity(one) in self._among.parities}
            if not new:
                return frozenset(known - self.molecules)
            known |= new

    def beside(self, formula: str) -> str | None:
        """Return a group of the training frames that holds a molecule beside others; ``None`` where there is none."""
        groups = [g for g in self.molecules if " + " in g and formula in g.split(" ")]
        return min(groups, key=lambda g: (len(g.split(" ")), g), default=None)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, element symbols for atomic numbers."""
        shortest = {_named(pair): round(float(value), 6) for pair, value in sorted(self.shortest.items())}
        farthest = {_named([z]): round(float(value), 6) for z, value in sorted(self.farthest.items())}
        listed = {} if self.listed_atoms is None else {"listed_atoms": self.listed_atoms}
        seen = {"molecules": sorted(self.molecules)} if self.molecules else {}
        return {"shortest": shortest, "farthest": farthest, **seen, **listed}

    @classmethod
    def from_json(cls, values: Any) -> Domain:
        """Return the domain that :meth:`to_json` wrote; what earlier versions did not write is empty.

        Raises:
            PHLError: For anything else.
        """
        try:
            shortest = {}
            for name, value in values["shortest"].items():
                low, high = sorted(atomic_numbers[symbol] for symbol in name.split("-"))
                shortest[low, high] = float(value)
            farthest = {atomic_numbers[name]: float(value) for name, value in values["farthest"].items()}
            seen = values.get("molecules", [])
            if not isinstance(seen, list) or not all(isinstance(entry, str) for entry in seen):
                raise TypeError("molecules are no list of formulas")
            if strange := [one for one in seen if not all(map(_ENTRY.fullmatch, one.split(" + ")))]:
                raise ValueError(f"{strange[0][:60]!r} is no formula")
            listed = values.get("listed_atoms")
            return cls(shortest, farthest, frozenset(seen), None if listed is None else int(listed))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = str(error) if isinstance(error, PHLError) else f"{type(error).__name__} {error}"
            raise PHLError(f"the domain on the card of a model is broken ({reason})") from None


@dataclass(frozen=True)
class _Among:
    """Range of many molecules seen alone.

    Attributes:
        fewest: Atoms of the smallest.
        most: Atoms of the largest.
        largest: Most atoms of each element.
        parities: Of their numbers of electrons: a model of closed shells knows no radical.
    """

    fewest: int
    most: int
    largest: Counter[str]
    parities: set[int]


def _parity(formula: str) -> int:
    return sum(atomic_numbers[name] * n for name, n in Formula(formula).count().items()) % 2


def domain_of(potential: Any) -> Domain | None:
    """Return what is known of a potential's training: of a committee or a sum that of its members together.

    Raises:
        PHLError: For a card whose domain is broken.
    """
    calibration, provenance = getattr(potential, "calibration", None), getattr(potential, "provenance", None)
    if calibration is not None:
        known: Domain = calibration.domain
        return known
    if isinstance(provenance, Mapping) and provenance.get("domain") is not None:
        return Domain.from_json(provenance["domain"])
    parts = [one for member in getattr(potential, "members", ()) if (one := domain_of(member)) is not None]
    return reduce(Domain.joined, parts) if parts else None


def bundled_that_know(pairs: Pairs) -> list[str]:
    """Return the bundled models whose training knows the molecules of a structure, each with its level of theory.

    Args:
        pairs: Of one structure.
    """
    found = []
    for name, (domain, level) in _bundled().items():
        elements = set(pairs.numbers.tolist()) <= set(domain.farthest)
        if elements and domain.molecules and not domain.unknown(pairs):
            found.append(f"{name} ({level})")
    return found


@cache
def _bundled() -> dict[str, tuple[Domain, str]]:
    cards = {name: read_card(path) for name, path in bundled_models().items()}
    return {
        name: (Domain.from_json(card["calibration"]), str(card["provenance"]["level_of_theory"]))
        for name, card in cards.items()
    }


@dataclass(frozen=True, eq=False)
class Pairs:
    """Atoms of one structure, and its ordered pairs of neighbours.

    Attributes:
        numbers: Atomic numbers ``(n,)``.
        i: First atom ``(edges,)``.
        j: Second atom ``(edges,)``.
        distances: ``(edges,)`` Å.
        shifts: Lattice shifts of the second ``(edges, 3)``; ``None`` where not periodic.
    """

    numbers: Array
    i: Array
    j: Array
    distances: Array
    shifts: Array | None = None

    @classmethod
    def of_frame(cls, frame: Frame) -> Pairs:
        """Return the pairs of a frame: all of a small molecule, of others those within 6 Å."""
        periodic = bool(np.any(frame.pbc))
        reach = _REACH if periodic or len(frame) > _LARGE else np.inf
        i, j, shifts = neighbour_list(frame.positions, frame.cell, frame.pbc, reach, f"frame {frame.frame_id}")
        vectors = frame.positions[j] - frame.positions[i] + shifts @ frame.cell
        distances = np.sqrt(np.einsum("ea,ea->e", vectors, vectors))
        return cls(np.asarray(frame.numbers), i, j, distances, shifts if periodic else None)

    def bonded(self, scale: float) -> Array:
        """Return which pairs stand within so many times the sum of their covalent radii ``(edges,)``."""
        radii = covalent_radii[self.numbers]
        limit = np.minimum(scale * (radii[self.i] + radii[self.j]), LONGEST_BOND)
        return np.asarray(self.distances < limit)


def split_molecules(pairs: Pairs, scale: float) -> tuple[Array, Molecules]:
    """Return the molecule of each atom ``(n,)``, counted from 0, and the formula of each molecule.

    Args:
        pairs: Of one structure.
        scale: One of ``BOND_SCALES``.
    """
    n, bonds = len(pairs.numbers), pairs.bonded(scale)
    i, j = pairs.i[bonds], pairs.j[bonds]
    _, label = connected_components(coo_array((np.ones(len(i), dtype=bool), (i, j)), shape=(n, n)), directed=False)
    endless: set[int] = set()
    if pairs.shifts is not None and pairs.shifts[bonds].any():
        # walk along the bonds from one atom of each molecule: where two ways disagree, it has no end
        shifts, offset = pairs.shifts[bonds], np.zeros((n, 3), dtype=pairs.shifts.dtype)
        reached = np.zeros(n, dtype=bool)
        reached[np.unique(label, return_index=True)[1]] = True
        while (new := reached[i] & ~reached[j]).any():
            offset[j[new]] = offset[i[new]] + shifts[new]
            reached[j[new]] = True
        endless = set(label[i[(offset[i] + shifts != offset[j]).any(axis=1)]].tolist())
    parts = np.split(pairs.numbers[np.argsort(label, kind="stable")], np.cumsum(np.bincount(label))[:-1])
    return label, tuple(_formula(tuple(sorted(part.tolist())), k in endless) for k, part in enumerate(parts))


def group(formulas: Sequence[str]) -> str:
    """Return one text for molecules that stand together: ``CO + H2``, ``2 H2O + NH3``; ``H2O`` for any number of it."""
    counts = Counter(formulas)
    common = gcd(*counts.values())
    return " + ".join(f"{k // common} {name}" if k > common else name for name, k in sorted(counts.items()))


@lru_cache(maxsize=10_000)
def _formula(numbers: tuple[int, ...], endless: bool) -> str:
    symbols = Counter(chemical_symbols[z] for z in numbers)
    return f"[{''.join(sorted(symbols))}]" if endless else str(Formula.from_dict(symbols).format("hill"))


def _named(pair: Iterable[int]) -> str:
    return "-".join(chemical_symbols[z] for z in pair)
