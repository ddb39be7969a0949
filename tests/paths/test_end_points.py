"""What a structure is: bonds first, geometry second; and whether two ends are the two that were meant."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.paths import connects, identify, molecular_graph, radicals, same_graph
from phl_ase.paths.end_points import CONNECTIONS, changed_bonds, fragments, order_doubts

HCN = Atoms("HCN", [[0, 0, -1.07], [0, 0, 0], [0, 0, 1.15]])
HNC = Atoms("HCN", [[0, 0, 2.15], [0, 0, 0], [0, 0, 1.17]])


def ammonia(height: float = 0.3) -> Atoms:
    """Labelled hydrogens below the nitrogen, or above it at a negative height: two structures, one graph."""
    angles = 2 * np.pi * np.arange(3) / 3
    ring = np.stack([0.95 * np.cos(angles), 0.95 * np.sin(angles), np.full(3, -height)], axis=1)
    return Atoms("NH3", [[0, 0, 0], *ring])


def moved(atoms: Atoms, seed: int = 0) -> Atoms:
    copy = atoms.copy()
    copy.positions = Rotation.random(random_state=seed).apply(copy.positions) + np.array([1.0, -2.0, 3.0])
    return copy


def complex_of(distance: float) -> Atoms:
    """CO and H2, apart."""
    return Atoms("COH2", [[0, 0, 0], [0, 0, 1.13], [0, 0, -distance], [0, 0.74, -distance]])


def stretched(distance):
    """The same with a C–O bond that is far too long, and still a bond."""
    atoms = complex_of(distance)
    atoms.positions[1] += 0.57 * (atoms.positions[1] - atoms.positions[0]) / atoms.get_distance(0, 1)
    return atoms


FORMALDEHYDE = Atoms("COH2", [[0, 0, 0], [0, 0, 1.2], [0, 0.94, -0.54], [0, -0.94, -0.54]])


@pytest.mark.parametrize(
    ("name", "bonds"),
    [("H2", 1), ("H2O", 2), ("CH4", 4), ("C2H2", 3), ("HCOOH", 4), ("C6H6", 12), ("H2O2", 3), ("NH3", 3), ("CO2", 2)],
)
def test_bonds_of_molecules(name, bonds):
    graph = molecular_graph(molecule(name))
    assert graph.number_of_edges() == bonds
    assert fragments(molecule(name)) == 1
    assert [graph.nodes[i]["element"] for i in graph] == list(molecule(name).symbols)


def test_hydrogen_needs_the_scale():
    """0.74 Å against 2 × 0.31 Å of Cordero's radii."""
    assert molecular_graph(molecule("H2"), scale=1.1).number_of_edges() == 0
    assert molecular_graph(molecule("H2")).number_of_edges() == 1


def test_fragments():
    assert fragments(complex_of(3.0)) == 2
    assert fragments(Atoms("He3", [[0, 0, 4 * i] for i in range(3)])) == 3
    assert {frozenset(c) for c in networkx.connected_components(molecular_graph(complex_of(3.0)))} == {
        frozenset({0, 1}),
        frozenset({2, 3}),
    }


def test_bonds_across_a_cell():
    """Silicon's bonds go through the walls of its cell."""
    cell = bulk("Si", cubic=True)
    assert {degree for _, degree in molecular_graph(cell).degree} == {4}


def test_labelled_and_unlabelled_graphs():
    methanol_like = Atoms("COHH", [[0, 0, 0], [0, 0, 1.4], [0, 0.9, -0.5], [0, 0.9, 1.6]])
    exchanged = methanol_like.copy()
    exchanged.positions[[2, 3]] = exchanged.positions[[3, 2]]
    assert not same_graph(methanol_like, exchanged)
    assert same_graph(methanol_like, exchanged, labelled=False)
    assert not same_graph(HCN, HNC)
    assert not same_graph(HCN, HNC, labelled=False)
    assert same_graph(HCN, moved(HCN))
    assert not same_graph(molecule("H2O"), molecule("H2"), labelled=False)


def test_changed_bonds():
    assert changed_bonds(HCN, HNC) == (("H0-C1",), ("H0-N2",))
    assert changed_bonds(HCN, HCN) == ((), ())


def test_identification():
    references = {"HCN": HCN, "HNC": HNC}
    near = moved(HCN)
    near.rattle(0.02, seed=3)
    found = identify(near, references)
    assert found.name == found.nearest == "HCN"
    assert found.same_bonds
    assert found.same_molecules
    assert 0 < found.rmsd < 0.05
    assert "HCN: the same bonds" in found.sentence


@pytest.mark.parametrize(
    ("atoms", "references", "nearest", "sentence"),
    [
        (stretched(3.0), {"far": complex_of(4.5)}, "far", "its 2 molecules, one by one, 0.285 Å"),
        (ammonia(), {"other side": ammonia(-0.3)}, "other side", "the bonds of other side, but"),
        (HNC, {"HCN": HCN}, "HCN", "other bonds than HCN"),
    ],
    ids=["floating", "inverted", "bonds"],
)
def test_which_criterion_failed(atoms, references, nearest, sentence):
    found = identify(atoms, references)
    assert found.name is None
    assert found.nearest == nearest
    assert sentence in found.sentence
    assert f"{found.rmsd:.3f} Å" in found.sentence


def test_bonds_come_before_distance():
    """The reference with the right bonds is the nearest one, however far its fragments are."""
    dissociated = complex_of(2.2)
    bonded = dissociated.copy()
    bonded.positions[2:, 2] += 1.0
    found = identify(dissociated, {"bonded": bonded, "apart": complex_of(5.0)}, tolerance=2.0)
    assert found.nearest == "apart"
    assert not same_graph(dissociated, bonded)


def test_like_atoms_exchanged_are_another_structure():
    exchanged = ammonia()
    exchanged.positions[[1, 2]] = exchanged.positions[[2, 1]]
    found = identify(exchanged, {"NH3": ammonia()})
    assert found.name is None  # its mirror image with these labels
    assert found.same_bonds


METHANOL = molecule("CH3OH")
"""C0 with O1, H2, H4 and H5; H3 on the oxygen."""


def test_a_product_with_like_atoms_in_another_order_is_doubted():
    rotated = METHANOL.copy()
    rotated.set_dihedral(3, 1, 0, 2, 60.0 + METHANOL.get_dihedral(3, 1, 0, 2), indices=[2, 4, 5])
    assert order_doubts(METHANOL, moved(rotated)) == ()
    (inside_out,) = order_doubts(METHANOL, moved(rotated[[0, 1, 2, 3, 5, 4]]))
    assert inside_out.startswith("C0 turns inside out: O1, H2, H4, H5 stay bonded to it")
    (exchanged,) = order_doubts(METHANOL, moved(rotated[[0, 1, 3, 2, 4, 5]]))
    assert "one molecule with like atoms exchanged" in exchanged
    assert "H2" in exchanged
    assert "H3" in exchanged


def test_a_product_whose_like_atoms_exchanged_would_change_fewer_bonds_is_doubted():
    """The tautomers of formamide: the hydrogen of nitrogen moves to oxygen, that of carbon stays."""
    amide = Atoms(
        "CONHHH", [[0, 0.4, 0], [1.2, 0.2, 0], [-0.9, -0.6, 0], [-0.4, 1.4, 0], [-0.6, -1.5, 0], [-1.9, -0.3, 0]]
    )
    acid = Atoms("CONHHH", [[0, 0.4, 0], [1.3, 0.2, 0], [-0.9, -0.4, 0], [-0.3, 1.5, 0], [1.4, -0.8, 0], [-1.8, 0, 0]])
    assert order_doubts(amide, acid) == ()
    (doubt,) = order_doubts(amide, acid[[0, 1, 2, 4, 3, 5]])
    assert doubt.startswith("4 bonds break or form, but only 2 with H3 and H4 of the product exchanged")


def test_real_reactions_are_not_doubted():
    assert order_doubts(HCN, HNC) == ()
    assert order_doubts(ammonia(), ammonia(-0.3)) == ()  # three bonds invert without a slip
    hands = Atoms("CHFClBr", [[0, 0, 0], [0.6, 0.6, 0.6], [0.8, -0.8, -0.8], [-1, 1, -1], [-1.1, -1.1, 1.1]])
    mirror = hands.copy()
    mirror.positions[:, 0] *= -1
    assert order_doubts(hands, mirror) == ()  # no two of its atoms are alike
    assert order_doubts(bulk("Cu", cubic=True), bulk("Cu", cubic=True)) == ()


def test_molecules_of_a_complex_are_compared_one_by_one():
    found = identify(complex_of(3.0), {"apart": complex_of(4.5), "bonded": FORMALDEHYDE})
    assert found.name == "apart"
    assert found.rmsd > 0.5
    assert found.fragments_rmsd < 1e-6
    whole = identify(complex_of(3.0), {"apart": complex_of(4.5)}, floating=False)
    assert whole.name is None
    # two references of the same molecules: only the geometry of the whole can tell them apart
    assert identify(complex_of(3.0), {"near": complex_of(3.8), "far": complex_of(4.5)}).name is None


CASES = {
    "as meant": ((HCN, HNC), (HCN, HNC), "connects", False),
    "turned": ((HNC, HCN), (HCN, HNC), "connects", True),
    "inversion": ((ammonia(), ammonia(-0.3)), (ammonia(-0.3), ammonia()), "connects", True),
    "one side twice": ((ammonia(), moved(ammonia())), (ammonia(-0.3), ammonia()), "same end", None),
    "twice HCN": ((HCN, moved(HCN)), (HCN, HNC), "same end", None),
    "floating": ((FORMALDEHYDE, complex_of(3.0)), (FORMALDEHYDE, complex_of(4.5)), "connects", False),
    "deformed": ((FORMALDEHYDE, stretched(3.0)), (FORMALDEHYDE, complex_of(4.5)), "right bonds", False),
    # both ends are the same two molecules: only where they lie tells the ends apart
    "two complexes": ((complex_of(3.0), complex_of(5.0)), (complex_of(3.0), complex_of(4.5)), "one end", False),
    "one other": ((ammonia(), ammonia(0.9)), (ammonia(), ammonia(-0.3)), "one end", False),
    "both other": ((ammonia(0.9), ammonia(-0.9)), (ammonia(), ammonia(-0.3)), "other ends", None),
}


@pytest.mark.parametrize("name", CASES)
def test_connections(name):
    ends, references, outcome, flipped = CASES[name]
    found = connects(tuple(moved(end, seed) for seed, end in enumerate(ends)), *references)
    assert found.outcome == outcome
    # the same bonds are the same reaction, in whatever conformation
    assert found.connected == (outcome in ("connects", "right bonds"))
    assert flipped is None or found.flipped == flipped
    assert found.sentence.startswith(CONNECTIONS[outcome])
    assert "backward: " in found.sentence


def test_closest_reference_decides_within_the_tolerance():
    """Both sides of a shallow inversion are within 0.15 Å of either end: each end is the one that it is nearer to."""
    up, down = ammonia(0.05), ammonia(-0.05)
    assert connects((up, down), up, down).outcome == "connects"
    assert connects((down, up), up, down).flipped
    assert connects((up, up), up, down).outcome == "same end"


def test_mistakes():
    with pytest.raises(PHLError, match="no references"):
        identify(HCN, {})
    with pytest.raises(PHLError, match="same atoms"):
        identify(HCN, {"water": molecule("H2O")})
    with pytest.raises(PHLError, match="same atoms"):
        connects((HCN, HNC), HCN, molecule("H2O"))
    with pytest.raises(PHLError, match="scale is 0"):
        molecular_graph(HCN, scale=0)
    broken = HCN.copy()
    broken.positions[0, 0] = np.nan
    with pytest.raises(NonFiniteError):
        molecular_graph(broken)


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [("CH3", "CH3", "CH3 + CH3"), ("H", "C2H5", "C2H5 + H"), ("H2O", "CH4", ""), ("CH3", "NO2", "CH3 + NO2")],
)
def test_pairs_of_radicals_are_seen(first, second, found):
    other = molecule(second) if second != "H" else Atoms("H")
    other.positions += [0.0, 0.0, 8.0]
    assert radicals((Atoms("H") if first == "H" else molecule(first)) + other) == found
    assert radicals(molecule(second)) == ""  # alone: no pair
