"""Ends of a path: the molecular graph first, then the geometry, atom by atom.

Two atoms are bonded when they are nearer than ``BOND_SCALE`` times the sum of their covalent radii (B. Cordero et al.,
Dalton Trans. 2832 (2008), doi:10.1039/b801115j, as in ASE). The graph alone cannot tell the two sides of an inversion
or a rotation apart; the geometry alone, in a complex of fragments that float, says too much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.paths.geometry import rmsd

if TYPE_CHECKING:
    import networkx

BOND_SCALE = 1.3
_LOOSE = 1.7  # in place of BOND_SCALE where a bond is only long
"""Times the sum of covalent radii: H₂ (0.74 Å, its radii 0.62 Å) needs more than 1.2."""

SAME_STRUCTURE_WITHIN = 0.15
"""Two structures with the same bonds count as the same within this RMS displacement, Å."""

# Å: minima relaxed from both sides that are one structure agree better than this; the two hands of H2O2 may be 0.15 Å
# apart and are two.
_ONE_STRUCTURE = 0.03

# of the tetrahedron that four bonds of unit length span, times six: 3.1 for methane, 0 where they lie in a plane
_FLAT_CENTRE = 1.0

CONNECTIONS: dict[str, str] = {
    "connects": "the two directions reach the reactant and the product",
    "right bonds": "the two directions reach the bonds of reactant and product, in another conformation",
    "same end": "both directions reach the same structure",
    "one end": "only one direction reaches the structure that it should",
    "other ends": "neither direction reaches the reactant or the product",
}
"""Relation of the ends of a path to the intended ones -> its meaning."""


@dataclass(frozen=True)
class Identification:
    """A structure's match among several references.

    Attributes:
        name: The reference that it is; ``None`` when it is none of them.
        nearest: The reference that comes nearest: one with the same bonds before one without, then by distance.
        rmsd: RMS displacement from the nearest one, Å.
        fragments_rmsd: The largest of its molecules' own RMS displacements, Å; ``rmsd`` where it is a single molecule.
        same_bonds: Whether the same atoms are bonded as in the nearest one.
        same_molecules: Whether the graphs agree when like atoms may be exchanged: the weaker statement.
        sentence: Which criterion decided.
    """

    name: str | None
    nearest: str
    rmsd: float
    fragments_rmsd: float
    same_bonds: bool
    same_molecules: bool
    sentence: str


@dataclass(frozen=True)
class Connection:
    """The relation of a path's two ends to a reactant and a product.

    Attributes:
        outcome: A name in ``CONNECTIONS``.
        flipped: Whether the backward end is the product's.
        backward: What the backward end is.
        forward: What the forward end is.
    """

    outcome: str
    flipped: bool
    backward: Identification
    forward: Identification

    @property
    def connected(self) -> bool:
        """Return whether it is the reaction that is meant: the outcome is ``"connects"`` or ``"right bonds"``."""
        return self.outcome in ("connects", "right bonds")

    @property
    def sentence(self) -> str:
        """Return what was found at both ends."""
        ends = f"backward: {self.backward.sentence}; forward: {self.forward.sentence}"
        return f"{CONNECTIONS[self.outcome]} ({ends})"


def molecular_graph(atoms: Atoms, *, scale: float = BOND_SCALE) -> networkx.Graph:
    """Atoms as nodes with their ``element``, bonds as edges; fragments are the graph's connected components.

    Args:
        atoms: The structure; in periodic directions bonds go to the nearest image.
        scale: Two atoms are bonded below this times the sum of their covalent radii.

    Raises:
        PHLError: For a scale that is not positive.
        NonFiniteError: For NaN or infinite positions.
    """
    if not scale > 0:
        raise PHLError(f"scale is {scale!r}; expected a positive number, for example {BOND_SCALE}")
    if not np.all(np.isfinite(atoms.positions)):
        raise NonFiniteError("a position is NaN or infinite; expected finite numbers (did an optimiser explode?)")
    import networkx  # half a second, so not before it is needed

    graph = networkx.Graph()
    graph.add_nodes_from((index, {"element": symbol}) for index, symbol in enumerate(atoms.symbols))
    radii = np.array(natural_cutoffs(atoms, mult=scale))
    distances = atoms.get_all_distances(mic=bool(np.any(atoms.pbc)))
    bonded = np.triu(distances < radii[:, None] + radii, k=1)
    graph.add_edges_from((int(i), int(j)) for i, j in np.argwhere(bonded))
    return graph


def same_graph(a: Atoms, b: Atoms, *, labelled: bool = True, scale: float = BOND_SCALE) -> bool:
    """Return whether two structures have the same bonds.

    Args:
        a: A structure.
        b: Another.
        labelled: Between the same atoms, by their place in the structure; otherwise between atoms of the same elements
            (a graph isomorphism), so that like atoms may have changed places.
        scale: See :func:`molecular_graph`.
    """
    import networkx

    first, second = (molecular_graph(atoms, scale=scale) for atoms in (a, b))
    if labelled:
        return dict(first.nodes.data("element")) == dict(second.nodes.data("element")) and _bonds(first) == _bonds(
            second
        )
    return bool(networkx.is_isomorphic(first, second, node_match=lambda x, y: x["element"] == y["element"]))


def same_structure(a: Atoms, b: Atoms) -> bool:
    """Return whether two relaxed structures are one: the same bonds, and no further apart than relaxations end."""
    return same_graph(a, b) and rmsd(a, b) <= _ONE_STRUCTURE


def order_doubts(reactant: Atoms, product: Atoms) -> tuple[str, ...]:
    """Return what suggests that a product lists like atoms in another order than its reactant.

    Such a slip turns a rotation into the exchange of two atoms, far above it in energy. None of the signs proves one:
    in a degenerate rearrangement like atoms do exchange places.

    Args:
        reactant: A molecule.
        product: The same atoms in the order of the reactant, as far as the user knows.

    Returns:
        One sentence for each sign; none for periodic structures.
    """
    if np.any(reactant.pbc) or np.any(product.pbc):
        return ()
    if not same_graph(reactant, product) and same_graph(reactant, product, labelled=False):
        broken, made = changed_bonds(reactant, product)
        return (
            f"reactant and product are one molecule with like atoms exchanged ({', '.join(broken)} would break, "
            f"{', '.join(made)} form); if that is not meant, list the product's atoms in the reactant's order",
        )
    graphs = [molecular_graph(atoms) for atoms in (reactant, product)]
    doubts = []
    before, after = map(_bonds, graphs)
    fewest, exchange = len(before ^ after), None
    for i, j in combinations(range(len(reactant)), 2):
        if reactant.symbols[i] == reactant.symbols[j]:
            places = {i: j, j: i}
            changed = len(before ^ {frozenset(places.get(atom, atom) for atom in bond) for bond in after})
            if changed < fewest:
                fewest, exchange = changed, (i, j)
    if exchange is not None:
        names = " and ".join(f"{reactant.symbols[atom]}{atom}" for atom in exchange)
        doubts.append(
            f"{len(before ^ after)} bonds break or form, but only {fewest} with {names} of the product exchanged; if "
            "that is meant, list the product's atoms in the reactant's order"
        )
    for atom in range(len(reactant)):
        around = sorted(graphs[0][atom])
        if len(around) != 4 or around != sorted(graphs[1][atom]):
            continue
        volumes = []
        for atoms in (reactant, product):
            arms = atoms.positions[around] - atoms.positions[atom]
            arms /= np.linalg.norm(arms, axis=1, keepdims=True)
            volumes.append(float(np.linalg.det(arms[1:] - arms[0])))
        symbols = [reactant.symbols[other] for other in around]
        if volumes[0] * volumes[1] < 0 and min(map(abs, volumes)) > _FLAT_CENTRE and len(set(symbols)) < 4:
            names = ", ".join(f"{symbol}{other}" for symbol, other in zip(symbols, around, strict=True))
            doubts.append(
                f"{reactant.symbols[atom]}{atom} turns inside out: {names} stay bonded to it, but in the product as in "
                "a mirror; if that is not meant, exchange two like atoms among them in one of the files"
            )
    return tuple(doubts)


def fragments(atoms: Atoms, *, scale: float = BOND_SCALE) -> int:
    """Number of molecules: connected components of :func:`molecular_graph`."""
    import networkx

    return int(networkx.number_connected_components(molecular_graph(atoms, scale=scale)))


def molecules(atoms: Atoms) -> str:
    """Return the formulas of the molecules of a structure, for example ``"C2H4 + C4H6"``."""
    import networkx

    pieces = networkx.connected_components(molecular_graph(atoms))
    return " + ".join(sorted(atoms[sorted(piece)].get_chemical_formula() for piece in pieces))


def radicals(atoms: Atoms) -> str:
    """Return the molecules of a neutral singlet where two of them have odd numbers of electrons; empty elsewhere.

    A closed-shell method does not describe such a pair. Bonds are seen loosely, so that stretched ones hold.
    """
    import networkx

    pieces = [sorted(piece) for piece in networkx.connected_components(molecular_graph(atoms, scale=_LOOSE))]
    odd = [atoms[piece] for piece in pieces if atoms.numbers[piece].sum() % 2]
    return " + ".join(sorted(one.get_chemical_formula() for one in odd)) if len(odd) > 1 else ""


def changed_bonds(before: Atoms, after: Atoms) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Bonds that a reaction breaks and those that it makes, each as ``"C0-H2"``.

    Args:
        before: The one end.
        after: The other, the same atoms in the same order.
    """
    first, second = (_bonds(molecular_graph(atoms)) for atoms in (before, after))

    def names(bonds: set[frozenset[int]]) -> tuple[str, ...]:
        pairs = sorted(tuple(sorted(bond)) for bond in bonds)
        return tuple(f"{before.symbols[i]}{i}-{before.symbols[j]}{j}" for i, j in pairs)

    return names(first - second), names(second - first)


def identify(
    atoms: Atoms, references: Mapping[str, Atoms], *, tolerance: float = SAME_STRUCTURE_WITHIN, floating: bool = True
) -> Identification:
    """Return which reference a structure is: the same bonds between the same atoms, within a tolerance.

    Neither like atoms nor the two hands are exchanged: the two sides of an inversion are different references. The
    molecules of a complex float on a surface so flat that two relaxations of the same complex end far apart: where its
    bonds are those of one reference alone, its molecules are compared one by one.

    Args:
        atoms: The structure.
        references: Name to structure, the same atoms in the same order.
        tolerance: Largest RMS displacement after alignment, Å.
        floating: Whether the molecules of a complex may be compared one by one.

    Raises:
        PHLError: For no references, or a reference of other atoms.
        NonFiniteError: For NaN or infinite positions.
    """
    import networkx

    if not references:
        raise PHLError("there are no references to compare with; expected at least one")
    distances = {name: rmsd(atoms, reference) for name, reference in references.items()}
    bonds = {name: same_graph(atoms, reference) for name, reference in references.items()}
    nearest = min(references, key=lambda name: (not bonds[name], distances[name]))
    apart = distances[nearest]
    if bonds[nearest]:  # each molecule of a complex aligned by itself
        parts = [sorted(part) for part in networkx.connected_components(molecular_graph(references[nearest]))]
        apart = max(rmsd(atoms[part], references[nearest][part]) for part in parts)
    alone = floating and sum(bonds.values()) == 1
    near = distances[nearest] <= tolerance or (alone and apart <= tolerance)
    molecules = bonds[nearest] or same_graph(atoms, references[nearest], labelled=False)
    if not bonds[nearest]:
        weaker = ", though the same molecules with like atoms exchanged" if molecules else ""
        sentence = f"other bonds than {nearest}{weaker}, {distances[nearest]:.3f} Å away"
    else:
        pieces = fragments(atoms)
        complex_of = f"; its {pieces} molecules, one by one, {apart:.3f} Å" if pieces > 1 else ""
        away = f"{distances[nearest]:.3f} Å away"
        sentence = f"{nearest}: the same bonds, {away}{complex_of}"
        if not near:
            sentence = f"the bonds of {nearest}, but {away}, more than {tolerance:g} Å{complex_of}"
    return Identification(
        name=nearest if bonds[nearest] and near else None,
        nearest=nearest,
        rmsd=distances[nearest],
        fragments_rmsd=apart,
        same_bonds=bonds[nearest],
        same_molecules=molecules,
        sentence=sentence,
    )


def connects(
    ends: tuple[Atoms, Atoms], reactant: Atoms, product: Atoms, *, tolerance: float = SAME_STRUCTURE_WITHIN
) -> Connection:
    """Return whether the two ends of a path are the reactant and the product, in either order.

    Args:
        ends: The backward and the forward end, relaxed.
        reactant: The one intended end.
        product: The other, the same atoms in the same order.
        tolerance: See :func:`identify`.

    Raises:
        PHLError: For structures of different atoms.
        NonFiniteError: For NaN or infinite positions.
    """
    references = {"reactant": reactant, "product": product}
    # where reactant and product have the same bonds, only the geometry of the whole can tell them apart
    floating = not same_graph(reactant, product)
    # each end as what it should be in either order; the order that fits better is taken
    orders = (("reactant", "product"), ("product", "reactant"))

    def compare(end: Atoms, name: str) -> Identification:
        """Return what an end is; where it is neither, how it compares with the one that it should be."""
        found = identify(end, references, tolerance=tolerance, floating=floating)
        if found.name is not None:
            return found
        return identify(end, {name: references[name]}, tolerance=tolerance, floating=floating)

    compared = [tuple(compare(end, name) for end, name in zip(ends, names, strict=True)) for names in orders]
    flipped = _misfit(compared[1], orders[1]) < _misfit(compared[0], orders[0])
    backward, forward = compared[flipped]
    found = [end.name == name for end, name in zip((backward, forward), orders[flipped], strict=True)]
    if all(found):
        outcome = "connects"
    elif same_structure(*ends):
        outcome = "same end"
    elif backward.same_bonds and forward.same_bonds and not same_graph(reactant, product):
        outcome = "right bonds"
    else:
        outcome = "one end" if any(found) else "other ends"
    return Connection(outcome, flipped, backward, forward)


def _misfit(ends: tuple[Identification, ...], names: tuple[str, ...]) -> tuple[int, int, float]:
    """Return how badly two ends fit what they should be: names, then bonds, then distance."""
    return (
        sum(end.name != name for end, name in zip(ends, names, strict=True)),
        sum(not end.same_bonds for end in ends),
        sum(end.rmsd for end in ends),
    )


def _bonds(graph: networkx.Graph) -> set[frozenset[int]]:
    return {frozenset(edge) for edge in graph.edges}
