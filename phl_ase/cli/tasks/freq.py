"""``phl freq``: harmonic frequencies, normal modes, thermochemistry."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli.options import Device, Trust
from phl_ase.cli.output import save_figure, save_json, table
from phl_ase.cli.tasks.common import (
    Charge,
    Fixed,
    Multiplicity,
    Out,
    Pressure,
    Settings,
    Structure,
    Temperature,
    Thermo,
    With,
    atom_numbers,
    calculator_of,
    check_thermochemistry,
    file_of,
    pascal,
    prefix_of,
    read_structures,
    say_files,
    warn_outside,
    write_structures,
    write_text,
)
from phl_ase.errors import PHLError

if TYPE_CHECKING:
    from ase import Atoms

    from phl_ase.tasks import Frequencies


def freq(
    structure: Structure,
    method: With = "default",
    out: Out = None,
    relax: Annotated[
        bool, typer.Option("--relax", help="Relax to the minimum of the method first (largest force 0.001 eV/Å).")
    ] = False,
    temperature: Temperature = 298.15,
    pressure: Pressure = 1.0,
    thermo: Thermo = "ideal gas",
    symmetry: Annotated[
        int | None,
        typer.Option("--symmetry-number", min=1, help="Rotational; found from the geometry if not given."),
    ] = None,
    isotopes: Annotated[
        list[str] | None,
        typer.Option("--isotope", metavar="ATOMS=MASS", help="Masses in amu: 1,2=2.014. Repeat as needed."),
    ] = None,
    animate: Annotated[
        list[int] | None,
        typer.Option("--animate", metavar="MODE", help="Write this mode as a movie; imaginary ones always are."),
    ] = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    fixed: Fixed = None,
    settings: Settings = None,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Compute harmonic frequencies, normal modes, and H, S and G.

    INPUT is expected at a stationary point of the method: relax it first, or say --relax. Modes are written for viewers
    (.molden) and as movies (.xyz). Where atoms are fixed, and for periodic structures, there are no H, S and G.

    phl freq water.xyz --with tblite --relax

    phl freq ts.xyz --with default --temperature 400 --thermo quasi-RRHO
    """
    prefix = prefix_of("freq", out, method, trust, structure)
    bar = pascal(pressure)
    check_thermochemistry(temperature, thermo)
    structures = read_structures(structure, charge, multiplicity, fixed)
    for mode in animate or []:
        if not 0 <= mode < 3 * min(map(len, structures)):
            raise PHLError(f"--animate {mode}: there is no such mode; expected a number from 0")
    for atoms in structures:
        set_isotopes(atoms, isotopes or [])
    calculator = calculator_of(method, structures, settings or [], device, trust)
    from phl_ase.cli.stopping import terminated_as_interrupted
    from phl_ase.paths import relax as relaxed
    from phl_ase.results import provenance
    from phl_ase.tasks import frequencies
    from phl_ase.vibrations import mode_trajectory, molden_text

    files, records, outside = [], [], False
    with terminated_as_interrupted():
        for place, atoms in enumerate(structures):
            name = prefix if len(structures) == 1 else prefix.with_name(f"{prefix.name}_{place}")
            atoms.calc = calculator
            if relax:
                end = relaxed(atoms, 1e-3)
                if not end.converged:
                    typer.echo(f"structure {place} could not be relaxed: {end.sentence}")
                    records.append({"formula": atoms.get_chemical_formula(), "nature": "not relaxed"})
                    continue
                atoms = end.atoms
            found = frequencies(atoms, temperature=temperature, pressure=bar, symmetry=symmetry, model=thermo)
            typer.echo(shown(found) if len(structures) == 1 else f"structure {place}, {shown(found)}\n")
            outside |= warn_outside(calculator, [atoms])
            records.append(found.to_dict())
            files.append(write_structures(file_of(name, ".xyz"), [atoms.copy()]))
            files.append(write_text(file_of(name, ".molden"), molden_text(found.analysis)))
            wanted = dict.fromkeys([*range(found.analysis.n_imaginary), *(animate or [])])
            for mode in wanted:
                movie = mode_trajectory(found.analysis, mode, amplitude=0.35)
                files.append(write_structures(file_of(name, f"_mode{mode}.xyz"), movie))
            from phl_ase.plots.sticks import draw

            figure = file_of(name, ".pdf")
            save_figure(figure, draw, (f"{records[-1]['formula']}, {method}", found.analysis.wavenumbers.tolist()))
            files.append(figure)
    results = file_of(prefix, ".json")
    save_json(results, {"method": method, "structures": records, "provenance": provenance(method=method)})
    ts = any(record["nature"] == "transition state" for record in records)
    one = file_of(prefix, ".xyz") if len(structures) == 1 else structure
    following = f"phl reaction {quote(str(one))} --with {method}" if ts else ""
    say_files([*files, results], f"phl freq {quote(str(structure))} --with tblite" if outside else following)
    if any(record["nature"] == "not relaxed" for record in records):
        raise typer.Exit(1)


def set_isotopes(atoms: Atoms, isotopes: list[str]) -> None:
    """Give atoms other masses, as ``0,1=2.014`` says.

    Raises:
        PHLError: For something else.
    """
    masses = atoms.get_masses()
    for text in isotopes:
        who, equals, mass = text.partition("=")
        try:
            value = float(mass)
        except ValueError:
            value = float("nan")
        if not (equals and 0.1 <= value <= 1000):
            raise PHLError(f"got --isotope {text!r}; expected ATOMS=MASS in amu, for example 1,2=2.014")
        masses[atom_numbers(who, len(atoms))] = value
    if isotopes:
        atoms.set_masses(masses)


def shown(found: Frequencies) -> str:
    """Return wavenumbers in rows of six, and one line for each thermodynamic quantity."""
    from phl_ase.units import convert

    analysis = found.analysis
    lines = [f"{analysis.atoms.get_chemical_formula()}: {found.nature}"]
    lines[0] += f", E = {found.energy:.6f} eV, largest force {found.largest_force:.2g} eV/Å"
    if not found.is_stationary:
        lines.append("the forces are too large for frequencies to mean much: relax the structure first, or add --relax")
    lines.append("\nwavenumbers / cm⁻¹")
    labels = [f"{abs(value):.1f}{'i' if value < 0 else ''}" for value in analysis.wavenumbers]
    lines += [
        f"{start:5d}:" + "".join(f"{label:>11s}" for label in labels[start : start + 6])
        for start in range(0, len(labels), 6)
    ]
    kcal = float(convert(1.0, "eV", "kcal/mol"))
    zpe = analysis.zero_point_energy
    rows: list[tuple[Any, ...]] = [("zero-point energy", f"{zpe:.5f}", f"{zpe * kcal:.2f}")]
    if (thermo := found.thermochemistry) is not None:
        entropy = thermo.temperature * thermo.entropy
        values = {
            "H − E": thermo.enthalpy - thermo.energy,
            "T·S": entropy,
            "G − E": thermo.gibbs_correction,
        }
        rows += [(name, f"{value:.5f}", f"{value * kcal:.2f}") for name, value in values.items()]
        rows.append(("G", f"{thermo.gibbs_energy:.5f}", f"{thermo.gibbs_energy * kcal:.2f}"))
    lines += ["", table(("", "eV", "kcal/mol"), rows)]
    if found.thermochemistry is not None:
        lines.append(f"{found.thermochemistry.sentence}, symmetry number {found.thermochemistry.symmetry_number}")
    return "\n".join(lines)
