"""Options that several commands share: ``from phl_ase.cli import options as opt``, then ``opt.With``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from phl_ase.errors import PHLError


def option(usage: str, text: str, **more: Any) -> Any:
    """Return an option from its usage, ``"--out -o FOLDER"``: its names, then the placeholder of its value."""
    words = usage.split(" ")
    names = [word for word in words if word.startswith("-")]
    return typer.Option(*names, metavar=" ".join(words[len(names) :]) or None, help=text, **more)


def argument(placeholder: str, text: str) -> Any:
    """Return an argument from its placeholder (by default its name) and help."""
    return typer.Argument(metavar=placeholder or None, help=text)


Structure = Annotated[Path, argument("INPUT", "Structure, any format that ASE reads (.xyz, .cif, .gjf, .out, …).")]
Input = Annotated[str, argument("INPUT", "A bundled data set, our HDF5, or any structures that ase.io reads.")]
DatasetName = Annotated[str, argument("DATASET", "A bundled name, our HDF5, or anything ase.io reads.")]
Model = Annotated[
    str,
    argument(
        "",
        "A bundled name, a .safetensors file, an adapter (mace:FILE), a method (tblite, pyscf, emt) "
        "or ase:package.module:factory.",
    ),
]
With = Annotated[
    str,
    option(
        "--with MODEL|METHOD",
        "What computes: default, a .safetensors file, mace:FILE, tblite (GFN2-xTB), emt, pyscf "
        "(wB97X-D/6-31G*), pyscf:FUNCTIONAL/BASIS, ase:package.module:factory.",
    ),
]
Settings = Annotated[
    list[str] | None,
    option(
        "--set KEY=VALUE",
        "Setting of the method. pyscf: cartesian=yes|no, grid_level=4…9, threads, max_memory (MB); "
        "tblite: accuracy, electronic_temperature (K), max_iterations. Repeat as needed.",
    ),
]
Reference = Annotated[
    str | None,
    option(
        "--reference METHOD",
        "Compare with this method or model (tblite, emt, FILE.safetensors) instead of the labels of INPUT.",
    ),
]
Reactions = Annotated[list[str] | None, option("--reaction NAME", "Take this reaction alone; repeat as needed.")]
Product = Annotated[
    Path | None, option("--product FILE", "INPUT is the reactant, this the product, atoms in the same order.")
]
Guess = Annotated[str | None, option("--guess METHOD", "Path to --product: auto (by default), geodesic, idpp, neb.")]
Strategy = Annotated[
    str | None, option("--strategy NAME", "Curvature for Sella: gradients, hvp, hessian, hessian-every, …")
]
FMax = Annotated[float, option("--fmax eV/Å", "Largest force on an atom at the TS.")]
MaxSteps = Annotated[int, option("--steps", "Most steps of the search.", min=1)]
Charge = Annotated[int | None, option("--charge", "Total charge; else the file's, else 0.")]
Multiplicity = Annotated[int | None, option("--multiplicity", "2S+1; else the file's, else 1 (a closed shell).", min=1)]
Fixed = Annotated[str | None, option("--fix ATOMS", "Atoms held in place, numbered from 0: 0,1,5-8.")]
Temperature = Annotated[float, option("--temperature K", "For H, S and G.")]
Pressure = Annotated[float, option("--pressure atm", "For S and G.")]
Thermo = Annotated[str, option("--thermo MODEL", "Soft modes: ideal gas, quasi-harmonic or quasi-RRHO.")]
Overrides = Annotated[
    list[str] | None,
    option(
        "--set SECTION.KEY=VALUE",
        "Override the configuration: --set training.epochs=50 --set scheme.name=E-F-H. Repeat as needed.",
    ),
]
HessianKind = Annotated[
    str | None, option("--hessian HOW", "Hessians too: own (the method's) or differences (6n gradients).")
]
HVPs = Annotated[int | None, option("--hvp K", "HVPs (H·v) along K probes a frame: 2K gradients.")]
Family = Annotated[str | None, option("--probes FAMILY", "rademacher by default; onehot, gaussian, ….")]
ProbeSeed = Annotated[int | None, option("--seed", "Of the probes; 0 by default.")]
Step = Annotated[float | None, option("--step Å", "Displacement in differences; by default 0.002 Å, of tblite 0.0005.")]
EstimateError = Annotated[int, option("--estimate-error N", "Repeat the HVPs of N frames with twice the step.")]
Workers = Annotated[int, option("--workers N", "Processes of one thread each.")]
TimeLimit = Annotated[
    float | None, option("--time-limit SECONDS", "What takes longer has failed; in worker processes.", min=0.0)
]
Work = Annotated[Path | None, option("--work FOLDER", "Work in progress; DATASET.work by default.")]
Keys = Annotated[
    list[str] | None,
    option(
        "--key LABEL=KEY",
        "A label that a file of ASE keeps under another name, as energy=dft_energy. Repeat as needed.",
    ),
]
Prefix = Annotated[str | None, option("--out -o PREFIX", "Of the files written; INPUT_COMMAND by default.")]
NewDataset = Annotated[Path, option("--out --output -o DATASET.h5", "The data set to write.")]
JsonFile = Annotated[Path | None, option("--json FILE", "Write every number as JSON.")]
ResultsFile = Annotated[Path | None, option("--json FILE", "Results as JSON; PREFIX.json too.")]
PlotFile = Annotated[Path | None, option("--plot FILE", "Draw the figure: .png, .pdf or .svg.")]
Trajectories = Annotated[Path | None, option("--trajectories FOLDER", "Keep an ASE trajectory of everything tried.")]
Device = Annotated[str, option("--device", "auto, cpu, cuda, cuda:1.")]
Dtype = Annotated[str, option("--dtype", "float64 or float32, for the weights; energies are float64.")]
Trust = Annotated[bool, option("--trust", "Load models whose file runs code. Only for files of people you trust.")]

Crystal = Annotated[Path, argument("INPUT", "A unit cell (.cif, POSCAR, …) or a phonopy_disp.yaml.")]
Supercell = Annotated[tuple[int, int, int] | None, option("--supercell N N N", "Of a unit cell.")]
SupercellMatrix = Annotated[str | None, option("--supercell-matrix '9 NUMBERS'", "Of a unit cell, row by row.")]
BandPath = Annotated[str | None, option("--path GXWKGL", "Special points of the bands; by lattice if not given.")]
Mesh = Annotated[tuple[int, int, int], option("--mesh N N N", "Of the Brillouin zone.")]
PhononTemperature = Annotated[float, option("--temperature K", "For thermal properties.", min=0, max=1000)]
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
