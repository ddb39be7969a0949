"""Structures that a model was trained on, as its card records them.

Errors on these are training errors, whatever the data set is called now and however it is split. A card keeps them by
content (:mod:`phl_ase.structures.fingerprints`), so that a renamed, merged or exported copy is the same structure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.structures import Frame
from phl_ase.structures.fingerprints import StructureSet, union

KEY = "trained_on"
"""Entry of a card's provenance that holds the record."""

_BEFORE = "started_from"  # entry of a provenance: that of the model to go on from
_NOTHING = StructureSet()


def training_record(train: Sequence[Frame], valid: Sequence[Frame]) -> dict[str, Any]:
    """Return the entry ``{"trained_on": …}`` of a card's provenance.

    Args:
        train: Frames whose labels the weights were fitted to, those replayed included.
        valid: Frames that chose the model, or calibrated it.
    """
    return {KEY: {"train": StructureSet.of(train).to_json(), "valid": StructureSet.of(valid).to_json()}}


@dataclass(frozen=True)
class TrainedOn:
    """The structures that a model has seen.

    Attributes:
        train: Those that it was fitted to.
        valid: Those that chose or calibrated it, and nothing more.
        known: Whether that is all: ``False`` where a card (of the model, a member, or a model that it started from)
            does not say what it was trained on.
    """

    train: StructureSet = _NOTHING
    valid: StructureSet = _NOTHING
    known: bool = True

    def __bool__(self) -> bool:
        return bool(len(self.train) or len(self.valid) or not self.known)

    def seen(self, frames: Sequence[Frame], *, valid: bool = False) -> np.ndarray:
        """Return which frames the model was trained on ``(frames,)`` bool; with ``valid``, or was chosen by."""
        found = self.train.contains(frames)
        return found | self.valid.contains(frames) if valid else found


def trained_on(calculator: Any) -> TrainedOn:
    """Return what the model of a calculator has seen, all members of a committee together.

    Args:
        calculator: Any ASE calculator, or a potential. A method that is no model has seen nothing.

    Raises:
        PHLError: For a record that cannot be read.
    """
    potential = getattr(calculator, "potential", calculator)
    card = getattr(potential, "provenance", None)
    members = getattr(potential, "members", None)
    if members is None:
        return _of_card(card) if isinstance(card, Mapping) else TrainedOn()
    parts = _merged(trained_on(member) for member in members)
    card = card if isinstance(card, Mapping) else {}
    if KEY in card:
        return _merged([parts, _of_card(card)])
    # members of before cards kept records: the committee's split covers them all
    return parts if parts.known or not (whole := _by_split(card)).known else whole


def _merged(parts: Iterable[TrainedOn]) -> TrainedOn:
    every = list(parts)
    return TrainedOn(
        train=union(one.train for one in every),
        valid=union(one.valid for one in every),
        known=all(one.known for one in every),
    )


def _of_card(card: Mapping[str, Any]) -> TrainedOn:
    """Return what a single model has seen, the model that it started from included."""
    record = card.get(KEY)
    if record is None:
        here = _by_split(card)
    elif isinstance(record, Mapping):
        train, valid = (StructureSet.from_json(record.get(part)) for part in ("train", "valid"))
        here = TrainedOn(train, valid)
    else:
        raise PHLError("the model's record of its training frames is broken; train it again")
    before = card.get(_BEFORE)
    return _merged([here, _of_card(before)]) if isinstance(before, Mapping) else here


def _by_split(card: Mapping[str, Any]) -> TrainedOn:
    """Return the frames of a card without a record: those of its split, where its data set is bundled and unchanged."""
    from phl_ase.datasets import BUNDLED, Split, open_dataset

    split, name = card.get("split"), card.get("data")
    if not isinstance(split, Mapping) or name not in BUNDLED:
        return TrainedOn(known=False)
    with open_dataset(name) as data:
        if data.content_hash() != card.get("data_hash"):
            return TrainedOn(known=False)
        numbered = Split.from_json(split)
        return TrainedOn(StructureSet.of(data.frames(numbered.train)), StructureSet.of(data.frames(numbered.valid)))


__all__ = ["KEY", "TrainedOn", "trained_on", "training_record"]
