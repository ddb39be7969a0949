"""The table of architectures a configuration or a model file can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

import numpy as np
import torch

from phl_ase.errors import PHLError, unknown
from phl_ase.potentials.model import Model
from phl_ase.potentials.painn import PaiNN, PaiNNConfig
from phl_ase.structures.label import labels


@dataclass(frozen=True)
class Architecture:
    """One kind of potential that can be trained and stored.

    Attributes:
        config: Dataclass of its settings; the first field is ``species``.
        build: Makes an untrained model from a config and a generator.
    """

    config: type
    build: Callable[[Any, torch.Generator | None], Model]

    def settings(self) -> tuple[str, ...]:
        """Names a configuration may set (species come from the data)."""
        return tuple(f.name for f in fields(self.config) if f.name != "species")


ARCHITECTURES: dict[str, Architecture] = {
    "painn": Architecture(PaiNNConfig, PaiNN),
}


def _is_a(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)  # True is an int too


_KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    int: (lambda value: _is_a(value, int, np.integer), "a whole number"),
    float: (lambda value: _is_a(value, int, float, np.number), "a number"),
    str: (lambda value: isinstance(value, str), "a name"),
}
"""Type of a setting -> what fits it, and how it is called: a configuration or a card may hold anything."""


def build_model(name: str, config: Mapping[str, Any], generator: torch.Generator | None = None) -> Model:
    """Return an untrained model.

    Args:
        name: Key of ``ARCHITECTURES``.
        config: Its settings, ``species`` included.
        generator: Source of the initial weights.

    Raises:
        PHLError: For an unknown architecture or setting, listing the valid ones.
    """
    if name not in ARCHITECTURES:
        labels()  # packages that declare labels bring architectures that predict them
    if name not in ARCHITECTURES:
        raise unknown("architecture", name, ARCHITECTURES)
    architecture = ARCHITECTURES[name]
    kinds = get_type_hints(architecture.config)
    for key, value in config.items():
        if key not in (*architecture.settings(), "species"):
            raise unknown(f"setting of {name}", key, architecture.settings())
        accepts, expected = _KINDS.get(kinds[key], (lambda _: True, ""))
        if not accepts(value):
            raise PHLError(f"potential.{key} is {value!r}; {name} expects {expected}")
    try:
        settings = architecture.config(**config)
    except TypeError as error:
        raise PHLError(f"settings of {name} do not fit: {error}") from None
    return architecture.build(settings, generator)
