"""The results of a study: every quantity of every series in one tidy table, and the forms in which it is shown.

``Results.rows`` is that table. ``as_csv`` and ``as_json`` write it whole; ``comparison`` turns the part of one split
and budget into the table that the terminal and the HTML report show.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from typing import Any

import numpy as np

from phl_ase.results import plain, provenance
from phl_ase.scoring import DRAWS
from phl_ase.scoring.paired import MARGIN, Estimate, mean_estimate, ratio_estimate
from phl_ase.study.claims import NOT_ASKED, Claim, judge, settings_of
from phl_ase.study.outcomes import RunResult, by_series, observations, read_run
from phl_ase.study.plan import Series, TrainingMethod, typical
from phl_ase.study.quantities import QUANTITIES
from phl_ase.study.run import FORMAT, SCHEMA, Study
from phl_ase.tables import text_table
from phl_ase.validators.names import BARRIER_ERRORS, BARRIERS, MetricName

RULE = (
    f"“matches” means that the whole 95 % interval of the error ratio lies in [{MARGIN[0]}, {MARGIN[1]}], “better” and "
    "“worse” that it excludes 1; else, and with one seed alone, a comparison is undecided"
)

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

    def unfinished(self) -> list[tuple[str, str, str]]:
        """Return (name, outcome, reason) of what is not done."""
        return [(one.run.name, one.outcome, one.reason) for one in self.runs if one.outcome != "done"]

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


# ------------------------------------------------------------------------------------------------- one table of many


@dataclass(frozen=True)
class Line:
    """One line of a table of several training methods.

    Attributes:
        section: Heading that it stands under.
        label: What it is.
        unit: Its unit.
        cells: One text for each method.
        reference: The reference's value; empty without one.
        best: Places of the smallest errors.
    """

    section: str
    label: str
    unit: str
    cells: Sequence[str]
    reference: str = ""
    best: Collection[int] = ()


@dataclass(frozen=True)
class Comparison:
    """The training methods of one split and budget side by side.

    Attributes:
        title: What is compared.
        methods: Headings of the columns.
        lines: The table.
    """

    title: str
    methods: Sequence[str]
    lines: Sequence[Line]


def comparison(results: Results, split: str, budget: str, *, short: bool = False) -> Comparison:
    """Return the table of one split and budget: training, every quantity, and the search that the report shows.

    Args:
        results: What was found.
        split: Key of ``SPLITS``.
        budget: ``epochs`` or ``time``.
        short: Whether to leave out the intervals where no method has several seeds.
    """
    series = results.series_of(split, budget)
    runs = [results.series[one] for one in series]
    done = [f"{sum(run.outcome == 'done' for run in some)} of {len(some)}" for some in runs]
    lines = [Line("training", "runs done", "", done)]
    for key, (label, unit) in _TRAINING.items():
        known = [[run.facts[key] for run in some if key in run.facts] for some in runs]
        lines.append(Line("training", label, unit, [number(float(np.mean(n)), 0) if n else "–" for n in known]))

    intervals = not short or any(results.seeds(one) > 1 for one in series)
    for key, quantity in QUANTITIES.items():
        for group in quantity.shown:
            rows = [results.row(one, key, group) for one in series]
            if not any(rows):
                continue
            counted = quantity.is_share and all(row is None or row.mean.seeds == 1 for row in rows)
            cells, values = [], {}
            for place, row in enumerate(rows):
                if row is None:
                    cells.append("–")
                    continue
                mean, shown = row.mean, number(row.mean.value, quantity.decimals)
                if quantity.is_share and mean.seeds == 1:
                    cells.append(f"{round(mean.value * mean.pairs / 100)} of {mean.pairs}")
                else:
                    cells.append(with_interval(mean, quantity.decimals) if intervals else shown)
                if quantity.is_error and shown != "–":
                    values[place] = float(shown)
            best = [place for place in values if len(values) > 1 and values[place] == min(values.values())]
            unit = "" if counted else quantity.unit
            lines.append(Line(quantity.section, heading(key, group), unit, cells, best=best))
    title = f"{split} split, equal {budget}: means{' with 95 % intervals' if intervals else ''}"
    return Comparison(title, [one.method.label for one in series], [*lines, *_search_lines(results, series)])


_TRAINING = {
    "seconds": ("time", "s"),
    "cpu_seconds": ("time on the processor", "s"),
    "epochs": ("epochs", ""),
    "best_epoch": ("best epoch", ""),
}


def _search_lines(results: Results, series: Sequence[Series]) -> Iterator[Line]:
    """Yield one TS search of each method in full: that of the reaction that the configuration names, first seed."""
    chosen = results.study.config.report.search
    if chosen is None:
        return
    reports = []
    for one in series:
        found = results.first(one).reports.get("ts", ())
        reports.append(next((r for r in found if r.provenance.get("reaction") == chosen.reaction), None))
    if not any(reports):
        return
    section = f"first search of the TS of {chosen.name or chosen.reaction}"
    yield Line(section, "outcome", "", ["–" if report is None else report.outcome for report in reports])
    shown: list[tuple[str, str, str, int]] = [
        (MetricName.IMAGINARY_WAVENUMBER, "imaginary wavenumber", "cm⁻¹", 0),
        (MetricName.RMSD_TO_TS, "RMSD to the reference TS", "Å", 3),
        (MetricName.STEPS, "steps", "", 0),
        (MetricName.FORCE_CALLS, "force calls", "", 0),
        (MetricName.HESSIAN_CALLS, "Hessian calls", "", 0),
    ]
    for end, name in (("reactant", chosen.reactant), ("product", chosen.product)):
        shown.append((BARRIERS[end], f"barrier from {name}", "kcal/mol", 1))
        shown.append((BARRIER_ERRORS[end], f"barrier error from {name}", "kcal/mol", 1))
    for key, label, unit, decimals in shown:
        text = wavenumber if key == MetricName.IMAGINARY_WAVENUMBER else partial(number, decimals=decimals)
        metrics = [None if r is None else next((m for m in r.metrics if m.name == key), None) for r in reports]
        known = [metric for metric in metrics if metric is not None]
        if known:
            reference = next((m.reference for m in known if m.reference is not None), None)
            cells = ["–" if metric is None else text(metric.value) for metric in metrics]
            yield Line(section, label, unit, cells, "" if reference is None else text(reference))


def ratios(results: Results, split: str, budget: str) -> Comparison:
    """Return the error ratios to the baseline of one split and budget; without lines where there are none."""
    baseline = results.study.config.report.baseline
    series = [one for one in results.series_of(split, budget) if one.method.scheme != baseline]
    lines = []
    for key, quantity in QUANTITIES.items():
        for group in quantity.shown:
            rows = [results.row(one, key, group) for one in series]
            found = [None if row is None else row.ratio for row in rows]
            if any(found):
                cells = ["–" if one is None else f"{with_interval(one, 2)} {one.verdict}" for one in found]
                lines.append(Line(quantity.section, heading(key, group), "", cells))
    title = f"{split} split, equal {budget}: error ratios to {baseline} on the same frames and seeds"
    return Comparison(title, [one.method.label for one in series], lines)


def heading(quantity: str, group: str) -> str:
    """Return a quantity and its group in words."""
    found = QUANTITIES[quantity]
    return found.name if group in ("all", "reactions") else f"{found.name}, {group}"


def number(value: float | None, decimals: int) -> str:
    """Return a number as text; a dash where there is none."""
    # rounded first, and a zero added: no "-0.0"
    return "–" if value is None or not np.isfinite(value) else f"{round(value, decimals) + 0.0:.{decimals}f}"


def wavenumber(value: float | None) -> str:
    """Return a wavenumber as text, imaginary ones with an i."""
    return "–" if value is None else f"{number(abs(value), 0)}{'i' if value < 0 else ''}"


def with_interval(estimate: Estimate, decimals: int) -> str:
    """Return a number with its interval as text."""
    shown = number(estimate.value, decimals)
    if not estimate.has_interval:
        return shown
    return f"{shown} [{number(estimate.low, decimals)}, {number(estimate.high, decimals)}]"


# ----------------------------------------------------------------------------------------------------- JSON, CSV, text


def as_json(results: Results) -> dict[str, Any]:
    """Return every number of a study in plain values; those of single frames are in the runs' own files."""
    study = results.study
    return plain(
        {
            "format": FORMAT,
            "schema": SCHEMA,
            "config": study.config.to_json(),
            "intervals": f"95 %, {DRAWS} bootstrap draws over seeds and over reactions (frames where reactions are "
            f"few), t intervals; {RULE}",
            "notes": results.notes(),
            "claims": [
                {
                    **asdict(claim),
                    "verdict": claim.verdict,
                    "evidence": [{"what": e.what, "verdict": e.verdict, **asdict(e.estimate)} for e in claim.evidence],
                }
                for claim in results.claims
            ],
            "rows": [
                {
                    **_identity(row.series),
                    "quantity": row.quantity,
                    "name": QUANTITIES[row.quantity].name,
                    "group": row.group,
                    "unit": QUANTITIES[row.quantity].unit,
                    "mean": asdict(row.mean),
                    "ratio": None if row.ratio is None else {**asdict(row.ratio), "verdict": row.ratio.verdict},
                }
                for row in results.rows
            ],
            "runs": [
                {
                    "name": one.run.name,
                    **_identity(one.run.series),
                    "seed": one.run.seed,
                    "outcome": one.outcome,
                    "reason": one.reason,
                    **one.facts,
                    "validator_seconds": dict(one.seconds),
                }
                for one in results.runs
            ],
            "step_seconds": dict(study.step_seconds),
            "tuning": {"scores": dict(study.trials), "chosen": {k: dict(v) for k, v in study.weights.items()}},
            "provenance": provenance(),
        }
    )


def _identity(series: Series) -> dict[str, Any]:
    """Return the columns that say which series a line is about."""
    where = {"split": series.split, "fraction": series.fraction, "budget": series.budget}
    return {**asdict(series.method), "method": series.method.label, **where}


_COLUMNS = (
    *("table", "method", "scheme", "regime", "n_probes", "probes", "hvps", "split", "fraction", "budget", "seed"),
    *("quantity", "group", "unit", "value", "low", "high", "ratio", "ratio_low", "ratio_high", "verdict"),
    *("seeds", "units", "unit_drawn", "values", "left_out", "note"),
)


def as_csv(results: Results) -> str:
    """Return the same as one long table; its first column says whether a line is of a claim, an error or a run."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()

    def write(table: str, **values: Any) -> None:
        for key, value in values.items():
            if isinstance(value, float):
                values[key] = f"{value:.6g}" if np.isfinite(value) else ""
            elif isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
                values[key] = f"'{value}"  # a spreadsheet would take it for a formula
        writer.writerow({"table": table, **values})

    def counts(one: Estimate) -> dict[str, Any]:
        drawn = {"seeds": one.seeds, "units": one.units, "unit_drawn": one.unit}
        return drawn | {"values": one.pairs, "left_out": one.left_out}

    def ratio(one: Estimate) -> dict[str, Any]:
        return {"ratio": one.value, "ratio_low": one.low, "ratio_high": one.high}

    for claim in results.claims:
        about = {"method": claim.ratio, "group": claim.where}
        write("claim", **about, quantity=claim.text, verdict=claim.verdict, note=claim.note)
        for one in claim.evidence:
            found = ratio(one.estimate) | counts(one.estimate)
            write("evidence", **about, quantity=one.what, verdict=one.verdict, **found)
    for row in results.rows:
        quantity, mean = QUANTITIES[row.quantity], row.mean
        found = {"value": mean.value, "low": mean.low, "high": mean.high} | counts(mean)
        if row.ratio is not None:
            found |= {**ratio(row.ratio), "verdict": row.ratio.verdict}
        write("error", **_identity(row.series), quantity=quantity.name, group=row.group, unit=quantity.unit, **found)
    for result in results.runs:
        of_run = {**_identity(result.run.series), "seed": result.run.seed}
        write("run", **of_run, quantity="outcome", verdict=result.outcome, note=result.reason)
        for name, value in {**result.facts, **{f"seconds of {k}": v for k, v in result.seconds.items()}}.items():
            if isinstance(value, int | float):
                write("run", **of_run, quantity=name, value=value)
    for key, seconds in typical(results.study.step_seconds).items():
        write("cost", method=key, quantity="time of a step", unit="s", value=seconds)
    return text.getvalue()


def as_text(results: Results, width: int | None = None) -> str:
    """Return claims and the table of each setting for a terminal.

    Args:
        results: What was found.
        width: Columns of the terminal; by default of the one that is there.
    """
    parts = []
    for claim in results.claims:
        if claim.verdict == NOT_ASKED:
            continue
        parts.append(f"{claim.verdict}: {claim.text} ({claim.about})")
        parts += [f"    {one.what}: {with_interval(one.estimate, 2)}, {one.verdict}" for one in claim.evidence]
        parts += [f"    {claim.note}"] if claim.note else []
    for setting in results.settings:
        table = comparison(results, *setting, short=True)
        with_reference = any(line.reference for line in table.lines)
        headings = ["", *table.methods, *(["ref."] if with_reference else [])]
        rows = []
        for section, lines in groupby(table.lines, lambda line: line.section):
            rows.append([section, *[""] * (len(headings) - 1)])
            for line in lines:
                unit = f" /\u00a0{line.unit}" if line.unit else ""  # not broken before the unit
                rows.append([f"  {line.label}{unit}", *line.cells, *([line.reference] if with_reference else [])])
        parts += ["", f"{table.title}\n{text_table(headings, rows, width=width)}"]
    parts += ["", *(f"{name}: {word}: {reason}" for name, word, reason in results.unfinished()), *results.notes()]
    return "\n".join([*parts, *([RULE] if results.claims else [])]).lstrip("\n")
