"""Potentials of a calculator, from names, files, potentials or lists of these; and structures checked against them."""

from __future__ import annotations

import copy
import os
from typing import Any, cast

import numpy as np
import torch
from ase import Atoms

from phl_ase.adapters import is_foreign, load_foreign
from phl_ase.errors import PHLError, unknown
from phl_ase.potentials import Committee
from phl_ase.potentials.model import DTYPES
from phl_ase.potentials.model_file import load_saved
from phl_ase.structures import Frame, Potential, frame_from_atoms, symbols_of


def load_potential(model: Any, dtype: str, device: torch.device, *, trust: bool = False) -> Potential:
    """Return the potential of a model, on a device and in a dtype.

    Args:
        model: A bundled name, a ``.safetensors`` file, a foreign model (``mace:FILE``, …), a potential (modules are
            copied, not changed), or a list of any of these: a committee.
        dtype: Key of ``DTYPES``.
        device: Where to compute.
        trust: Allow a foreign model whose loading runs code from its file.

    Raises:
        PHLError: For an unknown dtype or model, an empty list, or something that is no potential.
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if isinstance(model, (list, tuple)):
        if not model:
            raise PHLError("a committee of no models; expected at least one name, file or potential")
        members = [load_potential(member, dtype, device, trust=trust) for member in model]
        return members[0] if len(members) == 1 else Committee(members).stack()
    if isinstance(model, str) and is_foreign(model):
        return cast(Potential, load_foreign(model, dtype=dtype, device=str(device), trust=trust))
    if isinstance(model, (str, os.PathLike)):
        return cast(Potential, load_saved(os.fspath(model), dtype=DTYPES[dtype], device=str(device)))
    if not isinstance(model, Potential):
        raise PHLError(
            f"model is a {type(model).__name__}; expected a bundled name, a .safetensors file, a potential or a list "
            "of these"
        )
    if isinstance(model, torch.nn.Module):
        moved: Any = copy.deepcopy(model).to(device=device, dtype=DTYPES[dtype]).requires_grad_(False).eval()
        return cast(Potential, moved.stack() if isinstance(moved, Committee) else moved)
    return model


def label_of(model: Any) -> Any:
    """Return the name of a model in a calculator's parameters: plain values, so that trajectories can hold them."""
    if isinstance(model, (list, tuple)):
        return [label_of(member) for member in model]
    return os.fspath(model) if isinstance(model, (str, os.PathLike)) else type(model).__name__


def checked_frame(atoms: Atoms, potential: Potential, name: str) -> Frame:
    """Return the frame of a structure that a potential can answer for.

    Args:
        atoms: The structure.
        potential: Its ``species`` and ``takes_charge`` decide.
        name: How an error names the structure.

    Raises:
        PHLError: For a species that the model never saw, a charge it does not take, no atoms, ….
        NonFiniteError: For NaN or infinite positions or cell.
    """
    frame = frame_from_atoms(atoms, name)
    unseen = sorted(set(np.unique(frame.numbers).tolist()) - set(potential.species)) if potential.species else []
    if unseen:
        raise PHLError(
            f"{name} has {symbols_of(unseen)}, which the model never saw; it knows {symbols_of(potential.species)}: "
            "use or train a model for these elements"
        )
    if frame.charge and not potential.takes_charge:
        raise PHLError(
            f"{name} has charge {frame.charge:+d} in atoms.info, but the model does not take charge; "
            "use a model that does, or set atoms.info['charge'] = 0"
        )
    return frame
