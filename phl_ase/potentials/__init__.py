"""Potentials: energies of batches, nothing else."""

from phl_ase.potentials.analytic import Harmonic, LennardJones, Morse, PairPotential
from phl_ase.potentials.calibration import Calibration
from phl_ase.potentials.combine import Sum
from phl_ase.potentials.committee import Committee
from phl_ase.potentials.domain import Domain, domain_of
from phl_ase.potentials.model import Model
from phl_ase.potentials.model_file import bundled_models, load_model, load_saved, read_card, save_committee, save_model
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
