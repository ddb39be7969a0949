"""Derivatives of any potential: forces, stress, Hessian-vector products, Hessians, from one place."""

from phl_ase.derivatives.device import choose_device
from phl_ase.derivatives.eager import evaluate
from phl_ase.derivatives.graph import GradientGraph, stress_of
from phl_ase.derivatives.hessian import sparse_hessian
from phl_ase.derivatives.memory import CPU_CHUNK, default_budget, rows_per_chunk
from phl_ase.derivatives.modes import own_modes

__all__ = [
    "CPU_CHUNK",
    "GradientGraph",
    "choose_device",
    "default_budget",
    "evaluate",
    "own_modes",
    "rows_per_chunk",
    "sparse_hessian",
    "stress_of",
]
