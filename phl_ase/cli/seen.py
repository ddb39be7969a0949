"""Structures that a model was trained on, told before it is scored on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phl_ase.structures import Frame
    from phl_ase.types import ASECalculator


@dataclass(frozen=True)
class SeenStructures:
    """Structures that a model has seen among some.

    Attributes:
        sentence: For the first line; empty of a method, which was not trained.
        flags: Of each structure, whether the model was trained on it; ``None`` where nothing is known.
    """

    sentence: str
    flags: tuple[bool | None, ...]


def seen_structures(calculator: ASECalculator, frames: Sequence[Frame], model: str) -> SeenStructures:
    """Return which structures a model was trained on.

    Args:
        calculator: The model's, or any other.
        frames: The structures; labels do not matter.
        model: How the sentence names the model.

    Raises:
        PHLError: For a record in the model's card that cannot be read.
    """
    from phl_ase.trained_on import trained_on

    known, total = trained_on(calculator), len(frames)
    if not known or not total:
        return SeenStructures("", (None,) * total)
    found = [bool(seen) for seen in known.seen(frames)]
    number = sum(found)
    if not known.known:
        but = f", but for {number} of these {total} structures" if number else ""
        said = f"what {model} was trained on is not recorded{but}: these may be training errors"
        return SeenStructures(said, tuple(True if seen else None for seen in found))
    if not number:
        return SeenStructures(f"{model} was trained on none of these {total} structures", tuple(found))
    said = f"{model} was trained on {number} of these {total} structures: errors on new ones are larger"
    return SeenStructures(said, tuple(found))


def say_seen(calculator: ASECalculator, frames: Sequence[Frame], model: str) -> SeenStructures:
    """Write the sentence of :func:`seen_structures`, if there is one, as the first line of a command."""
    import typer

    seen = seen_structures(calculator, frames, model)
    if seen.sentence:
        typer.echo(seen.sentence + "\n")
    return seen
