"""``phl demo``: the main job on bundled data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for models, numbers and report.")] = (
        Path("phl-demo")
    ),
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of every scheme; by default the demo's own.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Schemes trained at once; by default 2.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few epochs of small models: shows the way, no result.")] = (
        False
    ),
) -> None:
    """Train E-F, E-F-HVP and E-F-H on bundled reactions, score them, write a report.

    phl demo                    trains into phl-demo and writes its report
    phl demo --quick -o /tmp/d  the same steps in a minute, with models that are not yet any good
    """
    from phl_ase.study.demo import run_demo

    given = {"epochs": epochs, "processes": processes}
    result = run_demo(out, quick=quick, **{name: value for name, value in given.items() if value is not None})
    for name in ("table", "report"):
        if name in result:
            typer.echo(str(result[name]))
    typer.echo(f"results: {out}")
