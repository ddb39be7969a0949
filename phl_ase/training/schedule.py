"""Learning-rate schedules and the curvature-weight ramp, as functions of progress: nothing to store but a number."""

from __future__ import annotations

import math
from collections.abc import Callable

from phl_ase.training.config import LossSection, TrainingSection

# fraction of the run that is done -> factor between 1 and 0
SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda t: 0.5 * (1.0 + math.cos(math.pi * min(t, 1.0))),
    "plateau": lambda t: 1.0,
    "constant": lambda t: 1.0,
}


def learning_rate(training: TrainingSection, epoch: float, plateau_halvings: int = 0) -> float:
    """Learning rate at a (fractional) epoch: linear warm-up, then the schedule."""
    if epoch < training.warmup_epochs:
        return training.learning_rate * (epoch + 0.1) / (training.warmup_epochs + 0.1)
    span = max(training.epochs - training.warmup_epochs, 1)
    factor = SHAPES[training.schedule]((epoch - training.warmup_epochs) / span)
    floor = min(training.final_learning_rate, training.learning_rate)
    rate = (
        floor + (training.learning_rate - floor) * factor if training.schedule == "cosine" else training.learning_rate
    )
    return max(rate * 0.5**plateau_halvings, floor)


def curvature_weight(loss: LossSection, epoch: float) -> float:
    """Curvature weight at a (fractional) epoch: grows linearly over the ramp, then stays."""
    return loss.curvature * min(1.0, (epoch + 0.1) / loss.curvature_ramp) if loss.curvature_ramp else loss.curvature
