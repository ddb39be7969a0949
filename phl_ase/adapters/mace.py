"""MACE (doi:10.48550/arXiv.2206.07697): a ``*.model`` file is a pickle of a whole module.

Such a pickle holds Python source (torch.fx graphs) and TorchScript that e3nn generated, which unpickling would run. Its
settings and tensors say all that is needed: they are read as records, the module is built anew by MACE's own
constructor, and the tensors are put into it. Its products with spherical harmonics are computed in another way
(``tensor_products``), but for files that are written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from phl_ase.adapters.containment import contained, vendor
from phl_ase.adapters.foreign import Foreign, existing, index_of
from phl_ase.adapters.reading import PickledObject, not_trusted, read_records, read_trusted
from phl_ase.adapters.tensor_products import own_products, use_matrix_products
from phl_ase.errors import PHLError
from phl_ase.structures import Batch

_PACKAGE, _EXTRA = "mace-torch", "mace"

# what e3nn and opt_einsum generate, and which weights stay zero, is a function of the settings
_GENERATED = ("_compiled_main", "graph_opt_", "_zeroed")

# no published model comes near; beyond, the tables that the constructor makes would exhaust memory
_LARGEST_SETTINGS = {"max_ell": 6, "correlation": 5, "num_interactions": 8, "num_bessel": 256, "num_elements": 120}

_CHARGE, _SPIN = "total_charge", "total_spin"


class MaceEnergy(Foreign):
    """Energies of a MACE module.

    Args:
        module: ``ScaleShiftMACE``, or another whose forward gives ``energy``.
        head: Which of its heads to use.
    """

    vendor = "mace"
    written_whole = True

    def __init__(self, module: Any, head: int = 0) -> None:
        cutoff = float(module.r_max)
        layers = int(module.num_interactions)
        super().__init__(module, tuple(int(z) for z in module.atomic_numbers), cutoff, layers * cutoff)
        use_matrix_products(module)
        self.head = head
        self.features = tuple(getattr(module, "embedding_specs", None) or ())
        if strange := sorted(set(self.features) - {_CHARGE, _SPIN}):
            raise PHLError(
                f"the MACE model wants {', '.join(strange)} besides charge and spin; expected one that does not"
            )
        self.takes_charge = _CHARGE in self.features

    def write(self, path: str | Path) -> Path:
        """Write the module as :meth:`Foreign.write` does, of MACE's own parts alone."""
        with own_products(self.module):
            return super().write(path)

    @property
    def reference_energies(self) -> Float[Tensor, " species"]:  # type: ignore[override]
        """Energies of the isolated atoms of the head, eV, in the order of ``species``."""
        table, rows = self.atomic_energies()
        return table[rows, self.head]

    def atomic_energies(self) -> tuple[Tensor, Tensor]:
        """Return energies of atoms of every head, elements × heads, in the order of the model's elements."""
        table: Tensor = self.module.atomic_energies_fn.atomic_energies  # type: ignore[union-attr, assignment]
        elements: Tensor = self.module.atomic_numbers  # type: ignore[assignment]
        return table.reshape(-1, len(elements)).T, torch.argsort(elements)

    def forward(self, batch: Batch) -> Float[Tensor, " systems"]:
        """Return energies in eV, float64."""
        (cutoff,) = self.cutoffs
        pairs = batch.neighbours[cutoff]
        positions, sizes = batch.positions, batch.sizes()
        unit_shifts = positions.new_zeros(len(pairs.i), 3) if pairs.shifts is None else pairs.shifts
        cells = batch.cell.index_select(0, batch.system.index_select(0, pairs.i))
        elements: Tensor = self.module.atomic_numbers  # type: ignore[assignment]
        data = {
            # a view of its own, because MACE switches on gradients of what it is given
            "positions": positions.view_as(positions) if positions.requires_grad else positions.detach().clone(),
            "node_attrs": nn.functional.one_hot(index_of(batch.numbers, elements), len(elements)).to(positions.dtype),
            # MACE's edges run from sender to receiver; vectors are receiver − sender + shift
            "edge_index": torch.stack([pairs.i, pairs.j]),
            "unit_shifts": unit_shifts,
            "shifts": torch.einsum("ea,eab->eb", unit_shifts, cells),
            "cell": batch.cell.reshape(-1, 3),
            "batch": batch.system,
            "ptr": torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
            "head": torch.full((batch.n_systems,), self.head, dtype=torch.int64, device=positions.device),
            _CHARGE: batch.charge.to(positions.dtype),
            _SPIN: batch.multiplicity.to(positions.dtype),
        }
        energy: Tensor = self.module(data, compute_force=False, training=True)["energy"]
        return energy.double()


def load(file: str, *, trust: bool = False) -> MaceEnergy:
    """Load a MACE model; ``FILE#HEAD`` names one of several heads.

    Args:
        file: A ``.model`` file.
        trust: Unpickle it as MACE does, which runs code of the file, when it cannot be rebuilt from its settings.

    Raises:
        PHLError: For a missing package or file, one that is no MACE model, or one that needs trust.
    """
    name, _, head = file.partition("#") if not Path(file).exists() else (file, "", "")
    path = existing(name)
    vendor("mace.modules", _PACKAGE, _EXTRA)
    irreps = vendor("e3nn.o3._irreps", _PACKAGE, _EXTRA)
    plain = {("e3nn.o3._irreps", name): getattr(irreps, name) for name in ("Irreps", "Irrep", "_MulIr")}
    # this runs nothing of the file: it is tried also where the file is trusted
    record = read_records(path, plain)
    try:
        module = _rebuilt(record)
    except _Different as reason:
        if not trust:
            raise not_trusted(path, str(reason), "mace") from None
        module = read_trusted(path)
        if not hasattr(module, "r_max"):
            raise PHLError(f"{path.name}: holds a {type(module).__name__}; expected a MACE model") from None
    heads = list(getattr(module, "heads", None) or ["Default"])
    default = [name for name in heads if name.lower() == "default"]
    chosen = head or (heads[0] if len(heads) == 1 else default[0] if default else "")
    if chosen not in heads:
        got = f"has no head {head!r}" if head else "has several heads"
        raise PHLError(f"{path.name}: {got}; choose one of {', '.join(heads)}: mace:{path}#HEAD")
    return MaceEnergy(module, heads.index(chosen))


class _Different(Exception):
    """A model that the installed MACE does not build from the settings in the file."""


def _rebuilt(record: PickledObject) -> nn.Module:
    kind = type(record).__name__
    if kind != "ScaleShiftMACE":
        raise _Different(f"holds a {kind}, which is rebuilt from its settings only for ScaleShiftMACE")
    state = record.tensors()
    dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float64)
    modules = vendor("mace.modules", _PACKAGE, _EXTRA)
    try:
        settings = _settings(record)
        with contained(dtype):
            module: nn.Module = modules.ScaleShiftMACE(**settings)
        missing, unexpected = module.load_state_dict(state, strict=False)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise _Different(f"does not fit the installed MACE ({type(error).__name__}: {reason})") from None
    lost = [name for name in missing if not any(part in name for part in _GENERATED)]
    if lost or unexpected:
        raise _Different(f"was made by another version of MACE (tensors {[*lost, *unexpected][:3]})")
    return module


def _settings(record: Any) -> dict[str, Any]:
    """Return the constructor's arguments as MACE reads them of a model; names of classes become this MACE's classes."""
    scripts = vendor("mace.tools.scripts_utils", _PACKAGE, _EXTRA)
    modules = vendor("mace.modules", _PACKAGE, _EXTRA)
    settings: dict[str, Any] = scripts.extract_config_mace_model(record)
    for name, table in (
        ("interaction_cls", modules.interaction_classes),
        ("interaction_cls_first", modules.interaction_classes),
        ("readout_cls", {**modules.readout_classes}),
    ):
        settings[name] = table[settings[name].__name__]
    gate = settings["gate"]
    settings["gate"] = None if gate is None else modules.gate_dict[gate.__name__]
    settings["atomic_numbers"] = settings["atomic_numbers"].tolist()
    for name, largest in _LARGEST_SETTINGS.items():
        if not 0 <= settings[name] <= largest:
            raise ValueError(f"{name} is {settings[name]}")
    return settings
