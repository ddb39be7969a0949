"""Tables for people: as text they fit the terminal, as HTML they wrap; nothing is broken inside a word or a number."""

from __future__ import annotations

import re

import pytest

from phl_ase.pages import figure, page, table
from phl_ase.tables import text_table

HEADINGS = (
    "system", "outcome", "frequency MAE / cm⁻¹", "largest / cm⁻¹", "imaginary / cm⁻¹", "mode overlap",
    "ZPE error / meV", "G error / (kcal/mol)", "Hessian MAE / (eV/Å²)", "eigenvalue MAE / (eV/Å²)",
)  # fmt: skip
ROWS = [
    [f"reaction_{k} ts", "wrong order of saddle", 41.98, 126.5, "1996i (1994i)", 0.9996, -12.1, -0.32, 0.1, 0.44]
    for k in range(5)
]


def pieces(text: str) -> set[str]:
    return set(re.split(r"\s+", text))


@pytest.mark.parametrize("width", [60, 80, 100, 150, 300])
@pytest.mark.parametrize("rows", [ROWS[:1], ROWS], ids=["one row", "five rows"])
def test_a_table_fits_its_width_whole(width, rows):
    text = text_table(HEADINGS, rows, words=2, width=width)
    assert max(map(len, text.splitlines())) <= width
    words = {word for cell in (*HEADINGS, *rows[0]) for word in pieces(str(cell))}
    assert words <= pieces(text)


def test_a_table_that_fits_is_one_line_a_row():
    text = text_table(("a / eV", "b"), [["x", 1.23456], ["y", None]], width=100)
    assert text.splitlines() == ["a / eV      b", "------  -----", "x       1.235", "y           -"]


def test_headings_fold_before_anything_else_and_keep_their_units():
    lines = text_table(HEADINGS[:5], ROWS, words=2, width=75).splitlines()
    assert len(lines) == 3 + 1 + len(ROWS)
    assert "/ cm⁻¹" in lines[2]


def test_few_rows_are_turned():
    lines = text_table(HEADINGS, ROWS[:2], words=2, width=100).splitlines()
    assert lines[0].split() == ["system", "reaction_0", "ts", "reaction_1", "ts"]
    assert len(lines) == 2 + len(HEADINGS) - 1


def test_further_blocks_begin_with_the_name_of_the_row():
    blocks = text_table(HEADINGS, ROWS, words=2, width=70).split("\n\n")
    assert len(blocks) > 1
    assert all(block.splitlines()[-1].startswith("reaction_4 ts") for block in blocks)


def test_long_words_of_a_cell_are_folded():
    text = text_table(("frame", "reason"), [["3", "the field did not converge in 50 iterations"]], words=2, width=40)
    assert max(map(len, text.splitlines())) <= 40
    assert "iterations" in text


def test_cells_of_a_page_are_escaped_and_wrap_at_brackets():
    text = table(("system", "error / (eV/Å²)"), [["<b>", "0.12 [0.10, 0.15]"]], "a & b")
    assert "&lt;b&gt;" in text
    assert "a &amp; b" in text
    assert '<span class="unit">/ (eV/Å²)</span>' in text
    assert '<span class="number">0.12</span> <span class="number">[0.10, 0.15]</span>' in text


def test_figures_are_images_of_their_kind():
    assert "data:image/svg+xml;base64," in figure(b"<?xml version='1.0'?><svg/>", "c")
    assert "data:image/png;base64," in figure(b"\x89PNG\r\n", "c")
    assert "script" not in page("t", figure(b"<svg><script>1</script></svg>", "c"))
