"""The uncertainty that a potential states, a committee's spread for example, against the errors that it makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.results import Metric, Report, provenance
from phl_ase.scoring.uncertainty import (
    CONFIDENCES,
    ONE_SIGMA,
    TWO_SIGMA,
    like_uncertainty,
    reliability,
)
from phl_ase.types import Array

UNCERTAINTY_OUTCOMES: dict[str, str] = {
    "scored": "every uncertainty is finite",
    "exploded": "some uncertainties or errors are NaN or infinite; they are left out",
}
"""Outcome -> what it means."""

UNCERTAINTY_UNITS = {"energy": "meV", "forces": "meV/Å"}
"""Quantity -> the unit it is shown in; energies are those of whole systems."""

NOTABLE = 3.0
"""Times the median of a frame's force error, above which it should be noticed."""

_GROUPS = 10  # of like uncertainty
_ZERO = 1e-8  # eV, eV/Å: what is smaller vanishes by symmetry


class UncertaintySamples:
    """Errors and uncertainties of frames, taken up a few frames at a time."""

    def __init__(self) -> None:
        self._errors: dict[str, list[Array]] = {name: [] for name in UNCERTAINTY_UNITS}
        self._stds: dict[str, list[Array]] = {name: [] for name in UNCERTAINTY_UNITS}
        self._inside: list[bool] = []
        self.frames = 0

    def add(self, frames: Sequence[Any], predictions: Iterable[Mapping[str, Any]]) -> None:
        """Take up frames with labels.

        Args:
            frames: ``energy`` (eV) and ``forces`` (eV/Å), ``None`` where a frame lacks them.
            predictions: For each what a committee gives: ``energy``, ``forces``, ``energy_std``, ``forces_std``, and
                ``in_domain`` where it knows.
        """
        for frame, row in zip(frames, predictions, strict=True):
            self.frames += 1
            for name in UNCERTAINTY_UNITS:
                label, std = getattr(frame, name), row.get(f"{name}_std")
                if label is not None and std is not None:
                    self._errors[name].append(np.ravel(row[name] - label))
                    self._stds[name].append(np.ravel(std))
            if "in_domain" in row:
                self._inside.append(bool(row["in_domain"]))

    def __bool__(self) -> bool:
        return any(self._stds.values())

    def values(self, name: str) -> tuple[Array, Array]:
        """Return errors and uncertainties that are finite, in the unit of ``UNCERTAINTY_UNITS``."""
        errors, stds = (np.concatenate([np.zeros(0), *parts[name]]) * 1e3 for parts in (self._errors, self._stds))
        known = np.isfinite(errors) & np.isfinite(stds)
        return errors[known], stds[known]

    def of_frames(self, name: str) -> tuple[Array, Array]:
        """Root mean square error and uncertainty of each frame ``(frames,)``."""
        return tuple(  # type: ignore[return-value]
            np.array([np.sqrt(np.mean(values**2)) for values in parts[name]]) * 1e3
            for parts in (self._errors, self._stds)
        )

    @property
    def exploded(self) -> bool:
        """Return whether an error or uncertainty is not finite."""
        return any(not np.isfinite(v).all() for parts in (self._errors, self._stds) for p in parts.values() for v in p)

    @property
    def inside(self) -> Array:
        """Return whether each frame was said to be in the domain; empty where nothing was said."""
        return np.array(self._inside, dtype=bool)


def validate_uncertainty(
    frames: Sequence[Any],
    predictions: Iterable[Mapping[str, Any]],
    *,
    system: str,
    potential: str,
    details: Mapping[str, Any] | None = None,
) -> Report:
    """Uncertainties against errors of frames; arguments as of :meth:`UncertaintySamples.add`, what is returned as of
    :func:`uncertainty_report`.
    """
    samples = UncertaintySamples()
    samples.add(frames, predictions)
    return uncertainty_report(samples, system=system, potential=potential, details=details)


def uncertainty_report(
    samples: UncertaintySamples, *, system: str, potential: str, details: Mapping[str, Any] | None = None
) -> Report:
    """Return coverage, calibration and ranking of uncertainties.

    Args:
        samples: Errors and uncertainties.
        system: What was computed.
        potential: Who computed it.
        details: What else the provenance should say.

    Returns:
        A report with outcome in ``UNCERTAINTY_OUTCOMES``; for ``energy`` (of systems) and ``forces`` (components) the
        metrics ``QUANTITY within 1 std`` and ``… 2 std`` (%), ``QUANTITY scale`` (68.27th percentile of error / std),
        ``QUANTITY rank correlation``, ``QUANTITY miscalibration area``, ``QUANTITY RMSE`` and ``QUANTITY mean std``;
        ``frames in domain`` (%); where frames have force errors above ``NOTABLE`` times the median, their number as
        ``frames of large force errors`` and the share outside of the domain as ``… of them noticed`` (%); ``frames``.
        Arrays: ``confidence`` with ``QUANTITY_observed``; ``QUANTITY_std`` and ``QUANTITY_error`` of each frame (root
        mean squares), ``QUANTITY_group_std`` and ``…_group_error`` of groups of like uncertainty, in meV and meV/Å;
        ``in_domain`` of each frame.

    Raises:
        PHLError: When no frame has both a label and an uncertainty.
    """
    if not samples:
        raise PHLError("no frame has a label and an uncertainty of it; expected energy_std or forces_std beside labels")
    metrics: list[Metric] = []
    arrays: dict[str, Array] = {"confidence": CONFIDENCES}
    for name, unit in UNCERTAINTY_UNITS.items():
        errors, stds = samples.values(name)
        found = reliability(errors, stds, zero=1e3 * _ZERO)
        metrics += [
            Metric(f"{name} within 1 std", 100.0 * found.one_sigma, "%", 100.0 * ONE_SIGMA),
            Metric(f"{name} within 2 std", 100.0 * found.two_sigma, "%", 100.0 * TWO_SIGMA),
            Metric(f"{name} scale", found.scale, "", 1.0),
            Metric(f"{name} rank correlation", found.rank_correlation),
            Metric(f"{name} miscalibration area", found.miscalibration_area, "", 0.0),
            Metric(f"{name} RMSE", found.rmse, unit),
            Metric(f"{name} mean std", found.mean_std, unit),
        ]
        arrays[f"{name}_observed"] = found.observed
        arrays[f"{name}_error"], arrays[f"{name}_std"] = samples.of_frames(name)
        arrays[f"{name}_group_std"], arrays[f"{name}_group_error"] = like_uncertainty(errors, stds, _GROUPS)
    if len(samples.inside):
        metrics.append(Metric("frames in domain", 100.0 * float(samples.inside.mean()), "%"))
        forces = arrays["forces_error"]
        if len(forces) == len(samples.inside) and (large := forces > NOTABLE * np.nanmedian(forces)).any():
            metrics.append(Metric("frames of large force errors", int(large.sum())))
            metrics.append(Metric("… of them noticed", 100.0 * float((~samples.inside[large]).mean()), "%"))
        arrays["in_domain"] = samples.inside.astype(int)
    metrics.append(Metric("frames", samples.frames))
    outcome = "exploded" if samples.exploded else "scored"
    return Report(
        system=system,
        potential=potential,
        outcome=outcome,
        sentence=UNCERTAINTY_OUTCOMES[outcome],
        metrics=tuple(metrics),
        arrays=arrays,
        provenance=provenance(units=dict(UNCERTAINTY_UNITS), **dict(details or {})),
        validator="uncertainty",
    )
