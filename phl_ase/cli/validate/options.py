"""Options that the commands of ``phl validate`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Input = Annotated[
    str, typer.Argument(metavar="INPUT", help="A bundled data set, our HDF5, or any structures that ase.io reads.")
]
Reference = Annotated[
    str | None,
    typer.Option(
        "--reference",
        metavar="METHOD",
        help="Compare with this method or model (tblite, emt, FILE.safetensors) instead of the labels of INPUT.",
    ),
]
Reactions = Annotated[
    list[str] | None, typer.Option("--reaction", metavar="NAME", help="Take this reaction alone; repeat as needed.")
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write every number, report by report, as it is made.")
]
PlotFile = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw the figure: .png, .pdf or .svg.")]
Trajectories = Annotated[
    Path | None, typer.Option("--trajectories", metavar="FOLDER", help="Keep an ASE trajectory of everything tried.")
]
