"""The pair dispersion of ωB97X-D: energy, gradient and Hessian in closed form.

J.-D. Chai, M. Head-Gordon, Phys. Chem. Chem. Phys. 10, 6615 (2008), doi:10.1039/B810189B:

    E = −s6 Σ_{i<j} C6_ij / R_ij⁶ · 1 / (1 + a (R_ij / R0_ij)⁻¹²),   s6 = 1, a = 6

with the coefficients of S. Grimme, J. Comput. Chem. 27, 1787 (2006), doi:10.1002/jcc.20495 (table 1): C6_ij the
geometric mean, R0_ij the sum of the atoms' values. In u = R² a pair is −C6 u³ / (u⁶ + A) with A = a R0¹²: nothing is
singular, however close the atoms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from ase.units import J, mol, nm

from phl_ase.errors import NonFiniteError, PHLError

Array = np.ndarray

STEEPNESS = 6.0
"""a of the damping function."""

# atomic number -> C6 (J nm⁶/mol), R0 (Å); scandium to zinc and yttrium to cadmium share one value, filled in below
_PARAMETERS: dict[int, tuple[float, float]] = {
    1: (0.14, 1.001),
    2: (0.08, 1.012),
    3: (1.61, 0.825),
    4: (1.61, 1.408),
    5: (3.13, 1.485),
    6: (1.75, 1.452),
    7: (1.23, 1.397),
    8: (0.70, 1.342),
    9: (0.75, 1.287),
    10: (0.63, 1.243),
    11: (5.71, 1.144),
    12: (5.71, 1.364),
    13: (10.79, 1.639),
    14: (9.23, 1.716),
    15: (7.84, 1.705),
    16: (5.57, 1.683),
    17: (5.07, 1.639),
    18: (4.61, 1.595),
    19: (10.80, 1.485),
    20: (10.80, 1.474),
    **dict.fromkeys(range(21, 31), (10.80, 1.562)),
    31: (16.99, 1.650),
    32: (17.10, 1.727),
    33: (16.37, 1.760),
    34: (12.64, 1.771),
    35: (12.47, 1.749),
    36: (12.01, 1.727),
    37: (24.67, 1.628),
    38: (24.67, 1.606),
    **dict.fromkeys(range(39, 49), (24.67, 1.639)),
    49: (37.32, 1.672),
    50: (38.71, 1.804),
    51: (38.44, 1.881),
    52: (31.74, 1.892),
    53: (31.50, 1.892),
    54: (29.99, 1.881),
}
_C6_UNIT = J / mol * nm**6


@dataclass(frozen=True, eq=False)
class Dispersion:
    """Dispersion of a molecule of n atoms.

    Attributes:
        energy: eV, negative.
        gradient: ∂E/∂R ``(n, 3)`` eV/Å.
        hessian: ``(3n, 3n)`` eV/Å², symmetric, its rows summing to zero over atoms.
    """

    energy: float
    gradient: Array
    hessian: Array


def check_elements(numbers: Array) -> None:
    """Refuse elements that the parametrisation leaves out.

    Raises:
        PHLError: Naming them.
    """
    absent = sorted({int(z) for z in numbers} - set(_PARAMETERS))
    if absent:
        names = ", ".join(chemical_symbols[z] for z in absent)
        raise PHLError(f"the dispersion of wB97X-D has no parameters for {names}; it covers H to Xe: use a functional "
                       "without it, for example b3lyp")  # fmt: skip


def chai_head_gordon(numbers: Array, positions: Array) -> Dispersion:
    """Return the dispersion energy of a molecule and its first and second derivatives.

    Args:
        numbers: Atomic numbers ``(n,)``, H to Xe.
        positions: ``(n, 3)`` Å.

    Raises:
        PHLError: For an element without parameters or positions of another shape.
        NonFiniteError: For NaN or infinite positions.
    """
    numbers, positions = np.asarray(numbers, dtype=int), np.asarray(positions, dtype=float)
    n = len(numbers)
    if positions.shape != (n, 3):
        raise PHLError(f"positions have shape {positions.shape}; expected {(n, 3)} for {n} atoms")
    if not np.all(np.isfinite(positions)):
        raise NonFiniteError("positions hold NaN or infinity; expected finite numbers")
    check_elements(numbers)
    c6, r0 = np.array([_PARAMETERS[z] for z in numbers.tolist()]).reshape(n, 2).T
    i, j = np.triu_indices(n, k=1)
    separation = positions[i] - positions[j]
    strength = np.sqrt(c6[i] * c6[j]) * _C6_UNIT
    # energy of pairs and its derivatives in u = R² (Å²)
    u, damping = np.sum(separation**2, axis=1), STEEPNESS * (r0[i] + r0[j]) ** 12
    whole = u**6 + damping
    value = -strength * u**3 / whole
    slope = -3.0 * strength * u**2 * (damping - u**6) / whole**2
    bend = -3.0 * strength * (
        (2.0 * damping * u - 8.0 * u**7) / whole**2 - 12.0 * u**7 * (damping - u**6) / whole**3
    )  # fmt: skip

    gradient = np.zeros((n, 3))
    np.add.at(gradient, i, 2.0 * slope[:, None] * separation)
    np.add.at(gradient, j, -2.0 * slope[:, None] * separation)
    # of a function of u = |r|²: ∂²/∂r∂r = 4 E'' r rᵀ + 2 E' 1
    blocks = 4.0 * bend[:, None, None] * separation[:, :, None] * separation[:, None, :]
    blocks += 2.0 * slope[:, None, None] * np.eye(3)
    hessian = np.zeros((n, n, 3, 3))
    for row, column, sign in ((i, i, 1.0), (j, j, 1.0), (i, j, -1.0), (j, i, -1.0)):
        np.add.at(hessian, (row, column), sign * blocks)
    square = np.ascontiguousarray(hessian.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n))
    return Dispersion(float(value.sum()), gradient, square)
