"""``phl ts``: a transition state from a guess, or from reactant and product."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli.options import Device, Trust
from phl_ase.cli.output import save_figure, save_json, table
from phl_ase.cli.tasks.common import (
    Charge,
    Fixed,
    Multiplicity,
    Out,
    Settings,
    Structure,
    With,
    calculator_of,
    file_of,
    prefix_of,
    read_one,
    read_structures,
    say_files,
    write_structures,
)
from phl_ase.errors import PHLError, unknown

if TYPE_CHECKING:
    from ase import Atoms

    from phl_ase.paths import TransitionStateSearch

Product = Annotated[
    Path | None,
    typer.Option("--product", metavar="FILE", help="INPUT is the reactant, this the product, atoms in the same order."),
]
Strategy = Annotated[
    str | None,
    typer.Option("--strategy", metavar="NAME", help="Curvature for Sella: gradients, hvp, hessian, hessian-every, …"),
]
FMax = Annotated[float, typer.Option("--fmax", metavar="eV/Å", help="Largest force on an atom at the TS.")]
MaxSteps = Annotated[int, typer.Option("--steps", min=1, help="Most steps of the search.")]
Guess = Annotated[str, typer.Option("--guess", metavar="METHOD", help="Path for --product: auto, geodesic or idpp.")]


def ts(
    structure: Structure,
    method: With = "default",
    out: Out = None,
    product: Product = None,
    guess: Guess = "auto",
    strategy: Strategy = None,
    fmax: FMax = 0.01,
    steps: MaxSteps = 200,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    fixed: Fixed = None,
    settings: Settings = None,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Search transition states with Sella, verified by exactly one imaginary mode.

    Every structure of INPUT is a guess. With --product the guess is made between INPUT and the product. What a TS
    connects is for 'phl reaction' to say.

    phl ts guess.xyz --with tblite

    phl ts reactant.xyz --product product.xyz --with default
    """
    prefix = prefix_of("ts", out, method, trust, structure, product)
    check_strategy(strategy)
    if product is None:
        guesses = read_structures(structure, charge, multiplicity, fixed)
        calculator = calculator_of(method, guesses, settings or [], device, trust)
    else:
        ends = [read_one(file, charge, multiplicity, fixed) for file in (structure, product)]
        calculator = calculator_of(method, ends, settings or [], device, trust)
        guesses = [guess_between(*ends, calculator, guess)]
    from phl_ase.cli.stopping import terminated_as_interrupted
    from phl_ase.progress import Progress
    from phl_ase.results import provenance

    searches: list[TransitionStateSearch] = []
    with Progress("ts", len(guesses)) as progress, terminated_as_interrupted():
        for atoms in guesses:
            searches.append(search_from(atoms, calculator, strategy, fmax, steps))
            progress.advance()
    typer.echo(shown(searches))
    ends_found = [found.atoms.copy() for found in searches]
    files = [write_structures(file_of(prefix, ".xyz"), ends_found)]
    files += [file for place, found in enumerate(searches) for file in mode_files(prefix, place, found, method)]
    results = file_of(prefix, ".json")
    records = [record_of(found) for found in searches]
    save_json(results, {"method": method, "searches": records, "provenance": provenance(method=method)})
    say_files([*files, results], f"phl reaction {files[0]} --with {method}")
    if not all(found.converged for found in searches):
        raise typer.Exit(1)


def check_strategy(strategy: str | None) -> None:
    """Refuse an unknown strategy before anything is computed.

    Raises:
        PHLError: For a strategy that is not in the table.
    """
    from phl_ase.paths import WAYS

    if strategy is not None and strategy not in WAYS:
        raise unknown("Sella strategy", strategy, WAYS)


def guess_between(reactant: Atoms, product: Atoms, calculator: Any, method: str) -> Atoms:
    """Return a guess of the TS between two structures, after saying in words what does not fit.

    Raises:
        PHLError: For other atoms, another order of atoms, or two structures with the same bonds and places.
    """
    from phl_ase.paths import guess_transition_state
    from phl_ase.paths.end_points import same_structure

    first, second = reactant.get_chemical_formula(), product.get_chemical_formula()
    if first != second:
        raise PHLError(f"the reactant is {first}, the product {second}; expected the same atoms in both files")
    if reactant.numbers.tolist() != product.numbers.tolist():
        raise PHLError(
            "reactant and product list their atoms in another order; expected atom k of the one to become atom k of "
            f"the other (reactant: {' '.join(reactant.symbols)}; product: {' '.join(product.symbols)})"
        )
    if same_structure(reactant, product):
        raise PHLError("reactant and product are the same structure; expected two different minima")
    return guess_transition_state(reactant, product, calculator, method=method).atoms


def search_from(atoms: Atoms, calculator: Any, strategy: str | None, fmax: float, steps: int) -> TransitionStateSearch:
    """Search a TS from a guess; where internal coordinates fail, again in Cartesian ones.

    Args:
        atoms: The guess.
        calculator: What computes.
        strategy: A key of ``phl_ase.paths.WAYS``; by default what is recommended for the calculator.
        fmax: Largest force at the end, eV/Å.
        steps: Most steps.
    """
    from phl_ase.curvature import curvature_of
    from phl_ase.paths import RECOMMENDED, search

    curvature = curvature_of(calculator)
    atoms = atoms.copy()
    atoms.calc = calculator
    chosen = strategy or RECOMMENDED[curvature.source]
    found = search(atoms, chosen, curvature, fmax=fmax, max_steps=steps)
    if found.converged or not found.internal:
        return found
    again = search(atoms, chosen, curvature, fmax=fmax, max_steps=steps, internal=False)
    return again if again.converged else found


def shown(searches: list[TransitionStateSearch]) -> str:
    """Return a table of searches, and what became of those that failed."""
    rows = []
    for place, found in enumerate(searches):
        imaginary = None if found.analysis is None else f"{abs(found.analysis.wavenumbers[0]):.0f}i"
        if found.analysis is not None and found.analysis.wavenumbers[0] >= 0:
            imaginary = "none"
        formula = found.atoms.get_chemical_formula()
        rows.append(
            (place, formula, found.outcome, found.energy, imaginary, found.fmax, found.steps, found.force_calls)
        )
    headings = ("", "guess", "outcome", "E / eV", "imaginary / cm⁻¹", "largest F / (eV/Å)", "steps", "gradients")
    lines = [table(headings, rows, words=3)]
    for place, found in enumerate(searches):
        if found.converged:
            continue
        lines.append(f"{place}: {found.sentence}")
        if found.n_imaginary == 0:
            lines.append(f"{place}: this is a minimum; start from a structure nearer to the TS, or give --product")
    return "\n".join(lines)


def mode_files(prefix: Path, place: int, found: TransitionStateSearch, method: str) -> list[Path]:
    """Write a TS's modes for viewers, its imaginary mode as a movie and as a figure."""
    if found.analysis is None or found.n_imaginary == 0:
        return []
    from phl_ase.cli.tasks.freq import write_text
    from phl_ase.plots.mode import Mode, draw
    from phl_ase.vibrations import mode_trajectory, molden_text

    name = prefix.with_name(f"{prefix.name}_{place}") if place else prefix
    movie = mode_trajectory(found.analysis, 0, amplitude=0.35)
    files = [write_structures(file_of(name, "_imaginary.xyz"), movie)]
    files.append(write_text(file_of(name, ".molden"), molden_text(found.analysis)))
    whole = found.analysis.atoms.positions * 0.0
    whole[found.analysis.indices] = found.analysis.displacements[0]
    title = f"{found.atoms.get_chemical_formula()}: {abs(found.analysis.wavenumbers[0]):.0f}i cm⁻¹"
    figure = file_of(name, ".pdf")
    save_figure(figure, lambda modes: draw(title, modes), {method: Mode(found.analysis.atoms, whole)})
    return [*files, figure]


def record_of(found: TransitionStateSearch) -> dict[str, Any]:
    """Return the numbers of a search for JSON, units in the names."""
    return {
        "outcome": found.outcome,
        "sentence": found.sentence,
        "energy_eV": found.energy,
        "largest_force_eV_per_A": found.fmax,
        "imaginary_modes": found.n_imaginary,
        "wavenumbers_cm-1": None if found.analysis is None else found.analysis.wavenumbers,
        "steps": found.steps,
        "force_calls": found.force_calls,
        "hvp_calls": found.hvp_calls,
        "hessian_calls": found.hessian_calls,
        "symbols": found.atoms.get_chemical_symbols(),
        "positions_A": found.atoms.positions,
    }
