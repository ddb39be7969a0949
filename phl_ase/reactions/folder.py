"""The folder of one reaction: what identifies it, a record of every finished stage, a log for a chemist, a lock.

``reaction.json`` says what is computed and how; ``<stage>.json`` what became of a stage; ``labels.jsonl`` holds every
gradient and Hessian (:mod:`phl_ase.reactions.memory`); ``log.txt`` is made of the records. Everything but the lines of
``labels.jsonl`` is written by atomic replace.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from phl_ase.errors import PHLError
from phl_ase.files import held, write_atomic
from phl_ase.reactions.guesses import ReactionGuess
from phl_ase.reactions.memory import LABELS
from phl_ase.reactions.settings import OF_SAMPLES, ReactionSettings
from phl_ase.results import plain

Record = dict[str, Any]

STAGES = ("ts", "path", "samples", "labels")
"""The stages of a reaction, in order; each needs the first, and those before it done."""

REACTION, LOG, LOCK = "reaction.json", "log.txt", ".lock"


@dataclass(frozen=True, eq=False)
class ReactionFolder:
    """One reaction and where its files are.

    Attributes:
        guess: What it is built from.
        path: The folder.
    """

    guess: ReactionGuess
    path: Path

    @property
    def name(self) -> str:
        """Name of the reaction."""
        return self.guess.name

    def record(self, stage: str) -> Record | None:
        """What became of a stage; ``None`` where it was not done.

        Raises:
            PHLError: For a file that holds something else.
        """
        return _read(self.path / f"{stage}.json")

    def write(self, stage: str, record: Mapping[str, Any]) -> None:
        """Keep what became of a stage.

        Raises:
            PHLError: When it cannot be written.
        """
        write_atomic(self.path / f"{stage}.json", json.dumps(plain(record), indent=1, ensure_ascii=False).encode())

    def forget(self, stages: Sequence[str]) -> None:
        """Delete the records of stages; what they have computed stays."""
        for stage in stages:
            (self.path / f"{stage}.json").unlink(missing_ok=True)

    def frames(self) -> list[Record]:
        """The structures of all finished stages: along the path, then the samples."""
        known = {stage: (self.record(stage) or {}).get("frames", []) for stage in STAGES}
        on_path = sorted([*known["ts"], *known["path"]], key=lambda frame: frame["irc_s"])
        return [*on_path, *known["samples"]]

    def stationary(self) -> dict[str, Record]:
        """The transition state and the minima that were found, by kind."""
        return {frame["kind"]: frame for frame in self.frames() if frame["kind"] in ("ts", "reactant", "product")}

    def atoms(self, positions: Any, calculator: Any = None) -> Atoms:
        """The molecule at positions."""
        atoms = self.guess.atoms
        atoms.positions[:] = positions
        atoms.calc = calculator
        return atoms

    def locked(self) -> AbstractContextManager[bool]:
        """Whether the reaction is this process's alone meanwhile.

        Raises:
            PHLError: When the folder cannot be written.
        """
        return held(self.path, LOCK, "work folder")

    def check(self, about: Mapping[str, Any]) -> None:
        """Refuse a folder whose finished work is another's.

        Args:
            about: What :func:`describe` gives.

        Raises:
            PHLError: Where a finished stage was made of another molecule, by another method or with other settings;
                those that only samples depend on may change.
        """
        if not (self.record("ts") or {}).get("frames"):
            return  # nothing that is worth keeping
        changed = [name for name in self._changed(about) if name not in OF_SAMPLES]
        if changed:
            raise PHLError(
                f"{self.path} holds {self.name} with another {', '.join(changed)}; repeat the command that made it, "
                "choose another work folder, or delete this one"
            )

    def open(self, about: Mapping[str, Any]) -> None:
        """Take possession of the folder, which is locked: a failed search of another guess or method is forgotten.

        Samples that were drawn with other settings are, too; what was computed for them is remembered.

        Raises:
            PHLError: As :meth:`check`, or when it cannot be written.
        """
        self.check(about)
        changed = set(self._changed(about))
        if changed and changed <= {*OF_SAMPLES}:
            self.forget(STAGES[STAGES.index("samples") :])
        elif changed:
            # first, so that a kill leaves no calculations of another method behind
            for file in (LABELS, *(f"{stage}.json" for stage in STAGES), LOG):
                (self.path / file).unlink(missing_ok=True)
        write_atomic(self.path / REACTION, json.dumps(plain(about), indent=1, ensure_ascii=False).encode())

    def _changed(self, about: Mapping[str, Any]) -> list[str]:
        """Names of what is wanted otherwise than recorded, settings one by one."""
        recorded, wanted = self._recorded() or {}, plain(about)
        changed = sorted(name for name in {*wanted, *recorded} if recorded.get(name) != wanted.get(name))
        if "settings" in changed:
            changed.remove("settings")
            ours, theirs = wanted["settings"], recorded.get("settings") or {}
            changed += [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        return changed

    def _recorded(self) -> Record | None:
        """What the folder says that it holds; ``None`` where it does not say."""
        recorded = _read(self.path / REACTION)
        settings = (recorded or {}).get("settings") or {}
        if "ways" in settings:  # how the Sella strategies were called before
            settings["strategies"] = settings.pop("ways")
        return recorded


def describe(guess: ReactionGuess, method: Mapping[str, Any], settings: ReactionSettings) -> Record:
    """What the structures of a reaction depend on, as JSON holds it.

    Args:
        guess: What it is built from.
        method: Name, settings and level of theory of the method.
        settings: How it is built.
    """
    positions = [np.round(atoms.positions, 8) for atoms in guess.structures]
    return {"reaction": guess.name, **guess.identity, "guess": positions, **method, "settings": settings.description}


def _read(path: Path) -> Record | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict):
        raise PHLError(f"{path} is damaged; delete it: what it says is found again from {LABELS}")
    return record
