"""A rough Hessian from the structure alone: springs along bonds, across angles and about torsions.

It preconditions iterations on the true Hessian and costs no HVP. R. Lindh, A. Bernhardsson, G. Karlström and P.-Å.
Malmqvist, Chem. Phys. Lett. 241, 423 (1995), doi:10.1016/0009-2614(95)00646-L; added is a weak spring between all atoms
that are near, so that molecules which only touch are held as well.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from scipy import sparse

from phl_ase.lattice import reduced_lattice
from phl_ase.types import Array

_STRETCH, _BEND, _TORSION = 0.45, 0.15, 0.005  # Hartree/Bohr², Hartree
# by rows of the periodic table, hydrogen's first, everything from the third on taken together; Bohr⁻², Bohr
_DECAY = np.array([[1.0, 0.3949, 0.3949], [0.3949, 0.28, 0.28], [0.3949, 0.28, 0.28]])
_LENGTH = np.array([[1.35, 2.10, 2.53], [2.10, 2.87, 3.40], [2.53, 3.40, 3.40]])
_BONDED = 0.02  # of a bond's strength: pairs below take no part in angles and torsions
_MOST_BONDS = 40  # of an atom on average: torsions grow with its third power, and no matter has so many
_NEGLIGIBLE = 0.01  # angles and torsions weaker than this part of the strongest are left out
_STRAIGHT = 0.1  # sine of an angle below which it has no plane
_CONTACT = 30.0  # eV/Å² of the weak springs where atoms touch; falls with the sixth power of the distance
_CONTACT_START = 2.0  # in sums of covalent radii: nearer atoms are held by the rest
_REACH = 4.0  # in sums of covalent radii


def model_hessian(atoms: Atoms) -> sparse.csr_array:
    """Return the model Hessian ``(3n, 3n)``, eV/Å², positive semidefinite; periodic where the structure is."""
    reach = _REACH * covalent_radii[atoms.numbers]
    # ASE looks through as many images as the planes of the lattice lie near each other
    lattice = reduced_lattice(np.array(atoms.cell), atoms.pbc, str(atoms.symbols))[0] if atoms.pbc.any() else None
    i, j, vectors = neighbor_list("ijD", Atoms(atoms.numbers, atoms.positions, cell=lattice, pbc=atoms.pbc), reach)
    distances = np.linalg.norm(vectors, axis=1)
    row = np.clip(np.searchsorted([2, 10], atoms.numbers), 0, 2)
    decay, length = _DECAY[row[i], row[j]], _LENGTH[row[i], row[j]]
    strengths = np.minimum(np.exp(decay * (length**2 - (distances / units.Bohr) ** 2)), 2.0)
    relative = distances / (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]])
    contact = _CONTACT * np.maximum(relative, _CONTACT_START) ** -6
    stretch = _STRETCH * units.Hartree / units.Bohr**2 * strengths + contact
    once = i < j
    once |= (i == j) & (vectors @ np.array([1.0, 1e-3, 1e-6]) > 0)
    unit = vectors / distances[:, None]
    parts = [_springs(len(atoms), stretch[once], (j[once], unit[once]), (i[once], -unit[once]))]
    bonded = strengths > _BONDED
    if np.count_nonzero(bonded) <= _MOST_BONDS * len(atoms):
        edges = _Edges(i[bonded], j[bonded], unit[bonded], distances[bonded], strengths[bonded], len(atoms))
        parts += [_bends(edges), _torsions(edges)]
    root = sparse.vstack(parts).tocsr()
    return (root.T @ root).tocsr()


class _Edges:
    """Directed bonds sorted by their first atom, and all pairs of them that leave one atom."""

    def __init__(self, i: Array, j: Array, unit: Array, distance: Array, strength: Array, n: int) -> None:
        self.i, self.j, self.unit, self.distance, self.strength, self.n = i, j, unit, distance, strength, n
        self.first = np.searchsorted(i, np.arange(n + 1))

    def leaving(self, atoms: Array) -> tuple[Array, Array]:
        """Every edge that leaves each of some atoms: (place in ``atoms``, edge)."""
        counts = self.first[atoms + 1] - self.first[atoms]
        place = np.repeat(np.arange(len(atoms)), counts)
        within = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return place, self.first[atoms][place] + within


def _bends(edges: _Edges) -> sparse.csr_array:
    a, b = edges.leaving(edges.i)
    strength = edges.strength[a] * edges.strength[b]
    cosine = np.einsum("ex,ex->e", edges.unit[a], edges.unit[b])
    sine = np.sqrt(np.maximum(1 - cosine**2, 0))
    chosen = (a < b) & (strength > _NEGLIGIBLE) & (sine > _STRAIGHT)
    a, b, cosine, sine = a[chosen], b[chosen], cosine[chosen, None], sine[chosen, None]
    of_a = (cosine * edges.unit[a] - edges.unit[b]) / (sine * edges.distance[a, None])
    of_b = (cosine * edges.unit[b] - edges.unit[a]) / (sine * edges.distance[b, None])
    stiffness = _BEND * units.Hartree * strength[chosen]
    return _springs(edges.n, stiffness, (edges.j[a], of_a), (edges.j[b], of_b), (edges.i[a], -of_a - of_b))


def _torsions(edges: _Edges) -> sparse.csr_array:
    middle = np.nonzero((edges.i < edges.j) & (edges.strength > 0.1))[0]
    place, a = edges.leaving(edges.i[middle])
    again, b = edges.leaving(edges.j[middle[place]])
    centre, a = middle[place[again]], a[again]
    strength = edges.strength[centre] * edges.strength[a] * edges.strength[b]
    normal_a, normal_b = np.cross(edges.unit[centre], edges.unit[a]), np.cross(edges.unit[centre], edges.unit[b])
    sine_a, sine_b = np.linalg.norm(normal_a, axis=1), np.linalg.norm(normal_b, axis=1)
    chosen = (strength > _NEGLIGIBLE) & (sine_a > _STRAIGHT) & (sine_b > _STRAIGHT) & (edges.j[a] != edges.j[b])
    centre, a, b = centre[chosen], a[chosen], b[chosen]
    # rotating an end atom about the axis; the atoms of the axis take up the torque
    lever_a, lever_b = (sine[chosen, None] for sine in (sine_a, sine_b))
    of_a = normal_a[chosen] / (lever_a**2 * edges.distance[a, None])
    of_b = -normal_b[chosen] / (lever_b**2 * edges.distance[b, None])
    axis = edges.distance[centre, None]
    share_a = np.einsum("ex,ex->e", edges.unit[a], edges.unit[centre])[:, None] * edges.distance[a, None] / axis
    share_b = np.einsum("ex,ex->e", edges.unit[b], edges.unit[centre])[:, None] * edges.distance[b, None] / axis
    of_i = -(1 - share_a) * of_a + share_b * of_b
    of_j = -of_a - of_b - of_i
    ends = ((edges.j[a], of_a), (edges.j[b], of_b), (edges.i[centre], of_i), (edges.j[centre], of_j))
    return _springs(edges.n, _TORSION * units.Hartree * strength[chosen], *ends)


def _springs(n: int, stiffness: Array, *ends: tuple[Array, Array]) -> sparse.csr_array:
    """Rows √k ∂q/∂r ``(springs, 3n)`` of internal coordinates q, given by their derivatives at each atom."""
    rows = np.concatenate([np.repeat(np.arange(len(stiffness)), 3) for _ in ends])
    columns = np.concatenate([(3 * atom[:, None] + np.arange(3)).ravel() for atom, _ in ends])
    values = np.concatenate([(np.sqrt(stiffness)[:, None] * slope).ravel() for _, slope in ends])
    return sparse.coo_array((values, (rows, columns)), shape=(len(stiffness), 3 * n)).tocsr()
