"""PaiNN's messages as products of small dense matrices, for batches in blocks: the same numbers but for rounding.

A filter is linear in the radial functions, W_c(r) = Σ_b w_bc B_b(r), so that a message is Σ_j B_b(r_ij) (w_bc x_jc)
summed over b: a product of a matrix of geometry ``(rows, rows · basis)`` with one of features
``(rows · basis, channels)`` in each system. Nothing of the size pairs × channels is ever made. Before the first message
an atom's features are those of its species: there the sum over neighbours of one species is geometry alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from phl_ase.structures import BlockedNeighbours


class PairMoments:
    """Radial functions of all pairs, as they are and times the unit vector: four moments of each.

    Args:
        moments: (B, B·x, B·y, B·z) of each pair.
        pairs: The pairs.
        rows: Of each system.
        species: Row of each atom in the tables of species.
        n_species: Rows of these tables.
    """

    def __init__(
        self,
        moments: Float[Tensor, "edges 4 basis"],
        pairs: BlockedNeighbours,
        rows: int,
        species: Int[Tensor, " atoms"],
        n_species: int,
    ) -> None:
        self.moments, self.pairs, self.rows = moments, pairs, rows
        self.species, self.n_species = species, n_species

    def by_species(self) -> Float[Tensor, "atoms 4 functions"]:
        """Moments summed over the neighbours of each species; functions are species × basis."""
        atoms, basis = self.species.shape[0], self.moments.shape[-1]
        place = self.pairs.i * self.n_species + self.species.index_select(0, self.pairs.j)
        flat = self.moments.reshape(self.moments.shape[0], 4 * basis)
        sums = flat.new_zeros(atoms * self.n_species, 4 * basis).index_add(0, place, flat)
        return sums.reshape(atoms, self.n_species, 4, basis).transpose(1, 2).reshape(atoms, 4, self.n_species * basis)

    def blocks(self) -> tuple[Float[Tensor, "systems rows columns"], Float[Tensor, "systems rows3 columns"]]:
        """Matrices from (neighbour, basis) to atoms, and with the unit vector to (atom, axis)."""
        n, basis = self.rows, self.moments.shape[-1]
        systems = self.species.shape[0] // n
        # images of one atom add up. Not by one index into rows²: symbolic shapes do not cancel squares when they are
        # compiled, and sums over channels would run over axes of unknown length
        place = (self.pairs.i, self.pairs.j % n)
        flat = self.moments.reshape(self.moments.shape[0], 4 * basis)
        grid = flat.new_zeros(systems * n, n, 4 * basis).index_put(place, flat, accumulate=True)
        scalar, vector = grid.reshape(systems, n, n, 4, basis).transpose(2, 3).split([1, 3], dim=2)
        return scalar.reshape(systems, n, n * basis), vector.reshape(systems, 3 * n, n * basis)


def first_messages(
    density: Float[Tensor, "atoms 4 functions"], x: Float[Tensor, "species width"], weight: Float[Tensor, "basis width"]
) -> tuple[Tensor, Tensor]:
    """Scalar ``(atoms, channels)`` and vector ``(atoms, 3, channels)`` messages from features of the species alone."""
    features = (x.unsqueeze(1) * weight).flatten(0, 1)
    along_scalar, along_vector = features.split(x.shape[-1] // 2, dim=-1)
    scalar, vector = density.split([1, 3], dim=1)
    # flat, as products of three axes are of fixed size in traces of torch 2.11
    along = vector.flatten(0, 1) @ along_vector
    return scalar.squeeze(1) @ along_scalar, along.reshape(density.shape[0], 3, along_vector.shape[-1])


def later_messages(
    blocks: tuple[Tensor, Tensor],
    x: Float[Tensor, "atoms width"],
    v: Float[Tensor, "atoms 3 channels"],
    weight: Float[Tensor, "basis width"],
) -> tuple[Tensor, Tensor]:
    """Return messages from the features of atoms: scalars, scalars along the unit vector, and vectors let through."""
    scalar, vector = blocks
    (systems, n, _), channels, atoms = scalar.shape, v.shape[-1], x.shape[0]
    x_scalar, x_along, x_through = x.split(channels, dim=-1)
    w_scalar, w_along, w_through = weight.split(channels, dim=-1)
    four = torch.cat([x_scalar.unsqueeze(1), x_through.unsqueeze(1) * v], dim=1)
    w_four = torch.stack([w_scalar, w_through, w_through, w_through], dim=1)
    # in two steps: symbolic shapes do not cancel when systems, rows and basis change places at once
    features = (four.unsqueeze(1) * w_four).reshape(systems, n, -1, 4 * channels).flatten(1, 2)
    along = (x_along.unsqueeze(1) * w_along).reshape(systems, n, -1, channels).flatten(1, 2)
    ds, through = torch.bmm(scalar, features).reshape(atoms, 4, channels).split([1, 3], dim=1)
    return ds.squeeze(1), torch.bmm(vector, along).reshape(atoms, 3, channels) + through
