"""Description of a foreign format, entries that its reader yields, and options of the reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from phl_ase.datasets.schema import DatasetMeta
from phl_ase.structures.frame import Frame

Found = Mapping[str, str]
"""Label -> the key it was found under."""


@dataclass(frozen=True)
class Entry:
    """One frame of a foreign file, not yet looked at.

    Attributes:
        name: How errors and reports name it.
        build: Makes the frame, its Hessian as asymmetric as it is in the file, and says where each label was found. A
            ``PHLError`` refuses this frame alone; what breaks the whole file is raised by the reader.
    """

    name: str
    build: Callable[[], tuple[Frame, Found]]

    @classmethod
    def of(cls, name: str, frame: Frame, found: Found) -> Entry:
        """Return the entry of a frame that is read already."""
        return cls(name, lambda: (frame, found))


@dataclass(frozen=True)
class Options:
    """Options of a reader.

    Attributes:
        keys: Label -> key, for formats whose keys users choose.
        structures: Entries of the file that holds the structures, for labels that are stored without them.
        seen: Filled by readers of formats whose keys users choose: the keys that the frames carry.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    structures: Callable[[], Iterator[Entry]] | None = None
    seen: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Format:
    """A foreign format: how it is recognised and read.

    Attributes:
        describes: One line for the help.
        recognises: Returns whether a path is of this format, by its name or its first bytes.
        read: Yields the frames of a path, one at a time.
        units: Units of the source; all of them are ours unless a reader converts.
        stored_in: Label -> unit in which the reader yields it, where that is not ours; the import converts.
        consistent: Check energies, positions, forces and Hessians against each other; see
            :class:`phl_ase.datasets.consistency.Consistency`.
        level_of_theory: What the published data were computed with; empty where it depends on the file.
        energy_reference: What energies are relative to; empty where it depends on the file.
        keyed: Whether users may say under which keys labels stand.
        labels_only: Whether the structures are in another file.
        meta: What the file says of itself as a whole; ``None`` where the format has no place for it.
    """

    describes: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Options], Iterator[Entry]]
    units: str = "energies eV, forces eV/Å, Hessians and HVPs eV/Å²"
    stored_in: Mapping[str, str] = field(default_factory=dict)
    consistent: bool = False
    level_of_theory: str = ""
    energy_reference: str = ""
    keyed: bool = False
    labels_only: bool = False
    meta: Callable[[Path], DatasetMeta] | None = None
