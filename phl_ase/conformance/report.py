"""Report of a conformance check: one row for each thing that was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from phl_ase.errors import unknown


def first_line(error: BaseException) -> str:
    """Return the first sentence of an error for a table; torch's messages go on for paragraphs."""
    text = (str(error).strip().splitlines() or [""])[0].partition(". ")[0]
    return f"{type(error).__name__}: {text[:120]}".removesuffix(": ")


@dataclass(frozen=True)
class Check:
    """One row of a report.

    Attributes:
        name: What was checked.
        passed: Whether the value is within the tolerance.
        value: What was measured; NaN where the potential raised an error.
        tolerance: The largest value that passes.
        unit: Of value and tolerance.
        consequence: What goes wrong for a user where it fails.
        note: The error, where there was one.
    """

    name: str
    passed: bool
    value: float
    tolerance: float
    unit: str
    consequence: str
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """A number that was measured, and a sentence on it.

    Attributes:
        value: The number.
        note: Where or by how much, for a user.
    """

    value: float
    note: str = ""


@dataclass(frozen=True)
class Cost:
    """Cost of one derivative mode.

    Attributes:
        name: Of the way.
        milliseconds: For the frames of the check together; NaN where it fails.
        note: Whether the potential declares it, or how it fails.
    """

    name: str
    milliseconds: float
    note: str = ""


@dataclass(frozen=True)
class ConformanceReport:
    """Checks of one potential; a check that does not apply (no parameters, no cell) has no row.

    Attributes:
        potential: Its name.
        rows: The checks, in the order they ran.
        costs: What each way to derivatives takes.
    """

    potential: str
    rows: tuple[Check, ...]
    costs: tuple[Cost, ...] = field(default=(), compare=False)

    @property
    def passed(self) -> bool:
        """Return whether every check passed."""
        return all(row.passed for row in self.rows)

    def row(self, name: str) -> Check:
        """Return the row of a name.

        Raises:
            PHLError: When there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise unknown("check", name, [row.name for row in self.rows])

    def table(self) -> str:
        """Plain text: one line for each check, what the failed ones mean, and the costs."""
        cells = [(f"check of {self.potential}", "result", "measured", "allowed", "unit")]
        cells += [
            (row.name, "ok" if row.passed else "FAILED", f"{row.value:.1e}", f"{row.tolerance:.0e}", row.unit)
            for row in self.rows
        ]
        failed = [
            f"{row.name}: {row.consequence}" + (f" [{row.note}]" if row.note else "")
            for row in self.rows
            if not row.passed
        ]
        lines = [*_aligned(cells), *failed]
        if self.costs:
            forces = next((cost.milliseconds for cost in self.costs if cost.name == "forces"), float("nan"))
            times = [("cost, all frames together", "ms", "× forces", "")]
            times += [
                (c.name, f"{c.milliseconds:.1f}", f"{c.milliseconds / forces:.1f}", c.note)
                if c.milliseconds == c.milliseconds
                else (c.name, "–", "–", c.note)
                for c in self.costs
            ]
            lines += ["", *_aligned(times)]
        return "\n".join(lines)

    def summary(self) -> dict[str, str]:
        """Return a verdict for each use: ``yes``, ``nearly``, ``no``, or ``–`` where it does not apply.

        Beside ``nearly`` (all below 1e-2) and ``no`` stands the largest number of those that should be smaller, where
        there is one.
        """
        verdicts = {}
        for use, names in _USES.items():
            rows = [row for row in self.rows if row.name in names]
            failed = [row.value for row in rows if not row.passed]
            known = [value for value in failed if math.isfinite(value)]
            nearly = known == failed and max(known, default=0.0) < _NEARLY
            word = ("nearly" if nearly else "no") if failed else "yes" if rows else "–"
            verdicts[use] = f"{word} ({max(known):.0e})" if known else word
        return verdicts

    def shortcomings(self) -> str:
        """The checks that failed with what was measured, and what that means, in one line; empty where all passed."""
        failed = [row for row in self.rows if not row.passed]
        measured = [f"{row.name} {row.value:.0e}" + (f" [{row.note}]" if row.note else "") for row in failed]
        consequences = dict.fromkeys(row.consequence for row in failed)
        return f"{', '.join(measured)}: {'; '.join(consequences)}" if failed else ""


_NEARLY = 1e-2
"""A relative error that frequencies and training bear: hippynn's jumps of 6e-3 leave gradients of an HVP loss right to
5e-5, while those of TorchANI's CELU, 4e-2, made them wrong by half."""

_USES: dict[str, tuple[str, ...]] = {
    "energies, forces": ("energies", "batch = single", "no crosstalk", "forces", "translation", "rotation"),
    "cells, stress": ("stress",),
    "HVPs, Hessians": ("HVP", "u·Hv = v·Hu", "Hessian = HVP", "Hessian sums"),
    "HVPs together": ("mode batched",),
    "smooth Hessian": ("smooth along a path", "smooth at symmetry", "curvature jumps", "cutoff: Hessian"),
    "training on HVPs": ("parameter gradient", "zero vectors", "curvature jumps"),
}
"""Use of a potential -> the checks that it rests on."""


def markdown(reports: Sequence[ConformanceReport]) -> str:
    """Return a table, potential × what works, and below it what does not work and what that means."""
    lines = ["| potential | " + " | ".join(_USES) + " |", "|---" * (len(_USES) + 1) + "|"]
    lines += [f"| `{report.potential}` | " + " | ".join(report.summary().values()) + " |" for report in reports]
    below = [f"- `{report.potential}`: {text}" for report in reports if (text := report.shortcomings())]
    return "\n".join([*lines, *([""] if below else []), *below])


def _aligned(cells: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths).rstrip())
    return lines
