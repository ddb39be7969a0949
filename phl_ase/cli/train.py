"""``phl train``: a configuration and data become a model."""

from __future__ import annotations

import json
import math
import shlex
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.inputs import check_inputs
from phl_ase.cli.options import argument, option
from phl_ase.errors import PHLError
from phl_ase.tables import text_table

if TYPE_CHECKING:
    from phl_ase.training import CommitteeResult, TrainConfig, TrainResult

_DEFAULT_CONFIG = Path("train.toml")
_DATA = (".h5", ".hdf5", ".xyz", ".extxyz", ".db", ".traj")


def train(
    config: Annotated[
        Path | None,
        argument(
            "[CONFIG.toml|DATASET]",
            "Configuration, or data to train on with the defaults; with --resume, the run's folder.",
        ),
    ] = None,
    out: Annotated[Path | None, option("--out -o FOLDER", "Where the run keeps model, checkpoint and logs.")] = None,
    resume: Annotated[
        bool, option("--resume", "Continue a run, to the same result: phl train --resume FOLDER.")
    ] = False,
    start: Annotated[
        str | None,
        option("--from MODEL", "Go on from this model, for example organic, at a fifth of the default learning rate."),
    ] = None,
    settings: opt.Overrides = None,
    members: Annotated[
        int | None,
        option(
            "--members N",
            "Train a committee of N models that states its uncertainty, calibrated on the validation part.",
            min=2,
        ),
    ] = None,
    processes: Annotated[
        int, option("--processes N", "Members of a committee trained at once, one thread each.", min=1)
    ] = 1,
    init: Annotated[
        bool, option("--init", "Write a commented CONFIG (train.toml unless named), train nothing.")
    ] = False,
) -> None:
    """Train a potential on energies, forces and curvature.

    phl train mine.h5 --out run                   trains on these data with the defaults
    phl train --init                              writes train.toml, every key with its default, unit and meaning
    phl train train.toml --out run                trains; leaves run/best.safetensors, log.csv, log.jsonl
    phl train --resume run                        goes on after Ctrl-C, SIGTERM or a crash, to the same result
    phl train train.toml -o run2 --set data.source=mine.extxyz --set scheme.name=E-F
    phl train mine.h5 -o run --from organic       goes on from a trained model: a third of the frames do
    phl train train.toml -o run3 --members 4      leaves run3/committee.safetensors, and each run in run3/member-1, …
    """
    if init:
        from phl_ase.training import default_toml

        path = config or _DEFAULT_CONFIG
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(default_toml())
        except FileExistsError:
            raise PHLError(f"{path} exists; name another file: phl train --init other.toml") from None
        except OSError as error:
            raise PHLError(f"cannot write {path}: {error.strerror}; name another file") from None
        typer.echo(f"wrote {path}")
        return
    if resume and out is None and config is not None and config.suffix != ".toml":
        out, config = config, None
    if out is None:
        raise PHLError("no output folder: add --out FOLDER, where the run keeps its model and logs")
    own = [] if start is None else _from_model(start, single=members is None)
    configuration = _configuration(config, out, resume, [*own, *(settings or [])])
    check_inputs(
        methods=[configuration.potential.start], files=[configuration.data.source, configuration.replay.source]
    )
    from phl_ase.training import prepare_data, recorded_members, train_committee
    from phl_ase.training import train as run
    from phl_ase.training.processes import is_first_process

    if resume and members is None:
        members = recorded_members(out)
    if members is None and processes > 1:
        raise PHLError("--processes trains members of a committee: give --members N, or leave it out")
    with warnings.catch_warnings():
        warnings.showwarning = _say  # what is not as asked for is one line, as errors are
        data = prepare_data(configuration)
        if members is not None:
            said = partial(typer.echo, err=True)
            result = train_committee(configuration, data, out, members, resume=resume, processes=processes, said=said)
            typer.echo(_committee(result))
            return
        single = run(configuration, data, out, resume=resume)
    if is_first_process():
        typer.echo(_summary(single))


def _committee(result: CommitteeResult) -> str:
    """Return the table of a committee's members, and what their spread means."""
    rows = [(f"member {k}", one.best_epoch, len(one.records), one.best_loss) for k, one in enumerate(result.members, 1)]
    known = result.calibration
    return (
        f"{text_table(('member', 'epoch kept', 'of', 'validation loss'), rows)}\n"
        f"calibrated on {known.frames} frames that no member has seen: errors to expect are the members' standard "
        f"deviation × {known.energy:.3g} of energies, × {known.forces:.3g} of forces\n{_model(result.model)}"
    )


def _say(message: Warning | str, *_: Any, **__: Any) -> None:
    typer.echo(f"note: {message}", err=True)


def _configuration(config: Path | None, out: Path, resume: bool, settings: list[str]) -> TrainConfig:
    from phl_ase.training import parse_config, read_config

    if config is not None and config.is_file() and config.suffix.lower() in _DATA:
        return _of_data(config, settings)
    if config is not None:
        return read_config(config, settings)
    if not resume:
        raise PHLError("no configuration: name one ('phl train --init' writes it, commented) or a data set to train on")
    if settings:
        raise PHLError(
            "--set and --from need a configuration or data; a run is resumed with the settings it was started with"
        )
    recorded = out / "config.json"
    try:
        values: Any = json.loads(recorded.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PHLError(f"{out} holds no run to resume; start one with a configuration and without --resume") from None
    except (OSError, ValueError, RecursionError) as error:
        raise PHLError(f"{recorded} cannot be read ({error}); name the configuration of the run") from None
    return parse_config(values if isinstance(values, dict) else {"config.json": values}, str(recorded))


def _from_model(start: str, *, single: bool) -> list[str]:
    """Return the settings that start from a model: of a committee from its first member, where no committee is made."""
    from phl_ase.potentials.cards import find_model, members_of, read_card

    if single and ":" not in start and find_model(start)[1] is None and members_of(read_card(start)) is not None:
        start += "#1"
    return [f"potential.from={json.dumps(start)}", "training.learning_rate=1e-3"]


def _of_data(data: Path, settings: list[str]) -> TrainConfig:
    """Return the default configuration for a data set, with a scheme that learns from all of its labels."""
    from phl_ase.datasets import open_dataset
    from phl_ase.training import parse_config
    from phl_ase.training.config import apply_override

    values: dict[str, Any] = {"data": {"source": str(data)}}
    for setting in settings:
        apply_override(values, setting)
    with open_dataset(data, keys=parse_config(values, "--set").data.keys) as dataset:
        carried = [label for label, frames in dataset.coverage.items() if frames.any()]
        recorded = int(dataset.n_probes.max(initial=0))
    if not {"energy", "forces"} & set(carried):
        raise PHLError(
            f"{data} carries neither energies nor forces; 'phl label' makes them, or --set data.keys={{energy='KEY'}} "
            "names the keys that they are under ('phl data info' lists what a file holds)"
        )
    scheme: dict[str, Any] = {} if "hessian" in carried else {"name": "E-F"}
    if "hvp" in carried and "hessian" not in carried:
        scheme = {"regime": "fixed", "n_probes": recorded}
    values["scheme"] = {**scheme, **values.get("scheme", {})}
    configuration = parse_config(values, "--set")
    chosen = f"scheme {configuration.scheme.name}"
    if "HVP" in configuration.scheme.name:
        fixed = configuration.scheme.regime == "fixed"
        chosen += ", HVPs as recorded" if fixed else ", fresh HVPs of the Hessians in every step"
    _say(f"{data} carries {', '.join(carried)}: {chosen}; 'phl train --init' writes all settings")
    return configuration


def _summary(result: TrainResult) -> str:
    """Return the validation of what was kept in words and numbers."""
    from phl_ase.objective import TERMS

    best = next(r for r in result.records if r["epoch"] == result.best_epoch)
    rows = [
        (name, best.get(f"train_{name}"), best[f"valid_{name}"], term.unit)
        for name, term in TERMS.items()
        if f"valid_{name}" in best
    ]
    shown = text_table(("root mean square error", "train", "valid", "unit"), rows)
    kept, last = f"epoch kept: {result.best_epoch} of {len(result.records)}", result.records[-1]
    if best is not last and math.isfinite(last.get("valid_loss", math.nan)):  # often a single frame decides
        low, high = best["valid_loss"], last["valid_loss"]
        more = f", {high / low - 1.0:.1%} more" if low > 0 else ""
        kept += (
            f' (validation loss {low:.4g}; {high:.4g} in the last one{more}: training.keep = "last" would keep that)'
        )
    return f"{shown}\n{kept}\n{_model(result.model)}"


def _model(path: Path) -> str:
    """Return where a model is, and what to type next."""
    following = shlex.join(["phl", "freq", "MOLECULE.xyz", "--with", str(path), "--relax"])
    return f"model: {path}\nnext:    {following}"
