"""What a worker process does: train one configuration on one thread and leave word of how it ended."""

from __future__ import annotations

import json
import time
import traceback
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from phl_ase.errors import PHLError, reason_of

MARKER = "run.json"
"""File beside a run that says how it stands: outcome (started, trained, failed), fingerprint, configuration."""

ERRORS = "errors.txt"
"""File with the traceback of a run that failed for a reason of ours, and what libraries wrote to standard error."""


def run(config: Any, data: Any, folder: str) -> None:
    """Train, resuming where there is a checkpoint; the end stands in the marker, nothing is raised.

    Args:
        config: A ``TrainConfig``.
        data: A ``RunData``.
        folder: The folder of the run, with its marker.
    """
    path, started = Path(folder), time.process_time()
    with open(path / ERRORS, "a", encoding="utf-8") as errors, redirect_stderr(errors):
        # no progress bar of its own, and warnings not across the one bar there is
        outcome = _outcome(config, data, path)
    marker = read_marker(path)
    seconds = round(marker.get("cpu_seconds", 0.0) + time.process_time() - started, 3)
    write_marker(path, {**marker, **outcome, "cpu_seconds": seconds})
    if not (path / ERRORS).stat().st_size:
        (path / ERRORS).unlink()


def write_marker(folder: Path, values: dict[str, Any]) -> None:
    """Write a run's marker by atomic replace.

    Raises:
        PHLError: When it cannot be written.
    """
    from phl_ase.files import write_atomic

    write_atomic(folder / MARKER, json.dumps(values, indent=1).encode())


def read_marker(folder: Path) -> dict[str, Any]:
    """A run's marker; empty where there is none to read."""
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _outcome(config: Any, data: Any, path: Path) -> dict[str, Any]:
    """What to add to the marker; nothing where the run was stopped, which leaves it as started."""
    import torch

    from phl_ase.training import Stopped, train
    from phl_ase.training.checkpoint import LAST

    torch.set_num_threads(1)
    try:
        result = train(config, data, path, resume=(path / LAST).exists())
    except Stopped:
        return {}
    except PHLError as error:
        return {"outcome": "failed", "reason": " ".join(str(error).split())}
    except Exception as error:
        traceback.print_exc()
        return {"outcome": "failed", "reason": reason_of(error)}
    seconds = result.records[-1]["seconds"] if result.records else 0.0
    return {
        "outcome": "trained",
        "seconds": seconds,
        "best_loss": result.best_loss,
        "best_epoch": result.best_epoch,
    }
