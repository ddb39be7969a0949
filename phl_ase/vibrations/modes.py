"""Normal modes as trajectories, for viewers."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.units import kB

from phl_ase.errors import PHLError
from phl_ase.units import wavenumbers
from phl_ase.vibrations.analysis import HarmonicAnalysis

_ROOM_TEMPERATURE = 298.15

# cm⁻¹: a softer mode has no turning point worth showing
_SOFTEST = 1.0


def mode_trajectory(
    analysis: HarmonicAnalysis,
    mode: int,
    *,
    amplitude: float | None = None,
    temperature: float | None = None,
    n_frames: int = 30,
) -> list[Atoms]:
    """One period of a normal mode, for ``ase.io.write`` (extxyz, traj) or ``ase.visualize.view``.

    Args:
        analysis: The modes.
        mode: Which one, as numbered in ``analysis.wavenumbers``; negative numbers count from the end.
        amplitude: Largest displacement of an atom, Å.
        temperature: Instead of an amplitude: the classical turning point at this temperature (K), where the energy of
            the oscillator is kT: Q = √(2kT)/ω, for an imaginary mode with |ω|. By default 298.15 K.
        n_frames: Frames of the period; the first is the structure itself.

    Returns:
        Copies of the structure, ``mode`` and ``wavenumber`` (cm⁻¹, imaginary ones negative) in their ``info``.

    Raises:
        PHLError: For a mode that there is not, both an amplitude and a temperature, numbers that are not positive, or a
            mode too soft to have an amplitude at a temperature.
    """
    n_modes = len(analysis.wavenumbers)
    if not -n_modes <= mode < n_modes:
        raise PHLError(f"mode {mode} does not exist; the analysis has {n_modes}, numbered from 0")
    if amplitude is not None and temperature is not None:
        raise PHLError("got both an amplitude and a temperature; expected one of them, which sets the other")
    for name, value, unit in (("amplitude", amplitude, "Å"), ("temperature", temperature, "K")):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise PHLError(f"{name} is {value!r} {unit}; expected a positive number")
    if n_frames < 1:
        raise PHLError(f"n_frames is {n_frames}; expected at least 1")
    number = mode % n_modes
    displacement = analysis.displacements[number]
    if amplitude is not None:
        displacement = displacement * (amplitude / np.linalg.norm(displacement, axis=1).max())
    else:
        wavenumber = analysis.wavenumbers[number]
        if abs(wavenumber) < _SOFTEST:
            raise PHLError(
                f"the mode has {wavenumber:.2g} cm⁻¹: too soft for an amplitude at a temperature; give an amplitude "
                "in Å"
            )
        # wavenumbers go as the square root of eigenvalues, eV/(Å² amu)
        eigenvalue = (wavenumber / float(wavenumbers(1.0))) ** 2
        displacement = displacement * np.sqrt(2 * kB * (temperature or _ROOM_TEMPERATURE) / eigenvalue)
    frames = []
    for phase in 2 * np.pi * np.arange(n_frames) / n_frames:
        frame = analysis.atoms.copy()
        # written to the array: constraints hold the atoms of other modes, not these
        frame.positions[analysis.indices] += np.sin(phase) * displacement
        frame.info.update(mode=number, wavenumber=float(analysis.wavenumbers[number]))
        frames.append(frame)
    return frames
