"""Paths over a potential-energy surface: minima, transition states; on any ASE calculator."""

from phl_ase.paths.geometry import displaced, rmsd
from phl_ase.paths.transition_state import Relaxation, TransitionStateSearch, find_transition_state, relax

__all__ = [
    "Relaxation",
    "TransitionStateSearch",
    "displaced",
    "find_transition_state",
    "relax",
    "rmsd",
]
