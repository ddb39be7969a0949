"""A study as numbers: ``results.json`` and ``scoreboard.csv`` with all of them, and the scoreboard as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from phl_ase.plots.style import COMPARED, MARKERS
from phl_ase.results import plain, provenance
from phl_ase.scoring import DRAWS
from phl_ase.scoring.paired import MARGIN, Estimate
from phl_ase.study.matrix.budget import typical
from phl_ase.study.matrix.cells import Arm, Method
from phl_ase.study.matrix.gather import QUANTITIES, CellResult, by_arm, read_cells
from phl_ase.study.matrix.running import FORMAT, SCHEMA, Study
from phl_ase.study.matrix.verdicts import Claim, Row, claims, rows

MAIN = (
    ("energy", "all"),
    ("forces", "all"),
    ("hessian", "all"),
    ("hessian", "far"),
    ("frequency", "TSs"),
    ("frequency", "minima"),
    ("funnel", "reactions"),
    ("barrier", "reactions"),
    ("profile", "reactions"),
)
"""(quantity, group) of the columns of the short table."""

RULE = (
    f"“matches” means that the whole 95 % interval of the error ratio lies in [{MARGIN[0]}, {MARGIN[1]}], “better” and "
    "“worse” that it excludes 1; else, and with one seed alone, a comparison is undecided"
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """Everything that a study has to say.

    Attributes:
        study: The study.
        cells: How every cell ended.
        arms: Cells that differ in their seed alone.
        rows: Every quantity of every arm.
        claims: The paper's claims.
    """

    study: Study
    cells: Sequence[CellResult]
    arms: Mapping[Arm, Sequence[CellResult]]
    rows: Sequence[Row]
    claims: Sequence[Claim]

    @classmethod
    def of(cls, study: Study) -> Outcome:
        """What the folder of a study holds now."""
        cells = read_cells(study)
        arms = {arm: found for arm, found in by_arm(cells).items() if any(cell.reports for cell in found)}
        return cls(study, cells, arms, rows(arms), claims(arms, study.step_seconds))

    def settings(self) -> list[tuple[str, str]]:
        """(split, budget) that have arms with all training frames, the random split and equal epochs first."""
        pairs = dict.fromkeys((arm.split, arm.budget) for arm in self.arms if arm.fraction == 1)
        return sorted(pairs, key=lambda pair: (pair[1], pair[0] != "random", pair[0]))

    def arms_of(self, split: str, budget: str, fraction: float = 1.0) -> list[Arm]:
        """The arms of one setting, in the order of the configuration."""
        return [arm for arm in self.arms if (arm.split, arm.budget, arm.fraction) == (split, budget, fraction)]

    @property
    def styles(self) -> dict[Method, tuple[str, str, str]]:
        """Colour, marker and line of each method, the same in every figure: the colour is that of the scheme.

        Methods with fixed probes come last.
        """
        methods = sorted(dict.fromkeys(arm.method for arm in self.arms), key=lambda method: method.regime == "fixed")
        schemes = list(dict.fromkeys(method.scheme for method in methods))
        found: dict[Method, tuple[str, str, str]] = {}
        for method in methods:
            place = schemes.index(method.scheme)
            variant = sum(other.scheme == method.scheme for other in found)
            line = COMPARED[(place + variant) % len(COMPARED)][2]
            found[method] = (COMPARED[place % len(COMPARED)][0], MARKERS[(place + variant) % len(MARKERS)], line)
        return found

    def seeds(self, arm: Arm) -> int:
        """How many seeds of an arm have answered anything."""
        return sum(bool(cell.reports) for cell in self.arms[arm])

    def row(self, arm: Arm, quantity: str, group: str) -> Row | None:
        """A row; ``None`` where there is none."""
        return next((r for r in self.rows if (r.arm, r.quantity, r.group) == (arm, quantity, group)), None)

    def open_cells(self) -> list[tuple[str, str, str]]:
        """(name, outcome, reason) of what is not done, the impossible included."""
        refused = [(one.name, "impossible", one.reason) for one in self.study.plan.impossible]
        return [*refused, *((c.cell.name, c.outcome, c.reason) for c in self.cells if c.outcome != "done")]


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Every number of a study in plain values; those of single frames are in the cells' own files."""
    study = outcome.study
    return plain(
        {
            "format": FORMAT,
            "schema": SCHEMA,
            "config": study.config.to_json(),
            "intervals": f"95 %, {DRAWS} bootstrap draws over seeds and over reactions (frames where reactions are "
            f"few), t intervals; {RULE}",
            "claims": [
                {**asdict(claim), "verdict": claim.verdict, "evidence": [_evidence(e) for e in claim.evidence]}
                for claim in outcome.claims
            ],
            "rows": [_row(row) for row in outcome.rows],
            "cells": [_cell(cell) for cell in outcome.cells],
            "impossible": [asdict(one) for one in study.plan.impossible],
            "step_seconds": dict(study.step_seconds),
            "tuning": {"scores": dict(study.trials), "chosen": {k: dict(v) for k, v in study.weights.items()}},
            "provenance": provenance(),
        }
    )


def _arm(arm: Arm) -> dict[str, Any]:
    return {**asdict(arm.method), "method": arm.method.label, "split": arm.split, "fraction": arm.fraction} | {
        "budget": arm.budget
    }


def _evidence(one: Any) -> dict[str, Any]:
    return {"what": one.what, "verdict": one.verdict, **asdict(one.estimate)}


def _row(row: Row) -> dict[str, Any]:
    quantity = QUANTITIES[row.quantity]
    return {
        **_arm(row.arm),
        "quantity": row.quantity,
        "name": quantity.name,
        "group": row.group,
        "unit": quantity.unit,
        "mean": asdict(row.mean),
        "ratio": None if row.ratio is None else {**asdict(row.ratio), "verdict": row.ratio.verdict},
    }


def _cell(result: CellResult) -> dict[str, Any]:
    return {
        "name": result.cell.name,
        **_arm(result.cell.arm),
        "seed": result.cell.seed,
        "outcome": result.outcome,
        "reason": result.reason,
        **result.facts,
        "validator_seconds": dict(result.seconds),
    }


_COLUMNS = (
    "table",
    "method",
    "scheme",
    "regime",
    "n_probes",
    "probes",
    "products",
    "split",
    "fraction",
    "budget",
    "seed",
    "quantity",
    "group",
    "unit",
    "value",
    "low",
    "high",
    "ratio",
    "ratio_low",
    "ratio_high",
    "verdict",
    "seeds",
    "units",
    "unit_drawn",
    "values",
    "left_out",
    "note",
)


def as_csv(outcome: Outcome) -> str:
    """The same as one long table: its first column says whether a line is of a claim, an error or a cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({key: _csv_cell(value) for key, value in line.items()} for line in _lines(outcome))
    return text.getvalue()


def _lines(outcome: Outcome) -> Iterable[dict[str, Any]]:
    for claim in outcome.claims:
        yield {"table": "claim", "group": claim.where, "quantity": claim.text, "verdict": claim.verdict} | {
            "note": claim.note
        }
        for one in claim.evidence:
            numbers = {"ratio": one.estimate.value, "ratio_low": one.estimate.low, "ratio_high": one.estimate.high}
            yield {"table": "evidence", "group": claim.where, "quantity": one.what, "verdict": one.verdict} | {
                **numbers,
                **_counts(one.estimate),
            }
    for row in outcome.rows:
        quantity = QUANTITIES[row.quantity]
        line = {"table": "error", **_arm(row.arm), "quantity": quantity.name, "group": row.group}
        line |= {"unit": quantity.unit, "value": row.mean.value, "low": row.mean.low, "high": row.mean.high}
        if row.ratio is not None:
            line |= {"ratio": row.ratio.value, "ratio_low": row.ratio.low, "ratio_high": row.ratio.high}
            line |= {"verdict": row.ratio.verdict}
        yield line | _counts(row.mean)
    for result in outcome.cells:
        of_cell = {"table": "cell", **_arm(result.cell.arm), "seed": result.cell.seed}
        yield of_cell | {"quantity": "outcome", "verdict": result.outcome, "note": result.reason}
        numbers = {**result.facts, **{f"seconds of {k}": v for k, v in result.seconds.items()}}
        for name, value in numbers.items():
            yield of_cell | {"quantity": name, "value": value}
    for asked in outcome.study.plan.impossible:
        line = {"table": "cell", "method": asked.name, "quantity": "outcome", "verdict": "impossible"}
        yield {**line, "note": asked.reason}
    for key, seconds in typical(outcome.study.step_seconds).items():
        yield {"table": "cost", "method": key, "quantity": "time of a step", "unit": "s", "value": seconds}


def _counts(estimate: Estimate) -> dict[str, Any]:
    return {
        "seeds": estimate.seeds,
        "units": estimate.units,
        "unit_drawn": estimate.unit,
        "values": estimate.pairs,
        "left_out": estimate.left_out,
    }


def _csv_cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}" if np.isfinite(value) else ""
    # a text that a spreadsheet would take for a formula
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def number(value: float, decimals: int) -> str:
    """A number as text; a dash where there is none."""
    return f"{value:.{decimals}f}" if np.isfinite(value) else "–"


def with_interval(estimate: Estimate, decimals: int) -> str:
    """A number with its interval as text."""
    shown = number(estimate.value, decimals)
    if not estimate.has_interval:
        return shown
    return f"{shown} [{number(estimate.low, decimals)}, {number(estimate.high, decimals)}]"


def as_text(outcome: Outcome) -> str:
    """Claims and the short table of each setting."""
    from phl_ase.study.matrix.verdicts import NOT_ASKED

    parts = []
    for claim in outcome.claims:
        if claim.verdict == NOT_ASKED:
            continue
        where = f" ({claim.where})" if claim.where else ""
        parts.append(f"{claim.verdict}: {claim.text}{where}")
        parts += [f"    {one.what}: {with_interval(one.estimate, 2)}, {one.verdict}" for one in claim.evidence]
        parts += [f"    {claim.note}"] if claim.note else []
    for split, budget in outcome.settings():
        parts += ["", f"{split} split, equal {budget}: means with 95 % intervals", _short(outcome, split, budget)]
    unfinished = [f"{name}: {word}: {reason}" for name, word, reason in outcome.open_cells()]
    return "\n".join([*parts, "", *unfinished, RULE])


def columns(outcome: Outcome, split: str, budget: str) -> list[tuple[str, str]]:
    """Columns of the short table that somebody has."""
    arms = outcome.arms_of(split, budget)
    return [pair for pair in MAIN if any(outcome.row(arm, *pair) is not None for arm in arms)]


def heading(quantity: str, group: str) -> str:
    """A column's heading, with its unit."""
    found = QUANTITIES[quantity]
    plain_group = group in ("all", "reactions")
    return f"{found.name}{'' if plain_group else f', {group}'}{f' / {found.unit}' if found.unit else ''}"


def _short(outcome: Outcome, split: str, budget: str) -> str:
    wanted = columns(outcome, split, budget)
    lines = [["method", "seeds", *(heading(*pair) for pair in wanted)]]
    for arm in outcome.arms_of(split, budget):
        found = [outcome.row(arm, *pair) for pair in wanted]
        lines.append(
            [arm.method.label, str(outcome.seeds(arm))]
            + ["–" if row is None else with_interval(row.mean, QUANTITIES[row.quantity].decimals) for row in found]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([shown[0], "-" * len(shown[0]), *shown[1:]])
