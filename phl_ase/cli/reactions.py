"""``phl reactions``: guesses of transition states become a data set of reactions."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.error_handling import nothing_is_lost
from phl_ase.cli.inputs import check_inputs
from phl_ase.cli.labelling import label_method, label_request
from phl_ase.cli.options import argument, option
from phl_ase.cli.output import check_target, save_json
from phl_ase.errors import PHLError
from phl_ase.tables import counted, text_table

if TYPE_CHECKING:
    from phl_ase.cli.validate.inputs import Structure
    from phl_ase.reactions import BuildResult, ReactionGuess

Input = Annotated[str, argument("INPUT", "Guesses of TSs, info['reaction'] their names: anything ase.io reads.")]
Pairs = Annotated[bool, option("--pairs", "INPUT holds reactant, product, reactant, product, …")]
Product = Annotated[Path | None, option("--product FILE", "INPUT holds reactants, this file their products.")]
Guess = Annotated[
    str | None, option("--guess METHOD", "The path between two ends: auto (by default), geodesic, idpp, neb.")
]
Strategies = Annotated[
    list[str] | None,
    option(
        "--strategy NAME",
        "How Sella is run, as hessian-3 or gradients:cartesian; repeat for what is tried next. By "
        "default the method's curvature decides.",
    ),
]
IrcPoints = Annotated[int, option("--irc-points N", "Points kept on each side of the TS.")]
Temperatures = Annotated[str, option("--temperatures K,K,…", "Of the normal-mode samples.", show_default=True)]
Displacements = Annotated[str, option("--displacements Å,Å,…", "Of structures around the TS, moved in all directions.")]
Count = Annotated[int, option("--samples N", "Around each stationary point at each temperature; 0 for none.")]
SampleSeed = Annotated[int, option("--sample-seed", "Of the samples.")]
ProbeSeed = Annotated[int | None, option("--seed", "Of the probes; 0 by default.")]
Retry = Annotated[bool, option("--retry", "Try stages again that failed before.")]


def reactions(
    structures: Input,
    method: opt.With,
    out: opt.NewDataset,
    pairs: Pairs = False,
    product: Product = None,
    guess: Guess = None,
    strategies: Strategies = None,
    irc_points: IrcPoints = 6,
    temperatures: Temperatures = "300,600,900,1200,1600,2000",
    displacements: Displacements = "",
    samples: Count = 1,
    sample_seed: SampleSeed = 0,
    key: opt.Keys = None,
    settings: opt.Settings = None,
    hessian: opt.HessianKind = None,
    hvp: opt.HVPs = None,
    family: opt.Family = None,
    seed: ProbeSeed = None,
    step: opt.Step = None,
    estimate_error: opt.EstimateError = 0,
    workers: opt.Workers = 1,
    time_limit: opt.TimeLimit = None,
    retry: Retry = False,
    work: opt.Work = None,
    json: opt.JsonFile = None,
    device: opt.Device = "auto",
    trust: opt.Trust = False,
) -> None:
    """Build a data set of reactions: TS, path, minima, points between, normal-mode samples, labels of all.

    Every reaction has a folder in the work folder: log.txt says what was done, labels.jsonl holds each gradient.
    Stopped or killed, the same command goes on where it was. Other label options in the same work folder label the same
    structures anew, other settings of samples draw these anew; the rest needs another work folder. Reactions that fail
    are listed here and in the data set, and make the exit code 1. --estimate-error counts frames of each reaction.

    phl reactions guesses.xyz --with pyscf --hessian differences --workers 4 -o reactions.h5

    phl reactions reactant.xyz --product product.xyz --with tblite --hvp 1 --samples 2 -o one.h5
    """
    check_target(out, "data set")
    check_target(json, "JSON file")
    if pairs and product is not None:
        raise PHLError("got both --pairs and --product; expected the products in one place")
    if guess is not None and not pairs and product is None:
        raise PHLError(f"--guess {guess} is a path between two structures: give --pairs or --product FILE")
    check_inputs(methods=[method], files=[structures, product], trust=trust)
    from phl_ase.reactions import ReactionSettings, build_reactions, read_strategy

    request = label_request(
        method, hessian=hessian, hvp=hvp, family=family, seed=seed, step=step, estimate_error=estimate_error
    )
    how = ReactionSettings(
        strategies=tuple(read_strategy(strategy) for strategy in strategies or ()),
        guess=guess or "auto",
        irc_points=irc_points,
        temperatures=_numbers("--temperatures", temperatures, "K, for example 300,600,1200"),
        displacements=_numbers("--displacements", displacements, "Å, for example 0.05,0.1,0.2"),
        samples=samples,
        seed=sample_seed,
    )
    guesses = _guesses(structures, pairs=pairs, product=product, keys=opt.pairs(key))
    labels_by = label_method(method, settings or [], device, trust)
    folder = work or out.with_name(f"{out.name}.work")
    options: dict[str, Any] = {
        "workers": workers,
        "time_limit": time_limit,
        "retry": retry,
        "work": folder,
        "source": structures,
    }
    with nothing_is_lost(folder):
        result = build_reactions(guesses, labels_by, out, settings=how, request=request, **options)
    paths = {"path": None if result.path is None else str(result.path), "work": str(result.work)}
    save_json(json, {**vars(result), **paths})
    typer.echo(_shown(result))
    if result.path is None or not all(reaction.is_finished for reaction in result.reactions):
        raise typer.Exit(1)


def _numbers(option: str, text: str, expected: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise PHLError(f"{option} is {text!r}; expected numbers in {expected}") from None


def _guesses(text: str, *, pairs: bool, product: Path | None, keys: dict[str, str]) -> list[ReactionGuess]:
    """Return the reactions of INPUT: a frame each (a guess), two frames each, or one here and one in another file."""
    from phl_ase.cli.validate.inputs import read_structures
    from phl_ase.reactions import ReactionGuess

    groups: list[tuple[Structure, ...]]
    if pairs:
        ends = read_structures(text, ("reactant", "product"), None, keys)
        if len(ends) % 2:
            raise PHLError(f"{text} holds {len(ends)} structures; expected pairs: reactant, product, …")
        groups = [*zip(ends[::2], ends[1::2], strict=True)]
        for one, other in groups:
            kinds = (one.kind or "reactant", other.kind or "product")
            if kinds != ("reactant", "product") or one.labels.reaction != other.labels.reaction:
                raise PHLError(f"{text}: got {one.name}, then {other.name}; expected a reactant, then its product")
    elif product is not None:
        first = read_structures(text, ("reactant",), None, keys)
        second = read_structures(str(product), ("product",), None, keys)
        if len(first) != len(second):
            raise PHLError(f"{text} holds {len(first)} structures, {product} {len(second)}; expected one for one")
        groups = [*zip(first, second, strict=True)]
    else:
        groups = [(one,) for one in read_structures(text, ("ts",), None, keys)]
    guesses = []
    for place, group in enumerate(groups):
        name = Path(text).stem if len(groups) == 1 else f"{Path(text).stem}-{place}"
        described = str(group[0].atoms.info.get("description", ""))
        guesses.append(ReactionGuess(group[0].labels.reaction or name, tuple(one.atoms for one in group), described))
    return guesses


def _shown(result: BuildResult) -> str:
    from phl_ase.reactions import BUILD_OUTCOMES

    headings = ("reaction", "outcome", "atoms", "imaginary / cm⁻¹", "barrier → / (kcal/mol)", "← / (kcal/mol)")
    rows = []
    for reaction in result.reactions:
        barriers = [None if value is None else f"{value:.1f}" for value in reaction.barriers_kcal]
        imaginary = None if reaction.imaginary is None else f"{-reaction.imaginary:.0f}i"
        counts = (reaction.frames, reaction.gradients, reaction.hessians)
        rows.append((reaction.name, reaction.outcome, reaction.atoms, imaginary, *barriers, *counts))
    lines = [text_table((*headings, "frames", "gradients", "Hessians"), rows, words=2), ""]
    failed = [reaction for reaction in result.reactions if not reaction.is_finished]
    lines += [f"{one.name}: {one.outcome}: {one.sentence or BUILD_OUTCOMES[one.outcome]}" for one in failed]
    done = len(result.reactions) - len(failed)
    lines.append(f"{done} of {len(result.reactions)} reactions finished, {result.level_of_theory}")
    lines.append(f"logs and calculations: {result.work}")
    if result.path is None:
        lines.append("no data set was written: no frames")
    else:
        lines.append(f"data set: {result.path}, {counted(result.frames, 'frame')}")
        lines.append(f"next:    {shlex.join(['phl', 'train', str(result.path), '-o', f'runs/{result.path.stem}'])}")
    if failed:
        lines.append("the same command with --retry tries again what failed")
    return "\n".join(lines)
