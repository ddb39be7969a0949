"""``phl train``: a configuration and data become a model."""

from __future__ import annotations

import json
import math
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli.inputs import check_inputs
from phl_ase.cli.output import table
from phl_ase.errors import PHLError

if TYPE_CHECKING:
    from phl_ase.training import CommitteeResult, TrainConfig, TrainResult

_DEFAULT_CONFIG = Path("train.toml")


def train(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG.toml]", help="Configuration; with --resume, by default the run's own."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Where the run keeps model, checkpoint and logs."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in FOLDER, to the same result.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Override the configuration: --set training.epochs=50 --set scheme.name=E-F-H. Repeat as needed.",
        ),
    ] = None,
    members: Annotated[
        int | None,
        typer.Option(
            "--members",
            metavar="N",
            min=2,
            help="Train a committee of N models that states its uncertainty, calibrated on the validation part.",
        ),
    ] = None,
    init: Annotated[
        bool, typer.Option("--init", help="Write a commented CONFIG (train.toml unless named), train nothing.")
    ] = False,
) -> None:
    """Train a potential on energies, forces and curvature.

    phl train --init                              writes train.toml, every key with its default, unit and meaning
    phl train train.toml --out run                trains; leaves run/best.safetensors, log.csv, log.jsonl
    phl train --resume --out run                  goes on after Ctrl-C, SIGTERM or a crash, to the same result
    phl train train.toml -o run2 --set data.source=mine.extxyz --set scheme.name=E-F
    phl train train.toml -o run3 --members 4      leaves run3/committee.safetensors, and each run in run3/member-1, …
    """
    if init:
        typer.echo(f"wrote {_write_default(config or _DEFAULT_CONFIG)}")
        return
    if out is None:
        raise PHLError("no output folder: add --out FOLDER, where the run keeps its model and logs")
    configuration = _configuration(config, out, resume, settings or [])
    check_inputs(
        methods=[configuration.potential.start], files=[configuration.data.source, configuration.replay.source]
    )
    from phl_ase.training import prepare_data, recorded_members, train_committee
    from phl_ase.training import train as run
    from phl_ase.training.processes import is_first_process

    if resume and members is None:
        members = recorded_members(out)
    with warnings.catch_warnings():
        warnings.showwarning = _say  # what is not as asked for is one line, as errors are
        data = prepare_data(configuration)
        if members is not None:
            said = partial(typer.echo, err=True)
            typer.echo(_committee(train_committee(configuration, data, out, members, resume=resume, said=said)))
            return
        result = run(configuration, data, out, resume=resume)
    if is_first_process():
        typer.echo(_summary(result))


def _committee(result: CommitteeResult) -> str:
    """What each member was watched with, and what the spread of the committee means."""
    rows = [(f"member {k}", one.best_epoch, len(one.records), one.best_loss) for k, one in enumerate(result.members, 1)]
    known = result.calibration
    return (
        f"{table(('member', 'epoch kept', 'of', 'validation loss'), rows)}\n"
        f"calibrated on {known.frames} frames that no member has seen: errors to expect are the members' standard "
        f"deviation × {known.energy:.3g} of energies, × {known.forces:.3g} of forces\nmodel: {result.model}"
    )


def _say(message: Warning | str, *_: Any, **__: Any) -> None:
    typer.echo(f"note: {message}", err=True)


def _configuration(config: Path | None, out: Path, resume: bool, settings: list[str]) -> TrainConfig:
    from phl_ase.training import parse_config, read_config

    if config is not None:
        return read_config(config, settings)
    if not resume:
        raise PHLError("no configuration: name one; 'phl train --init' writes a commented one")
    if settings:
        raise PHLError("--set needs a configuration file; a run is resumed with the settings it was started with")
    recorded = out / "config.json"
    try:
        values: Any = json.loads(recorded.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PHLError(f"{out} holds no run to resume; start one with a configuration and without --resume") from None
    except (OSError, ValueError, RecursionError) as error:
        raise PHLError(f"{recorded} cannot be read ({error}); name the configuration of the run") from None
    return parse_config(values if isinstance(values, dict) else {"config.json": values}, str(recorded))


def _write_default(path: Path) -> Path:
    from phl_ase.training import default_toml

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(default_toml())
    except FileExistsError:
        raise PHLError(f"{path} exists; name another file: phl train --init other.toml") from None
    except OSError as error:
        raise PHLError(f"cannot write {path}: {error.strerror}; name another file") from None
    return path


def _summary(result: TrainResult) -> str:
    """The validation of what was kept in words and numbers."""
    from phl_ase.objective import TERMS

    best = next(r for r in result.records if r["epoch"] == result.best_epoch)
    rows = [
        (name, best.get(f"train_{name}"), best[f"valid_{name}"], term.unit)
        for name, term in TERMS.items()
        if f"valid_{name}" in best
    ]
    shown = table(("root mean square error", "train", "valid", "unit"), rows)
    kept = f"epoch kept: {result.best_epoch} of {len(result.records)}{_how_close(best, result.records[-1])}"
    return f"{shown}\n{kept}\nmodel: {result.model}"


def _how_close(best: dict[str, Any], last: dict[str, Any]) -> str:
    """How much worse the last epoch was, where it is not the one that was kept: often a single frame decides."""
    if best is last or not math.isfinite(last.get("valid_loss", math.nan)):
        return ""
    low, high = best["valid_loss"], last["valid_loss"]
    more = f", {high / low - 1.0:.1%} more" if low > 0 else ""
    return f' (validation loss {low:.4g}; {high:.4g} in the last one{more}: training.keep = "last" would keep that)'
