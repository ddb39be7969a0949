"""A molecule with one of its modes: three perpendicular views, arrows for how each atom moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from ase.neighborlist import natural_cutoffs

from phl_ase.plots.style import STYLES, new_figure
from phl_ase.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_VIEWS = (((0, 1), "x", "y"), ((0, 2), "x", "z"), ((2, 1), "z", "y"))
_ARROW = 0.9  # Å, of the atom that moves most
_RADIUS = 0.42  # of the covalent one: bonds and arrows stay visible
# times the sum of the covalent radii: whole bonds, the broken lines of half of one, and those of which not all are one
_BONDED, _BREAKING, _DOUBTED = 1.2, 1.6, 1.45
_SHORTEST = 0.12  # Å; the head of a shorter arrow would hide its atom


@dataclass(frozen=True, eq=False)
class Mode:
    """A normal mode by one method.

    Attributes:
        atoms: The structure.
        displacements: How its atoms move ``(n, 3)``, in any unit: the longest arrow is as long in every picture.
    """

    atoms: Atoms
    displacements: Array


def draw(title: str, modes: Mapping[str, Mode]) -> Figure:
    """Three views of a structure, in its principal axes, with the modes of several methods over one another.

    Bonds that are stretched to more than 1.2 times the covalent radii, up to 1.6 times, are broken lines. Arrows begin
    at the edge of their atoms.

    Args:
        title: Above the figure.
        modes: Name -> mode; the first one's structure is drawn, the others' arrows begin at their own atoms. Their
            structures are expected to be aligned with the first one's.
    """
    from matplotlib.lines import Line2D

    first = next(iter(modes.values()))
    centre = first.atoms.positions.mean(axis=0)
    centred = first.atoms.positions - centre
    # columns are principal axes, the longest extent first, a proper rotation
    axes_of = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    axes_of = axes_of * np.array([1.0, 1.0, np.sign(np.linalg.det(axes_of))])
    places = {name: (mode.atoms.positions - centre) @ axes_of for name, mode in modes.items()}
    arrows = {}
    for name, mode in modes.items():
        # a mode has no sign of its own: every arrow points the way the first one's does
        sign = 1.0 if np.sum(mode.displacements * first.displacements) >= 0 else -1.0
        longest = np.linalg.norm(mode.displacements, axis=1).max()
        arrows[name] = sign * (_ARROW / longest if longest > 0 else 0.0) * mode.displacements @ axes_of
    ends = [part for name in modes for part in (places[name], places[name] + arrows[name])]
    reach = float(np.abs(np.concatenate(ends)).max()) + 0.6  # the same scale in every view
    figure = new_figure(11.5, 4.7)
    for panel, (pair, across, up) in zip(figure.subplots(1, 3), _VIEWS, strict=True):
        _molecule(panel, first.atoms, next(iter(places.values())), pair)
        for number, name in enumerate(modes):
            colour = STYLES[number % len(STYLES)][0]
            edges = _RADIUS * covalent_radii[modes[name].atoms.numbers]
            for atom, whole, edge in zip(places[name], arrows[name], edges, strict=True):
                length = np.linalg.norm(whole)
                if np.linalg.norm(whole[list(pair)]) < _SHORTEST:
                    continue
                start, step = (atom + edge * whole / length)[list(pair)], whole[list(pair)]
                width = 2.8 - 1.4 * (number > 0)
                style = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "mutation_scale": 10 + width}
                style |= {"shrinkA": 0, "shrinkB": 0}
                panel.annotate("", xy=start + step, xytext=start, arrowprops=style, zorder=5 + number)
        panel.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        panel.set_xlabel(f"{across} / Å")
        panel.set_ylabel(f"{up} / Å")
        panel.spines[["top", "right"]].set_visible(False)
    handles = [
        Line2D([], [], color=STYLES[i % len(STYLES)][0], linewidth=2.8 - 1.4 * (i > 0), marker=">", label=name)
        for i, name in enumerate(modes)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), frameon=False)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _molecule(panel: Axes, atoms: Atoms, places: Array, pair: Sequence[int]) -> None:
    """Bonds as lines, atoms as discs with their symbols, the nearer ones over the farther."""
    from matplotlib.patches import Circle

    depth = places[:, 3 - sum(pair)]
    for i, j, stretch in drawn_bonds(atoms):
        line = "-" if stretch <= _BONDED else (0, (1.2, 1.0))
        panel.plot(*places[[i, j]][:, pair].T, color="0.6", linewidth=4, linestyle=line, zorder=1)
    for place, index in enumerate(np.argsort(depth)):
        above = 3 + place / len(atoms)
        number = int(atoms.numbers[index])
        x, y = places[index, list(pair)]
        radius = _RADIUS * covalent_radii[number]
        panel.add_patch(
            Circle((x, y), radius, facecolor=jmol_colors[number], edgecolor="0.25", linewidth=1.0, zorder=above)
        )
        dark = jmol_colors[number] @ np.array([0.299, 0.587, 0.114]) < 0.5
        colour = "white" if dark else "black"
        name, text_above = chemical_symbols[number], above + 0.5 / len(atoms)
        panel.text(x, y, name, ha="center", va="center", fontsize=10, color=colour, zorder=text_above)


def drawn_bonds(atoms: Atoms) -> list[tuple[int, int, float]]:
    """Return the bonds to draw: two atoms, and their distance as a multiple of the sum of their covalent radii.

    Far apart, two neighbours of an atom in a strained ring are no bond that forms: they are nearer to the third.
    """
    radii = np.array(natural_cutoffs(atoms))
    stretch = atoms.get_all_distances(mic=bool(np.any(atoms.pbc))) / (radii[:, None] + radii)
    np.fill_diagonal(stretch, np.inf)
    # the longer one of the two ways to the nearest atom in between
    between = np.maximum(stretch[:, :, None], stretch.T[None]).min(axis=1)
    shown = (stretch < _DOUBTED) | ((stretch < _BREAKING) & (stretch <= between))
    return [(int(i), int(j), float(stretch[i, j])) for i, j in np.argwhere(np.triu(shown))]
