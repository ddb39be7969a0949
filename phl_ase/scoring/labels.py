"""Errors of labels that other packages declare: mean absolute and root mean square, in the unit of the label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


class LabelErrors:
    """Errors of labels that a frame holds in ``extra``, taken up a few frames at a time; frames count alike."""

    def __init__(self) -> None:
        self._errors: dict[str, list[tuple[float, float]]] = {}

    def add(self, frames: Sequence[Any], predictions: Iterable[Mapping[str, Any]]) -> None:
        """Take up frames and what was predicted of them by the labels' names; what one lacks is left out."""
        for frame, row in zip(frames, predictions, strict=True):
            for name, reference in frame.extra.items():
                if row.get(name) is not None:
                    error = np.asarray(row[name], dtype=float) - reference
                    means = float(np.mean(np.abs(error))), float(np.mean(error**2))
                    self._errors.setdefault(name, []).append(means)

    def means(self) -> dict[str, tuple[float, float, int]]:
        """Return mean absolute error, root mean square error and number of frames of each label."""
        means = {name: (*np.mean(errors, axis=0), len(errors)) for name, errors in self._errors.items()}
        return {name: (float(absolute), float(np.sqrt(square)), n) for name, (absolute, square, n) in means.items()}
