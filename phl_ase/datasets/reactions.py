"""The frames of a data set by reaction: its transition state, its two ends, its path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from phl_ase.datasets.base import BaseDataset
from phl_ase.errors import PHLError
from phl_ase.structures.frame import Frame


@dataclass(frozen=True, eq=False)
class ReactionFrames:
    """The frames of one reaction.

    Attributes:
        name: The reaction.
        transition_state: Its TS, kind ``ts``; ``None`` when absent.
        reactant: Its frame of kind ``reactant``; ``None`` when absent.
        product: Its frame of kind ``product``; ``None`` when absent.
        path: Its frames of kind ``irc`` and its TS, by signed arc length; those without an arc length left out.
    """

    name: str
    transition_state: Frame | None = None
    reactant: Frame | None = None
    product: Frame | None = None
    path: tuple[Frame, ...] = field(default=())


_ENDS: Mapping[str, str] = {"ts": "transition_state", "reactant": "reactant", "product": "product"}


def reactions_of(dataset: BaseDataset, names: Iterable[str] | None = None) -> dict[str, ReactionFrames]:
    """Return the reactions of a data set by their names.

    Args:
        dataset: Frames with ``reaction`` and ``kind``.
        names: Which reactions; all by default, in the order of the data set.

    Raises:
        PHLError: For a reaction that the data set does not have, one with two frames of a kind of which it should have
            one, or a data set without reactions.
    """
    known = [str(name) for name in dict.fromkeys(dataset.reactions.tolist()) if name]
    wanted = known if names is None else list(names)
    if not known:
        raise PHLError(f"no frame of {dataset.name} names its reaction; expected a data set of reactions")
    absent = [name for name in wanted if name not in known]
    if absent:
        raise PHLError(f"{dataset.name} has no reaction {', '.join(absent)}; it has {', '.join(known)}")
    found: dict[str, ReactionFrames] = {}
    for name in wanted:
        chosen = dataset.reactions == name
        ends: dict[str, Frame] = {}
        for kind, role in _ENDS.items():
            places = np.nonzero(chosen & (dataset.kinds == kind))[0]
            if len(places) > 1:
                raise PHLError(
                    f"reaction {name} of {dataset.name} has {len(places)} frames of kind {kind}; expected one"
                )
            if len(places):
                ends[role] = dataset[int(places[0])]
        on_path = np.nonzero(chosen & (dataset.kinds == "irc") & np.isfinite(dataset.irc_s))[0]
        points = [(float(dataset.irc_s[i]), dataset[int(i)]) for i in on_path]
        if points and "transition_state" in ends:
            points.append((0.0, ends["transition_state"]))
        path = tuple(frame for _, frame in sorted(points, key=lambda point: point[0]))
        found[name] = ReactionFrames(name=name, path=path, **ends)
    return found
