"""Beyond a potential's mean: how far the members of a committee disagree, and whether training saw such structures."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from phl_ase.calculator.unpacking import stacked, to_numpy
from phl_ase.derivatives import evaluate
from phl_ase.errors import DomainError, DomainWarning, ExplodedError, unknown
from phl_ase.potentials import Calibration, Committee, Domain, domain_of
from phl_ase.potentials.calibration import largest_on_an_atom
from phl_ase.potentials.domain import BOND_SCALES, DOMAIN_MARGIN, Pairs, bundled_that_know
from phl_ase.potentials.stacked import side_by_side
from phl_ase.structures import Batch, Frame, Potential

Array = np.ndarray

WITH_SPREAD = ("energy", "forces")
"""Quantities that come with the spread of a committee."""

IN_DOMAIN = "in_domain"
"""Name of the result that says whether a structure is like those of the training."""


ACTIONS = ("warn", "ignore", "error")
"""Actions for a structure outside of the domain."""


def committee_tables(
    committee: Committee, batch: Batch, needs: Collection[str], memory_budget: int | None
) -> dict[str, Array]:
    """Return means over the members and, of energy and forces, sample standard deviations (calibrated where known).

    The spread costs nothing beside the mean: the forces of every member are computed for either.

    Args:
        committee: The members.
        batch: Systems.
        needs: Any of energy, forces, stress, hessian.
        memory_budget: Bytes that Hessian rows taken together may use.

    Returns:
        Quantity, ``energy_std`` or ``forces_std`` → what belongs to the whole batch, in the shape of ``Predictions``.
    """
    count = len(committee.members)
    # rows of a Hessian keep a processor busy by themselves
    if committee.together is not None and "hessian" not in needs and committee.suits(batch):
        found = evaluate(committee.together, side_by_side(batch, count), needs, memory_budget=memory_budget)
        tables = {name: to_numpy(getattr(found, name)) for name in needs}
        values = {name: table.reshape(count, -1, *table.shape[1:]) for name, table in tables.items()}
    else:
        each = [evaluate(member, batch, needs, memory_budget=memory_budget) for member in committee.members]
        values = {name: stacked(each, name) for name in needs}
    tables = {name: value.mean(axis=0) for name, value in values.items()}
    if count > 1:
        for name in WITH_SPREAD:
            if name in values:
                factor = 1.0 if committee.calibration is None else getattr(committee.calibration, name)
                tables[f"{name}_std"] = factor * values[name].std(axis=0, ddof=1)
    return tables


class DomainWatch:
    """Judge of whether a model saw anything like a structure; warns once for each composition.

    Outside are: two atoms nearer to each other than any pair of these elements was in training (or a pair of elements
    that never met), an atom farther from all others than any of its element was, a molecule that training never showed
    alone (:meth:`phl_ase.potentials.Domain.unknown`), and, of a calibrated committee, an uncertainty of the force on an
    atom above its limit. Where nothing is known of the training: structures in which no atom has a neighbour.

    Args:
        domain: What was seen; ``None`` where nothing is known.
        calibration: Limits of the uncertainty, of a calibrated committee.
        action: What to do, one of ``ACTIONS``.

    Attributes:
        warned: Compositions that were warned of.
    """

    def __init__(self, domain: Domain | None, calibration: Calibration | None = None, action: str = "warn") -> None:
        self.domain, self.calibration, self.action = domain, calibration, action
        self.warned: set[str] = set()
        self._last: tuple[Any, str] = (None, "")
        known, size = domain or Domain(), len(chemical_symbols)
        # what never met is too near at any distance, what was never seen too far
        self._nearest, self._farthest = np.full((size, size), np.inf), np.zeros(size)
        for (low, high), distance in known.shortest.items():
            self._nearest[[low, high], [high, low]] = DOMAIN_MARGIN * distance
        for number, distance in known.farthest.items():
            self._farthest[number] = distance / DOMAIN_MARGIN
        self._free_atom = np.array([symbol in known.molecules for symbol in chemical_symbols])

    def inside(
        self,
        batch: Batch,
        frames: Sequence[Frame],
        names: Sequence[str],
        forces: Array | None = None,
        forces_std: Array | None = None,
        *,
        refuse_atoms: bool = False,
    ) -> list[bool]:
        """Return whether each system of a batch is inside the domain.

        Args:
            batch: The systems.
            frames: The same.
            names: How a warning names them.
            forces: Of the whole batch ``(atoms, 3)`` eV/Å; ``None`` where none were asked for: the geometry alone
                decides.
            forces_std: Their uncertainties, calibrated, likewise.
            refuse_atoms: Refuse a structure that fell apart into single atoms even where others are only warned of.
                Its forces are zero, so that a search that exploded would count as converged.

        Raises:
            DomainError: For a structure outside, where that is the action.
            ExplodedError: For one that fell apart, see ``refuse_atoms``.
        """
        if self.domain is None and len(frames) == 1 and any(len(pairs.i) for pairs in batch.neighbours.values()):
            return [True]
        reasons: dict[int, str] = {}
        ends, cutoff = np.cumsum([len(frame) for frame in frames]), max(batch.neighbours)
        for system, pairs in enumerate(_pairs_of_systems(batch, ends)):
            fell_apart = len(pairs.numbers) > 1 and len(pairs.i) == 0
            if self.domain is not None:
                reason = self._misplaced(pairs, cutoff) or self._strange(pairs)
            else:
                reason = f"no atom has a neighbour within {cutoff:.2f} Å, so all forces are zero" if fell_apart else ""
            if reason and fell_apart and refuse_atoms and self.domain is not None and self.action == "warn":
                raise ExplodedError(
                    f"{names[system]} fell apart: {reason}, and no force acts on any atom; check the starting "
                    "structure (PHLCalculator(…, out_of_domain='ignore') computes it all the same)"
                )
            if reason:
                reasons[system] = reason
        if self.calibration is not None and forces is not None and forces_std is not None:
            for system, parts in enumerate(zip(*(np.split(a, ends[:-1]) for a in (forces, forces_std)), strict=True)):
                size, value = map(largest_on_an_atom, parts)
                if value > (limit := self.calibration.limit(size)):
                    digits = next((d for d in (2, 3, 4) if f"{value:.{d}g}" != f"{limit:.{d}g}"), 5)
                    uncertain = (
                        f"the force on an atom is uncertain by {value:.{digits}g} eV/Å, more than the "
                        f"{limit:.{digits}g} eV/Å that are usual for forces of its size in the training data"
                    )
                    reasons.setdefault(system, uncertain)
        for system, reason in reasons.items():
            finding = f"{names[system]} is unlike the model's training data: {reason}"
            if self.action == "error":
                raise DomainError(f"{finding} (refused because of out_of_domain='error')")
            composition = str(sorted(frames[system].numbers.tolist()))
            if self.action == "warn" and composition not in self.warned:
                self.warned.add(composition)
                flags = "" if self.domain is None else f"; results['{IN_DOMAIN}'] tells of each structure"
                advice = f"Compositions are warned of once{flags}. PHLCalculator(…, out_of_domain='ignore') stops this"
                warnings.warn(DomainWarning(f"{finding}; its results may be far off", advice), stacklevel=2)
        return [system not in reasons for system in range(len(frames))]

    def _misplaced(self, pairs: Pairs, cutoff: float) -> str:
        """Return why the distances of a structure are outside of those seen; empty where they are not."""
        numbers, i, j = pairs.numbers, pairs.i, pairs.j
        nearest = np.full(len(numbers), np.inf)
        np.minimum.at(nearest, i, pairs.distances)
        farthest = self._farthest[numbers]
        # of an atom beyond the cutoff a model sees no more than of a free one
        known = (nearest <= farthest) | (np.isinf(nearest) & ((farthest >= cutoff) | self._free_atom[numbers]))
        if not known.all():
            atom = int(np.flatnonzero(~known)[0])
            symbol = chemical_symbols[numbers[atom]]
            if not farthest[atom]:
                return f"the training data hold no {symbol} with a neighbour"
            where = "has no neighbour" if np.isinf(nearest[atom]) else f"is {nearest[atom]:.2f} Å from the nearest atom"
            return f"one {symbol} {where} (at most {DOMAIN_MARGIN * farthest[atom]:.2f} Å in the training data)"
        limits = self._nearest[numbers[i], numbers[j]]
        if not (near := pairs.distances < limits).any():
            return ""
        pair = int(np.flatnonzero(near)[0])
        named = f"{chemical_symbols[numbers[i[pair]]]} and {chemical_symbols[numbers[j[pair]]]}"
        if np.isinf(limits[pair]):
            return f"{named} are {pairs.distances[pair]:.2f} Å apart (never so near in the training data)"
        shortest = limits[pair] / DOMAIN_MARGIN
        return f"{named} are {pairs.distances[pair]:.2f} Å apart (at least {shortest:.2f} Å in the training data)"

    def _strange(self, pairs: Pairs) -> str:
        """Return why the molecules of a structure are unknown; looked for again only when a bond has changed."""
        if self.domain is None or not self.domain.molecules:
            return ""
        loose, tight = (pairs.bonded(scale) for scale in BOND_SCALES)
        parts = [pairs.numbers, pairs.i[loose], pairs.j[loose], tight[loose]]
        parts += [] if pairs.shifts is None else [pairs.shifts[loose]]
        bonds = tuple(part.tobytes() for part in parts)
        before, reason = self._last
        if before != bonds:
            unknown, reason = self.domain.unknown(pairs), ""
            if unknown:
                beside = [group for formula in unknown if (group := self.domain.beside(formula))]
                rest = f", only together as {beside[0]}" if beside else ""
                others = bundled_that_know(pairs)
                known = f" (bundled models that know it: {', '.join(others)})" if others else ""
                reason = f"the training data hold no {' or '.join(unknown[:3])} on its own{rest}{known}"
            self._last = (bonds, reason)
        return reason


def _pairs_of_systems(batch: Batch, ends: Array) -> Iterator[Pairs]:
    """Yield the pairs of each system within the longest cutoff."""
    cutoff = max(batch.neighbours)
    neighbours = batch.neighbours[cutoff]
    distances = np.linalg.norm(to_numpy(batch.vectors(cutoff)), axis=1)
    numbers, i, j = (t.cpu().numpy() for t in (batch.numbers, neighbours.i, neighbours.j))
    shifts = None if neighbours.shifts is None else to_numpy(neighbours.shifts)
    first = 0
    for start, end, last in zip([0, *ends[:-1]], ends, np.searchsorted(i, ends), strict=True):
        edges = slice(first, first := int(last))
        yield Pairs(
            numbers[start:end],
            i[edges] - start,
            j[edges] - start,
            distances[edges],
            None if shifts is None else shifts[edges],
        )


def watch_of(potential: Potential, action: str) -> DomainWatch | None:
    """Return the watch over the domain of a potential; ``None`` where every atom is a neighbour of every other.

    Raises:
        PHLError: For an action that is not in ``ACTIONS``, or a card whose domain is broken.
    """
    if action not in ACTIONS:
        raise unknown("action for structures out of domain", action, ACTIONS)
    domain = domain_of(potential)
    if domain is None and not np.isfinite(max(potential.cutoffs, default=np.inf)):
        return None
    return DomainWatch(domain, getattr(potential, "calibration", None), action)


def results_of_spread(potential: Potential) -> list[str]:
    """Return the names of the results that a potential gives beside its mean."""
    spread = isinstance(potential, Committee) and len(potential.members) > 1
    return [f"{name}_std" for name in WITH_SPREAD] if spread else []
