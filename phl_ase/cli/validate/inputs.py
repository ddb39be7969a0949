"""Structures, reactions and level of theory of the INPUT of ``phl validate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phl_ase.errors import PHLError

if TYPE_CHECKING:
    from ase import Atoms

    from phl_ase.datasets import ReactionFrames
    from phl_ase.structures import Frame

_STORES = (".h5", ".hdf5")


@dataclass(frozen=True, eq=False)
class Structure:
    """A structure of an INPUT.

    Attributes:
        name: For reports.
        kind: reactant, product, ts, …; empty when the file does not say.
        atoms: With masses and constraints where the file keeps them.
        labels: Energy, forces and Hessian that the file holds.
    """

    name: str
    kind: str
    atoms: Atoms
    labels: Frame


def is_data_set(text: str) -> bool:
    """Return whether an INPUT is a data set of ours: a bundled name or HDF5."""
    from phl_ase.datasets import BUNDLED

    return text in BUNDLED or Path(text).suffix.lower() in _STORES


def read_structures(
    text: str,
    kinds: Sequence[str] | None,
    reactions: Sequence[str] | None,
    keys: Mapping[str, str] | None = None,
) -> list[Structure]:
    """Return the structures of an INPUT.

    Args:
        text: A data set of ours or any file that ASE reads.
        kinds: Those that are wanted; where a file names no kinds at all, every structure is. ``None`` for all.
        reactions: Those that are wanted; all by default.
        keys: Label -> key in a file of ASE, where it is not the usual one.

    Raises:
        PHLError: For an input that cannot be read, or where nothing is left.
    """
    import numpy as np

    from phl_ase.datasets import open_dataset, read_images
    from phl_ase.structures import atoms_from_frame

    images = None if is_data_set(text) else read_images(text)
    with open_dataset(text, keys=keys) as dataset:
        every = images is not None or kinds is None or not any(dataset.kinds)
        frames = dataset.frames(range(len(dataset)) if every else np.flatnonzero(np.isin(dataset.kinds, kinds or ())))
    found = []
    for index, frame in enumerate(frames):
        atoms = atoms_from_frame(frame) if images is None else images[index].copy()
        name = " ".join(filter(None, (frame.reaction, frame.kind))) or f"{atoms.get_chemical_formula()} {index}"
        if images is not None:  # masses and constraints of the file, without its results
            atoms.info = {key: atoms.info[key] for key in ("description",) if key in atoms.info}
            atoms.info |= {"charge": frame.charge, "multiplicity": frame.multiplicity}
        found.append(Structure(name, frame.kind, atoms, frame))
    known = list(dict.fromkeys(one.labels.reaction for one in found if one.labels.reaction))
    if absent := [name for name in reactions or () if name not in known]:
        raise PHLError(f"{text} has no reaction {', '.join(absent)}; it has {', '.join(known) or 'none'}")
    if kinds is not None and any(one.kind for one in found):
        found = [one for one in found if one.kind in kinds]
    if reactions:
        found = [one for one in found if one.labels.reaction in reactions]
    if not found:
        raise PHLError(f"{text} holds no structure of kind {', '.join(kinds or ())}; expected at least one")
    return found


def read_reactions(text: str, names: Sequence[str] | None) -> dict[str, ReactionFrames]:
    """Return the reactions of a data set that have a TS.

    Raises:
        PHLError: When there is none, or an unknown one is asked for.
    """
    from phl_ase.datasets import open_dataset, reactions_of

    with open_dataset(text) as dataset:
        reactions = reactions_of(dataset, names or None)
    found = {name: reaction for name, reaction in reactions.items() if reaction.transition_state is not None}
    if not found:
        raise PHLError(f"{text} holds no structure of kind ts; nothing to validate")
    return found


def level_of_theory(text: str) -> str:
    """Return the level of theory of a data set, or its name where it does not say."""
    from phl_ase.datasets import open_dataset

    if not is_data_set(text):
        return f"labels of {Path(text).name}"
    with open_dataset(text) as dataset:
        return dataset.meta.level_of_theory or Path(text).name
