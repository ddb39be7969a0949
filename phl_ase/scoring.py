"""Scores of predictions against reference labels: errors of energy, forces and Hessian by kind of geometry.

Works on plain arrays, whatever made them; imports no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Frame(Protocol):
    """What is read of a labelled structure; ``phl_ase.structures.Frame``, which would bring torch, offers it.

    Attributes:
        numbers: Atomic numbers ``(n,)``.
        positions: ``(n, 3)`` Å.
        kind: reactant, product, ts, irc, nms, …; empty when unknown.
        reaction: Name of the reaction; empty when unknown.
        temperature: Sampling temperature, K.
    """

    @property
    def numbers(self) -> Any: ...  # noqa: D102 - described above, as the next ones
    @property
    def positions(self) -> Any: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def reaction(self) -> str: ...  # noqa: D102
    @property
    def temperature(self) -> float | None: ...  # noqa: D102
    def __len__(self) -> int: ...


MILD = 600.0
"""Normal-mode samples up to this temperature (K) count as near the stationary points."""


@dataclass(frozen=True)
class ErrorKind:
    """One error of a frame.

    Attributes:
        label: The label it compares.
        unit: Unit of the error.
        scale: From eV, Å to the unit.
        error: Mean absolute error of one frame from (prediction, reference, atoms).
    """

    label: str
    unit: str
    scale: float
    error: Callable[[Any, Any, int], float]


ERRORS: dict[str, ErrorKind] = {
    "energy": ErrorKind("energy", "meV/atom", 1e3, lambda p, r, n: abs(p - r) / n),
    "forces": ErrorKind("forces", "meV/Å", 1e3, lambda p, r, n: float(np.mean(np.abs(p - r)))),
    "hessian": ErrorKind("hessian", "eV/Å²", 1.0, lambda p, r, n: float(np.mean(np.abs(p - r)))),
}

# region -> whether a frame belongs to it
REGIONS: dict[str, Callable[[Frame], bool]] = {
    "all": lambda frame: True,
    "near": lambda frame: frame.kind in ("reactant", "product", "ts") or _mild(frame),
    "far": lambda frame: frame.kind == "irc" or (frame.kind == "nms" and not _mild(frame)),
}


def _mild(frame: Frame) -> bool:
    return frame.kind == "nms" and frame.temperature is not None and frame.temperature <= MILD


def frame_errors(frames: Sequence[Frame], predictions: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Mean absolute error of each frame, in the units of ``ERRORS``.

    Args:
        frames: Reference labels.
        predictions: For each frame, the quantities predicted.

    Returns:
        Error name → ``(frames,)``; NaN where a frame or its prediction lacks the quantity.
    """
    errors = {name: np.full(len(frames), np.nan) for name in ERRORS}
    for index, (frame, predicted) in enumerate(zip(frames, predictions, strict=True)):
        for name, kind in ERRORS.items():
            reference = getattr(frame, kind.label)
            if reference is not None and predicted.get(kind.label) is not None:
                errors[name][index] = kind.scale * kind.error(predicted[kind.label], reference, len(frame))
    return errors


def mean_errors(frames: Sequence[Frame], errors: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Mean errors of every region and kind of geometry.

    Frames count alike, whatever their size.

    Returns:
        Region or kind → error name → mean; ``"frames"`` is their number. Groups without frames are left out.
    """
    kinds = sorted({frame.kind for frame in frames if frame.kind})
    groups = {name: np.array([member(f) for f in frames], dtype=bool) for name, member in REGIONS.items()}
    groups |= {kind: np.array([f.kind == kind for f in frames]) for kind in kinds}
    return {
        name: {"frames": int(chosen.sum()), **{e: _mean(values[chosen]) for e, values in errors.items()}}
        for name, chosen in groups.items()
        if chosen.any()
    }


def _mean(values: np.ndarray) -> float:
    present = values[np.isfinite(values)]
    return float(present.mean()) if len(present) else float("nan")


def binned_means(x: np.ndarray, values: np.ndarray, edges: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Means of values over intervals of another quantity, for error against displacement.

    Args:
        x: ``(frames,)``, in the unit of ``edges``.
        values: ``(frames,)``; NaN counts as absent.
        edges: Ascending limits of the intervals ``(bins + 1,)``; each holds its lower limit and not its upper one.

    Returns:
        Mean of each interval ``(bins,)``, NaN where nothing is in it, and the number of values in it ``(bins,)``.
    """
    place = np.digitize(x, edges) - 1
    present = np.isfinite(x) & np.isfinite(values)
    groups = [values[present & (place == index)] for index in range(len(edges) - 1)]
    return np.array([_mean(group) for group in groups]), np.array([len(group) for group in groups])
