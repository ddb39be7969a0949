"""``phl sample``: structures around given ones, to be labelled or looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli.inputs import check_inputs
from phl_ase.cli.labelling import Settings, With, label_method
from phl_ase.cli.options import Device, Trust
from phl_ase.cli.output import check_target, table
from phl_ase.cli.stopping import terminated_as_interrupted
from phl_ase.errors import PHLError

if TYPE_CHECKING:
    from ase import Atoms

    from phl_ase.cli.validate.inputs import Structure

Input = Annotated[str, typer.Argument(metavar="STRUCTURES", help="Structures that ase.io reads, or a data set.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The samples, .xyz or .extxyz.")]
How = Annotated[str, typer.Option("--how", metavar="SAMPLER", help="normal-mode, md, mode-scan or displaced.")]
Relax = Annotated[bool, typer.Option("--relax", help="Relax each structure to its minimum first.")]
Temperature = Annotated[
    list[float] | None, typer.Option("--temperature", metavar="K", help="300 K by default; repeat for several.")
]
Displacement = Annotated[
    list[float] | None, typer.Option("--displacement", metavar="Å", help="displaced: 0.1 Å rms; repeat for several.")
]
Count = Annotated[
    int | None,
    typer.Option("--count", metavar="N", help="Frames of each structure, at each temperature or displacement."),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Of the random numbers; 0 by default.")]
Softest = Annotated[
    float | None,
    typer.Option("--softest", metavar="cm⁻¹", help="normal-mode: softer modes are taken for this stiff; 250."),
]
TimeStep = Annotated[float | None, typer.Option("--time-step", metavar="fs", help="md: 0.5 fs.")]
Friction = Annotated[float | None, typer.Option("--friction", metavar="1/fs", help="md, Langevin: 0.01/fs.")]
Interval = Annotated[int | None, typer.Option("--interval", metavar="STEPS", help="md: from frame to frame; 200.")]
Equilibration = Annotated[
    int | None, typer.Option("--equilibration", metavar="STEPS", help="md: before the first frame; 1000.")
]
Mode = Annotated[int | None, typer.Option("--mode", metavar="N", help="mode-scan: which, from 0, the lowest.")]
Amplitude = Annotated[
    float | None, typer.Option("--amplitude", metavar="Å", help="mode-scan: of the atom that moves most; 0.3.")
]


def sample(
    structures: Input,
    method: With,
    out: Out,
    how: How = "normal-mode",
    relax: Relax = False,
    temperature: Temperature = None,
    count: Count = None,
    seed: Seed = None,
    softest: Softest = None,
    time_step: TimeStep = None,
    friction: Friction = None,
    interval: Interval = None,
    equilibration: Equilibration = None,
    mode: Mode = None,
    amplitude: Amplitude = None,
    displacement: Displacement = None,
    settings: Settings = None,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Sample structures: harmonic at a temperature, molecular dynamics, along a mode, or displaced at random.

    normal-mode and mode-scan start from stationary points (a TS is one): --relax makes a minimum of each structure
    first. The samples carry no labels; phl label makes them.

    phl sample water.xyz --with tblite --relax --temperature 300 --temperature 1000 --count 50 -o hot.xyz

    phl sample ts.xyz --with default --how mode-scan --mode 0 --amplitude 0.4 -o scan.xyz

    phl sample ts.xyz --with default --how displaced --displacement 0.1 --displacement 0.2 --count 4 -o around.xyz
    """
    check_target(out, "samples")
    if out.exists():
        raise PHLError(f"{out} exists; choose another name, or delete it")
    if out.suffix.lower() not in (".xyz", ".extxyz"):
        raise PHLError(f"cannot write {out}: expected a name ending in .xyz or .extxyz")
    check_inputs(methods=[method], files=[structures], trust=trust)
    from phl_ase.cli.validate.inputs import read_structures
    from phl_ase.progress import Progress

    given = {"count": count, "seed": seed, "softest": softest, "time_step": time_step, "friction": friction}
    given |= {"interval": interval, "equilibration": equilibration, "mode": mode, "amplitude": amplitude}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    runs = [chosen]
    for name, values in (("temperature", temperature), ("displacement", displacement)):
        runs = [{**run, name: value} for run in runs for value in values] if values else runs
    sources = read_structures(structures, None, None)
    calculator = label_method(method, settings or [], device, trust).make()
    frames: list[Atoms] = []
    rows, said = [], []
    with Progress("sample", len(sources) * len(runs)) as progress, terminated_as_interrupted(), _writing(out, frames):
        for place, source in enumerate(sources):
            for number, options in enumerate(runs, start=place * len(runs)):
                progress.note(source.name)
                drawn, refused = _drawn(source, calculator, how, options, number, relax=relax)
                frames += drawn
                rows.append((source.name, *map(options.get, ("temperature", "displacement")), len(drawn), len(refused)))
                said += [f"{source.name}: {reason}" for reason in refused]
                progress.advance()
    typer.echo(table(("structure", "T / K", "Δ / Å", "frames", "drawn again or lost"), rows))
    typer.echo("\n".join([*said, f"{len(frames)} frames: {out}" if frames else "no frames, nothing was written"]))
    if not all(row[3] for row in rows):
        raise typer.Exit(1)


def _drawn(
    source: Structure, calculator: Any, how: str, options: dict[str, Any], number: int, *, relax: bool
) -> tuple[list[Atoms], list[str]]:
    """The samples of one structure, and what could not be taken."""
    from phl_ase.paths import relax as relaxed
    from phl_ase.reactions import SAMPLERS, sample

    atoms = source.atoms.copy()
    if source.labels.reaction:
        atoms.info["reaction"] = source.labels.reaction
    atoms.calc = calculator
    if relax:
        found = relaxed(atoms, 1e-3)
        if not found.converged:
            return [], [f"could not be relaxed: {found.sentence}"]
        atoms = found.atoms
    # every structure, at every temperature, its own random numbers
    if "seed" in (SAMPLERS[how].settings if how in SAMPLERS else ()):
        options = {**options, "seed": options.get("seed", 0) + number}
    try:
        drawn = sample(atoms, how, **options)
    except PHLError as error:
        raise PHLError(f"{source.name}: {error}") from None
    return list(drawn.frames), list(drawn.refused)


@contextmanager
def _writing(path: Path, frames: list[Atoms]) -> Iterator[None]:
    """Write the frames that there are when the block ends or is stopped."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"{len(frames)} frames were finished{f': {path}' if frames else ''}", err=True)
        _write(path, frames)
        raise
    _write(path, frames)


def _write(path: Path, frames: list[Atoms]) -> None:
    import ase.io

    from phl_ase.files import replacing

    if not frames:
        return
    with replacing(path) as temporary:
        ase.io.write(str(temporary), frames, format="extxyz")
