"""From what a potential predicts for a batch to what ASE expects of one structure: float64 NumPy, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from ase.stress import full_3x3_to_voigt_6_stress

from phl_ase.errors import NonFiniteError
from phl_ase.structures import Frame, Predictions
from phl_ase.structures.label import label_of

Array = np.ndarray


def has_volume(frame: Frame) -> bool:
    """Return whether a frame has a cell of three independent lattice vectors."""
    return bool(abs(np.linalg.det(frame.cell)) > 1e-10)


def require_volume(frames: Sequence[Frame], names: Sequence[str]) -> None:
    """Refuse the stress of a structure without a volume, as ASE does."""
    for frame, name in zip(frames, names, strict=True):
        if not has_volume(frame):
            raise PropertyNotImplementedError(
                f"{name} has no stress: its cell {frame.cell.tolist()} has no volume; expected three lattice vectors"
            )


def to_numpy(tensor: torch.Tensor) -> Array:
    """Return a float64 array."""
    return tensor.detach().to(device="cpu", dtype=torch.float64).numpy()


def stacked(predictions: Sequence[Predictions], name: str) -> Array:
    """Return a quantity of every member of a committee, the members first."""
    return np.stack([to_numpy(getattr(prediction, name)) for prediction in predictions])


def part_of(name: str, table: Array, system: int, atoms: slice) -> Any:
    """Return the part of one system of a batch, in the shape that ASE gives it.

    Args:
        name: A quantity, or its spread.
        table: That of the whole batch, in the shape of ``Predictions``.
        system: The system's place in the batch.
        atoms: Its atoms in the batch.
    """
    label = label_of(name.removesuffix("_std"))
    if name == "stress":
        return full_3x3_to_voigt_6_stress(table[system])
    if label.per == "atom":
        return table[atoms].copy()
    if label.per == "system":
        return table[system].copy() if label.shape else float(table[system])
    side, _ = label.shape_for(atoms.stop - atoms.start)
    return table[system, :side, :side].copy()


def finite(value: Any, what: str, name: str) -> Any:
    """Return a value that is finite.

    Args:
        value: A number or an array.
        what: The quantity.
        name: The structure.

    Raises:
        NonFiniteError: For NaN or infinity.
    """
    if not np.all(np.isfinite(value)):
        raise NonFiniteError(
            f"{name}: the model gave {what} with NaN or infinity; expected finite numbers: the structure may be far "
            "from what the model was trained on (or try dtype='float64')"
        )
    return value
