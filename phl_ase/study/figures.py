"""The figures of a study, each with its caption; what a study does not have is not drawn."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from phl_ase.calculator import PHLCalculator
from phl_ase.datasets import open_dataset, reactions_of
from phl_ase.errors import PHLError
from phl_ase.paths import aligned
from phl_ase.plots import displacement, forest, funnel, irc, mode, parity, phonons, spectra, training
from phl_ase.plots.style import new_figure, panel, plain_ticks, plain_ticks_along, styles_of, to_png, to_svg
from phl_ase.results import Report
from phl_ase.scoring import ERRORS, group_means, intervals, resampling_units
from phl_ase.scoring.paired import Estimate
from phl_ase.structures import atoms_from_frame
from phl_ase.study.config import PROPERTIES
from phl_ase.study.outcomes import RunResult, observations
from phl_ase.study.plan import Run, Series, TrainingMethod
from phl_ase.study.quantities import QUANTITIES
from phl_ase.study.results import Results
from phl_ase.study.run import Study
from phl_ase.training.checkpoint import BEST, LOG
from phl_ase.validators.accuracy import DISPLACEMENT_EDGES
from phl_ase.validators.names import MetricName
from phl_ase.vibrations import harmonic_analysis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMED = 5  # methods that one panel can tell apart
_LARGEST_SVG = 400_000  # bytes
_AXIS = "displacement"


@dataclass(frozen=True, eq=False)
class StudyFigure:
    """A figure of the report.

    Attributes:
        section: Heading that it stands under.
        name: Of its file.
        caption: Below it.
        draw: Draws it.
    """

    section: str
    name: str
    caption: str
    draw: Callable[[], Figure]

    def png(self) -> bytes:
        """Return its content as a file."""
        return to_png(lambda _: self.draw(), None)

    def embedded(self) -> bytes:
        """Return it as the report embeds it: as vectors, or as pixels where it has too many points for that."""
        vectors = to_svg(lambda _: self.draw(), None)
        return vectors if len(vectors) < _LARGEST_SVG else self.png()


def figures(results: Results) -> Iterator[StudyFigure]:
    """Yield all figures of a study, in the order of the report."""
    for setting in results.settings:
        yield from _error_figures(results, *setting)
    for setting in results.settings:
        yield from _setting_figures(results, *setting)
    yield from learning_curves(results)
    if results.study.step_seconds:
        yield StudyFigure(
            "Cost",
            "cost",
            "Left: time of an optimiser step, timed in turn on one thread; dots are rounds, the bar is their median. "
            "Right: Hessian error of the test frames against the time that training took; one point for each run, "
            "all training frames.",
            lambda: _draw_cost(results),
        )
    for split, budget in results.settings[:1]:
        looks = styles(results)
        curves = {
            one.method.label: training.Curves(
                looks[one.method], [training_log(results.study, run.run) for run in results.series[one]]
            )
            for one in _named(results, split, budget)
        }
        yield StudyFigure(
            "Cost",
            "training",
            f"Root-mean-square errors of the validation frames during training, {split} split, equal {budget}; one "
            "line for each seed.",
            partial(training.draw, curves),
        )
    yield from _mode_figure(results)


def styles(results: Results) -> dict[TrainingMethod, tuple[str, str, str]]:
    """Return colour, marker and line of each method, the same in every figure: the colour is that of the scheme."""
    # methods with fixed probes come last
    methods = sorted(dict.fromkeys(one.method for one in results.series), key=lambda method: method.regime == "fixed")
    found = styles_of(method.label for method in methods)
    return {method: found[method.label] for method in methods}


def training_log(study: Study, run: Run) -> list[dict[str, Any]]:
    """Return what training wrote after each epoch; the last line may be broken off."""
    records: list[dict[str, Any]] = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        for line in (study.planned[run].folder / LOG).read_text(encoding="utf-8").splitlines():
            records.append(json.loads(line))  # noqa: PERF401 - what comes before a broken line is kept
    return records


def _named(results: Results, split: str, budget: str) -> list[Series]:
    """Return the series that figures with one line for each method show: fresh probes and none, at most a handful."""
    series = results.series_of(split, budget)
    return ([one for one in series if one.method.regime != "fixed"] or series)[:_MOST_NAMED]


# -------------------------------------------------------------------------------------------- of one split and budget


def _error_figures(results: Results, split: str, budget: str) -> Iterator[StudyFigure]:
    """Yield the errors, and their ratios to the baseline."""
    where, key, series = f"{split} split, equal {budget}", f"{split}-{budget}", results.series_of(split, budget)
    baseline = results.study.config.report.baseline
    others = [one for one in series if one.method.scheme != baseline]

    def drawn(shown: Sequence[Series], groups: Sequence[str], *, is_ratio: bool) -> Figure:
        panels = []
        for name in PROPERTIES:
            title, unit = f"{QUANTITIES[name].name} error", QUANTITIES[name].unit
            axis = f"{title} : that of {baseline}" if is_ratio else f"{title} / {f'({unit})' if '/' in unit else unit}"
            lines: dict[str, dict[str, Estimate]] = {group: {} for group in groups}
            for group, one in itertools.product(groups, shown):
                row = results.row(one, name, group)
                estimate = None if row is None else row.ratio if is_ratio else row.mean
                if estimate is not None:
                    lines[group][one.method.label] = estimate
            panels.append(forest.Panel(axis, lines, is_ratio))
        return forest.draw([one.method.label for one in shown], panels)

    if any(results.row(one, "hessian", "all") is not None for one in series):
        yield StudyFigure(
            "Errors",
            f"errors-{key}",
            f"Mean absolute errors of the test frames, {where}: means over frames and seeds with 95 % intervals. Near: "
            "stationary points and samples up to 600 K; far: reaction paths, random displacements and hotter samples.",
            lambda: drawn(series, ("near", "far"), is_ratio=False),
        )
    if others and len(others) < len(series):
        yield StudyFigure(
            "Errors",
            f"ratios-{key}",
            f"Error ratios to {baseline} on the same frames and seeds, {where}, with 95 % intervals. Left of 1 a "
            "method errs less; an interval inside the grey band [0.8, 1.25] counts as equal.",
            lambda: drawn(others, ("all", "near", "far"), is_ratio=True),
        )


def _setting_figures(results: Results, split: str, budget: str) -> Iterator[StudyFigure]:
    where, key, series = f"{split} split, equal {budget}", f"{split}-{budget}", _named(results, split, budget)
    looks = {method.label: style for method, style in styles(results).items()}
    pooled = {
        one.method.label: report for one in series if (report := pooled_accuracy(results.series[one])) is not None
    }
    if pooled:
        yield StudyFigure(
            "Errors against displacement",
            f"displacement-{key}",
            "Errors of the test frames of all seeds against their RMS displacement from the nearest stationary point, "
            f"{where}: means with 95 % bootstrap intervals over reactions (frames where reactions are few). "
            "Lowest eigenvalue: of the Hessian without translations and rotations.",
            lambda: displacement.draw_rows(pooled, looks),
        )
    first = {one.method.label: results.first(one).reports for one in series}
    pairs = {label: parity.pairs_of(found["accuracy"][0]) for label, found in first.items() if found.get("accuracy")}
    if pairs:
        yield StudyFigure(
            "Parity and spectra",
            f"parity-{key}",
            f"Model against reference for the test frames, {where}, first seed: energies above the lowest of the same "
            "composition, force components, Hessian elements. The line is perfect agreement.",
            lambda: parity.draw(pairs, [looks[label][0] for label in pairs]),
        )
    states, worst = [], dict[str, float]()
    for report in [report for reports in first.values() for report in reports.get("frequencies", ())]:
        metrics = {metric.name: metric.value for metric in report.metrics}
        if report.provenance.get("kind") == "ts" and MetricName.RMSD_TO_REFERENCE not in metrics:
            system, error = str(report.provenance.get("reaction", report.system)), metrics.get(MetricName.FREQUENCY_MAE)
            states.append(replace(report, system=system))
            error = 1e9 if error is None or not np.isfinite(error) else error
            worst[system] = max(worst.get(system, 0.0), error)
    if states:
        # the largest errors first: the figure has room for a dozen systems
        order = sorted(worst, key=lambda system: -worst[system])
        yield StudyFigure(
            "Parity and spectra",
            f"spectra-{key}",
            f"Harmonic wavenumbers of TSs at the reference's structures, {where}, first seed; imaginary ones on grey.",
            lambda: spectra.draw(sorted(states, key=lambda report: order.index(report.system))),
        )
    paths = [r for reports in first.values() for r in reports.get("irc", ())]
    if paths:
        yield StudyFigure(
            "Reaction paths",
            f"paths-{key}",
            f"Energy profiles along reaction paths from each model's own TS, {where}, first seed, laid over the "
            "reference's at the TS. A note names what did not reach both end points.",
            lambda: irc.draw(paths),
        )
    searches = [r for one in series for run in results.series[one] for r in run.reports.get("ts", ())]
    if searches:
        yield StudyFigure(
            "Transition-state searches",
            f"funnel-{key}",
            f"Searches from displaced TSs, all seeds, {where}: how many pass each stage and all before it (forces "
            "converged; one imaginary mode; the path reaches both end points; the reference's TS), and what a search "
            "costs.",
            lambda: funnel.draw(searches, first=1),
        )
    crystals = [r for one in series for run in results.series[one][:1] for r in run.reports.get("phonons", ())]
    if crystals:
        yield StudyFigure("Phonons", f"phonons-{key}", f"Phonons, first seed, {where}.", lambda: phonons.draw(crystals))


def pooled_accuracy(runs: Sequence[RunResult]) -> Report | None:
    """Return the accuracy reports of several seeds as one: all their test frames together; ``None`` without any.

    A frame that several seeds tested counts once for each; reactions are drawn whole, over all seeds.
    """
    reports = [report for run in runs for report in run.reports.get("accuracy", ())]
    if not reports:
        return None
    distance = np.concatenate([np.asarray(r.arrays[_AXIS], dtype=float) for r in reports])
    errors = {
        name: np.concatenate([np.asarray(r.arrays[f"{name}_error"], dtype=float) for r in reports]) for name in ERRORS
    }
    reactions = [str(name) for r in reports for name in np.asarray(r.arrays["reaction"]).tolist()]
    groups = intervals(distance, DISPLACEMENT_EDGES)
    means = group_means(errors, groups, resampling_units(reactions))
    arrays = {_AXIS: distance, **{f"{name}_error": values for name, values in errors.items()}}
    arrays[f"{_AXIS}_means"] = np.array([distance[g].mean() if g.any() else np.nan for g in groups])
    arrays[f"{_AXIS}_frames"] = means.members
    for name in ERRORS:
        arrays[f"{name}_by_{_AXIS}"] = means.mean[name]
        arrays |= {f"{name}_by_{_AXIS}_{limit}": getattr(means, limit)[name] for limit in ("low", "high", "frames")}
    first = reports[0]
    return Report(first.system, first.potential, first.outcome, arrays=arrays, validator="accuracy")


# ----------------------------------------------------------------------------------------------------- learning curves


def learning_curves(results: Results) -> Iterator[StudyFigure]:
    """Yield a figure for each split and budget with more than one number of training frames."""
    for split, budget in dict.fromkeys((one.split, one.budget) for one in results.series):
        curves: dict[TrainingMethod, list[Series]] = {}
        for one in sorted(results.series, key=lambda series: series.fraction):
            if (one.split, one.budget) == (split, budget):
                curves.setdefault(one.method, []).append(one)
        several = {method: series for method, series in curves.items() if len(series) > 1}
        if several:
            yield StudyFigure(
                "Learning curves",
                f"curves-{split}-{budget}",
                f"Errors of the test frames, {split} split, equal {budget}, with 95 % intervals: against the number of "
                "training frames, and against what their labels cost by central differences: 1 gradient for energy "
                "and forces, 2 more for each recorded HVP, 6n more for a Hessian, which fresh probes need as well. "
                "Every point of a method has as many optimiser steps (or as much time).",
                lambda several=several: _draw_curves(results, several),  # type: ignore[misc]
            )


def _draw_curves(results: Results, curves: Mapping[TrainingMethod, Sequence[Series]]) -> Figure:
    figure = new_figure(11.5, 7.4)
    grid = figure.subplots(2, 3, sharey="col")
    handles: dict[str, Any] = {}
    axes_of = (("training_frames", "training frames"), ("gradient_calls", "gradient calls of the reference method"))
    for row, (fact, label) in zip(grid, axes_of, strict=True):
        for axes, name in zip(row, PROPERTIES, strict=True):
            panel(axes)
            for method, series in curves.items():
                colour, marker, line = styles(results)[method]
                points = []
                for one in series:
                    found = results.row(one, name, "all")
                    # a run that waits or failed lacks them
                    known = [run.facts[fact] for run in results.series[one] if fact in run.facts]
                    if found is not None and known:
                        points.append((np.mean(known), found.mean))
                x, y = [p[0] for p in points], [p[1].value for p in points]
                low, high = ([getattr(p[1], side) for p in points] for side in ("low", "high"))
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
                handles[method.label] = axes.plot(x, y, line, color=colour, marker=marker, linewidth=1.8)[0]
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel(label)
            plain_ticks_along(axes)
            axes.set_ylabel(f"{QUANTITIES[name].name} error / ({QUANTITIES[name].unit})")
    for axes in grid.flat:
        plain_ticks(axes)
    columns = min(len(handles), 4)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns, frameon=False)
    return figure


# ---------------------------------------------------------------------------------------------------------------- cost


def _draw_cost(results: Results) -> Figure:
    figure = new_figure(11.5, 4.4)
    left, right = figure.subplots(1, 2)
    seconds = results.study.step_seconds
    order = list(dict.fromkeys(one.method.cost_key for one in results.series)) or list(seconds)
    keys = [key for key in order if key in seconds]
    panel(left)
    for place, key in enumerate(keys):
        values = 1e3 * np.asarray(seconds[key])
        left.barh(place, np.median(values), color="#0072B2", alpha=0.75, height=0.6)
        left.plot(values, [place] * len(values), "o", color="black", markersize=3.5, alpha=0.6)
        left.text(values.max() * 1.03, place, f"{np.median(values):.3g}", va="center", fontsize=9)
    left.set_yticks(range(len(keys)), keys)
    left.invert_yaxis()
    left.margins(x=0.12)
    left.set_xlabel(f"time of an optimiser step ({results.study.config.budget.clock} clock) / ms")

    panel(right)
    for method, (colour, marker, _) in styles(results).items():
        points = []
        for run in [run for s, runs in results.series.items() if (s.method, s.fraction) == (method, 1) for run in runs]:
            found = observations(QUANTITIES["hessian"], "all", [run]).values
            if len(found) and "cpu_seconds" in run.facts:
                points.append((run.facts["cpu_seconds"], found.mean()))
        if points:
            right.plot(*zip(*points, strict=True), marker, color=colour, markersize=6, label=method.label)
    if right.lines:
        right.set_xscale("log")
        right.set_yscale("log")
        plain_ticks(right)
        plain_ticks_along(right)
    right.set_xlabel("processor time of training / s")
    right.set_ylabel("Hessian error / (eV/Å²)")
    handles, labels = right.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False, fontsize=9)
    return figure


# ---------------------------------------------------------------------------------------------- one transition state


def _mode_figure(results: Results) -> Iterator[StudyFigure]:
    """Yield the imaginary mode of a TS that a search found, where one did."""
    searches = []
    for run in [run for runs in results.series.values() for run in runs]:
        for report in run.reports.get("ts", ()):
            if report.outcome == "found":
                # fresh probes first, then schemes with curvature, TSs not trained on, many atoms
                method, unseen = run.run.method, report.provenance.get("part") == "test"
                supervised = (not method.draws, method.scheme == "E-F-HVP-onehot", not method.probes)
                rank = (method.regime == "fixed", *supervised, not unseen, -len(report.arrays["positions"]))
                searches.append(((*rank, run.run.seed), run.run, report))
    if not searches:
        return
    _, chosen, report = min(searches, key=lambda search: search[0])
    data, label = results.study.config.data, chosen.method.label
    with open_dataset(data.source, keys=data.keys or None) as dataset:
        name = str(report.provenance["reaction"])
        frame = reactions_of(dataset, [name])[name].transition_state
    if frame is None or frame.hessian is None:
        return
    atoms = atoms_from_frame(frame)
    analysis = harmonic_analysis(atoms, frame.hessian)
    own = atoms.copy()
    own.positions = np.asarray(report.arrays["positions"], dtype=float)
    own = aligned(own, atoms)
    try:
        file = results.study.planned[chosen].folder / BEST
        calculator = PHLCalculator(str(file), device="cpu", out_of_domain="ignore")
        modes = harmonic_analysis(own, calculator.get_hessian(own))
    except PHLError:
        return
    shown = f"{-analysis.wavenumbers[0]:.0f}i", f"{-modes.wavenumbers[0]:.0f}i"
    caption = (
        f"The transition state of {report.system}, three perpendicular views along its principal axes. Arrows: its "
        f"imaginary mode, of the reference ({shown[0]} cm⁻¹) and of {label} ({shown[1]} cm⁻¹) at its own TS, which a "
        f"search found from {report.provenance.get('start', 'a displaced start')} ({chosen.series.split} split, seed "
        f"{chosen.seed}). The longest arrow of each is equally long."
    )
    pictures = {
        f"reference, {shown[0]} cm⁻¹": mode.Mode(atoms, analysis.displacements[0]),
        f"{label}, {shown[1]} cm⁻¹": mode.Mode(own, modes.displacements[0]),
    }
    yield StudyFigure("A transition state", "mode", caption, lambda: mode.draw(str(report.system), pictures))
