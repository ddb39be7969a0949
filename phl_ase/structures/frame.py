"""One structure with whatever labels it carries, in NumPy: what data sets store and readers return."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from phl_ase.errors import NonFiniteError, PHLError

Array = np.ndarray

# label -> trailing shape, with n atoms and K probes (a scalar has no shape)
_SHAPES = {
    "forces": ("n", 3),
    "stress": (3, 3),
    "hessian": ("3n", "3n"),
    "probes": ("K", "n", 3),
    "hvp": ("K", "n", 3),
}


def _no_cell() -> Array:
    return np.zeros((3, 3))


def _no_pbc() -> Array:
    return np.zeros(3, dtype=bool)


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
    """

    numbers: Array
    positions: Array
    cell: Array = field(default_factory=_no_cell)
    pbc: Array = field(default_factory=_no_pbc)
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

    def __len__(self) -> int:
        return len(self.numbers)

    def check(self, name: str = "frame") -> Frame:
        """Check shapes and finiteness of everything the frame holds.

        Args:
            name: How an error names the frame.

        Returns:
            The frame itself.

        Raises:
            PHLError: For an empty structure, a wrong shape, or probes without ``hvp``.
            NonFiniteError: For a NaN or an infinity, naming the array.
        """
        n = len(self.numbers)
        if n == 0:
            raise PHLError(f"{name}: has no atoms")
        if np.shape(self.positions) != (n, 3):
            raise PHLError(f"{name}: positions have shape {np.shape(self.positions)}, expected {(n, 3)} for {n} atoms")
        if (self.probes is None) != (self.hvp is None):
            raise PHLError(f"{name}: probes and hvp come together; one of them is missing")
        count = 0 if self.probes is None else len(self.probes)
        sizes = {"n": n, "3n": 3 * n, "K": count}
        for label, axes in _SHAPES.items():
            value = getattr(self, label)
            expected = tuple(sizes[a] if isinstance(a, str) else a for a in axes)
            if value is not None and np.shape(value) != expected:
                raise PHLError(f"{name}: {label} has shape {np.shape(value)}, expected {expected} for {n} atoms")
        for label in ("positions", "cell", "energy", *_SHAPES):
            value = getattr(self, label)
            if value is not None and not np.all(np.isfinite(value)):
                raise NonFiniteError(f"{name}: {label} holds NaN or infinity; remove or mend the frame")
        return self
