"""Normal modes as a Molden file, which most viewers animate (Molden, Jmol, Avogadro, Chemcraft, IQmol)."""

from __future__ import annotations

from ase.units import Bohr

from phl_ase.vibrations.analysis import HarmonicAnalysis


def molden_text(analysis: HarmonicAnalysis) -> str:
    """Return the modes of an analysis in Molden's format.

    The sections are ``[Atoms]`` (Å), ``[FREQ]`` (cm⁻¹, imaginary ones negative), ``[FR-COORD]`` (bohr) and
    ``[FR-NORM-COORD]`` (Cartesian displacements, the longest of each mode 1). Atoms that do not vibrate stay where
    they are.

    Args:
        analysis: The modes.
    """
    atoms = analysis.atoms
    lines = ["[Molden Format]", "[Atoms] Angs"]
    for number, (symbol, z, place) in enumerate(zip(atoms.symbols, atoms.numbers, atoms.positions, strict=True), 1):
        lines.append(f"{symbol:2s} {number:5d} {z:3d} " + " ".join(f"{x:14.8f}" for x in place))
    lines.append("[FREQ]")
    lines += [f"{wavenumber:12.4f}" for wavenumber in analysis.wavenumbers]
    lines.append("[FR-COORD]")
    for symbol, place in zip(atoms.symbols, atoms.positions / Bohr, strict=True):
        lines.append(f"{symbol:2s} " + " ".join(f"{x:14.8f}" for x in place))
    lines.append("[FR-NORM-COORD]")
    for number, moves in enumerate(analysis.displacements, 1):
        lines.append(f"vibration {number}")
        longest = max(float((moves**2).sum(axis=1).max()) ** 0.5, 1e-12)
        everywhere = {int(i): move / longest for i, move in zip(analysis.indices, moves, strict=True)}
        for i in range(len(atoms)):
            lines.append(" ".join(f"{x:12.6f}" for x in everywhere.get(i, (0.0, 0.0, 0.0))))
    return "\n".join(lines) + "\n"
