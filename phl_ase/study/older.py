"""Studies of older schemas: their finished results are those of this version's tasks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from phl_ase.errors import PHLError
from phl_ase.jobs import Record, Store, digest
from phl_ase.results import plain, read_reports
from phl_ase.study.plan import PlannedRun
from phl_ase.training.checkpoint import BEST

FOLDERS = {1: "cells", 2: "runs"}
"""Older schema -> folder of the runs. Each had a folder with a marker, and its reports in files."""

_FACTS = ("seconds", "cpu_seconds", "best_epoch", "training_frames", "gradient_calls")
_DATA = ("frames", "transition_states", "level_of_theory")


def adopt(store: Store, planned: PlannedRun, folder: Path) -> PlannedRun:
    """Take the results of an older folder for those of a run where they are; the run then stays in that folder.

    Args:
        store: Which then knows the results.
        planned: The run.
        folder: Where an older version kept it.
    """
    marker = read_json(folder / "run.json")
    is_whole = marker.get("outcome") == "trained" and (folder / BEST).exists()
    if not is_whole or marker.get("fingerprint") != planned.key or store.is_done(planned.key):
        return planned
    store.adopt(planned.key, Record({key: marker[key] for key in (*_FACTS, *_DATA) if key in marker}))
    settings = planned.study.validators
    for validator, state in marker.get("validators", {}).items():
        if validator not in planned.validators or state.get("outcome") != "done":
            continue
        key = planned.validator_key(validator)
        section = getattr(settings, validator, None)
        options: dict[str, Any] = {} if section is None else section.model_dump(mode="json")
        if "strategy" in options:
            options["way"] = options.pop("strategy")
        of_schema_1 = digest(planned.key, validator, options, sorted(settings.reactions))
        # schema 1 had no choice of unseen reactions
        if state.get("digest") in (key, key if settings.unseen else of_schema_1):
            try:
                reports = plain(read_reports(folder / f"{validator}.json"))
            except PHLError:
                continue
            seconds = float(state.get("seconds", 0.0))
            store.adopt(key, Record(reports, seconds=seconds, cpu_seconds=seconds))
    return dataclasses.replace(planned, folder=folder)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds; empty where there is none to read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
