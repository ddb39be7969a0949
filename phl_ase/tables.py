"""Tables as plain text that fit the width of the terminal, never broken inside a word or a number."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

WIDTH = 100
"""Columns where the width is not known: output to a file or a pipe, unless ``COLUMNS`` says otherwise."""

_GAP = "  "
_TURNED = 3  # rows up to which a table that is too wide is turned: quantities downwards
_FOLDED = 28  # columns that a cell of words keeps when it is folded


def terminal_width() -> int:
    """Return the columns of the terminal, or of ``COLUMNS``; ``WIDTH`` where neither is known."""
    return max(40, shutil.get_terminal_size((WIDTH, 24)).columns)


def cell_text(value: Any) -> str:
    """Return a cell as text: floats with four digits, NaN and ``None`` as ``-``."""
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the singular of one: ``1 frame``, ``2 frames``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def text_table(
    headings: Sequence[str], rows: Sequence[Sequence[Any]], *, words: int = 1, width: int | None = None
) -> str:
    """Return a table as plain text.

    One that is too wide has, in this order, its headings folded, its rows turned into columns where they are few, its
    cells of words folded, and what still does not fit as further blocks below, each beginning with the first column.

    Args:
        headings: One for each column, with its unit: ``"error / eV"``.
        rows: Cells, as :func:`cell_text` shows them.
        words: Number of columns, from the left, that hold words and are set flush left.
        width: Columns that there are; those of the terminal by default.
    """
    room = terminal_width() if width is None else width
    cells = [[cell_text(value) for value in row] for row in rows]
    columns = [_Column(name, [row[k] for row in cells], k < words) for k, name in enumerate(headings)]
    if _total(columns) <= room:
        return _block(columns)
    for column in columns:
        column.fold_heading()
    if _total(columns) <= room:
        return _block(columns)
    if 0 < len(cells) <= _TURNED < len(headings):
        turned = [
            _Column(name, [*headings[1:]] if k == 0 else cells[k - 1][1:], k == 0)
            for k, name in enumerate([headings[0], *(row[0] for row in cells)])
        ]
        if _total(turned) <= room:
            return _block(turned)
    for column in columns[:words]:
        column.fold_cells()
    blocks, first, block = [], columns[0], [columns[0]]
    for column in columns[1:]:
        if len(block) > 1 and _total([*block, column]) > room:
            blocks.append(block)
            block = [first]
        block.append(column)
    return "\n\n".join(_block(block) for block in [*blocks, block])


class _Column:
    """Lines of the heading, lines of each cell, and how wide they are."""

    def __init__(self, heading: str, cells: Sequence[str], is_words: bool) -> None:
        self.heading = [heading]
        self.cells = [[text] for text in cells]
        self.is_words = is_words

    @property
    def width(self) -> int:
        return max(len(line) for lines in (self.heading, *self.cells) for line in lines)

    def fold_heading(self) -> None:
        """Fold between words, but not between a quotient's bar and its unit, to the width of the cells."""
        words = self.heading[0].replace(" / ", " /\0").split(" ")
        words = [word.replace("\0", " ") for word in words]
        self.heading = _filled(words, max((len(line) for lines in self.cells for line in lines), default=0))

    def fold_cells(self) -> None:
        """Fold cells that are longer than a name."""
        self.cells = [_filled(lines[0].split(" "), _FOLDED) for lines in self.cells]

    def lines(self, lines: Sequence[str]) -> list[str]:
        width = self.width
        return [line.ljust(width) if self.is_words else line.rjust(width) for line in lines]


def _filled(words: Sequence[str], width: int) -> list[str]:
    """Lines of words, as long as the longest word at least."""
    room, lines = max(width, *map(len, words)), [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= room:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines


def _total(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + len(_GAP) * (len(columns) - 1)


def _block(columns: Sequence[_Column]) -> str:
    lines = _joined(columns, [column.heading for column in columns], bottom=True)
    lines.append(_GAP.join("-" * column.width for column in columns))
    for place in range(len(columns[0].cells)):
        lines += _joined(columns, [column.cells[place] for column in columns])
    return "\n".join(lines)


def _joined(columns: Sequence[_Column], cells: Sequence[Sequence[str]], *, bottom: bool = False) -> list[str]:
    """Cells of a row side by side; of unlike height they share their first line, or with ``bottom`` their last."""
    height = max(map(len, cells))
    padded = [[""] * (height - len(c)) + [*c] if bottom else [*c] + [""] * (height - len(c)) for c in cells]
    set_ = [column.lines(lines) for column, lines in zip(columns, padded, strict=True)]
    return [_GAP.join(line).rstrip() for line in zip(*set_, strict=True)]
