"""``phl validate irc``: reaction paths of a model from its own transition states, against a reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.inputs import check_inputs
from phl_ase.cli.output import check_outputs, save_plot
from phl_ase.cli.seen import say_seen
from phl_ase.cli.validate.inputs import Structure, is_data_set, level_of_theory, read_reactions, read_structures
from phl_ase.cli.validate.running import Task, make_folder, run_tasks, scored, trajectory_file
from phl_ase.cli.validate.tables import MetricColumn, report_table, what_paths_do
from phl_ase.errors import unknown

if TYPE_CHECKING:
    from ase import Atoms

    from phl_ase.curvature import Curvature
    from phl_ase.results import Report
    from phl_ase.validators import ReferencePath

_COLUMNS = (
    MetricColumn("profile RMSE", "profile RMSE / (kcal/mol)", 2),
    MetricColumn("largest deviation", "deviation / Å", 3),
    MetricColumn("barrier forward", "barrier forward / (kcal/mol)", 1, reference=True, averaged=False),
    MetricColumn("barrier forward error", "error", 2),
    MetricColumn("barrier back", "barrier back / (kcal/mol)", 1, reference=True, averaged=False),
    MetricColumn("barrier back error", "error", 2),
    MetricColumn("first step overlap", "first step overlap", 4, averaged=False),
    MetricColumn("force calls", "gradients", 0),
    MetricColumn("Hessian calls", "Hessians", 0),
)

Made = tuple["Atoms", "ReferencePath | None"]
"""A structure near the TS, and the path to compare with; ``None`` for no comparison."""


def irc(
    model: opt.Model,
    structures: opt.Input,
    reference: opt.Reference = None,
    reactions: opt.Reactions = None,
    key: opt.Keys = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            help="Integrator: sella (gradients) or quadratic (Hessians). Where it fails, the other is tried.",
        ),
    ] = "sella",
    step: Annotated[float, typer.Option("--step", metavar="LENGTH", help="Length of a step, √amu·Å.")] = 0.1,
    trajectories: opt.Trajectories = None,
    json: opt.JsonFile = None,
    plot: opt.PlotFile = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "float64",
    trust: opt.Trust = False,
) -> None:
    """Follow reaction paths both ways, relax their ends, and compare with a reference.

    The model's own TS is searched near each TS of INPUT first. The reference is the path that INPUT holds (kind irc,
    with reactant and product), or that of --reference METHOD from near the same TS. Energies are compared over arc
    length, laid over one another at the TS. Structures without --reference are followed alone: barriers, and the bonds
    that break and form.

    phl validate irc default reactions-wb97xd-631gd --plot paths.png

    phl validate irc run/best.safetensors ts.xyz --reference tblite --trajectories paths
    """
    check_outputs(json, plot)
    check_inputs(methods=[model, reference], files=[structures], trust=trust)
    make_folder(trajectories, "trajectories")
    from phl_ase.curvature import curvature_of
    from phl_ase.paths.irc import INTEGRATORS
    from phl_ase.resolver import resolve_calculator

    if method not in INTEGRATORS:
        raise unknown("integrator of reaction paths", method, INTEGRATORS)
    calculator = resolve_calculator(model, device=device, dtype=dtype, trust=trust)
    curvature = curvature_of(calculator)
    near = read_structures(structures, ("ts",), reactions, opt.pairs(key))
    if reference is not None:
        level = reference
        made = _of_method(near, resolve_calculator(reference, device=device, trust=trust))
    elif is_data_set(structures):
        level, made = level_of_theory(structures), _labelled(structures, reactions)
    else:
        level, made = "none", _guesses(near)
    say_seen(calculator, [one.labels for one in near], model)
    options = {"method": method, "step": step, "details": {"reference": level}}

    def task(name: str, make: Callable[[], Made]) -> Task:
        report = partial(_report, name, make, calculator, curvature, model, trajectories, options)
        return name, partial(scored, name, model, "irc", report)

    tasks = [task(name, make) for name, make in made.items()]
    reports = run_tasks("irc", tasks, json)
    expected = "converged" if level == "none" else "connects"
    lines = [f"{model}, reference: {level}", "", report_table(reports, _COLUMNS, expected)]
    typer.echo("\n".join([*lines, *(what_paths_do(reports, expected) if level == "none" else [])]))
    save_plot(plot, "irc", reports)


def _labelled(source: str, names: list[str] | None) -> dict[str, Callable[[], Made]]:
    """The paths of a data set."""
    from phl_ase.structures import atoms_from_frame
    from phl_ase.study.references import labelled_path

    def make(frames: Any) -> Made:
        return atoms_from_frame(frames.transition_state), labelled_path(frames)

    return {name: partial(make, frames) for name, frames in read_reactions(source, names).items()}


def _guesses(structures: Sequence[Structure]) -> dict[str, Callable[[], Made]]:
    """The TSs of a file, without paths to compare with."""

    def make(guess: Atoms) -> Made:
        return guess, None

    return {one.name: partial(make, one.atoms) for one in structures}


def _of_method(structures: Sequence[Structure], method: Any) -> dict[str, Callable[[], Made]]:
    """The paths of a method from near the TSs of an input."""
    from phl_ase.study.references import own_reaction

    def make(name: str, guess: Atoms) -> Made:
        own = own_reaction(name, guess, method)
        return own.ts.atoms, own.path

    found = {one.labels.reaction or one.name: one.atoms for one in structures}
    return {name: partial(make, name, guess) for name, guess in found.items()}


def _report(
    name: str,
    make: Callable[[], Made],
    calculator: Any,
    curvature: Curvature,
    model: str,
    trajectories: Path | None,
    options: dict[str, Any],
) -> Report:
    """Return the report of one path; where the model has no TS, a report that says so."""
    from phl_ase.results import Report, provenance
    from phl_ase.study.references import tight_transition_state
    from phl_ase.validators import validate_irc

    guess, path = make()
    ts = tight_transition_state(guess, calculator, curvature.hessian)
    if not ts.converged:
        sentence = f"the model has no TS near the reference's: {ts.sentence}"
        return Report(name, model, "no TS", sentence, provenance=provenance(), validator="irc")
    return validate_irc(
        ts.atoms,
        calculator,
        curvature.hessian,
        path,
        system=name,
        potential=model,
        trajectory=trajectory_file(trajectories, name),
        **options,
    )
