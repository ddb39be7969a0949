"""Pictures of a run of ``phl learn``."""

from __future__ import annotations

from phl_ase.plots.learning import Convergence, draw_convergence


def test_gradients_are_counted_in_whole_numbers():
    steps = [("ts", 3, 2.8), ("ts", 4, 0.3), ("ts", 5, 0.02), ("path", 7, 0.09)]
    (axes,) = draw_convergence(Convergence(steps, 0.02, 0.1)).axes
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert named == ["transition state", "path", "allowed force", "allowed error of the path"]
