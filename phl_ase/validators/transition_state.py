"""Transition-state searches: does the potential lead to the reference's TS and its end points, at what cost?

The funnel: converged → exactly one imaginary mode → the IRC leads to the intended end points → the reference's TS, and
the barrier error of those that pass. Counts of the search, of the path after it, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from ase import Atoms

from phl_ase.curvature import Curvature, curvature_of
from phl_ase.paths import (
    RECOMMENDED,
    Connection,
    Reaction,
    TransitionStateSearch,
    connects,
    find_reaction,
    relax,
    rmsd,
    search,
)
from phl_ase.paths.transition_state import SEARCH_OUTCOMES
from phl_ase.results import Metric, Report, provenance
from phl_ase.types import ASECalculator
from phl_ase.units import convert
from phl_ase.validators.funnel import FUNNEL_STAGES
from phl_ase.validators.names import BARRIER_ERROR, MetricName
from phl_ase.validators.reference import ReferenceReaction, StationaryPoint
from phl_ase.vibrations import harmonic_analysis

TS_OUTCOMES: dict[str, str] = {
    **{name: sentence for name, sentence in SEARCH_OUTCOMES.items() if name != "converged"},
    "found": "the search passed every stage that was looked at",
    "no path": "the search found a first-order saddle point whose IRC or end points did not converge",
    "same end": "the search found a first-order saddle point from which both directions reach the same structure",
    "other end points": "the search found a first-order saddle point that does not join the intended end points",
    "another saddle": "the search found a first-order saddle point that is not the reference's",
}
"""Outcome of a validated search -> what it means."""

SAME_TS_WITHIN = 0.1
"""Two saddle points count as the same within this RMS displacement, Å."""


def validate_transition_state(
    start: Atoms,
    calculator: ASECalculator,
    reference: ReferenceReaction,
    *,
    potential: str,
    strategy: str | None = None,
    curvature: Curvature | None = None,
    follow: bool = True,
    same_within: float = SAME_TS_WITHIN,
    fmax: float = 0.01,
    max_steps: int = 200,
    internal: bool | None = None,
    trajectory: str | PathLike[str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Report:
    """Search a TS with Sella, follow the path from it, and compare with the reference.

    The barrier from an end point is the potential's E(TS found) − E(end point): the end of the path that was found to
    be it, or, where no path is followed, the reference's end point relaxed with the potential. Structures are compared
    atom by atom: a mirror image, or like atoms exchanged, is another structure. An end of the path with the bonds of an
    end point is that end point, also in another conformation; the sentence then says so, and there is no barrier error.
    Where no end points are known, those of the path are called end 1 and end 2.

    Args:
        start: Where the search starts, for example :func:`phl_ase.paths.displaced` from the reference's TS.
        calculator: The potential, an ASE calculator.
        reference: What should be found; its TS and its end points may be unknown, and are then not asked for.
        potential: Who computes, for the report.
        strategy: How Sella is run, a key of :data:`phl_ase.paths.STRATEGIES`; by default what is recommended for the
            curvature.
        curvature: Of the potential; by default what :func:`phl_ase.curvature.curvature_of` finds.
        follow: Whether to follow the IRC from the TS found and relax its ends.
        same_within: Largest RMS displacement from the reference's TS that counts as the same TS, Å.
        fmax: Threshold for the largest force on an atom, eV/Å.
        max_steps: Most steps of the search.
        internal: Internal or Cartesian coordinates; by default what suits the structure.
        trajectory: An ASE trajectory file of the search's steps.
        details: What else the provenance should say.

    Returns:
        A report with outcome in ``TS_OUTCOMES``. Metrics: for each stage of ``FUNNEL_STAGES`` that was
        looked at, 1 passed, 0 not; ``RMSD to the reference TS`` (Å, of where the search ended),
        ``imaginary wavenumber`` (cm⁻¹, negative), ``imaginary modes``, ``largest force`` (eV/Å); ``steps``,
        ``force calls``, ``HVP calls``, ``Hessian calls``, ``seconds`` of the search, ``hidden force calls`` behind
        curvature that is differences; ``path force calls`` and ``path Hessian calls``; for each end point
        ``barrier from NAME``, ``barrier error from NAME`` (kcal/mol, NaN where no TS was found). Array ``positions``
        ``(n, 3)`` Å. The provenance says in ``path`` what a path that was followed does, and has a ``traceback`` where
        a calculation failed.

    Raises:
        PHLError: For a mistake of the caller: other atoms than the reference's, an unknown strategy, ….
    """
    target = reference.transition_state
    for known in (*([] if target is None else [target]), *reference.ends.values()):
        rmsd(start, known.atoms)  # other atoms than the reference's are a mistake that should not cost a search
    curvature = curvature_of(calculator) if curvature is None else curvature
    strategy = RECOMMENDED[curvature.source] if strategy is None else strategy
    working = start.copy()
    working.calc = calculator
    found = search(
        working, strategy, curvature, fmax=fmax, max_steps=max_steps, internal=internal, trajectory=trajectory
    )
    path = find_reaction(found.atoms, curvature.hessian) if follow and found.converged else None
    connection = None  # how the ends of the path relate to the reference's two
    if path is not None and path.converged and len(reference.ends) == 2:
        backward, forward = (end.atoms for end in path.ends)
        connection = connects((backward, forward), *(end.atoms for end in reference.ends.values()))
    followed: dict[str, str] = {}
    if path is not None:  # from the reactant where that is known; whether its ends are other conformers
        followed["path"] = (path.turned() if connection is not None and connection.flipped else path).sentence
        if connection is not None and connection.outcome == "right bonds":
            followed["path"] += f"; {connection.sentence}"
    distance = float("nan") if target is None else rmsd(found.atoms, target.atoms)
    stages = _stages(found, connection, distance <= same_within, reference, follow)
    outcome, sentence = _outcome(found, path, connection, stages)
    traceback = found.traceback or ("" if path is None else path.traceback)
    return Report(
        system=reference.name,
        potential=potential,
        outcome=outcome,
        sentence=sentence,
        metrics=(
            *(Metric(name, int(passed)) for name, passed in stages.items()),
            *_metrics(found, distance, target, path),
            *_barriers(found, _ends(path, connection, reference, calculator, fmax), connection, reference),
        ),
        arrays={"positions": found.atoms.positions},
        provenance=provenance(
            strategy=strategy,
            curvature=curvature.source,
            coordinates="internal" if found.internal else "Cartesian",
            fmax=fmax,
            same_within=same_within,
            **followed,
            **({"traceback": traceback} if traceback else {}),
            **dict(details or {}),
        ),
        validator="transition state",
    )


def _stages(
    found: TransitionStateSearch,
    connection: Connection | None,
    is_near: bool,
    reference: ReferenceReaction,
    follow: bool,
) -> dict[str, bool]:
    """Return which stages were passed, of those that can be asked."""
    asked: dict[str, bool] = {
        MetricName.CONVERGED: found.analysis is not None,
        MetricName.FIRST_ORDER: found.converged,
        MetricName.CONNECTED: connection is not None and connection.connected,
        MetricName.SAME_TS: is_near and found.converged,
    }
    left_out: set[str] = set() if follow and len(reference.ends) == 2 else {MetricName.CONNECTED}
    left_out |= set() if reference.transition_state else {MetricName.SAME_TS}
    return {name: asked[name] for name in FUNNEL_STAGES if name not in left_out}


def _outcome(
    found: TransitionStateSearch, path: Reaction | None, connection: Connection | None, stages: Mapping[str, bool]
) -> tuple[str, str]:
    """Name and sentence: where the funnel was left, or that it was not."""
    if not found.converged:
        return found.outcome, found.sentence
    if path is not None and not path.converged:
        outcome = "same end" if path.outcome == "same end" else "no path"
        return outcome, f"{TS_OUTCOMES[outcome]} ({path.sentence})"
    if connection is not None and not stages[MetricName.CONNECTED]:
        return "other end points", f"{TS_OUTCOMES['other end points']} ({connection.sentence})"
    if not stages.get(MetricName.SAME_TS, True):
        return "another saddle", TS_OUTCOMES["another saddle"]
    if connection is not None and connection.outcome == "right bonds":
        return "found", f"{TS_OUTCOMES['found']}; {connection.sentence}"
    return "found", TS_OUTCOMES["found"]


def _metrics(
    found: TransitionStateSearch, distance: float, target: StationaryPoint | None, path: Reaction | None
) -> tuple[Metric, ...]:
    nan = float("nan")
    analysis = found.analysis
    known = target is not None and target.hessian is not None
    expected = harmonic_analysis(target.atoms, target.hessian) if known else None  # type: ignore[union-attr, arg-type]
    return (
        *([] if target is None else [Metric(MetricName.RMSD_TO_TS, distance, "Å")]),
        Metric(
            MetricName.IMAGINARY_WAVENUMBER,
            nan if analysis is None else float(analysis.wavenumbers[0]),
            "cm⁻¹",
            None if expected is None else float(expected.wavenumbers[0]),
        ),
        Metric(MetricName.IMAGINARY_MODES, nan if analysis is None else analysis.n_imaginary),
        Metric("largest force", found.fmax, "eV/Å"),
        Metric(MetricName.STEPS, found.steps),
        Metric(MetricName.FORCE_CALLS, found.force_calls),
        Metric(MetricName.HVP_CALLS, found.hvp_calls),
        Metric(MetricName.HESSIAN_CALLS, found.hessian_calls),
        Metric("hidden force calls", found.hidden_force_calls),
        Metric(MetricName.SECONDS, found.seconds, "s"),
        *([] if path is None else [Metric("path force calls", path.force_calls)]),
        *([] if path is None else [Metric("path Hessian calls", path.hessian_calls)]),
        *([] if path is None else [Metric("path seconds", path.path.seconds, "s")]),
    )


def _ends(
    path: Reaction | None,
    connection: Connection | None,
    reference: ReferenceReaction,
    calculator: ASECalculator,
    fmax: float,
) -> dict[str, float]:
    """Return the energy of each of the reference's end points on the potential's surface, eV; NaN where unknown."""
    if path is None:
        found = {}
        for name, end in reference.ends.items():
            start = end.atoms.copy()
            start.calc = calculator
            relaxed = relax(start, fmax)
            found[name] = relaxed.energy if relaxed.converged else float("nan")
        return found
    energies = [end.energy for end in path.ends]
    if not reference.ends:
        return dict(zip(("end 1", "end 2"), energies, strict=True)) if path.converged else {}
    if connection is None or not connection.connected:
        return dict.fromkeys(reference.ends, float("nan"))
    return dict(zip(reference.ends, reversed(energies) if connection.flipped else energies, strict=True))


def _barriers(
    found: TransitionStateSearch,
    ends: Mapping[str, float],
    connection: Connection | None,
    reference: ReferenceReaction,
) -> tuple[Metric, ...]:
    """Barriers from the end points, and their errors where the reference has energies of them; kcal/mol."""
    energy = found.energy if found.converged else float("nan")
    target = reference.transition_state
    conformers = set()
    if connection is not None and connection.connected:
        reached = (connection.backward, connection.forward)
        names = reversed([*reference.ends]) if connection.flipped else [*reference.ends]
        conformers = {name for name, end in zip(names, reached, strict=True) if end.name is None}
    metrics = []
    for name in ends:
        barrier, end = convert(energy - ends[name], "eV", "kcal/mol"), reference.ends.get(name)
        if target is None or target.energy is None or end is None or end.energy is None:
            metrics.append(Metric(f"barrier from {name}", barrier, "kcal/mol"))
        elif name in conformers:
            metrics.append(Metric(f"barrier from {name}", barrier, "kcal/mol"))
            metrics.append(Metric(f"barrier error from {name}", float("nan"), "kcal/mol", kind=BARRIER_ERROR))
        else:
            expected = convert(target.energy - end.energy, "eV", "kcal/mol")
            metrics.append(Metric(f"barrier from {name}", barrier, "kcal/mol", expected))
            metrics.append(Metric(f"barrier error from {name}", barrier - expected, "kcal/mol", kind=BARRIER_ERROR))
    return tuple(metrics)
