"""What commands show and write: plain tables of any width, JSON files checked before the work starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phl_ase.errors import PHLError


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]], *, words: int = 1) -> str:
    """A plain-text table, never cut to the width of a terminal.

    Args:
        headings: One for each column, with its unit.
        rows: Cells; floats are shown with four digits, NaN and ``None`` as ``-``.
        words: Number of columns, from the left, that hold words and are set flush left.
    """
    cells = [list(headings), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def check_target(path: Path | None, what: str) -> None:
    """Check, before the work, that a file can be written.

    Raises:
        PHLError: When its folder does not exist or is not writable, or it is a folder itself.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise PHLError(f"cannot write the {what} {path}: the folder {path.parent} does not exist; make it first")
    if path.is_dir():
        raise PHLError(f"cannot write the {what} {path}: it is a folder; name a file")
    if not os.access(path.parent, os.W_OK):
        raise PHLError(f"cannot write the {what} {path}: permission denied; choose another folder")


def save_json(path: Path | None, value: Any) -> None:
    """Write JSON where a path is given.

    Raises:
        PHLError: When the file cannot be written.
    """
    from phl_ase.results import write_json

    if path is not None:
        write_json(path, value)
