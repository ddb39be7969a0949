"""The table of a comparison of schemes: one row for each quantity with its unit, one column for each scheme."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from phl_ase.study.scores import START_RMS

Results = Mapping[str, Any]
Value = float | str | None


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        label: What it is.
        unit: Its unit; empty for counts and words.
        group: Heading that it stands under.
        values: Scheme -> number, word, or ``None`` where there is none.
        reference: The reference's value; ``None`` without one.
        decimals: Digits after the point.
    """

    label: str
    unit: str
    group: str
    values: dict[str, Value]
    reference: Value = None
    decimals: int = 2

    def cell(self, scheme: str) -> str:
        """The value of a scheme as text."""
        return shown(self.values.get(scheme), self.decimals)


def shown(value: Value, decimals: int = 2) -> str:
    """A value as text; a dash where there is none."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    # rounded first, and a zero added: no "-0.0"
    return value if isinstance(value, str) else f"{round(value, decimals) + 0.0:.{decimals}f}"


def metric(report: Mapping[str, Any] | None, name: str, key: str = "value") -> float | None:
    """Value or reference of a metric of a report in plain form; ``None`` where there is none."""
    for item in (report or {}).get("metrics", ()):
        if item["name"] == name:
            return item[key]
    return None


def mean(reports: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], float | None]) -> float | None:
    """Mean of what reports say; ``None`` where one says nothing."""
    values = [of(report) for report in reports]
    return float(np.mean([v for v in values if v is not None])) if values and None not in values else None


def _imaginary_error(report: Mapping[str, Any]) -> float | None:
    got, expected = (metric(report, "imaginary wavenumber", key) for key in ("value", "reference"))
    return None if got is None or expected is None else abs(got - expected)


def _magnitude(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    def value(report: Mapping[str, Any]) -> float | None:
        found = metric(report, name)
        return None if found is None else abs(found)

    return value


def rows(results: Results) -> list[Row]:
    """The rows of a demo's table.

    Args:
        results: What ``run_demo`` returns, or reads from ``results.json``.
    """
    schemes = results["schemes"]

    def row(label: str, unit: str, group: str, of: Callable[[Any], Value], decimals: int = 2, reference: Value = None):
        values = {name: of(entry) if entry.get("scores") else None for name, entry in schemes.items()}
        return Row(label, unit, group, values, reference, decimals)

    training = "training"
    counts = results["data"]["frames"]
    test = f"mean absolute errors, {counts['test']} test frames"
    states = f"vibrations at the {len(results['data']['transition_states']['test'])} test TSs (means)"
    table = [
        Row("outcome", "", training, {name: entry["outcome"] for name, entry in schemes.items()}),
        row("time", "s", training, lambda e: e["training"]["seconds"], 0),
        row("time on the processor", "s", training, lambda e: e["training"]["cpu_seconds"], 0),
        row("best epoch", "", training, lambda e: float(e["training"]["best_epoch"]), 0),
    ]
    table += [
        row(
            f"{name}, {region}",
            unit,
            test,
            lambda e, n=f"{key}, {region}": metric(e["scores"]["accuracy"], n),  # type: ignore[misc]
            decimals,
        )
        for name, key, unit, decimals in (
            ("energy", "energy", "meV/atom", 1),
            ("forces", "forces", "meV/Å", 0),
            ("Hessian", "hessian", "eV/Å²", 3),
        )
        for region in ("near", "far")
    ]
    table += [
        row("frequency error", "cm⁻¹", states, lambda e: _mean_of(e, _magnitude("frequency MAE")), 0),
        row("largest frequency error", "cm⁻¹", states, lambda e: _mean_of(e, _magnitude("largest frequency error")), 0),
        row("imaginary wavenumber error", "cm⁻¹", states, lambda e: _mean_of(e, _imaginary_error), 0),
        row("ZPE error", "meV", states, lambda e: _mean_of(e, _magnitude("ZPE error")), 1),
        row("TSs with one imaginary mode", "", states, _saddles),
    ]
    return table + _funnel_rows(results, row) + _search_rows(results, row)


def _mean_of(entry: Mapping[str, Any], of: Callable[[Mapping[str, Any]], float | None]) -> float | None:
    return mean(entry["scores"]["frequencies"], of)


def _saddles(entry: Mapping[str, Any]) -> Value:
    reports = entry["scores"]["frequencies"]
    return f"{sum(report['outcome'] == 'agrees' for report in reports)} of {len(reports)}"


def _wavenumber(value: float | None) -> Value:
    return None if value is None else f"{abs(value):.0f}{'i' if value < 0 else ''}"


_PASSED = {
    "converged": "converged",
    "first order": "and one imaginary mode",
    "connected": "and the path reaches both ends",
    "same TS": "and it is the DFT TS",
}
"""Stage of the funnel -> what the table calls it."""


def _funnel_rows(results: Results, row: Callable[..., Row]) -> list[Row]:
    """Searches for the test TSs, in how far they came, and what those cost that went all the way."""
    made = {name: entry["scores"].get("funnel") for name, entry in results["schemes"].items() if entry.get("scores")}
    found = {name: funnel for name, funnel in made.items() if funnel}
    if not found:
        return []
    starts = max(funnel["starts"] for funnel in found.values())
    group = f"{starts} searches with Sella, from {START_RMS} Å off the test TSs"
    count = {
        label: {name: str(one["passed"][stage]) for name, one in found.items() if stage in one["passed"]}
        for stage, label in _PASSED.items()
    }
    table = [Row(label, "", group, dict(values)) for label, values in count.items()]
    errors = {name: one["barrier_error"] for name, one in found.items()}
    steps = {name: one["counts"]["steps"] for name, one in found.items()}
    return [
        *table,
        Row("barrier error of these", "kcal/mol", group, dict(errors), decimals=1),
        Row("steps, all searches", "", group, dict(steps), decimals=1),
    ]


def _search_rows(results: Results, row: Callable[..., Row]) -> list[Row]:
    searches = [e["scores"]["search"] for e in results["schemes"].values() if e.get("scores")]
    first = next((s for s in searches if s), None)
    if first is None:
        return []
    group = f"search of the {results['data']['search']['name']} TS with Sella"
    wanted: list[tuple[str, str, str, int]] = [
        ("RMSD to the DFT TS", "RMSD to the reference TS", "Å", 3),
        ("steps", "steps", "", 0),
        ("gradients", "force calls", "", 0),
        ("Hessians", "Hessian calls", "", 0),
        *((m["name"], m["name"], m["unit"], 1) for m in first["metrics"] if m["name"].startswith("barrier ")),
    ]
    name = "imaginary wavenumber"
    table = [
        row("outcome", "", group, lambda e: e["scores"]["search"]["outcome"]),
        row(
            name,
            "cm⁻¹",
            group,
            lambda e: _wavenumber(metric(e["scores"]["search"], "imaginary wavenumber")),
            reference=_wavenumber(metric(first, name, "reference")),
        ),
    ]
    for label, name, unit, decimals in wanted:
        reference = metric(first, name, "reference")
        table.append(
            row(
                label,
                unit,
                group,
                lambda e, n=name: metric(e["scores"]["search"], n),
                decimals,
                reference,
            )
        )
    return table


def table_text(results: Results) -> str:
    """The table as plain text, its notes below."""
    table = rows(results)
    schemes = list(results["schemes"])
    head = ["", "unit", *schemes, "DFT"]
    lines = [head]
    groups: dict[int, str] = {}
    for row in table:
        if row.group not in groups.values():
            groups[len(lines)] = row.group
        reference = "" if row.reference is None else shown(row.reference, row.decimals)
        lines.append(["  " + row.label, row.unit, *map(row.cell, schemes), reference])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for number, line in enumerate(lines):
        if number in groups:
            text.append(groups[number])
        cells = [
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
        if number == 0:
            text.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join([*text, "", *results["notes"]])
