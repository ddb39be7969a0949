"""What a committee says beyond its mean: how far its members disagree, and whether it saw anything like a structure."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase.data import chemical_symbols

from phl_ase.calculator.unpacking import stacked, to_numpy
from phl_ase.derivatives import evaluate
from phl_ase.errors import DomainError, DomainWarning, unknown
from phl_ase.potentials import Calibration, Committee
from phl_ase.potentials.calibration import MARGIN, largest_on_an_atom
from phl_ase.potentials.stacked import side_by_side
from phl_ase.structures import Batch, Frame, Potential

Array = np.ndarray

WITH_SPREAD = ("energy", "forces")
"""Quantities that come with the spread of a committee."""

IN_DOMAIN = "in_domain"
"""Name of the result that says whether a calibrated committee saw anything like a structure."""


ACTIONS = ("warn", "ignore", "error")
"""What to do about a structure outside of the domain."""


def committee_tables(
    committee: Committee, batch: Batch, needs: Collection[str], memory_budget: int | None
) -> dict[str, Array]:
    """Means over the members and, of energy and forces, their sample standard deviations (calibrated where known).

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
    # rows of a Hessian keep a processor busy by themselves: side by side they took as long
    if committee.together is not None and "hessian" not in needs and committee.suits(batch):
        found = evaluate(committee.together, side_by_side(batch, count), needs, memory_budget=memory_budget)
        values = {name: _by_member(to_numpy(getattr(found, name)), count) for name in needs}
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


def _by_member(table: Array, count: int) -> Array:
    return table.reshape(count, -1, *table.shape[1:])


@dataclass
class DomainWatch:
    """Says of structures whether a committee saw anything like them, and warns once for each composition.

    Three things put a structure outside: two atoms nearer to each other than any pair of these elements was in training
    (or a pair of elements that never met), an atom farther from all others than any of its element was, and an
    uncertainty of the force on an atom above the calibration's limit.

    Attributes:
        calibration: What was seen.
        action: What to do, one of ``ACTIONS``.
        warned: Compositions that were warned of.
    """

    calibration: Calibration
    action: str = "warn"
    warned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        size = len(chemical_symbols)
        # what never met is too near at any distance, what was never seen too far
        self._nearest, self._farthest = np.full((size, size), np.inf), np.zeros(size)
        for (low, high), distance in self.calibration.shortest.items():
            self._nearest[[low, high], [high, low]] = MARGIN * distance
        for number, distance in self.calibration.farthest.items():
            self._farthest[number] = distance / MARGIN

    def inside(
        self,
        batch: Batch,
        frames: Sequence[Frame],
        names: Sequence[str],
        forces: Array | None = None,
        forces_std: Array | None = None,
    ) -> list[bool]:
        """Whether each system of a batch is inside.

        Args:
            batch: The systems.
            frames: The same.
            names: How a warning names them.
            forces: Of the whole batch ``(atoms, 3)`` eV/Å; ``None`` where none were asked for: distances alone decide.
            forces_std: Their uncertainties, calibrated, likewise.

        Raises:
            DomainError: For a structure outside, where that is the action.
        """
        reasons = self._misplaced(batch)
        if forces is not None and forces_std is not None:
            ends = np.cumsum([len(frame) for frame in frames])[:-1]
            for system, parts in enumerate(zip(np.split(forces, ends), np.split(forces_std, ends), strict=True)):
                size, value = map(largest_on_an_atom, parts)
                if value > (limit := self.calibration.limit(size)):
                    said = f"uncertain by {value:.2g} eV/Å, {limit:.2g} at most where it was trained"
                    reasons.setdefault(system, f"the force on an atom is {said}")
        for system, reason in reasons.items():
            self._act(frames[system], names[system], reason)
        return [system not in reasons for system in range(len(frames))]

    def _misplaced(self, batch: Batch) -> dict[int, str]:
        """System → the first atom of it that is farther from all others, or pair that is nearer, than any seen."""
        cutoff = max(batch.neighbours)
        pairs = batch.neighbours[cutoff]
        distances = np.linalg.norm(to_numpy(batch.vectors(cutoff)), axis=1)
        i, j, numbers, system = (t.cpu().numpy() for t in (pairs.i, pairs.j, batch.numbers, batch.system))
        nearest = np.full(len(numbers), np.inf)
        np.minimum.at(nearest, i, distances)
        reasons: dict[int, str] = {}
        for atom in np.flatnonzero(nearest > self._farthest[numbers]):
            reasons.setdefault(int(system[atom]), self._alone(int(numbers[atom]), float(nearest[atom])))
        for pair in np.flatnonzero(distances < self._nearest[numbers[i], numbers[j]]):
            said = self._said(int(numbers[i[pair]]), int(numbers[j[pair]]), float(distances[pair]))
            reasons.setdefault(int(system[i[pair]]), said)
        return reasons

    def _alone(self, number: int, distance: float) -> str:
        where = "has no neighbour" if np.isinf(distance) else f"is {distance:.2f} Å from its nearest neighbour"
        limit = MARGIN * self._farthest[number]
        return f"an atom {chemical_symbols[number]} {where}, {limit:.2f} Å at most where it was trained"

    def _said(self, first: int, second: int, distance: float) -> str:
        named = f"{chemical_symbols[first]} and {chemical_symbols[second]}"
        limit = self._nearest[first, second]
        if np.isinf(limit):
            return f"{named} never stood within {distance:.2f} Å, nor anywhere in one molecule, where it was trained"
        return f"{named} are {distance:.2f} Å apart, {limit / MARGIN:.2f} Å at least where it was trained"

    def _act(self, frame: Frame, name: str, reason: str) -> None:
        said = f"{name} is far outside of what the model was trained on: {reason}; its results may be far off"
        if self.action == "error":
            raise DomainError(f"{said} (out_of_domain='error' refuses it)")
        composition = str(sorted(frame.numbers.tolist()))
        if self.action == "warn" and composition not in self.warned:
            self.warned.add(composition)
            warnings.warn(
                f"{said}. Of this composition no more is said: results['{IN_DOMAIN}'] tells of every structure, "
                "out_of_domain='ignore' turns this off",
                DomainWarning,
                stacklevel=2,
            )


def watch_of(potential: Potential, action: str) -> DomainWatch | None:
    """What watches over the domain of a calibrated committee; ``None`` for other potentials.

    Raises:
        PHLError: For an action that is not in ``ACTIONS``.
    """
    if action not in ACTIONS:
        raise unknown("action for structures out of domain", action, ACTIONS)
    if not (isinstance(potential, Committee) and potential.calibration):
        return None
    return DomainWatch(potential.calibration, action)


def results_of_spread(potential: Potential) -> list[str]:
    """Names of the results that a potential gives beside its mean."""
    if not isinstance(potential, Committee) or len(potential.members) < 2:
        return []
    return [f"{name}_std" for name in WITH_SPREAD] + ([IN_DOMAIN] if potential.calibration else [])
