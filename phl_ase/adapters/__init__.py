"""Adapters: potentials of other packages as Potentials of this one. The table; each package is loaded when used."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phl_ase.errors import PHLError, unknown

if TYPE_CHECKING:
    from phl_ase.adapters.foreign import Foreign

__all__ = ["ADAPTERS", "Adapter", "is_foreign", "load_foreign"]


@dataclass(frozen=True)
class Adapter:
    """One kind of foreign potential.

    Attributes:
        module: Module of this room with a function ``load(path, *, trust)``.
        file: What ``NAME:FILE`` names, in words.
    """

    module: str
    file: str


ADAPTERS: dict[str, Adapter] = {
    "mace": Adapter("mace", "a model that MACE wrote (*.model)"),
    "ani": Adapter("ani", "a TorchANI model written by torch.save(model, FILE)"),
    "aimnet": Adapter("aimnet", "an AIMNet2 model (*.pt)"),
    "hippynn": Adapter("hippynn", "the folder of a hippynn experiment, or its experiment_structure.pt"),
    "graph-pes": Adapter("graph_pes", "a model that graph-pes wrote (model.pt)"),
}
"""Prefix, which is also the name of the extra -> adapter."""


def is_foreign(text: str) -> bool:
    """Whether a text begins with the prefix of an adapter."""
    return text.partition(":")[0] in ADAPTERS and ":" in text


def load_foreign(text: str, *, dtype: str = "float64", device: str = "cpu", trust: bool = False) -> Foreign:
    """Load a foreign potential.

    Args:
        text: ``PREFIX:FILE`` with a key of ``ADAPTERS``.
        dtype: ``"float64"`` or ``"float32"``; some potentials keep parts in float32 whatever is asked for.
        device: ``"cpu"``, ``"cuda"``, ….
        trust: Allow a file whose loading runs code that it contains.

    Returns:
        The potential, gradients of its parameters off.

    Raises:
        PHLError: For an unknown prefix, a missing package (naming the line that installs it), a missing or damaged
            file, one of another version, or one that cannot be read without running its code and is not trusted.
    """
    prefix, _, file = text.partition(":")
    if prefix not in ADAPTERS:
        raise unknown("kind of foreign potential", prefix, ADAPTERS)
    if not file:
        raise PHLError(f"got {text!r}; expected {prefix}:FILE, {ADAPTERS[prefix].file}")
    module = importlib.import_module(f"phl_ase.adapters.{ADAPTERS[prefix].module}")
    potential: Foreign = module.load(file, trust=trust)
    potential.name = text
    return potential.ready(dtype, device)
