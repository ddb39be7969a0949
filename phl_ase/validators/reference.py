"""References that a potential is scored against: stationary points and reactions, on plain ASE structures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ase import Atoms

from phl_ase.types import Array


@dataclass(frozen=True, eq=False)
class StationaryPoint:
    """A minimum or transition state of the reference.

    Attributes:
        atoms: Its structure.
        energy: Its energy, eV; ``None`` when unknown.
        hessian: Its Hessian ``(3n, 3n)`` eV/Å²; ``None`` when unknown.
    """

    atoms: Atoms
    energy: float | None = None
    hessian: Array | None = None


@dataclass(frozen=True, eq=False)
class ReferenceReaction:
    """A reaction as the reference has it.

    Attributes:
        name: For reports.
        transition_state: Its TS; ``None`` when unknown.
        ends: Name, for example ``"reactant"`` or ``"HCN"``, to end point: two of them, or none.
    """

    name: str
    transition_state: StationaryPoint | None = None
    ends: Mapping[str, StationaryPoint] = field(default_factory=dict)
