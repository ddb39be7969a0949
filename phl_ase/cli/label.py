"""``phl label``: structures become a data set with the labels of a reference method."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli.options import Device, Trust
from phl_ase.cli.output import check_target, save_json, table
from phl_ase.cli.validate.running import terminated_as_interrupted
from phl_ase.errors import PHLError

if TYPE_CHECKING:
    from phl_ase.reference import LabelMethod, LabelRequest, LabelResult

_SHOWN = 20

Input = Annotated[
    str, typer.Argument(metavar="INPUT", help="A bundled data set, our HDF5, or structures that ase.io reads.")
]
With = Annotated[
    str,
    typer.Option(
        "--with",
        metavar="METHOD",
        help="pyscf (wB97X-D/6-31G(d)), pyscf:FUNCTIONAL/BASIS, tblite, emt, a model, ase:package.module:factory.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DATASET", help="The data set to write, .h5.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Setting of the method. pyscf: cartesian=yes|no, grid_level=4…9, threads, max_memory (MB); tblite: "
        "accuracy, electronic_temperature (K), max_iterations. Repeat as needed.",
    ),
]
HessianKind = Annotated[
    str | None,
    typer.Option("--hessian", metavar="HOW", help="Hessians too: own (the method's) or differences (6n gradients)."),
]
Products = Annotated[
    int | None, typer.Option("--hvp", metavar="K", help="Products H·v along K probes a frame: 2K gradients.")
]
Family = Annotated[
    str | None, typer.Option("--probes", metavar="FAMILY", help="rademacher by default; onehot, gaussian, ….")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Of the probes; 0 by default.")]
Step = Annotated[
    float | None, typer.Option("--step", metavar="Å", help="Displacement in differences; 0.002 Å by default.")
]
EstimateError = Annotated[
    int, typer.Option("--estimate-error", metavar="N", help="Repeat the products of N frames with twice the step.")
]
Workers = Annotated[int, typer.Option("--workers", metavar="N", help="Processes of one thread each.")]
Scheduler = Annotated[
    str | None,
    typer.Option("--scheduler", metavar="ADDRESS", help="Label on a dask.distributed cluster: tcp://HOST:PORT."),
]
KeepGoing = Annotated[bool, typer.Option("--keep-going/--stop", help="After a frame that fails: go on, or stop.")]
Retry = Annotated[bool, typer.Option("--retry", help="Try frames again that failed before.")]
Work = Annotated[
    Path | None, typer.Option("--work", metavar="FOLDER", help="Work in progress; DATASET.work by default.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write what was done as JSON.")]


def label(
    structures: Input,
    method: With,
    out: Out,
    settings: Settings = None,
    hessian: HessianKind = None,
    hvp: Products = None,
    family: Family = None,
    seed: Seed = None,
    step: Step = None,
    estimate_error: EstimateError = 0,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    keep_going: KeepGoing = True,
    retry: Retry = False,
    work: Work = None,
    json: JsonFile = None,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Label structures with energy, forces and curvature of a reference method.

    Stopped or killed, the same command goes on where it was. Frames that fail are listed here and in the data set, and
    make the exit code 1.

    phl label molecules.xyz --with pyscf --hvp 1 --workers 4 -o mine.h5

    phl label molecules.xyz --with tblite --hessian differences -o cheap.h5

    phl label frames.xyz --with pyscf:pbe0/def2-svp --set grid_level=5 --scheduler tcp://127.0.0.1:8786 -o big.h5
    """
    check_target(out, "data set")
    check_target(json, "JSON file")
    from phl_ase.datasets import open_dataset
    from phl_ase.reference import label_dataset

    request = _request(hessian, hvp, family, seed, step, estimate_error)
    how: dict[str, Any] = {"workers": workers, "scheduler": scheduler, "keep_going": keep_going, "retry": retry}
    labels_by = _method(method, settings or [], device, trust)
    with open_dataset(structures) as frames, terminated_as_interrupted():
        try:
            result = label_dataset(frames, labels_by, out, request=request, work=work, **how)
        except KeyboardInterrupt:
            typer.echo("finished frames are kept: the same command goes on from them", err=True)
            raise
    written = None if result.path is None else str(result.path)
    kept = None if result.work is None else str(result.work)
    save_json(json, {**vars(result), "path": written, "work": kept})
    typer.echo(_shown(result))
    if result.path is None or result.failures:
        raise typer.Exit(1)


def _request(
    hessian: str | None, hvp: int | None, family: str | None, seed: int | None, step: float | None, estimate_error: int
) -> LabelRequest:
    from phl_ase.reference import LabelRequest, Probes

    asked = {"family": family, "seed": seed}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if hvp is None and (given or estimate_error):
        raise PHLError("--probes, --seed and --estimate-error are about products: add --hvp K")
    chosen: dict[str, Any] = {} if step is None else {"step": step}
    if hvp is not None:
        chosen["probes"] = Probes(count=hvp, **given)
    return LabelRequest(hessian=hessian, estimate_error=estimate_error, **chosen)


def _method(text: str, settings: Sequence[str], device: str, trust: bool) -> LabelMethod:
    """What makes the calculator, as workers receive it, and what its labels depend on."""
    from phl_ase.reference import METHODS, LabelMethod, make_method
    from phl_ase.resolver import resolve_calculator

    chosen: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals and value):
            raise PHLError(f"got --set {setting!r}; expected KEY=VALUE, for example grid_level=5")
        chosen[key] = value
    if chosen:
        if text.partition(":")[0] not in METHODS:
            raise PHLError(f"--set is for {', '.join(sorted(METHODS))}; {text!r} takes no settings")
        return LabelMethod(functools.partial(make_method, text, chosen), text, chosen)
    make = functools.partial(resolve_calculator, text, device=device, trust=trust)
    return LabelMethod(make, text, _content(Path(text)))


def _content(path: Path) -> dict[str, str]:
    """Of a model in a file: labels depend on what is in it, not on its name."""
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} if path.is_file() else {}


def _shown(result: LabelResult) -> str:
    counts = f"{result.labelled} of {result.frames} frames labelled by {result.level_of_theory}"
    lines = [f"{counts}, {len(result.failures)} failed; {result.computed} in this run"]
    if result.path is not None:
        lines.append(f"{result.gradients} gradient calls, {result.seconds:.1f} s of computing")
    if result.product_error is not None:
        where = f"{len(result.error_frames)} frames"
        lines.append(f"products: rms error of an element about {result.product_error:.2g} eV/Å² ({where})")
    if result.failures:
        rows = [(index, failure.outcome, failure.reason) for index, failure in result.failures.items()]
        lines += ["", table(("frame", "failure", "reason"), rows[:_SHOWN], words=3), ""]
        if len(rows) > _SHOWN:
            lines.append(f"… and {len(rows) - _SHOWN} more, in the data set and in {result.work}")
    if result.path is None:
        why = (
            "stopped at a failure" if result.labelled + len(result.failures) < result.frames else "no frame has labels"
        )
        lines.append(f"no data set was written: {why}; finished work is in {result.work}")
    else:
        lines.append(f"data set: {result.path}")
        if result.work is not None:
            lines.append(f"the same command with --retry tries the failed frames again, from {result.work}")
    return "\n".join(lines)
