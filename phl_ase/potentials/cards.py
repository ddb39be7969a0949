"""Cards of model files: what a model says of itself, read from the head of its file without weights and torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from phl_ase.errors import PHLError, UnknownModelError, shortened
from phl_ase.files import is_there

SCHEMA = 1
COMMITTEE_SCHEMA = 2
COMMITTEE = "committee"
BUNDLED_FOLDER = Path(__file__).parent / "bundled"


def bundled_models() -> dict[str, Path]:
    """Names and files of the models that come with the package."""
    return {path.stem: path for path in sorted(BUNDLED_FOLDER.glob("*.safetensors"))}


def read_card(source: str | Path) -> dict[str, Any]:
    """Return the card of a model or committee, without loading its weights.

    Args:
        source: A bundled name or a file; ``…#2`` for the second member of a committee.

    Raises:
        PHLError: For a missing file, one that is no model of ours, a newer schema, or a member that does not exist.
    """
    path, number = find_model(source)
    card = card_of(path)
    return card if number is None else member_card(path, card, number)


def find_model(source: str | Path) -> tuple[Path, int | None]:
    """Return the file of a model and, where ``#`` names one, the number of a member, counted from 1.

    Raises:
        PHLError: When there is no such file.
    """
    name, separator, number = str(source).rpartition("#")
    if not separator or not number.isdecimal() or is_there(Path(source)):
        return _locate(source), None
    return _locate(name), int(number)


def members_of(card: dict[str, Any]) -> int | None:
    """Return how many members a committee has; ``None`` for a single model."""
    return len(card["config"]["members"]) if card["architecture"] == COMMITTEE else None


def member_card(path: Path, card: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the card of a member; of a single model, which is its only member, its own.

    Raises:
        PHLError: When there is no such member, or its card is broken.
    """
    members = members_of(card)
    if not 1 <= number <= (members or 1):
        raise PHLError(f"{path.name} has no member #{number}; it has {members or 1}, counted from 1")
    if members is None:
        return card
    try:
        entry = card["config"]["members"][number - 1]
        return {"schema": SCHEMA, **{key: entry[key] for key in ("architecture", "config", "provenance")}}
    except (KeyError, TypeError):
        raise PHLError(f"{path.name}: the card of member #{number} is broken; the file is damaged") from None


def card_of(path: Path) -> dict[str, Any]:
    """Return the card in the head of a file.

    Raises:
        PHLError: For a file that is no model of ours, or a newer schema.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise PHLError(f"{path.name}: not a readable model file ({error}); expected a .safetensors file") from None
    try:
        card = json.loads(metadata["phl_ase"])
        schema, committee = card["schema"], card["architecture"] == COMMITTEE
        _, provenance = card["config"]["species"], card["provenance"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise PHLError(f"{path.name}: has no phl_ase card; expected a model written by 'phl train'") from None
    if schema != (COMMITTEE_SCHEMA if committee else SCHEMA):
        raise PHLError(
            f"{path.name}: has card schema {schema}, this version reads {SCHEMA} of models and {COMMITTEE_SCHEMA} of "
            "committees; upgrade phl_ase"
        )
    if not isinstance(provenance, dict):
        raise PHLError(f"{path.name}: the card's provenance is no table; the file is damaged")
    if committee and not (isinstance(card["config"].get("members"), list) and len(card["config"]["members"]) > 1):
        raise PHLError(f"{path.name}: the card of the committee names no members; the file is damaged")
    return card


def _locate(source: str | Path) -> Path:
    bundled = bundled_models()
    if str(source) in bundled:
        return bundled[str(source)]
    path = Path(source)
    if is_there(path) and path.is_file():
        return path
    if is_there(path) and path.is_dir():
        known = sorted(str(one) for one in path.glob("*.safetensors"))
        which = f"it holds {', '.join(known)}: name one" if known else "expected a .safetensors file"
        raise PHLError(f"{shortened(str(source))} is a folder, not a model; {which}")
    if path.suffix or os.sep in str(source):
        raise PHLError(f"model file {str(source)!r} does not exist; bundled models: {', '.join(bundled) or 'none'}")
    valid = ", ".join(sorted([*bundled, "a path to a .safetensors file"]))
    raise UnknownModelError(f"unknown model {shortened(str(source))}; valid: {valid}")
