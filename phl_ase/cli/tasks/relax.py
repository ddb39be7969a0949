"""``phl relax``: minima."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.options import option
from phl_ase.cli.tasks.common import calculator_of, domain_watched, output_of, read_structures, say_reliability
from phl_ase.tables import text_table


def relax(
    structure: opt.Structure,
    method: opt.With = "default",
    out: opt.Prefix = None,
    fmax: Annotated[float, option("--fmax eV/Å", "Largest force on an atom at the end.")] = 0.01,
    steps: Annotated[int, option("--steps", "Most steps.", min=1)] = 500,
    charge: opt.Charge = None,
    multiplicity: opt.Multiplicity = None,
    fixed: opt.Fixed = None,
    settings: opt.Settings = None,
    json: opt.ResultsFile = None,
    device: opt.Device = "auto",
    trust: opt.Trust = False,
) -> None:
    """Relax structures to minima.

    Every structure of INPUT is relaxed. Whether the end is a minimum is for 'phl freq' to say.

    phl relax water.xyz --with tblite

    phl relax conformers.xyz --with default --fmax 0.001
    """
    output = output_of("relax", out, json, method, settings, trust, structure)
    structures = read_structures(structure, charge, multiplicity, fixed)
    calculator = calculator_of(output, structures, device, trust)
    from ase.calculators.singlepoint import SinglePointCalculator

    from phl_ase.paths import relax as relaxed
    from phl_ase.progress import Progress

    records: list[dict[str, Any]] = []
    ends, rows = [], []
    with domain_watched() as passed, Progress("relax", len(structures)) as progress:
        for place, atoms in enumerate(structures):
            atoms.calc = calculator
            found = relaxed(atoms, fmax, steps)
            formula = atoms.get_chemical_formula()
            rows.append((place, formula, found.outcome, f"{found.energy:.6f}", found.fmax, found.steps))
            end = found.atoms.copy()
            if found.converged:
                end.calc = SinglePointCalculator(end, energy=found.energy, forces=found.atoms.get_forces())
            ends.append(end)
            records.append(
                {
                    "formula": formula,
                    "outcome": found.outcome,
                    "sentence": found.sentence,
                    "energy_eV": found.energy,
                    "largest_force_eV_per_A": found.fmax,
                    "steps": found.steps,
                    "force_calls": found.force_calls,
                }
            )
            progress.advance()
    typer.echo(text_table(("", "structure", "outcome", "E / eV", "largest F / (eV/Å)", "steps"), rows, words=3))
    for row, record in zip(rows, records, strict=True):
        if record["outcome"] != "converged":
            typer.echo(f"{row[0]}: {record['sentence']}")
    reached = {
        f"structure {place}": end
        for place, (end, record) in enumerate(zip(ends, records, strict=True))
        if record["outcome"] == "converged"
    }
    done = len(reached) == len(records)
    say_reliability(calculator, [*reached.values()], [*reached], passed=[] if done else passed)
    file = output.structures(".xyz", ends)
    output.results({"structures": records})
    output.end(output.command("freq", file) if done else "")
    if not done:
        raise typer.Exit(1)
