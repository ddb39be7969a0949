"""Figures of validators' reports: each draws from ``Report.arrays`` and ``Report.metrics`` alone.

One module for each validator and one line in ``FIGURES``; ``style`` holds what they share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from phl_ase.plots import accuracy, funnel, irc, phonons, reliability, spectra
from phl_ase.results import Report

FIGURES: Mapping[str, Callable[[Sequence[Report]], Any]] = {
    "accuracy": accuracy.draw,
    "frequencies": spectra.draw,
    "transition state": funnel.draw,
    "irc": irc.draw,
    "phonons": phonons.draw,
    "uncertainty": reliability.draw,
}
"""Validator -> what draws its reports: ``draw(reports)`` to a matplotlib ``Figure``."""
