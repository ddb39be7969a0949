"""The structures of a finished reaction as frames of a data set."""

from __future__ import annotations

import zlib

import numpy as np

from phl_ase.reactions.folder import ReactionFolder
from phl_ase.structures import Frame


def frames_of(folder: ReactionFolder) -> list[Frame]:
    """All structures, along the path and then the samples, without labels.

    A frame's identity, which its probes are drawn from, follows from the name of the reaction and its place among its
    frames: it does not depend on which other reactions there are.
    """
    known = folder.guess.identity
    frames = []
    for place, record in enumerate(folder.frames()):
        frames.append(
            Frame(
                numbers=np.array(known["numbers"], dtype=np.int64),
                positions=np.array(record["positions"], dtype=float),
                charge=known["charge"],
                multiplicity=known["multiplicity"],
                kind=record["kind"],
                reaction=folder.name,
                irc_s=record.get("irc_s"),
                temperature=record.get("temperature"),
                frame_id=(zlib.crc32(folder.name.encode()) << 20) + place,
            )
        )
    return frames
