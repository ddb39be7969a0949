"""Errors of single frames: energy, forces, Hessian, and what a chemist reads from a Hessian's spectrum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from phl_ase.hessians import symmetrised
from phl_ase.scoring.frames import LabelledStructure
from phl_ase.types import Array
from phl_ase.vibrations import rigid_motions


@dataclass(frozen=True)
class ErrorKind:
    """One error of a frame.

    Attributes:
        title: How tables and figures name it.
        label: The quantity it compares: ``energy`` (eV), ``forces`` (eV/Å), ``hessian`` (eV/Å²), ``spectrum``, the
            :func:`projected_eigenvalues` of the Hessian (eV/Å²), ``hvp``, the HVPs with recorded probes (eV/Å²), or
            ``along``, the :func:`curvatures_along` them (eV/Å²).
        unit: Unit of the error.
        scale: From eV, Å to the unit.
        error: Error of one frame from (prediction, reference, atoms), eV and Å.
    """

    title: str
    label: str
    unit: str
    scale: float
    error: Callable[[Any, Any, int], float]


def _mean_absolute(predicted: Any, reference: Any, atoms: int) -> float:
    return float(np.mean(np.abs(np.asarray(predicted) - reference)))


ERRORS: dict[str, ErrorKind] = {
    "energy": ErrorKind("energy", "energy", "meV/atom", 1e3, lambda p, r, n: abs(p - r) / n),
    "forces": ErrorKind("forces", "forces", "meV/Å", 1e3, _mean_absolute),
    "hessian": ErrorKind("Hessian", "hessian", "eV/Å²", 1.0, _mean_absolute),
    "lowest_eigenvalue": ErrorKind("lowest eigenvalue", "spectrum", "eV/Å²", 1.0, lambda p, r, n: abs(p[0] - r[0])),
    "saddle_order": ErrorKind(
        "wrong saddle order", "spectrum", "%", 100.0, lambda p, r, n: float(np.sum(p < 0) != np.sum(r < 0))
    ),
}
"""Error -> how it is taken. The two of the spectrum are those of HIP (arXiv:2509.21624): |Δλ_min| and, as a share of
frames, how often the number of negative eigenvalues (the order of the saddle) is not the reference's."""


def _relative(predicted: Any, reference: Any, atoms: int) -> float:
    norm = np.linalg.norm(np.ravel(reference))
    return float(np.linalg.norm(np.ravel(predicted - reference)) / norm) if norm else float("nan")


HVP_ERRORS: dict[str, ErrorKind] = {
    "hvp": ErrorKind("HVP", "hvp", "eV/Å²", 1.0, _mean_absolute),
    "hvp_relative": ErrorKind("relative HVP", "hvp", "%", 100.0, _relative),
    "curvature_along": ErrorKind("u·H·u", "along", "eV/Å²", 1.0, _mean_absolute),
}
"""Error -> how it is taken, of frames that hold Hessian-vector products along recorded probes v. The first is of the
components of H·v as they are recorded, the second ‖ΔH·v‖ / ‖H·v‖ over all probes of a frame, the third the curvature
along the unit vector u = v/‖v‖, a mean over the probes of a frame."""

ALL_ERRORS: dict[str, ErrorKind] = {**ERRORS, **HVP_ERRORS}
"""Every error of a frame."""


def curvatures_along(probes: Array, hvps: Array) -> Array:
    """Return u·H·u of each probe v, with u = v/‖v‖.

    Args:
        probes: ``(K, n, 3)``.
        hvps: H·v ``(K, n, 3)`` eV/Å².

    Returns:
        ``(K,)`` eV/Å²; zero for a probe of zeros.
    """
    squares = (probes**2).sum((1, 2))
    return (probes * hvps).sum((1, 2)) / np.where(squares > 0, squares, 1.0)


def projected_eigenvalues(hessian: Array, positions: Array, *, periodic: bool = False) -> Array:
    """Eigenvalues of a Hessian without translations and rotations, not mass-weighted.

    Away from stationary points rotations are no zero modes of a Hessian; they are taken out all the same, so that the
    spectra of a potential and its reference are those of the same motions.

    Args:
        hessian: ``(3n, 3n)`` eV/Å².
        positions: ``(n, 3)`` Å.
        periodic: Take translations out alone.

    Returns:
        Ascending, eV/Å²: ``(3n − 6,)``, or 3n − 5 of a linear molecule, 3n − 3 of a periodic structure, none of an
        atom.
    """
    rigid = rigid_motions(positions, np.ones(len(positions)), rotations=not periodic)
    internal = np.linalg.qr(rigid, mode="complete")[0][:, rigid.shape[1] :]
    reduced = internal.T @ symmetrised(hessian) @ internal
    return np.linalg.eigvalsh(reduced) if reduced.size else np.zeros(0)


def frame_errors(frames: Sequence[LabelledStructure], predictions: Iterable[Mapping[str, Any]]) -> dict[str, Array]:
    """Error of each frame, in the units of ``ALL_ERRORS``.

    Args:
        frames: Reference labels.
        predictions: For each frame, what was predicted of ``energy`` (eV), ``forces`` (eV/Å), ``hessian`` (eV/Å²),
            ``hvp`` (HVPs with the frame's probes ``(K, n, 3)``, eV/Å²).

    Returns:
        Error name → ``(frames,)``, those of ``HVP_ERRORS`` where a frame has them; NaN where a frame or its prediction
        lacks the quantity, infinite where the prediction holds NaN or infinity.
    """
    errors = {name: np.full(len(frames), np.nan) for name in ALL_ERRORS}
    for index, (frame, predicted) in enumerate(zip(frames, predictions, strict=True)):
        pairs = _pairs(frame, predicted)
        for name, kind in ALL_ERRORS.items():
            if kind.label in pairs:
                guess, reference = pairs[kind.label]
                errors[name][index] = np.inf if guess is None else kind.scale * kind.error(guess, reference, len(frame))
    return {name: values for name, values in errors.items() if name in ERRORS or not np.isnan(values).all()}


def _pairs(frame: Any, predicted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Quantity -> (prediction, reference) of those that both have; ``None`` for a prediction that is not finite."""
    pairs = {}
    for label in ("energy", "forces", "hessian", "hvp"):
        guess, reference = predicted.get(label), getattr(frame, label, None)
        if guess is not None and reference is not None:
            pairs[label] = (guess if np.all(np.isfinite(guess)) else None, reference)
    if "hessian" in pairs:
        periodic = bool(np.any(getattr(frame, "pbc", False)))
        guess, reference = (
            None if h is None else projected_eigenvalues(np.asarray(h, dtype=float), frame.positions, periodic=periodic)
            for h in pairs["hessian"]
        )
        if reference is not None and len(reference):
            pairs["spectrum"] = (guess, reference)
    if "hvp" in pairs:
        guess, reference = (None if h is None else curvatures_along(frame.probes, h) for h in pairs["hvp"])
        pairs["along"] = (guess, reference)
    return pairs
