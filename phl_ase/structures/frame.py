"""One structure with whatever labels it carries, in NumPy: what data sets store and readers return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.structures.label import OWN, arrays, label_of
from phl_ase.types import Array


@dataclass(frozen=True, eq=False)
class Frame:
    """A structure and its labels; an absent label is ``None``.

    Attributes:
        numbers: Atomic numbers ``(n,)``.
        positions: ``(n, 3)`` Å.
        cell: Rows are lattice vectors ``(3, 3)`` Å; zero where not periodic.
        pbc: Periodic directions ``(3,)``.
        charge: Total charge, e.
        multiplicity: 2S+1.
        energy: eV.
        forces: −∂E/∂R ``(n, 3)`` eV/Å.
        stress: ``(3, 3)`` eV/Å³, ASE's sign.
        hessian: ``(3n, 3n)`` eV/Å², symmetric.
        probes: Recorded probe vectors ``(K, n, 3)``, dimensionless.
        hvp: H·probe ``(K, n, 3)`` eV/Å².
        kind: reactant, product, ts, minimum, irc, nms, md, …; empty when unknown.
        reaction: Name of the reaction the structure belongs to; empty when unknown.
        irc_s: Signed arc length from the TS, √amu·Å.
        temperature: Sampling temperature, K.
        frame_id: Index in its data set: the identity that probes are drawn from.
        extra: Labels that other packages declare, by name; see :func:`phl_ase.structures.register_label`.
    """

    numbers: Array
    positions: Array
    cell: Array = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: Array = field(default_factory=lambda: np.zeros(3, dtype=bool))
    charge: int = 0
    multiplicity: int = 1
    energy: float | None = None
    forces: Array | None = None
    stress: Array | None = None
    hessian: Array | None = None
    probes: Array | None = None
    hvp: Array | None = None
    kind: str = ""
    reaction: str = ""
    irc_s: float | None = None
    temperature: float | None = None
    frame_id: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    def label(self, name: str) -> Any:
        """Return a label (or the probes) by name; ``None`` where the frame does not carry it."""
        return self.extra.get(name) if name not in (*OWN, "probes") else getattr(self, name)

    def labels(self) -> dict[str, Any]:
        """Return what the frame carries of every label and of the probes, by name."""
        return {name: value for name in arrays() if (value := self.label(name)) is not None}

    def with_labels(self, values: Mapping[str, Any]) -> Frame:
        """Return a copy with other labels; ``None`` takes one away.

        Args:
            values: By name of a label, or ``"probes"``.

        Raises:
            PHLError: For an undeclared label.
        """
        own = {name: value for name, value in values.items() if name in (*OWN, "probes")}
        others = {label_of(name).name: value for name, value in values.items() if name not in own}
        extra = {name: value for name, value in {**self.extra, **others}.items() if value is not None}
        return replace(self, **own, extra=extra)

    def check(self, name: str = "frame") -> Frame:
        """Check shapes and finiteness of everything the frame holds.

        Args:
            name: How an error names the frame.

        Returns:
            The frame itself.

        Raises:
            PHLError: For an empty structure, a wrong shape, probes without HVPs, or an undeclared label.
            NonFiniteError: For a NaN or an infinity, naming the array.
        """
        n = len(self.numbers)
        if n == 0:
            raise PHLError(f"{name}: has no atoms")
        if np.shape(self.positions) != (n, 3):
            raise PHLError(f"{name}: positions have shape {np.shape(self.positions)}, expected {(n, 3)} for {n} atoms")
        if (self.probes is None) != (self.hvp is None):
            raise PHLError(f"{name}: probes and hvp come together; one of them is missing")
        for label in ("positions", "cell"):
            if not np.all(np.isfinite(getattr(self, label))):
                raise NonFiniteError(f"{name}: {label} holds NaN or infinity; remove or mend the frame")
        for label in self.extra:
            label_of(label)
        known, count = arrays(), 0 if self.probes is None else len(self.probes)
        for label, value in self.labels().items():
            known[label].check(value, n, count, name)
        return self
