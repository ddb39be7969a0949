"""Enthalpy, entropy and Gibbs energy of a molecule, by ``ase.thermochemistry``.

Translations, rotations and spin are those of the rigid rotor in an ideal gas (D. A. McQuarrie, Statistical Mechanics,
1976); how soft vibrations are treated is one line in ``THERMOCHEMISTRY_MODELS``. Imaginary modes have no partition
function: they are left out and counted. A mode within numerical noise of zero has no sign to go by: it counts by its
absolute value, at least ``SOFTEST_COUNTED``, and is reported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.units import invcm

from phl_ase.errors import PHLError, unknown
from phl_ase.tables import counted
from phl_ase.types import Array
from phl_ase.vibrations.analysis import HarmonicAnalysis, Shape

if TYPE_CHECKING:
    from ase.thermochemistry import HarmonicThermo, IdealGasThermo

SOFTEST_COUNTED = 1.0
"""A mode within noise of zero counts as if it were at least this stiff, cm⁻¹: its entropy would have no bound."""

_GRIMME_TAU = 100.0  # cm⁻¹, as in the paper; ASE's own default is that of another one


def _ase(name: str) -> Any:
    """Return a class of ``ase.thermochemistry``, which loads matplotlib."""
    return getattr(importlib.import_module("ase.thermochemistry"), name)


THERMOCHEMISTRY_MODELS: dict[str, Callable[[Sequence[float], Atoms], HarmonicThermo]] = {
    # harmonic oscillators
    "ideal gas": lambda energies, atoms: _ase("HarmonicThermo")(energies),
    # below 100 cm⁻¹ raised to it: R. F. Ribeiro et al., J. Phys. Chem. B 115, 14556 (2011), doi:10.1021/jp205508z
    "quasi-harmonic": lambda energies, atoms: _ase("QuasiHarmonicThermo")(energies),
    # entropy of soft modes that of free rotors: S. Grimme, Chem. Eur. J. 18, 9955 (2012), doi:10.1002/chem.201200497
    "quasi-RRHO": lambda energies, atoms: _ase("MSRRHOThermo")(energies, atoms, tau=_GRIMME_TAU),
}
"""Model -> vibrations of these energies (eV), as one of ASE's classes."""


@dataclass(frozen=True)
class Thermochemistry:
    """Thermodynamic functions of one molecule; per mole, times Avogadro's number.

    Attributes:
        energy: Potential energy that the others count from the same zero as, eV.
        zero_point_energy: Harmonic, of the real modes, eV.
        enthalpy: H(T), eV.
        entropy: S(T, p), eV/K.
        gibbs_energy: H − TS, eV.
        temperature: K.
        pressure: Pa.
        symmetry_number: Rotational symmetry number.
        spin: Total electronic spin S.
        model: A key of ``THERMOCHEMISTRY_MODELS``.
        shape: ``"monatomic"``, ``"linear"`` or ``"nonlinear"``.
        n_modes: Vibrations in the sums.
        n_left_out: Imaginary modes left out.
        n_near_zero: Of the vibrations in the sums, those within noise of zero (the threshold of the analysis), which
            decide the entropy and are not known: below 10 cm⁻¹, a factor of two is 0.4 kcal/mol at room temperature.
    """

    energy: float
    zero_point_energy: float
    enthalpy: float
    entropy: float
    gibbs_energy: float
    temperature: float
    pressure: float
    symmetry_number: int
    spin: float
    model: str
    shape: Shape
    n_modes: int
    n_left_out: int
    n_near_zero: int = 0

    @property
    def gibbs_correction(self) -> float:
        """G − E, eV: what vibrations, rotations and translations add to the potential energy."""
        return self.gibbs_energy - self.energy

    @property
    def sentence(self) -> str:
        """Return what was summed over and what was left out."""
        parts = [f"{self.model}, {self.shape}, {self.n_modes} modes, {self.temperature:g} K, {self.pressure:g} Pa"]
        if self.n_left_out:
            parts.append(f"{counted(self.n_left_out, 'imaginary mode')} left out")
        if self.n_near_zero:
            modes, verb = counted(self.n_near_zero, "mode"), "counts" if self.n_near_zero == 1 else "count"
            limit = f"at least {SOFTEST_COUNTED:g} cm⁻¹"
            parts.append(f"{modes} within noise of zero {verb} by absolute value, {limit}")
        return "; ".join(parts)


def thermochemistry(
    analysis: HarmonicAnalysis,
    energy: float,
    *,
    temperature: float = 298.15,
    pressure: float = 101325.0,
    symmetry_number: int = 1,
    spin: float | None = None,
    model: str = "ideal gas",
) -> Thermochemistry:
    """Return thermodynamic functions of a free molecule.

    Args:
        analysis: A projected harmonic analysis of all its atoms; linear or not, or a single atom, as it found. Where
            the gradient is projected out, these are the functions at a point of a path, without the path's direction.
        energy: Potential energy, eV; 0 for the corrections alone.
        temperature: K.
        pressure: Pa.
        symmetry_number: Rotational symmetry number: 2 for water, 12 for methane.
        spin: Total electronic spin S, for its degeneracy 2S+1; by default from ``multiplicity`` (2S+1; or ``spin``, the
            same number) in ``atoms.info``, else 0.
        model: A key of ``THERMOCHEMISTRY_MODELS``.

    Raises:
        PHLError: For an unknown model, numbers that are not positive, or an analysis of something else than a free
            molecule (periodic, atoms fixed, not projected).
    """
    if model not in THERMOCHEMISTRY_MODELS:
        raise unknown("model of thermochemistry", model, THERMOCHEMISTRY_MODELS)
    given = {"temperature": temperature, "pressure": pressure, "symmetry_number": symmetry_number}
    for name, value in given.items():
        if not (np.isfinite(value) and value > 0):
            raise PHLError(f"{name} is {value!r}; expected a positive number")
    multiplicity: Any = analysis.atoms.info.get("multiplicity", analysis.atoms.info.get("spin", 1))
    electronic = (float(multiplicity) - 1) / 2 if spin is None else float(spin)
    if not (electronic >= 0 and (2 * electronic).is_integer()):
        raise PHLError(f"spin is {electronic!r}; expected S, a non-negative multiple of ½")
    gas: IdealGasThermo = _ase("IdealGasThermo")(  # translations, rotations and spin alone
        vib_energies=[],
        geometry=_shape(analysis),
        potentialenergy=energy,
        atoms=analysis.atoms,
        symmetrynumber=symmetry_number,
        spin=electronic,
        vib_selection="all",
    )
    energies = [float(value) * invcm for value in real_wavenumbers(analysis.wavenumbers, analysis.imaginary_threshold)]
    enthalpy = gas.get_enthalpy(temperature, verbose=False)
    entropy = gas.get_entropy(temperature, pressure=pressure, verbose=False)
    if energies:  # ASE's classes know no molecule without vibrations
        vibrations = THERMOCHEMISTRY_MODELS[model](energies, analysis.atoms)
        enthalpy += vibrations.get_internal_energy(temperature, verbose=False)
        entropy += vibrations.get_entropy(temperature, verbose=False)
    return Thermochemistry(
        energy=float(energy),
        zero_point_energy=analysis.zero_point_energy,
        enthalpy=float(enthalpy),
        entropy=float(entropy),
        gibbs_energy=float(enthalpy - temperature * entropy),
        temperature=float(temperature),
        pressure=float(pressure),
        symmetry_number=symmetry_number,
        spin=electronic,
        model=model,
        shape=gas.geometry,
        n_modes=len(energies),
        n_left_out=analysis.n_imaginary,
        n_near_zero=analysis.n_near_zero,
    )


def real_wavenumbers(wavenumbers: Array, threshold: float) -> Array:
    """Return the wavenumbers that enter thermodynamic sums ``(any,)`` cm⁻¹: the sign of noise does not matter.

    Args:
        wavenumbers: ``(m,)`` cm⁻¹, imaginary ones negative.
        threshold: Below minus this (cm⁻¹) a mode is imaginary and left out; nearer to zero it counts by its absolute
            value, at least ``SOFTEST_COUNTED``.
    """
    real = wavenumbers[wavenumbers >= -threshold]
    near = np.abs(real) <= threshold
    return np.where(near, np.maximum(np.abs(real), SOFTEST_COUNTED), real)


def _shape(analysis: HarmonicAnalysis) -> Shape:
    if analysis.shape is not None:
        return analysis.shape
    if np.any(analysis.atoms.pbc):
        reason = "the structure is periodic: its thermodynamics is for phonons"
    elif len(analysis.indices) < len(analysis.atoms):
        reason = "some atoms are fixed: loosen the constraints"
    elif analysis.n_constrained and analysis.n_projected:
        reason = "constraints hold some of its translations or rotations: loosen them"
    else:
        reason = "translations and rotations are not projected out: harmonic_analysis(atoms, hessian, project=True)"
    raise PHLError(f"thermochemistry needs the analysis of a free molecule, but {reason}")
