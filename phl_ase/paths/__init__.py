"""Paths over a potential-energy surface: minima, transition states, reaction paths, on any ASE calculator."""

from phl_ase.paths.arc_length import arc_length
from phl_ase.paths.end_points import (
    Connection,
    Identification,
    connects,
    identify,
    molecular_graph,
    radicals,
    same_graph,
)
from phl_ase.paths.geometry import aligned, displaced, rmsd
from phl_ase.paths.guess import GUESSES, PATH_METHODS, PathMethod, TransitionStateGuess, guess_transition_state
from phl_ase.paths.irc import INTEGRATORS, follow_irc
from phl_ase.paths.optimisation import Relaxation, relax
from phl_ase.paths.reaction import Reaction, ReactionEnd, find_reaction, relax_to_minimum
from phl_ase.paths.reaction_path import Direction, ReactionPath
from phl_ase.paths.strategies import LADDERS, RECOMMENDED, STRATEGIES, Strategy, search, search_in_turn
from phl_ase.paths.transition_state import TransitionStateSearch, find_transition_state

__all__ = [
    "GUESSES",
    "INTEGRATORS",
    "LADDERS",
    "PATH_METHODS",
    "RECOMMENDED",
    "STRATEGIES",
    "Connection",
    "Direction",
    "Identification",
    "PathMethod",
    "Reaction",
    "ReactionEnd",
    "ReactionPath",
    "Relaxation",
    "Strategy",
    "TransitionStateGuess",
    "TransitionStateSearch",
    "aligned",
    "arc_length",
    "connects",
    "displaced",
    "find_reaction",
    "find_transition_state",
    "follow_irc",
    "guess_transition_state",
    "identify",
    "molecular_graph",
    "radicals",
    "relax",
    "relax_to_minimum",
    "rmsd",
    "same_graph",
    "search",
    "search_in_turn",
]
