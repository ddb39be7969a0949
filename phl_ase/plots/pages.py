"""A reaction as one HTML page: a table, figures, and moving structures that need no network and no viewer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors

_AS_LUMINANCE = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, eq=False)
class Movie:
    """Structures to show one after another.

    Attributes:
        caption: What moves.
        structures: The same atoms in each, in the order shown.
        labels: One for each structure, for example its energy.
        numbered: Atoms that are shown with their numbers, from 0.
    """

    caption: str
    structures: Sequence[Atoms]
    labels: Sequence[str]
    numbered: Collection[int] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what the page's script draws: the structures in the principal axes of the first."""
        first = self.structures[0]
        centre = first.positions.mean(axis=0)
        axes = np.linalg.eigh((first.positions - centre).T @ (first.positions - centre))[1][:, ::-1]
        axes = axes * np.array([1.0, 1.0, np.sign(np.linalg.det(axes))])
        frames = [(atoms.positions - centre) @ axes for atoms in self.structures]
        colours = jmol_colors[first.numbers]
        return {
            "caption": self.caption,
            "symbols": [f"{symbol}{k if k in self.numbered else ''}" for k, symbol in enumerate(first.symbols)],
            "radii": [round(float(r), 3) for r in covalent_radii[first.numbers]],
            "colours": ["#" + "".join(f"{round(255 * c):02x}" for c in colour) for colour in colours],
            "dark": [bool(colour @ _AS_LUMINANCE < 0.5) for colour in colours],
            "frames": [np.round(frame, 4).tolist() for frame in frames],
            "labels": list(self.labels),
            "reach": round(float(max(np.linalg.norm(frame, axis=1).max() for frame in frames)) + 0.6, 3),
        }


def reaction_page(
    title: str,
    *,
    lines: Sequence[str],
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    figures: Sequence[tuple[str, bytes]],
    movies: Sequence[Movie],
    footer: str,
) -> str:
    """Return a page that stands alone: no other file, no network.

    Args:
        title: Of the page.
        lines: Paragraphs above the table.
        headings: Of the table.
        rows: Its cells.
        figures: Captions and SVG images.
        movies: Structures to look at.
        footer: Versions and the like.
    """
    from markupsafe import Markup

    from phl_ase.pages import render

    # our own drawing, not a user's text; the XML declaration has no place inside a page
    images = [(caption, Markup(svg.decode()[svg.decode().index("<svg") :])) for caption, svg in figures]
    return render(
        "reaction.html",
        package="phl_ase.plots",
        title=title,
        lines=lines,
        headings=headings,
        rows=rows,
        figures=images,
        movies=[movie.to_dict() for movie in movies],
        footer=footer,
    )
