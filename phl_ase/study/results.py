"""The results of a study: every quantity of every series in one tidy table, and the forms in which it is shown.

``Results.rows`` is that table. ``as_csv`` and ``as_json`` write it whole; ``comparison`` turns the part of one split
and budget into the table that the terminal and the HTML report show.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from phl_ase.results import plain, provenance
from phl_ase.scoring import DRAWS
from phl_ase.scoring.paired import MARGIN, Estimate, mean_estimate, ratio_estimate
from phl_ase.study.claims import NOT_ASKED, Claim, judge, settings_of
from phl_ase.study.outcomes import RunResult, by_series, observations, read_run
from phl_ase.study.plan import Series, TrainingMethod, typical
from phl_ase.study.quantities import QUANTITIES, Quantity
from phl_ase.study.run import FORMAT, SCHEMA, Study
from phl_ase.tables import text_table
from phl_ase.validators.names import BARRIER_ERRORS, BARRIERS, MetricName

RULE = (
    f"“matches” means that the whole 95 % interval of the error ratio lies in [{MARGIN[0]}, {MARGIN[1]}], “better” and "
    "“worse” that it excludes 1; else, and with one seed alone, a comparison is undecided"
)


_MOST_REASONS = 10  # of searches that fell short


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
        """Return what a reader of the tables must know of the data."""
        first: dict[str, RunResult] = {}
        for result in self.runs:
            if result.data.get("frames") and result.run.series.fraction == 1:
                first.setdefault(result.run.series.split, result)
        found = [self.study.config.report.note] if self.study.config.report.note else []
        for split, result in first.items():
            data, frames = result.data, result.data["frames"]
            states = {part: ", ".join(sorted(set(names))) for part, names in data["transition_states"].items()}
            found.append(
                f"{split} split, seed {result.run.seed}: {frames['train']} frames to train on, {frames['valid']} to "
                f"choose the model by, {frames['test']} to test; labels: "
                f"{data.get('level_of_theory') or 'of an unknown level'}. TSs among the test frames: "
                f"{states['test'] or 'none'}; trained on: {states['train'] or 'none'}."
            )
            if split == "random":
                found[-1] += " The split is random over frames: other geometries of every reaction were trained on."
        found.append(
            "near: stationary points and normal-mode samples up to 600 K; far: hotter samples, points on reaction "
            "paths, structures displaced at random"
        )
        return found + self._shortfalls()

    def _shortfalls(self) -> list[str]:
        """Return why TS searches fell short, the most frequent reasons first: not all of them are the model's fault."""
        reasons = Counter(
            f"{one.run.series.method.label}, TS search {report.system}: {report.outcome}: {report.sentence}"
            for one in self.runs
            for report in one.reports.get("ts", ())
            if report.outcome != "found"
        )
        lines = [f"{reason} ({count})" for reason, count in reasons.most_common(_MOST_REASONS)]
        left = sum(reasons.values()) - sum(count for _, count in reasons.most_common(_MOST_REASONS))
        return [*lines, f"{left} more searches fell short; every reason is in the runs' reports"] if left else lines


def make_rows(series: Mapping[Series, Sequence[RunResult]], baseline: str) -> list[Row]:
    """Return every quantity of every series, those without values left out.

    Args:
        series: Series -> its runs.
        baseline: The scheme that ratios are to.
    """
    found = []
    for key, quantity in QUANTITIES.items():
        for group in quantity.groups:
            seen = {one: observations(quantity, group, results) for one, results in series.items()}
            against = {_setting(one): seen[one] for one in seen if one.method.scheme == baseline and len(seen[one])}
            for one, observed in seen.items():
                if not len(observed):
                    continue
                ratio, other = None, against.get(_setting(one))
                if other is not None and not quantity.is_share and one.method.scheme != baseline:
                    ratio = ratio_estimate(observed, other)
                mean = mean_estimate(observed, most=100.0 if quantity.unit == "%" else None)
                found.append(Row(one, key, group, mean, ratio))
    return found


def _setting(series: Series) -> tuple[str, float, str]:
    return series.split, series.fraction, series.budget


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
    cells: tuple[str, ...]
    reference: str = ""
    best: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Comparison:
    """The training methods of one split and budget side by side.

    Attributes:
        title: What is compared.
        methods: Headings of the columns.
        lines: The table.
    """

    title: str
    methods: tuple[str, ...]
    lines: tuple[Line, ...]


def comparison(results: Results, split: str, budget: str, *, short: bool = False) -> Comparison:
    """Return the table of one split and budget: training, every quantity, and the search that the report shows.

    Args:
        results: What was found.
        split: Key of ``SPLITS``.
        budget: ``epochs`` or ``time``.
        short: Whether to leave out the intervals where no method has several seeds.
    """
    series = results.series_of(split, budget)
    intervals = not short or any(results.seeds(one) > 1 for one in series)
    quantities = _quantity_lines(results, series, intervals=intervals)
    lines = [*_training_lines(results, series), *quantities, *_search_lines(results, series)]
    title = f"{split} split, equal {budget}: means{' with 95 % intervals' if intervals else ''}"
    return Comparison(title, tuple(one.method.label for one in series), tuple(lines))


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
                lines.append(Line(quantity.section, heading(key, group), "", tuple(cells)))
    title = f"{split} split, equal {budget}: error ratios to {baseline} on the same frames and seeds"
    return Comparison(title, tuple(one.method.label for one in series), tuple(lines))


def _training_lines(results: Results, series: Sequence[Series]) -> Iterator[Line]:
    section = "training"
    done = [(sum(run.outcome == "done" for run in results.series[one]), len(results.series[one])) for one in series]
    yield Line(section, "runs done", "", tuple(f"{some} of {every}" for some, every in done))
    for key, label, unit in (
        ("seconds", "time", "s"),
        ("cpu_seconds", "time on the processor", "s"),
        ("epochs", "epochs", ""),
        ("best_epoch", "best epoch", ""),
    ):
        means = []
        for one in series:
            known = [run.facts[key] for run in results.series[one] if key in run.facts]
            means.append(float(np.mean(known)) if known else np.nan)
        yield Line(section, label, unit, tuple(number(value, 0) for value in means))


def _quantity_lines(results: Results, series: Sequence[Series], *, intervals: bool) -> Iterator[Line]:
    for key, quantity in QUANTITIES.items():
        for group in quantity.shown:
            rows = [results.row(one, key, group) for one in series]
            if not any(rows):
                continue
            cells = [_cell(row, quantity, intervals=intervals) for row in rows]
            shown = {i: number(row.mean.value, quantity.decimals) for i, row in enumerate(rows) if row is not None}
            known = {i: float(text) for i, text in shown.items() if text != "–"}
            best = frozenset(
                i for i in known if len(known) > 1 and quantity.is_error and known[i] == min(known.values())
            )
            counted = quantity.is_share and all(row is None or row.mean.seeds == 1 for row in rows)
            unit = "" if counted else quantity.unit
            yield Line(quantity.section, heading(key, group), unit, tuple(cells), best=best)


def _cell(row: Row | None, quantity: Quantity, *, intervals: bool) -> str:
    if row is None:
        return "–"
    if quantity.is_share and row.mean.seeds == 1:
        return f"{round(row.mean.value * row.mean.pairs / 100)} of {row.mean.pairs}"
    return with_interval(row.mean, quantity.decimals) if intervals else number(row.mean.value, quantity.decimals)


_SEARCH = (
    (MetricName.IMAGINARY_WAVENUMBER, "cm⁻¹", 0),
    (MetricName.RMSD_TO_TS, "Å", 3),
    (MetricName.STEPS, "", 0),
    (MetricName.FORCE_CALLS, "", 0),
    (MetricName.HESSIAN_CALLS, "", 0),
)


def _search_lines(results: Results, series: Sequence[Series]) -> Iterator[Line]:
    """Yield one TS search of each method in full: that of the reaction that the configuration names, first seed."""
    chosen = results.study.config.report.search
    if chosen is None:
        return
    reports = []
    for one in series:
        found = results.first(one).reports.get("ts", ())
        reports.append(next((r for r in found if r.provenance.get("reaction") == chosen.reaction), None))
    known = [report for report in reports if report is not None]
    if not known:
        return
    section = f"first search of the TS of {chosen.name or chosen.reaction}"
    yield Line(section, "outcome", "", tuple("–" if report is None else report.outcome for report in reports))
    ends = {"reactant": chosen.reactant, "product": chosen.product}
    barriers = [
        (name, f"{kind} from {shown}")
        for end, shown in ends.items()
        for name, kind in ((BARRIERS[end], "barrier"), (BARRIER_ERRORS[end], "barrier error"))
    ]
    for name, unit, decimals in (*_SEARCH, *((name, "kcal/mol", 1) for name, _ in barriers)):
        metrics = [None if r is None else next((m for m in r.metrics if m.name == name), None) for r in reports]
        if not any(metrics):
            continue
        text = wavenumber if name == MetricName.IMAGINARY_WAVENUMBER else lambda value, d=decimals: number(value, d)
        reference = next((m.reference for m in metrics if m is not None and m.reference is not None), None)
        yield Line(
            section,
            dict(barriers).get(name, str(name)),
            unit,
            tuple("–" if metric is None else text(metric.value) for metric in metrics),
            "" if reference is None else text(reference),
        )


def heading(quantity: str, group: str) -> str:
    """Return a quantity and its group in words."""
    found = QUANTITIES[quantity]
    return found.name if group in ("all", "reactions") else f"{found.name}, {group}"


def number(value: float, decimals: int) -> str:
    """Return a number as text; a dash where there is none."""
    # rounded first, and a zero added: no "-0.0"
    return f"{round(value, decimals) + 0.0:.{decimals}f}" if np.isfinite(value) else "–"


def wavenumber(value: float) -> str:
    """Return a wavenumber as text, imaginary ones with an i."""
    return f"{number(abs(value), 0)}{'i' if value < 0 else ''}"


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
                    **one.data,
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
    method: TrainingMethod = series.method
    where = {"split": series.split, "fraction": series.fraction, "budget": series.budget}
    return {**asdict(method), "method": method.label, **where}


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
    writer.writerows({key: _csv_cell(value) for key, value in line.items()} for line in _csv_lines(results))
    return text.getvalue()


def _csv_lines(results: Results) -> Iterable[dict[str, Any]]:
    for claim in results.claims:
        about = {"method": claim.ratio, "group": claim.where, "quantity": claim.text}
        yield {"table": "claim", **about, "verdict": claim.verdict, "note": claim.note}
        for one in claim.evidence:
            found = {
                "table": "evidence",
                "method": claim.ratio,
                "group": claim.where,
                "quantity": one.what,
                "verdict": one.verdict,
            }
            yield found | _ratio_columns(one.estimate) | _counts(one.estimate)
    for row in results.rows:
        quantity, mean = QUANTITIES[row.quantity], row.mean
        line: dict[str, Any] = {
            "table": "error",
            **_identity(row.series),
            "quantity": quantity.name,
            "group": row.group,
        }
        line |= {"unit": quantity.unit, "value": mean.value, "low": mean.low, "high": mean.high} | _counts(mean)
        if row.ratio is not None:
            line |= {**_ratio_columns(row.ratio), "verdict": row.ratio.verdict}
        yield line
    for result in results.runs:
        of_run = {"table": "run", **_identity(result.run.series), "seed": result.run.seed}
        yield of_run | {"quantity": "outcome", "verdict": result.outcome, "note": result.reason}
        for name, value in {**result.facts, **{f"seconds of {k}": v for k, v in result.seconds.items()}}.items():
            yield of_run | {"quantity": name, "value": value}
    for key, seconds in typical(results.study.step_seconds).items():
        yield {"table": "cost", "method": key, "quantity": "time of a step", "unit": "s", "value": seconds}


def _ratio_columns(estimate: Estimate) -> dict[str, Any]:
    return {"ratio": estimate.value, "ratio_low": estimate.low, "ratio_high": estimate.high}


def _counts(estimate: Estimate) -> dict[str, Any]:
    names = {"seeds": "seeds", "units": "units", "unit_drawn": "unit", "values": "pairs", "left_out": "left_out"}
    return {column: getattr(estimate, name) for column, name in names.items()}


def _csv_cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}" if np.isfinite(value) else ""
    # a text that a spreadsheet would take for a formula
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


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
        parts += ["", _as_text(comparison(results, *setting, short=True), width)]
    parts += ["", *(f"{name}: {word}: {reason}" for name, word, reason in results.unfinished()), *results.notes()]
    return "\n".join([*parts, *([RULE] if results.claims else [])]).lstrip("\n")


def _as_text(table: Comparison, width: int | None) -> str:
    with_reference = any(line.reference for line in table.lines)
    rows, section = [], ""
    for line in table.lines:
        if line.section != section:
            section = line.section
            rows.append([section, *[""] * (len(table.methods) + with_reference)])
        unit = f" /\u00a0{line.unit}" if line.unit else ""  # not broken before the unit
        rows.append([f"  {line.label}{unit}", *line.cells, *([line.reference] if with_reference else [])])
    headings = ["", *table.methods, *(["ref."] if with_reference else [])]
    return f"{table.title}\n{text_table(headings, rows, width=width)}"
