"""``phl validate frequencies``: harmonic vibrations of a model at the stationary points of a reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.inputs import check_inputs
from phl_ase.cli.options import option
from phl_ase.cli.output import check_outputs, save_plot
from phl_ase.cli.seen import say_seen
from phl_ase.cli.validate.inputs import Structure, level_of_theory, read_structures
from phl_ase.cli.validate.running import Task, run_tasks, scored
from phl_ase.cli.validate.tables import MetricColumn, report_table
from phl_ase.errors import PHLError
from phl_ase.validators.names import MetricName

if TYPE_CHECKING:
    from phl_ase.results import Report
    from phl_ase.types import ASECalculator
    from phl_ase.validators import ReferenceCurvature

_COLUMNS = (
    MetricColumn(MetricName.RMSD_TO_REFERENCE, "RMSD / Å", 3),
    MetricColumn(MetricName.FREQUENCY_MAE, "frequency MAE / cm⁻¹"),
    MetricColumn(MetricName.LARGEST_FREQUENCY_ERROR, "largest / cm⁻¹"),
    MetricColumn(
        MetricName.IMAGINARY_WAVENUMBER, "imaginary / cm⁻¹", 0, reference=True, averaged=False, imaginary=True
    ),
    MetricColumn(MetricName.MODE_OVERLAP, "mode overlap", 3),
    MetricColumn(MetricName.ZPE_ERROR, "ZPE error / meV"),
    MetricColumn(MetricName.G_CORRECTION_ERROR, "G error / (kcal/mol)", 3),
    MetricColumn(MetricName.HESSIAN_MAE, "Hessian MAE / (eV/Å²)", 3),
    MetricColumn(MetricName.PROJECTED_EIGENVALUE_MAE, "eigenvalue MAE / (eV/Å²)", 3),
    MetricColumn(MetricName.LOWEST_EIGENVALUE, "lowest / (eV/Å²)", 2, reference=True, averaged=False),
)

_KINDS = ("reactant", "product", "ts")


def frequencies(
    model: opt.Model,
    structures: opt.Input,
    reference: opt.Reference = None,
    reactions: opt.Reactions = None,
    key: opt.Keys = None,
    relaxed: Annotated[
        bool, option("--relaxed", "At the model's own stationary points too, searched from the reference's.")
    ] = False,
    kinds: Annotated[
        list[str] | None,
        option(
            "--kind NAME",
            "Kind of structure, where INPUT names them: reactant, product and ts by default; irc or "
            "others, where eigenvalues are compared instead. Repeat as needed.",
        ),
    ] = None,
    json: opt.JsonFile = None,
    plot: opt.PlotFile = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "float64",
    trust: opt.Trust = False,
) -> None:
    """Harmonic frequencies at reactants, products and transition states, against a reference.

    The reference is the Hessian of each structure that INPUT holds, or that of --reference METHOD, with which the
    structures are first relaxed (TSs searched with Sella). Translations and rotations are projected out.

    phl validate frequencies default reactions-wb97xd-631gd --plot spectra.png

    phl validate frequencies run/best.safetensors molecules.xyz --reference tblite --json frequencies.json
    """
    check_outputs(json, plot)
    check_inputs(methods=[model, reference], files=[structures], trust=trust)
    from phl_ase.resolver import resolve_calculator
    from phl_ase.validators import validate_frequencies, validate_relaxed_frequencies

    found = read_structures(structures, kinds or _KINDS, reactions, opt.pairs(key))
    calculator = resolve_calculator(model, device=device, dtype=dtype, trust=trust)
    known: Callable[[Structure], ReferenceCurvature]
    if reference is None:
        known, level = partial(_labelled, source=structures), level_of_theory(structures)
    else:
        other = resolve_calculator(reference, device=device, trust=trust)
        known, level = cache(partial(_computed, calculator=other)), reference
    flags = say_seen(calculator, [one.labels for one in found], model)
    ways: list[Callable[..., Any]] = [validate_frequencies, *([validate_relaxed_frequencies] if relaxed else [])]

    def report(one: Structure, flag: bool | None, validate: Callable[..., Any]) -> Report:
        facts = {"reference": level, "data": structures, "trained_on": flag}
        return validate(known(one), calculator, system=one.name, potential=model, details=facts)

    tasks: list[Task] = [
        (one.name, partial(scored, one.name, model, "frequencies", partial(report, one, flag, way)))
        for way in ways
        for one, flag in zip(found, flags, strict=True)
    ]
    reports = run_tasks("frequencies", tasks, json)
    typer.echo(f"{model} against {level}\n")
    for number, title in enumerate(("at the reference's structures", "at the model's own stationary points")):
        part = reports[number * len(found) : (number + 1) * len(found)]
        if part:
            typer.echo(f"{title}\n{report_table(part, _COLUMNS, 'agrees')}\n")
    save_plot(plot, "frequencies", reports)


def _labelled(one: Structure, source: str) -> ReferenceCurvature:
    """Return the reference from the Hessian that a file holds."""
    from phl_ase.validators import ReferenceCurvature

    if one.labels.hessian is None:
        raise PHLError(
            f"{one.name} of {source} has no Hessian to compare with; expected labels, or --reference METHOD "
            "(tblite, emt, another model) to compute them"
        )
    # what a file calls a stationary point or a point of a path is one; otherwise its forces say
    kind = "irc" if one.kind == "irc" else "stationary" if one.kind in _KINDS else None
    return ReferenceCurvature(one.atoms, one.labels.hessian, forces=one.labels.forces, kind=kind)


def _computed(one: Structure, calculator: ASECalculator) -> ReferenceCurvature:
    """Return the reference at the stationary point of a method, searched from a structure."""
    from phl_ase.curvature import curvature_of
    from phl_ase.paths import find_transition_state, relax
    from phl_ase.study.references import NoReference
    from phl_ase.validators import ReferenceCurvature
    from phl_ase.vibrations import harmonic_analysis

    hessian = curvature_of(calculator).hessian
    atoms = one.atoms.copy()
    atoms.calc = calculator
    is_saddle = one.kind == "ts" or (not one.kind and harmonic_analysis(atoms, hessian(atoms)).n_imaginary == 1)
    point: Any = find_transition_state(atoms, hessian, fmax=1e-3) if is_saddle else relax(atoms, fmax=1e-3)
    if not point.converged:
        raise NoReference(f"the reference has no stationary point near {one.name}: {point.sentence}")
    return ReferenceCurvature(point.atoms, hessian(point.atoms))
