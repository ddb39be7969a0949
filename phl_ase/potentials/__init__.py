"""Potentials: energies of batches, nothing else."""

from phl_ase.potentials.painn import PaiNN, PaiNNConfig

__all__ = ["PaiNN", "PaiNNConfig"]
