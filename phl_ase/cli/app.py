"""The table of commands. Each imports what it works with when it is called: ``phl --help`` loads no torch."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from phl_ase import __version__
from phl_ase.cli import (
    check,
    data,
    demo,
    evaluate,
    label,
    models,
    reactions,
    report,
    sample,
    study,
    tasks,
    train,
    validate,
)
from phl_ase.cli.error_handling import MISTAKE, reported
from phl_ase.cli.streams import is_full_output, prepare_streams
from phl_ase.errors import DomainWarning

COMMANDS: dict[str, Callable[..., Any]] = {
    **tasks.COMMANDS,
    "demo": demo.demo,
    "train": train.train,
    "study": study.study,
    "evaluate": evaluate.evaluate,
    "label": label.label,
    "reactions": reactions.reactions,
    "sample": sample.sample,
    "check": check.check,
    "models": models.models,
    "report": report.report,
}

GROUPS: dict[str, tuple[str, dict[str, Callable[..., Any]]]] = {
    "data": ("Look into data sets; import, export, merge and split them.", data.COMMANDS),
    "validate": ("Score a model or method against a reference.", dict(validate.COMMANDS)),
}
"""Name -> (help, its commands)."""

_PLAIN: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"phl {__version__}")
        raise typer.Exit
    return wanted


def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Projected Hessian Learning: train, use and judge interatomic potentials whose curvature is right.

    'phl COMMAND --help' says what a command takes, with units and examples. Exit codes: 0 done, 1 a check failed or a
    computation gave NaN, 2 a mistake to mend, 130 stopped.
    """


def _texts(command: Callable[..., Any]) -> dict[str, Any]:
    """Help of a command from its docstring: examples keep their lines, the list of commands shows all of the first."""
    paragraphs = inspect.getdoc(command) or ""
    shown = ["\b\n" + text if text.startswith("phl ") else text for text in paragraphs.split("\n\n")]
    return {"help": "\n\n".join(shown), "short_help": paragraphs.partition("\n")[0]}


def _build() -> typer.Typer:
    # --install-completion and --show-completion stand at the top alone
    top = typer.Typer(name="phl", callback=_top, **{**_PLAIN, "add_completion": True})
    for name, command in COMMANDS.items():
        top.command(name, **_texts(command))(reported(command))
    for name, (text, commands) in GROUPS.items():
        group = typer.Typer(help=text, **_PLAIN)
        # with a callback a group of one command stays a group
        group.callback()(lambda: None)
        for subname, command in commands.items():
            group.command(subname, **_texts(command))(reported(command))
        top.add_typer(group, name=name, help=text)
    return top


def _warning(message: Warning | str, *_: Any, **__: Any) -> str:
    text = str(message)
    if isinstance(message, DomainWarning):
        text = f"{message.finding}. Before you rely on it, compare with a reference method, for example tblite or pyscf"
    return f"warning: {' '.join(text.split())}\n"


app = _build()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Args:
        arguments: Words after ``phl``; those of the process by default.
    """
    prepare_streams()
    warnings.formatwarning = _warning
    try:
        app(arguments, prog_name="phl")
    except OSError as error:
        if not is_full_output(error):
            raise
        typer.echo(f"error: the output cannot be written ({error.strerror}); send it elsewhere", err=True)
        sys.exit(MISTAKE)
