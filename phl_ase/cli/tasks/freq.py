"""``phl freq``: harmonic frequencies, normal modes, thermochemistry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.options import option
from phl_ase.cli.tasks.common import (
    atom_numbers,
    calculator_of,
    command_line,
    domain_watched,
    output_of,
    read_structures,
    say_reliability,
    thermochemistry_of,
)
from phl_ase.errors import PHLError
from phl_ase.tables import text_table

if TYPE_CHECKING:
    from ase import Atoms

    from phl_ase.tasks import Frequencies

_SOFT = 200.0  # cm⁻¹: imaginary modes below may be those of a rotor at the top of its small barrier


def freq(
    structure: opt.Structure,
    method: opt.With = "default",
    out: opt.Prefix = None,
    relax: Annotated[
        bool, option("--relax", "Relax to the minimum of the method first (largest force 0.001 eV/Å).")
    ] = False,
    temperature: opt.Temperature = 298.15,
    pressure: opt.Pressure = 1.0,
    thermo: opt.Thermo = "ideal gas",
    symmetry: Annotated[
        int | None, option("--symmetry-number", "Rotational; found from the geometry if not given.", min=1)
    ] = None,
    isotopes: Annotated[
        list[str] | None, option("--isotope ATOMS=MASS", "Masses in amu: 1,2=2.014. Repeat as needed.")
    ] = None,
    animate: Annotated[
        list[int] | None, option("--animate MODE", "Write this mode as a movie; imaginary ones always are.")
    ] = None,
    charge: opt.Charge = None,
    multiplicity: opt.Multiplicity = None,
    fixed: opt.Fixed = None,
    settings: opt.Settings = None,
    json: opt.ResultsFile = None,
    device: opt.Device = "auto",
    trust: opt.Trust = False,
) -> None:
    """Compute harmonic frequencies, normal modes, and H, S and G.

    INPUT is expected at a stationary point of the method: relax it first, or say --relax. Modes are written for viewers
    (.molden) and as movies (.xyz). Where atoms are fixed, and for periodic structures, there are no H, S and G.

    phl freq water.xyz --with tblite --relax

    phl freq ts.xyz --with default --temperature 400 --thermo quasi-RRHO
    """
    output = output_of("freq", out, json, method, settings, trust, structure)
    options = {**thermochemistry_of(temperature, pressure, thermo), "symmetry": symmetry}
    structures = read_structures(structure, charge, multiplicity, fixed)
    for mode in animate or []:
        if not 0 <= mode < 3 * min(map(len, structures)):
            raise PHLError(f"--animate {mode}: there is no such mode; expected a number from 0")
    for atoms in structures:
        set_isotopes(atoms, isotopes or [])
    calculator = calculator_of(output, structures, device, trust)
    from phl_ase.paths import relax_to_minimum
    from phl_ase.plots.sticks import draw
    from phl_ase.progress import Progress
    from phl_ase.tasks import frequencies
    from phl_ase.vibrations import mode_trajectory, molden_text

    saddles: list[Path] = []
    ends: list[Atoms] = []
    texts: list[str] = []
    records: list[dict[str, Any]] = []
    one = len(structures) == 1
    with domain_watched() as passed, Progress("freq", len(structures)) as progress:
        for place, atoms in enumerate(structures):
            files = output if one else output.numbered(place)
            formula = atoms.get_chemical_formula()
            atoms.calc = calculator
            analysis, pushes = None, 0
            if relax:
                progress.note(f"{formula}: relaxing")
                end, analysed, pushes = relax_to_minimum(atoms)
                if not end.converged:
                    texts.append(f"structure {place} could not be relaxed: {end.sentence}")
                    records.append({"formula": formula, "nature": "not relaxed", "outcome": "not relaxed"})
                    continue
                atoms, analysis = end.atoms, analysed.value
            progress.note(formula)
            found = frequencies(atoms, **options, analysis=analysis)
            records.append({**found.to_dict(), "outcome": found.nature})
            ends.append(atoms)
            texts.append(shown(found) if one else f"structure {place}, {shown(found)}\n")
            file = files.structures(".xyz", [atoms.copy()])
            if found.nature == "transition state":
                saddles.append(file)
            softest = float(found.analysis.wavenumbers[0]) if len(found.analysis.wavenumbers) else 0.0
            if pushes:
                end_of = "to the minimum" if found.nature == "minimum" else "three times, and no minimum was found"
                texts.append(
                    f"note: relaxing kept a symmetry and ended on a saddle point; it was pushed off it {end_of}"
                )
            elif found.is_stationary and -_SOFT < softest < 0.0 and found.analysis.n_imaginary:
                again = output.command("freq", structure, "--relax")
                texts.append(f"note: the imaginary mode is soft, as of a rotor: if a minimum is meant, {again}")
            files.bytes(".molden", molden_text(found.analysis).encode())
            for mode in dict.fromkeys([*range(found.analysis.n_imaginary), *(animate or [])]):
                files.structures(f"_mode{mode}.xyz", mode_trajectory(found.analysis, mode, amplitude=0.35))
            files.figure(draw, (f"{formula}, {method}", found.analysis.wavenumbers.tolist()))
            output.results({"structures": records})  # as the work goes on: a stop loses nothing
            progress.advance()
    output.results({"structures": records})
    typer.echo("\n".join(texts).rstrip("\n"))
    following = ""
    if say_reliability(calculator, ends, passed=passed if len(ends) < len(structures) else []):
        following = command_line("freq", structure, "tblite", (), *(["--relax"] if relax else []))
    elif not relax and any(record["nature"] == "not a stationary point" for record in records):
        following = output.command("freq", structure, "--relax")
    elif saddles and not relax:
        following = output.command("reaction", saddles[0])
    output.end(following)
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
    lines += ["", text_table(("", "eV", "kcal/mol"), rows)]
    if found.thermochemistry is not None:
        lines.append(f"{found.thermochemistry.sentence}, symmetry number {found.thermochemistry.symmetry_number}")
    return "\n".join(lines)
