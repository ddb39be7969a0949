"""Errors of energy, forces and Hessian by region, kind of geometry and displacement from the stationary points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from phl_ase.errors import PHLError
from phl_ase.paths import rmsd
from phl_ase.results import Metric, Report, provenance
from phl_ase.scoring import ERRORS, Frame, binned_means, frame_errors, mean_errors

Array = np.ndarray

OUTCOMES: dict[str, str] = {
    "scored": "every prediction is finite",
    "exploded": "some predictions are NaN or infinite; the errors leave them out",
}
"""Outcome -> what it means."""

STATIONARY = ("reactant", "product", "ts")
"""Kinds of geometry that are stationary points."""

DISPLACEMENT_EDGES = (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
"""Intervals of displacement that errors are averaged over, Å; what is further counts to the last."""


def predict(
    structures: Sequence[Atoms], calculator: Any, hessian: Callable[[Atoms], Array] | None = None
) -> list[dict[str, Any]]:
    """Energies (eV), forces (eV/Å) and Hessians (eV/Å²) of structures from any ASE calculator, one after the other.

    Args:
        structures: They are not changed.
        calculator: An ASE calculator.
        hessian: ``hessian(atoms) -> (3n, 3n)``; without one, there are no Hessians.

    Returns:
        One dict for each structure, for :func:`validate_accuracy`. Calculators of ours do all at once:
        ``PHLCalculator.evaluate``.
    """
    predictions = []
    for structure in structures:
        atoms = structure.copy()
        atoms.calc = calculator
        forces = np.array(atoms.get_forces(apply_constraint=False), dtype=float)
        row: dict[str, Any] = {"energy": float(atoms.get_potential_energy()), "forces": forces}
        if hessian is not None:
            row["hessian"] = np.asarray(hessian(atoms), dtype=float)
        predictions.append(row)
    return predictions


def displacements(frames: Sequence[Frame], stationary: Iterable[Frame] | None = None) -> Array:
    """RMS displacement of each frame from the nearest stationary point of its reaction, after optimal alignment.

    Args:
        frames: The structures.
        stationary: Where to look for stationary points (the other frames of the data set); by default among ``frames``.

    Returns:
        ``(frames,)`` Å; NaN where the reaction is unknown or has no stationary point with the same atoms in the same
        order.
    """
    points: dict[str, list[Atoms]] = {}
    for frame in frames if stationary is None else stationary:
        if frame.kind in STATIONARY and frame.reaction:
            points.setdefault(frame.reaction, []).append(_atoms(frame))
    result = np.full(len(frames), np.nan)
    for index, frame in enumerate(frames):
        like = [p for p in points.get(frame.reaction, []) if np.array_equal(p.numbers, frame.numbers)]
        if like:
            here = _atoms(frame)
            result[index] = min(rmsd(here, point) for point in like)
    return result


def _atoms(frame: Any) -> Atoms:
    return Atoms(
        frame.numbers, positions=frame.positions, cell=getattr(frame, "cell", None), pbc=getattr(frame, "pbc", False)
    )


def validate_accuracy(
    frames: Sequence[Frame],
    predictions: Iterable[Mapping[str, Any]],
    *,
    system: str,
    potential: str,
    stationary: Iterable[Frame] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Report:
    """Mean absolute errors by region (all, near, far), kind of geometry and displacement.

    Args:
        frames: Reference labels.
        predictions: For each frame, a dict with what was predicted of ``energy`` (eV), ``forces`` (eV/Å), ``hessian``
            (eV/Å²).
        system: What is computed, for the report.
        potential: Who computes it, for the report.
        stationary: Frames that hold the stationary points, for displacements; by default ``frames``.
        details: What else the provenance should say.

    Returns:
        A report with outcome in ``OUTCOMES``; metrics ``energy, REGION`` (meV/atom), ``forces, REGION`` (meV/Å),
        ``hessian, REGION`` (eV/Å²) and ``frames, REGION`` for the regions and kinds of
        :func:`phl_ase.scoring.mean_errors`; arrays ``energy_error``, ``forces_error``, ``hessian_error`` ``(frames,)``
        in the same units, ``displacement`` ``(frames,)`` Å, and for the intervals between ``displacement_edges``
        ``displacement_means``, ``displacement_frames`` (a count), ``energy_by_displacement``, …, ``(bins,)``.

    Raises:
        PHLError: When there are no frames, or not one prediction for each.
    """
    rows = list(predictions)
    if not frames or len(rows) != len(frames):
        raise PHLError(f"{len(rows)} predictions for {len(frames)} frames; expected one for each, and at least one")
    finite = all(np.all(np.isfinite(row[name])) for row in rows for name in ERRORS if row.get(name) is not None)
    errors = frame_errors(frames, rows)
    distance = displacements(frames, stationary)
    inside = np.minimum(distance, np.nextafter(DISPLACEMENT_EDGES[-1], 0))
    groups = mean_errors(frames, errors)
    metrics = [
        Metric(f"{name}, {group}", means[name], ERRORS[name].unit)
        for group, means in groups.items()
        for name in ERRORS
        if np.isfinite(means[name])
    ]
    metrics += [Metric(f"frames, {group}", int(means["frames"])) for group, means in groups.items()]
    middles, counts = binned_means(inside, distance, DISPLACEMENT_EDGES)
    by_displacement = {
        f"{name}_by_displacement": binned_means(inside, values, DISPLACEMENT_EDGES)[0]
        for name, values in errors.items()
    }
    outcome = "scored" if finite else "exploded"
    return Report(
        system=system,
        potential=potential,
        outcome=outcome,
        sentence=OUTCOMES[outcome],
        metrics=tuple(metrics),
        arrays={
            **{f"{name}_error": values for name, values in errors.items()},
            "displacement": distance,
            "displacement_edges": np.array(DISPLACEMENT_EDGES),
            "displacement_means": middles,
            "displacement_frames": counts,
            **by_displacement,
        },
        provenance=provenance(
            units={"displacement": "Å", **{name: kind.unit for name, kind in ERRORS.items()}}, **dict(details or {})
        ),
        validator="accuracy",
    )
