"""``phl irc`` and ``phl reaction``: the path from a TS to both minima, and the whole energy profile."""

from __future__ import annotations

import re
from math import isnan
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.options import option
from phl_ase.cli.tasks.common import (
    calculator_of,
    check_pair,
    domain_watched,
    output_of,
    read_one,
    say_reliability,
    thermochemistry_of,
)
from phl_ase.cli.tasks.ts import check_names, said_of
from phl_ase.tables import text_table

if TYPE_CHECKING:
    from ase import Atoms

    from phl_ase.paths import Reaction
    from phl_ase.plots.profile import Profile
    from phl_ase.tasks import ReactionProfile

Integrator = Annotated[str, option("--integrator NAME", "Of the path: sella or quadratic.")]

_MOVIE_FRAMES = 60


def irc(
    structure: opt.Structure,
    method: opt.With = "default",
    out: opt.Prefix = None,
    integrator: Integrator = "sella",
    step: Annotated[float, option("--step √amu·Å", "Length of the path's steps.")] = 0.1,
    charge: opt.Charge = None,
    multiplicity: opt.Multiplicity = None,
    fixed: opt.Fixed = None,
    settings: opt.Settings = None,
    json: opt.ResultsFile = None,
    device: opt.Device = "auto",
    trust: opt.Trust = False,
) -> None:
    """Follow the reaction path (IRC) from a transition state both ways, and relax its ends to minima.

    INPUT is a TS of the method: 'phl ts' finds one.

    phl irc guess_ts.xyz --with tblite
    """
    output = output_of("irc", out, json, method, settings, trust, structure)
    atoms = read_one(structure, charge, multiplicity, fixed)
    atoms.calc = calculator_of(output, [atoms], device, trust)
    from phl_ase.paths import find_reaction
    from phl_ase.progress import Progress

    with domain_watched() as passed, Progress("irc", 1):
        found = find_reaction(atoms, method=integrator, step=step)
    if not found.ends:
        typer.echo(f"no path: {found.sentence}")
        say_reliability(atoms.calc, [], passed=passed)
        modes = None if found.path.analysis is None else found.path.analysis.n_imaginary
        if modes == 0:
            typer.echo(
                "it lies near a minimum: give a guess of a TS, or 'phl ts REACTANT --product PRODUCT' to find one"
            )
        else:
            typer.echo(f"next:    {output.command('ts', structure)}")
        raise typer.Exit(1)
    typer.echo(shown_path(found))
    ends = {"backward": found.backward, "forward": found.forward}
    stationary = {"TS": atoms, **{name: end.atoms for name, end in ends.items() if end is not None}}
    say_reliability(atoms.calc, [*stationary.values()], [*stationary], found=structure)
    output.structures(".xyz", annotated(found))
    output.structures("_ends.xyz", [end.atoms.copy() for end in found.ends])
    content = {
        "outcome": found.outcome,
        "sentence": found.sentence,
        "arc_length_sqrt_amu_A": found.path.arc_length,
        "energies_eV": found.path.energies,
        "barrier_forward_eV": found.barrier_forward,
        "barrier_back_eV": found.barrier_back,
        "bonds_broken": found.broken,
        "bonds_made": found.made,
    }
    output.results(content)
    output.end(output.command("reaction", structure))
    if not found.converged:
        raise typer.Exit(1)


def reaction(
    structure: opt.Structure,
    method: opt.With = "default",
    out: opt.Prefix = None,
    product: opt.Product = None,
    guess: opt.Guess = None,
    strategy: opt.Strategy = None,
    integrator: Integrator = "sella",
    temperature: opt.Temperature = 298.15,
    pressure: opt.Pressure = 1.0,
    thermo: opt.Thermo = "ideal gas",
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
    """Compute a whole reaction: TS, path, both minima, barriers, frequencies and Gibbs energies.

    INPUT is a TS or a guess of one; with --product it is the reactant. One table, one figure, and one HTML page with
    the path and the imaginary mode to look at.

    phl reaction guess_ts.xyz --with tblite

    phl reaction reactant.xyz --product product.xyz --with default --temperature 400
    """
    output = output_of("reaction", out, json, method, settings, trust, structure, product)
    settled = thermochemistry_of(temperature, pressure, thermo)
    check_names(strategy, guess, product)
    atoms = read_one(structure, charge, multiplicity, fixed)
    end = None if product is None else read_one(product, charge, multiplicity, fixed)
    from phl_ase.paths import find_reaction
    from phl_ase.plots.profile import draw
    from phl_ase.progress import Progress
    from phl_ase.tasks import reaction_profile, search_between, search_from

    if end is not None:
        check_pair(atoms, end)
    calculator = calculator_of(output, [atoms], device, trust)
    connection, joins = "", True
    options: dict[str, Any] = {"strategy": strategy, "fmax": fmax, "max_steps": steps}
    with domain_watched() as passed, Progress("reaction", 2) as progress:
        if end is None:
            progress.note("searching the TS")
            search, path = search_from(atoms, calculator, **options), None
            if search.converged:
                progress.note("following the path")
                path = find_reaction(search.atoms, method=integrator)
        else:
            options |= {"guess": guess or "auto", "integrator": integrator, "note": progress.note}
            found = search_between(atoms, end, calculator, **options)
            search, path, connection = found.search, found.reaction, said_of(found)
            joins = found.joins
        progress.advance("frequencies")
        whole = path is not None and path.backward is not None and path.forward is not None
        profile = reaction_profile(path, **settled) if path is not None and whole else None
        progress.advance()
    if path is None or profile is None:
        lack = "transition state" if path is None else "path"
        why = search.sentence if path is None else path.sentence
        more = "give another guess, or reactant and --product" if path is None else "try --integrator quadratic"
        typer.echo(f"no {lack} was found: {why}; {more}")
        if connection:
            typer.echo(connection)
        say_reliability(calculator, [], passed=passed)
        raise typer.Exit(1)
    if not joins:
        one = found.connection is not None and found.connection.outcome == "one end"
        which = "one of its ends is another structure" if one else "its ends are other structures"
        typer.echo(f"This is not the reaction that was asked for: {which}.")
    typer.echo(shown_profile(profile, temperature))
    if connection:
        typer.echo(connection)
    stationary = {point.name: point.atoms for point in profile.points}
    outside = say_reliability(calculator, [*stationary.values()], [*stationary], found=output.path("_points.xyz"))
    notes = connection.splitlines()
    if outside:
        notes.append(f"Outside of what the model was trained on, check with another method: {', '.join(outside)}")
    output.structures(".xyz", annotated(path))
    points = [point.atoms.copy() for point in profile.points]
    for point, copy in zip(profile.points, points, strict=True):
        copy.info["kind"] = {"transition state": "ts"}.get(point.name, point.name)
    output.structures("_points.xyz", points)
    output.figure(draw, drawn(profile, temperature))
    page = output.bytes(".html", html_page(structure.stem, profile, method, temperature, notes).encode())
    output.results({**profile.to_dict(), "connection": connection, "outside_of_training": outside})
    output.end(f"open {quote(str(page))}")
    if not path.converged or not joins:
        raise typer.Exit(1)


def shown_path(found: Reaction) -> str:
    """Return barriers and ends of a path in words."""
    from phl_ase.units import convert

    kcal = float(convert(1.0, "eV", "kcal/mol"))
    rows = []
    for name, end, barrier in (
        ("backward", found.backward, found.barrier_forward),
        ("forward", found.forward, found.barrier_back),
    ):
        if end is not None:
            rows.append((name, f"{end.energy:.6f}", f"{barrier * kcal:.2f}", end.n_imaginary, end.fragments))
    headings = ("end", "E / eV", "E(TS) − E / (kcal/mol)", "imaginary modes", "molecules")
    return text_table(headings, rows) + f"\n{found.sentence}"


def annotated(found: Reaction) -> list[Atoms]:
    """Return the points of a path with their energies (eV) and arc lengths (√amu·Å) in ``info``."""
    path, images = found.path, []
    for atoms, energy, length in zip(path.structures, path.energies, path.arc_length, strict=True):
        image = atoms.copy()
        image.info.update(path_energy=float(energy), arc_length=float(length))
        images.append(image)
    return images


HEADINGS = ("", "E", "E + ZPE", "H", "G", "imaginary / cm⁻¹", "molecules")


def rows_of(profile: ReactionProfile) -> list[tuple[str, ...]]:
    """Return the table of a profile: relative energies in kcal/mol."""
    from phl_ase.paths.end_points import fragments

    columns = [profile.relative(name) for name in ("energy", "energy with ZPE", "enthalpy", "gibbs energy")]
    rows = []
    for place, point in enumerate(profile.points):
        analysis = point.frequencies.analysis
        imaginary = ", ".join(f"{abs(value):.0f}i" for value in analysis.wavenumbers[: analysis.n_imaginary])
        numbers = ["-" if isnan(column[place]) else f"{column[place]:z.2f}" for column in columns]
        rows.append((point.name, *numbers, imaginary or "none", "" if place == 1 else str(fragments(point.atoms))))
    return rows


def shown_profile(profile: ReactionProfile, temperature: float) -> str:
    """Return the table of a profile and what happens in it."""
    broken, made = profile.reaction.broken, profile.reaction.made
    change = f"breaks {', '.join(broken) or 'no bond'}, makes {', '.join(made) or 'no bond'}"
    head = f"kcal/mol above the reactant; H and G at {temperature:g} K"
    return f"{text_table(HEADINGS, rows_of(profile))}\n{head}; {change}"


def drawn(profile: ReactionProfile, temperature: float) -> Profile:
    """Return what the figure shows."""
    import numpy as np

    from phl_ase.plots.profile import Profile
    from phl_ase.units import convert

    path = profile.reaction.path
    above = [float(convert(e - profile.points[0].frequencies.energy, "eV", "kcal/mol")) for e in path.energies]
    return Profile(
        arc_length=np.array(path.arc_length),
        energies=np.array(above),
        names=[point.name for point in profile.points],
        levels=profile.relative("energy"),
        gibbs=profile.relative("gibbs energy"),
        temperature=temperature,
    )


def html_page(name: str, profile: ReactionProfile, method: str, temperature: float, notes: list[str]) -> str:
    """Return the HTML page: table, profile, path and imaginary mode; notes stand above them."""
    import numpy as np

    from phl_ase import __version__
    from phl_ase.plots.pages import Movie, reaction_page
    from phl_ase.plots.profile import draw
    from phl_ase.plots.style import rendered
    from phl_ase.vibrations import mode_trajectory

    structures = profile.reaction.path.structures
    content = drawn(profile, temperature)
    every = np.unique(np.linspace(0, len(structures) - 1, _MOVIE_FRAMES).astype(int))
    there = [(structures[i], f"{content.energies[i]:z.1f} kcal/mol") for i in every]
    there += there[::-1]
    analysis = profile.points[1].frequencies.analysis
    mode = mode_trajectory(analysis, 0, amplitude=0.35)
    wavenumber = f"{abs(analysis.wavenumbers[0]):.0f}i cm⁻¹"
    broken, made = profile.reaction.broken, profile.reaction.made
    changed = {int(number) for bond in (*broken, *made) for number in re.findall(r"\d+", bond)}
    return reaction_page(
        f"{name}: {profile.points[0].atoms.get_chemical_formula()}",
        lines=[
            f"Computed with {method}. Breaks {', '.join(broken) or 'no bond'}; makes {', '.join(made) or 'no bond'}"
            + (" (atoms are numbered from 0)." if changed else "."),
            f"Energies in kcal/mol above the reactant; H and G at {temperature:g} K.",
            *(f"{note.strip()[:1].upper()}{note.strip()[1:]}" for note in notes),
        ],
        headings=HEADINGS,
        rows=rows_of(profile),
        figures=[("Energy profile", rendered(draw, content, "svg"))],
        movies=[
            Movie("The path, there and back", [one for one, _ in there], [label for _, label in there], changed),
            Movie(f"The imaginary mode, {wavenumber}", mode, [wavenumber] * len(mode), changed),
        ],
        footer=f"phl_ase {__version__}",
    )
