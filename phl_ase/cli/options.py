"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phl_ase.errors import PHLError

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

Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="LABEL=KEY",
        help="A label that a file of ASE keeps under another name, as energy=dft_energy. Repeat as needed.",
    ),
]

Crystal = Annotated[Path, typer.Argument(metavar="INPUT", help="A unit cell (.cif, POSCAR, …) or a phonopy_disp.yaml.")]
Supercell = Annotated[tuple[int, int, int] | None, typer.Option("--supercell", metavar="N N N", help="Of a unit cell.")]
SupercellMatrix = Annotated[
    str | None, typer.Option("--supercell-matrix", metavar="'9 NUMBERS'", help="Of a unit cell, row by row.")
]
BandPath = Annotated[
    str | None, typer.Option("--path", metavar="GXWKGL", help="Special points of the bands; by lattice if not given.")
]
Mesh = Annotated[tuple[int, int, int], typer.Option("--mesh", metavar="N N N", help="Of the Brillouin zone.")]
PhononTemperature = Annotated[
    float, typer.Option("--temperature", min=0, max=1000, metavar="K", help="For thermal properties.")
]
MESH = (20, 20, 20)
"""Points of the Brillouin zone by default."""


def pairs(words: list[str] | None, option: str = "--key", example: str = "energy=dft_energy") -> dict[str, str]:
    """Return ``NAME=VALUE`` words as a mapping.

    Raises:
        PHLError: For a word of another form, or a name that stands twice.
    """
    split = [word.partition("=") for word in words or ()]
    wrong = [name + equals + value for name, equals, value in split if not (name and equals and value)]
    if wrong:
        raise PHLError(f"{option} {wrong[0]!r}; expected LABEL=…, as {option} {example}")
    found: dict[str, str] = {}
    for name, _, value in split:
        if found.setdefault(name, value) != value:
            raise PHLError(f"{option} says two things of {name}: {found[name]} and {value}; expected one")
    return found
