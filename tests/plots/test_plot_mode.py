"""Pictures of modes: which bonds are drawn, and where arrows begin."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from phl_ase.plots.mode import Mode, draw, drawn_bonds


def bonds_of(atoms):
    return {(i, j): stretch for i, j, stretch in drawn_bonds(atoms)}


def test_bonds_that_form_are_drawn_and_neighbours_of_a_third_atom_are_not():
    """A hydrogen on its way from N to O in formamide: O and N, H and C are 1.5 times their radii apart."""
    carbon, oxygen, nitrogen = [0, 0, 0], [-1.06, -0.75, 0], [1.06, -0.75, 0]
    found = bonds_of(Atoms("CONH", [carbon, oxygen, nitrogen, [0.05, -1.6, 0]]))
    assert set(found) == {(0, 1), (0, 2), (1, 3), (2, 3)}
    assert max(found[0, 1], found[0, 2]) < 1.2 < min(found[1, 3], found[2, 3])
    # a ring that closes: its bond is drawn, although both atoms have a neighbour in common
    assert set(bonds_of(Atoms("C3", [[-1.0, 0, 0], [0, 1.14, 0], [1.0, 0, 0]]))) == {(0, 1), (0, 2), (1, 2)}
    # two molecules 2.3 Å apart
    assert (0, 1) in bonds_of(Atoms("C2", [[0, 0, 0], [2.3, 0, 0]]))
    assert bonds_of(Atoms("He")) == {}


def test_arrows_begin_at_the_edge_of_their_atoms():
    atoms = Atoms("HCl", [[0, 0, 0], [1.27, 0, 0]])
    along = np.array([[-0.2, 0, 0], [0.4, 0, 0]])
    panel = draw("HCl", {"model": Mode(atoms, along)}).axes[0]
    arrows = [one for one in panel.texts if not one.get_text()]
    (centre,) = [one.get_position() for one in panel.texts if one.get_text() == "Cl"]
    starts = [np.linalg.norm(np.subtract(arrow.xyann, centre)) for arrow in arrows]
    assert len(arrows) == 2
    assert min(starts) == pytest.approx(0.42 * 1.02, abs=1e-6)
