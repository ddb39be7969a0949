"""Many transition-state searches in one table: how far they got, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from phl_ase.results import Report
from phl_ase.validators.names import BARRIER_ERROR, BARRIER_ERRORS, MetricName

FUNNEL_STAGES: dict[str, str] = {
    MetricName.CONVERGED: "the forces fell below the threshold",
    MetricName.FIRST_ORDER: "exactly one mode is imaginary",
    MetricName.CONNECTED: "the IRC leads both ways to the intended, different end points",
    MetricName.SAME_TS: "the structure is the reference's transition state",
}
"""Stage of the funnel -> what passing it means; each is looked at only where those before it are passed."""

COUNTS: tuple[str, ...] = (
    MetricName.STEPS,
    MetricName.FORCE_CALLS,
    MetricName.HVP_CALLS,
    MetricName.HESSIAN_CALLS,
    MetricName.SECONDS,
)
"""Costs of a search: metrics of its report."""


@dataclass(frozen=True)
class Funnel:
    """Searches of one potential in one strategy.

    Attributes:
        potential: Who computed.
        strategy: How Sella was run, a key of ``phl_ase.paths.STRATEGIES``.
        starts: Number of searches.
        passed: Stage -> how many passed it and all before it; stages that were not looked at are left out.
        barrier_error: Mean absolute barrier error over the end points of complete searches, kcal/mol; NaN without any.
        counts: Key of ``COUNTS`` -> mean over all searches, failed ones too.
    """

    potential: str
    strategy: str
    starts: int
    passed: Mapping[str, int]
    barrier_error: float
    counts: Mapping[str, float]

    @property
    def complete(self) -> int:
        """Return how many passed every stage that was looked at."""
        return min(self.passed.values(), default=0)


def funnels(reports: Iterable[Report]) -> list[Funnel]:
    """One funnel for each potential and strategy among reports of ``validate_transition_state``, in their order.

    Reports without numbers, of reactions that the reference does not have, are no searches and left out.
    """
    groups: dict[tuple[str, str], list[Report]] = {}
    for report in reports:
        if report.metrics:
            groups.setdefault((report.potential, str(report.provenance["strategy"])), []).append(report)
    found = []
    for (potential, strategy), group in groups.items():
        values = [{metric.name: metric for metric in report.metrics} for report in group]
        passed: dict[str, int] = {}
        left = values
        for stage in FUNNEL_STAGES:
            if all(stage in one for one in values):
                left = [one for one in left if one[stage].value == 1]
                passed[stage] = len(left)
        # files of earlier versions have no kinds
        metrics = [metric for one in left for metric in one.values()]
        errors = [m for m in metrics if m.kind == BARRIER_ERROR or m.name in BARRIER_ERRORS.values()]
        error = _mean([abs(metric.value) for metric in errors])
        counts = {name: _mean([one[name].value for one in values]) for name in COUNTS}
        found.append(Funnel(potential, strategy, len(group), passed, error, counts))
    return found


def _mean(values: list[float]) -> float:
    present = [value for value in values if np.isfinite(value)]
    return float(np.mean(present)) if present else float("nan")
