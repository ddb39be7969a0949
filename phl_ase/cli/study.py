"""``phl study``: schemes, regimes, probes, splits and seeds compared, and a report of what that says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phl_ase.errors import PHLError

_DEFAULT_CONFIG = Path("study.toml")


def study(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG.toml]", help="The study's configuration.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where everything is kept.")] = Path(
        "phl-study"
    ),
    processes: Annotated[int, typer.Option(min=1, help="Cells at work at once, one thread each.")] = 2,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override the configuration. Repeat as needed."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show the cells and how long they take, do nothing else.")
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="Train nothing: report on what is there.")] = False,
    init: Annotated[
        bool, typer.Option("--init", help="Write a commented CONFIG (study.toml unless named), do nothing else.")
    ] = False,
) -> None:
    """Train every combination of schemes, regimes, splits and seeds, ask every model the same, report.

    Ctrl-C keeps what is finished; the same command goes on. A cell that fails is shown with its reason and stops no
    other. FOLDER gets report.html, results.json, scoreboard.csv, and each cell's model and reports, which phl report
    reads.

    phl study --init                                    writes study.toml

    phl study study.toml --plan                         cells, epochs, estimated hours

    phl study study.toml --out runs/study --processes 8
    """
    if init:
        from phl_ase.study.matrix.template import write_template

        typer.echo(f"wrote {write_template(config or _DEFAULT_CONFIG)}")
        return
    if config is None:
        raise PHLError("no configuration: name one; 'phl study --init' writes a commented one")
    from phl_ase.study.matrix.config import read_study
    from phl_ase.study.matrix.page import write_outcome
    from phl_ase.study.matrix.running import run_study
    from phl_ase.study.matrix.tables import Outcome, as_text

    configuration = read_study(config, settings or [])
    if plan:
        from phl_ase.study.matrix.planning import plan_text

        typer.echo(plan_text(configuration, processes))
        return
    found = run_study(configuration, out, processes=processes, train=not report)
    outcome = Outcome.of(found)
    write_outcome(outcome)
    typer.echo(as_text(outcome))
    typer.echo(f"report: {out / 'report.html'}")
