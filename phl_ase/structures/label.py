"""The labels that frames may carry, each declared once: frames, batches, files, readers and losses iterate over these.

A package that brings a label of its own declares it with :func:`register_label`, or by an entry point of the group
``phl_ase.labels`` that names a :class:`Label`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal

import numpy as np

from phl_ase.errors import NonFiniteError, PHLError, reason_of, shortened, unknown


@dataclass(frozen=True)
class Label:
    """A quantity that a frame may carry.

    Attributes:
        name: Its name everywhere: in frames, key mappings, tables.
        per: What one value belongs to: the ``"system"``, an ``"atom"``, a ``"pair"`` of atoms (a symmetric matrix) or
            an atom and a recorded ``"probe"``.
        shape: Shape of one value: ``(3,)`` for a force, ``(3, 3)`` for the block of two atoms in a Hessian.
        unit: Unit, in eV, Å, e and amu; ``"1"`` where there is none.
        largest: Largest magnitude that can be meant; what is larger is in another unit, or overflows in squares.
        extensive: Whether ``largest`` is for each atom.
        signed: Whether another sign is a convention of some programs, which imports may turn.
        voigt: Whether files may hold a symmetric 3 × 3 matrix as six numbers in Voigt order.
        double: Whether it stays in double precision when models compute in single precision.
        key: Its key in ``info`` or ``arrays`` of ASE's files; ``REF_`` and its name when empty.
        result: Its name among the results of ASE calculators; empty where they have none.
        column: Its name in our HDF5; the name when empty.
        title: Its name in sentences; the name when empty.
    """

    name: str
    per: Literal["system", "atom", "pair", "probe"]
    shape: tuple[int, ...]
    unit: str
    largest: float = 1e9
    extensive: bool = False
    signed: bool = False
    voigt: bool = False
    double: bool = False
    key: str = ""
    result: str = ""
    column: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        defaults = {"key": f"REF_{self.name}", "column": self.name, "title": self.name}
        for field, value in defaults.items():
            object.__setattr__(self, field, getattr(self, field) or value)

    @property
    def offsets(self) -> str:
        """The group of columns whose offsets say which frames carry it: probes and HVPs stand and fall together."""
        return "probes" if self.per == "probe" else self.name

    def shape_for(self, atoms: int, probes: int = 0) -> tuple[int, ...]:
        """Return the shape of the label of a frame.

        Args:
            atoms: Its number of atoms.
            probes: Its number of recorded probes.
        """
        if self.per == "pair":
            side = atoms * (self.shape[0] if self.shape else 1)
            return side, side
        return {"system": (), "atom": (atoms,), "probe": (probes, atoms)}[self.per] + self.shape

    def rows_for(self, atoms: Any, probes: int = 0) -> Any:
        """Return the rows that the label fills in our HDF5, which keeps the upper triangle of a symmetric matrix.

        Args:
            atoms: Number of atoms of a frame, or an array of the numbers of many.
            probes: Number of recorded probes.
        """
        if self.per == "pair":
            side = atoms * (self.shape[0] if self.shape else 1)
            return side * (side + 1) // 2
        return {"system": 1, "atom": atoms, "probe": probes * atoms}[self.per]

    def check(self, value: Any, atoms: int, probes: int, name: str) -> None:
        """Check shape and finiteness of a value.

        Args:
            value: The label of a frame.
            atoms: Number of atoms.
            probes: Number of recorded probes.
            name: How an error names the frame.

        Raises:
            PHLError: For another shape.
            NonFiniteError: For NaN or infinity.
        """
        expected = self.shape_for(atoms, probes)
        if np.shape(value) != expected:
            raise PHLError(f"{name}: {self.name} has shape {np.shape(value)}, expected {expected} for {atoms} atoms")
        if not np.all(np.isfinite(value)):
            raise NonFiniteError(f"{name}: {self.name} holds NaN or infinity; remove or mend the frame")


PROBES = Label("probes", "probe", (3,), "1", largest=1e7, key="hvp_dir")
"""Recorded probe vectors: no label, but kept beside the label ``hvp``, H·probe."""

LABELS: dict[str, Label] = {
    label.name: label
    for label in (
        # all electrons of the heaviest atom are bound by 1.5e6 eV; absolute energies do not fit single precision
        Label("energy", "system", (), "eV", largest=1e7, extensive=True, double=True, result="energy"),
        Label("forces", "atom", (3,), "eV/Å", largest=1e7, signed=True, result="forces"),
        Label("stress", "system", (3, 3), "eV/Å³", largest=1e7, signed=True, voigt=True, result="stress"),
        Label("hessian", "pair", (3, 3), "eV/Å²", signed=True, title="Hessian"),
        Label("hvp", "probe", (3,), "eV/Å²", signed=True, column="products", title="HVP"),
    )
}
"""Name -> label; see :func:`labels` for those of other packages too."""

_GROUP, _LOADED = "phl_ase.labels", set[str]()

OWN = tuple(LABELS)
"""Labels that the package itself declares: fields of frames, and derivatives of the energy."""


def labels() -> Mapping[str, Label]:
    """Return every label by its name: those of the package, then those of others, in the order of their declaration.

    The first call loads the packages that declare labels by entry points; they may register loss terms and
    architectures beside them.

    Raises:
        PHLError: For an entry point that cannot be loaded or names no label.
    """
    if _GROUP in _LOADED:
        return LABELS
    _LOADED.add(_GROUP)  # first, since what is loaded asks for labels itself
    for point in entry_points(group=_GROUP):
        try:
            label = point.load()
            if not isinstance(label, Label):
                raise PHLError(f"it is {shortened(label)}; expected a Label")
            register_label(label)
        except Exception as error:  # any package may be broken in any way
            _LOADED.discard(_GROUP)
            text = str(error) if isinstance(error, PHLError) else reason_of(error)
            raise PHLError(
                f"the entry point {point.name!r} of {_GROUP} ({point.value}) cannot be loaded: {text}; mend or "
                "uninstall that package"
            ) from error
    return LABELS


def arrays() -> dict[str, Label]:
    """Return what frames hold beside their structure, in the order of our HDF5: every label, and the probes."""
    return _arrays(tuple(labels().values()))


@cache
def _arrays(declared: tuple[Label, ...]) -> dict[str, Label]:
    found = {label.name: label for label in declared}
    before = [name for name in OWN if name != "hvp"]
    return {name: found[name] for name in before} | {"probes": PROBES} | found


def others() -> tuple[str, ...]:
    """Return the names of the labels that other packages declare."""
    return tuple(labels())[len(OWN) :]


def label_of(name: str) -> Label:
    """Look a label up.

    Raises:
        PHLError: For an unknown name, listing the valid ones.
    """
    if name not in labels():
        raise unknown("label", name, labels())
    return LABELS[name]


def register_label(label: Label) -> Label:
    """Declare a label: frames can then carry it, and every reader, file and table knows it.

    A loss that learns it is a :class:`phl_ase.objective.LossTerm`; a model that predicts it offers ``predicts`` and
    ``predict``, see :class:`phl_ase.structures.Potential`.

    Args:
        label: Per system, atom or pair. Declaring the same one again changes nothing.

    Returns:
        The label.

    Raises:
        PHLError: For a name or key that is taken, a label per probe, or a matrix of pairs whose blocks are not square.
    """
    if LABELS.get(label.name) == label:
        return label
    taken = {*RESERVED, *LABELS, *(column for other in LABELS.values() for column in (other.column, other.key))}
    names = {label.name, label.column, label.key}
    if clash := sorted(names & (taken | {f"{name}_offsets" for name in taken})):
        raise PHLError(f"the label {label.name!r} uses the name {clash[0]!r}, which is taken; choose another")
    if not all(name.isidentifier() for name in names):
        raise PHLError(f"the label {label.name!r} has names {sorted(names)}; expected Python identifiers")
    if label.per not in ("system", "atom", "pair"):
        raise PHLError(f"the label {label.name!r} is per {label.per}; expected system, atom or pair")
    if label.per == "pair" and label.shape and len({*label.shape}) * len(label.shape) != 2:
        raise PHLError(f"the label {label.name!r} has blocks of shape {label.shape}; expected () or square ones")
    LABELS[label.name] = label
    return label


RESERVED = frozenset(
    {"numbers", "positions", "cell", "pbc", "charge", "multiplicity", "kind", "reaction", "irc_s", "temperature"}
    | {"probes", "hvp_dir", "frame_id", "extra", "atoms", "curvature"}
)
"""Names that no label may have: of what else frames, files and losses hold."""
