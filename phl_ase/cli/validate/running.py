"""Loop of the commands of ``phl validate`` over their systems: a bar, a growing file, a stop that keeps all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from phl_ase.cli.output import save_json
from phl_ase.errors import PHLError

if TYPE_CHECKING:
    from phl_ase.results import Report

Task = tuple[str, "Callable[[], Report]"]
"""Text for the bar, and what makes one report."""


def make_folder(path: Path | None, what: str) -> Path | None:
    """Return a folder for files that a command keeps, made when it is not there.

    Raises:
        PHLError: When it cannot be made.
    """
    if path is not None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PHLError(f"cannot make the folder {path} for {what}: {error.strerror}") from None
    return path


def run_tasks(name: str, tasks: Sequence[Task], json: Path | None) -> list[Report]:
    """Work through tasks; the JSON file holds every finished report at any time.

    Args:
        name: Of the command, for the bar.
        tasks: What to do, in order.
        json: Where reports go as they are made; ``None`` for nowhere.

    Returns:
        One report for each task.

    Raises:
        KeyboardInterrupt: On Ctrl-C or SIGTERM, after saying what was kept.
    """
    from phl_ase.progress import Progress

    reports: list[Report] = []
    with Progress(name, len(tasks)) as progress:
        try:
            for note, task in tasks:
                progress.note(note)
                reports.append(task())
                save_json(json, reports)
                progress.advance()
        except KeyboardInterrupt:
            kept = f"; their reports are in {json}" if json is not None and reports else ""
            typer.echo(f"{len(reports)} of {len(tasks)} done{kept}", err=True)
            raise
    return reports


def scored(name: str, model: str, validator: str, make: Callable[[], Report], **facts: Any) -> Report:
    """Return a report, or one that says that the reference has no such stationary point or path.

    Args:
        name: Of the system.
        model: Who computes.
        validator: Whose report it is.
        make: Makes the report.
        **facts: What the provenance should say where there is no reference.
    """
    from phl_ase.results import Report, provenance
    from phl_ase.study.references import NoReference

    try:
        return make()
    except NoReference as error:
        return Report(name, model, "no reference", str(error), provenance=provenance(**facts), validator=validator)


def trajectory_file(folder: Path | None, *words: object) -> Path | None:
    """Return the trajectory in a folder that some words name; ``None`` without a folder."""
    name = "_".join(map(str, words)).replace(" ", "_").replace("/", "_")
    return None if folder is None else folder / f"{name}.traj"
