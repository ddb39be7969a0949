"""``phl ts``: a transition state from a guess, or from reactant and product."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.tasks.common import (
    Output,
    calculator_of,
    check_pair,
    domain_watched,
    output_of,
    read_one,
    read_structures,
    say_reliability,
)
from phl_ase.errors import PHLError, unknown
from phl_ase.tables import text_table

if TYPE_CHECKING:
    from ase import Atoms

    from phl_ase.paths import TransitionStateSearch
    from phl_ase.tasks import JoiningSearch
    from phl_ase.types import ASECalculator


def ts(
    structure: opt.Structure,
    method: opt.With = "default",
    out: opt.Prefix = None,
    product: opt.Product = None,
    guess: opt.Guess = None,
    strategy: opt.Strategy = None,
    fmax: opt.FMax = 0.01,
    steps: opt.MaxSteps = 200,
    charge: opt.Charge = None,
    multiplicity: opt.Multiplicity = None,
    fixed: opt.Fixed = None,
    settings: opt.Settings = None,
    json: opt.ResultsFile = None,
    device: opt.Device = "auto",
    trust: opt.Trust = False,
) -> None:
    """Search transition states with Sella, verified by exactly one imaginary mode.

    Every structure of INPUT is a guess; what a TS connects is for 'phl reaction' to say. With --product guesses are
    made between INPUT and the product, until a TS is found whose path joins them.

    phl ts guess.xyz --with tblite

    phl ts reactant.xyz --product product.xyz --with default
    """
    output = output_of("ts", out, json, method, settings, trust, structure, product)
    check_names(strategy, guess, product)
    from phl_ase.progress import Progress
    from phl_ase.tasks import search_between, search_from

    searches: list[TransitionStateSearch] = []
    basins: list[int] = []
    joined = ""
    if product is None:
        guesses = read_structures(structure, charge, multiplicity, fixed)
        calculator = calculator_of(output, guesses, device, trust)
        with domain_watched() as passed, Progress("ts", len(guesses)) as progress:
            for atoms in guesses:
                searches.append(search_from(atoms, calculator, strategy=strategy, fmax=fmax, max_steps=steps))
                failed = not searches[-1].converged and searches[-1].steps > 0  # else its sentence says it
                if failed and has_no_imaginary_mode(atoms, calculator):
                    basins.append(len(searches) - 1)
                progress.advance()
    else:
        reactant, end = (read_one(file, charge, multiplicity, fixed) for file in (structure, product))
        check_pair(reactant, end)
        calculator = calculator_of(output, [reactant], device, trust)
        options: dict[str, Any] = {"guess": guess or "auto", "strategy": strategy, "fmax": fmax, "max_steps": steps}
        with domain_watched() as passed, Progress("ts", 1) as progress:
            joining = search_between(reactant, end, calculator, **options, note=progress.note)
        searches, joined = [joining.search], said_of(joining)
    typer.echo(shown(searches))
    for place in basins:
        typer.echo(
            f"{place}: the guess has no imaginary mode: it lies near a minimum, and a search from there rarely "
            "finds a TS; start nearer to the TS, or give reactant and --product"
        )
    if joined:
        typer.echo(joined)
    reached = {f"guess {place}": one.atoms for place, one in enumerate(searches) if one.converged}
    passed = passed if len(reached) < len(searches) else []
    outside = say_reliability(calculator, [*reached.values()], [*reached], found=output.path(".xyz"), passed=passed)
    file = output.structures(".xyz", [found.atoms.copy() for found in searches])
    for place, found in enumerate(searches):
        write_modes(output.numbered(place) if place else output, found)
    output.results({"searches": [record_of(found) for found in searches], "outside_of_training": outside})
    done = all(one.converged for one in searches)
    # 'phl reaction' takes one structure
    output.end(output.command("reaction", file) if done and len(searches) == 1 else "")
    if not done or (product is not None and not joining.joins):
        raise typer.Exit(1)


def has_no_imaginary_mode(atoms: Atoms, calculator: ASECalculator) -> bool:
    """Return whether a guess that led nowhere lies in the basin of a minimum."""
    from phl_ase.curvature import curvature_of
    from phl_ase.errors import attempt
    from phl_ase.vibrations import harmonic_analysis

    guess = atoms.copy()
    guess.calc = calculator
    found = attempt(lambda: harmonic_analysis(guess, curvature_of(calculator).hessian(guess)))
    return found.value is not None and found.value.n_imaginary == 0


def check_names(strategy: str | None, guess: str | None, product: Path | None) -> None:
    """Refuse an unknown strategy or kind of guess, or a guess without two ends, before anything is computed.

    Raises:
        PHLError: For a name that is not in its table, or a guess without a product.
    """
    if guess is not None and product is None:
        raise PHLError(f"--guess {guess} is a path between two structures: give the reactant and --product FILE")
    from phl_ase.paths import GUESSES, STRATEGIES

    for what, name, valid in (("Sella strategy", strategy, STRATEGIES), ("path for a guess", guess, GUESSES)):
        if name is not None and name not in valid:
            raise unknown(what, name, valid)


def said_of(found: JoiningSearch) -> str:
    """Return how a TS relates to the ends that it was searched between, and what was tried before it."""
    if found.joins:
        return f"joins reactant and product: {found.connection.sentence if found.connection else ''}"
    lines = ["no TS was found that joins reactant and product; tried:", *(f"  {line}" for line in found.attempts)]
    lines += [f"hint: {hint}" for hint in found.hints]
    return "\n".join(lines)


def shown(searches: list[TransitionStateSearch]) -> str:
    """Return a table of searches, and what became of those that failed."""
    rows = []
    for place, found in enumerate(searches):
        lowest = None if found.analysis is None else found.analysis.wavenumbers[0]
        imaginary = None if lowest is None else f"{-lowest:.0f}i" if lowest < 0 else "none"
        formula, energy = found.atoms.get_chemical_formula(), f"{found.energy:.6f}"
        counts = (found.fmax, found.steps, found.force_calls)
        rows.append((place, formula, found.outcome, energy, imaginary, *counts))
    headings = ("", "guess", "outcome", "E / eV", "imaginary / cm⁻¹", "largest F / (eV/Å)", "steps", "gradients")
    failed = [f"{place}: {found.sentence}" for place, found in enumerate(searches) if not found.converged]
    return "\n".join([text_table(headings, rows, words=3), *failed])


def write_modes(output: Output, found: TransitionStateSearch) -> None:
    """Write a TS's modes for viewers, its imaginary mode as a movie and as a figure."""
    if found.analysis is None or found.n_imaginary == 0:
        return
    from phl_ase.plots.mode import Mode, draw
    from phl_ase.vibrations import mode_trajectory, molden_text

    output.structures("_imaginary.xyz", mode_trajectory(found.analysis, 0, amplitude=0.35))
    output.bytes(".molden", molden_text(found.analysis).encode())
    whole = found.analysis.atoms.positions * 0.0
    whole[found.analysis.indices] = found.analysis.displacements[0]
    title = f"{found.atoms.get_chemical_formula()}: {abs(found.analysis.wavenumbers[0]):.0f}i cm⁻¹"
    output.figure(lambda modes: draw(title, modes), {output.method: Mode(found.analysis.atoms, whole)})


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
