"""Harmonic frequencies and curvature against a reference: what a potential must get right away from its minima.

At a stationary point of the reference both Hessians are diagonalised at the same structure, mass-weighted and with
translations and rotations projected out (:mod:`phl_ase.vibrations`), so that only the curvature differs, not the
geometry; :func:`validate_relaxed_frequencies` does it at the potential's own stationary point. Elsewhere frequencies
mean little (rotations mix with vibrations), so eigenvalues are compared; on a reaction path without the direction of
the reference's gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms

from phl_ase.curvature import HessianFunction, curvature_of
from phl_ase.errors import NonFiniteError, PHLError, attempt, guarded, unknown
from phl_ase.hessians import checked_hessian
from phl_ase.paths import Relaxation, TransitionStateSearch, aligned, find_transition_state, relax, rmsd
from phl_ase.results import Metric, Report, provenance
from phl_ase.types import Array, ASECalculator
from phl_ase.validators.curvature_metrics import energy_metrics, frequency_metrics, hessian_scores
from phl_ase.validators.names import MetricName
from phl_ase.vibrations import HarmonicAnalysis, free_motions, harmonic_analysis, rigid_motions

KINDS: dict[str, str] = {
    "stationary": "stationary point of the reference",
    "irc": "point of a reaction path of the reference, its gradient projected out",
    "elsewhere": "off the stationary points of the reference",
}
"""Kind of geometry -> what the provenance says of it."""

FREQUENCY_OUTCOMES: dict[str, str] = {
    "agrees": "the structure has as many imaginary modes as in the reference",
    "wrong order": "the number of imaginary modes is not the reference's",
    "off stationary": "no stationary point of the reference: eigenvalues are scored, not frequencies",
    "on a path": "a point of a reaction path: eigenvalues are scored, not frequencies, with the reference's gradient "
    "projected out",
    "no vibrations": "an atom alone has no vibrations",
    "another structure": "the potential's stationary point is not the reference's",
    "not found": "the potential's own stationary point was not found",
    "exploded": "the Hessian holds NaN or infinity",
    "failed": "the Hessian could not be computed",
}
"""Outcome of a validation of frequencies -> what it means."""

STATIONARY_COMPONENT = 0.05
"""Reference forces up to this (largest component, eV/Å) count as those of a stationary point."""

SAME_POINT_WITHIN = 0.25
"""Two stationary points count as the same within this RMS displacement, Å."""

# a rotation's restoring force, as a fraction of the stiffest mode's, beyond which a Hessian is of another structure: at
# stationary points of density functionals it is below 0.001 (0.02 with a coarse grid), with two atoms exchanged 0.1–0.5
_WRONG_ORDER = 0.05


@dataclass(frozen=True, eq=False)
class ReferenceCurvature:
    """A structure and its curvature as the reference has it.

    Attributes:
        atoms: The structure; masses, constraints and spin (``info``) count.
        hessian: ``(3n, 3n)`` eV/Å² or ``hessian(atoms)``.
        forces: The reference's ``(n, 3)`` eV/Å; needed on a reaction path.
        kind: A key of ``KINDS``; by default ``"stationary"`` without forces or with small ones, else ``"elsewhere"``.
        symmetry_number: Rotational symmetry number, for Gibbs energies.
    """

    atoms: Atoms
    hessian: Array | HessianFunction
    forces: Array | None = None
    kind: str | None = None
    symmetry_number: int = 1


@dataclass(frozen=True, eq=False)
class _Expected:
    """A checked reference: its Hessian, its analysis where it is stationary, and the gradient to project out."""

    reference: ReferenceCurvature
    kind: str
    hessian: Array
    analysis: HarmonicAnalysis
    gradient: Array | None


def validate_frequencies(
    reference: ReferenceCurvature,
    subject: Any,
    *,
    system: str,
    potential: str,
    details: Mapping[str, Any] | None = None,
) -> Report:
    """Compare frequencies, or off stationary points eigenvalues, with a reference at the reference's geometry.

    Args:
        reference: Structure and curvature; the structure is not changed.
        subject: The potential: an ASE calculator (with Hessians of its own or from differences of its forces, as the
            provenance says), ``hessian(atoms) -> (3n, 3n)`` eV/Å², or the array itself. A calculator that the reference
            atoms have is on the copies that callables get.
        system: What is computed, for the report.
        potential: Who computes it, for the report.
        details: What else the provenance should say.

    Returns:
        A report with outcome in ``FREQUENCY_OUTCOMES``. Metrics everywhere: ``Hessian MAE`` and ``eigenvalue MAE``, raw
        and ``projected`` (eV/Å², not mass-weighted), ``|cos| of mode 1`` and ``2`` (the lowest two; with the
        space of degenerate ones).
        At stationary points: ``frequency MAE`` and ``largest frequency error`` (cm⁻¹, in ascending order, imaginary
        ones negative), ``matched frequency MAE``, ``largest matched frequency error`` and ``mean mode overlap`` (see
        :func:`phl_ase.vibrations.match_modes`), ``imaginary modes``, ``ZPE`` and its error (meV), ``G correction``
        (298.15 K, 1 atm) and its error (kcal/mol), ``modes left out of G``, ``modes near zero in G`` where there are
        any, and where the reference has imaginary modes the lowest ``imaginary wavenumber`` (cm⁻¹, negative).
        Elsewhere: ``lowest eigenvalue`` (eV/Å²), ``negative eigenvalues``. Arrays ``wavenumbers`` and
        ``reference_wavenumbers`` (cm⁻¹), elsewhere ``eigenvalues`` and ``reference_eigenvalues`` (eV/Å², projected).

    Raises:
        PHLError: For a Hessian of the wrong shape or of another order of atoms, a periodic structure, or a reference
            that cannot be computed.
    """
    expected = _check(reference)
    if hasattr(subject, "get_potential_energy"):
        curvature = curvature_of(subject)
        hessian, source = curvature.hessian, curvature.source
    else:
        hessian, source = subject, "a Hessian function" if callable(subject) else "a given Hessian"
    draft = _Draft(
        expected, system, potential, {"curvature": source, "geometry": KINDS[expected.kind], **(details or {})}
    )
    answer = attempt(lambda: _evaluate(hessian, reference.atoms))
    if answer.value is None:
        return draft.with_details(traceback=answer.traceback).nothing(answer.outcome, answer.reason)
    scores = hessian_scores(reference.atoms, answer.value, expected.hessian, expected.gradient)
    if expected.kind != "stationary":
        outcome = "on a path" if expected.kind == "irc" else "off stationary"
        arrays = {"eigenvalues": scores.eigenvalues, "reference_eigenvalues": scores.reference_eigenvalues}
        return draft.report(outcome, (*scores.directions, *scores.metrics), arrays)
    return draft.compared(harmonic_analysis(reference.atoms, answer.value), after=scores.metrics)


def validate_relaxed_frequencies(
    reference: ReferenceCurvature,
    calculator: ASECalculator,
    *,
    system: str,
    potential: str,
    fmax: float = 0.001,
    max_steps: int = 500,
    same_within: float = SAME_POINT_WITHIN,
    details: Mapping[str, Any] | None = None,
) -> Report:
    """Compare frequencies at the potential's own stationary point with those at the reference's.

    The search starts at the reference's geometry: a relaxation where the reference has no imaginary mode, a TS search
    with the potential's Hessians where it has one. What is found is turned onto the reference before
    modes are compared.

    Args:
        reference: A minimum or first-order saddle point.
        calculator: The potential, an ASE calculator.
        system: What is computed, for the report.
        potential: Who computes it, for the report.
        fmax: Threshold for the largest force on an atom, eV/Å.
        max_steps: Most steps of the search.
        same_within: Largest RMS displacement from the reference that counts as the same stationary point, Å.
        details: What else the provenance should say.

    Returns:
        A report as of :func:`validate_frequencies`, without errors of Hessians (which are those of two structures),
        with ``RMSD to the reference`` (Å), ``steps`` and ``force calls`` (of the search, without its final Hessian).

    Raises:
        PHLError: As :func:`validate_frequencies`; and for a reference off its stationary points.
    """
    expected = _check(reference)
    if expected.kind != "stationary":
        raise PHLError(
            f"the reference is {KINDS[expected.kind]}; a relaxed comparison needs one of its stationary points"
        )
    curvature = curvature_of(calculator)
    notes = {"curvature": curvature.source, "geometry": "stationary point of the potential", "fmax": fmax}
    draft = _Draft(expected, system, potential, {**notes, **(details or {})})
    order = expected.analysis.n_imaginary
    if order > 1:
        return draft.nothing("not found", f"the reference has {order} imaginary modes: neither a minimum nor a TS")
    start = reference.atoms.copy()
    start.calc = calculator
    end: Relaxation | TransitionStateSearch
    if order == 0:
        end = relax(start, fmax, max_steps)
    else:
        hessian = curvature.hessian if curvature.is_exact else None
        end = find_transition_state(start, hessian, fmax=fmax, max_steps=max_steps)
    found, distance = end.atoms, rmsd(end.atoms, reference.atoms)
    metrics = (
        Metric(MetricName.RMSD_TO_REFERENCE, distance, "Å"),
        Metric(MetricName.STEPS, end.steps),
        Metric(MetricName.FORCE_CALLS, end.force_calls),
    )
    # a stationary point of another order is found; its modes then say what it is
    if end.outcome not in ("converged", "wrong order of saddle"):
        return draft.nothing("not found", end.sentence, metrics)
    if distance > same_within:
        reason = f"it is {distance:.2f} Å RMS away, more than {same_within:g} Å"
        return draft.nothing("another structure", reason, metrics)
    if not found.constraints:
        found = aligned(found, reference.atoms)
    answer = attempt(lambda: _evaluate(curvature.hessian, found))
    if answer.value is None:
        return draft.with_details(traceback=answer.traceback).nothing(answer.outcome, answer.reason, metrics)
    return draft.compared(harmonic_analysis(found, answer.value), before=metrics)


def _check(reference: ReferenceCurvature) -> _Expected:
    """Refuse what cannot be scored; evaluate and analyse the reference."""
    atoms = reference.atoms
    if np.any(atoms.pbc):
        raise PHLError(
            f"{atoms.get_chemical_formula()} is periodic (pbc {atoms.pbc.tolist()}); frequencies are validated for "
            "molecules: set pbc to False, or validate phonons"
        )
    if atoms.constraints and free_motions(atoms).is_curved:
        raise PHLError(
            f"{atoms.get_chemical_formula()} has constraints on lengths or angles, under which frequencies are not "
            "compared: their forces belong to the curvature of each method; remove them (atoms.set_constraint())"
        )
    forces = None if reference.forces is None else np.asarray(reference.forces, dtype=float)
    if forces is not None and forces.shape != (len(atoms), 3):
        raise PHLError(f"the reference forces have shape {forces.shape}; expected {(len(atoms), 3)}, eV/Å")
    if forces is not None and not np.all(np.isfinite(forces)):
        raise NonFiniteError("the reference forces hold NaN or infinity; expected finite numbers, or none")
    kind = reference.kind
    if kind is None:
        small = forces is None or np.abs(forces).max(initial=0.0) <= STATIONARY_COMPONENT
        kind = "stationary" if small else "elsewhere"
    if kind not in KINDS:
        raise unknown("kind of geometry", kind, KINDS)
    if kind == "irc" and forces is None:
        raise PHLError("a point of a reaction path needs the reference's forces, whose direction is projected out")
    hessian = _evaluate(reference.hessian, atoms)
    gradient = forces if kind == "irc" else None
    if kind == "stationary":
        _check_order(atoms, hessian)
    return _Expected(reference, kind, hessian, harmonic_analysis(atoms, hessian, gradient=gradient), gradient)


def _check_order(atoms: Atoms, hessian: Array) -> None:
    """Refuse a Hessian of another order of atoms: at a stationary point it has restoring forces against rotation."""
    motions = rigid_motions(atoms.positions, np.ones(len(atoms)))
    stiffest = np.linalg.norm(hessian, 2)
    restoring = np.linalg.norm(hessian @ motions, axis=0).max()
    if len(atoms) > 1 and restoring > _WRONG_ORDER * stiffest:
        raise PHLError(
            f"the reference Hessian resists translation or rotation by {restoring:.3g} eV/Å² (its stiffest mode: "
            f"{stiffest:.3g}): expected one of this structure; are its atoms in another order or orientation? Off "
            "stationary points give the reference's forces, or kind='elsewhere'"
        )


def _evaluate(hessian: Array | HessianFunction, atoms: Atoms) -> Array:
    """Return the finite, symmetric Hessian, from an array or a callable that gets its own copy."""
    if callable(hessian):
        structure = atoms.copy()
        structure.calc = atoms.calc
        return checked_hessian(guarded(hessian)(structure), len(atoms))
    return checked_hessian(hessian, len(atoms))


@dataclass(frozen=True, eq=False)
class _Draft:
    """The parts that all reports of one validation share."""

    expected: _Expected
    system: str
    potential: str
    notes: Mapping[str, Any]

    def report(
        self, outcome: str, metrics: tuple[Metric, ...], arrays: Mapping[str, Array], reason: str = ""
    ) -> Report:
        sentence = f"{FREQUENCY_OUTCOMES[outcome]} ({reason})" if reason else FREQUENCY_OUTCOMES[outcome]
        notes = provenance(**self.notes)
        return Report(self.system, self.potential, outcome, sentence, metrics, arrays, notes, "frequencies")

    def with_details(self, **details: Any) -> _Draft:
        """Return the same with more in its provenance."""
        return replace(self, notes={**self.notes, **details})

    def nothing(self, outcome: str, reason: str, metrics: tuple[Metric, ...] = ()) -> Report:
        """Return the report of a potential that gave nothing to compare."""
        nan, analysis = float("nan"), self.expected.analysis
        if self.expected.kind != "stationary":
            return self.report(outcome, (Metric("eigenvalue MAE", nan, "eV/Å²"), *metrics), {}, reason)
        lost = (
            Metric(MetricName.FREQUENCY_MAE, nan, "cm⁻¹"),
            Metric(MetricName.IMAGINARY_MODES, nan, "", analysis.n_imaginary),
            Metric(MetricName.ZPE, nan, "meV", analysis.zero_point_energy_mev),
        )
        return self.report(outcome, (*metrics, *lost), {"reference_wavenumbers": analysis.wavenumbers}, reason)

    def compared(
        self, got: HarmonicAnalysis, *, before: tuple[Metric, ...] = (), after: tuple[Metric, ...] = ()
    ) -> Report:
        """Return the report of the modes of two stationary points that count as the same."""
        expected = self.expected.analysis
        if len(got.wavenumbers) != len(expected.wavenumbers):
            reason = f"it is {got.shape}, the reference's {expected.shape}"
            return self.nothing("another structure", reason, before)
        sigma = self.expected.reference.symmetry_number
        arrays = {"wavenumbers": got.wavenumbers, "reference_wavenumbers": expected.wavenumbers}
        if not len(expected.wavenumbers):
            return self.report("no vibrations", (*before, *energy_metrics(got, expected, sigma), *after), arrays)
        outcome = "agrees" if got.n_imaginary == expected.n_imaginary else "wrong order"
        return self.report(outcome, (*before, *frequency_metrics(got, expected, sigma), *after), arrays)
