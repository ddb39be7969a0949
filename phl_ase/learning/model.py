"""A model of one reaction for ``PHLCalculator``, trained on the labels and on the surrogate around the path."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from phl_ase.datasets import DatasetMeta, MemoryDataset
from phl_ase.errors import PHLError
from phl_ase.files import write_atomic
from phl_ase.learning.dataset import frames_of
from phl_ase.learning.learned import LearnedReaction
from phl_ase.paths import displaced
from phl_ase.structures import Frame

_ALONG = 12  # points of the path with Hessians
_AROUND = (0.03, 0.08)  # Å rms: displacements beside each, without Hessians
_EPOCHS = 150


def train_model(
    found: LearnedReaction, target: Path, level: str, *, start: str | None = None, epochs: int = _EPOCHS
) -> Path:
    """Train a model on what a run has learnt, and write it.

    The surrogate labels points of the path with Hessians and structures beside them with energies and forces; where
    the reference was asked, its labels are taken.

    Args:
        found: A run that followed a path.
        target: The file, ``.safetensors``.
        level: The reference's level of theory.
        start: A model of ours to start from: a bundled name or a file; by default a new one.
        epochs: Of the training.

    Raises:
        PHLError: For a run without a path.
    """
    if found.reaction is None:
        raise PHLError("no path was followed: there is nothing to train a model on")
    from phl_ase.training import Stopped, parse_config, prepare_data, train

    meta = DatasetMeta(level, "absolute", {"made_by": "phl learn"}, "Forces and Hessians of a surrogate along a path.")
    potential: dict[str, Any] = {} if start is None else {"from": start}
    config = parse_config(
        {
            "data": {"split": "random", "fractions": (0.85, 0.15, 0.0)},
            "potential": potential,
            "training": {"epochs": epochs, "batch_size": 8, "validate_every": 10, "device": "cpu"},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        data = prepare_data(config, MemoryDataset(_frames(found), meta, name="labels of phl learn"))
        try:
            trained = train(config, data, Path(folder) / "run")
        except Stopped:
            raise KeyboardInterrupt("the model was not trained; all else is written") from None
        write_atomic(target, trained.model.read_bytes())
    return target


def _frames(found: LearnedReaction) -> list[Frame]:
    """Return labels of the reference, and of the surrogate along the path and beside it."""
    assert found.reaction is not None
    frames = frames_of(found.store)
    sample = frames[0]
    path = found.reaction.path.structures
    chosen = np.unique(np.linspace(0, len(path) - 1, _ALONG).astype(int))
    points = [path[k] for k in chosen] + [one.atoms for one in (found.ts, *found.ends) if one is not None]

    def labelled(atoms: Atoms, kind: str, *, hessian: bool) -> Frame:
        structure = atoms.copy()
        structure.info = dict(found.store.atoms.info)
        structure.calc = found.calculator
        return replace(
            sample,
            positions=structure.positions.copy(),
            energy=float(structure.get_potential_energy()),
            forces=structure.get_forces(),
            probes=None,
            hvp=None,
            hessian=found.calculator.get_hessian(structure) if hessian else None,
            kind=kind,
        )

    frames = [replace(frame, probes=None, hvp=None) for frame in frames]
    for number, atoms in enumerate(points):
        frames.append(labelled(atoms, "irc", hessian=True))
        frames += [
            labelled(displaced(atoms, rms, 10 * number + k), "displaced", hessian=False)
            for k, rms in enumerate(_AROUND)
        ]
    return frames
