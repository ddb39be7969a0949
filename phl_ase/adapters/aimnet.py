"""AIMNet2 (doi:10.1039/D4SC08572H): a ``.pt`` file of settings and weights, which AIMNet's own loader reads safely.

Long-range Coulomb and dispersion, which AIMNet's calculator adds to the module, are added here too.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from phl_ase.adapters.containment import contained, vendor
from phl_ase.adapters.foreign import Foreign, existing
from phl_ase.adapters.reading import not_trusted
from phl_ase.errors import PHLError, reason_of
from phl_ase.structures import Batch

_PACKAGE, _EXTRA = "aimnet", "aimnet"

_EVERYTHING = math.inf
"""Cutoff of the neighbour list that holds every pair of a molecule."""


class AimnetEnergy(Foreign):
    """Energies of an AIMNet2 model with its long-range terms.

    Args:
        calculator: An ``AIMNet2Calculator``, of which the module and the long-range terms are taken.
        metadata: What the model file says of itself.
    """

    vendor = "aimnet"
    takes_charge = True

    def __init__(self, calculator: Any, metadata: dict[str, Any]) -> None:
        cutoff = float(calculator.cutoff)
        species = tuple(int(z) for z in metadata.get("implemented_species") or ())
        # charges are equilibrated over a molecule: every atom feels every other
        super().__init__(calculator.model, species, cutoff, math.inf)
        self.takes_charge = metadata.get("supports_charged_systems") is not False
        terms = (calculator.external_coulomb, calculator.external_dftd3)
        self.terms = nn.ModuleList(term for term in terms if term is not None)
        self.long_range = bool(len(self.terms)) or bool(calculator.lr)
        if self.long_range:
            self.cutoffs = (cutoff, _EVERYTHING)

    def ready(self, dtype: str, device: str) -> Foreign:
        """Prepare the potential; AIMNet2 casts its input to a dtype of its own, which is set to the one asked for."""
        made = super().ready(dtype, device)
        module: Any = made.module
        wanted = next(module.parameters()).dtype
        for name in ("_required_keys_dtype", "_optional_keys_dtype"):
            kinds = [wanted if kind.is_floating_point else kind for kind in getattr(module, name)]
            object.__setattr__(module, name, kinds)
        return made

    def atomic_energies(self) -> tuple[Tensor, Tensor] | None:
        """Return the weights of the shift of atoms, by atomic number."""
        shift = getattr(self.module.outputs, "atomic_shift", None)
        return None if shift is None else (shift.shifts.weight.detach(), torch.tensor(self.species, device="cpu"))

    def forward(self, batch: Batch) -> Float[Tensor, " systems"]:
        """Return energies in eV, float64."""
        last = batch.system[-1:]
        data: dict[str, Tensor] = {
            # AIMNet2 wants one atom more, that every unused place of the neighbour table points to
            "coord": torch.cat([batch.positions, batch.positions.new_zeros(1, 3)]),
            "numbers": torch.cat([batch.numbers, batch.numbers.new_zeros(1)]),
            "mol_idx": torch.cat([batch.system, last]),
            "charge": batch.charge.to(batch.positions.dtype),
            "mult": batch.multiplicity.to(batch.positions.dtype),
        }
        table, shifts = _table(batch, self.cutoffs[0])
        data["nbmat"] = table
        if shifts is not None:
            data |= {"shifts": shifts, "cell": batch.cell}
        if self.long_range:
            everything, _ = _table(batch, _EVERYTHING)
            data |= dict.fromkeys(("nbmat_lr", "nbmat_coulomb", "nbmat_dftd3"), everything)
        data = self.module(data)
        for term in self.terms:
            data = term(data, hessian=True)
        return data["energy"].double()


def _table(batch: Batch, cutoff: float) -> tuple[Int[Tensor, "rows width"], Float[Tensor, "rows width 3"] | None]:
    """Return a neighbour list as a table with a row for each atom and one more, padded with the number of atoms."""
    pairs, n = batch.neighbours[cutoff], len(batch.numbers)
    counts = torch.bincount(pairs.i, minlength=n)
    place = torch.arange(len(pairs.i), device=pairs.i.device) - (counts.cumsum(0) - counts)[pairs.i]
    width = max(int(counts.max()), 1)
    table = torch.full((n + 1, width), n, dtype=torch.int32, device=pairs.i.device)
    table[pairs.i, place] = pairs.j.to(torch.int32)
    if pairs.shifts is None:
        return table, None
    shifts = pairs.shifts.new_zeros(n + 1, width, 3)
    shifts[pairs.i, place] = pairs.shifts
    return table, shifts


def load(file: str, *, trust: bool = False) -> AimnetEnergy:
    """Load an AIMNet2 model.

    Args:
        file: A ``.pt`` of format 2; the older TorchScript files (``.jpt``) are programs, and refused.
        trust: Build classes of any package that the file names, not only AIMNet's.

    Raises:
        PHLError: For a missing package or file, one that is no AIMNet2 model, or one that needs trust.
    """
    path = existing(file)
    base = vendor("aimnet.models.base", _PACKAGE, _EXTRA)
    calculators = vendor("aimnet.calculators", _PACKAGE, _EXTRA)
    if path.suffix == ".jpt":
        raise PHLError(
            f"{path.name}: is a TorchScript program, whose derivatives cannot be trusted; expected a model of format 2 "
            "(.pt): 'aimnet convert' makes one"
        )
    try:
        with contained():
            module, metadata = base.load_model(str(path), model_import_mode="unsafe" if trust else "extend")
            calculator = calculators.AIMNet2Calculator(module, device="cpu", train=True)
    except Exception as error:  # whatever the vendor's loader raises is one line here
        reason = reason_of(error)[:300]
        if not trust and "import" in reason and "trusted" in reason:
            raise not_trusted(path, reason, "aimnet") from error
        raise PHLError(f"{path.name}: cannot be loaded as an AIMNet2 model ({reason})") from error
    return AimnetEnergy(calculator, dict(metadata))
