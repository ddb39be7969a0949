"""Reactions at a reference's accuracy for a fraction of its gradients: a surrogate is taught while it is searched on.

``store`` buys and keeps the reference's gradients, ``kernel`` learns from them what a starting model lacks,
``surrogate`` is the two together as a calculator, ``loop`` searches on it and has the reference confirm the result,
which ``learned`` describes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from phl_ase.lazy import lazy_exports

if TYPE_CHECKING:
    from phl_ase.learning.kernel import GradientObservations, KernelCorrection
    from phl_ase.learning.learned import LEARNING_OUTCOMES, CheckedPoint, LearnedReaction, LearnOptions, Step
    from phl_ase.learning.loop import learn_reaction
    from phl_ase.learning.starts import make_start, recommended_start
    from phl_ase.learning.store import HVP, Gradient, LabelStore, LearningStopped
    from phl_ase.learning.surrogate import LearnedCalculator

__all__ = [
    "HVP",
    "LEARNING_OUTCOMES",
    "CheckedPoint",
    "Gradient",
    "GradientObservations",
    "KernelCorrection",
    "LabelStore",
    "LearnOptions",
    "LearnedCalculator",
    "LearnedReaction",
    "LearningStopped",
    "Step",
    "learn_reaction",
    "make_start",
    "recommended_start",
]

_HOMES = {
    "kernel": ("KernelCorrection", "GradientObservations"),
    "learned": ("LEARNING_OUTCOMES", "LearnOptions", "LearnedReaction", "CheckedPoint", "Step"),
    "loop": ("learn_reaction",),
    "starts": ("make_start", "recommended_start"),
    "store": ("HVP", "Gradient", "LabelStore", "LearningStopped"),
    "surrogate": ("LearnedCalculator",),
}

__getattr__ = lazy_exports(__name__, _HOMES)
