"""Replay: frames of what a model has learnt before, in every batch of its fine-tuning, so that it does not forget them.

They count like the others: each enters the terms of the loss whose labels it carries. One model has one surface, so
they must be of the level of theory of the new frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from phl_ase.datasets import BaseDataset, open_dataset
from phl_ase.errors import PHLError
from phl_ase.potentials.model import Model
from phl_ase.structures import Frame
from phl_ase.training.config import ReplaySection, TrainConfig
from phl_ase.training.pretrained import references_missing

_HELD_OUT = 10
"""One of so many frames is not replayed but tells at each validation how much has been forgotten."""

_COMMON = {"level_of_theory": "level of theory", "energy_reference": "energy reference"}


def load_replay(
    config: TrainConfig, dataset: BaseDataset, *, held_out: int
) -> tuple[list[Frame], list[Frame], dict[str, Any]]:
    """Return the frames of the original data of a configuration.

    Args:
        config: The run's configuration.
        dataset: The new data.
        held_out: Most frames to hold out.

    Returns:
        Frames to replay, frames held out of them, and what a card should say of them; all empty without replay.

    Raises:
        PHLError: For data that cannot be read, that are the new data themselves, or that are of another level of theory
            or energy reference where that is not allowed.
    """
    settings = config.replay
    if settings.source is None:
        return [], [], {}
    with open_dataset(settings.source, keys=settings.keys or None) as original:
        if original.content_hash() == dataset.content_hash():
            raise PHLError(
                f"replay.source is {settings.source!r}, the data that data.source trains, chooses and tests the model "
                "with; name the data that it has learnt before"
            )
        for name, words in () if settings.mixed else _COMMON.items():
            new, old = (getattr(data.meta, name) or "unknown" for data in (dataset, original))
            if new != old:
                raise PHLError(
                    f"the {words} of {original.name} is {old}, of {dataset.name} {new}, and one model learns one "
                    "surface; label the frames to replay like the new ones, or set replay.mixed = true: their energies "
                    "are then moved per species, their other labels taken as they are"
                )
        largest = config.data.max_atoms or max(original.sizes)
        order = np.random.default_rng(settings.seed).permutation(np.flatnonzero(original.sizes <= largest))
        order = order[: settings.frames]
        if len(order) < 2:
            raise PHLError(f"replay.source {original.name} has {len(order)} frames to replay; expected at least 2")
        number = min(len(order) // _HELD_OUT, held_out)
        held, replayed = (original.frames(sorted(part.tolist())) for part in (order[:number], order[number:]))
        card = {
            "data": original.name,
            "data_hash": original.content_hash(),
            "level_of_theory": original.meta.level_of_theory,
            "energy_reference": original.meta.energy_reference,
            "frames": len(replayed),
            "share": settings.share,
        }
    return replayed, held, card


def frames_to_replay(
    settings: ReplaySection, frames: Sequence[Frame], held_out: Sequence[Frame], model: Model
) -> tuple[list[Frame], list[Frame]]:
    """Return frames as they are replayed, and those that are held out.

    Their ids become −1, −2, …, so that their probes are not those of new frames. Of ``mixed`` data energies are moved
    per species by the least-squares fit of what they differ from the model's: the model has learnt them at their own
    zero, and stands at that of the new frames.

    Args:
        settings: The section of the configuration.
        frames: Frames of the original data.
        held_out: Others of them, not to be replayed; moved alike.
        model: The model before its first step, its reference energies moved to the new frames.
    """
    shift = references_missing(model, frames) if settings.mixed else np.zeros(len(model.species))
    of_species = dict(zip(model.species, shift.tolist(), strict=True))
    moved = [
        dataclasses.replace(
            frame,
            frame_id=-1 - index,
            energy=None if frame.energy is None else frame.energy - sum(of_species[int(z)] for z in frame.numbers),
        )
        for index, frame in enumerate([*frames, *held_out])
    ]
    return moved[: len(frames)], moved[len(frames) :]
