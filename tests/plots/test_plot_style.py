"""How figures become files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from phl_ase.plots.style import COMPARED, SCHEME_STYLES, STYLES, new_figure, panel, rendered, styles_of, to_png


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


def test_a_training_scheme_has_one_colour_whatever_it_is_compared_with():
    names = ["E-F", "E-F-HVP-random", "E-F-HVP-random, fixed, K = 2", "E-F-H", "E-F-HVP-onehot", "tblite"]
    alone = {name: styles_of([name])[name][0] for name in names[:-1]}
    together = styles_of(reversed(names))
    assert {name: together[name][0] for name in alone} == alone
    assert len({alone[name] for name in names if name in SCHEME_STYLES}) == 4
    # two of one scheme differ otherwise, and what is no scheme takes none of their colours
    assert together["E-F-HVP-random"][1:] != together["E-F-HVP-random, fixed, K = 2"][1:]
    assert together["tblite"][0] not in alone.values()
    assert STYLES[0][0] not in {colour for colour, _, _ in together.values()}


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("E-F-H, seed 0", "E-F-H"), ("E-F-HVP-gaussian", "E-F-HVP"), ("E-F-H2", None), ("E-Fx", None), ("E-F 3", "E-F")],
)
def test_a_scheme_is_known_by_the_beginning_of_a_name(name, scheme):
    style = styles_of([name])[name]
    assert (style[0] == SCHEME_STYLES[scheme][0]) if scheme else (style == COMPARED[0])
