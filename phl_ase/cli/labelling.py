"""What ``phl label`` and ``phl reactions`` are told alike: a method, the labels wanted of it, where the work goes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.errors import PHLError

if TYPE_CHECKING:
    from phl_ase.reference import LabelMethod, LabelRequest

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
HVPs = Annotated[
    int | None, typer.Option("--hvp", metavar="K", help="HVPs (H·v) along K probes a frame: 2K gradients.")
]
Family = Annotated[
    str | None, typer.Option("--probes", metavar="FAMILY", help="rademacher by default; onehot, gaussian, ….")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Of the probes; 0 by default.")]
Step = Annotated[
    float | None,
    typer.Option("--step", metavar="Å", help="Displacement in differences; by default 0.002 Å, of tblite 0.0005."),
]
EstimateError = Annotated[
    int, typer.Option("--estimate-error", metavar="N", help="Repeat the HVPs of N frames with twice the step.")
]
Workers = Annotated[int, typer.Option("--workers", metavar="N", help="Processes of one thread each.")]
TimeLimit = Annotated[
    float | None,
    typer.Option("--time-limit", metavar="SECONDS", min=0.0, help="What takes longer has failed; in worker processes."),
]
Work = Annotated[
    Path | None, typer.Option("--work", metavar="FOLDER", help="Work in progress; DATASET.work by default.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write what was done as JSON.")]


def label_request(
    method: str,
    *,
    hessian: str | None,
    hvp: int | None,
    family: str | None,
    seed: int | None,
    step: float | None,
    estimate_error: int,
) -> LabelRequest:
    """The labels that options ask for, with the step of the method where none is given.

    Raises:
        PHLError: For options of HVPs without any, and what the request itself refuses.
    """
    from phl_ase.reference import LabelRequest, Probes, difference_step

    asked = {"family": family, "seed": seed}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if hvp is None and (given or estimate_error):
        raise PHLError("--probes, --seed and --estimate-error are about HVPs: add --hvp K")
    chosen: dict[str, Any] = {"step": difference_step(method) if step is None else step}
    if hvp is not None:
        chosen["probes"] = Probes(count=hvp, **given)
    return LabelRequest(hessian=hessian, estimate_error=estimate_error, **chosen)


def label_method(text: str, settings: Sequence[str], device: str, trust: bool) -> LabelMethod:
    """What makes the calculator, as workers receive it, and what its labels depend on.

    Raises:
        PHLError: For a setting that cannot be read, or that the method does not take.
    """
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
