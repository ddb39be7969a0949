"""Structures that a model was trained on, told before it is scored on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from phl_ase.structures import Frame
    from phl_ase.types import ASECalculator


def say_seen(calculator: ASECalculator, frames: Sequence[Frame], model: str) -> tuple[bool | None, ...]:
    """Say, as the first line of a command, how many structures a model was trained on, and return which.

    Args:
        calculator: The model's, or any other.
        frames: The structures; labels do not matter.
        model: How the sentence names the model.

    Returns:
        Of each structure, whether the model was trained on it; ``None`` where nothing is known.

    Raises:
        PHLError: For a record in the model's card that cannot be read.
    """
    from phl_ase.trained_on import trained_on

    known, total = trained_on(calculator), len(frames)
    if not known or not total:
        return (None,) * total
    found = [bool(seen) for seen in known.seen(frames)]
    number = sum(found)
    if not known.known:
        but = f", but for {number} of these {total} structures" if number else ""
        typer.echo(f"what {model} was trained on is not recorded{but}: these may be training errors\n")
        return tuple(True if seen else None for seen in found)
    if number:
        typer.echo(f"{model} was trained on {number} of these {total} structures: errors on new ones are larger\n")
    else:
        typer.echo(f"{model} was trained on none of these {total} structures\n")
    return tuple(found)
