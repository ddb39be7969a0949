"""``phl sample``: structures around given ones, to be labelled or looked at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.inputs import check_inputs
from phl_ase.cli.labelling import label_method
from phl_ase.cli.options import argument, option
from phl_ase.cli.output import check_target, write_structures
from phl_ase.errors import PHLError, unknown
from phl_ase.tables import counted, text_table

if TYPE_CHECKING:
    from ase import Atoms

Input = Annotated[str, argument("STRUCTURES", "Structures that ase.io reads, or a data set.")]
Out = Annotated[Path, option("--out -o FILE", "The samples, .xyz or .extxyz.")]
How = Annotated[str, option("--how SAMPLER", "normal-mode, md, mode-scan or displaced.")]
Relax = Annotated[bool, option("--relax", "Relax each structure to its minimum first.")]
Temperature = Annotated[list[float] | None, option("--temperature K", "300 K by default; repeat for several.")]
Displacement = Annotated[list[float] | None, option("--displacement Å", "displaced: 0.1 Å rms; repeat for several.")]
Count = Annotated[
    int | None, option("--count N", "Frames of each structure, each temperature, each displacement; 20 (mode-scan 11).")
]
Seed = Annotated[int | None, option("--seed", "Of the random numbers; 0 by default.", min=0)]
Softest = Annotated[float | None, option("--softest cm⁻¹", "normal-mode: softer modes are taken for this stiff; 250.")]
TimeStep = Annotated[float | None, option("--time-step fs", "md: 0.5 fs.")]
Friction = Annotated[float | None, option("--friction 1/fs", "md, Langevin: 0.01/fs.")]
Interval = Annotated[int | None, option("--interval STEPS", "md: from frame to frame; 200.")]
Equilibration = Annotated[int | None, option("--equilibration STEPS", "md: before the first frame; 1000.")]
Mode = Annotated[int | None, option("--mode N", "mode-scan: which, from 0, the lowest.")]
Amplitude = Annotated[float | None, option("--amplitude Å", "mode-scan: of the atom that moves most; 0.3.")]


def sample(
    structures: Input,
    method: opt.With,
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
    key: opt.Keys = None,
    settings: opt.Settings = None,
    device: opt.Device = "auto",
    trust: opt.Trust = False,
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
    from phl_ase.paths import relax as relaxed
    from phl_ase.progress import Progress
    from phl_ase.reactions import SAMPLERS
    from phl_ase.reactions import sample as draw

    given = {"count": count, "seed": seed, "softest": softest, "time_step": time_step, "friction": friction}
    given |= {"interval": interval, "equilibration": equilibration, "mode": mode, "amplitude": amplitude}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    runs = [chosen]
    for name, values in (("temperature", temperature), ("displacement", displacement)):
        runs = [{**run, name: value} for run in runs for value in values] if values else runs
    if how not in SAMPLERS:
        raise unknown("sampler", how, SAMPLERS)
    wanted = SAMPLERS[how].settings
    sources = read_structures(structures, None, None, opt.pairs(key))
    calculator = label_method(method, settings or [], device, trust).make()
    frames: list[Atoms] = []
    rows, said = [], []
    total = len(sources) * len(runs) * max(count or wanted["count"], 1)
    with Progress("sample", total) as progress:

        def taken(frame: Atoms) -> None:
            frames.append(frame)
            progress.advance(note=source.name)

        try:
            for place, source in enumerate(sources):
                atoms = source.atoms.copy()
                if source.labels.reaction:
                    atoms.info["reaction"] = source.labels.reaction
                atoms.calc = calculator
                failed = ""
                if relax:
                    progress.note(f"{source.name}: relaxing")
                    end = relaxed(atoms, 1e-3)
                    atoms, failed = end.atoms, "" if end.converged else f"could not be relaxed: {end.sentence}"
                for number, options in enumerate(runs, start=place * len(runs)):
                    before = len(frames)
                    # every structure, at every temperature, its own random numbers
                    own = {"seed": options.get("seed", 0) + number} if "seed" in wanted else {}
                    try:
                        refused = (failed,) if failed else draw(atoms, how, taken, **(options | own)).refused
                    except PHLError as error:
                        raise PHLError(f"{source.name}: {error}") from None
                    done = (*map(options.get, ("temperature", "displacement")), len(frames) - before, len(refused))
                    rows.append((source.name, *done))
                    said += [f"{source.name}: {reason}" for reason in refused]
        except (KeyboardInterrupt, PHLError):
            # a Ctrl-C, or a structure that cannot be sampled: what there is took time
            if frames:
                write_structures(out, frames)
                typer.echo(f"{len(frames)} of {total} frames were finished: {out}", err=True)
            raise
    if frames:
        write_structures(out, frames)
    typer.echo(text_table(("structure", "T / K", "Δ / Å", "frames", "drawn again or lost"), rows))
    typer.echo(
        "\n".join([*said, f"{counted(len(frames), 'frame')}: {out}" if frames else "no frames, nothing was written"])
    )
    if not all(row[3] for row in rows):
        raise typer.Exit(1)
