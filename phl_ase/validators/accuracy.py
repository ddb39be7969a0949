"""Errors of energy, forces, Hessian and its spectrum by kind of geometry, displacement and sampling temperature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from phl_ase.errors import PHLError, unknown
from phl_ase.paths import rmsd
from phl_ase.results import Metric, Report, provenance
from phl_ase.scoring import (
    ALL_ERRORS,
    DRAWS,
    ENERGIES,
    ERRORS,
    STATIONARY,
    FrameFacts,
    GroupMeans,
    LabelledStructure,
    composition_offsets,
    curvatures_along,
    facts,
    frame_errors,
    geometries,
    group_means,
    intervals,
    relative_energy_errors,
    resampling_units,
    temperature_groups,
)
from phl_ase.types import Array, ASECalculator

Predicted = Iterable[Mapping[str, Any]]

ACCURACY_OUTCOMES: dict[str, str] = {
    "scored": "every prediction is finite",
    "exploded": "some predictions are NaN or infinite; the errors leave them out",
}
"""Outcome -> what it means."""

DISPLACEMENT_EDGES = (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
"""Intervals of displacement that errors are averaged over, Å; what is further counts to the last."""

PARITY_POINTS = 2000
"""Points of each quantity that a report holds for parity plots: enough to see, few enough for a file."""

_PARITY = {"forces": "forces", "hessian": "hessian", "curvature_along": "hvp"}
_OTHER_ZERO = 10.0  # absolute over relative energy errors from which on the zeros of energy must differ


def predict(
    structures: Iterable[Atoms], calculator: ASECalculator, hessian: Callable[[Atoms], Array] | None = None
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


def displacements(frames: Sequence[LabelledStructure], stationary: Iterable[LabelledStructure] | None = None) -> Array:
    """Return the RMS displacement of each frame, aligned, from the nearest stationary point of its reaction.

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


@dataclass(frozen=True, eq=False)
class ScoredFrames:
    """Errors of frames whose forces and Hessians are no longer held.

    Attributes:
        frames: What groups and displacements need of each frame.
        errors: Error → ``(frames,)``, see :func:`phl_ase.scoring.frame_errors`.
        energies: What was predicted ``(frames,)`` eV; NaN where it was not.
        parity: Of ``forces`` (eV/Å), ``hessian`` (eV/Å²) and ``curvature_along`` recorded probes (eV/Å²), references
            and predictions ``(points,)`` each, drawn at random where there are many.
    """

    frames: tuple[FrameFacts, ...]
    errors: Mapping[str, Array]
    energies: Array
    parity: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)


def score_batches(batches: Iterable[tuple[Sequence[LabelledStructure], Predicted]]) -> ScoredFrames:
    """Return errors of frames that come a few at a time: no more than one batch of Hessians is held.

    Args:
        batches: (reference labels, predictions), one prediction for each frame; see :func:`validate_accuracy`.

    Raises:
        PHLError: When there are no frames, or not one prediction for each.
    """
    kept: list[FrameFacts] = []
    parts: list[dict[str, Array]] = []
    energies: list[float] = []
    points = _ParityPoints()
    for frames, predictions in batches:
        rows = list(predictions)
        if len(rows) != len(frames):
            raise PHLError(f"{len(rows)} predictions for {len(frames)} frames; expected one for each")
        parts.append(frame_errors(frames, rows))
        points.add(frames, rows)
        kept += [facts(frame) for frame in frames]
        energies += [np.nan if row.get("energy") is None else float(row["energy"]) for row in rows]
    if not kept:
        raise PHLError("there are no frames; expected at least one with labels to compare with")
    names = [name for name in ALL_ERRORS if any(name in part for part in parts)]
    # of a batch without recorded HVPs, their errors are absent
    lengths = [len(part["energy"]) for part in parts]
    errors = {
        name: np.concatenate([part.get(name, np.full(n, np.nan)) for part, n in zip(parts, lengths, strict=True)])
        for name in names
    }
    return ScoredFrames(frames=tuple(kept), errors=errors, energies=np.array(energies), parity=points.pairs())


class _ParityPoints:
    """References beside predictions, the same number of points of each quantity at most however many there are."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        # (keys, references, predictions): the points with the smallest random keys are kept
        self._kept: dict[str, Array] = {}

    def add(self, frames: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """Take up frames and what was predicted of them."""
        found: dict[str, list[tuple[Array, Array]]] = {}
        for frame, row in zip(frames, rows, strict=True):
            for label, place in _PARITY.items():
                reference, predicted = getattr(frame, place, None), row.get(place)
                if reference is None or predicted is None:
                    continue
                sides = [np.asarray(side, dtype=float) for side in (reference, predicted)]
                if label == "hessian":
                    sides = [side[np.triu_indices(len(side))] for side in sides]
                elif label == "curvature_along":
                    sides = [curvatures_along(frame.probes, side) for side in sides]
                found.setdefault(label, []).append((sides[0].ravel(), sides[1].ravel()))
        for label, pairs in found.items():
            sides = [np.concatenate(side) for side in zip(*pairs, strict=True)]
            new = np.array([self._random.random(len(sides[0])), *sides])
            every = np.concatenate([self._kept.get(label, new[:, :0]), new], axis=1)
            if every.shape[1] > PARITY_POINTS:
                every = every[:, np.argpartition(every[0], PARITY_POINTS)[:PARITY_POINTS]]
            self._kept[label] = every

    def pairs(self) -> dict[str, tuple[Array, Array]]:
        """Quantity -> references and predictions."""
        return {label: (kept[1], kept[2]) for label, kept in self._kept.items()}


def validate_accuracy(
    frames: Sequence[LabelledStructure],
    predictions: Predicted,
    *,
    system: str,
    potential: str,
    stationary: Iterable[LabelledStructure] | None = None,
    energies: str = "absolute",
    details: Mapping[str, Any] | None = None,
) -> Report:
    """Mean errors by region, kind of geometry, displacement and temperature, of frames that fit into memory.

    Args:
        frames: Reference labels.
        predictions: For each frame, a dict with what was predicted of ``energy`` (eV), ``forces`` (eV/Å), ``hessian``
            (eV/Å²), ``hvp`` (HVPs with the frame's probes ``(K, n, 3)``, eV/Å²).
        system: What is computed, for the report.
        potential: Who computes it, for the report.
        stationary: Frames that hold the stationary points, for displacements; by default ``frames``.
        energies: How energies are compared, from :data:`phl_ase.scoring.ENERGIES`.
        details: What else the provenance should say.

    Returns:
        What :func:`accuracy_report` makes of them.

    Raises:
        PHLError: When there are no frames, not one prediction for each, or ``energies`` is unknown.
    """
    return accuracy_report(
        score_batches([(frames, predictions)]),
        system=system,
        potential=potential,
        stationary=stationary,
        energies=energies,
        details=details,
    )


def accuracy_report(
    scored: ScoredFrames,
    *,
    system: str,
    potential: str,
    stationary: Iterable[LabelledStructure] | None = None,
    energies: str = "absolute",
    notes: Sequence[str] = (),
    details: Mapping[str, Any] | None = None,
) -> Report:
    """Mean errors by region, kind of geometry, displacement and temperature, with bootstrap 95 % intervals.

    Args:
        scored: Errors of frames, from :func:`score_batches`.
        system: What was computed.
        potential: Who computed it.
        stationary: Frames that hold the stationary points, for displacements; by default the scored ones.
        energies: How energies are compared, from :data:`phl_ase.scoring.ENERGIES`.
        notes: What else a reader must know, first among the notes.
        details: What else the provenance should say.

    Returns:
        A report with outcome in ``ACCURACY_OUTCOMES``; metrics ``ERROR, GROUP`` for every error of
        :data:`phl_ase.scoring.ALL_ERRORS` in its unit and every group of :func:`phl_ase.scoring.geometries`, and
        ``frames, GROUP``; arrays of single frames ``ERROR_error``, ``displacement`` (Å), ``temperature`` (K), all
        ``(frames,)``; for BY in ``group``, ``displacement``, ``temperature`` the means ``ERROR_by_BY`` with their 95 %
        limits ``…_low`` and ``…_high`` and number of frames ``…_frames``, over ``groups`` (names) with
        ``group_frames``, over the intervals between ``displacement_edges`` at ``displacement_means`` (Å) with
        ``displacement_frames``, and at ``temperature_means`` (K) with ``temperature_frames``; for parity plots
        ``parity_QUANTITY_reference`` and ``…_predicted`` ``(points,)`` of ``energy`` (eV, above the lowest of the
        composition), ``forces`` (eV/Å), ``hessian`` and ``curvature_along`` (eV/Å²), where there are any. The
        provenance says what was resampled (``intervals``), how energies were compared and, in ``notes``, what could not
        be had.

    Raises:
        PHLError: When ``energies`` is unknown.
    """
    if energies not in ENERGIES:
        raise unknown("way to compare energies", energies, ENERGIES)
    frames, errors = scored.frames, dict(scored.errors)
    if energies == "relative":
        errors["energy"] = relative_energy_errors(frames, scored.energies)
    distance = displacements(frames, stationary)
    temperature = np.array([np.nan if f.temperature is None else f.temperature for f in frames], dtype=float)
    known = _Known(
        errors=errors,
        groups=geometries(frames),
        axes={"displacement": distance, "temperature": temperature},
        intervals={
            "displacement": intervals(distance, DISPLACEMENT_EDGES),
            "temperature": temperature_groups(temperature),
        },
    )
    # means over kinds of geometry and intervals, all from the same samples
    parts = {"group": np.array(list(known.groups.values())), **known.intervals}
    units = resampling_units([frame.reaction for frame in frames])
    together = group_means(errors, np.concatenate(list(parts.values())), units)
    ends = np.cumsum([0, *map(len, parts.values())]).tolist()
    means = {by: together.part(first, last) for by, first, last in zip(parts, ends[:-1], ends[1:], strict=True)}
    mean = means["group"].mean
    metrics = [
        Metric(f"{name}, {group}", float(mean[name][place]), kind.unit)
        for place, group in enumerate(known.groups)
        for name, kind in ALL_ERRORS.items()
        if name in mean and np.isfinite(mean[name][place])
    ]
    members = zip(known.groups, means["group"].members, strict=True)
    metrics += [Metric(f"frames, {group}", int(count)) for group, count in members]
    outcome = "exploded" if any(np.isinf(values).any() for values in known.errors.values()) else "scored"
    return Report(
        system=system,
        potential=potential,
        outcome=outcome,
        sentence=ACCURACY_OUTCOMES[outcome],
        metrics=tuple(metrics),
        arrays={**_arrays(known, means), **_parity_arrays(scored, energies)},
        provenance=provenance(
            units={"displacement": "Å", "temperature": "K", **{name: ALL_ERRORS[name].unit for name in known.errors}},
            energies=f"{energies}, {ENERGIES[energies]}",
            intervals=f"95 % bootstrap intervals, {units.number} {units.name} drawn {DRAWS} times",
            notes=[*notes, *_notes(scored, known)],
            **dict(details or {}),
        ),
        validator="accuracy",
    )


@dataclass(frozen=True, eq=False)
class _Known:
    """Errors to average, and their groups.

    Attributes:
        errors: Error → ``(frames,)``, energies compared as asked for.
        groups: Region or kind of geometry → members ``(frames,)``.
        axes: ``displacement`` (Å) and ``temperature`` (K) ``(frames,)``; NaN where unknown.
        intervals: The same names → members of each interval ``(bins, frames)``.
    """

    errors: Mapping[str, Array]
    groups: Mapping[str, Array]
    axes: Mapping[str, Array]
    intervals: Mapping[str, Array]


def _arrays(known: _Known, means: Mapping[str, GroupMeans]) -> dict[str, Array]:
    arrays = {f"{name}_error": values for name, values in known.errors.items()} | dict(known.axes)
    arrays |= {"groups": np.array(list(known.groups)), "group_frames": means["group"].members}
    arrays["displacement_edges"] = np.array(DISPLACEMENT_EDGES)
    for axis, x in known.axes.items():
        there = [x[chosen] for chosen in known.intervals[axis]]
        arrays[f"{axis}_means"] = np.array([values.mean() if len(values) else np.nan for values in there])
        arrays[f"{axis}_frames"] = means[axis].members
    for by, part in means.items():
        for name in known.errors:
            arrays[f"{name}_by_{by}"] = part.mean[name]
            arrays |= {f"{name}_by_{by}_{limit}": getattr(part, limit)[name] for limit in ("low", "high", "frames")}
    return arrays


def _parity_arrays(scored: ScoredFrames, energies: str) -> dict[str, Array]:
    """References and predictions side by side; energies above the lowest of their composition, as they are compared."""
    reference = np.array([np.nan if f.energy is None else f.energy for f in scored.frames], dtype=float)
    predicted = scored.energies
    if energies == "relative":
        predicted = predicted - composition_offsets(scored.frames, scored.energies)
    keys = [tuple(sorted(np.asarray(frame.numbers).tolist())) for frame in scored.frames]
    lowest: dict[tuple[int, ...], float] = {}
    for key, value in zip(keys, reference.tolist(), strict=True):
        lowest[key] = float(np.fmin(lowest.get(key, np.nan), value))
    zero = np.array([lowest[key] for key in keys])
    there = np.flatnonzero(np.isfinite(reference) & np.isfinite(predicted))
    chosen = there[:: -(-len(there) // PARITY_POINTS) or 1]
    pairs = dict(scored.parity)
    if len(chosen):
        pairs = {"energy": ((reference - zero)[chosen], (predicted - zero)[chosen]), **pairs}
    return {
        f"parity_{label}_{side}": np.array([float(f"{v:.6g}") for v in values])
        for label, pair in pairs.items()
        for side, values in zip(("reference", "predicted"), pair, strict=True)
    }


_ABSENT = {
    "displacement": "no errors against displacement: no frame has a stationary point of its own reaction in the data",
    "temperature": "no errors against temperature: no frame has a sampling temperature",
}


def _notes(scored: ScoredFrames, known: _Known) -> list[str]:
    """Return what a reader must know: what is missing, and energies that are counted from another zero."""
    missing = [ERRORS[name].title for name in ("energy", "forces") if np.isnan(known.errors[name]).all()]
    if np.isnan(known.errors["hessian"]).all() and "hvp" not in known.errors:
        missing.append("Hessians or HVPs")
    notes = [f"nothing to compare of: {', '.join(missing)}"] if missing else []
    notes += [sentence for axis, sentence in _ABSENT.items() if not np.isfinite(known.axes[axis]).any()]
    shown, relative = known.errors["energy"], relative_energy_errors(scored.frames, scored.energies)
    both = np.isfinite(shown) & np.isfinite(relative)
    if both.any() and shown[both].mean() > _OTHER_ZERO * relative[both].mean():
        offsets = composition_offsets(scored.frames, scored.energies)[both]
        notes.append(
            f"energies differ by {offsets.min():.4g} to {offsets.max():.4g} eV from composition to composition: where "
            "that is another zero of energy, compare relative energies"
        )
    return notes
