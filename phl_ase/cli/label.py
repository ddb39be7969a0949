"""``phl label``: structures become a data set with the labels of a reference method."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.error_handling import nothing_is_lost
from phl_ase.cli.inputs import check_inputs
from phl_ase.cli.labelling import label_method, label_request
from phl_ase.cli.options import argument, option
from phl_ase.cli.output import check_target, save_json
from phl_ase.tables import counted, text_table

if TYPE_CHECKING:
    from phl_ase.reference import LabelResult

_SHOWN = 20

Input = Annotated[str, argument("INPUT", "A bundled data set, our HDF5, or structures that ase.io reads.")]
Scheduler = Annotated[
    str | None, option("--scheduler ADDRESS", "Label on a dask.distributed cluster: tcp://HOST:PORT.")
]
KeepGoing = Annotated[bool, option("--keep-going/--stop", "After a frame that fails: go on, or stop.")]
Retry = Annotated[bool, option("--retry", "Try frames again that failed before.")]


def label(
    structures: Input,
    method: opt.With,
    out: opt.NewDataset,
    settings: opt.Settings = None,
    hessian: opt.HessianKind = None,
    hvp: opt.HVPs = None,
    family: opt.Family = None,
    seed: opt.ProbeSeed = None,
    step: opt.Step = None,
    estimate_error: opt.EstimateError = 0,
    workers: opt.Workers = 1,
    time_limit: opt.TimeLimit = None,
    scheduler: Scheduler = None,
    keep_going: KeepGoing = True,
    retry: Retry = False,
    work: opt.Work = None,
    key: opt.Keys = None,
    json: opt.JsonFile = None,
    device: opt.Device = "auto",
    trust: opt.Trust = False,
) -> None:
    """Label structures with energy, forces, stress and curvature of a reference method.

    Periodic frames get a stress where the method has one. Stopped or killed, the same command goes on where it was.
    Frames that fail are listed here and in the data set, and make the exit code 1.

    phl label molecules.xyz --with pyscf --hvp 1 --workers 4 -o mine.h5

    phl label molecules.xyz --with tblite --hessian differences -o cheap.h5

    phl label frames.xyz --with pyscf:pbe0/def2-svp --set grid_level=5 --scheduler tcp://127.0.0.1:8786 -o big.h5
    """
    check_target(out, "data set")
    check_target(json, "JSON file")
    check_inputs(methods=[method], files=[structures], trust=trust)
    from phl_ase.datasets import open_dataset
    from phl_ase.reference import label_dataset

    request = label_request(
        method, hessian=hessian, hvp=hvp, family=family, seed=seed, step=step, estimate_error=estimate_error
    )
    how: dict[str, Any] = {
        "workers": workers,
        "time_limit": time_limit,
        "scheduler": scheduler,
        "keep_going": keep_going,
        "retry": retry,
    }
    labels_by = label_method(method, settings or [], device, trust)
    folder = work or out.with_name(f"{out.name}.work")
    with open_dataset(structures, keys=opt.pairs(key)) as frames, nothing_is_lost(folder):
        result = label_dataset(frames, labels_by, out, request=request, work=folder, **how)
    written = None if result.path is None else str(result.path)
    kept = None if result.work is None else str(result.work)
    save_json(json, {**vars(result), "path": written, "work": kept})
    typer.echo(_shown(result))
    if result.path is None or result.failures:
        raise typer.Exit(1)


def _shown(result: LabelResult) -> str:
    counts = f"{result.labelled} of {result.frames} frames labelled by {result.level_of_theory}"
    lines = [f"{counts}, {len(result.failures)} failed; {result.computed} in this run"]
    if result.path is not None:
        lines.append(f"{counted(result.gradients, 'gradient call')}, {result.seconds:.1f} s of computing")
    if result.stresses:
        lines.append(f"stress: {counted(result.stresses, 'periodic frame')}")
    if result.hvp_error is not None:
        where = counted(len(result.error_frames), "frame")
        lines.append(f"HVPs: rms error of an element about {result.hvp_error:.2g} eV/Å² ({where})")
    if result.failures:
        rows = [(index, failure.outcome, failure.reason) for index, failure in result.failures.items()]
        lines += ["", text_table(("frame", "failure", "reason"), rows[:_SHOWN], words=3), ""]
        if len(rows) > _SHOWN:
            lines.append(f"… and {len(rows) - _SHOWN} more, in the data set and in {result.work}")
    if result.path is None:
        why = (
            "stopped at a failure" if result.labelled + len(result.failures) < result.frames else "no frame has labels"
        )
        lines.append(f"no data set was written: {why}; finished work is in {result.work}")
    else:
        lines.append(f"data set: {result.path}")
        lines.append(f"next:    {shlex.join(['phl', 'train', str(result.path), '-o', f'runs/{result.path.stem}'])}")
        if result.work is not None:
            lines.append(f"the same command with --retry tries the failed frames again, from {result.work}")
    return "\n".join(lines)
