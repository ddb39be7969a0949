"""Table and figure of ``on_the_fly.py``: what each route cost, whether it was right, learned against plain routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from phl_ase.plots.style import COMPARED, empty, new_figure, panel, plain_ticks, plain_ticks_along
from phl_ase.units import convert

Run = Mapping[str, Any]
Runs = Mapping[tuple[str, str, str], Run]
"""(reference, route, reaction) -> what was recorded, with its score."""

Array = np.ndarray

DRAWS = 5000
SAME_TS = 0.1
"""Å: largest difference of any two atoms' distance in one transition state."""

PAIRS = {"guess": "sella-gradients", "ends": "path-sella-irc"}
"""Start -> the plain route that learned ones are compared with: the cheapest of each kind."""


def start_of(route: str) -> str:
    """What a route starts from: ``guess`` or ``ends``."""
    whole = route in ("path-sella-irc", "neb-sella-irc", "phl-reaction") or route.startswith("learn-ends")
    return "ends" if whole or route == "catlearn-mlneb" else "guess"


def is_right(run: Run) -> bool:
    """Whether the reference confirms what a route was asked for, and the route says so itself."""
    scored = run.get("score", {})
    whole = start_of(run["route"]) == "ends" and run["route"] != "catlearn-mlneb"
    return bool(scored.get("verified" if whole else "verified_ts", False) and run.get("own_verdict", True))


def rows(runs: Runs, groups: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for each reference, set of reactions and route.

    Args:
        runs: The runs.
        groups: Reaction -> its set.
    """
    keys = sorted({(ref, groups[reaction], route) for ref, route, reaction in runs}, key=_order)
    return [_row(runs, groups, *key) for key in keys]


def _order(key: tuple[str, str, str]) -> tuple[str, str, str, bool, str]:
    reference, group, route = key
    return reference, group, start_of(route), route.startswith("learn"), route


def _row(runs: Runs, groups: Mapping[str, str], reference: str, group: str, route: str) -> dict[str, Any]:
    own = {name: run for (ref, r, name), run in runs.items() if (ref, r, groups[name]) == (reference, route, group)}
    right = [run for run in own.values() if is_right(run)]
    gradients = [run["gradients"] for run in right]
    outside = [run["seconds"] - run["reference_seconds"] for run in own.values()]
    row: dict[str, Any] = {
        "reference": reference,
        "set": group,
        "start": start_of(route),
        "route": route,
        "reactions": len(own),
        "verified": len(right),
        "gradients": _quartiles(gradients),
        "seconds_outside_reference": _quartiles(outside),
        "frequency_mae": _quartiles([error for run in right if (error := frequency_error(run)) is not None]),
    }
    plain = PAIRS[start_of(route)]
    both = [
        (run, other)
        for name, run in own.items()
        if (other := runs.get((reference, plain, name))) is not None and is_right(run) and is_right(other)
    ]
    if route != plain:
        row["pairs"] = len(both)
        row["ratio_to_plain"] = median_ratio([(run["gradients"], other["gradients"]) for run, other in both])
        same = [(run, other) for run, other in both if same_ts(run, other)]
        row["same_ts"] = len(same)
        row["barrier_difference_kcal"] = _quartiles([d for run, other in same for d in barrier_differences(run, other)])
    return row


def frequency_error(run: Run) -> float | None:
    """Mean error of the wavenumbers that a route gives for its TS against the reference's Hessian there, cm⁻¹."""
    if "wavenumbers" not in run or "ts" not in run.get("score", {}):
        return None
    return float(np.mean(np.abs(np.subtract(run["wavenumbers"], run["score"]["ts"]["wavenumbers"]))))


def same_ts(run: Run, other: Run) -> bool:
    """Whether two runs found one transition state."""
    first, second = (_distances(np.array(one["ts"])) for one in (run, other))
    return bool(np.abs(first - second).max() <= SAME_TS)


def _distances(positions: Array) -> Array:
    return np.linalg.norm(positions[:, None] - positions[None], axis=-1)


def barrier_differences(run: Run, other: Run) -> list[float]:
    """Differences of the barriers of two runs from both ends, kcal/mol."""
    found = []
    for first, second in zip(run["score"].get("ends", ()), other["score"].get("ends", ()), strict=True):
        barriers = [one["score"]["ts"]["energy"] - end["energy"] for one, end in ((run, first), (other, second))]
        found.append(abs(float(convert(barriers[0] - barriers[1], "eV", "kcal/mol"))))
    return found


def _quartiles(values: Sequence[float]) -> list[float] | None:
    """Median and quartiles."""
    return [float(v) for v in np.percentile(values, (50, 25, 75))] if len(values) else None


def median_ratio(pairs: Sequence[tuple[float, float]]) -> list[float] | None:
    """Median of paired ratios with its 95 % bootstrap interval over reactions."""
    if not pairs:
        return None
    ratios = np.divide(*np.array(pairs, dtype=float).T)
    drawn = np.random.default_rng(0).choice(ratios, (DRAWS, len(ratios)))
    return [float(np.median(ratios)), *(float(v) for v in np.percentile(np.median(drawn, axis=1), (2.5, 97.5)))]


def text(found: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| reference, set | from | route | verified | gradients | ratio to plain | barriers, kcal/mol "
        "| TS frequencies, cm⁻¹ | s outside |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        cells = [
            f"{row['reference']}, {row['set']}",
            row["start"],
            row["route"],
            f"{row['verified']} of {row['reactions']}",
            _shown(row["gradients"], "{:.0f}"),
            _shown(row.get("ratio_to_plain"), "{:.2f}"),
            _shown(row.get("barrier_difference_kcal"), "{:.3f}"),
            _shown(row["frequency_mae"], "{:.1f}"),
            _shown(row["seconds_outside_reference"], "{:.0f}"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(values: Sequence[float] | None, form: str) -> str:
    if values is None:
        return "–"
    first, low, high = (form.format(value) for value in values)
    return f"{first} [{low}, {high}]"


def figure(content: tuple[Runs, Mapping[str, str]]) -> Figure:
    """Gradients of learned routes against plain ones, a panel for each start; a point for each reaction."""
    runs, groups = content
    drawing = new_figure(9.5, 4.4)
    # the same in both panels: one colour and marker for each reference and set
    kinds = list(dict.fromkeys((reference, groups[name]) for reference, _, name in runs))
    looks = {kind: (colour, marker) for kind, (colour, marker, _) in zip(kinds, COMPARED, strict=False)}
    titles = {"guess": "transition state from a guess", "ends": "whole reaction from reactant and product"}
    for axes, (start, plain) in zip(drawing.subplots(1, 2), PAIRS.items(), strict=True):
        panel(axes)
        axes.set_title(titles[start])
        axes.set_xlabel("plain: gradients of the reference")
        axes.set_ylabel("learned: gradients of the reference")
        points = [
            (reference, groups[name], runs[reference, plain, name]["gradients"], run["gradients"], is_right(run))
            for (reference, route, name), run in runs.items()
            if route.startswith("learn") and route.endswith("auto") and start_of(route) == start
            if (reference, plain, name) in runs
        ]
        if not points:
            empty(axes, "not run")
            continue
        for kind, (colour, marker) in looks.items():
            for right in (True, False):
                chosen = [point[2:4] for point in points if point[:2] == kind and point[4] is right]
                if chosen:
                    label = f"{kind[0]}, {kind[1]}" + ("" if right else ": not verified")
                    face = colour if right else "white"
                    axes.plot(*np.array(chosen).T, marker, color=colour, markerfacecolor=face, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        low, high = min(min(p[2:4]) for p in points) / 1.3, max(max(p[2:4]) for p in points) * 1.3
        axes.plot([low, high], [low, high], color="0.6", linewidth=1)
        target = 0.5 if start == "guess" else 0.1
        axes.plot([low, high], [target * low, target * high], "--", color="0.6", linewidth=1)
        axes.annotate(f"{target:g} of it", (high, target * high), color="0.4", ha="right", va="bottom")
        axes.set_xlim(min(p[2] for p in points) / 1.3, high)
        axes.set_ylim(low, high)
        plain_ticks(axes)
        plain_ticks_along(axes)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.16), fontsize=9, ncols=2)
    return drawing
