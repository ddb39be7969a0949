"""Validators: what a chemist wants of a potential, scored against a reference; any ASE calculator, never torch.

A validator takes a calculator and a ``hessian(atoms)`` callable, so density functionals, semi-empirical methods and
trained models are scored by the same code, and returns a :class:`phl_ase.results.Report`. A search or a calculation
that fails is an outcome in it, not an exception; exceptions are the caller's own mistakes.
"""

from phl_ase.validators.accuracy import (
    ScoredFrames,
    accuracy_report,
    displacements,
    predict,
    score_batches,
    validate_accuracy,
)
from phl_ase.validators.frequencies import ReferenceCurvature, validate_frequencies, validate_relaxed_frequencies
from phl_ase.validators.funnel import Funnel, funnels
from phl_ase.validators.irc import ReferencePath, validate_irc
from phl_ase.validators.phonons import validate_phonons
from phl_ase.validators.reference import ReferenceReaction, StationaryPoint
from phl_ase.validators.transition_state import validate_transition_state

__all__ = [
    "Funnel",
    "ReferenceCurvature",
    "ReferencePath",
    "ReferenceReaction",
    "ScoredFrames",
    "StationaryPoint",
    "accuracy_report",
    "displacements",
    "funnels",
    "predict",
    "score_batches",
    "validate_accuracy",
    "validate_frequencies",
    "validate_irc",
    "validate_phonons",
    "validate_relaxed_frequencies",
    "validate_transition_state",
]
