"""What INPUT and --reference of ``phl validate`` stand for: structures with their names, labels and reactions."""

from __future__ import annotations

from collections.abc import Sequence
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
    """One structure of an INPUT.

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
    """Whether an INPUT is a data set of ours: a bundled name or HDF5."""
    from phl_ase.datasets import BUNDLED

    return text in BUNDLED or Path(text).suffix.lower() in _STORES


def read_structures(text: str, kinds: Sequence[str] | None, reactions: Sequence[str] | None) -> list[Structure]:
    """The structures of an INPUT.

    Args:
        text: A data set of ours or any file that ASE reads.
        kinds: Those that are wanted; where a file names no kinds at all, every structure is. ``None`` for all.
        reactions: Those that are wanted; all by default.

    Raises:
        PHLError: For an input that cannot be read, or where nothing is left.
    """
    found = _of_data_set(text, kinds) if is_data_set(text) else _of_file(text)
    known = list(dict.fromkeys(one.labels.reaction for one in found if one.labels.reaction))
    _check_reactions(text, reactions, known)
    if kinds is not None and any(one.kind for one in found):
        found = [one for one in found if one.kind in kinds]
    if reactions:
        found = [one for one in found if one.labels.reaction in reactions]
    if not found:
        raise PHLError(f"{text} holds no structure of kind {', '.join(kinds or ())}; expected at least one")
    return found


def _check_reactions(text: str, wanted: Sequence[str] | None, known: Sequence[str]) -> None:
    absent = [name for name in wanted or () if name not in known]
    if absent:
        raise PHLError(f"{text} has no reaction {', '.join(absent)}; it has {', '.join(known) or 'none'}")


def _of_data_set(text: str, kinds: Sequence[str] | None) -> list[Structure]:
    import numpy as np

    from phl_ase.datasets import open_dataset
    from phl_ase.structures import atoms_from_frame

    with open_dataset(text) as dataset:
        every = kinds is None or not any(dataset.kinds)
        wanted = np.ones(len(dataset), dtype=bool) if every else np.isin(dataset.kinds, kinds or ())
        frames = dataset.frames(np.nonzero(wanted)[0])
    return [Structure(_name(frame, i), frame.kind, atoms_from_frame(frame), frame) for i, frame in enumerate(frames)]


def _of_file(text: str) -> list[Structure]:
    from phl_ase.datasets import labelled_frame, read_images

    images = read_images(text)
    frames = [labelled_frame(atoms, f"{text}: frame {i}")[0] for i, atoms in enumerate(images)]
    return [
        Structure(_name(frame, i), frame.kind, _bare(atoms, frame), frame)
        for i, (atoms, frame) in enumerate(zip(images, frames, strict=True))
    ]


def _bare(atoms: Atoms, frame: Frame) -> Atoms:
    """A copy without the results of the file, charge and multiplicity where calculators look for them."""
    copy = atoms.copy()
    copy.info = {key: atoms.info[key] for key in ("description",) if key in atoms.info}
    copy.info |= {"charge": frame.charge, "multiplicity": frame.multiplicity}
    return copy


def _name(frame: Frame, index: int) -> str:
    from phl_ase.structures import atoms_from_frame

    formula = atoms_from_frame(frame).get_chemical_formula()
    return " ".join(part for part in (frame.reaction, frame.kind) if part) or f"{formula} {index}"


def read_reactions(text: str, names: Sequence[str] | None) -> dict[str, ReactionFrames]:
    """The reactions of a data set that have a TS.

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
    """What a data set's labels were computed with; its name where it does not say."""
    from phl_ase.datasets import open_dataset

    if not is_data_set(text):
        return f"labels of {Path(text).name}"
    with open_dataset(text) as dataset:
        return dataset.meta.level_of_theory or Path(text).name
