"""A study's results as an HTML file that needs nothing else: figures inside, no scripts, no network, fit for print.

The page is made of Jinja templates in ``templates`` with autoescape: no text of data or a user becomes HTML.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from phl_ase.files import write_atomic
from phl_ase.pages import render
from phl_ase.results import provenance
from phl_ase.study.claims import COMPARISON, NOT_ASKED, NOT_SEEN, SEEN
from phl_ase.study.figures import StudyFigure, figures
from phl_ase.study.results import (
    RULE,
    Results,
    as_csv,
    as_json,
    comparison,
    number,
    ratios,
    wavenumber,
)
from phl_ase.validators.names import MetricName

REPORT, RESULTS, SCOREBOARD, FIGURES = "report.html", "results.json", "scoreboard.csv", "figures"

_MARKS = {SEEN: "✓", NOT_SEEN: "✗", COMPARISON: "", NOT_ASKED: ""}
"""Verdict -> sign beside its words, for print without colours."""

_MOST_STATES = 80  # lines of the table of transition states


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
        unfinished=results.unfinished(),
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
