"""``phl validate irc``: reaction paths of a model from its own transition states, against a reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.inputs import check_inputs
from phl_ase.cli.options import option
from phl_ase.cli.output import check_outputs, save_plot
from phl_ase.cli.seen import say_seen
from phl_ase.cli.validate.inputs import is_data_set, level_of_theory, read_reactions, read_structures
from phl_ase.cli.validate.running import Task, make_folder, run_tasks, scored, trajectory_file
from phl_ase.cli.validate.tables import MetricColumn, report_table, what_paths_do
from phl_ase.errors import unknown
from phl_ase.validators.names import MetricName

if TYPE_CHECKING:
    from ase import Atoms

    from phl_ase.results import Report
    from phl_ase.validators import ReferencePath

_COLUMNS = (
    MetricColumn(MetricName.PROFILE_RMSE, "profile RMSE / (kcal/mol)", 2),
    MetricColumn(MetricName.LARGEST_DEVIATION, "deviation / Å", 3),
    MetricColumn(MetricName.BARRIER_FORWARD, "barrier forward / (kcal/mol)", 1, reference=True, averaged=False),
    MetricColumn(MetricName.BARRIER_FORWARD_ERROR, "error", 2),
    MetricColumn(MetricName.BARRIER_BACK, "barrier back / (kcal/mol)", 1, reference=True, averaged=False),
    MetricColumn(MetricName.BARRIER_BACK_ERROR, "error", 2),
    MetricColumn(MetricName.FIRST_STEP_OVERLAP, "first step overlap", 4, averaged=False),
    MetricColumn(MetricName.FORCE_CALLS, "gradients", 0),
    MetricColumn(MetricName.HESSIAN_CALLS, "Hessians", 0),
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
        option(
            "--method NAME",
            "Integrator: sella (gradients) or quadratic (Hessians). Where it fails, the other is tried.",
        ),
    ] = "sella",
    step: Annotated[float, option("--step LENGTH", "Length of a step, √amu·Å.")] = 0.1,
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
    from phl_ase.results import Report, provenance
    from phl_ase.structures import atoms_from_frame
    from phl_ase.study.references import labelled_path, own_reaction, tight_transition_state
    from phl_ase.validators import validate_irc

    if method not in INTEGRATORS:
        raise unknown("integrator of reaction paths", method, INTEGRATORS)
    calculator = resolve_calculator(model, device=device, dtype=dtype, trust=trust)
    curvature = curvature_of(calculator)
    near = read_structures(structures, ("ts",), reactions, opt.pairs(key))
    other: Any = None if reference is None else resolve_calculator(reference, device=device, trust=trust)

    def of_method(name: str, guess: Atoms) -> Made:
        own = own_reaction(name, guess, other)
        return own.ts.atoms, own.path

    def labelled(frames: Any) -> Made:
        return atoms_from_frame(frames.transition_state), labelled_path(frames)

    made: dict[str, Callable[[], Made]]
    if other is not None:
        level = str(reference)
        named = {one.labels.reaction or one.name: one.atoms for one in near}
        made = {name: partial(of_method, name, guess) for name, guess in named.items()}
    elif is_data_set(structures):
        level = level_of_theory(structures)
        made = {name: partial(labelled, frames) for name, frames in read_reactions(structures, reactions).items()}
    else:
        level, made = "none", {one.name: partial(lambda guess: (guess, None), one.atoms) for one in near}
    say_seen(calculator, [one.labels for one in near], model)

    def followed(name: str, make: Callable[[], Made]) -> Report:
        guess, path = make()
        ts = tight_transition_state(guess, calculator, curvature.hessian)
        if not ts.converged:
            sentence = f"the model has no TS near the reference's: {ts.sentence}"
            return Report(name, model, "no TS", sentence, provenance=provenance(), validator="irc")
        said: dict[str, Any] = {"system": name, "potential": model, "details": {"reference": level}}
        how: dict[str, Any] = {"method": method, "step": step, "trajectory": trajectory_file(trajectories, name)}
        return validate_irc(ts.atoms, calculator, curvature.hessian, path, **said, **how)

    tasks: list[Task] = [
        (name, partial(scored, name, model, "irc", partial(followed, name, make))) for name, make in made.items()
    ]
    reports = run_tasks("irc", tasks, json)
    expected = "converged" if level == "none" else "connects"
    lines = [f"{model}, reference: {level}", "", report_table(reports, _COLUMNS, expected)]
    typer.echo("\n".join([*lines, *(what_paths_do(reports, expected) if level == "none" else [])]))
    save_plot(plot, "irc", reports)
