"""The objective: loss terms and training schemes (design: arXiv:2603.04523)."""

from phl_ase.objective.compiled import CompiledLoss
from phl_ase.objective.displaced import predictions_by_differences
from phl_ase.objective.schemes import REGIMES, SCHEMES, Scheme, check_regime, scheme, with_curvature_targets
from phl_ase.objective.terms import TERMS, LossTerm, mean_square, register_term, terms

__all__ = [
    "REGIMES",
    "SCHEMES",
    "TERMS",
    "CompiledLoss",
    "LossTerm",
    "Scheme",
    "check_regime",
    "mean_square",
    "predictions_by_differences",
    "register_term",
    "scheme",
    "terms",
    "with_curvature_targets",
]
