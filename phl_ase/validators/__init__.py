"""Validators: what a chemist wants of a potential, scored against a reference; any ASE calculator, never torch.

A validator takes a calculator and a ``hessian(atoms)`` callable, so density functionals, semi-empirical methods and
trained models are scored by the same code, and returns a :class:`phl_ase.results.Report`. A search or a calculation
that fails is an outcome in it, not an exception; exceptions are the caller's own mistakes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from phl_ase.lazy import lazy_exports

if TYPE_CHECKING:
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

_HOMES = {
    "accuracy": ("ScoredFrames", "accuracy_report", "displacements", "predict", "score_batches", "validate_accuracy"),
    "frequencies": ("ReferenceCurvature", "validate_frequencies", "validate_relaxed_frequencies"),
    "funnel": ("Funnel", "funnels"),
    "irc": ("ReferencePath", "validate_irc"),
    "phonons": ("validate_phonons",),
    "reference": ("ReferenceReaction", "StationaryPoint"),
    "transition_state": ("validate_transition_state",),
}

__getattr__ = lazy_exports(__name__, _HOMES)
