"""Small untrained models of other packages for ``finetuning.py``, written as their packages write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from phl_ase.adapters.containment import contained, vendor
from phl_ase.potentials.references import fit_reference_energies, fit_scale, species_of
from phl_ase.structures import Frame

CUTOFF = 4.5  # Å
SETTINGS: dict[str, dict[str, Any]] = {
    "mace": {"hidden_irreps": "32x0e + 32x1o", "num_interactions": 2, "max_ell": 2, "correlation": 2, "num_bessel": 8},
    "graph-pes": {"model": "PaiNN", "channels": 64, "layers": 2, "radial_features": 8},
}
"""What the models are, by the prefix of their adapter."""

_NEIGHBOURS = 3.0  # in the mean, of molecules of this size


def _mace(species: Sequence[int], energies: np.ndarray, scale: float, seed: int) -> torch.nn.Module:
    modules = vendor("mace.modules", "mace-torch", "mace")
    irreps = vendor("e3nn.o3", "e3nn", "mace").Irreps
    settings = SETTINGS["mace"]
    with contained(torch.float64):
        torch.manual_seed(seed)
        model: torch.nn.Module = modules.ScaleShiftMACE(
            **{**settings, "hidden_irreps": irreps(settings["hidden_irreps"])},
            r_max=CUTOFF,
            num_polynomial_cutoff=5,
            interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
            num_elements=len(species),
            MLP_irreps=irreps("16x0e"),
            gate=torch.nn.functional.silu,
            atomic_energies=energies[None],
            avg_num_neighbors=_NEIGHBOURS,
            atomic_numbers=list(species),
            radial_type="bessel",
            atomic_inter_scale=scale,
            atomic_inter_shift=0.0,
        )
    return model


def _graph_pes(species: Sequence[int], energies: np.ndarray, scale: float, seed: int) -> torch.nn.Module:
    models = vendor("graph_pes.models", "graph-pes", "graph-pes")
    settings = {key: value for key, value in SETTINGS["graph-pes"].items() if key != "model"}
    with contained(torch.float64):
        torch.manual_seed(seed)
        painn = models.PaiNN(cutoff=CUTOFF, **settings)
        atoms = {chemical_symbols[z]: float(energy) for z, energy in zip(species, energies, strict=True)}
        model: torch.nn.Module = models.AdditionModel(offset=models.FixedOffset(**atoms), many_body=painn)
    return model


MAKERS: dict[str, Callable[[Sequence[int], np.ndarray, float, int], torch.nn.Module]] = {
    "mace": _mace,
    "graph-pes": _graph_pes,
}
"""Prefix of an adapter -> an untrained model of species, energies of their atoms and a scale (eV), and a seed."""


def write_untrained(kind: str, frames: Sequence[Frame], path: Path, seed: int) -> str:
    """Write an untrained model whose energies per species are fitted to frames.

    Args:
        kind: Key of ``MAKERS``.
        frames: What it will be trained on.
        path: Where to.
        seed: Of the weights.

    Returns:
        What a configuration calls it: ``mace:FILE``.
    """
    species = species_of(frames)
    energies = fit_reference_energies(frames, species)
    torch.save(MAKERS[kind](species, energies, fit_scale(frames, energies, species), seed), path)
    return f"{kind}:{path}"
