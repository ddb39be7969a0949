"""One reaction: the results of its stages, its structures, and the folder of its log and calculations.

The results of stages are in the store of the work folder (:mod:`phl_ase.jobs`). Every molecule and method has a folder
beside: ``labels.jsonl`` holds every gradient and Hessian (:mod:`phl_ase.reactions.memory`), ``log.txt`` is for a
chemist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms

from phl_ase.jobs import Failure
from phl_ase.reactions.guesses import ReactionGuess
from phl_ase.types import ASECalculator

StageRecord = dict[str, Any]

STAGES = ("ts", "path", "samples", "labels")
"""The stages of a reaction, in order; each needs those before it."""

LOG = "log.txt"


@dataclass(frozen=True, eq=False)
class ReactionFolder:
    """One reaction, what its stages found, and where its files are.

    Attributes:
        guess: What it is built from.
        path: Its folder.
        records: Stage -> what became of it, of those that were done.
        failure: Why a stage could not be done, and those after it; ``None`` where none failed so.
    """

    guess: ReactionGuess
    path: Path
    records: Mapping[str, StageRecord] = field(default_factory=dict)
    failure: Failure | None = None

    @property
    def name(self) -> str:
        """Name of the reaction."""
        return self.guess.name

    def frames(self) -> list[StageRecord]:
        """Return the structures of all finished stages: along the path, then the samples."""
        known = {stage: self.records.get(stage, {}).get("frames", []) for stage in STAGES}
        on_path = sorted([*known["ts"], *known["path"]], key=lambda frame: frame["irc_s"])
        return [*on_path, *known["samples"]]

    def stationary(self) -> dict[str, StageRecord]:
        """Return the transition state and the minima that were found, by kind."""
        return {frame["kind"]: frame for frame in self.frames() if frame["kind"] in ("ts", "reactant", "product")}

    def atoms(self, positions: Any, calculator: ASECalculator | None = None) -> Atoms:
        """Return the molecule at positions."""
        atoms = self.guess.atoms
        atoms.positions[:] = positions
        atoms.calc = calculator
        return atoms
