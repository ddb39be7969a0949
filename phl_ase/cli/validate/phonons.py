"""``phl validate phonons``: bands, densities of states and thermal properties of a crystal, against a reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.inputs import check_inputs
from phl_ase.cli.options import option
from phl_ase.cli.output import check_outputs, save_plot
from phl_ase.cli.validate.running import make_folder, run_tasks
from phl_ase.errors import PHLError
from phl_ase.tables import text_table

if TYPE_CHECKING:
    from phonopy import Phonopy

    from phl_ase.phonons import ForceConstants
    from phl_ase.results import Report

_PHONOPY = (".yaml", ".yml")
_DISPLACEMENTS = "displacements"
"""As a reference: phonopy's own finite displacements, with the model."""

_RELAXED, _STEPS = 1e-4, 500  # eV/Å, steps


def phonons(
    model: opt.Model,
    crystal: opt.Crystal,
    reference: Annotated[
        str, option("--reference METHOD", "A method or model, or 'displacements': phonopy's own.")
    ] = _DISPLACEMENTS,
    supercell: opt.Supercell = None,
    matrix: opt.SupercellMatrix = None,
    relax: Annotated[
        bool, option("--relax", "Relax the unit cell with the reference first, shape and volume too.")
    ] = False,
    path: opt.BandPath = None,
    mesh: opt.Mesh = opt.MESH,
    temperature: opt.PhononTemperature = 300.0,
    write: Annotated[
        Path | None, option("--write FOLDER", "Write FORCE_CONSTANTS, force_constants.hdf5, phonopy.yaml.")
    ] = None,
    json: opt.JsonFile = None,
    plot: opt.PlotFile = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "float64",
    trust: opt.Trust = False,
) -> None:
    """Phonons from Hessian-vector products: 3 for each atom of the primitive cell, no displaced supercells.

    Without --reference the same model with phonopy's finite displacements: both must agree. No non-analytic
    correction is made.

    phl validate phonons emt copper.cif --supercell 3 3 3

    phl validate phonons run/best.safetensors phonopy_disp.yaml --reference emt --plot bands.png --write force-constants
    """
    check_outputs(json, plot)
    check_inputs(methods=[model, None if reference == _DISPLACEMENTS else reference], files=[str(crystal)], trust=trust)
    folder = make_folder(write, "force constants")
    from phl_ase.phonons import force_constants
    from phl_ase.resolver import resolve_calculator
    from phl_ase.validators import validate_phonons
    from phl_ase.validators.phonons import OWN_DISPLACEMENTS

    calculator = resolve_calculator(model, device=device, dtype=dtype, trust=trust)
    other = None if reference == _DISPLACEMENTS else resolve_calculator(reference, device=device, trust=trust)
    phonon = crystal_of(crystal, supercell or matrix, (other or calculator) if relax else None)

    def task() -> Report:
        # once for the report and the files
        constants = None
        if folder is not None:
            constants = force_constants(phonon, calculator)
            write_for_phonopy(folder, phonon, constants)
        return validate_phonons(
            phonon,
            calculator,
            other or OWN_DISPLACEMENTS,
            system=crystal.stem,
            potential=model,
            path=path,
            mesh=mesh,
            temperature=temperature,
            constants=constants,
            details={"reference": reference},
        )

    reports = run_tasks("phonons", [(str(crystal), task)], json)
    (report,) = reports
    rows = [(m.name, m.unit, m.value, m.reference) for m in report.metrics]
    numbers = text_table(("quantity", "unit", "value", "reference"), rows, words=2)
    typer.echo(f"{report.system}, {report.potential}, reference: {reference}\n\n{numbers}\n\n{report.sentence}")
    save_plot(plot, "phonons", reports)


def crystal_of(source: Path, supercell: Any, relax_with: Any) -> Phonopy:
    """Return crystal and supercell of a phonopy file, or of a unit cell, which may be relaxed, shape and volume too."""
    from phl_ase.datasets import read_images
    from phl_ase.phonons import check_crystal, make_phonopy, parse_supercell, read_phonopy_yaml

    wanted = supercell.split() if isinstance(supercell, str) else supercell
    if source.suffix.lower() in _PHONOPY:
        if relax_with is not None:
            raise PHLError(f"--relax changes the cell of {source}, which phonopy made: give the unit cell instead")
        return read_phonopy_yaml(source, supercell=wanted)
    images = read_images(source)
    if len(images) != 1:
        raise PHLError(f"{source} holds {len(images)} structures; expected one unit cell")
    cell = images[0]
    check_crystal(cell)
    if wanted is None:
        raise PHLError(f"{source} is a unit cell; give its supercell, for example --supercell 3 3 3")
    if cell.constraints:
        typer.echo(f"note: phonons move every atom; the constraints in {source} are not kept", err=True)
        cell.set_constraint()
    if relax_with is not None:
        from ase.filters import FrechetCellFilter
        from ase.optimize import BFGS

        cell = cell.copy()
        cell.calc = relax_with
        moved: Any = FrechetCellFilter(cell)
        with BFGS(moved, logfile=None) as optimiser:
            if not optimiser.run(fmax=_RELAXED, steps=_STEPS):
                raise PHLError(
                    f"the unit cell did not relax to {_RELAXED} eV/Å in {_STEPS} steps; relax it yourself first"
                )
        cell.calc = None
    return make_phonopy(cell, parse_supercell(wanted))


def write_for_phonopy(folder: Path, phonon: Phonopy, constants: ForceConstants) -> None:
    """Write force constants and crystal in files for phonopy's command line."""
    from phl_ase.phonons import write_force_constants, write_phonopy_yaml

    for name in ("FORCE_CONSTANTS", "force_constants.hdf5"):
        write_force_constants(folder / name, constants)
    write_phonopy_yaml(folder / "phonopy.yaml", phonon)
