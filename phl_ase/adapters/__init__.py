"""Adapters: potentials of other packages as Potentials of this one. The table; each package is loaded when used."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phl_ase.errors import PHLError, unknown
from phl_ase.files import is_there

if TYPE_CHECKING:
    from phl_ase.adapters.foreign import Foreign

__all__ = ["ADAPTERS", "Adapter", "check_foreign", "is_foreign", "load_foreign"]


@dataclass(frozen=True)
class Adapter:
    """One kind of foreign potential.

    Attributes:
        module: Module of this subpackage with a function ``load(path, *, trust)``.
        file: What ``NAME:FILE`` names, in words.
        source: How to get such a file, for somebody who knows a published model only by its name.
    """

    module: str
    file: str
    source: str


ADAPTERS: dict[str, Adapter] = {
    "mace": Adapter(
        "mace",
        "a model that MACE wrote (*.model)",
        "published ones are files of https://github.com/ACEsuit/mace-foundations, and in Python "
        "mace.calculators.mace_mp(model='medium') leaves them in ~/.cache/mace",
    ),
    "ani": Adapter(
        "ani",
        "a TorchANI model written by torch.save(model, FILE)",
        "in Python: torch.save(torchani.models.ANI2x(), 'ani2x.pt')",
    ),
    "aimnet": Adapter(
        "aimnet",
        "an AIMNet2 model (*.pt)",
        "in Python aimnet.calculators.AIMNet2Calculator('aimnet2') downloads one; aimnet.calculators.model_registry "
        "says where to",
    ),
    "hippynn": Adapter(
        "hippynn",
        "the folder of a hippynn experiment, or its experiment_structure.pt",
        "hippynn's training leaves it",
    ),
    "graph-pes": Adapter(
        "graph_pes", "a model that graph-pes wrote (model.pt)", "graph-pes-train leaves it in its results folder"
    ),
}
"""Prefix, which is also the name of the extra -> adapter."""


def is_foreign(text: str) -> bool:
    """Return whether a text begins with the prefix of an adapter."""
    return text.partition(":")[0] in ADAPTERS and ":" in text


def check_foreign(text: str) -> None:
    """Check that the file of a foreign potential exists, without importing its package.

    Args:
        text: ``PREFIX:FILE``; what follows a ``#`` chooses a part of the file.

    Raises:
        PHLError: For an unknown prefix, or no file of that name; published models are known to their packages by name,
            and the error says how to get the file.
    """
    prefix, _, file = text.partition(":")
    if prefix not in ADAPTERS:
        raise unknown("kind of foreign potential", prefix, ADAPTERS)
    adapter = ADAPTERS[prefix]
    if not file:
        raise PHLError(f"got {text!r}; expected {prefix}:FILE, {adapter.file}")
    if not any(is_there(Path(name).expanduser()) for name in (file, file.partition("#")[0])):
        raise PHLError(f"model file {file!r} does not exist; expected {prefix}:FILE, {adapter.file}: {adapter.source}")


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
    check_foreign(text)
    prefix, _, file = text.partition(":")
    module = importlib.import_module(f"phl_ase.adapters.{ADAPTERS[prefix].module}")
    potential: Foreign = module.load(file, trust=trust)
    potential.name = text
    path = Path(file).expanduser()
    foreign = importlib.import_module("phl_ase.adapters.foreign")
    potential.provenance = foreign.recorded_provenance(path if is_there(path) else Path(file.rpartition("#")[0]))
    return potential.ready(dtype, device)
