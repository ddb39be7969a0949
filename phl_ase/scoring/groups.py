"""Groups of frames: regions and kinds of geometry, intervals of displacement, temperatures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from phl_ase.scoring.frames import LabelledStructure
from phl_ase.types import Array

STATIONARY = ("reactant", "product", "ts", "minimum")
"""Kinds of geometry that are stationary points."""

MILD = 600.0
"""Samples up to this temperature (K) count as near the stationary points."""

_SAMPLED = ("nms", "md")
_OFF_STATIONARY = ("irc", "displaced")
_MOST_TEMPERATURES = 10


def _stationary(frame: LabelledStructure) -> bool:
    return frame.kind in STATIONARY


def _mild(frame: LabelledStructure) -> bool:
    return not _on_path(frame) and frame.temperature is not None and frame.temperature <= MILD


def _hot(frame: LabelledStructure) -> bool:
    sampled = frame.temperature is not None or frame.kind in _SAMPLED
    return sampled and not _on_path(frame) and not _mild(frame)


def _on_path(frame: LabelledStructure) -> bool:
    return frame.kind == "irc" or _stationary(frame)


REGIONS: dict[str, Callable[[LabelledStructure], bool]] = {
    "all": lambda frame: True,
    "near": lambda frame: _stationary(frame) or _mild(frame),
    "far": lambda frame: frame.kind in _OFF_STATIONARY or _hot(frame),
    "stationary": _stationary,
    "mild": _mild,
    "hot": _hot,
}
"""Region -> whether a frame belongs to it. Near are stationary points and mild samples, up to ``MILD``; far are points
on reaction paths, structures displaced at random, and hot samples, those of unknown temperature among them."""


def geometries(frames: Sequence[LabelledStructure]) -> dict[str, Array]:
    """Regions and kinds of geometry that the frames have.

    Returns:
        Region or kind → which frames belong to it ``(frames,)`` bool; a kind that has a region's name as ``kind NAME``.
    """
    kinds = sorted({frame.kind for frame in frames if frame.kind})
    groups = {name: np.array([member(f) for f in frames], dtype=bool) for name, member in REGIONS.items()}
    for kind in kinds:
        groups[f"kind {kind}" if kind in REGIONS else kind] = np.array([f.kind == kind for f in frames])
    return {name: chosen for name, chosen in groups.items() if chosen.any()}


def mean_errors(frames: Sequence[LabelledStructure], errors: Mapping[str, Array]) -> dict[str, dict[str, float]]:
    """Mean errors of every region and kind of geometry.

    Frames count alike, whatever their size; an error that is not finite is left out.

    Returns:
        Region or kind → error name → mean; ``"frames"`` is their number. Groups without frames are left out.
    """
    means: dict[str, dict[str, float]] = {}
    for name, chosen in geometries(frames).items():
        means[name] = {"frames": int(chosen.sum())}
        for error, values in errors.items():
            present = values[chosen & np.isfinite(values)]
            means[name][error] = float(present.mean()) if len(present) else float("nan")
    return means


def intervals(x: Array, edges: Sequence[float]) -> Array:
    """Return which values lie in which interval.

    Args:
        x: ``(frames,)``, in the unit of ``edges``; NaN lies in none, what is above the last edge in the last.
        edges: Ascending limits of the intervals ``(bins + 1,)``; each holds its lower limit and not its upper one.

    Returns:
        ``(bins, frames)`` bool.
    """
    place = np.where(np.isfinite(x), np.minimum(np.digitize(x, edges), len(edges) - 1) - 1, -1)
    return np.arange(len(edges) - 1)[:, None] == place


def temperature_groups(temperatures: Array) -> Array:
    """Frames of one sampling temperature together, or of intervals with equally many where temperatures are many.

    Args:
        temperatures: ``(frames,)`` K; NaN where unknown.

    Returns:
        ``(groups, frames)`` bool, by ascending temperature; no group where no temperature is known.
    """
    known = temperatures[np.isfinite(temperatures)]
    values = np.unique(known)
    if len(values) > _MOST_TEMPERATURES:
        edges = np.unique(np.quantile(known, np.linspace(0, 1, _MOST_TEMPERATURES + 1)))
        return intervals(temperatures, edges.tolist())
    return values[:, None] == temperatures
