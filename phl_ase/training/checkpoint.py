"""Run folders: locked against a second run, written by atomic replace, resumed to the same result.

Checkpoints hold tensors and plain values only and are read with ``weights_only``: loading one never runs code from it.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from phl_ase.errors import PHLError
from phl_ase.files import locked_folder, write_atomic
from phl_ase.training.config import renamed, settings_before

LAST, BEST, CONFIG, SPLIT, LOG, TABLE = (
    "last.ckpt",
    "best.safetensors",
    "config.json",
    "split.json",
    "log.jsonl",
    "log.csv",
)

FOREIGN = "best.model"
"""The best model of a run that started from a foreign one, in the vendor's format; its card is ``best.json``."""

# what may change when a run is resumed: where it runs and how, not what comes out of it
_FREE = {("training", "device"), ("training", "memory_budget_mb"), ("training", "checkpoint_seconds")}

_ENTRIES = {"config", "data", "position", "model", "averaged", "optimiser", "records"}


@contextmanager
def run_folder(folder: str | Path, *, resume: bool) -> Iterator[Path]:
    """Make or open a run's folder and hold it until the run ends.

    Args:
        folder: Where the run keeps its files.
        resume: Whether the folder should hold a run already.

    Raises:
        PHLError: When it cannot be written, another run holds it, it holds a run and ``resume`` is off, or it holds
            none and ``resume`` is on.
    """
    folder = Path(folder)
    if resume and not folder.is_dir():  # a mistyped name must not become a folder
        raise PHLError(f"{folder} holds no run to resume: there is no such folder; check its name")
    with locked_folder(folder, ".lock", "output folder"):
        used = (folder / LAST).exists() or (folder / CONFIG).exists()
        if used and not resume:
            raise PHLError(f"{folder} holds a run already; continue it with --resume or choose another folder")
        if resume and not used:
            raise PHLError(f"{folder} holds no run to resume; leave --resume out to start one")
        yield folder


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a run by atomic replace."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read the state of a run.

    Raises:
        PHLError: For a truncated or foreign file, or one that holds more than tensors and plain values.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of odd pickles on the way to refusing them
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise PHLError(f"{path} does not exist: the run has no checkpoint to resume; start it anew") from None
    except Exception as error:  # reading a damaged file raises anything at all
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise PHLError(f"{path}: not a readable checkpoint ({reason}); train anew into another folder") from None
    if not isinstance(state, dict) or not _ENTRIES.issubset(state):
        raise PHLError(f"{path}: is no checkpoint of phl_ase; train anew into another folder")
    return state


def changed_settings(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return the keys that differ between the configuration of a run and the one it is resumed with; empty for none.

    The order of a table counts too: of the patterns in it the first that fits holds.
    """
    unset, keys = settings_before(), list[str]()
    for section in dict.fromkeys([*old, *new]):
        # what one of them does not say has the value that it had before it could be said
        before, after = (
            {**unset.get(section, {}), **renamed(section, values.get(section, {}))} for values in (old, new)
        )
        differing = (key for key in {**before, **after} if json.dumps(before.get(key)) != json.dumps(after.get(key)))
        keys += [f"{section}.{key}" for key in differing if (section, key) not in _FREE]
    return ", ".join(keys)


def last_epoch(folder: Path) -> int:
    """Return the last finished epoch of a run; 0 before the first one."""
    try:
        with open(folder / LOG, "rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - 2000, 0))
            lines = file.read().split(b"\n")[:-1]  # what follows the last line break is still being written
        return int(json.loads(lines[-1])["epoch"])
    except (OSError, ValueError, IndexError, KeyError):
        return 0
