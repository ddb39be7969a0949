"""A study's results as they are shown: tables in the terminal, JSON, CSV, and an HTML file.

The page needs nothing else: figures inside, no scripts, no network, fit for print. It is made of Jinja templates in
``templates`` with autoescape: no text of data or a user becomes HTML.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from phl_ase.files import write_atomic
from phl_ase.pages import render
from phl_ase.results import plain, provenance
from phl_ase.scoring import DRAWS
from phl_ase.scoring.paired import MARGIN, Estimate
from phl_ase.study.claims import COMPARISON, NOT_ASKED, NOT_SEEN, SEEN
from phl_ase.study.figures import StudyFigure, figures
from phl_ase.study.plan import Series, typical
from phl_ase.study.quantities import QUANTITIES
from phl_ase.study.results import Results
from phl_ase.study.run import FORMAT, SCHEMA
from phl_ase.tables import text_table
from phl_ase.validators.names import BARRIER_ERRORS, BARRIERS, MetricName

REPORT, RESULTS, SCOREBOARD, FIGURES = "report.html", "results.json", "scoreboard.csv", "figures"

_MARKS = {SEEN: "✓", NOT_SEEN: "✗", COMPARISON: "", NOT_ASKED: ""}
"""Verdict -> sign beside its words, for print without colours."""

_MOST_STATES = 80  # lines of the table of transition states

RULE = (
    f"“matches” means that the whole 95 % interval of the error ratio lies in [{MARGIN[0]}, {MARGIN[1]}], “better” and "
    "“worse” that it excludes 1; else, and with one seed alone, a comparison is undecided"
)


def write_report(results: Results) -> None:
    """Write report, numbers and figures into the study's folder.

    Raises:
        PHLError: When they cannot be written.
    """
    root, drawn = results.study.folder, list(figures(results))
    (root / FIGURES).mkdir(exist_ok=True)
    for one in drawn:
        write_atomic(root / FIGURES / f"{one.name}.png", one.png())
    write_atomic(root / SCOREBOARD, as_csv(results).encode())
    text = json.dumps(as_json(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(root / RESULTS, text.encode())
    write_atomic(root / REPORT, render_study(results, drawn).encode())


# ---------------------------------------------------------------------------------------------------------------- HTML


def render_study(results: Results, drawn: Sequence[StudyFigure]) -> str:
    """Return the page of a study.

    Args:
        results: What was found.
        drawn: Its figures.
    """
    tables, runs = [], []
    for setting in results.settings:
        tables.append(comparison(results, *setting))
        found = ratios(results, *setting)
        tables += [found] if found.lines and any(results.seeds(s) > 1 for s in results.series_of(*setting)) else []
    hours = 0.0
    for one in results.runs:
        facts, validating = one.facts, sum(one.seconds.values())
        hours += (facts.get("cpu_seconds", 0.0) + validating) / 3600
        capped = f" (cap; else {facts['capped_from']})" if facts.get("capped_from") else ""
        runs.append(
            [
                *(one.run.name, one.outcome, f"{facts.get('epochs', '–')}{capped}"),
                *(str(facts.get(key, "–")) for key in ("steps", "best_epoch", "training_frames")),
                *(number(seconds, 0) for seconds in (facts.get("seconds"), facts.get("cpu_seconds"), validating)),
            ]
        )
    return render(
        "study.html",
        package="phl_ase.study",
        title=results.study.config.title,
        results=results,
        hours=hours,
        unfinished=[one for one in results.runs if one.outcome != "done"],
        rule=RULE,
        comparisons=tables,
        explain=results.study.config.report.explain,
        figures=drawn,
        states=_states(results),
        runs=runs,
        origin=_origin(results),
        number=number,
        mark=lambda verdict: _MARKS.get(verdict, "?"),
    )


def _states(results: Results) -> list[list[str]]:
    """Return the frequencies of every TS, of the first setting and seed; none where they are many."""
    shown = ((MetricName.IMAGINARY_WAVENUMBER, 0), (MetricName.IMAGINARY_MODES, 0), (MetricName.ZPE, 1))
    lines = []
    for series in results.series_of(*results.settings[0]) if results.settings else ():
        for report in results.first(series).reports.get("frequencies", ()):
            if report.provenance.get("kind") != "ts":
                continue
            metrics = {metric.name: metric for metric in report.metrics}
            error = metrics.get(MetricName.FREQUENCY_MAE)
            name = str(report.provenance.get("reaction", report.system))
            line = [name, series.method.label, number(None if error is None else error.value, 0)]
            for key, decimals in shown:
                one = metrics.get(key)
                text = wavenumber if key == MetricName.IMAGINARY_WAVENUMBER else partial(number, decimals=decimals)
                line.append("–" if one is None else f"{text(one.value)} ({text(one.reference)})")
            lines.append(line)
    return sorted(lines, key=lambda line: line[0]) if len(lines) <= _MOST_STATES else []


def _origin(results: Results) -> dict[str, Any]:
    study = results.study
    config = study.config.to_json()
    values: dict[str, Any] = {
        **provenance(),
        "splits": ", ".join(dict.fromkeys(split for split, _ in results.settings)),
    }
    for section in ("data", "potential", "loss", "training", "budget", "validators"):
        values |= {f"{section}.{key}": value for key, value in config[section].items()}
    values |= {f"weights.{scheme}": weights for scheme, weights in config["weights"].items()}
    for scheme, scores in study.trials.items():
        shown = [None if score is None else round(score, 3) for score in scores]
        tried = ", ".join(f"{w}: {s}" for w, s in zip(config["tuning"]["settings"][scheme], shown, strict=True))
        values[f"weights tried of {scheme}"] = (
            f"{tried}; chosen: {dict(study.weights.get(scheme, {}))} (smallest sum of the logarithms of energy, force "
            "and Hessian errors of the validation frames)"
        )
    return values


# ----------------------------------------------------------------------------------- one table of many training methods


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
    parts += ["", *(f"{one.run.name}: {one.outcome}: {one.reason}" for one in results.runs if one.outcome != "done")]
    parts += results.notes()
    return "\n".join([*parts, *([RULE] if results.claims else [])]).lstrip("\n")
