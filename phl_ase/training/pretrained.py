"""Starting from a trained model: its weights stay, its reference energies move to the level of the new labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from ase.data import chemical_symbols

from phl_ase.adapters import is_foreign, load_foreign
from phl_ase.errors import PHLError
from phl_ase.potentials.model import Model
from phl_ase.potentials.model_file import load_model
from phl_ase.potentials.references import fit_reference_energies, species_of
from phl_ase.structures import Frame, collate
from phl_ase.training.config import PotentialSection

_AT_ONCE = 64  # frames in a batch


def pretrained_model(settings: PotentialSection, frames: Sequence[Frame]) -> Model:
    """A trained model to go on from.

    Weights, scale and species stay. Its energy per species moves by the least-squares fit of what the training energies
    differ from its own, the smallest change where compositions do not determine it: another level of theory counts
    energy from another zero. A species that no training frame holds keeps its energy.

    Args:
        settings: Names the model (a bundled name, a ``.safetensors`` file, or a foreign one: ``mace:FILE``) and which
            of its parameters are trained.
        frames: Training frames.

    Raises:
        PHLError: For a file that is no model of ours, settings of the architecture that are not the model's, or frames
            with a species that it does not know.
    """
    model = _loaded(str(settings.start))
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
    strange = [chemical_symbols[z] for z in species_of(frames) if z not in model.species]
    if strange:
        raise PHLError(
            f"training frames hold {', '.join(strange)}, which the model to start from does not know "
            f"(it knows {', '.join(chemical_symbols[z] for z in model.species)}); leave them out, or train a new model"
        )
    _move_references(model, frames)
    _choose_trainable(model.train(), settings.trainable)
    return model


def _loaded(start: str) -> Model:
    return load_foreign(start) if is_foreign(start) else load_model(start, dtype=torch.float64)


def _choose_trainable(model: Model, patterns: Sequence[str]) -> None:
    """Switch on the gradients of the parameters whose name fits one of the patterns; of all where there are none."""
    names = [name for name, _ in model.named_parameters()]
    chosen = {name for name in names if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)}
    idle = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    if idle:
        some = ", ".join(names[:: max(1, len(names) // 6)])
        raise PHLError(f"potential.trainable: no parameter is called {idle[0]!r}; the model has, among others, {some}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)


def _move_references(model: Model, frames: Sequence[Frame]) -> None:
    """Add to the energy of each species what the training energies lack, in the mean."""
    labelled = [frame for frame in frames if frame.energy is not None]
    rests = []
    with torch.no_grad():
        for start in range(0, len(labelled), _AT_ONCE):
            some = labelled[start : start + _AT_ONCE]
            batch, _ = collate(some, model.cutoffs)
            energies = zip(some, model(batch).tolist(), strict=True)
            rests += [dataclasses.replace(frame, energy=frame.energy - energy) for frame, energy in energies]
    shift = fit_reference_energies(rests, model.species)
    model.set_references(model.reference_energies + torch.as_tensor(shift), float(model.scale))
