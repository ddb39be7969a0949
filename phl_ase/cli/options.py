"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        help="A bundled name, a .safetensors file, an adapter (mace:FILE), a method (tblite, pyscf, emt) or "
        "ase:package.module:factory."
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float64 or float32, for the weights; energies are float64.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Load models whose file runs code. Only for files of people you trust.")
]
