"""Sparsity of Hessians: blocks that can differ from zero, and columns that can share an HVP.

An atom's energy depends on the atoms that messages reach it from: those within ``receptive_field`` / cutoff hops on the
neighbour graph. Two atoms have a second derivative only where a third one depends on both. Columns without a common row
can be had from one HVP (A. R. Curtis, M. J. D. Powell and J. K. Reid, IMA J. Appl. Math. 13, 117 (1974),
doi:10.1093/imamat/13.1.117): a colouring of the graph at distance two (A. H. Gebremedhin, F. Manne and A. Pothen, SIAM
Rev. 47, 629 (2005), doi:10.1137/S0036144504444711). Beyond the receptive field the number of colours stops growing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

from phl_ase.structures import Batch, Potential

Array = np.ndarray

SPARSE_FROM = 48
"""Atoms of the largest system from which zeros are looked for; below, the search costs more than the HVPs it saves."""

WORTHWHILE = 0.8
"""A colouring is taken where its HVPs are at most this part of all."""


@dataclass(frozen=True, eq=False)
class Sparsity:
    """The blocks of a Hessian that can differ from zero, and atoms grouped so that no row meets two of one colour.

    Attributes:
        pattern: Boolean ``(atoms, atoms)`` in CSR form, symmetric, sorted; its entries number the blocks.
        colours: Colour of each atom ``(atoms,)``, from 0.
    """

    pattern: sparse.csr_array
    colours: Array

    @property
    def n_colours(self) -> int:
        """Number of colours; a Hessian takes three HVPs for each."""
        return int(self.colours.max()) + 1

    @property
    def rows(self) -> Array:
        """Row atom of each block."""
        return np.repeat(np.arange(self.pattern.shape[0]), np.diff(self.pattern.indptr))

    @property
    def columns(self) -> Array:
        """Column atom of each block."""
        return self.pattern.indices

    def transposed(self) -> Array:
        """Place of the block (j, i) for each block (i, j)."""
        numbers = np.arange(1, len(self.columns) + 1)
        mirrored = sparse.csr_array((numbers, self.columns, self.pattern.indptr), self.pattern.shape).T.tocsr()
        mirrored.sort_indices()
        return mirrored.data - 1


def sparsity_of(potential: Potential, batch: Batch) -> Sparsity | None:
    """Return the sparsity of a batch's Hessians; ``None`` for a potential without a finite receptive field."""
    pattern = _pattern(potential, batch)
    return None if pattern is None else Sparsity(pattern, _colours(pattern))


def worthwhile_sparsity(potential: Potential, batch: Batch) -> Sparsity | None:
    """Return the sparsity where it saves HVPs, else ``None``."""
    n_max = int(batch.sizes().max())
    pattern = _pattern(potential, batch) if n_max >= SPARSE_FROM else None
    # every column of the fullest row needs a colour of its own
    if pattern is None or np.diff(pattern.indptr).max() > WORTHWHILE * n_max:
        return None
    found = Sparsity(pattern, _colours(pattern))
    return found if found.n_colours <= WORTHWHILE * n_max else None


def _pattern(potential: Potential, batch: Batch) -> sparse.csr_array | None:
    members = getattr(potential, "members", None)
    if members is not None:  # the curvature of a sum or a mean is that of its members
        patterns = [_pattern(member, batch) for member in members]
        found = [pattern for pattern in patterns if pattern is not None]
        return _sorted(sum(found[1:], start=found[0])) if len(found) == len(patterns) else None
    if not potential.cutoffs or not 0 < potential.receptive_field < math.inf:
        return None
    atoms, pairs = len(batch.numbers), [batch.neighbours[cutoff] for cutoff in potential.cutoffs]
    i, j = (
        np.concatenate([np.arange(atoms), *(getattr(part, end).cpu().numpy() for part in pairs)]) for end in ("i", "j")
    )
    adjacency = sparse.coo_array((np.ones(len(i), dtype=bool), (i, j)), shape=(atoms, atoms)).tocsr()
    # hops from an atom to what its energy depends on: none is shorter than the smallest cutoff allows
    hops = max(1, math.ceil(potential.receptive_field / min(potential.cutoffs) - 1e-9))
    reach = adjacency
    for _ in range(hops - 1):
        reach = reach @ adjacency
    return _sorted(reach @ reach)


def _sorted(pattern: sparse.csr_array) -> sparse.csr_array:
    pattern.sort_indices()
    return pattern


def _colours(pattern: sparse.csr_array) -> Array:
    """Greedy: along the graph's own length (Cuthill and McKee), which is best possible for a chain."""
    conflicts = pattern @ pattern
    colours = np.full(pattern.shape[0], -1)
    for atom in reverse_cuthill_mckee(pattern, symmetric_mode=True):
        taken = np.zeros(pattern.shape[0] + 1, dtype=bool)
        taken[colours[conflicts.indices[conflicts.indptr[atom] : conflicts.indptr[atom + 1]]]] = True
        taken[-1] = False  # the mark of atoms that have no colour yet
        colours[atom] = int(np.argmin(taken))
    return colours
