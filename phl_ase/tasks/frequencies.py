"""Harmonic frequencies and thermochemistry of one structure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms

from phl_ase.curvature import curvature_of
from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.paths.irc import STATIONARY_WITHIN
from phl_ase.vibrations import HarmonicAnalysis, Thermochemistry, harmonic_analysis, symmetry_number, thermochemistry


@dataclass(frozen=True, eq=False)
class Frequencies:
    """Harmonic frequencies of one structure, and its thermochemistry where it is a free molecule.

    Attributes:
        energy: Potential energy, eV.
        largest_force: On an atom that is free to move, eV/Å.
        analysis: The modes.
        thermochemistry: Enthalpy, entropy and Gibbs energy; ``None`` for periodic structures and where atoms are held.
        curvature: Where the Hessian came from.
    """

    energy: float
    largest_force: float
    analysis: HarmonicAnalysis
    thermochemistry: Thermochemistry | None
    curvature: str

    @property
    def is_stationary(self) -> bool:
        """Return whether the largest force is small enough for frequencies to have a meaning."""
        return self.largest_force <= STATIONARY_WITHIN

    @property
    def nature(self) -> str:
        """``"minimum"``, ``"transition state"``, ``"saddle point of order k"`` or ``"not a stationary point"``."""
        if not self.is_stationary:
            return "not a stationary point"
        names = {0: "minimum", 1: "transition state"}
        return names.get(self.analysis.n_imaginary, f"saddle point of order {self.analysis.n_imaginary}")

    def with_energy(self, energy: float) -> Frequencies:
        """Return the same modes on another potential energy, eV; enthalpy and Gibbs energy are shifted with it."""
        if (thermo := self.thermochemistry) is not None:
            moved = {name: getattr(thermo, name) + energy - self.energy for name in ("enthalpy", "gibbs_energy")}
            thermo = replace(thermo, energy=energy, **moved)
        return replace(self, energy=energy, thermochemistry=thermo)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON, units in the names."""
        content: dict[str, Any] = {
            "formula": self.analysis.atoms.get_chemical_formula(),
            "nature": self.nature,
            "energy_eV": self.energy,
            "largest_force_eV_per_A": self.largest_force,
            "wavenumbers_cm-1": self.analysis.wavenumbers,
            "imaginary_modes": self.analysis.n_imaginary,
            "zero_point_energy_eV": self.analysis.zero_point_energy,
            "curvature": self.curvature,
            "symbols": self.analysis.atoms.get_chemical_symbols(),
            "positions_A": self.analysis.atoms.positions,
            "masses_amu": self.analysis.atoms.get_masses(),
            "hessian_eV_per_A2": self.analysis.hessian,
        }
        if (thermo := self.thermochemistry) is not None:
            content["thermochemistry"] = {
                "model": thermo.model,
                "temperature_K": thermo.temperature,
                "pressure_Pa": thermo.pressure,
                "symmetry_number": thermo.symmetry_number,
                "enthalpy_eV": thermo.enthalpy,
                "entropy_eV_per_K": thermo.entropy,
                "gibbs_energy_eV": thermo.gibbs_energy,
                "gibbs_correction_eV": thermo.gibbs_correction,
                "imaginary_modes_left_out": thermo.n_left_out,
            }
        return content


def frequencies(
    atoms: Atoms,
    *,
    temperature: float = 298.15,
    pressure: float = 101325.0,
    symmetry: int | None = None,
    model: str = "ideal gas",
    analysis: HarmonicAnalysis | None = None,
) -> Frequencies:
    """Compute harmonic frequencies, and the thermochemistry of a free molecule.

    Args:
        atoms: A structure with a calculator, relaxed with it; masses, constraints and spin (``atoms.info``) count.
        temperature: K.
        pressure: Pa.
        symmetry: Rotational symmetry number; by default found from the geometry.
        model: How soft modes are treated: a key of ``phl_ase.vibrations.THERMOCHEMISTRY_MODELS``.
        analysis: The modes, where they are known: no Hessian is computed then.

    Raises:
        PHLError: For no calculator, or a setting that thermochemistry does not take.
        NonFiniteError: For energies, forces or Hessians that are not finite.
    """
    if atoms.calc is None:
        raise PHLError("the atoms have no calculator; frequencies need one: set atoms.calc")
    energy = float(atoms.get_potential_energy())
    forces = atoms.get_forces()  # constraints act: what is held does not count as a force that is left
    if not (np.isfinite(energy) and np.all(np.isfinite(forces))):
        raise NonFiniteError(f"{atoms.get_chemical_formula()}: the energy or forces are NaN or infinite")
    curvature = curvature_of(atoms.calc)
    analysis = analysis or harmonic_analysis(atoms, curvature.hessian(atoms))
    thermo = None
    if analysis.shape is not None:
        number = symmetry_number(atoms) if symmetry is None else symmetry
        thermo = thermochemistry(
            analysis, energy, temperature=temperature, pressure=pressure, symmetry_number=number, model=model
        )
    largest = float(np.linalg.norm(forces, axis=1).max())
    return Frequencies(energy, largest, analysis, thermo, curvature.source)
