"""phl_ase: machine-learned potentials whose curvature is right.

Projected Hessian Learning (arXiv:2603.04523) for training, an ASE calculator for use, validators for judgement.
Names are imported when first used, so that ``import phl_ase`` is fast.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "PHLCalculator": "phl_ase.calculator",
    "PHLError": "phl_ase.errors",
    "check_potential": "phl_ase.conformance",
    "load_model": "phl_ase.potentials",
    "open_dataset": "phl_ase.datasets",
}

__all__ = ["PHLCalculator", "PHLError", "__version__", "check_potential", "load_model", "open_dataset"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'phl_ase' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
