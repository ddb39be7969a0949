"""``phl report``: what validators wrote as JSON, as one page to put before a colleague."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phl_ase.cli.options import argument, option
from phl_ase.cli.output import check_target
from phl_ase.errors import PHLError
from phl_ase.tables import counted


def report(
    results: Annotated[list[Path], argument("RESULTS…", "JSON files of phl validate or evaluate.")],
    out: Annotated[Path, option("--out -o FILE", "The page.")] = Path("report.html"),
    title: Annotated[str, option("--title TEXT", "Its heading.")] = "Validation",
) -> None:
    """Write one HTML page of figures and tables from the results of validators; it needs no network and runs nothing.

    Results of several models become one figure for each validator.

    phl report frequencies.json ts.json irc.json -o report.html
    """
    check_target(out, "report")
    from phl_ase.files import write_atomic
    from phl_ase.plots.page import render_reports
    from phl_ase.results import read_reports

    reports = [one for path in results for one in read_reports(path)]
    if not reports:
        raise PHLError(f"{', '.join(map(str, results))} hold no reports; expected what --json of phl validate wrote")
    write_atomic(out, render_reports(reports, title).encode())
    typer.echo(f"{counted(len(reports), 'report')}: {out}")
