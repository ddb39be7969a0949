"""Every potential the tests run over, and small structures to run them on."""

from __future__ import annotations

import numpy as np
import torch

from phl_ase.potentials import Committee, Harmonic, LennardJones, Morse, PaiNN, PaiNNConfig, Sum
from phl_ase.structures import Frame


def painn(seed: int = 0, species=(1, 6, 8), channels: int = 8, **config) -> PaiNN:
    """A small PaiNN in float64, its random weights scaled to curvatures of eV/Å²."""
    config = {"layers": 2, "n_basis": 6, "cutoff": 4.0} | config
    model = PaiNN(PaiNNConfig(species, channels=channels, **config), torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        model.filters.weight.mul_(2.0)
    return model


def painn_with_references() -> PaiNN:
    model = painn()
    model.set_references(torch.tensor([-13.6, -1035.0, -2043.0]), 2.5)
    return model


def morse(cutoff: float = 4.0) -> Morse:
    return Morse(depth=0.9, steepness=1.6, length=1.3, cutoff=cutoff)


ANALYTIC = {
    "harmonic": lambda: Harmonic(stiffness=3.0, length=1.2, cutoff=3.5),
    "morse": morse,
    "lennard-jones": lambda: LennardJones(epsilon=0.3, sigma=1.1, cutoff=4.0),
}

POTENTIALS = {
    **ANALYTIC,
    "painn": painn_with_references,
    "painn-core": lambda: painn(core="zbl"),
    "sum": lambda: Sum([painn(1), morse(5.0)]),
    "committee": lambda: Committee([painn(1), painn(2)]),
}


def cluster(rng: np.random.Generator, n: int, *, species=(1, 6, 8), **fields) -> Frame:
    """A random molecule on a jittered grid of 1.2 Å."""
    grid = np.array([[x, y, z] for x in range(3) for y in range(3) for z in range(3)], dtype=float)
    positions = 1.2 * grid[rng.permutation(27)[:n]] + rng.uniform(-0.1, 0.1, size=(n, 3))
    return Frame(numbers=rng.choice(species, size=n), positions=positions, **fields)


def crystal(rng: np.random.Generator, n: int = 4) -> Frame:
    """A triclinic cell smaller than the cutoffs: atoms see their own images."""
    cell = np.array([[3.0, 0.0, 0.0], [0.4, 3.2, 0.0], [-0.3, 0.5, 3.4]])
    scaled = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])[:n]
    positions = (scaled + rng.uniform(-0.05, 0.05, size=(n, 3))) @ cell
    return Frame(numbers=np.resize([1, 6, 8], n), positions=positions, cell=cell, pbc=np.ones(3, dtype=bool))


def mixed(rng: np.random.Generator) -> list[Frame]:
    """Molecules of different size, one atom alone, and a cell among them."""
    frames = [cluster(rng, 3), cluster(rng, 1), crystal(rng), cluster(rng, 5)]
    return [Frame(**{**vars(f), "frame_id": 10 + k}) for k, f in enumerate(frames)]
