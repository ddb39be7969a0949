"""How figures become files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from phl_ase.plots.style import STYLES, new_figure, panel, rendered, to_png


def every_style(values):
    figure = new_figure(5, 3)
    axes = figure.add_subplot()
    for k, (colour, marker, line) in enumerate(STYLES):
        axes.plot(values, values + k, color=colour, marker=marker, linestyle=line, linewidth=3)
        axes.fill_between(values, values + k, values + k + 0.5, color=colour, alpha=0.2)
    panel(axes)
    return figure


def test_a_png_in_few_colours_looks_the_same():
    values = np.linspace(0, 1, 20)
    small = to_png(every_style, values)
    buffer = io.BytesIO()
    every_style(values).savefig(buffer, format="png", dpi=130)
    assert len(small) < 0.7 * len(buffer.getvalue())
    with Image.open(io.BytesIO(small)) as image:
        assert image.mode == "P"
        found = np.asarray(image.convert("RGB"), dtype=float)
    for colour, _, _ in STYLES:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(found - wanted).max(axis=-1).min() <= 8, f"{colour} is not there any more"
    assert (found[0, 0] == 255).all()


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_results_give_the_same_file(kind):
    values = np.linspace(0, 1, 5)
    assert rendered(every_style, values, kind) == rendered(every_style, values, kind)
