"""The last structure asked about, and when another one is no longer the same."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ase import Atoms
from ase.calculators.calculator import compare_atoms

from phl_ase.derivatives import GradientGraph
from phl_ase.structures import Batch, Frame, charge_and_multiplicity


@dataclass
class Geometry:
    """A structure and what was made of it.

    Attributes:
        atoms: The structure, a copy.
        frame: The same, checked.
        batch: What the potential takes.
        graph: Its gradient, once products were asked for.
    """

    atoms: Atoms
    frame: Frame
    batch: Batch
    graph: GradientGraph | None = None


def changes_between(before: Atoms | None, atoms: Atoms, tolerance: float, ignored: Collection[str]) -> list[str]:
    """What ASE calls changes, and those of charge and multiplicity.

    The structure's own are read first and always: a mistake in them is an error before anything is remembered.
    """
    state = charge_and_multiplicity(atoms)
    changes = compare_atoms(before, atoms, tol=tolerance, excluded_properties=set(ignored))
    if before is not None:
        previous = charge_and_multiplicity(before)
        pairs = zip(("charge", "multiplicity"), previous, state, strict=True)
        changes += [name for name, old, new in pairs if old != new]
    return changes
