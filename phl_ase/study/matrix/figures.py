"""The figures of a study, each with its caption; what a study does not have is not drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from phl_ase.plots import displacement, forest, funnel, irc, phonons, spectra
from phl_ase.results import Report
from phl_ase.study.matrix.cells import FULL, Arm
from phl_ase.study.matrix.curves import learning_curves
from phl_ase.study.matrix.drawing import Drawn, cost, parity_of, training_curves
from phl_ase.study.matrix.gather import QUANTITIES
from phl_ase.study.matrix.modes import mode_picture
from phl_ase.study.matrix.pooling import pooled_accuracy
from phl_ase.study.matrix.tables import Outcome

if TYPE_CHECKING:
    pass

PROPERTIES = ("energy", "forces", "hessian")
_MOST_NAMED = 5  # methods that one panel can tell apart


def figures(outcome: Outcome) -> Iterator[Drawn]:
    """All figures of a study, in the order of the report."""
    for split, budget in outcome.settings():
        yield from _comparison(outcome, split, budget)
    for split, budget in outcome.settings():
        yield from _of_setting(outcome, split, budget)
    yield from learning_curves(outcome)
    yield from _once(outcome)


def _comparison(outcome: Outcome, split: str, budget: str) -> Iterator[Drawn]:
    """Error ratios to E-F-H, and the errors themselves."""
    where, arms = f"{split} split, equal {budget}", outcome.arms_of(split, budget)
    key = f"{split}-{budget}"
    if any(outcome.row(arm, "hessian", "all") is not None for arm in arms):
        yield Drawn(
            "Errors",
            f"errors-{key}",
            f"Mean absolute errors of the test frames, {where}: means over frames and seeds with 95 % intervals. Near: "
            "stationary points and samples up to 600 K; far: reaction paths, random displacements and hotter samples.",
            lambda: forest.draw([arm.method.label for arm in arms], _panels(outcome, arms, is_ratio=False)),
        )
    if any(arm.method.scheme == FULL for arm in arms):
        others = [arm for arm in arms if arm.method.scheme != FULL]
        yield Drawn(
            "Errors",
            f"ratios-{key}",
            f"Error ratios to {FULL} on the same frames and seeds, {where}, with 95 % intervals. Left of 1 a method "
            "errs less than with full Hessians; an interval inside the grey band [0.8, 1.25] counts as equal.",
            lambda: forest.draw([arm.method.label for arm in others], _panels(outcome, others, is_ratio=True)),
        )


def _panels(outcome: Outcome, arms: Sequence[Arm], *, is_ratio: bool) -> list[forest.Panel]:
    panels = []
    for name in PROPERTIES:
        series: dict[str, Any] = {}
        for group in ("near", "far") if not is_ratio else ("all", "near", "far"):
            found = {arm.method.label: outcome.row(arm, name, group) for arm in arms}
            estimates = {k: (r.ratio if is_ratio else r.mean) for k, r in found.items() if r is not None}
            series[group] = {k: estimate for k, estimate in estimates.items() if estimate is not None}
        quantity = QUANTITIES[name]
        unit = f"({quantity.unit})" if "/" in quantity.unit else quantity.unit
        label = f"{quantity.name} error : that of {FULL}" if is_ratio else f"{quantity.name} error / {unit}"
        panels.append(forest.Panel(label, series, is_ratio))
    return panels


def named(outcome: Outcome, split: str, budget: str) -> list[Arm]:
    """The arms that figures with one line for each method show: fresh probes and none, at most a handful."""
    arms = outcome.arms_of(split, budget)
    plain = [arm for arm in arms if arm.method.regime != "fixed"]
    return (plain or arms)[:_MOST_NAMED]


def _of_setting(outcome: Outcome, split: str, budget: str) -> Iterator[Drawn]:
    where, key = f"{split} split, equal {budget}", f"{split}-{budget}"
    arms = named(outcome, split, budget)
    pooled = {arm.method.label: report for arm in arms if (report := pooled_accuracy(outcome.arms[arm])) is not None}
    if pooled:
        styles = {method.label: style for method, style in outcome.styles.items()}
        yield Drawn(
            "Errors against displacement",
            f"displacement-{key}",
            f"Errors of the test frames of all seeds against their RMS displacement from the nearest stationary point, "
            f"{where}. Dots: single frames; lines: means; bands: 95 % bootstrap intervals over reactions (frames where "
            "reactions are few). Lowest eigenvalue: of the Hessian without translations and rotations.",
            lambda: displacement.draw_rows(pooled, styles),
        )
    yield from _seed_figures(outcome, arms, where, key)
    searches = [r for arm in arms for cell in outcome.arms[arm] for r in cell.reports.get("ts", ())]
    if searches:
        yield Drawn(
            "Transition-state searches",
            f"funnel-{key}",
            f"Searches from displaced TSs, all seeds, {where}: how many pass each stage and all before it (forces "
            "converged; one imaginary mode; the path reaches both end points; the reference's TS), and what a search "
            "costs.",
            lambda: funnel.draw(searches, first=1),
        )
    crystals = [r for arm in arms for cell in outcome.arms[arm][:1] for r in cell.reports.get("phonons", ())]
    if crystals:
        yield Drawn("Phonons", f"phonons-{key}", f"Phonons, first seed, {where}.", lambda: phonons.draw(crystals))


def _seed_figures(outcome: Outcome, arms: Sequence[Arm], where: str, key: str) -> Iterator[Drawn]:
    """What is shown of one seed."""
    seeds = {arm: min(outcome.arms[arm], key=lambda cell: cell.cell.seed) for arm in arms}
    first = {arm: cell.reports for arm, cell in seeds.items()}
    accuracy = {arm.method.label: r["accuracy"][0] for arm, r in first.items() if r.get("accuracy")}
    if accuracy:
        yield Drawn(
            "Parity and spectra",
            f"parity-{key}",
            f"Model against reference for the test frames, {where}, first seed: energies above the lowest of the same "
            "composition, force components, Hessian elements. The line is perfect agreement.",
            lambda: parity_of(accuracy),
        )
    states = [
        replace(r, system=str(r.provenance.get("reaction", r.system)))
        for reports in first.values()
        for r in reports.get("frequencies", ())
        if r.provenance.get("kind") == "ts" and "RMSD to the reference" not in {m.name for m in r.metrics}
    ]
    if states:
        yield Drawn(
            "Parity and spectra",
            f"spectra-{key}",
            f"Harmonic wavenumbers of TSs at the reference's structures, {where}, first seed; imaginary ones on grey.",
            lambda: spectra.draw(_worst_first(states)),
        )
    paths = [r for reports in first.values() for r in reports.get("irc", ())]
    if paths:
        yield Drawn(
            "Reaction paths",
            f"paths-{key}",
            f"Energy profiles along reaction paths from each model's own TS, {where}, first seed, laid over the "
            "reference's at the TS. A note names what did not reach both end points.",
            lambda: irc.draw(paths),
        )


def _worst_first(reports: Sequence[Report]) -> list[Report]:
    """Systems with the largest errors first: a figure has room for a dozen."""
    worst: dict[str, float] = {}
    for report in reports:
        value = next((m.value for m in report.metrics if m.name == "frequency MAE"), np.nan)
        worst[report.system] = max(worst.get(report.system, 0.0), float(value) if np.isfinite(value) else 1e9)
    order = sorted(worst, key=lambda system: -worst[system])
    return sorted(reports, key=lambda report: order.index(report.system))


def _once(outcome: Outcome) -> Iterator[Drawn]:
    if outcome.study.step_seconds:
        yield Drawn(
            "Cost",
            "cost",
            "Left: time of an optimiser step, timed in turn on one thread; dots are rounds, the bar is their median. "
            "Right: Hessian error of the test frames against the time that training took; one point for each cell, "
            "all training frames.",
            lambda: cost(outcome),
        )
    settings = outcome.settings()
    if settings:
        arms = named(outcome, *settings[0])
        yield Drawn(
            "Cost",
            "training",
            f"Root-mean-square errors of the validation frames during training, {settings[0][0]} split, equal "
            f"{settings[0][1]}; one line for each seed.",
            lambda: training_curves(outcome, arms),
        )
    picture = mode_picture(outcome)
    if picture is not None:
        caption, draw = picture
        yield Drawn("A transition state", "mode", caption, draw)
