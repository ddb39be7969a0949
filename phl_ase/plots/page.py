"""Reports of validators as one HTML page: for each validator its figure, a table and the sentences of the outcomes."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from phl_ase.pages import figure, render, table
from phl_ase.plots import FIGURES
from phl_ase.plots.style import to_svg
from phl_ase.results import Metric, Report, plain
from phl_ase.scoring import ALL_ERRORS
from phl_ase.tables import counted
from phl_ase.validators.names import MetricName

_TURNED = 3  # reports up to which their metrics stand one below the other
_COLUMNS = 11  # metrics side by side at most


def render_reports(reports: Sequence[Report], title: str = "Validation") -> str:
    """Return reports of validators as one page.

    Args:
        reports: What validators returned, or ``phl_ase.results.read_reports`` read.
        title: Heading of the page.
    """
    groups = []
    for validator in dict.fromkeys(report.validator for report in reports):
        group = [report for report in reports if report.validator == validator]
        drawn: str = ""
        if validator in FIGURES:
            drawn = figure(to_svg(FIGURES[validator], group), f"{validator}, {counted(len(group), 'report')}")
        sentences = dict.fromkeys(f"{r.outcome}: {r.sentence}" for r in group if r.sentence)
        notes = dict.fromkeys(str(note) for r in group for note in r.provenance.get("notes", ()))
        groups.append({"validator": validator, "figure": drawn, "table": _table(group), "lines": [*sentences, *notes]})
    origin = plain(reports[0].provenance) if reports else {}
    return render("validation.html", title=title, groups=groups, origin=origin)


def _table(reports: Sequence[Report]) -> Markup:
    """Return a row for each report; of a few reports a row for each metric, of one over groups a row for each group."""
    named = [{(m.name, m.unit): m for m in report.metrics} for report in reports]
    names = list(dict.fromkeys(name for metrics in named for name in metrics))
    potentials = dict.fromkeys(report.potential for report in reports)
    brackets = (
        "; reference values in brackets" if any(m.reference is not None for r in named for m in r.values()) else ""
    )
    if len(reports) <= _TURNED and names and all(_group(name) for name, _ in names):
        return Markup("\n").join(map(_over_groups, reports))
    if len(reports) <= _TURNED < len(names):
        who = [report.system if len(potentials) == 1 else f"{report.potential}, {report.system}" for report in reports]
        rows = [[_with_unit(*name), *(_shown(metrics.get(name)) for metrics in named)] for name in names]
        heading = f"{next(iter(potentials))}{brackets}" if len(potentials) == 1 else brackets.removeprefix("; ")
        return table(["", *who], [["outcome", *(r.outcome for r in reports)], *rows], heading)
    whose = "" if len(potentials) > 1 else next(iter(potentials))
    number = max(1, -(-len(names) // _COLUMNS))  # tables of about as many columns each
    size = -(-len(names) // number)
    tables = []
    for start in range(0, max(len(names), 1), size or 1):
        some = names[start : start + size]
        words = ["system", *([] if whose else ["potential"]), *(["outcome"] if not start else [])]
        rows = [
            [*(getattr(report, word) for word in words), *(_shown(metrics.get(name)) for name in some)]
            for report, metrics in zip(reports, named, strict=True)
        ]
        head = [*words, *(_with_unit(*name) for name in some)]
        tables.append(table(head, rows, (whose + brackets).removeprefix("; "), words=len(words)))
    return Markup("\n").join(tables)


def _over_groups(report: Report) -> Markup:
    """Return errors over kinds of geometry, metrics ``ERROR, GROUP``."""
    metrics = {metric.name: metric for metric in report.metrics}
    groups = list(dict.fromkeys(_group(name) for name in metrics))
    units = {name.partition(", ")[0]: metric.unit for name, metric in metrics.items()}
    names = sorted(units, key=lambda name: name != "frames")
    rows = [[group, *(_shown(metrics.get(f"{name}, {group}")) for name in names)] for group in groups]
    titles = [ALL_ERRORS[name].title if name in ALL_ERRORS else name for name in names]
    head = ["", *(_with_unit(title, units[name]) for title, name in zip(titles, names, strict=True))]
    return table(head, rows, f"{report.potential}, {report.system}")


def _group(name: str) -> str:
    return name.partition(", ")[2]


def _with_unit(name: str, unit: str) -> str:
    if not unit:
        return name
    return f"{name} / ({unit})" if "/" in unit else f"{name} / {unit}"


def _shown(metric: Metric | None) -> str:
    if metric is None:
        return "–"
    return _number(metric, metric.value) + (
        "" if metric.reference is None else f" ({_number(metric, metric.reference)})"
    )


def _number(metric: Metric, value: float) -> str:
    if metric.name == MetricName.IMAGINARY_WAVENUMBER and value < 0:
        return f"{-value:.4g}i"
    return "–" if value != value else f"{value:.4g}"
