"""Harmonic vibrations from a Cartesian Hessian, whatever made it: a model, a force field, quantum chemistry.

``analysis`` projects and diagonalises, ``thermodynamics`` sums over the modes, ``matching`` compares two sets of them,
``modes`` shows one, ``differences`` makes Hessians of forces; ``constraints`` says what may move, ``rigid`` what is no
vibration, ``checked`` checks Hessians and HVPs wherever they come from.
Of large structures ``lowest`` finds the softest modes and ``stochastic`` sums over all of them, from HVPs alone.
"""

from phl_ase.vibrations.analysis import IMAGINARY_THRESHOLD, HarmonicAnalysis, harmonic_analysis
from phl_ase.vibrations.checked import checked_hvps, checked_vectors
from phl_ase.vibrations.constraints import FreeMotions, free_atoms, free_motions
from phl_ase.vibrations.differences import finite_difference_hessian
from phl_ase.vibrations.lowest import LowestModes, lowest_modes
from phl_ase.vibrations.matching import ModeMatch, match_modes
from phl_ase.vibrations.modes import mode_trajectory
from phl_ase.vibrations.molden import molden_text
from phl_ase.vibrations.rigid import rigid_motions, rigid_motions_of
from phl_ase.vibrations.stochastic import ProbeEstimate, StochasticSpectrum, stochastic_spectrum
from phl_ase.vibrations.symmetry import symmetry_number
from phl_ase.vibrations.thermodynamics import THERMOCHEMISTRY_MODELS, Thermochemistry, thermochemistry

__all__ = [
    "IMAGINARY_THRESHOLD",
    "THERMOCHEMISTRY_MODELS",
    "FreeMotions",
    "HarmonicAnalysis",
    "LowestModes",
    "ModeMatch",
    "ProbeEstimate",
    "StochasticSpectrum",
    "Thermochemistry",
    "checked_hvps",
    "checked_vectors",
    "finite_difference_hessian",
    "free_atoms",
    "free_motions",
    "harmonic_analysis",
    "lowest_modes",
    "match_modes",
    "mode_trajectory",
    "molden_text",
    "rigid_motions",
    "rigid_motions_of",
    "stochastic_spectrum",
    "symmetry_number",
    "thermochemistry",
]
