"""Phonons of a crystal: bands, density of states and thermal properties of a potential against a reference's.

Both are computed in the same crystal and supercell, on the same path and mesh, so that only the curvature differs, not
the geometry. Force constants come from Hessian-vector products (:mod:`phl_ase.phonons`). No non-analytic correction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from phl_ase.curvature import Curvature
from phl_ase.errors import GuardedCalculator, NonFiniteError, PHLError, attempt, reason_of
from phl_ase.phonons import (
    ForceConstants,
    Phonons,
    band_path,
    displaced_force_constants,
    force_constants,
    make_phonopy,
    phonons_of,
    supercell_atoms,
)
from phl_ase.phonons.bands import MESH, THERMAL_TEMPERATURES
from phl_ase.phonons.supercell import thickness
from phl_ase.results import Metric, Report, provenance
from phl_ase.tables import counted
from phl_ase.types import Array, ASECalculator
from phl_ase.units import convert
from phl_ase.validators.names import MetricName

if TYPE_CHECKING:
    from phonopy import Phonopy

PHONON_OUTCOMES: dict[str, str] = {
    "agrees": "the crystal is dynamically stable, or unstable, as in the reference",
    "wrong stability": "the crystal has imaginary modes where the reference has none, or the other way around",
    "exploded": "energies, forces or their derivatives hold NaN or infinity",
    "failed": "the force constants could not be computed",
}
"""Outcome of a validation of phonons -> what it means."""

OWN_DISPLACEMENTS = "own displacements"
"""As a reference: the same calculator's force constants by phonopy's finite displacements."""

CORRECTION = "no non-analytic correction (LO-TO splitting)"
RELAXED_FORCE = 0.01
"""eV/Å; with a larger force the structure is said not to be relaxed."""
RELAXED_STRESS = 0.5
"""GPa; likewise for the stress."""


def validate_phonons(
    crystal: Atoms | Phonopy,
    calculator: ASECalculator | Curvature,
    reference: Any,
    *,
    system: str,
    potential: str,
    supercell: Any = None,
    primitive_matrix: Any = "auto",
    path: str | None = None,
    points: int = 200,
    mesh: Sequence[int] = MESH,
    temperature: float = 300.0,
    distance: float = 0.01,
    constants: ForceConstants | None = None,
    details: Mapping[str, Any] | None = None,
) -> Report:
    """Compare phonons with a reference's at the same structure.

    Args:
        crystal: Unit cell, relaxed with the reference, or a ``Phonopy`` with its supercell
            (:func:`phl_ase.phonons.read_phonopy_yaml`).
        calculator: The potential: an ASE calculator, or a :class:`phl_ase.curvature.Curvature`.
        reference: An ASE calculator or ``Curvature``, the :class:`phl_ase.phonons.Phonons` of one on the same path and
            mesh, or ``OWN_DISPLACEMENTS``: phonopy's finite displacements with ``calculator``.
        system: What is computed, for the report.
        potential: Who computes it, for the report.
        supercell: Of a unit cell: 3 or 9 whole numbers; see :func:`phl_ase.phonons.parse_supercell`.
        primitive_matrix: Of a unit cell: see :func:`phl_ase.phonons.make_phonopy`.
        path: Special points of the bands; ASE's path for the lattice by default.
        points: On the path, about.
        mesh: Of the Brillouin zone, for the density of states and thermal properties.
        temperature: K, between 0 and 1000, at which thermal properties are compared.
        distance: Displacement of ``OWN_DISPLACEMENTS``, Å.
        constants: The potential's force constants in this supercell, where they are known already.
        details: What else the provenance should say.

    Returns:
        A report with outcome in ``PHONON_OUTCOMES``. Metrics, with the reference's value where there is one:
        ``band MAE`` and ``largest band error`` (THz, bands in ascending order), ``DOS distance`` (THz:
        earth mover's distance between the densities of states), ``acoustic at Γ`` (THz, the largest of the three,
        unsymmetrised), ``sum rule`` (eV/Å², largest violation), ``imaginary modes`` (of the mesh), ``free energy at
        T K`` and ``error of free energy at T K`` (meV per primitive cell), the same of ``heat capacity`` (meV/K per
        primitive cell), ``largest force`` (eV/Å) and ``largest stress`` (GPa, NaN where the calculator gives none) of
        the potential in the structure. Arrays as in :class:`phl_ase.phonons.Phonons`, the reference's with
        ``reference_`` before the name.

    Raises:
        PHLError: For a mistake of the caller: no crystal, a supercell that is none, a reference on another path, ….
    """
    if isinstance(crystal, Atoms):
        if supercell is None:
            raise PHLError("no supercell was given with the unit cell; expected 3 or 9 whole numbers, as 2 2 2")
        phonon = make_phonopy(crystal, supercell, primitive_matrix=primitive_matrix)
    elif supercell is not None:
        raise PHLError("got a phonopy calculation and a supercell; the calculation has its own: leave it out")
    else:
        phonon = crystal
    if not isinstance(calculator, Curvature):
        calculator = GuardedCalculator(calculator)
    _check(phonon, path, points, reference, temperature)
    kelvin = sorted({*THERMAL_TEMPERATURES, temperature})
    # from force constants, for the potential and for the reference alike
    computed = partial(phonons_of, phonon, path=path, points=points, mesh=mesh, temperatures=kelvin)
    record = dict(details or {}) | {
        "supercell": np.asarray(phonon.supercell_matrix).tolist(),
        "primitive_matrix": np.asarray(phonon.primitive_matrix).tolist(),
        "mesh": list(mesh),
        "correction": CORRECTION,
        "geometry": "the structure given, for the potential and the reference alike",
    }
    expected: Phonons | None = reference if isinstance(reference, Phonons) else None
    if expected is None and not isinstance(reference, str):
        try:
            expected = computed(force_constants(phonon, reference))
        except PHLError:
            raise
        except Exception as error:  # that it cannot be computed is the caller's mistake
            why = reason_of(error)
            raise PHLError(f"the reference gave no force constants ({why}); expected a calculator that does") from error

    def compute() -> tuple[Phonons, Phonons, tuple[Metric, Metric]]:
        residual = _residual(phonon, calculator)
        known = force_constants(phonon, calculator) if constants is None else constants
        other = expected or computed(displaced_force_constants(phonon, calculator, distance=distance))
        return computed(known), other, residual

    answer = attempt(compute)
    if answer.value is None:
        record["traceback"] = answer.traceback
        return _nothing(expected, answer.outcome, answer.reason, system, potential, record)
    got, expected, residual = answer.value
    record |= {
        "force_constants": got.force_constants.source,
        "reference_force_constants": expected.force_constants.source,
        "gradients": got.force_constants.gradients,
    }
    outcome = "agrees" if (got.n_imaginary == 0) == (expected.n_imaginary == 0) else "wrong stability"
    return Report(
        system=system,
        potential=potential,
        outcome=outcome,
        sentence="; ".join([PHONON_OUTCOMES[outcome], *_remarks(phonon, calculator, got, residual), CORRECTION]),
        metrics=(*_metrics(got, expected, temperature), *residual),
        arrays=_arrays(got) | _arrays(expected, "reference_"),
        provenance=provenance(**record),
        validator="phonons",
    )


def _check(phonon: Phonopy, path: str | None, points: int, reference: Any, temperature: float) -> None:
    """Find the caller's mistakes before anything is paid for."""
    if isinstance(reference, str) and reference != OWN_DISPLACEMENTS:
        raise PHLError(f"reference is {reference!r}; expected {OWN_DISPLACEMENTS!r}, a calculator or phonons")
    if not THERMAL_TEMPERATURES[0] <= temperature <= THERMAL_TEMPERATURES[-1]:
        low, high = THERMAL_TEMPERATURES[0], THERMAL_TEMPERATURES[-1]
        raise PHLError(f"temperature is {temperature!r} K; expected one from {low:g} to {high:g} K")
    qpoints, *_ = band_path(phonon, path, points=points)
    if not isinstance(reference, Phonons):
        return
    bands = 3 * len(phonon.primitive)
    if reference.frequencies.shape != (len(qpoints), bands) or not np.allclose(qpoints, reference.qpoints):
        raise PHLError(
            f"the reference's phonons are on another path or of another crystal ({reference.frequencies.shape[0]} "
            f"points, {reference.frequencies.shape[1]} bands; asked for {len(qpoints)}, {bands}): compute them with "
            "the same crystal, path and points"
        )


def _residual(phonon: Phonopy, calculator: ASECalculator | Curvature) -> tuple[Metric, Metric]:
    """Return the largest force (eV/Å) and stress (GPa) of the potential in the structure; NaN where it gives none."""
    force = stress = float("nan")
    if not isinstance(calculator, Curvature):
        atoms = supercell_atoms(phonon)
        atoms.calc = calculator
        force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        with contextlib.suppress(PropertyNotImplementedError, NotImplementedError):
            stress = convert(float(np.abs(atoms.get_stress()).max()), "eV/Å³", "GPa")
        if not np.isfinite(force):
            raise NonFiniteError("the forces in the supercell hold NaN or infinity; check the structure")
    return Metric("largest force", force, "eV/Å"), Metric("largest stress", stress, "GPa")


def _remarks(
    phonon: Phonopy, calculator: ASECalculator | Curvature, got: Phonons, residual: tuple[Metric, Metric]
) -> list[str]:
    """Return what a reader must know of how the numbers were had."""
    force, stress = (metric.value for metric in residual)
    remarks = []
    if force > RELAXED_FORCE or stress > RELAXED_STRESS:
        remarks.append(
            f"for the potential the structure is not relaxed (largest force {force:.2g} eV/Å, stress {stress:.2g} GPa)"
        )
    if got.n_imaginary:
        remarks.append(f"thermal properties are without its {counted(got.n_imaginary, 'imaginary mode')}")
    if got.force_constants.gradients:
        remarks.append("force constants by finite differences of forces")
    reach = max(getattr(getattr(calculator, "potential", None), "cutoffs", ()), default=0.0)
    thin = thickness(np.asarray(phonon.supercell.cell))
    if thin < 2 * reach:
        remarks.append(
            f"the supercell is {thin:.3g} Å thick, less than twice the cutoff of {reach:.3g} Å: atoms act on images of "
            "others, and a larger supercell may change the bands"
        )
    return remarks


def _metrics(got: Phonons, expected: Phonons, temperature: float) -> tuple[Metric, ...]:
    from scipy.stats import wasserstein_distance  # half a second to load

    errors = np.abs(got.frequencies - expected.frequencies)
    dos_distance = wasserstein_distance(
        got.mesh_frequencies.ravel(),
        expected.mesh_frequencies.ravel(),
        np.repeat(got.mesh_weights, got.mesh_frequencies.shape[1]),
        np.repeat(expected.mesh_weights, expected.mesh_frequencies.shape[1]),
    )
    metrics = [
        Metric("band MAE", float(errors.mean()), "THz"),
        Metric("largest band error", float(errors.max()), "THz"),
        Metric("DOS distance", float(dos_distance), "THz"),
        Metric("acoustic at Γ", _largest(got.gamma_acoustic), "THz", _largest(expected.gamma_acoustic)),
        Metric("sum rule", got.force_constants.sum_rule, "eV/Å²", expected.force_constants.sum_rule),
        Metric(MetricName.IMAGINARY_MODES, got.n_imaginary, "", expected.n_imaginary),
    ]
    for name, unit in (("free_energy", "meV"), ("heat_capacity", "meV/K")):
        value, reference = (
            1e3 * phonons.at_temperature(getattr(phonons, name), temperature) for phonons in (got, expected)
        )
        shown = f"{name.replace('_', ' ')} at {temperature:g} K"
        metrics += [Metric(shown, value, unit, reference), Metric(f"error of {shown}", value - reference, unit)]
    return tuple(metrics)


def _largest(frequencies: Array) -> float:
    return float(np.abs(frequencies).max())


def _arrays(phonons: Phonons, prefix: str = "") -> dict[str, Array]:
    return {f"{prefix}{name}": np.asarray(getattr(phonons, name)) for name in _ARRAYS}


_ARRAYS = (
    "distances",
    "frequencies",
    "label_distances",
    "labels",
    "dos_frequencies",
    "dos",
    "temperatures",
    "free_energy",
    "entropy",
    "heat_capacity",
    "gamma_acoustic",
)


def _nothing(
    expected: Phonons | None, outcome: str, reason: str, system: str, potential: str, record: dict[str, Any]
) -> Report:
    """Return the report of a potential that gave no force constants."""
    nan = float("nan")
    metrics = [Metric("band MAE", nan, "THz")]
    if expected is not None:
        metrics.append(Metric("acoustic at Γ", nan, "THz", _largest(expected.gamma_acoustic)))
        metrics.append(Metric(MetricName.IMAGINARY_MODES, nan, "", expected.n_imaginary))
    return Report(
        system=system,
        potential=potential,
        outcome=outcome,
        sentence=f"{PHONON_OUTCOMES[outcome]} ({reason})",
        metrics=tuple(metrics),
        arrays={} if expected is None else _arrays(expected, "reference_"),
        provenance=provenance(**record),
        validator="phonons",
    )
