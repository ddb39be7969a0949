"""The labels of a run as an ordinary data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phl_ase.datasets.schema import DatasetMeta
from phl_ase.datasets.writer import write_dataset
from phl_ase.learning.store import LabelStore
from phl_ase.structures import Frame, charge_and_multiplicity


def frames_of(store: LabelStore, reaction: str = "") -> list[Frame]:
    """Return a frame for every geometry that the reference was asked about, with its HVPs.

    Geometries that only served a central difference are in the HVP of their centre.
    """
    charge, multiplicity = charge_and_multiplicity(store.atoms)
    frames = []
    for number, known in enumerate(store.points):
        here = [one for one in store.hvps if np.array_equal(one.positions, known.positions)]
        frames.append(
            Frame(
                numbers=store.atoms.numbers.astype(np.int64),
                positions=known.positions,
                charge=charge,
                multiplicity=multiplicity,
                energy=known.energy,
                forces=known.forces,
                probes=np.stack([one.vector for one in here]) if here else None,
                hvp=np.stack([one.product for one in here]) if here else None,
                kind={"path": "irc"}.get(known.kind, known.kind),
                reaction=reaction,
                frame_id=number,
            )
        )
    return frames


def write_labels(
    path: Path, store: LabelStore, level: str, energy_reference: str, provenance: Mapping[str, Any], reaction: str = ""
) -> Path | None:
    """Write the labels as a data set; nothing where there are none.

    Raises:
        PHLError: When the file cannot be written.
    """
    frames = frames_of(store, reaction)
    if not frames:
        return None
    write_dataset(path, frames, DatasetMeta(level, energy_reference, dict(provenance)))
    return path
