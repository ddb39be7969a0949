"""Options that several commands share: ``from phl_ase.cli import options as opt``, then ``opt.With``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phl_ase.errors import PHLError

Structure = Annotated[
    Path, typer.Argument(metavar="INPUT", help="Structure, any format that ASE reads (.xyz, .cif, .gjf, .out, …).")
]
Input = Annotated[
    str, typer.Argument(metavar="INPUT", help="A bundled data set, our HDF5, or any structures that ase.io reads.")
]
DatasetName = Annotated[
    str, typer.Argument(metavar="DATASET", help="A bundled name, our HDF5, or anything ase.io reads.")
]
Model = Annotated[
    str,
    typer.Argument(
        help="A bundled name, a .safetensors file, an adapter (mace:FILE), a method (tblite, pyscf, emt) or "
        "ase:package.module:factory."
    ),
]
With = Annotated[
    str,
    typer.Option(
        "--with",
        metavar="MODEL|METHOD",
        help="What computes: default, a .safetensors file, mace:FILE, tblite (GFN2-xTB), emt, pyscf (wB97X-D/6-31G*), "
        "pyscf:FUNCTIONAL/BASIS, ase:package.module:factory.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Setting of the method. pyscf: cartesian=yes|no, grid_level=4…9, threads, max_memory (MB); tblite: "
        "accuracy, electronic_temperature (K), max_iterations. Repeat as needed.",
    ),
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
Product = Annotated[
    Path | None,
    typer.Option("--product", metavar="FILE", help="INPUT is the reactant, this the product, atoms in the same order."),
]
Guess = Annotated[
    str | None,
    typer.Option("--guess", metavar="METHOD", help="Path to --product: auto (by default), geodesic, idpp, neb."),
]
Strategy = Annotated[
    str | None,
    typer.Option("--strategy", metavar="NAME", help="Curvature for Sella: gradients, hvp, hessian, hessian-every, …"),
]
FMax = Annotated[float, typer.Option("--fmax", metavar="eV/Å", help="Largest force on an atom at the TS.")]
MaxSteps = Annotated[int, typer.Option("--steps", min=1, help="Most steps of the search.")]
Charge = Annotated[int | None, typer.Option("--charge", help="Total charge; else the file's, else 0.")]
Multiplicity = Annotated[
    int | None, typer.Option("--multiplicity", min=1, help="2S+1; else the file's, else 1 (a closed shell).")
]
Fixed = Annotated[
    str | None, typer.Option("--fix", metavar="ATOMS", help="Atoms held in place, numbered from 0: 0,1,5-8.")
]
Temperature = Annotated[float, typer.Option("--temperature", metavar="K", help="For H, S and G.")]
Pressure = Annotated[float, typer.Option("--pressure", metavar="atm", help="For S and G.")]
Thermo = Annotated[
    str, typer.Option("--thermo", metavar="MODEL", help="Soft modes: ideal gas, quasi-harmonic or quasi-RRHO.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override the configuration: --set training.epochs=50 --set scheme.name=E-F-H. Repeat as needed.",
    ),
]
HessianKind = Annotated[
    str | None,
    typer.Option("--hessian", metavar="HOW", help="Hessians too: own (the method's) or differences (6n gradients)."),
]
HVPs = Annotated[
    int | None, typer.Option("--hvp", metavar="K", help="HVPs (H·v) along K probes a frame: 2K gradients.")
]
Family = Annotated[
    str | None, typer.Option("--probes", metavar="FAMILY", help="rademacher by default; onehot, gaussian, ….")
]
ProbeSeed = Annotated[int | None, typer.Option("--seed", help="Of the probes; 0 by default.")]
Step = Annotated[
    float | None,
    typer.Option("--step", metavar="Å", help="Displacement in differences; by default 0.002 Å, of tblite 0.0005."),
]
EstimateError = Annotated[
    int, typer.Option("--estimate-error", metavar="N", help="Repeat the HVPs of N frames with twice the step.")
]
Workers = Annotated[int, typer.Option("--workers", metavar="N", help="Processes of one thread each.")]
TimeLimit = Annotated[
    float | None,
    typer.Option("--time-limit", metavar="SECONDS", min=0.0, help="What takes longer has failed; in worker processes."),
]
Work = Annotated[
    Path | None, typer.Option("--work", metavar="FOLDER", help="Work in progress; DATASET.work by default.")
]
Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="LABEL=KEY",
        help="A label that a file of ASE keeps under another name, as energy=dft_energy. Repeat as needed.",
    ),
]
Prefix = Annotated[
    str | None, typer.Option("--out", "-o", metavar="PREFIX", help="Of the files written; INPUT_COMMAND by default.")
]
NewDataset = Annotated[
    Path, typer.Option("--out", "--output", "-o", metavar="DATASET.h5", help="The data set to write.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write every number as JSON.")]
ResultsFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Results as JSON; PREFIX.json too.")]
PlotFile = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw the figure: .png, .pdf or .svg.")]
Trajectories = Annotated[
    Path | None, typer.Option("--trajectories", metavar="FOLDER", help="Keep an ASE trajectory of everything tried.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float64 or float32, for the weights; energies are float64.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Load models whose file runs code. Only for files of people you trust.")
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
