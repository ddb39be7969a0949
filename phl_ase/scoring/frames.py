"""Labelled structures as scores read them, and the little that is kept when labels are no longer needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from phl_ase.types import Array


@runtime_checkable
class LabelledStructure(Protocol):
    """A labelled structure as scores read it; ``phl_ase.structures.Frame``, which would bring torch, is one.

    Attributes:
        numbers: Atomic numbers ``(n,)``.
        positions: ``(n, 3)`` Å.
        kind: reactant, product, ts, irc, nms, …; empty when unknown.
        reaction: Name of the reaction; empty when unknown.
        temperature: Sampling temperature, K.
    """

    @property
    def numbers(self) -> Any: ...  # noqa: D102 - described above, as the next ones
    @property
    def positions(self) -> Any: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def reaction(self) -> str: ...  # noqa: D102
    @property
    def temperature(self) -> float | None: ...  # noqa: D102
    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class FrameFacts:
    """A frame without forces and Hessian: what groups, displacements and relative energies need.

    Attributes:
        numbers: Atomic numbers ``(n,)``.
        positions: ``(n, 3)`` Å.
        cell: ``(3, 3)`` Å; zero where not periodic.
        pbc: Periodic directions ``(3,)``.
        kind: Kind of geometry; empty when unknown.
        reaction: Name of the reaction; empty when unknown.
        temperature: Sampling temperature, K.
        energy: Reference energy, eV.
    """

    numbers: Array
    positions: Array
    cell: Array = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: Array = field(default_factory=lambda: np.zeros(3, dtype=bool))
    kind: str = ""
    reaction: str = ""
    temperature: float | None = None
    energy: float | None = None

    def __len__(self) -> int:
        return len(self.numbers)


def facts(frame: Any) -> FrameFacts:
    """Return the facts of a frame; its forces and Hessian can then be forgotten."""
    return FrameFacts(
        **{name: getattr(frame, name) for name in FrameFacts.__dataclass_fields__ if hasattr(frame, name)}
    )
