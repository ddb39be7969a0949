"""Finished reactions as one data set: written frame by frame, in one step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phl_ase.datasets import DatasetMeta
from phl_ase.datasets.writer import dataset_writer
from phl_ase.errors import PHLError
from phl_ase.reactions.folder import ReactionFolder
from phl_ase.reactions.frames import frames_of
from phl_ase.reactions.memory import LABEL_FILE, Memory, remembering
from phl_ase.reactions.stages import Plan
from phl_ase.reactions.summary import BUILD_OUTCOMES, ReactionResult
from phl_ase.reference import energy_reference
from phl_ase.reference.campaign import labels_note, method_versions
from phl_ase.results import plain, provenance
from phl_ase.types import ASECalculator

_LISTED, _REASON = 100, 200  # the provenance of a data set is at most 60,000 bytes


def pack(
    path: Path,
    folders: Sequence[ReactionFolder],
    results: Sequence[ReactionResult],
    calculator: ASECalculator,
    plan: Plan,
    about: Mapping[str, Any],
    source: str,
) -> int:
    """Write the data set of all labelled frames.

    Args:
        path: Where to.
        folders: The reactions, in this order.
        results: What became of each.
        calculator: Of the method; what its labels are made of is remembered, it computes nothing.
        plan: What was wanted.
        about: Name, settings and level of theory of the method.
        source: What the guesses were read from.

    Returns:
        Number of frames; 0 where there are none and nothing is written.

    Raises:
        PHLError: When the file cannot be written.
    """
    if not any(result.frames for result in results):
        return 0
    with dataset_writer(path) as writer:
        failed = 0
        for folder in folders:
            record, frames = folder.records.get("labels"), frames_of(folder)
            if record is None:
                failed += len(frames)  # the process that worked on them died
                continue
            failed += len(record["failures"])
            remembered = remembering(calculator, Memory(folder.path / LABEL_FILE))
            for place, frame in enumerate(frames):
                if str(place) not in record["failures"]:
                    writer.append(plan.request.label(frame, remembered).frame, f"{folder.name}, frame {place}")
        if not writer.frames:
            raise PHLError("no frame of any reaction has labels; see the logs in the work folder")
        writer.finish(_meta(folders, results, calculator, plan, about, source, failed))
        return writer.frames


def _meta(
    folders: Sequence[ReactionFolder],
    results: Sequence[ReactionResult],
    calculator: ASECalculator,
    plan: Plan,
    about: Mapping[str, Any],
    source: str,
    failed: int,
) -> DatasetMeta:
    errors = [e for folder in folders for e in folder.records.get("labels", {}).get("hvp_errors", [])]
    error = float(np.sqrt(np.mean(np.square(errors)))) if errors else None
    unfinished = [result for result in results if not result.is_finished]
    listed = [{"reaction": r.name, "outcome": r.outcome, "reason": r.sentence[:_REASON]} for r in unfinished]
    details = {
        **about,
        "source": Path(source).name,
        "reactions": len(results),
        "failed_reactions": len(unfinished),
        "failures": listed[:_LISTED],
        "failed_frames": failed,
        "settings": plan.settings.description,
        **plan.request.description,
        "hvp_error": error,
        "hvp_error_frames": len(errors),
        "gradients": sum(result.gradients for result in results),
        "hessians_of_the_method": sum(result.hessians for result in results),
        "seconds": round(sum(result.seconds for result in results), 3),
        "units": {"step": "Å", "hvp_error": "eV/Å²", "irc_s": "√amu·Å"},
        "versions": method_versions(str(about["method"])),
    }
    notes = [labels_note(plan.request)]
    if error is not None:
        notes.append(
            f"HVPs: rms error of an element about {error:.2g} eV/Å², by twice the step on {len(errors)} frames."
        )
    if unfinished:
        counted = sorted(Counter(result.outcome for result in unfinished).items())
        reasons = "; ".join(f"{count}: {BUILD_OUTCOMES[outcome]}" for outcome, count in counted)
        notes.append(f"{len(unfinished)} of {len(results)} reactions are not finished ({reasons}).")
    if failed:
        notes.append(f"{failed} frames have no labels and are left out.")
    level = str(about["level_of_theory"])
    return DatasetMeta(level, energy_reference(calculator), provenance(**plain(details)), " ".join(notes))
