"""``phl data``: looking into data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from phl_ase.cli.output import check_target, save_json, table


def info(
    file: Annotated[str, typer.Argument(help="A bundled name, our HDF5, or anything ase.io reads.")],
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all of it as JSON.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Draw energies (eV/atom), forces (eV/Å), Hessians (eV/Å²)."),
    ] = None,
) -> None:
    """What a data set holds: frames, kinds of geometry, labels, ranges with units, outliers.

    phl data info reactions-wb97xd-631gd
    phl data info mine.extxyz --json mine.json --plot mine.png
    """
    check_target(json, "JSON file")
    check_target(plot, "plot")
    from phl_ase.datasets import histograms, open_dataset, summarise

    with open_dataset(file) as dataset:
        summary = summarise(dataset)
        typer.echo(_shown(summary))
        save_json(json, summary)
        if plot is not None:
            histograms(dataset, plot)


def _shown(summary: dict[str, Any]) -> str:
    sizes = list(summary["sizes"])
    head = [
        f"{summary['name']}: {summary['frames']} frames, {summary['atoms']} atoms, {sizes[0]} to {sizes[-1]} a frame",
        f"level of theory: {summary['level_of_theory']}; energies: {summary['energy_reference']}",
        f"elements: {_counted(summary['elements'])}",
        f"kinds: {_counted(summary['by_kind'])}",
        f"charges: {_counted(summary['charges'])}; periodic frames: {summary['periodic']}",
        f"reactions: {len(summary['by_reaction'])}",
        f"content hash: {summary['content_hash']}",
    ]
    if summary["notes"]:
        head.append(f"notes: {summary['notes']}")
    labels = table(("label", "frames"), list(summary["coverage"].items()))
    ranges = table(
        ("measure", "unit", "min", "mean", "max"),
        [(r["meaning"], r["unit"], r["min"], r["mean"], r["max"]) for r in summary["ranges"].values()],
        words=2,
    )
    return "\n\n".join(["\n".join(head), labels, ranges, _outliers(summary["outliers"])])


def _outliers(outliers: dict[str, Any]) -> str:
    if not outliers:
        return "outliers: none"
    rows = [(o["meaning"], o["limit"], o["count"], ", ".join(map(str, o["frames"][:8]))) for o in outliers.values()]
    return table(("outliers", "limit", "count", "first frames"), rows, words=2)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
