"""Ends of commands: one line on standard error and an exit code for what a user can mend, a traceback for a defect."""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import typer

from phl_ase.errors import NonFiniteError, PHLError, Stopped, is_defect, reason_of

NOT_FINITE, MISTAKE, STOPPED = 1, 2, 130

_LONGEST = 2000  # characters of a message

Result = TypeVar("Result")


def reported(command: Callable[..., Result]) -> Callable[..., Result]:
    """Return a command that ends with one line and an exit code when a user's mistake or a signal ends it."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Result:
        with _interruptions() as received:
            try:
                return command(*arguments, **options)
            except PHLError as error:
                stopped = isinstance(error, Stopped)  # no error: its own words are enough
                typer.echo(("" if stopped else "error: ") + _one_line(str(error)), err=True)
                code = STOPPED if stopped else NOT_FINITE if isinstance(error, NonFiniteError) else MISTAKE
                raise typer.Exit(code) from None
            except typer.Exit:
                raise
            except BaseException as error:
                # in the middle of an import, others turn the interruption into errors of their own
                if not (received or isinstance(error, KeyboardInterrupt)):
                    # a calculator of ASE says that it failed, or that it does not know an element or property
                    ase = sys.modules.get("ase.calculators.calculator")
                    failed = ase is not None and isinstance(error, ase.CalculatorError)
                    if not failed and not (isinstance(error, NotImplementedError) and not is_defect(error)):
                        raise
                    typer.echo(_one_line(f"error: the calculation failed: {reason_of(error)}"), err=True)
                    raise typer.Exit(NOT_FINITE) from None
                typer.echo(f"stopped by {received[0] if received else str(error) or 'SIGINT'}", err=True)
                raise typer.Exit(STOPPED) from None

    return run


@contextmanager
def _interruptions() -> Iterator[list[str]]:
    """Let SIGTERM, which batch systems send, interrupt as Ctrl-C does, and collect the names of signals received.

    Only in the main thread, where signals can be caught.
    """
    received: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def interrupt(number: int, _: Any) -> None:
        received.append(signal.Signals(number).name)
        raise KeyboardInterrupt(received[-1])

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def nothing_is_lost(folder: Path) -> Iterator[None]:
    """Say, where long work is stopped, how it goes on."""
    with _interruptions():  # of scripts: a command has them already
        try:
            yield
        except KeyboardInterrupt:
            typer.echo(f"nothing is lost: the same command goes on in {folder}", err=True)
            raise


def _one_line(text: str) -> str:
    """Return a message without line breaks; a giant one, which echoes what somebody gave, without its middle."""
    # cut first: splitting megabytes of words takes seconds
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} … ({len(text) - _LONGEST:,} characters left out) … {text[-_LONGEST // 2 :]}"
    return " ".join(text.split())
