"""Analytic pair potentials with Hessians derived by hand: for tests, for teaching, and as parts of sums.

Energy Σ_pairs φ(r) u(r/r_c), u the envelope of ``radial`` (three derivatives vanish at the cutoff). The Hessian of one
pair is φ″ û ûᵀ + (φ′/r)(1 − û ûᵀ), here with φ u in the place of φ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from phl_ase.errors import PHLError
from phl_ase.potentials.radial import envelope
from phl_ase.structures import Batch

_POWER = 6


class PairPotential(nn.Module, ABC):
    """A sum over pairs, the same for every element; periodic systems see every image within the cutoff.

    Parameters are float64 ``nn.Parameter`` scalars, so that losses can be differentiated in them.

    Args:
        cutoff: Å.
        **parameters: Positive numbers.

    Raises:
        PHLError: For a cutoff or a parameter that is not a positive number.
    """

    species: tuple[int, ...] = ()
    derivative_modes = ("func", "batched", "loop")
    takes_charge = False

    def __init__(self, cutoff: float, **parameters: float) -> None:
        super().__init__()
        for name, value in {**parameters, "cutoff": cutoff}.items():
            if not 0 < value < float("inf"):
                raise PHLError(f"{type(self).__name__} {name} is {value}; expected a positive number")
        self.cutoffs = (float(cutoff),)
        self.receptive_field = float(cutoff)
        for name, value in parameters.items():
            setattr(self, name, nn.Parameter(torch.tensor(value, dtype=torch.float64, device="cpu")))

    @abstractmethod
    def pair_energy(self, r: Float[Tensor, " edges"]) -> Float[Tensor, " edges"]:
        """φ(r) without the envelope, eV."""

    @abstractmethod
    def pair_slopes(self, r: Float[Tensor, " edges"]) -> tuple[Float[Tensor, " edges"], Float[Tensor, " edges"]]:
        """φ′ (eV/Å) and φ″ (eV/Å²), derived by hand."""

    def forward(self, batch: Batch) -> Float[Tensor, " systems"]:
        """Return energies in eV, float64."""
        (cutoff,) = self.cutoffs
        r = batch.vectors(cutoff).square().sum(-1).sqrt()
        # every pair stands twice in the list
        halves = 0.5 * (self.pair_energy(r) * envelope(r / cutoff, _POWER)).double()
        atomic = halves.new_zeros(len(batch.numbers)).index_add(0, batch.neighbours[cutoff].i, halves)
        if batch.atom_mask is not None:
            atomic = atomic * batch.atom_mask
        return atomic.new_zeros(batch.n_systems).index_add(0, batch.system, atomic)

    @torch.no_grad()
    def closed_form_hessian(self, batch: Batch) -> Float[Tensor, "systems dense dense"]:
        """Return the Hessians without automatic differentiation, eV/Å², laid out as ``Predictions.hessian``."""
        (cutoff,) = self.cutoffs
        pairs, vectors = batch.neighbours[cutoff], batch.vectors(cutoff)
        r = vectors.square().sum(-1).sqrt()
        energy, (first, second) = self.pair_energy(r), self.pair_slopes(r)
        x, p = r / cutoff, _POWER
        # u′ ∝ x^(p−1) (1 − x)³: the polynomial's coefficients are those that make it so
        scale = -p * (p + 1) * (p + 2) * (p + 3) / 6
        u = envelope(x, p)
        u1 = scale * x ** (p - 1) * (1 - x) ** 3 / cutoff
        u2 = scale * x ** (p - 2) * (1 - x) ** 2 * ((p - 1) * (1 - x) - 3 * x) / cutoff**2
        first, second = first * u + energy * u1, second * u + 2 * first * u1 + energy * u2
        unit = vectors / r.unsqueeze(-1)
        along = unit.unsqueeze(-1) * unit.unsqueeze(-2)
        across = torch.eye(3, dtype=r.dtype, device=r.device) - along
        blocks = 0.5 * (second.reshape(-1, 1, 1) * along + (first / r).reshape(-1, 1, 1) * across)
        n = int(batch.sizes().max())
        row, column = batch.slot[pairs.i], batch.slot[pairs.j]
        origin = batch.system[pairs.i] * n * n
        dense = blocks.new_zeros(batch.n_systems * n * n, 3, 3)
        for a, b, sign in ((row, row, 1.0), (column, column, 1.0), (row, column, -1.0), (column, row, -1.0)):
            dense = dense.index_add(0, origin + a * n + b, sign * blocks)
        return dense.reshape(-1, n, n, 3, 3).transpose(2, 3).reshape(-1, 3 * n, 3 * n)


class Harmonic(PairPotential):
    """Springs ½ k (r − r₀)² between all pairs within the cutoff, under the envelope.

    Args:
        stiffness: k, eV/Å².
        length: r₀, Å.
        cutoff: Å.
    """

    stiffness: Tensor
    length: Tensor

    def __init__(self, *, stiffness: float, length: float, cutoff: float) -> None:
        super().__init__(cutoff, stiffness=stiffness, length=length)

    def pair_energy(self, r: Tensor) -> Tensor:
        """½ k (r − r₀)²."""
        return 0.5 * self.stiffness * (r - self.length).square()

    def pair_slopes(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Slope k (r − r₀) and curvature k."""
        return self.stiffness * (r - self.length), self.stiffness.expand_as(r)


class Morse(PairPotential):
    """D [(1 − e)² − 1], e = exp(−a (r − r₀)) (P. M. Morse, Phys. Rev. 34, 57 (1929)), under the envelope.

    Args:
        depth: D, eV.
        steepness: a, Å⁻¹.
        length: r₀, Å.
        cutoff: Å.
    """

    depth: Tensor
    steepness: Tensor
    length: Tensor

    def __init__(self, *, depth: float, steepness: float, length: float, cutoff: float) -> None:
        super().__init__(cutoff, depth=depth, steepness=steepness, length=length)

    def _decay(self, r: Tensor) -> Tensor:
        return torch.exp(-self.steepness * (r - self.length))

    def pair_energy(self, r: Tensor) -> Tensor:
        """D (e² − 2e)."""
        e = self._decay(r)
        return self.depth * (e * e - 2.0 * e)

    def pair_slopes(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """2aD (e − e²) and 2a²D (2e² − e)."""
        e, a = self._decay(r), self.steepness
        return 2.0 * a * self.depth * (e - e * e), 2.0 * a * a * self.depth * (2.0 * e * e - e)


class LennardJones(PairPotential):
    """4 ε [(σ/r)¹² − (σ/r)⁶] (J. E. Lennard-Jones, Proc. Phys. Soc. 43, 461 (1931)), under the envelope.

    Args:
        epsilon: Well depth, eV.
        sigma: Distance at which the bare potential crosses zero, Å.
        cutoff: Å; beyond about 3 σ the envelope changes the well little.
    """

    epsilon: Tensor
    sigma: Tensor

    def __init__(self, *, epsilon: float, sigma: float, cutoff: float) -> None:
        super().__init__(cutoff, epsilon=epsilon, sigma=sigma)

    def pair_energy(self, r: Tensor) -> Tensor:
        """4 ε (s² − s), s = (σ/r)⁶."""
        s = (self.sigma / r) ** 6
        return 4.0 * self.epsilon * (s * s - s)

    def pair_slopes(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """24 ε (s − 2s²)/r and 24 ε (26 s² − 7s)/r²."""
        s = (self.sigma / r) ** 6
        return 24.0 * self.epsilon * (s - 2.0 * s * s) / r, 24.0 * self.epsilon * (26.0 * s * s - 7.0 * s) / r**2
