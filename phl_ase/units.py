"""Units: eV, Å, amu and e inside; everything else is converted here, from one table of dimensions.

Constants come from ASE's CODATA set, so that numbers round-trip through ASE exactly.
"""

from __future__ import annotations

import unicodedata

import numpy as np
from ase import units as _ase

from phl_ase.errors import unknown

_ENERGIES = {
    "eV": 1.0,
    "meV": 1e-3,
    "Ha": _ase.Hartree,
    "mHa": 1e-3 * _ase.Hartree,
    "Ry": _ase.Rydberg,
    "kcal/mol": _ase.kcal / _ase.mol,
    "kJ/mol": _ase.kJ / _ase.mol,
}
_LENGTHS = {"Å": 1.0, "Bohr": _ase.Bohr, "nm": 10.0, "pm": 0.01}
_QUOTIENTS = {"force": ("", 1), "hessian": ("²", 2), "stress": ("³", 3)}
"""Dimension -> (superscript, power) of the length that an energy is divided by."""

# unit name -> (dimension, size in the internal unit of that dimension)
_UNITS: dict[str, tuple[str, float]] = {
    **{name: ("energy", size) for name, size in _ENERGIES.items()},
    **{name: ("length", size) for name, size in _LENGTHS.items()},
    **{
        f"{energy}/{length}{superscript}": (dimension, of_energy / of_length**power)
        for dimension, (superscript, power) in _QUOTIENTS.items()
        for energy, of_energy in _ENERGIES.items()
        for length, of_length in _LENGTHS.items()
    },
    "GPa": ("stress", _ase.GPa),
    "kbar": ("stress", 0.1 * _ase.GPa),
    "bar": ("stress", 1e-4 * _ase.GPa),
}

# as programs and people write them, in lower case -> as the table has them
_SPELLINGS = {
    **{
        name.lower(): name for name in ("eV", "Ha", "Ry", "kcal", "kJ", "mol", "Bohr", "nm", "pm", "GPa", "kbar", "bar")
    },
    **dict.fromkeys(("hartree", "hartrees", "eh"), "Ha"),
    **dict.fromkeys(("mhartree", "mha"), "mHa"),
    **dict.fromkeys(("rydberg", "rydbergs"), "Ry"),
    **dict.fromkeys(("å", "a", "ang", "angstrom", "angstroms", "ångström"), "Å"),
    **dict.fromkeys(("a0", "bohrs"), "Bohr"),
}


def canonical(unit: str) -> str:
    """Return a unit as the table of this module writes it: ``hartree/bohr^2`` as ``Ha/Bohr²``.

    Args:
        unit: Any spelling; one that is unknown is returned as it is.
    """
    # NFC: the sign for Ångström, U+212B, is the letter Å
    plain = unicodedata.normalize("NFC", unit.strip()).replace("**", "^").replace("^2", "²").replace("^3", "³")
    parts = []
    for part in plain.split("/"):
        base = part.strip().rstrip("²³")
        known = base if base in _UNITS else _SPELLINGS.get(base.lower(), base)
        parts.append(known + part.strip()[len(base) :])
    return "/".join(parts)


def convert(value, unit: str, to: str):
    """Convert a number or an array between two units of the same dimension.

    Args:
        value: A number or an array.
        unit: The unit it is in: an energy (eV, Ha, kcal/mol, …), a length (Å, Bohr, …), an energy over a power of a
            length, GPa or kbar; see :func:`canonical` for other spellings.
        to: The unit wanted.

    Raises:
        PHLError: For an unknown unit or two units of different dimension.
    """
    unit, to = canonical(unit), canonical(to)
    for name in (unit, to):
        if name not in _UNITS:
            kinds = ("an energy/length", "energy/length² or energy/length³ of these")
            raise unknown("unit", name, [*_ENERGIES, *_LENGTHS, "GPa", "kbar", "bar", *kinds])
    (dimension, size), (target_dimension, target_size) = _UNITS[unit], _UNITS[to]
    if dimension != target_dimension:
        raise unknown(f"unit of {dimension}", to, [n for n, (d, _) in _UNITS.items() if d == dimension])
    return value * (size / target_size)


def wavenumbers(eigenvalues):
    """Return harmonic wavenumbers of mass-weighted Hessian eigenvalues.

    Args:
        eigenvalues: Eigenvalues of M^-½ H M^-½ in eV/(Å² amu), any shape.

    Returns:
        Wavenumbers in cm⁻¹, the imaginary ones as negative numbers, same shape.
    """
    eigenvalues = np.asarray(eigenvalues, dtype=float)
    scale = _ase._hbar * 1e10 / np.sqrt(_ase._e * _ase._amu) / _ase.invcm
    return np.sign(eigenvalues) * scale * np.sqrt(np.abs(eigenvalues))
