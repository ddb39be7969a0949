"""Settings of a reaction beside the method: every choice that its structures depend on, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from phl_ase.errors import PHLError, unknown
from phl_ase.paths import GUESSES, INTEGRATORS, LADDERS, STRATEGIES
from phl_ase.paths.strategies import StrategyInCoordinates

COORDINATES: Mapping[str, bool | None] = {"": None, "internal": True, "cartesian": False}
"""Suffix of the name of a strategy -> whether coordinates are internal."""

# cm⁻¹: softer modes are sampled as if they were this stiff; a straight line is no torsion
SOFTEST_SAMPLED = 250.0

SAMPLE_TEMPERATURES = (300.0, 600.0, 900.0, 1200.0, 1600.0, 2000.0)
"""K: from a molecule at rest to the heat of a reaction just behind its barrier."""

OF_SEARCH = ("strategies", "guess", "ts_fmax", "ts_steps")
OF_PATH = ("irc_method", "irc_step", "irc_fmax", "irc_max_points", "relax_fmax", "relax_steps")
OF_SAMPLES = ("temperatures", "samples", "softest", "seed", "displacements")
"""Settings that the search, the path and the samples depend on, beside ``irc_points``."""

_POSITIVE = ("ts_fmax", "ts_steps", "irc_step", "irc_fmax", "irc_max_points", "relax_fmax", "relax_steps", "softest")


@dataclass(frozen=True)
class ReactionSettings:
    """Settings by which the structures of reactions are found.

    Attributes:
        strategies: Sella strategies, tried in this order; empty for the ladder of where curvature comes from.
        guess: One of ``phl_ase.paths.GUESSES``: the path between reactant and product.
        ts_fmax: Threshold for the largest force on an atom of a TS, eV/Å.
        ts_steps: Most steps of a search.
        irc_method: Key of ``phl_ase.paths.INTEGRATORS``.
        irc_step: Length of a step on the path, √amu·Å.
        irc_fmax: Where the path ends, eV/Å.
        irc_max_points: Most points on a side.
        irc_points: Points of either side of the path that are kept, equally spaced in arc length.
        relax_fmax: Threshold of relaxed ends, eV/Å.
        relax_steps: Most steps of a relaxation.
        temperatures: Of normal-mode samples, K.
        samples: Samples around each stationary point at each temperature, and at each displacement around the TS.
        softest: Softer modes are sampled as if they were this stiff, cm⁻¹.
        seed: Of the samples.
        displacements: Of structures around the TS whose atoms are moved at random, all directions alike, Å rms; for
            models that searches from rough guesses are to run on.

    Raises:
        PHLError: For an unknown name, or a number that cannot be.
    """

    strategies: tuple[StrategyInCoordinates, ...] = ()
    guess: str = "auto"
    ts_fmax: float = 0.005
    ts_steps: int = 60
    irc_method: str = "sella"
    irc_step: float = 0.1
    irc_fmax: float = 0.01
    irc_max_points: int = 300
    irc_points: int = 6
    relax_fmax: float = 1e-3
    relax_steps: int = 300
    temperatures: tuple[float, ...] = SAMPLE_TEMPERATURES
    samples: int = 1
    softest: float = SOFTEST_SAMPLED
    seed: int = 0
    displacements: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, _ in self.strategies:
            if name not in STRATEGIES:
                raise unknown("Sella strategy", name, STRATEGIES)
        if self.guess not in GUESSES:
            raise unknown("way to guess a path", self.guess, GUESSES)
        if self.irc_method not in INTEGRATORS:
            raise unknown("integrator of reaction paths", self.irc_method, INTEGRATORS)
        for name in _POSITIVE:
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise PHLError(f"{name} is {value!r}; expected a positive number")
        for name in ("irc_points", "samples", "seed"):
            if getattr(self, name) < 0:
                raise PHLError(f"{name} is {getattr(self, name)}; expected 0 or more")
        for name, unit in (("temperatures", "K"), ("displacements", "Å")):
            values = getattr(self, name)
            if not all(np.isfinite(value) and value > 0 for value in values):
                raise PHLError(f"{name} are {list(values)}; expected positive numbers in {unit}")
            if len(set(values)) < len(values):
                raise PHLError(f"{name} are {list(values)}; expected each once: samples says how many")

    def ladder(self, source: str) -> tuple[StrategyInCoordinates, ...]:
        """Return the strategies that are tried where curvature comes from a source (``Curvature.source``)."""
        return self.strategies or LADDERS[source]

    @property
    def description(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        return dataclasses.asdict(self)


def read_strategy(text: str) -> StrategyInCoordinates:
    """Return a strategy as a user writes it: ``hessian-3``, ``gradients:cartesian``.

    Raises:
        PHLError: For an unknown strategy or kind of coordinates.
    """
    name, _, coordinates = text.partition(":")
    if name not in STRATEGIES:
        raise unknown("Sella strategy", name, STRATEGIES)
    if coordinates not in COORDINATES:
        raise unknown("kind of coordinates", coordinates, filter(None, COORDINATES))
    return name, COORDINATES[coordinates]
