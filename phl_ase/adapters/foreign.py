"""Base class of adapters: a module of another package behind the Potential protocol, energy only."""

from __future__ import annotations

import copy
import hashlib
import io
import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from phl_ase.adapters.containment import contained
from phl_ase.errors import PHLError
from phl_ase.files import write_atomic
from phl_ase.potentials.model import DTYPES, Model
from phl_ase.structures import Batch


class Foreign(Model):
    """A potential of another package.

    The vendor's own derivatives are not used: its module gives energies, and every derivative comes from
    ``phl_ase.derivatives``.

    Attributes:
        vendor: Prefix and extra of the adapter.
        module: The vendor's module; its parameters are those of the potential.
        name: What the potential was loaded from.
        written_whole: Whether the vendor's own format is ``torch.save`` of the module.
        atomic_energy_unit: Of the model's own table of atomic energies, eV.
    """

    vendor: str
    written_whole: bool = False
    atomic_energy_unit: float = 1.0
    derivative_modes = ("batched", "loop")

    def __init__(self, module: nn.Module, species: tuple[int, ...], cutoff: float, receptive_field: float) -> None:
        super().__init__()
        self.module = module
        self.species = tuple(sorted(species))
        self.cutoffs = (cutoff,)
        self.receptive_field = receptive_field
        self.name = self.vendor
        self.provenance: dict[str, Any] = {}

    @abstractmethod
    def forward(self, batch: Batch) -> Float[Tensor, " systems"]:
        """Return energies in eV, float64."""

    def ready(self, dtype: str, device: str) -> Foreign:
        """Return the potential for use: in a dtype, on a device, gradients of parameters off."""
        return self.to(device=device, dtype=DTYPES[dtype]).requires_grad_(False).eval()

    def write(self, path: str | Path) -> Path:
        """Write the module in the vendor's own format, for the vendor's own tools to load.

        Args:
            path: The file, replaced atomically.

        Raises:
            PHLError: Where this vendor's format cannot be written.
        """
        if not self.written_whole:
            raise PHLError(f"a {self.vendor} potential cannot be written in its own format")
        path, buffer = Path(path), io.BytesIO()
        with contained():
            torch.save(self.module, buffer)
        write_atomic(path, buffer.getvalue())
        return path

    def write_with_card(self, path: Path, provenance: Mapping[str, Any]) -> None:
        """Write the module, and beside it as JSON what it was trained on and how.

        Args:
            path: The file; the card has its name with the ending ``.json``.
            provenance: Plain values.

        Raises:
            PHLError: Where this vendor's format cannot be written.
        """
        self.write(path)
        card = {**self.card(), "sha256": _sha256(path), "provenance": dict(provenance)}
        write_atomic(path.with_suffix(".json"), json.dumps(card, indent=1).encode())

    def card(self) -> dict[str, Any]:
        """Return the architecture and species of the card."""
        return {"architecture": self.vendor, "config": {"species": list(self.species)}}

    @property
    def reference_energies(self) -> Float[Tensor, " species"]:  # type: ignore[override]
        """Energies of the isolated atoms, eV, in the order of ``species``; zeros where the model keeps none."""
        found = self.atomic_energies()
        if found is None:
            return torch.zeros(len(self.species), dtype=torch.float64, device="cpu")
        table, rows = found
        return table[rows].reshape(len(rows), -1)[:, 0] * self.atomic_energy_unit

    @property
    def scale(self) -> Float[Tensor, ""]:  # type: ignore[override]
        """Energy scale, eV: a foreign model has its own inside."""
        return torch.ones((), device="cpu")

    def set_references(self, energies: Float[Tensor, " species"], scale: float) -> None:
        """Set the energy per species (eV, in the order of ``species``); the scale stays the vendor's.

        Raises:
            PHLError: Where the vendor keeps no energies of isolated atoms.
        """
        change = energies.double().cpu() - self.reference_energies.double().cpu()
        if bool(change.any()):
            self.shift_references(change)

    def shift_references(self, change: Float[Tensor, " species"]) -> None:
        """Add to the energies of the isolated atoms, eV.

        Raises:
            PHLError: Where the model keeps none.
        """
        found = self.atomic_energies()
        if found is None:
            raise PHLError(f"{self.name} keeps no energies of atoms; expected labels of its own energy zero")
        add_rows(*found, change / self.atomic_energy_unit)

    def atomic_energies(self) -> tuple[Tensor, Int[Tensor, " species"]] | None:
        """The model's own table of atomic energies, an element a row, and the rows of ``species``; ``None`` for none.

        What is written into the table changes the model. Of several columns the first is the one in use.
        """
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> Foreign:
        # vendors' modules recompile themselves when they are copied
        with contained():
            made: Foreign = self.__class__.__new__(self.__class__)
            memo[id(self)] = made
            made.__dict__ = copy.deepcopy(self.__dict__, memo)
            return made


def sum_atoms(batch: Batch, values: Float[Tensor, " atoms"]) -> Float[Tensor, " systems"]:
    """Sums over the atoms of each system, in float64."""
    return values.new_zeros(batch.n_systems, dtype=torch.float64).index_add(0, batch.system, values.double())


def index_of(numbers: Int[Tensor, " atoms"], species: Int[Tensor, " species"]) -> Int[Tensor, " atoms"]:
    """Place of each atom's element in a vendor's list of elements, which may be in any order."""
    order = torch.argsort(species)
    return order[torch.searchsorted(species[order], numbers)]


def add_rows(table: Tensor, rows: Int[Tensor, " species"], change: Float[Tensor, " species"]) -> None:
    """Add a number to each of some rows of a vendor's table, in place, whatever its further axes are."""
    with torch.no_grad():
        shaped = change.to(device=table.device, dtype=table.dtype).reshape(-1, *(1,) * (table.ndim - 1))
        table.index_add_(0, rows.to(table.device), shaped.expand(-1, *table.shape[1:]).contiguous())


def recorded_provenance(path: Path) -> dict[str, Any]:
    """Return what :meth:`Foreign.write_with_card` recorded beside a model file; nothing where that is of another file.

    The domain is left out: the model that a run started from has seen more than the run's own frames.
    """
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if card.get("sha256") not in (None, _sha256(path)):  # cards of earlier versions do not say
            return {}
        recorded = {key: value for key, value in card["provenance"].items() if key != "domain"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {"started_from": {}, **recorded}  # the vendor's own training is not recorded


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def existing(file: str) -> Path:
    """Return the path of a model file.

    Raises:
        PHLError: When there is none.
    """
    path = Path(file).expanduser()
    if not path.exists():
        raise PHLError(f"model file {file!r} does not exist; check the path")
    return path
