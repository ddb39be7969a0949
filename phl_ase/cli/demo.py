"""``phl demo``: a small study on bundled data, whose configuration ships with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from phl_ase.cli.options import option
from phl_ase.cli.study import run_and_report


def demo(
    out: Annotated[Path, option("--out -o DIR", "Folder for models, numbers and report.")] = (Path("phl-demo")),
    epochs: Annotated[int | None, option("", "Epochs of every scheme; by default the demo's own.", min=1)] = None,
    processes: Annotated[int, option("", "Schemes trained at once, one thread each.", min=1)] = 2,
    quick: Annotated[bool, option("--quick", "A few epochs of small models: shows the way, no result.")] = (False),
) -> None:
    """Train E-F, E-F-HVP and E-F-H on bundled reactions, validate them, write a report.

    Stopped, it goes on when it is called again.

    phl demo                    trains into phl-demo and writes its report
    phl demo --quick -o /tmp/d  the same steps in a minute, with models that are not yet any good
    """
    from phl_ase.study.config import read_demo

    run_and_report(read_demo(epochs=epochs, quick=quick), out, processes=processes)
