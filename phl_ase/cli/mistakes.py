"""How commands fail: one line on standard error and an exit code for what a user can mend, a traceback for a defect."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from phl_ase.errors import NonFiniteError, PHLError, Stopped

NOT_FINITE, MISTAKE, STOPPED = 1, 2, 130

_LONGEST = 2000  # characters of a message

Result = TypeVar("Result")


def reported(command: Callable[..., Result]) -> Callable[..., Result]:
    """A command that ends with one line and an exit code when it raises what a user can mend."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Result:
        try:
            return command(*arguments, **options)
        except PHLError as error:
            # a stop is no error: its own words are enough
            prefix = "" if isinstance(error, Stopped) else "error: "
            typer.echo(prefix + _one_line(str(error)), err=True)
            raise typer.Exit(exit_code(error)) from None
        except KeyboardInterrupt as stop:
            # whoever turns another signal into this exception names it
            typer.echo(f"stopped by {stop.args[0] if stop.args else 'SIGINT'}", err=True)
            raise typer.Exit(STOPPED) from None

    return run


def _one_line(text: str) -> str:
    """A message without line breaks; a giant one, which echoes what somebody gave, without its middle."""
    # cut first: splitting megabytes of words takes seconds
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} … ({len(text) - _LONGEST:,} characters left out) … {text[-_LONGEST // 2 :]}"
    return " ".join(text.split())


def exit_code(error: PHLError) -> int:
    """The exit code of an error: 130 stopped, 1 a number is not finite, 2 any other mistake."""
    if isinstance(error, Stopped):
        return STOPPED
    return NOT_FINITE if isinstance(error, NonFiniteError) else MISTAKE
