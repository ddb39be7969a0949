"""Starting from a trained model: its weights stay, its reference energies move to the level of the new labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from ase.data import chemical_symbols

from phl_ase.adapters import is_foreign, load_foreign
from phl_ase.errors import PHLError
from phl_ase.potentials.model import Model
from phl_ase.potentials.model_file import load_model
from phl_ase.potentials.references import fit_reference_energies, species_of
from phl_ase.structures import Frame, collate
from phl_ase.training.config import PotentialSection
from phl_ase.training.optimiser import named_like

_BATCH_SIZE = 64  # frames in a batch


def pretrained_model(
    settings: PotentialSection, frames: Sequence[Frame], replay: Sequence[Frame] = (), *, mixed: bool = False
) -> Model:
    """Return a trained model to go on from.

    Weights, scale and species stay. Its energy per species moves by the least-squares fit of what the training energies
    differ from its own, the smallest change where compositions do not determine it: another level of theory counts
    energy from another zero. A species that no training frame holds keeps its energy.

    Args:
        settings: Names the model (a bundled name, a ``.safetensors`` file, or a foreign one: ``mace:FILE``) and which
            of its parameters are trained.
        frames: Training frames.
        replay: Frames of earlier data that are to be replayed.
        mixed: Whether these are of another level of theory; otherwise the energies per species are fitted to them too.

    Raises:
        PHLError: For a file that is no model of ours, settings of the architecture that are not the model's, or frames
            with a species that it does not know.
    """
    start = str(settings.start)
    model = load_foreign(start) if is_foreign(start) else load_model(start, dtype=torch.float64)
    card = model.card()
    given = {"architecture": settings.architecture} if "architecture" in settings.model_fields_set else {}
    own = {"architecture": card["architecture"], **card["config"]}
    for key, value in {**given, **settings.settings()}.items():
        if key not in own or own[key] != value:
            has = f"the model has {own[key]!r}" if key in own else "the model has no such setting"
            raise PHLError(
                f"potential.{key} is {value!r}, but {has}; leave the settings of the architecture out where "
                "potential.from names a model to start from"
            )
    strange = [chemical_symbols[z] for z in species_of([*frames, *replay]) if z not in model.species]
    if strange:
        raise PHLError(
            f"training frames hold {', '.join(strange)}, which the model to start from does not know "
            f"(it knows {', '.join(chemical_symbols[z] for z in model.species)}); leave them out, or train a new model"
        )
    fitted = frames if mixed else [*frames, *replay]
    moved = model.reference_energies + torch.from_numpy(references_missing(model, fitted))
    model.set_references(moved, float(model.scale))
    names, patterns = [name for name, _ in model.named_parameters()], settings.trainable or ("*",)
    chosen = {name for pattern in patterns for name in named_like(names, pattern, "potential.trainable")}
    for name, parameter in model.train().named_parameters():
        parameter.requires_grad_(name in chosen)
    return model


def references_missing(model: Model, frames: Sequence[Frame]) -> np.ndarray:
    """Return the mean difference per species between the energies of frames and a model's ``(species,)``, eV.

    The least-squares fit, and the smallest where compositions do not determine it.
    """
    labelled = [frame for frame in frames if frame.energy is not None]
    rests = []
    with torch.no_grad():
        for start in range(0, len(labelled), _BATCH_SIZE):
            some = labelled[start : start + _BATCH_SIZE]
            batch, _ = collate(some, model.cutoffs)
            energies = zip(some, model(batch).tolist(), strict=True)
            rests += [dataclasses.replace(frame, energy=frame.energy - energy) for frame, energy in energies]
    return fit_reference_energies(rests, model.species)
