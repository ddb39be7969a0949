"""From a guess of a transition state to a data set: TS, reaction path, minima, samples, labels, on any ASE calculator.

``build`` makes tasks of the stages of reactions, ``stages`` does one, ``memory`` keeps every calculation; ``summary``
and ``packing`` tell what was found; ``samplers`` draw structures around a given one.
"""

from phl_ase.reactions.build import BuildResult, build_reactions, read_reactions
from phl_ase.reactions.guesses import ReactionGuess
from phl_ase.reactions.samplers import SAMPLERS, Sampler, Samples, draw_normal_modes, sample
from phl_ase.reactions.settings import ReactionSettings, read_strategy
from phl_ase.reactions.summary import BUILD_OUTCOMES, ReactionResult

__all__ = [
    "BUILD_OUTCOMES",
    "SAMPLERS",
    "BuildResult",
    "ReactionGuess",
    "ReactionResult",
    "ReactionSettings",
    "Sampler",
    "Samples",
    "build_reactions",
    "draw_normal_modes",
    "read_reactions",
    "read_strategy",
    "sample",
]
