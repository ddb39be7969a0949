"""Potentials: energies of batches, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phl_ase.lazy import lazy_exports

if TYPE_CHECKING:
    from phl_ase.potentials.analytic import Harmonic, LennardJones, Morse, PairPotential
    from phl_ase.potentials.calibration import Calibration
    from phl_ase.potentials.cards import bundled_models, read_card
    from phl_ase.potentials.combine import Sum
    from phl_ase.potentials.committee import Committee
    from phl_ase.potentials.domain import Domain, domain_of
    from phl_ase.potentials.model import Model
    from phl_ase.potentials.model_file import load_model, load_saved, save_committee, save_model
    from phl_ase.potentials.painn import PaiNN, PaiNNConfig
    from phl_ase.potentials.registry import ARCHITECTURES, Architecture
    from phl_ase.potentials.repulsion import CORES, ZBL, Core

__all__ = [
    "ARCHITECTURES",
    "CORES",
    "ZBL",
    "Architecture",
    "Calibration",
    "Committee",
    "Core",
    "Domain",
    "Harmonic",
    "LennardJones",
    "Model",
    "Morse",
    "PaiNN",
    "PaiNNConfig",
    "PairPotential",
    "Sum",
    "bundled_models",
    "domain_of",
    "load_model",
    "load_saved",
    "read_card",
    "save_committee",
    "save_model",
]

_HOMES = {
    "analytic": ("Harmonic", "LennardJones", "Morse", "PairPotential"),
    "calibration": ("Calibration",),
    "cards": ("bundled_models", "read_card"),
    "combine": ("Sum",),
    "committee": ("Committee",),
    "domain": ("Domain", "domain_of"),
    "model": ("Model",),
    "model_file": ("load_model", "load_saved", "save_committee", "save_model"),
    "painn": ("PaiNN", "PaiNNConfig"),
    "registry": ("ARCHITECTURES", "Architecture"),
    "repulsion": ("CORES", "ZBL", "Core"),
}

__getattr__ = lazy_exports(__name__, _HOMES)
