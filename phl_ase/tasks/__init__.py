"""Tasks of a chemist with any ASE calculator: frequencies, transition states, reactions.

Each task is one function that takes structures with a calculator and returns a result with numbers, a table and what is
written to files. ``phl freq``, ``phl ts``, ``phl irc`` and ``phl reaction`` are these functions on the command line.
"""

from phl_ase.tasks.frequencies import Frequencies, frequencies
from phl_ase.tasks.profile import ProfilePoint, ReactionProfile, reaction_profile
from phl_ase.tasks.search import JoiningSearch, check_ends, search_between, search_from

__all__ = [
    "Frequencies",
    "JoiningSearch",
    "ProfilePoint",
    "ReactionProfile",
    "check_ends",
    "frequencies",
    "reaction_profile",
    "search_between",
    "search_from",
]
