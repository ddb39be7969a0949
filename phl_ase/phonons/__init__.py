"""Phonons by phonopy from Hessian-vector products: supercells, force constants, bands, densities of states, files.

NumPy, ASE and phonopy only; what gives the HVPs may be any ASE calculator (:mod:`phl_ase.curvature`).
"""

from phl_ase.phonons.bands import Phonons, band_path, phonons_of
from phl_ase.phonons.files import (
    read_force_constants,
    read_phonopy_yaml,
    write_force_constants,
    write_phonopy_yaml,
)
from phl_ase.phonons.force_constants import ForceConstants, displaced_force_constants, force_constants
from phl_ase.phonons.supercell import check_crystal, make_phonopy, parse_supercell, supercell_atoms

__all__ = [
    "ForceConstants",
    "Phonons",
    "band_path",
    "check_crystal",
    "displaced_force_constants",
    "force_constants",
    "make_phonopy",
    "parse_supercell",
    "phonons_of",
    "read_force_constants",
    "read_phonopy_yaml",
    "supercell_atoms",
    "write_force_constants",
    "write_phonopy_yaml",
]
