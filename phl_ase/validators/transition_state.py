"""Transition-state searches from a displaced start: does the potential lead to the reference's TS, at what cost?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from phl_ase.errors import NonFiniteError, PHLError, unknown
from phl_ase.paths import TransitionStateSearch, find_transition_state, relax, rmsd
from phl_ase.paths.counting import HessianFunction
from phl_ase.paths.transition_state import OUTCOMES as SEARCH_OUTCOMES
from phl_ase.results import Metric, Report, provenance
from phl_ase.units import convert
from phl_ase.vibrations import harmonic_analysis

Array = np.ndarray

OUTCOMES: dict[str, str] = {
    **SEARCH_OUTCOMES,
    "another saddle": "the search converged to a first-order saddle point that is not the reference's",
}
"""Outcome of a validated search -> what it means; those of ``phl_ase.paths`` and one more."""

END_POINTS = {
    "relaxed": "the end points are relaxed with the potential, from the reference's",
    "reference": "the end points have the reference's geometry",
}
"""How the potential's energies of the end points are had -> what that means."""

SAME_WITHIN = 0.25
"""Two saddle points count as the same within this RMS displacement, Å."""


@dataclass(frozen=True, eq=False)
class EndPoint:
    """One end of a reaction, as the reference has it.

    Attributes:
        atoms: Its structure.
        energy: Its reference energy, eV; ``None`` when unknown.
    """

    atoms: Atoms
    energy: float | None = None


def validate_transition_state(
    start: Atoms,
    calculator: Any,
    hessian: HessianFunction | None,
    reference: Atoms,
    *,
    system: str,
    potential: str,
    reference_energy: float | None = None,
    reference_hessian: Array | None = None,
    end_points: Mapping[str, EndPoint] | None = None,
    end_geometry: str = "relaxed",
    same_within: float = SAME_WITHIN,
    fmax: float = 0.01,
    max_steps: int = 200,
    diag_every_n: int | None = None,
    internal: bool = True,
    details: Mapping[str, Any] | None = None,
) -> Report:
    """Search a TS with Sella and compare what is found with the reference.

    The barrier from an end point is the potential's E(TS found) − E(end point), the latter relaxed with the potential
    or at the reference's geometry, as ``end_geometry`` and the provenance say; the reference's is the difference of its
    energies. The RMS displacement compares atoms in their order: the mirror image of the reference's TS, or one with
    like atoms exchanged, counts as another saddle.

    Args:
        start: Where the search starts, usually :func:`phl_ase.paths.displaced` from the reference's TS.
        calculator: The potential, an ASE calculator.
        hessian: ``hessian(atoms) -> (3n, 3n)`` eV/Å² of the potential; without one, Sella works from forces.
        reference: The reference's TS.
        system: What is computed, for the report.
        potential: Who computes it, for the report.
        reference_energy: Reference energy of the TS, eV.
        reference_hessian: Reference Hessian at the TS ``(3n, 3n)`` eV/Å², for its imaginary wavenumber.
        end_points: Name, for example ``"HCN"``, to end point: for barriers.
        end_geometry: A key of ``END_POINTS``.
        same_within: Largest RMS displacement from the reference's TS that counts as the same TS, Å.
        fmax: Threshold for the largest force on an atom, eV/Å.
        max_steps: Most steps of the search.
        diag_every_n: How often the curvature is computed anew; see :func:`phl_ase.paths.find_transition_state`.
        internal: Internal coordinates, or Cartesian ones.
        details: What else the provenance should say.

    Returns:
        A report with outcome in ``OUTCOMES``; metrics ``RMSD to the reference TS`` (Å, of where the search ended),
        ``imaginary wavenumber`` (cm⁻¹, negative), ``imaginary modes``, ``steps``, ``force calls``, ``Hessian calls``,
        ``largest force`` (eV/Å), and for each end point ``barrier from NAME``, ``barrier error from NAME`` (kcal/mol,
        NaN where no TS was found) and, where relaxed, ``RMSD of NAME`` (Å). Array ``positions`` ``(n, 3)`` Å.

    Raises:
        PHLError: For a mistake of the caller: other atoms than the reference's, a Hessian of the wrong shape, ….
    """
    if end_geometry not in END_POINTS:
        raise unknown("geometry of the end points", end_geometry, END_POINTS)
    rmsd(start, reference)  # other atoms than the reference's are a mistake that should not cost a search
    working = start.copy()
    working.calc = calculator
    search = find_transition_state(
        working, hessian, fmax=fmax, max_steps=max_steps, diag_every_n=diag_every_n, internal=internal
    )
    distance = rmsd(search.atoms, reference)
    outcome, sentence = search.outcome, search.sentence
    if search.converged and distance > same_within:
        outcome = "another saddle"
        sentence = f"{OUTCOMES[outcome]} (it is further than {same_within:g} Å RMS away)"
    barriers: list[Metric] = []
    for name, end in (end_points or {}).items():
        barriers += _barrier(name, end, end_geometry, search, calculator, reference_energy, fmax)
    return Report(
        system=system,
        potential=potential,
        outcome=outcome,
        sentence=sentence,
        metrics=(*_metrics(search, distance, reference, reference_hessian), *barriers),
        arrays={"positions": search.atoms.positions},
        provenance=provenance(
            end_points=END_POINTS[end_geometry] if end_points else "none",
            fmax=fmax,
            same_within=same_within,
            curvature="Hessians" if hessian is not None else "forces only",
            seconds=round(search.seconds, 3),
            **dict(details or {}),
        ),
        validator="transition state",
    )


def _metrics(
    search: TransitionStateSearch, distance: float, reference: Atoms, reference_hessian: Array | None
) -> tuple[Metric, ...]:
    nan = float("nan")
    found = search.analysis
    expected = None if reference_hessian is None else harmonic_analysis(reference, reference_hessian)
    return (
        Metric("RMSD to the reference TS", distance, "Å"),
        Metric(
            "imaginary wavenumber",
            nan if found is None else float(found.wavenumbers[0]),
            "cm⁻¹",
            None if expected is None else float(expected.wavenumbers[0]),
        ),
        Metric("imaginary modes", nan if found is None else found.n_imaginary),
        Metric("steps", search.steps),
        Metric("force calls", search.force_calls),
        Metric("Hessian calls", search.hessian_calls),
        Metric("largest force", search.fmax, "eV/Å"),
    )


def _barrier(
    name: str,
    end: EndPoint,
    geometry: str,
    search: TransitionStateSearch,
    calculator: Any,
    reference_energy: float | None,
    fmax: float,
) -> list[Metric]:
    """Barrier from one end point, its error, and how far the end point moved."""
    atoms = end.atoms.copy()
    atoms.calc = calculator
    moved: list[Metric] = []
    energy = float("nan")
    if geometry == "relaxed":
        relaxed = relax(atoms, fmax)
        if relaxed.converged:
            energy = relaxed.energy
        moved = [Metric(f"RMSD of {name}", rmsd(relaxed.atoms, end.atoms) if relaxed.converged else float("nan"), "Å")]
    else:
        energy = _energy(atoms)
    found = search.energy if search.converged else float("nan")
    barrier = convert(found - energy, "eV", "kcal/mol")
    if reference_energy is None or end.energy is None:
        return [Metric(f"barrier from {name}", barrier, "kcal/mol"), *moved]
    expected = convert(reference_energy - end.energy, "eV", "kcal/mol")
    return [
        Metric(f"barrier from {name}", barrier, "kcal/mol", expected),
        Metric(f"barrier error from {name}", barrier - expected, "kcal/mol"),
        *moved,
    ]


def _energy(atoms: Atoms) -> float:
    try:
        return float(atoms.get_potential_energy())
    except NonFiniteError:
        return float("nan")
    except PHLError:
        raise
    except Exception:  # a calculator that fails at an end point leaves a barrier that is not known
        return float("nan")


__all__ = ["END_POINTS", "OUTCOMES", "EndPoint", "validate_transition_state"]
