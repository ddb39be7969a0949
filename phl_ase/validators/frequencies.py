"""Harmonic frequencies at a stationary point of the reference: the curvature that a potential must get right.

Both Hessians are diagonalised at the same structure, mass-weighted and with translations and rotations projected out
(:mod:`phl_ase.vibrations`), so that only the curvature differs, not the geometry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ase import Atoms

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.results import Metric, Report, provenance
from phl_ase.vibrations import HarmonicAnalysis, harmonic_analysis

Array = np.ndarray
Hessian = Array | Callable[[Atoms], Array]

OUTCOMES: dict[str, str] = {
    "agrees": "the structure has as many imaginary modes as in the reference",
    "wrong order": "the number of imaginary modes is not the reference's",
    "exploded": "the Hessian holds NaN or infinity",
    "failed": "the Hessian could not be computed",
}
"""Outcome of a validation of frequencies -> what it means."""


def validate_frequencies(
    atoms: Atoms,
    hessian: Hessian,
    reference_hessian: Hessian,
    *,
    system: str,
    potential: str,
    details: Mapping[str, Any] | None = None,
) -> Report:
    """Compare harmonic frequencies with a reference at the reference's stationary point.

    Modes are compared in ascending order, imaginary ones as negative numbers.

    Args:
        atoms: Stationary point of the reference (minimum or TS); it is not changed. A calculator that it has is on the
            copies that callables get.
        hessian: Of the potential: ``hessian(atoms) -> (3n, 3n)`` eV/Å², or the array itself.
        reference_hessian: The same of the reference.
        system: What is computed, for the report.
        potential: Who computes it, for the report.
        details: What else the provenance should say.

    Returns:
        A report with outcome in ``OUTCOMES``; metrics ``frequency MAE`` and ``largest frequency error`` (cm⁻¹),
        ``imaginary modes``, ``ZPE`` and ``ZPE error`` (meV), ``Hessian MAE`` (eV/Å²), and at a TS of the reference
        ``imaginary wavenumber`` (cm⁻¹, the lowest mode, imaginary as a negative number) and ``overlap of the imaginary
        modes`` (|cos| between the mass-weighted ones, 1 for the same direction). Arrays ``wavenumbers`` and
        ``reference_wavenumbers`` ``(m,)`` cm⁻¹.

    Raises:
        PHLError: For a Hessian of the wrong shape, or a reference that cannot be computed.
    """
    reference_matrix = _evaluate(reference_hessian, atoms)
    expected = harmonic_analysis(atoms, reference_matrix)
    details = dict(details or {})
    try:
        matrix = _evaluate(hessian, atoms)
        got = harmonic_analysis(atoms, matrix)
    except NonFiniteError as error:
        return _nothing(expected, "exploded", str(error), system, potential, details)
    except PHLError:
        raise
    except Exception as error:  # whatever a foreign calculator may raise is a result here
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return _nothing(expected, "failed", reason, system, potential, details)
    outcome = "agrees" if got.n_imaginary == expected.n_imaginary else "wrong order"
    return Report(
        system=system,
        potential=potential,
        outcome=outcome,
        sentence=OUTCOMES[outcome],
        metrics=_metrics(got, expected, float(np.mean(np.abs(matrix - reference_matrix)))),
        arrays={"wavenumbers": got.wavenumbers, "reference_wavenumbers": expected.wavenumbers},
        provenance=provenance(geometry="stationary point of the reference", **details),
        validator="frequencies",
    )


def _evaluate(hessian: Hessian, atoms: Atoms) -> Array:
    """The symmetric Hessian, from an array or a callable that gets its own copy."""
    if callable(hessian):
        structure = atoms.copy()
        structure.calc = atoms.calc
        matrix = np.asarray(hessian(structure), dtype=float)
    else:
        matrix = np.asarray(hessian, dtype=float)
    expected = (3 * len(atoms), 3 * len(atoms))
    if matrix.shape != expected:
        raise PHLError(
            f"the Hessian has shape {matrix.shape}, expected {expected} for {len(atoms)} atoms in eV/Å²: reshape it "
            "(layout (n,n,3,3) also needs transpose(0, 2, 1, 3))"
        )
    return 0.5 * (matrix + matrix.T)


def _metrics(got: HarmonicAnalysis, expected: HarmonicAnalysis, hessian_error: float) -> tuple[Metric, ...]:
    errors = np.abs(got.wavenumbers - expected.wavenumbers)
    zpe, reference_zpe = got.zero_point_energy_mev, expected.zero_point_energy_mev
    metrics = [
        Metric("frequency MAE", float(errors.mean()) if len(errors) else 0.0, "cm⁻¹"),
        Metric("largest frequency error", float(errors.max(initial=0.0)), "cm⁻¹"),
    ]
    if expected.n_imaginary:
        overlap = float(abs(np.sum(got.modes[0] * expected.modes[0])))
        metrics += [
            Metric("imaginary wavenumber", float(got.wavenumbers[0]), "cm⁻¹", float(expected.wavenumbers[0])),
            Metric("overlap of the imaginary modes", overlap),
        ]
    return (
        *metrics,
        Metric("imaginary modes", got.n_imaginary, "", expected.n_imaginary),
        Metric("ZPE", zpe, "meV", reference_zpe),
        Metric("ZPE error", zpe - reference_zpe, "meV"),
        Metric("Hessian MAE", hessian_error, "eV/Å²"),
    )


def _nothing(
    expected: HarmonicAnalysis, outcome: str, reason: str, system: str, potential: str, details: dict[str, Any]
) -> Report:
    """The report of a potential that gave no Hessian."""
    nan = float("nan")
    return Report(
        system=system,
        potential=potential,
        outcome=outcome,
        sentence=f"{OUTCOMES[outcome]} ({reason})",
        metrics=(
            Metric("frequency MAE", nan, "cm⁻¹"),
            Metric("imaginary modes", nan, "", expected.n_imaginary),
            Metric("ZPE", nan, "meV", expected.zero_point_energy_mev),
        ),
        arrays={"reference_wavenumbers": expected.wavenumbers},
        provenance=provenance(geometry="stationary point of the reference", **details),
        validator="frequencies",
    )
