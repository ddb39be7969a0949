"""``phl learn``: a reaction at a reference's accuracy for a fraction of its gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.options import option
from phl_ase.cli.tasks.common import Output, check_electrons, check_pair, output_of, read_one, thermochemistry_of
from phl_ase.cli.tasks.reaction import annotated, drawn, shown_profile
from phl_ase.errors import PHLError
from phl_ase.tables import counted, text_table

if TYPE_CHECKING:
    from phl_ase.learning import LearnedReaction

Reference = Annotated[
    str, option("--with METHOD", "The reference: pyscf (wB97X-D/6-31G(d)), pyscf:FUNCTIONAL/BASIS, tblite, a model, …")
]
From = Annotated[
    str, option("--from MODEL|METHOD", "What is corrected: auto (GFN-xTB), none, default, mace:FILE, tblite, …")
]
FMax = Annotated[float, option("--fmax eV/Å", "Largest force of the reference at TS and ends.")]
Budget = Annotated[int | None, option("--budget N", "Most reference gradients.", min=1)]
TSOnly = Annotated[bool, option("--ts-only", "End with the verified TS, without path and ends.")]
HVPs = Annotated[int | None, option("--hvp K", "HVPs along random probes at the TS; 0 to learn E and F alone.", min=0)]
Labels = Annotated[
    str, option("--labels KIND", "What random probes buy with two gradients each: hvp, or gradients to compare.")
]
PathError = Annotated[float, option("--path-error eV/Å", "Largest rms error of the forces on the path.")]
Model = Annotated[
    bool, option("--model", "Train a model of this reaction for PHLCalculator too: PREFIX_model.safetensors.")
]
Workers = Annotated[int, option("--workers N", "Reference gradients at the same time.", min=1)]
Scheduler = Annotated[
    str | None, option("--scheduler ADDRESS", "Reference on a dask.distributed cluster: tcp://HOST:PORT.")
]


def learn(
    structure: opt.Structure,
    method: Reference,
    start: From = "auto",
    product: opt.Product = None,
    out: opt.Prefix = None,
    ts_only: TSOnly = False,
    fmax: FMax = 0.02,
    budget: Budget = None,
    hvp: HVPs = None,
    labels: Labels = "hvp",
    path_error: PathError = 0.1,
    model: Model = False,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    temperature: opt.Temperature = 298.15,
    pressure: opt.Pressure = 1.0,
    thermo: opt.Thermo = "ideal gas",
    charge: opt.Charge = None,
    multiplicity: opt.Multiplicity = None,
    settings: opt.Settings = None,
    json: opt.ResultsFile = None,
    device: opt.Device = "auto",
    trust: opt.Trust = False,
) -> None:
    """Find a reaction at a reference's accuracy with few of its gradients: a model is taught while it searches.

    INPUT is a guess of a TS; with --product it is the reactant. The reference itself confirms TS, ends and path.
    Stopped or killed, the same command goes on where it was; no gradient is computed twice.

    phl learn guess_ts.xyz --with pyscf

    phl learn reactant.xyz --product product.xyz --with pyscf:pbe0/def2-svp --budget 100 --workers 4
    """
    output = output_of("learn", out, json, method, settings, trust, structure, product)
    settled = thermochemistry_of(temperature, pressure, thermo)
    atoms = read_one(structure, charge, multiplicity)
    end = None if product is None else read_one(product, charge, multiplicity)
    if len(atoms) < 2:
        raise PHLError(f"{structure} holds a single atom; a reaction needs at least 2")
    if atoms.pbc.any():
        raise PHLError(f"{structure} is periodic; 'phl learn' is for molecules")
    if atoms.constraints:
        raise PHLError(f"{structure} holds atoms in place; 'phl learn' moves all: remove the constraints")
    check_electrons(atoms, atoms.info["charge"], atoms.info["multiplicity"])
    if end is not None:
        check_pair(atoms, end)
    from phl_ase.cli.labelling import label_method
    from phl_ase.jobs import cluster, open_store, processes, serial
    from phl_ase.learning import LabelStore, LearnedCalculator, LearnOptions, learn_reaction, make_start
    from phl_ase.reference import difference_step

    reference = label_method(method, output.settings, device, trust)
    calculator = LearnedCalculator(make_start(start, method, atoms, device=device, trust=trust))
    chosen: dict[str, Any] = {"fmax": fmax, "ts_only": ts_only, "path_error": path_error, "labels": labels}
    if hvp is not None:
        chosen |= {"hvp": hvp, "end_hvp": (hvp + 1) // 2}
    options = LearnOptions(**chosen)
    executor = cluster(scheduler) if scheduler else processes(workers) if workers > 1 else serial
    work = output.path(".work")
    with open_store(work) as kept:
        store = LabelStore(
            kept,
            atoms,
            reference.make,
            {"method": method, **reference.settings},
            step=difference_step(method),
            budget=budget,
            executor=executor,
        )
        if len(store):
            typer.echo(f"going on with {counted(len(store), 'reference gradient')} from {work}", err=True)
        try:
            found = learn_reaction(
                atoms, end, store, calculator, options, say=lambda line: typer.echo(line, err=True), **settled
            )
        except KeyboardInterrupt:
            kept_now = counted(len(store), "reference gradient")
            typer.echo(f"kept in {work}: {kept_now}; the same command goes on", err=True)
            raise
    typer.echo(shown(found, temperature))
    output.results(record_of(found, start), start=start)
    write_files(output, found, temperature, structure.stem, reference.make)
    if model and found.reaction is not None:
        from phl_ase.learning.model import train_model
        from phl_ase.reference import level_of_theory

        typer.echo("training a model on the labels and on the surrogate around the path", err=True)
        target = output.path("_model.safetensors")
        output.written.append(train_model(found, target, level_of_theory(reference.make()), start=model_start(start)))
    points = output.path("_points.xyz")
    output.end(output.command("freq", points) if points in output.written else "")
    if not found.verified:
        raise typer.Exit(1)


def model_start(start: str) -> str | None:
    """Return the model of ours that a run started from, of a committee its first member; ``None`` for anything else."""
    from phl_ase.learning.starts import AUTO, NOTHING
    from phl_ase.potentials.cards import find_model, members_of, read_card
    from phl_ase.resolver import CALCULATORS

    if start in (AUTO, NOTHING) or start.partition(":")[0] in CALCULATORS:
        return None
    if find_model(start)[1] is None and members_of(read_card(start)) is not None:
        return f"{start}#1"
    return start


def shown(found: LearnedReaction, temperature: float) -> str:
    """Return what was found as a table, and how it was confirmed."""
    from phl_ase.learning import LEARNING_OUTCOMES

    lines = []
    if found.profile is not None:
        lines.append(shown_profile(found.profile, temperature))
        price = 6 * len(found.store.atoms)
        lines.append(
            "E is the reference's; ZPE, H and G come from the model's frequencies: for the reference's own, 'phl freq' "
            f"takes up to {counted(price, 'gradient')} a structure"
        )
    points = [("transition state", found.ts), *zip(("reactant", "product"), found.ends, strict=False)]
    rows = [
        (
            name,
            f"{point.label.energy:.6f}",
            f"{point.label.fmax:.4f}",
            ", ".join(f"{value:.3f}" for value in point.curvatures),
            f"{point.analysis.wavenumbers[0]:.0f}".replace("-", "")
            + ("i" if point.analysis.wavenumbers[0] < 0 else ""),
            "yes" if point.verified else "no",
        )
        for name, point in points
        if point is not None
    ]
    headings = (
        "by the reference",
        "E / eV",
        "largest F / (eV/Å)",
        "softest curvatures / (eV/Å²)",
        "model's lowest mode / cm⁻¹",
        "verified",
    )
    if rows:
        lines.append(text_table(headings, rows))
    if found.path_labels:
        count = len(found.path_labels)
        sure = f"standard deviation of its energies up to {found.path_std().max():.3f} eV"
        lines.append(
            f"path: forces within {found.path_error:.3f} eV/Å of the reference's ({counted(count, 'point')}); {sure}"
        )
    lines.append(
        f"{found.outcome}: {LEARNING_OUTCOMES[found.outcome]}" + (f" ({found.reason})" if found.reason else "")
    )
    if found.connection is not None and found.connection.sentence not in found.reason:
        lines.append(found.connection.sentence)
    hvps = len(found.store.hvps)
    lines.append(
        f"{counted(len(found.store), 'reference gradient')}, {2 * hvps} of them in "
        f"{counted(hvps, 'HVP')}, {found.store.seconds:.1f} s; "
        f"{found.seconds:.1f} s outside the reference"
    )
    return "\n".join(lines)


def record_of(found: LearnedReaction, start: str) -> dict[str, Any]:
    """Return the numbers for JSON, units in the names."""
    from phl_ase.units import convert

    def barrier(place: int) -> float | None:
        if found.ts is None or len(found.ends) <= place:
            return None
        return float(convert(found.ts.label.energy - found.ends[place].label.energy, "eV", "kcal/mol"))

    def point(one: Any) -> dict[str, Any] | None:
        if one is None:
            return None
        return {
            "verified": one.verified,
            "energy_eV": one.label.energy,
            "fmax": one.label.fmax,
            "curvatures_eV_per_A2": one.curvatures,
            "imaginary_modes": one.analysis.n_imaginary,
            "imaginary_wavenumber": abs(one.analysis.wavenumbers[0]) if one.analysis.n_imaginary else None,
            "wavenumbers_cm-1": one.analysis.wavenumbers,
            "symbols": one.atoms.get_chemical_symbols(),
            "positions_A": one.atoms.positions,
        }

    forces = [one.label.fmax for one in (found.ts, *found.ends) if one is not None]
    return {
        "start": start,
        "outcome": found.outcome,
        "reasons": [found.reason] if found.reason else [],
        "verified": found.verified,
        "reference_gradients": len(found.store),
        "reference_hvps": len(found.store.hvps),
        "seconds_reference": found.store.seconds,
        "seconds_outside_reference": found.seconds,
        "rounds": len(found.steps),
        "fmax": max(forces) if forces else None,
        "ts": point(found.ts),
        "reactant": point(found.ends[0]) if found.ends else None,
        "product": point(found.ends[1]) if len(found.ends) > 1 else None,
        "barriers": {"forward_kcal_per_mol": barrier(0), "back_kcal_per_mol": barrier(1)},
        "connection": None if found.connection is None else found.connection.outcome,
        "path_error_eV_per_A": found.path_error,
        "path_energy_std_eV": found.path_std(),
        "steps": [vars(step) for step in found.steps],
        "profile": None if found.profile is None else found.profile.to_dict(),
    }


def write_files(output: Output, found: LearnedReaction, temperature: float, name: str, make: Any) -> None:
    """Write structures, figures and labels."""
    from phl_ase.learning.dataset import write_labels
    from phl_ase.plots.learning import Convergence, LearntPath, draw_convergence, draw_path
    from phl_ase.reference import energy_reference, level_of_theory
    from phl_ase.results import provenance
    from phl_ase.units import convert

    if found.reaction is not None:
        images = annotated(found.reaction)
        for image, std in zip(images, found.path_std(), strict=True):
            image.info["path_energy_std"] = float(std)
        output.structures(".xyz", images)
    points = []
    for kind, point in (("ts", found.ts), *zip(("reactant", "product"), found.ends, strict=False)):
        if point is not None:
            copy = point.atoms.copy()
            copy.info.update(kind=kind, reference_energy=point.label.energy, verified=point.verified)
            points.append(copy)
    if points:
        output.structures("_points.xyz", points)
    if found.profile is not None:
        std = convert(found.path_std(), "eV", "kcal/mol")
        output.figure(draw_path, LearntPath(drawn(found.profile, temperature), std, found.asked_on_path()))
    if found.steps:
        steps = [(step.stage, step.gradients, step.fmax) for step in found.steps]
        convergence = Convergence(steps, found.options.fmax, found.options.path_error)
        output.figure(draw_convergence, convergence, "_convergence.pdf")
    calculator = make()
    labels = write_labels(
        output.path("_labels.h5"),
        found.store,
        level_of_theory(calculator),
        energy_reference(calculator),
        provenance(command="phl learn"),
        name,
    )
    if labels is not None:
        output.written.append(labels)
