"""Phonons of a crystal from its force constants: bands along a path, density of states, thermal properties.

All by phonopy. Frequencies are in THz (ν, not ω), imaginary ones negative. Energies are for one primitive cell. The
non-analytic correction of polar crystals (LO-TO splitting) is not made.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.cell import Cell

from phl_ase.errors import NonFiniteError, PHLError, reason_of
from phl_ase.phonons.force_constants import ForceConstants
from phl_ase.phonons.supercell import fresh, has_isotopes
from phl_ase.units import convert

if TYPE_CHECKING:
    from phonopy import Phonopy

Array = np.ndarray

MESH = (20, 20, 20)
THERMAL_TEMPERATURES = tuple(float(t) for t in range(0, 1001, 20))
NEARLY_ZERO = 0.01
"""THz; a mode counts as imaginary below minus this, and takes no part in thermal properties below it."""


@dataclass(frozen=True, eq=False, repr=False)
class Phonons:
    """Phonons of one crystal and one potential.

    Attributes:
        distances: Along the path ``(points,)``, Å⁻¹.
        frequencies: ``(points, bands)``, THz, ascending at each point, imaginary ones negative.
        qpoints: ``(points, 3)`` in reciprocal vectors of the primitive cell.
        label_distances: Where the special points stand ``(labels,)``, Å⁻¹.
        labels: Their names, ``G`` for Γ; two at the same place are a break of the path.
        dos_frequencies: ``(samples,)`` THz.
        dos: States per THz and primitive cell ``(samples,)``.
        mesh_frequencies: ``(mesh points, bands)`` THz, of the symmetry-distinct points.
        mesh_weights: How many points of the mesh each stands for ``(mesh points,)``.
        temperatures: ``(temperatures,)`` K.
        free_energy: Helmholtz energy of the phonons, zero-point energy in it, eV per primitive cell.
        entropy: eV/K per primitive cell.
        heat_capacity: At constant volume, eV/K per primitive cell.
        gamma_acoustic: The three frequencies at Γ that should be zero ``(3,)``, THz, smallest modulus first.
        force_constants: What they were computed from.
    """

    distances: Array
    frequencies: Array
    qpoints: Array
    label_distances: Array
    labels: tuple[str, ...]
    dos_frequencies: Array
    dos: Array
    mesh_frequencies: Array
    mesh_weights: Array
    temperatures: Array
    free_energy: Array
    entropy: Array
    heat_capacity: Array
    gamma_acoustic: Array
    force_constants: ForceConstants

    def __repr__(self) -> str:
        n_points, n_bands = self.frequencies.shape
        low, high = self.mesh_frequencies.min(), self.mesh_frequencies.max()
        return (
            f"<Phonons {n_bands} bands at {n_points} points along {''.join(self.labels)}: {low:.2f} to {high:.2f} THz, "
            f"{self.n_imaginary} imaginary>"
        )

    @property
    def n_imaginary(self) -> int:
        """Modes of the whole mesh that are imaginary."""
        return int(self.mesh_weights @ np.count_nonzero(self.mesh_frequencies < -NEARLY_ZERO, axis=1))

    def at_temperature(self, values: Array, temperature: float) -> float:
        """Return a thermal property at a temperature, linear between those that were computed.

        Raises:
            PHLError: For a temperature outside.
        """
        low, high = self.temperatures[0], self.temperatures[-1]
        if not low <= temperature <= high:
            raise PHLError(f"temperature {temperature} K was not computed; expected {low:g} to {high:g} K")
        return float(np.interp(temperature, self.temperatures, values))


def checked_mesh(mesh: Sequence[int]) -> list[int]:
    """Return the points of a mesh of the Brillouin zone along each axis.

    Raises:
        PHLError: For anything but three whole numbers of at least 1.
    """
    numbers = np.asarray(mesh)
    if numbers.shape != (3,) or np.any(numbers != np.rint(numbers)) or np.any(numbers < 1):
        raise PHLError(f"mesh is {list(mesh)}; expected three whole numbers of at least 1")
    return [int(n) for n in numbers]


def phonons_of(
    phonon: Phonopy,
    found: ForceConstants,
    *,
    path: str | None = None,
    points: int = 200,
    mesh: Sequence[int] = MESH,
    temperatures: Sequence[float] = THERMAL_TEMPERATURES,
) -> Phonons:
    """Return bands, density of states and thermal properties.

    Args:
        phonon: Crystal and supercell; it is not changed.
        found: Force constants of it.
        path: Special points, for example ``"GXWG,L"``; ASE's own path for the lattice by default.
        points: On the whole path, about.
        mesh: Of the Brillouin zone, centred at Γ.
        temperatures: K, ascending.

    Returns:
        The phonons.

    Raises:
        PHLError: For a path or mesh that does not fit, or force constants of another crystal.
        NonFiniteError: For NaN or infinity in the frequencies.
    """
    mesh = checked_mesh(mesh)
    kelvin = np.asarray(temperatures, dtype=float)
    if kelvin.ndim != 1 or not len(kelvin) or not np.all(np.isfinite(kelvin)) or np.any(kelvin < 0):
        raise PHLError(f"temperatures are {list(temperatures)}; expected numbers of at least 0 K")
    if np.any(np.diff(kelvin) <= 0):
        raise PHLError("temperatures are not ascending; sort them")
    qpoints, distances, marks, labels = band_path(phonon, path, points=points)
    # phonopy's results are None until they are computed, which they are here
    own: Any = fresh(phonon)
    try:
        own.force_constants = found.values
    except RuntimeError as error:
        expected = (len(own.primitive), len(own.supercell), 3, 3)
        raise PHLError(f"force constants have shape {found.values.shape}; expected {expected}") from error
    own.run_qpoints(np.vstack([qpoints, np.zeros(3)]))
    at_points = np.array(own.qpoints.frequencies)
    if not np.all(np.isfinite(at_points)):
        raise NonFiniteError("the phonon frequencies hold NaN or infinity; check the force constants")
    at_gamma = at_points[-1]
    own.run_mesh(mesh, is_gamma_center=True, is_mesh_symmetry=not has_isotopes(own.primitive))
    own.run_total_dos()
    with warnings.catch_warnings():
        # phonopy warns of acoustic modes at Γ that are not zero: they are reported here by their own metric
        warnings.simplefilter("ignore")
        own.run_thermal_properties(temperatures=kelvin, cutoff_frequency=NEARLY_ZERO)
    thermal, scale = own.thermal_properties, convert(1.0, "kJ/mol", "eV")  # from kJ/mol and J/(mol K)
    return Phonons(
        distances=distances,
        frequencies=at_points[:-1],
        qpoints=qpoints,
        label_distances=marks,
        labels=labels,
        dos_frequencies=np.array(own.total_dos.frequency_points),
        dos=np.array(own.total_dos.dos),
        mesh_frequencies=np.array(own.mesh.frequencies),
        mesh_weights=np.array(own.mesh.weights, dtype=int),
        temperatures=kelvin,
        gamma_acoustic=at_gamma[np.argsort(np.abs(at_gamma), kind="stable")[:3]],
        force_constants=found,
        free_energy=scale * np.array(thermal.free_energy),
        entropy=1e-3 * scale * np.array(thermal.entropy),
        heat_capacity=1e-3 * scale * np.array(thermal.heat_capacity),
    )


def band_path(
    phonon: Phonopy, path: str | None = None, *, points: int = 200
) -> tuple[Array, Array, Array, tuple[str, ...]]:
    """Return a path through the Brillouin zone of the primitive cell, by ``ase.cell.Cell.bandpath``.

    Args:
        phonon: The crystal.
        path: Special points, for example ``"GXWG,L"``; ASE's own path for the lattice by default.
        points: On the whole path, about.

    Returns:
        q points ``(points, 3)`` in reciprocal vectors, distances along the path ``(points,)`` Å⁻¹, where the special
        points stand ``(labels,)`` Å⁻¹, and their names.

    Raises:
        PHLError: For a path that the lattice does not have.
    """
    if points < 2:
        raise PHLError(f"points is {points}; expected at least 2 on the path")
    if path is not None and not path.strip():
        raise PHLError("the path is empty; expected special points such as 'GXWG', or None for that of the lattice")
    try:
        band = Cell(np.array(phonon.primitive.cell)).bandpath(path, npoints=points)
    except (KeyError, ValueError, RuntimeError, AssertionError) as error:
        reason = reason_of(error)
        raise PHLError(
            f"no path {'' if path is None else repr(path) + ' '}for this lattice ({reason}); expected special points "
            "such as 'GXWG' (ase.cell.Cell.bandpath().special_points lists them)"
        ) from error
    distances, marks, labels = band.get_linear_kpoint_axis()
    return np.array(band.kpts), np.array(distances), np.array(marks), tuple(map(str, labels))
