"""Outcome of a reaction: in a few numbers for a table, and as a log that a chemist can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from phl_ase.files import write_atomic
from phl_ase.reactions.folder import LOG, STAGES, ReactionFolder, StageRecord
from phl_ase.reactions.memory import Memory
from phl_ase.units import convert

BUILD_OUTCOMES: Mapping[str, str] = {
    "finished": "its transition state, path, minima, samples and labels are there",
    "no transition state": "no Sella strategy led to a structure with one imaginary mode",
    "minimum": "the guess is a minimum",
    "refused": "the method cannot treat the structure",
    "no path": "the path does not lead both ways to minima",
    "same end": "both directions of the path reach the same structure",
    "other ends": "the path does not connect the reactant and the product that were given",
    "radicals": "the path ends in a pair of radicals: nothing of it is kept but the transition state",
    "incomplete": "some samples or labels are missing",
    "died": "the process that worked on it ended, twice: a crash of compiled code, or out of memory",
    "time limit": "a stage took longer than was allowed",
    "defect": "phl_ase has a defect; please report it with the traceback",
    "unfinished": "it was stopped",
}
"""Outcome of a reaction -> what it means."""

_PATHS = (
    "same end",
    "other ends",
    "radicals",
    "refused",
)  # outcomes of the path that are those of the reaction; else "no path"


@dataclass(frozen=True)
class ReactionResult:
    """Outcome of one reaction.

    Attributes:
        name: Of the reaction.
        atoms: Number of atoms.
        outcome: A name in ``BUILD_OUTCOMES``.
        sentence: Why it is not finished; empty where it is.
        imaginary: Wavenumber of the imaginary mode of the TS, cm⁻¹, negative; ``None`` without a TS.
        barriers: E(TS) − E(reactant) and − E(product), eV; ``None`` where either is not known.
        frames: Number of structures.
        gradients: Gradients computed for all of it, in this and earlier runs.
        hessians: Hessians of the method's own, likewise.
        seconds: Time that these took.
        log: The file that says more.
    """

    name: str
    atoms: int
    outcome: str
    sentence: str = ""
    imaginary: float | None = None
    barriers: tuple[float | None, float | None] = (None, None)
    frames: int = 0
    gradients: int = 0
    hessians: int = 0
    seconds: float = 0.0
    log: str = ""

    @property
    def is_finished(self) -> bool:
        """Return whether everything is there."""
        return self.outcome == "finished"

    @property
    def barriers_kcal(self) -> tuple[float | None, float | None]:
        """The barriers in kcal/mol."""
        forward, back = (None if value is None else convert(value, "eV", "kcal/mol") for value in self.barriers)
        return forward, back


def result_of(folder: ReactionFolder, memory: Memory) -> ReactionResult:
    """Return what became of a reaction.

    Args:
        folder: The reaction.
        memory: Its calculations.
    """
    outcome, sentence = _verdict(folder)
    stationary = folder.stationary()
    return ReactionResult(
        name=folder.name,
        atoms=len(folder.guess.structures[0]),
        outcome=outcome,
        sentence=sentence,
        imaginary=float(stationary["ts"]["wavenumbers"][0]) if "ts" in stationary else None,
        barriers=_barriers(stationary),
        frames=len(folder.frames()),
        gradients=memory.count("energy"),
        hessians=memory.count("hessian"),
        seconds=memory.seconds,
        log=str(folder.path / LOG),
    )


def _verdict(folder: ReactionFolder) -> tuple[str, str]:
    failure, records = folder.failure, folder.records
    if failure is not None:
        found = failure.outcome if failure.outcome in BUILD_OUTCOMES else "no transition state"
        return found, failure.reason
    if len(records) < len(STAGES):
        return "unfinished", BUILD_OUTCOMES["unfinished"]
    path = records["path"]
    if path["outcome"] != "converged":
        return path["outcome"] if path["outcome"] in _PATHS else "no path", path["sentence"]
    missing = [
        f"{stage}: {record['sentence']}" for stage, record in records.items() if record["outcome"] != "converged"
    ]
    return ("incomplete", "; ".join(missing)) if missing else ("finished", "")


def _barriers(stationary: Mapping[str, StageRecord]) -> tuple[float | None, float | None]:
    def above(kind: str) -> float | None:
        known = "ts" in stationary and kind in stationary
        return stationary["ts"]["energy"] - stationary[kind]["energy"] if known else None

    return above("reactant"), above("product")


def write_log(folder: ReactionFolder, about: Mapping[str, Any]) -> None:
    """Write the log of what the records say: a run that is repeated writes it anew.

    Raises:
        PHLError: When it cannot be written.
    """
    identity = folder.guess.identity
    formula = folder.guess.structures[0].get_chemical_formula()
    lines = [
        " — ".join(filter(None, (folder.name, folder.guess.description))),
        f"{formula}, charge {identity['charge']}, multiplicity {identity['multiplicity']}; {about['level_of_theory']}",
    ]
    for stage, title in _TITLES.items():
        record = folder.records.get(stage)
        if record is not None:
            date = record.get("provenance", {}).get("date", "")
            lines += ["", f"{title}: {record['outcome']}{f' ({date})' if date else ''}", f"  {record['sentence']}"]
            lines += [f"  {line}" for line in _DETAILS[stage](folder, record)]
            computed = [f"{count} {kind}" for kind, count in record.get("computed", {}).items() if count]
            seconds, what = record.get("seconds", 0.0), ", ".join(computed) or "nothing"
            lines.append(f"  cost: {seconds:.1f} s; computed anew: {what}")
    if folder.failure is not None:
        title = next(title for stage, title in _TITLES.items() if stage not in folder.records)
        lines += ["", f"{title}: {folder.failure.outcome}", f"  {folder.failure.reason}"]
    write_atomic(folder.path / LOG, ("\n".join(lines) + "\n").encode())


def _of_ts(folder: ReactionFolder, record: StageRecord) -> list[str]:
    lines = []
    for frame in record["frames"]:
        waves = ", ".join(f"{abs(wave):.0f}{'i' if wave < 0 else ''}" for wave in frame["wavenumbers"][:4])
        lines += [f"energy {frame['energy']:.6f} eV; lowest modes {waves} cm⁻¹"]
    return lines


def _of_path(folder: ReactionFolder, record: StageRecord) -> list[str]:
    stationary, lines = folder.stationary(), []
    for kind, barrier in zip(("reactant", "product"), _barriers(stationary), strict=True):
        if barrier is None:
            lines.append(f"{kind}: none")
            continue
        frame = stationary[kind]
        lines.append(
            f"{kind}: energy {frame['energy']:.6f} eV, barrier {barrier:.4f} eV = "
            f"{convert(barrier, 'eV', 'kcal/mol'):.2f} kcal/mol, lowest mode {frame['wavenumbers'][0]:.0f} cm⁻¹, "
            f"{frame.get('fragments', 1)} molecule(s), path ends at {frame['irc_s']:.2f} √amu·Å"
        )
    kept = sum(frame["kind"] == "irc" for frame in record["frames"])
    return [*lines, f"points kept: {kept} of {len(record.get('arc_length', ()))}"]


def _of_failures(folder: ReactionFolder, record: StageRecord) -> list[str]:
    failures = record.get("failures") or []
    lines = [f"frame {place}, {reason}" for place, reason in failures.items()] if isinstance(failures, dict) else []
    return lines or [f"drawn again: {reason}" for reason in failures]


_TITLES = {
    "ts": "transition state",
    "path": "path",
    "samples": "normal-mode samples",
    "labels": "labels",
}
_DETAILS: Mapping[str, Callable[[ReactionFolder, StageRecord], list[str]]] = {
    "ts": _of_ts,
    "path": _of_path,
    "samples": _of_failures,
    "labels": _of_failures,
}
