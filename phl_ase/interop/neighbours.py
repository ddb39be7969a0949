"""Neighbour lists of all systems of a batch at once, on the device that the positions are on: no loop over systems.

Atoms are sorted into bins at least as wide as the cutoff (one bin where the system is small), each atom looks through
the bins around its own, and a bin beyond the edge of a periodic direction is that of the other side with a lattice
shift. Atoms of narrow cells look through as many images as the cutoff reaches.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from phl_ase.errors import PHLError
from phl_ase.lattice import OVERLAP
from phl_ase.structures import Neighbours
from phl_ase.structures.neighbours import most_neighbours

_BINS_PER_ATOM = 8
"""Bins beyond which they are made wider: a system that flew apart needs no more."""


def batched_neighbours(
    positions: Float[Tensor, "atoms 3"],
    system: Int[Tensor, " atoms"],
    cell: Float[Tensor, "systems 3 3"],
    pbc: Bool[Tensor, "3"],
    cutoff: float,
) -> Neighbours:
    """Return all ordered pairs (i, j) of one system with |r_j + S·cell − r_i| < cutoff, sorted by i.

    Args:
        positions: Å, wrapped into the cell or not.
        system: Index of each atom's system, ascending from 0.
        cell: Å, rows are lattice vectors; those of directions that are not periodic are not read.
        pbc: Periodic directions, the same for every system.
        cutoff: Å; infinite for all pairs of molecules.

    Returns:
        The pairs; shifts in the dtype of the positions, ``None`` where nothing is periodic.

    Raises:
        PHLError: For overlapping atoms, a periodic direction without a lattice vector, more neighbours than matter can
            have, or periodic systems and an infinite cutoff (the error names the first system).
    """
    periodic = bool(pbc.any())
    if periodic and cutoff == float("inf"):
        raise PHLError("the systems are periodic, but the model sums over all pairs of a molecule; expected molecules")
    # pairs are decided in float64, whatever the potential computes in
    bins = _Bins(positions.detach().double(), system, _boxes(cell.detach().double(), pbc), pbc, cutoff)
    i, j, shifts, squared = bins.pairs()
    if len(squared) and float(squared.min()) < OVERLAP**2:
        worst = int(squared.argmin())
        which = int(system[i[worst]])
        first = int(torch.searchsorted(system, which))
        raise PHLError(
            f"system {which}: atoms {int(i[worst]) - first} and {int(j[worst]) - first} are "
            f"{float(squared[worst]) ** 0.5:.2g} Å apart; expected at least {OVERLAP} Å: remove the duplicate atom"
        )
    return Neighbours(i, j, shifts.to(positions.dtype) if periodic else None)


def _boxes(cell: Tensor, pbc: Tensor) -> Tensor:
    """Cells with orthonormal vectors in the place of those of directions that are not periodic."""
    rows = torch.nonzero(pbc).flatten()
    box = torch.zeros_like(cell)
    if len(rows) < 3:
        others = torch.nonzero(~pbc).flatten()
        # what is orthogonal to the periodic rows: the last columns of Q; of no rows, the axes
        q = (
            torch.linalg.qr(cell[:, rows].mT, mode="complete").Q
            if len(rows)
            else torch.eye(3, dtype=cell.dtype, device=cell.device).expand_as(cell)
        )
        box[:, others] = q[:, :, len(rows) :].mT
    box[:, rows] = cell[:, rows]
    return box


class _Bins:
    """Atoms sorted into bins of their systems, in fractional coordinates.

    Args:
        r: Positions, Å.
        system: Index of each atom's system.
        box: Invertible cells, Å.
        pbc: Periodic directions.
        cutoff: Å.
    """

    def __init__(self, r: Tensor, system: Tensor, box: Tensor, pbc: Tensor, cutoff: float) -> None:
        self.system, self.box, self.pbc, self.cutoff = system, box, pbc, cutoff
        n_systems, inverse = len(box), torch.linalg.inv_ex(box).inverse
        fractional = torch.einsum("na,nab->nb", r, inverse.index_select(0, system))
        self.wrapped = torch.where(pbc, fractional.floor(), 0.0)  # cells that each atom is away from its image at home
        self.home = r - torch.einsum("na,nab->nb", self.wrapped, box.index_select(0, system))
        fractional = fractional - self.wrapped
        # the range that atoms are in: a whole cell where periodic, what they take up elsewhere
        index = system.unsqueeze(-1).expand(-1, 3)
        low = box.new_zeros(n_systems, 3).scatter_reduce(0, index, fractional, "amin", include_self=False)
        high = box.new_zeros(n_systems, 3).scatter_reduce(0, index, fractional, "amax", include_self=False)
        low, extent = torch.where(pbc, 0.0, low), torch.where(pbc, 1.0, high - low)
        # distance between the planes that bound it
        heights = extent / torch.linalg.vector_norm(inverse, dim=1)
        atoms = torch.bincount(system, minlength=n_systems).double().unsqueeze(-1)
        # bins along each direction: as many as fit, and not many more in all than atoms need
        most = atoms * _BINS_PER_ATOM
        count = torch.minimum((heights / cutoff).floor(), most).clamp(min=1.0)
        excess = (count.prod(-1, keepdim=True) / most).clamp(min=1.0)
        count = (count / excess.pow(1.0 / 3.0)).floor().clamp(min=1.0)
        tiny = torch.finfo(heights.dtype).tiny
        reach = torch.ceil(cutoff * count / heights.clamp(min=tiny))
        self.reach = torch.where(pbc, reach, torch.minimum(reach, count - 1)).long()
        self.count, self.thickness = count.long(), heights / count
        self._check_room(atoms.squeeze(-1))
        # in units of bins; the last one takes what lies on its far edge
        self.place = (fractional - low[system]) / extent.clamp(min=tiny)[system] * count[system]
        self.bin = torch.minimum(self.place.floor().long(), self.count[system] - 1)
        sizes = self.count.prod(-1)
        self.first_bin = torch.cumsum(sizes, 0) - sizes
        number = self._number(self.bin, system)
        self.order = torch.argsort(number, stable=True)
        self.filled = torch.bincount(number, minlength=int(sizes.sum()))
        self.start = torch.cumsum(self.filled, 0) - self.filled

    def _check_room(self, atoms: Tensor) -> None:
        """Refuse cells without a volume, and those so small or flat that atoms have far too many neighbours.

        In one test: a GPU is waited for once.
        """
        bins = (2.0 * self.reach.double() + 1.0).prod(-1)
        met = bins * atoms / self.count.double().prod(-1)
        no_volume = ~(torch.linalg.det(self.box).abs() >= 1e-8)
        # the sphere within the cutoff takes a sixth of the 27 bins around an atom, and less of a skewed cell's
        refused = no_volume | ~(met <= 10.0 * most_neighbours(self.cutoff))
        if not bool(refused.any()):
            return
        which = int(torch.nonzero(refused)[0])
        cell = f"pbc is {self.pbc.tolist()} but its periodic lattice vectors"
        if bool(no_volume[which]):
            raise PHLError(f"system {which}: {cell} span no volume; set the cell")
        raise PHLError(
            f"system {which}: {cell} {self.box[which][self.pbc].tolist()} have {float(bins[which]):.1g} images within "
            f"{self.cutoff:g} Å of an atom, more than any matter has; set the cell (if it is skewed: "
            "ase.geometry.minkowski_reduce)"
        )

    def _number(self, place: Tensor, system: Tensor) -> Tensor:
        count = self.count.index_select(0, system)
        return self.first_bin[system] + (place[:, 0] * count[:, 1] + place[:, 1]) * count[:, 2] + place[:, 2]

    def pairs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pairs within the cutoff sorted by the first atom, shifts of the second, squares of their distances."""
        # all bins with a corner within the cutoff of an atom: their numbers, and their lattice shifts
        width = 2 * self.reach + 1
        atom, rank = _ragged(width.prod(-1)[self.system])
        system = self.system[atom]
        w = width[system]
        steps = torch.stack([rank // (w[:, 1] * w[:, 2]), rank // w[:, 2] % w[:, 1], rank % w[:, 2]], -1)
        target, count = self.bin[atom] + steps - self.reach[system], self.count[system]
        place = self.place[atom]
        gaps = torch.maximum(target - place, place - (target + 1)) * self.thickness[system]
        turns = torch.where(self.pbc, torch.div(target, count, rounding_mode="floor"), 0)
        target = target - turns * count
        kept = torch.nonzero(((gaps < self.cutoff) & (target >= 0) & (target < count)).all(-1)).flatten()
        atom, number, turns = atom[kept], self._number(target[kept], system[kept]), turns[kept]
        # the atoms in them
        offset = torch.einsum("na,nab->nb", turns.double(), self.box[self.system[atom]]) - self.home[atom]
        row, rank = _ragged(self.filled[number])
        j = self.order[self.start[number][row] + rank]
        squared = (self.home[j] + offset[row]).square().sum(-1)
        # an atom is no neighbour of itself, but of its images
        found = (squared < self.cutoff**2) & ((atom[row] != j) | turns.any(-1)[row])
        kept = torch.nonzero(found).flatten()
        row, j = row[kept], j[kept]
        i = atom[row]
        # from images at home to the positions as they are
        shifts = turns[row] + (self.wrapped[i] - self.wrapped[j]).long()
        return i, j, shifts, squared[kept]


def _ragged(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Owner and rank of each element of lists of these lengths, one list after the other."""
    owner = torch.repeat_interleave(counts)
    return owner, torch.arange(len(owner), device=counts.device) - (torch.cumsum(counts, 0) - counts)[owner]
