"""The one exception a user's mistake raises: what was got, what was expected, what to do; and what others become."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class PHLError(ValueError):
    """A mistake that the user can mend; the command line prints it as one line, without a traceback."""


class NonFiniteError(PHLError):
    """A number that should be finite is not (a NaN coordinate, a diverged loss)."""


class DomainWarning(UserWarning):
    """A structure is far outside of what the model was trained on."""


class DomainError(PHLError):
    """The same, where the calculator was told not to answer: ``PHLCalculator(out_of_domain="error")``."""


class ExplodedError(DomainError, NonFiniteError):
    """A structure fell apart into atoms on which no force acts: a run came here that should not go on."""


def unknown(what: str, got: object, valid: Iterable[object]) -> PHLError:
    """The error for a name that a table does not hold.

    Args:
        what: What the name should have been, for example ``"probe family"``.
        got: The name that was given.
        valid: The names that exist.

    Returns:
        The error, to be raised by the caller.
    """
    return PHLError(f"unknown {what} {shortened(got)}; valid: {', '.join(sorted(map(str, valid)))}")


def shortened(value: object, limit: int = 80) -> str:
    """Return a value as an error echoes it: its ``repr``, cut where it is long."""
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "size", 0) == 1:
        value = value.item()  # nan, not np.float64(nan)
    # never the repr of the whole: a key of a file may be megabytes
    text = repr(value[: 2 * limit] if isinstance(value, str | bytes) else value)
    text = text if isinstance(value, str | bytes) else " ".join(text.split())  # arrays have lines
    cut = len(text) > limit or (isinstance(value, str | bytes) and len(value) > limit)
    return f"{text[:limit]}…" if cut else text


def missing_package(package: str, extra: str, purpose: str) -> PHLError:
    """The error for an optional package that is not installed, with the line that mends it."""
    return PHLError(f"{purpose} needs the package {package!r}, which is not installed: pip install 'phl-ase[{extra}]'")


def reason_of(error: BaseException) -> str:
    """A foreign error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """What became of a computation that a foreign calculator or optimiser takes part in.

    Attributes:
        value: What it gave; ``None`` where it failed.
        outcome: ``"exploded"`` (something was not finite), ``"failed"``, or empty.
        reason: Why it failed, in one line; empty otherwise.
    """

    value: T | None
    outcome: str = ""
    reason: str = ""


def attempt(action: Callable[[], T]) -> Attempt[T]:
    """Do what may fail in any way: a failure is a result, but for the caller's own mistakes and for Ctrl-C.

    Raises:
        PHLError: From the action, for a mistake of the caller.
    """
    try:
        return Attempt(action())
    except NonFiniteError as error:
        return Attempt(None, "exploded", str(error))
    except PHLError:
        raise
    except Exception as error:  # whatever Sella, JAX or a foreign calculator may raise is a result here
        return Attempt(None, "failed", reason_of(error))
