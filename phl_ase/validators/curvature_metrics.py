"""Numbers that compare two sets of normal modes, or two Hessians of the same structure, for reports.

Eigenvalues and entries are those of the Hessian in eV/Å², not mass-weighted, raw and with the (unweighted)
translations and rotations projected out: the convention of HIP (arXiv:2509.21624) and HORM (arXiv:2505.12447), whose
numbers in Ha/Bohr² are converted by ``phl_ase.units``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms

from phl_ase.results import Metric
from phl_ase.types import Array
from phl_ase.units import convert
from phl_ase.validators.names import MetricName
from phl_ase.vibrations import HarmonicAnalysis, free_motions, match_modes, thermochemistry
from phl_ase.vibrations.rigid import complement, removed_motions
from phl_ase.vibrations.selection import vibrating_block

NEGATIVE_THRESHOLD = 0.01
"""An eigenvalue counts as negative below minus this many eV/Å²: what is nearer to zero is numerical noise."""

_TEMPERATURE = 298.15
_LOWEST = 2  # modes whose direction is scored one by one


def frequency_metrics(got: HarmonicAnalysis, expected: HarmonicAnalysis, symmetry_number: int) -> tuple[Metric, ...]:
    """Scores of wavenumbers, modes and what follows from them; as many modes on both sides."""
    match = match_modes(got, expected)
    errors, matched = np.abs(got.wavenumbers - expected.wavenumbers), np.abs(match.errors)
    lowest = Metric(MetricName.IMAGINARY_WAVENUMBER, float(got.wavenumbers[0]), "cm⁻¹", float(expected.wavenumbers[0]))
    return (
        # in ascending order, imaginary ones as negative numbers
        Metric(MetricName.FREQUENCY_MAE, float(errors.mean()), "cm⁻¹"),
        Metric(MetricName.LARGEST_FREQUENCY_ERROR, float(errors.max()), "cm⁻¹"),
        *([lowest] if expected.n_imaginary else []),
        # each compared with the mode that it overlaps with
        Metric("matched frequency MAE", float(matched.mean()), "cm⁻¹"),
        Metric("largest matched frequency error", float(matched.max()), "cm⁻¹"),
        Metric(MetricName.MODE_OVERLAP, float(match.overlaps.mean())),
        Metric(MetricName.IMAGINARY_MODES, got.n_imaginary, "", expected.n_imaginary),
        *_cosines(got.modes, expected.modes, match.groups),
        *energy_metrics(got, expected, symmetry_number),
    )


def energy_metrics(got: HarmonicAnalysis, expected: HarmonicAnalysis, symmetry_number: int) -> tuple[Metric, ...]:
    """Zero-point energies and, of a free molecule, Gibbs corrections at 298.15 K and 1 atm."""
    zpe, reference_zpe = got.zero_point_energy_mev, expected.zero_point_energy_mev
    metrics = (
        Metric(MetricName.ZPE, zpe, "meV", reference_zpe),
        Metric(MetricName.ZPE_ERROR, zpe - reference_zpe, "meV"),
    )
    if got.shape is None or expected.shape is None:
        return metrics
    gibbs, reference_gibbs = (
        thermochemistry(analysis, 0.0, temperature=_TEMPERATURE, symmetry_number=symmetry_number)
        for analysis in (got, expected)
    )
    value, reference = (convert(x.gibbs_correction, "eV", "kcal/mol") for x in (gibbs, reference_gibbs))
    near = Metric("modes near zero in G", gibbs.n_near_zero, "", reference_gibbs.n_near_zero)
    return (
        *metrics,
        Metric(MetricName.G_CORRECTION, value, "kcal/mol", reference),
        Metric(MetricName.G_CORRECTION_ERROR, value - reference, "kcal/mol"),
        Metric("modes left out of G", gibbs.n_left_out, "", reference_gibbs.n_left_out),
        *([near] if gibbs.n_near_zero or reference_gibbs.n_near_zero else []),
    )


def _cosines(modes: Array, reference_modes: Array, groups: Array | None = None) -> tuple[Metric, ...]:
    """Return |cos| of the lowest two of orthonormal modes and the reference, or the space of a degenerate group."""
    metrics = []
    for place in range(min(_LOWEST, len(modes), len(reference_modes))):
        chosen = [place] if groups is None else np.nonzero(groups == groups[place])[0]
        components = reference_modes[chosen].reshape(len(chosen), -1) @ modes[place].ravel()
        metrics.append(Metric(f"|cos| of mode {place + 1}", float(np.linalg.norm(components))))
    return tuple(metrics)


@dataclass(frozen=True, eq=False)
class HessianScores:
    """Two Hessians of one structure compared.

    Attributes:
        metrics: Errors of entries and eigenvalues, raw and projected.
        directions: The lowest projected eigenvalue, how many are negative, and |cos| of the lowest two directions.
        eigenvalues: Projected ones of the potential, ascending ``(m,)`` eV/Å².
        reference_eigenvalues: Of the reference.
    """

    metrics: tuple[Metric, ...]
    directions: tuple[Metric, ...]
    eigenvalues: Array
    reference_eigenvalues: Array


def hessian_scores(
    atoms: Atoms, hessian: Array, reference_hessian: Array, gradient: Array | None = None
) -> HessianScores:
    """Compare two Hessians ``(3n, 3n)`` eV/Å² of a structure; of its free motions alone where it has constraints.

    Args:
        atoms: The structure.
        hessian: Of the potential.
        reference_hessian: Of the reference.
        gradient: ``(n, 3)`` eV/Å; its direction is projected out of both, too.
    """
    free = free_motions(atoms)
    raw = [vibrating_block(matrix, len(atoms), free.atoms) for matrix in (hessian, reference_hessian)]
    removed, _ = removed_motions(atoms, free, np.ones(len(free.atoms)))
    if gradient is not None:
        removed = np.linalg.qr(np.column_stack([removed, gradient[free.atoms].ravel()]))[0]
    basis = complement(removed)
    solved = [np.linalg.eigh(basis.T @ matrix @ basis) for matrix in raw]
    (values, vectors), (reference_values, reference_vectors) = solved
    projected = basis @ (basis.T @ (raw[0] - raw[1]) @ basis) @ basis.T
    raw_values, reference_raw_values = (np.linalg.eigvalsh(matrix) for matrix in raw)
    directions: tuple[Metric, ...] = ()
    if len(values):
        errors = float(np.mean(np.abs(values - reference_values)))
        negative, reference_negative = (int(np.sum(v < -NEGATIVE_THRESHOLD)) for v in (values, reference_values))
        directions = (
            Metric(MetricName.LOWEST_EIGENVALUE, float(values[0]), "eV/Å²", float(reference_values[0])),
            Metric("negative eigenvalues", negative, "", reference_negative),
            *_cosines(vectors.T, reference_vectors.T),
        )
    return HessianScores(
        metrics=(
            Metric(MetricName.HESSIAN_MAE, float(np.mean(np.abs(raw[0] - raw[1]))), "eV/Å²"),
            Metric("projected Hessian MAE", float(np.mean(np.abs(projected))), "eV/Å²"),
            Metric("eigenvalue MAE", float(np.mean(np.abs(raw_values - reference_raw_values))), "eV/Å²"),
            *([Metric(MetricName.PROJECTED_EIGENVALUE_MAE, errors, "eV/Å²")] if len(values) else []),
        ),
        directions=directions,
        eigenvalues=values,
        reference_eigenvalues=reference_values,
    )
