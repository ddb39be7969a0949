"""Validators: what a chemist wants of a potential, scored against a reference; any ASE calculator, never torch.

A validator takes a calculator and a ``hessian(atoms)`` callable, so density functionals, semi-empirical methods and
trained models are scored by the same code, and returns a :class:`phl_ase.results.Report`. A search or a calculation
that fails is an outcome in it, not an exception; exceptions are the caller's own mistakes.
"""

from phl_ase.validators.accuracy import displacements, predict, validate_accuracy
from phl_ase.validators.frequencies import validate_frequencies
from phl_ase.validators.transition_state import EndPoint, validate_transition_state

__all__ = [
    "EndPoint",
    "displacements",
    "predict",
    "validate_accuracy",
    "validate_frequencies",
    "validate_transition_state",
]
