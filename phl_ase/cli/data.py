"""``phl data``: looking into data sets, importing, exporting, merging and splitting them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.options import argument, option
from phl_ase.cli.output import check_outputs, check_target, save_figure, save_json
from phl_ase.tables import counted, text_table

_COUNTED = 30

Units = Annotated[
    list[str] | None,
    option(
        "--unit LABEL=UNIT", "The unit of a label in the file, as hessian=Ha/Bohr^2; forces=-Ha/Bohr for gradients."
    ),
]


def info(
    file: opt.DatasetName,
    json: opt.JsonFile = None,
    plot: Annotated[
        Path | None,
        option("--plot --histogram FILE", "Draw how energies (eV/atom), forces (eV/Å) and Hessians (eV/Å²) spread."),
    ] = None,
    key: opt.Keys = None,
) -> None:
    """Show what a data set holds: frames, kinds of geometry, labels, ranges with units, outliers.

    phl data info reactions-wb97xd-631gd
    phl data info mine.extxyz --key energy=dft_energy --json mine.json --plot mine.png
    """
    check_outputs(json, plot)
    from phl_ase.datasets import open_dataset, summarise

    with open_dataset(file, keys=opt.pairs(key)) as dataset:
        summary = summarise(dataset)
        typer.echo(_shown(summary))
        save_json(json, summary)
        if plot is not None:
            import numpy as np

            from phl_ase.datasets import measures
            from phl_ase.plots import frames

            level = dataset.meta.level_of_theory or "level unknown"
            title = f"{Path(dataset.name).name}: {len(dataset)} frames, {level}"
            kinds = np.array([kind or "unknown" for kind in dataset.kinds.tolist()])
            save_figure(plot, frames.draw, frames.Spread(title, kinds, measures(dataset)))


def import_(
    file: Annotated[Path, argument("", "A foreign file, or a folder of DeePMD's or LMDB's.")],
    output: opt.NewDataset,
    format: Annotated[str, option("--format NAME", "extxyz, horm, openreact, deepmd, …; recognised by default.")] = "",
    key: opt.Keys = None,
    unit: Units = None,
    level: Annotated[str, option("--level TEXT", "Level of theory, as 'wB97X-D/6-31G(d)'.")] = "",
    energy_reference: Annotated[
        str, option("--energy-reference TEXT", "What energies are relative to, as 'absolute'.")
    ] = "",
    structures: Annotated[
        Path | None, option("--structures FILE", "Structures of MLFF-distill's force Jacobians.")
    ] = None,
    json: opt.JsonFile = None,
) -> None:
    """Read a foreign data set, frame by frame, and write it as ours; nothing that is in the file is executed.

    Energies in eV, forces in eV/Å, Hessians in eV/Å² (made symmetric). The report says how asymmetric they were, how
    many break the acoustic sum rule or do not fit their geometry and forces, and which frames stand twice. Broken
    frames are refused, listed and recorded in the data set; the exit code is then 1.

    phl data import frames.extxyz -o frames.h5 --level 'wB97X-D/6-31G(d)' --key energy=dft_energy

    phl data import atomic_units.xyz -o frames.h5 --unit energy=Ha --unit forces=Ha/Bohr

    phl data import force_jacobians.lmdb -o labels.h5 --structures frames.extxyz
    """
    check_target(output, "data set")
    check_target(json, "JSON file")
    from phl_ase.datasets import import_dataset

    report = import_dataset(
        file,
        output,
        format=format,
        keys=opt.pairs(key),
        units=opt.pairs(unit, "--unit", "energy=Ha"),
        level=level,
        energy_reference=energy_reference,
        structures=structures,
    )
    typer.echo("\n".join([f"{output}: {report.lines[0]}", *report.lines[1:]]))
    save_json(json, report.to_json())
    if report.refused:
        raise typer.Exit(1)


def export(
    dataset: opt.DatasetName,
    output: Annotated[Path, option("--output -o FILE", "The file or folder to write.")],
    format: Annotated[str, option("--format NAME", "extxyz, ase-db, deepmd; by the suffix of FILE otherwise.")] = "",
    key: opt.Keys = None,
) -> None:
    """Write a data set in a foreign format: energies in eV, forces in eV/Å, Hessians and HVPs in eV/Å².

    phl data export frames.h5 -o frames.extxyz

    phl data export frames.h5 -o frames_deepmd --format deepmd
    """
    check_target(output, "export")
    from phl_ase.datasets import EXPORTERS, exporter_of, open_dataset

    name = exporter_of(output, format)
    with open_dataset(dataset, keys=opt.pairs(key)) as source:
        EXPORTERS[name].write(source, output)
        typer.echo(f"{output}: {counted(len(source), 'frame')} as {name}")
        lost = ", ".join(["level of theory", "energy reference", *EXPORTERS[name].loses])
        typer.echo(f"not part of {name}, so left behind: {lost}")


def merge(
    datasets: Annotated[list[str], argument("DATASET…", "Two or more data sets.")],
    output: opt.NewDataset,
    allow_mixed: Annotated[
        bool, option("--allow-mixed", "Merge different levels of theory or energy references (eV) all the same.")
    ] = False,
    key: opt.Keys = None,
) -> None:
    """Put data sets of one level of theory one after another into one file; frames that stand twice are counted.

    phl data merge mine.h5 yours.h5 -o ours.h5
    """
    check_target(output, "data set")
    from phl_ase.datasets import merge as merged
    from phl_ase.datasets import open_dataset

    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(open_dataset(name, keys=opt.pairs(key))) for name in datasets]
        content_hash, statistics = merged(sources, output, allow_mixed=allow_mixed)
    typer.echo(f"{output}: {statistics.seen} frames of {len(datasets)} data sets, content hash {content_hash}")
    typer.echo("\n".join(statistics.lines()))


def split(
    dataset: opt.DatasetName,
    output: Annotated[Path, option("--output -o FOLDER", "Where train.h5, … are written.")],
    by: Annotated[str, option("--by NAME", "random, stationary, by-reaction.")] = "random",
    seed: Annotated[int, option("--seed", "Same seed, same split.")] = 0,
    fractions: Annotated[
        tuple[float, float, float], option("--fractions", "Shares of train, valid, test; their sum is 1.")
    ] = (0.8, 0.1, 0.1),
    mild: Annotated[float, option("--mild", "Highest temperature of a mild sample, K (stationary).")] = 600.0,
    key: opt.Keys = None,
) -> None:
    """Split a data set into the files train.h5, valid.h5 and test.h5, and record the split in split.json.

    phl data split reactions-wb97xd-631gd --by by-reaction -o reactions
    """
    check_target(output.parent / "split.json", "split")
    from phl_ase.datasets import open_dataset, write_split
    from phl_ase.datasets import split as divided

    with open_dataset(dataset, keys=opt.pairs(key)) as source:
        counts = write_split(source, divided(source, by, seed, fractions=fractions, mild=mild), output)
    typer.echo(f"{output}: {', '.join(f'{part} {count}' for part, count in counts.items())} frames, split {by!r}")


COMMANDS: dict[str, Callable[..., Any]] = {
    "info": info,
    "import": import_,
    "export": export,
    "merge": merge,
    "split": split,
}
"""Name -> command of ``phl data``."""


def _shown(summary: dict[str, Any]) -> str:
    sizes = list(summary["sizes"])
    head = [
        f"{summary['name']}: {counted(summary['frames'], 'frame')}, {counted(summary['atoms'], 'atom')}, "
        f"{sizes[0]} to {sizes[-1]} a frame",
        f"sizes: {_counted(summary['sizes'], '{1} of {0} atoms')}",
        f"level of theory: {summary['level_of_theory']}; energies: {summary['energy_reference']}",
        f"elements: {_counted(summary['elements'])}",
        f"kinds: {_counted(summary['by_kind'])}",
        f"charges: {_counted(summary['charges'])}; periodic frames: {summary['periodic']}",
        f"reactions: {len(summary['by_reaction'].keys() - {'unknown'})}",
        f"content hash: {summary['content_hash']}",
    ]
    if summary["notes"]:
        head.append(f"notes: {summary['notes']}")
    if summary["keys_not_read"]:
        head.append(f"keys not read (a label under one: --key LABEL=KEY): {', '.join(summary['keys_not_read'])}")
    labels = text_table(("label", "frames"), list(summary["coverage"].items()))
    ranges = text_table(
        ("measure", "unit", "min", "mean", "max"),
        [(r["meaning"], r["unit"], r["min"], r["mean"], r["max"]) for r in summary["ranges"].values()],
        words=2,
    )
    found = summary["outliers"].values()
    rows = [(o["meaning"], o["limit"], o["count"], ", ".join(map(str, o["frames"][:8]))) for o in found]
    outliers = text_table(("outliers", "limit", "count", "first frames"), rows, words=2) if rows else "outliers: none"
    return "\n\n".join(["\n".join(head), labels, ranges, outliers])


def _counted(counts: dict[str, int], form: str = "{0} {1}") -> str:
    shown = [form.format(*item) for item in list(counts.items())[:_COUNTED]]
    return ", ".join(shown + ([f"… {len(counts) - _COUNTED} more"] if len(counts) > _COUNTED else []))
