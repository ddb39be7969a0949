"""Units: eV, Å, amu and e inside; everything else is converted here, from one table of dimensions.

Constants come from ASE's CODATA set, so that numbers round-trip through ASE exactly.
"""

from __future__ import annotations

import numpy as np
from ase import units as _ase

from phl_ase.errors import unknown

# unit name -> (dimension, size in the internal unit of that dimension)
_UNITS: dict[str, tuple[str, float]] = {
    "eV": ("energy", 1.0),
    "meV": ("energy", 1e-3),
    "Ha": ("energy", _ase.Hartree),
    "kcal/mol": ("energy", _ase.kcal / _ase.mol),
    "kJ/mol": ("energy", _ase.kJ / _ase.mol),
    "Å": ("length", 1.0),
    "Bohr": ("length", _ase.Bohr),
    "eV/Å": ("force", 1.0),
    "meV/Å": ("force", 1e-3),
    "Ha/Bohr": ("force", _ase.Hartree / _ase.Bohr),
    "eV/Å²": ("hessian", 1.0),
    "Ha/Bohr²": ("hessian", _ase.Hartree / _ase.Bohr**2),
    "eV/Å³": ("stress", 1.0),
    "GPa": ("stress", _ase.GPa),
}


def convert(value, unit: str, to: str):
    """Convert a number or an array between two units of the same dimension.

    Args:
        value: A number or an array.
        unit: The unit it is in; the valid names are the keys of the table in this module.
        to: The unit wanted.

    Raises:
        PHLError: For an unknown unit or two units of different dimension.
    """
    for name in (unit, to):
        if name not in _UNITS:
            raise unknown("unit", name, _UNITS)
    (dimension, size), (target_dimension, target_size) = _UNITS[unit], _UNITS[to]
    if dimension != target_dimension:
        raise unknown(f"unit of {dimension}", to, [n for n, (d, _) in _UNITS.items() if d == dimension])
    return value * (size / target_size)


def wavenumbers(eigenvalues):
    """Harmonic wavenumbers of mass-weighted Hessian eigenvalues.

    Args:
        eigenvalues: Eigenvalues of M^-½ H M^-½ in eV/(Å² amu), any shape.

    Returns:
        Wavenumbers in cm⁻¹, the imaginary ones as negative numbers, same shape.
    """
    eigenvalues = np.asarray(eigenvalues, dtype=float)
    scale = _ase._hbar * 1e10 / np.sqrt(_ase._e * _ase._amu) / _ase.invcm
    return np.sign(eigenvalues) * scale * np.sqrt(np.abs(eigenvalues))
