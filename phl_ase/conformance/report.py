"""What a conformance check returns: one row for each thing that was measured."""

from __future__ import annotations

from dataclasses import dataclass

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
class ConformanceReport:
    """What was checked of one potential; a check that does not apply (no parameters, no cell) has no row.

    Attributes:
        potential: Its name.
        rows: The checks, in the order they ran.
    """

    potential: str
    rows: tuple[Check, ...]

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
        """Plain text: one line for each check, then what the failed ones mean."""
        cells = [
            (row.name, "ok" if row.passed else "FAILED", f"{row.value:.1e}", f"{row.tolerance:.0e}", row.unit)
            for row in self.rows
        ]
        cells.insert(0, (f"check of {self.potential}", "result", "measured", "allowed", "unit"))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
        lines.insert(1, "  ".join("-" * width for width in widths))
        failed = [
            f"{row.name}: {row.consequence}" + (f" [{row.note}]" if row.note else "")
            for row in self.rows
            if not row.passed
        ]
        return "\n".join([*lines, *failed])
