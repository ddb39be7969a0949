"""Progress bars: what a narrow terminal shows of them."""

from __future__ import annotations

import io
import re

import pytest

from phl_ase.progress import Progress


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return True


@pytest.mark.parametrize("columns", [60, 80])
def test_a_narrow_terminal_shows_numbers_whole_and_cuts_the_note_off(monkeypatch, columns):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    with Progress("E-F-HVP-random", 300) as progress:
        for _ in range(12):
            progress.advance("energy 1.21 forces 1.27 curvature 11.2")
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= columns
    last = next(line for line in reversed(lines) if line.strip())
    assert re.search(r"^E-F-HVP-random \S+ +12/300 0:00:0\d left [-0-9]:[-0-9]{2}:[-0-9]{2} energy [0-9. a-z]*…", last)


def test_nothing_is_shown_where_nobody_looks(capsys):
    with Progress("train", 3) as progress:
        progress.advance("note")
    assert capsys.readouterr() == ("", "")
