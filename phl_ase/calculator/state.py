"""The last structure of a calculator, and what changes make another one of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from ase import Atoms
from ase.calculators.calculator import compare_atoms

from phl_ase.derivatives import GradientGraph
from phl_ase.structures import Batch, Frame, charge_and_multiplicity

F = TypeVar("F", bound=Callable[..., Any])


def one_at_a_time(method: F) -> F:
    """Let threads that share a calculator wait for each other in a method; it may call other such methods."""

    @functools.wraps(method)
    def alone(self: Any, *arguments: Any, **settings: Any) -> Any:
        with self._lock:
            return method(self, *arguments, **settings)

    return alone  # type: ignore[return-value]


@dataclass
class Geometry:
    """A structure, its batch and its gradient graph.

    Attributes:
        atoms: The structure, a copy.
        frame: The structure, checked.
        batch: What the potential takes.
        graph: Its gradient, once HVPs were asked for.
    """

    atoms: Atoms
    frame: Frame
    batch: Batch
    graph: GradientGraph | None = None


def changes_between(before: Atoms | None, atoms: Atoms, tolerance: float, ignored: Collection[str]) -> list[str]:
    """Return the changes that ASE finds, and those of charge and multiplicity.

    The structure's own are read first and always: a mistake in them is an error before anything is remembered.
    """
    state = charge_and_multiplicity(atoms)
    changes = compare_atoms(before, atoms, tol=tolerance, excluded_properties=set(ignored))
    if before is not None:
        previous = charge_and_multiplicity(before)
        pairs = zip(("charge", "multiplicity"), previous, state, strict=True)
        changes += [name for name, old, new in pairs if old != new]
    return changes
