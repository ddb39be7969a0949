"""Parts of a run: frames of each part of the split, device, model, and the loss terms of its labels and scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from ase.data import chemical_symbols

from phl_ase.adapters import is_foreign
from phl_ase.datasets import BaseDataset, open_dataset, split
from phl_ase.errors import PHLError
from phl_ase.objective import TERMS, check_regime, scheme
from phl_ase.potentials.model import Model
from phl_ase.potentials.references import fit_reference_energies, fit_scale, species_of
from phl_ase.potentials.registry import build_model
from phl_ase.probes import check_family
from phl_ase.structures import Frame
from phl_ase.training.config import TrainConfig
from phl_ase.training.pretrained import pretrained_model
from phl_ase.training.replay import load_replay


@dataclass(frozen=True)
class RunData:
    """Frames of a run.

    Attributes:
        train: Frames to learn from.
        valid: Frames to choose the model by.
        test: Frames to judge it by; not looked at in training.
        split: How they were divided, as recorded beside the run.
        provenance: Level of theory, energy reference, name and hash of the data set; under ``replay`` those of the
            data to replay.
        replay: Frames of what the model to start from has learnt before, to take along.
        replay_valid: Frames of it that tell how much has been forgotten; they do not choose the model.
    """

    train: Sequence[Frame]
    valid: Sequence[Frame]
    test: Sequence[Frame] = ()
    split: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    replay: Sequence[Frame] = ()
    replay_valid: Sequence[Frame] = ()

    @property
    def content(self) -> str | None:
        """Identity of these data, those to replay included; ``None`` where nothing is known of them."""
        hashes = [part.get("data_hash") for part in (self.provenance, self.provenance.get("replay", {}))]
        return " + ".join(known) if (known := [one for one in hashes if one]) else None


def prepare_data(config: TrainConfig, dataset: BaseDataset | None = None) -> RunData:
    """Open, split and load the data of a configuration.

    Args:
        config: The run's configuration.
        dataset: An open data set instead of the one that the configuration names.

    Raises:
        PHLError: For data that cannot be read or whose labels seem to stand under keys that nobody named, or a part of
            the split that is empty.
    """
    data = config.data
    opened = dataset if dataset is not None else open_dataset(data.source, keys=data.keys or None)
    weighted = [name for name, weight in config.loss.weights().items() if weight > 0 and name != "curvature"]
    absent = [name for name in weighted if not opened.coverage[TERMS[name].label].any()]
    if absent and opened.keys_not_read:
        raise PHLError(
            f"no frame of {opened.name} has a known key for {absent[0]}; keys that were not read: "
            f'{", ".join(opened.keys_not_read)}; say which it is with data.keys ({absent[0]} = "its key"; '
            f"phl data import --key for HDF5), or set loss.{absent[0]} = 0"
        )
    parts = split(opened, data.split, data.split_seed, fractions=data.fractions)
    largest = data.max_atoms or max(opened.sizes)
    frames = {
        part: opened.frames([i for i in getattr(parts, part) if opened.sizes[i] <= largest])
        for part in ("train", "valid", "test")
    }
    for part in ("train", "valid"):
        if not frames[part]:
            raise PHLError(f"the {data.split} split of {opened.name} leaves nothing to {part} with")
    provenance = {
        "data": opened.name,
        "data_hash": opened.content_hash(),
        "level_of_theory": opened.meta.level_of_theory,
        "energy_reference": opened.meta.energy_reference,
        "training_frames": len(frames["train"]),
    }
    replay, replay_valid, card = load_replay(config, opened, held_out=len(frames["valid"]))
    if card:
        provenance["replay"] = card
    return RunData(frames["train"], frames["valid"], frames["test"], parts.to_json(), provenance, replay, replay_valid)


def curvature_family(config: TrainConfig, frames: Sequence[Frame]) -> str | None:
    """Return the probe family of a run, ``None`` where curvature is not supervised.

    Raises:
        PHLError: For an unknown scheme, regime or family, more probes than exist, or data without curvature labels.
    """
    settings = config.scheme
    check_regime(settings.regime)
    family = settings.probes or scheme(settings.name).probes
    if scheme(settings.name).probes is None or family is None:
        return None
    learnt = config.loss.energy > 0 and config.loss.forces > 0
    if learnt and all(f.energy is None and f.forces is None for f in frames):
        raise PHLError(
            "no training frame carries energies or forces; 'phl label' makes them, or data.keys names the keys that "
            "they are under ('phl data info' lists what a file holds)"
        )
    drawn = [f for f in frames if f.hessian is not None]
    known = check_family(family, settings.n_probes, min((len(f) for f in drawn), default=settings.n_probes))
    if not drawn and all(f.probes is None for f in frames):
        raise PHLError(
            f"scheme {settings.name} learns curvature, but no training frame carries a Hessian or Hessian-vector "
            "HVPs; use the scheme E-F, or label the data with them"
        )
    most = 3 * max((len(f) for f in drawn), default=settings.n_probes)
    if not known.complete and settings.n_probes > most:
        raise PHLError(
            f"scheme.n_probes is {settings.n_probes}, but {most} directions carry all curvature of the largest frame; "
            'use fewer (1 is often enough), or scheme.name = "E-F-H"'
        )
    if known.complete and not drawn:
        raise PHLError(
            f"scheme {settings.name} learns whole Hessians, but the training frames carry recorded Hessian-vector "
            "HVPs alone; use the scheme E-F-HVP-random, which learns these"
        )
    return family


def recorded_probes(config: TrainConfig, frames: Sequence[Frame]) -> str:
    """Return what to say where all curvature is recorded HVPs; empty where these are what was asked for.

    Nothing else is known of the curvature of such frames, so their probes are those of the file in every epoch,
    whatever family, number and regime a configuration names.
    """
    counts = {len(frame.probes) for frame in frames if frame.hessian is None and frame.probes is not None}
    if not counts or any(frame.hessian is not None for frame in frames):
        return ""
    if config.scheme.regime == "fixed" and max(counts) == config.scheme.n_probes:
        return ""
    least, most = min(counts), max(counts)
    count = f"{least} recorded HVP{'s' if most > 1 else ''}" if least == most else f"{least} to {most} recorded HVPs"
    return (
        f"frames carry {count} each and no Hessian: these are learnt as recorded in every epoch "
        '(scheme.regime = "fixed"), whatever the scheme says'
    )


def term_weights(config: TrainConfig, frames: Sequence[Frame]) -> dict[str, float]:
    """Weights of the terms that a run pays for.

    Raises:
        PHLError: When a weighted term has no label on any frame, or no term is left.
    """
    weights = {name: weight for name, weight in config.loss.weights().items() if weight > 0}
    if scheme(config.scheme.name).probes is None:
        weights.pop("curvature", None)
    for name in weights:
        if name != "curvature" and all(f.label(TERMS[name].label) is None for f in frames):
            label = TERMS[name].label
            raise PHLError(f"loss.{name} is {weights[name]}, but no training frame carries {label}; set it to 0")
    if not weights:
        raise PHLError("every loss weight is 0: there is nothing to learn")
    return weights


def check_species(model: Model, data: RunData) -> None:
    """Check that a model knows every species of the frames that will choose it.

    Raises:
        PHLError: Naming the species that no training frame holds.
    """
    strange = sorted(
        {chemical_symbols[z] for z in species_of([*data.valid, *data.replay_valid]) if z not in model.species}
    )
    if strange:
        raise PHLError(
            f"validation frames hold {', '.join(strange)}, which no training frame holds; choose another split or seed"
        )


def check_replay(config: TrainConfig, data: RunData) -> None:
    """Check that a run that is to replay frames can.

    Raises:
        PHLError: Where no model to start from, or no frames to replay, are there.
    """
    if data.replay and config.potential.start is None:
        raise PHLError(
            "frames are replayed to keep what a model to start from has learnt, but potential.from names none; "
            "name one, or merge the data sets and leave replay.source out"
        )
    if config.replay.source is not None and not data.replay:
        raise PHLError(
            f"replay.source is {config.replay.source!r}, but the run was given no frames of it; "
            "leave it out, or prepare the data with prepare_data"
        )


def new_model(config: TrainConfig, frames: Sequence[Frame], replay: Sequence[Frame] = ()) -> Model:
    """Return the model that a run begins with, its reference energies fitted to the training frames.

    Untrained, its scale fitted as well; or the trained model that the configuration names, with its scale. Frames to
    replay take part in the fit where they are of the same level of theory as the others.

    Raises:
        PHLError: For unknown settings, a model to start from that does not fit, or charges that it does not take.
    """
    charged = [f for f in (*frames, *replay) if f.charge != 0]
    settings = config.potential
    if settings.start is not None:
        model = pretrained_model(settings, frames, replay, mixed=config.replay.mixed)
        if is_foreign(settings.start) and config.training.dtype != "float64":
            raise PHLError(
                f"training.dtype is {config.training.dtype}, but {settings.start} adds energies of keV in the dtype of "
                "its weights; set training.dtype = 'float64'"
            )
    else:
        generator = torch.Generator("cpu").manual_seed(config.training.seed)
        species = species_of(frames)
        model = build_model(settings.architecture, {**settings.settings(), "species": species}, generator)
        references = fit_reference_energies(frames, species)
        model.set_references(torch.from_numpy(references), fit_scale(frames, references, species))
    if charged and not model.takes_charge:
        raise PHLError(
            f"{len(charged)} training frames are charged (first: frame {charged[0].frame_id}, "
            f"charge {charged[0].charge:+d}), but {settings.architecture} does not take charge; leave them out"
        )
    return model
