"""``phl validate ts``: transition-state searches with Sella, and how far each gets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.inputs import check_inputs
from phl_ase.cli.options import option
from phl_ase.cli.output import check_outputs, check_target, save_plot, write_structures
from phl_ase.cli.seen import say_seen
from phl_ase.cli.validate.inputs import is_data_set, level_of_theory, read_structures
from phl_ase.cli.validate.running import Task, make_folder, run_tasks, scored, trajectory_file
from phl_ase.cli.validate.searches import Search, between, guesses, labelled, of_method
from phl_ase.cli.validate.tables import MetricColumn, report_table, what_paths_do
from phl_ase.errors import PHLError, unknown
from phl_ase.tables import text_table
from phl_ase.validators.names import MetricName

if TYPE_CHECKING:
    from ase import Atoms

    from phl_ase.results import Report

_COLUMNS = (
    MetricColumn(MetricName.RMSD_TO_TS, "RMSD / Å", 3),
    MetricColumn(
        MetricName.IMAGINARY_WAVENUMBER, "imaginary / cm⁻¹", 0, reference=True, averaged=False, imaginary=True
    ),
    MetricColumn(
        MetricName.BARRIER_FROM_REACTANT, "barrier from reactant / (kcal/mol)", 1, reference=True, averaged=False
    ),
    MetricColumn(
        MetricName.BARRIER_FROM_PRODUCT, "barrier from product / (kcal/mol)", 1, reference=True, averaged=False
    ),
    MetricColumn(MetricName.BARRIER_FROM_END_1, "barrier from end 1 / (kcal/mol)", 1, averaged=False),
    MetricColumn(MetricName.BARRIER_FROM_END_2, "barrier from end 2 / (kcal/mol)", 1, averaged=False),
    MetricColumn(MetricName.STEPS, "steps", 0),
    MetricColumn(MetricName.FORCE_CALLS, "gradients", 0),
    MetricColumn(MetricName.HVP_CALLS, "HVPs", 0),
    MetricColumn(MetricName.HESSIAN_CALLS, "Hessians", 0),
    MetricColumn(MetricName.SECONDS, "time / s", 2),
)

_FEW = 12  # reports that are shown one by one


def ts(
    model: opt.Model,
    structures: opt.Input,
    product: Annotated[
        Path | None, option("--product FILE", "INPUT is the reactant, this the product: guess the TS between.")
    ] = None,
    guess: Annotated[
        str | None,
        option(
            "--guess METHOD",
            "Path between INPUT and --product whose highest image is the guess: auto (by default), "
            "geodesic, idpp, or neb (the best of them, climbed with an elastic band).",
        ),
    ] = None,
    reference: opt.Reference = None,
    reactions: opt.Reactions = None,
    key: opt.Keys = None,
    strategies: Annotated[
        list[str] | None,
        option("--strategy NAME", "How Sella is run; repeat to compare, or 'all'; docs/validation.md lists them."),
    ] = None,
    displacement: Annotated[
        list[float] | None, option("--displacement Å", "RMS displacement of starts from the TS; repeat as needed.")
    ] = None,
    starts: Annotated[int, option("", "Number of starts for each TS and displacement.", min=1)] = 3,
    seed: Annotated[int, option("", "Of the displacements.", min=0)] = 0,
    follow: Annotated[
        bool, option("--path/--no-path", "Follow the IRC from each TS found, to see what it connects.")
    ] = True,
    max_steps: Annotated[int, option("", "Most steps of a search.", min=1)] = 200,
    write: Annotated[Path | None, option("--write FILE", "Write what was found (.extxyz).")] = None,
    trajectories: opt.Trajectories = None,
    json: opt.JsonFile = None,
    plot: opt.PlotFile = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "float64",
    trust: opt.Trust = False,
) -> None:
    """Search transition states with Sella, follow their reaction paths, and compare with a reference.

    Starts are displaced from the TSs of INPUT, 0.1 Å by default; what should be found are its TS and end points, or
    with --reference METHOD those of that method near there (the model's own name: its own surface). A structure alone
    is a guess: it is searched from as it is. Between INPUT and --product, Sella strategies are tried in turn until one
    finds a TS that joins them, as in phl reactions; --strategy takes one. The columns of the funnel count the searches
    that passed each stage and all before it.

    phl validate ts default reactions-wb97xd-631gd --reference default --strategy gradients --strategy hvp

    phl validate ts tblite reactant.xyz --product product.xyz --write ts.extxyz
    """
    if guess is not None and product is None:
        raise PHLError(f"--guess {guess} is a path between two structures: give the reactant and --product FILE")
    check_outputs(json, plot)
    check_inputs(methods=[model, reference], files=[structures, product], trust=trust)
    check_target(write, "structures")
    make_folder(trajectories, "trajectories")
    from phl_ase.curvature import curvature_of
    from phl_ase.paths import LADDERS, RECOMMENDED, STRATEGIES, search_in_turn
    from phl_ase.resolver import resolve_calculator
    from phl_ase.validators import validate_transition_state

    for strategy in strategies or ():
        if strategy not in {*STRATEGIES, "all"}:
            raise unknown("Sella strategy", strategy, [*STRATEGIES, "all"])
    calculator = resolve_calculator(model, device=device, dtype=dtype, trust=trust)
    source = curvature_of(calculator).source
    chosen = [*STRATEGIES] if "all" in (strategies or ()) else [*dict.fromkeys(strategies or [RECOMMENDED[source]])]
    displacements = [(rms, seed + k) for rms in displacement or (0.1,) for k in range(starts)]
    level = "none"
    near = [] if product is not None else read_structures(structures, ("ts",), reactions, opt.pairs(key))
    if product is not None:
        searches, level = [between(structures, product, guess or "auto", calculator)], "the structures given"
    elif reference is not None:
        method = resolve_calculator(reference, device=device, trust=trust)
        searches, level = of_method(near, method, displacements), reference
    elif is_data_set(structures):
        searches, level = labelled(structures, reactions, displacements), level_of_theory(structures)
    else:
        searches = guesses(near)
    if near:
        say_seen(calculator, [one.labels for one in near], model)
    shared: dict[str, Any] = {"potential": model, "follow": follow, "max_steps": max_steps}

    def searched(search: Search, place: int, strategy: str, internal: bool | None = None) -> Report:
        known, places = search.made
        said, start = places[place]
        kept = trajectory_file(trajectories, search.name, place, strategy)
        details = {"start": said, "reference": level, "dtype": dtype}
        how: dict[str, Any] = {"strategy": strategy, "internal": internal, "trajectory": kept, "details": details}
        return validate_transition_state(start, calculator, known, **shared, **how)

    def in_turn(search: Search) -> Report:
        """Try strategies in turn until one joins the ends; else return the first that found a TS, or the first."""

        def missed(report: Report) -> int:
            return 0 if report.outcome == "found" else 2 - int(report.metric("first order").value)

        return search_in_turn(LADDERS[source], partial(searched, search, 0), missed)[0]

    tasks: list[Task] = []
    for search in searches:
        if product is not None and not strategies:
            tasks.append((search.name, partial(in_turn, search)))
            continue
        for place, way in itertools.product(range(search.count), chosen):
            make = partial(searched, search, place, way)
            task = partial(scored, search.name, model, "transition state", make, strategy=way)
            tasks.append((f"{search.name}, {way}", task))
    reports = run_tasks("ts", tasks, json)
    lines = [f"{model}, reference: {level}", ""]
    lines.append(report_table(reports, _COLUMNS, "found", ("strategy",)) if len(reports) <= _FEW else _funnel(reports))
    if len(reports) <= _FEW and (product is not None or level == "none"):
        lines += what_paths_do(reports, "found")
    typer.echo("\n".join(lines))
    if write is not None:
        write_structures(write, _ends(searches, reports))
    save_plot(plot, "transition state", reports)


def _funnel(reports: Sequence[Report]) -> str:
    """Return the funnel of each strategy, and what went wrong."""
    from phl_ase.validators import funnels

    groups = funnels(reports)
    stages = list(dict.fromkeys(stage for group in groups for stage in group.passed))
    headings = ["strategy", "starts", *stages, "barrier error / (kcal/mol)", "steps", "gradients", "HVPs", "Hessians"]
    rows = [
        [group.strategy, group.starts, *(group.passed.get(stage) for stage in stages), f"{group.barrier_error:.2f}"]
        + [f"{group.counts[name]:.1f}" for name in ("steps", "force calls", "HVP calls", "Hessian calls")]
        + [f"{group.counts['seconds']:.2f}"]
        for group in groups
    ]
    failed = dict.fromkeys(
        f"{r.system}, {r.provenance['strategy']}, {r.provenance.get('start', 'no start')}: {r.sentence}"
        for r in reports
        if r.outcome != "found"
    )
    return "\n".join([text_table([*headings, "time / s"], rows), "calls and times are means of a search", *failed])


def _ends(searches: Sequence[Search], reports: Sequence[Report]) -> list[Atoms]:
    """Return the structures that searches ended at."""
    by_name = {search.name: search for search in searches}
    images = []
    for report in reports:
        if "positions" in report.arrays:
            atoms = by_name[report.system].made[1][0][1].copy()
            atoms.positions = report.arrays["positions"]
            strategy = report.provenance["strategy"]
            atoms.info |= {"reaction": report.system, "outcome": report.outcome, "strategy": strategy}
            images.append(atoms)
    return images
