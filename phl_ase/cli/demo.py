"""``phl demo``: a small study on bundled data, whose configuration ships with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phl_ase.cli.study import run_and_report


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for models, numbers and report.")] = (
        Path("phl-demo")
    ),
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of every scheme; by default the demo's own.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Schemes trained at once, one thread each.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="A few epochs of small models: shows the way, no result.")] = (
        False
    ),
) -> None:
    """Train E-F, E-F-HVP and E-F-H on bundled reactions, validate them, write a report.

    Stopped, it goes on when it is called again.

    phl demo                    trains into phl-demo and writes its report
    phl demo --quick -o /tmp/d  the same steps in a minute, with models that are not yet any good
    """
    from phl_ase.study.config import read_demo

    run_and_report(read_demo(epochs=epochs, quick=quick), out, processes=processes)
