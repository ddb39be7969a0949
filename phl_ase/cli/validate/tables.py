"""Reports as the terminal shows them: a row each, the columns a chemist looks at first, means below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phl_ase.tables import text_table

if TYPE_CHECKING:
    from phl_ase.results import Metric, Report
    from phl_ase.validators.names import MetricName


@dataclass(frozen=True)
class MetricColumn:
    """A metric in a table.

    Attributes:
        metric: Its name.
        heading: What stands above it, with its unit.
        decimals: Digits after the point.
        reference: Whether the reference's value stands behind it, in brackets.
        averaged: Whether the last row holds the mean of its magnitude.
        imaginary: Whether negative values are imaginary wavenumbers.
    """

    metric: MetricName
    heading: str
    decimals: int = 1
    reference: bool = False
    averaged: bool = True
    imaginary: bool = False

    def cell(self, metric: Metric | None) -> str | None:
        """Return the text of a value; ``None`` where there is none."""
        if metric is None or metric.value != metric.value:
            return None
        values = [metric.value] if metric.reference is None or not self.reference else [metric.value, metric.reference]
        value, *behind = (
            f"{-number:.{self.decimals}f}i" if self.imaginary and number < 0 else f"{number:.{self.decimals}f}"
            for number in values
        )
        return f"{value} ({behind[0]})" if behind else value

    def mean(self, metrics: Iterable[Metric]) -> str | None:
        """Return the mean magnitude of values; ``None`` where that says nothing."""
        numbers = [abs(metric.value) for metric in metrics if metric.value == metric.value]
        return f"{sum(numbers) / len(numbers):.{self.decimals}f}" if self.averaged and numbers else None


def report_table(
    reports: Sequence[Report], columns: Sequence[MetricColumn], expected: str, facts: Sequence[str] = ()
) -> str:
    """Return rows of reports, the mean magnitudes of their errors, and how many outcomes are as they should be.

    Args:
        reports: What a validator returned.
        columns: What to show; metrics that no report has are left out.
        expected: The outcome that needs no words; of every other the sentence stands below.
        facts: Entries of the provenance that have a column where they tell reports apart.
    """
    values = [{metric.name: metric for metric in report.metrics} for report in reports]
    shown = [column for column in columns if any(column.metric in one for one in values)]
    told = [fact for fact in facts if len({report.provenance.get(fact) for report in reports}) > 1]
    rows: list[list[Any]] = [
        [
            report.system,
            *(report.provenance.get(fact) for fact in told),
            report.outcome,
            *(column.cell(one.get(column.metric)) for column in shown),
        ]
        for report, one in zip(reports, values, strict=True)
    ]
    if len(reports) > 1:
        means = (column.mean(one[column.metric] for one in values if column.metric in one) for column in shown)
        rows.append(["mean magnitude", *([""] * len(told)), "", *means])
    lines = [text_table(["system", *told, "outcome", *(column.heading for column in shown)], rows, words=2 + len(told))]
    good = sum(report.outcome == expected for report in reports)
    lines.append(f"{good} of {len(reports)}: {expected}")
    sentences: dict[str, list[str]] = {}
    for report in reports:
        if report.outcome != expected:
            name = ", ".join([report.system, *(str(report.provenance.get(fact)) for fact in told)])
            sentences.setdefault(f"{report.outcome}: {report.sentence}", []).append(name)
    for sentence, systems in sentences.items():
        lines.append(f"{', '.join(systems) if len(systems) <= 3 else f'{len(systems)} systems'}: {sentence}")
    return "\n".join(lines)


def what_paths_do(reports: Sequence[Report], expected: str) -> list[str]:
    """Return a line for each path that was followed with success: what its ends are, which bonds break and form."""
    lines = (f"{r.system}: {r.provenance['path']}" for r in reports if r.outcome == expected and "path" in r.provenance)
    return list(dict.fromkeys(lines))
