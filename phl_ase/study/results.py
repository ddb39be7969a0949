"""The results of a study: every quantity of every series in one tidy table, the claims judged, what fell short."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from phl_ase.scoring.paired import Estimate, mean_estimate, ratio_estimate
from phl_ase.study.claims import Claim, judge, settings_of
from phl_ase.study.outcomes import RunResult, by_series, observations, read_run
from phl_ase.study.plan import Series, TrainingMethod
from phl_ase.study.quantities import QUANTITIES
from phl_ase.study.run import Study

_MOST_REASONS = 10  # of searches that fell short
_NONE = TrainingMethod("")  # in place of the method, for settings that differ in it alone


@dataclass(frozen=True)
class Row:
    """One quantity of one series, averaged over items and seeds.

    Attributes:
        series: Whose.
        quantity: Key of ``QUANTITIES``.
        group: What it is averaged over.
        mean: Its mean.
        ratio: Its ratio to the baseline scheme on the same frames and seeds; ``None`` without one, and for shares.
    """

    series: Series
    quantity: str
    group: str
    mean: Estimate
    ratio: Estimate | None = None


@dataclass(frozen=True, eq=False)
class Results:
    """Everything that a study has found.

    Attributes:
        study: The study.
        runs: How every run ended.
        series: Runs that differ in their seed alone, of those that have any report.
        rows: Every quantity of every series.
        claims: The claims of the configuration.
    """

    study: Study
    runs: Sequence[RunResult]
    series: Mapping[Series, Sequence[RunResult]]
    rows: Sequence[Row]
    claims: Sequence[Claim]

    @classmethod
    def of(cls, study: Study) -> Results:
        """Return what the folder of a study holds now."""
        runs = [read_run(study, run) for run in study.runs]
        series = {one: found for one, found in by_series(runs).items() if any(run.reports for run in found)}
        claims = judge(study.config.claim, series, study.step_seconds)
        return cls(study, runs, series, make_rows(series, study.config.report.baseline), claims)

    @property
    def settings(self) -> list[tuple[str, str]]:
        """(split, budget) that have series with all training frames."""
        return settings_of(self.series)

    def series_of(self, split: str, budget: str, fraction: float = 1.0) -> list[Series]:
        """Return the series of one setting, in the order of the configuration."""
        return [one for one in self.series if (one.split, one.budget, one.fraction) == (split, budget, fraction)]

    def row(self, series: Series, quantity: str, group: str) -> Row | None:
        """Return a row; ``None`` where there is none."""
        return self._rows.get((series, quantity, group))

    @cached_property
    def _rows(self) -> dict[tuple[Series, str, str], Row]:
        return {(row.series, row.quantity, row.group): row for row in self.rows}

    def seeds(self, series: Series) -> int:
        """Return how many seeds of a series have any report."""
        return sum(bool(run.reports) for run in self.series[series])

    def first(self, series: Series) -> RunResult:
        """Return the run of the smallest seed, which figures of single runs show."""
        return min(self.series[series], key=lambda result: result.run.seed)

    def notes(self) -> list[str]:
        """Return what a reader of the tables must know of the data, and why TS searches fell short."""
        first: dict[str, RunResult] = {}
        for result in self.runs:
            if result.facts.get("frames") and result.run.series.fraction == 1:
                first.setdefault(result.run.series.split, result)
        found = [self.study.config.report.note] if self.study.config.report.note else []
        for split, result in first.items():
            facts, frames = result.facts, result.facts["frames"]
            states = {part: ", ".join(sorted(set(names))) for part, names in facts["transition_states"].items()}
            found.append(
                f"{split} split, seed {result.run.seed}: {frames['train']} frames to train on, {frames['valid']} to "
                f"choose the model by, {frames['test']} to test; labels: "
                f"{facts.get('level_of_theory') or 'of an unknown level'}. TSs among the test frames: "
                f"{states['test'] or 'none'}; trained on: {states['train'] or 'none'}."
            )
            if split == "random":
                found[-1] += " The split is random over frames: other geometries of every reaction were trained on."
        found.append(
            "near: stationary points and normal-mode samples up to 600 K; far: hotter samples, points on reaction "
            "paths, structures displaced at random"
        )
        # the most frequent reasons first: not all of them are the model's fault
        reasons = Counter(
            f"{one.run.series.method.label}, TS search {report.system}: {report.outcome}: {report.sentence}"
            for one in self.runs
            for report in one.reports.get("ts", ())
            if report.outcome != "found"
        )
        shown = reasons.most_common(_MOST_REASONS)
        found += [f"{reason} ({count})" for reason, count in shown]
        left = reasons.total() - sum(count for _, count in shown)
        return [*found, f"{left} more searches fell short; every reason is in the runs' reports"] if left else found


def make_rows(series: Mapping[Series, Sequence[RunResult]], baseline: str) -> list[Row]:
    """Return every quantity of every series, those without values left out.

    Args:
        series: Series -> its runs.
        baseline: The scheme that ratios are to.
    """
    rows = []
    for key, quantity in QUANTITIES.items():
        for group in quantity.groups:
            seen = {one: found for one, runs in series.items() if len(found := observations(quantity, group, runs))}
            against = {replace(one, method=_NONE): seen[one] for one in seen if one.method.scheme == baseline}
            for one, observed in seen.items():
                ratio, other = None, against.get(replace(one, method=_NONE))
                if other is not None and not quantity.is_share and one.method.scheme != baseline:
                    ratio = ratio_estimate(observed, other)
                mean = mean_estimate(observed, most=100.0 if quantity.unit == "%" else None)
                rows.append(Row(one, key, group, mean, ratio))
    return rows
