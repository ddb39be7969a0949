"""What a conformance check returns: one row for each thing that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from phl_ase.errors import unknown


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
    """What one way to a derivative takes.

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
    """What was checked of one potential; a check that does not apply (no parameters, no cell) has no row.

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
        """Whether every check passed."""
        return all(row.passed for row in self.rows)

    def row(self, name: str) -> Check:
        """The row of a name.

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
        """What works, a word for each use: ``yes``, ``no``, or ``–`` where it does not apply."""
        return {use: self._verdict(names) for use, names in _USES.items()}

    def _verdict(self, names: tuple[str, ...]) -> str:
        passed = [row.passed for row in self.rows if row.name in names]
        return ("yes" if all(passed) else "no") if passed else "–"


_USES: dict[str, tuple[str, ...]] = {
    "energies, forces": ("energies", "batch = single", "no crosstalk", "forces", "translation", "rotation"),
    "cells, stress": ("stress",),
    "HVPs, Hessians": ("HVP", "u·Hv = v·Hu", "Hessian = HVP", "Hessian sums"),
    "HVPs together": ("mode batched",),
    "smooth Hessian": ("smooth along a path", "smooth at symmetry", "curvature jumps", "cutoff: Hessian"),
    "training on HVPs": ("parameter gradient", "zero vectors"),
}
"""What a user may want -> the checks that it rests on."""


def markdown(reports: Sequence[ConformanceReport]) -> str:
    """A table, potential × what works, for a README."""
    lines = ["| potential | " + " | ".join(_USES) + " |", "|---" * (len(_USES) + 1) + "|"]
    lines += [f"| `{report.potential}` | " + " | ".join(report.summary().values()) + " |" for report in reports]
    return "\n".join(lines)


def _aligned(cells: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths).rstrip())
    return lines
