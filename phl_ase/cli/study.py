"""``phl study``: training methods compared, and a report of what that says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.error_handling import nothing_is_lost
from phl_ase.cli.options import argument, option
from phl_ase.errors import PHLError

_DEFAULT_CONFIG = Path("study.toml")


def study(
    config: Annotated[Path | None, argument("[CONFIG.toml]", "The study's configuration.")] = None,
    out: Annotated[Path, option("--out -o FOLDER", "Where everything is kept.")] = Path("phl-study"),
    processes: Annotated[int, option("", "Runs at once, one thread each.", min=1)] = 2,
    settings: opt.Overrides = None,
    plan: Annotated[bool, option("--plan", "Show the runs and how long they take, do nothing else.")] = False,
    report: Annotated[bool, option("--report", "Train nothing: report on what is there.")] = False,
    init: Annotated[
        bool, option("--init", "Write a commented CONFIG (study.toml unless named), do nothing else.")
    ] = False,
) -> None:
    """Train every combination of schemes, regimes, splits and seeds, validate every model alike, report.

    Ctrl-C keeps what is finished; the same command goes on. A run that fails is shown with its reason and stops no
    other. FOLDER gets report.html, results.json, scoreboard.csv, and each run's model and reports, which phl report
    reads. Changed options of validators only validate again; other
    settings train other models beside those that are there.

    phl study --init                                    writes study.toml

    phl study study.toml --plan                         runs, epochs, estimated hours

    phl study study.toml --out runs/study --processes 8
    """
    if init:
        from phl_ase.study.packaged import write_template

        typer.echo(f"wrote {write_template(config or _DEFAULT_CONFIG)}")
        return
    if config is None:
        raise PHLError("no configuration: name one; 'phl study --init' writes a commented one")
    if not config.exists():  # said before anything large is loaded
        raise PHLError(f"configuration {config} does not exist; 'phl study --init' writes a commented one")
    from phl_ase.study.config import read_study
    from phl_ase.study.run import plan_text

    configuration = read_study(config, settings or [])
    if plan:
        typer.echo(plan_text(configuration, processes))
        return
    run_and_report(configuration, out, processes=processes, train=not report)


def run_and_report(config: object, out: Path, *, processes: int, train: bool = True) -> None:
    """Run a study, write its report and show its tables.

    Args:
        config: A ``StudyConfig``.
        out: Its folder.
        processes: Runs at once.
        train: Whether to train, or only to report on what is there.
    """
    from phl_ase.study.report import REPORT, as_text, write_report
    from phl_ase.study.results import Results
    from phl_ase.study.run import run_study

    with nothing_is_lost(out):
        results = Results.of(run_study(config, out, workers=processes, train=train))  # type: ignore[arg-type]
    write_report(results)
    typer.echo(as_text(results))
    typer.echo(f"report: {out / REPORT}")
