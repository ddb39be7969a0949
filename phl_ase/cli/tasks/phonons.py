"""``phl phonons``: bands, density of states, thermal properties of a crystal."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.options import option
from phl_ase.cli.tasks.common import output_of, say_reliability
from phl_ase.cli.validate.phonons import crystal_of, write_for_phonopy
from phl_ase.cli.validate.running import make_folder
from phl_ase.tables import counted, text_table

if TYPE_CHECKING:
    from phonopy import Phonopy

    from phl_ase.types import ASECalculator


def phonons(
    crystal: opt.Crystal,
    method: opt.With = "default",
    out: opt.Prefix = None,
    supercell: opt.Supercell = None,
    matrix: opt.SupercellMatrix = None,
    relax: Annotated[bool, option("--relax", "Relax the unit cell first, shape and volume too.")] = False,
    path: opt.BandPath = None,
    mesh: opt.Mesh = opt.MESH,
    temperature: opt.PhononTemperature = 298.15,
    settings: opt.Settings = None,
    json: opt.ResultsFile = None,
    device: opt.Device = "auto",
    trust: opt.Trust = False,
) -> None:
    """Compute phonons from Hessian-vector products: 3 for each atom of the primitive cell, no displaced supercells.

    Writes bands, density of states and thermal properties, and files that phonopy reads. No non-analytic correction
    (LO-TO splitting) is made.

    phl phonons copper.cif --with emt --relax --supercell 3 3 3
    """
    output = output_of("phonons", out, json, method, settings, trust, crystal)
    from phl_ase.cli.labelling import label_method

    calculator = label_method(method, output.settings, device, trust).make()
    import numpy as np

    from phl_ase.phonons import force_constants, phonons_of
    from phl_ase.phonons.bands import THERMAL_TEMPERATURES, band_path, checked_mesh
    from phl_ase.plots.phonons import draw
    from phl_ase.progress import Progress
    from phl_ase.results import Report, plain

    phonon = crystal_of(crystal, supercell or matrix, calculator if relax else None)
    band_path(phonon, path)  # a path that the lattice does not have costs nothing yet, nor does a mesh of no points
    checked_mesh(mesh)
    folder = output.path("_phonopy")
    make_folder(folder, "files of phonopy")
    say_if_not_relaxed(phonon, calculator)
    with Progress("phonons", 1):
        constants = force_constants(phonon, calculator)
    kelvin = sorted({*THERMAL_TEMPERATURES, temperature})
    found = phonons_of(phonon, constants, path=path, mesh=mesh, temperatures=kelvin)
    milli = {name: 1e3 * found.at_temperature(getattr(found, name), temperature) for name in _THERMAL}
    rows = [
        ("highest frequency", "THz", float(found.mesh_frequencies.max())),
        ("lowest frequency", "THz", float(found.mesh_frequencies.min())),
        ("imaginary modes of the mesh", "", found.n_imaginary),
        ("largest acoustic frequency at Γ", "THz", float(abs(found.gamma_acoustic).max())),
        (f"free energy at {temperature:g} K", "meV/cell", milli["free_energy"]),
        (f"entropy at {temperature:g} K", "meV/(K cell)", milli["entropy"]),
        (f"heat capacity at {temperature:g} K", "meV/(K cell)", milli["heat_capacity"]),
    ]
    typer.echo(text_table(("quantity", "unit", "value"), rows, words=2))
    typer.echo(f"per primitive cell of {counted(len(phonon.primitive), 'atom')}; {constants.source}")
    arrays = {
        name: getattr(found, name) for name in ("distances", "frequencies", "label_distances", "dos_frequencies", "dos")
    }
    report = Report(crystal.stem, method, "computed", arrays={**arrays, "labels": np.array(found.labels)})
    output.figure(draw, [report])
    write_for_phonopy(folder, phonon, constants)
    output.written.append(folder)
    values = {name: value for name, _, value in rows}
    thermal = {name: getattr(found, name) for name in ("temperatures", *_THERMAL)}
    units = {name: unit for name, unit, _ in rows} | {"frequencies": "THz", "dos": "states/THz", "thermal": "eV, K"}
    output.results({"values": values, "units": units, **plain(report.arrays), "thermal": thermal})
    output.end(f"phonopy-load {quote(str(folder / 'phonopy.yaml'))} --mesh 20 20 20 -t")


def say_if_not_relaxed(phonon: Phonopy, calculator: ASECalculator) -> None:
    """Say that phonons of a cell with forces on its atoms mean little, and where a model knows no such crystal."""
    import numpy as np

    from phl_ase.phonons import supercell_atoms

    cell = supercell_atoms(phonon)
    say_reliability(calculator, [cell])
    cell.calc = calculator
    largest = float(np.linalg.norm(cell.get_forces(), axis=1).max())
    if largest > _RELAXED:
        typer.echo(f"warning: the largest force is {largest:.2g} eV/Å: relax the cell first, or add --relax", err=True)


_RELAXED = 0.05  # eV/Å
_THERMAL = ("free_energy", "entropy", "heat_capacity")
