"""Repulsive cores, which keep atoms apart where a model has no data.

A core is a fixed sum over pairs, φ(r) u(r/r_c), with nothing to learn; a model adds to it. The envelope u is that of
``radial`` (three derivatives vanish at the cutoff, p = 6). The cutoff r_c of a pair is 0.8 times the sum of its
covalent radii, just below the triple bonds of C, N and O: bonds feel nothing of the core, and a model has nothing to
undo. Energies are float64 whatever the model's weights are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from ase.data import chemical_symbols, covalent_radii, missing
from jaxtyping import Float, Int
from torch import Tensor

from phl_ase.errors import PHLError, unknown
from phl_ase.potentials.model import KeepsFloat64
from phl_ase.units import convert

REACH = 0.8
"""Cutoff of a pair over the sum of its covalent radii.

With 1.0 ZBL's own φ″, of the pair where it is largest, is 66 eV/Å² on average over the bundled frames: as much as a
bond has, and a model learned Hessians more slowly. With 0.8 it is 0.2 eV/Å².
"""


class Core(KeepsFloat64, ABC):
    """A repulsion between pairs of atoms.

    Attributes:
        pair_cutoffs: Distance from which on a pair's energy is zero, ``(elements, elements)`` Å, by atomic numbers.

    Args:
        species: Atomic numbers it is used for.
        cutoff: Å, the largest that a pair may have: that of the model's neighbour list.

    Raises:
        PHLError: For an element whose covalent radius is not known.
    """

    pair_cutoffs: Tensor

    def __init__(self, species: tuple[int, ...], cutoff: float) -> None:
        super().__init__()
        strange = [chemical_symbols[z] for z in species if z >= len(covalent_radii) or covalent_radii[z] == missing]
        if strange:
            raise PHLError(f"no covalent radius is known of {', '.join(strange)}; expected core = 'none' with it")
        # of every element, so that atomic numbers are indices; not in model files: it is no result of training
        sums = torch.from_numpy(np.minimum(REACH * np.add.outer(covalent_radii, covalent_radii), cutoff))
        self.register_buffer("pair_cutoffs", sums, persistent=False)

    @abstractmethod
    def bare(self, r: Float[Tensor, " edges"], first: Int[Tensor, " edges"], second: Int[Tensor, " edges"]) -> Tensor:
        """φ(r) without the envelope, eV, float64.

        Args:
            r: Distances, Å, float64.
            first: Atomic numbers of the one atom.
            second: And of the other.
        """

    def forward(
        self, r: Float[Tensor, " edges"], first: Int[Tensor, " edges"], second: Int[Tensor, " edges"]
    ) -> Float[Tensor, " edges"]:
        """Return the energy of each pair, eV, float64; arguments as of :meth:`bare`, distances in any dtype."""
        r = r.double()
        x = r / self.pair_cutoffs[first, second]
        inside = x < 1.0
        # beyond the cutoff x stays 1: no powers of a large number
        x = torch.where(inside, x, 1.0)
        # ``radial.envelope`` of p = 6, as a product: exact near x = 1, where the sum of its terms loses digits
        envelope = (1.0 - x) ** 4 * (1.0 + x * (4.0 + x * (10.0 + x * (20.0 + x * (35.0 + x * 56.0)))))
        return torch.where(inside, self.bare(r, first, second) * envelope, 0.0)


_BOHR = convert(1.0, "Bohr", "Å")
_COULOMB = convert(1.0, "Ha", "eV") * _BOHR
"""e²/(4πε₀), eV Å."""

_SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
"""Ziegler, Biersack and Littmark's universal screening function: weights and decay constants."""


class ZBL(Core):
    """Screened repulsion of nuclei, e²Z₁Z₂/(4πε₀r) Σ c exp(−d r/a), a = 0.8854 a₀/(Z₁^0.23 + Z₂^0.23).

    J. F. Ziegler and J. P. Biersack, in Treatise on Heavy-Ion Science 6 (1985), doi:10.1007/978-1-4615-8103-1_3.
    """

    charge_powers: Tensor

    def __init__(self, species: tuple[int, ...], cutoff: float) -> None:
        super().__init__(species, cutoff)
        powers = torch.arange(len(covalent_radii), dtype=torch.float64, device="cpu") ** 0.23
        self.register_buffer("charge_powers", powers, persistent=False)

    def bare(self, r: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Return the screened repulsion, eV."""
        x = r * (self.charge_powers[first] + self.charge_powers[second]) / (0.8854 * _BOHR)
        screening = sum(weight * torch.exp(-decay * x) for weight, decay in _SCREENING)
        return _COULOMB / r * first * second * screening


CORES: dict[str, type[Core] | None] = {
    "none": None,
    "zbl": ZBL,
}
"""Name in a configuration or a model's card -> core; ``None`` where a model stands alone."""


def core_named(name: str, species: tuple[int, ...], cutoff: float) -> Core | None:
    """Return the core of a name.

    Args:
        name: Key of ``CORES``.
        species: Atomic numbers that the model knows.
        cutoff: Of the model's neighbour list, Å.

    Raises:
        PHLError: For an unknown name, listing the valid ones, or an element that has no covalent radius.
    """
    check_core(name)
    kind = CORES[name]
    return None if kind is None else kind(species, cutoff)


def check_core(name: str) -> None:
    """Check the name of a core.

    Raises:
        PHLError: For an unknown name, listing the valid ones.
    """
    if name not in CORES:
        raise unknown("core", name, CORES)
