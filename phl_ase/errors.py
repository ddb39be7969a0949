"""The one exception a user's mistake raises: what was got, what was expected, what to do; and what others become."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PHLError(ValueError):
    """A mistake that the user can mend; the command line prints it as one line, without a traceback."""


class NonFiniteError(PHLError):
    """A number that should be finite is not (a NaN coordinate, a diverged loss)."""


class DiskError(PHLError):
    """A file cannot be written: no calculation is to blame, and none should go on."""


class UnknownModelError(PHLError):
    """A name that is neither a bundled model nor a file."""


class Stopped(PHLError):
    """A training run was asked to stop (Ctrl-C, SIGTERM); it can be resumed from its last checkpoint."""


class DomainWarning(UserWarning):
    """A structure is unlike the training data of the model.

    Attributes:
        finding: What was found, without advice on Python settings: the command line adds its own.
    """

    def __init__(self, finding: str, advice: str = "") -> None:
        super().__init__(f"{finding}. {advice}" if advice else finding)
        self.finding = finding


class DomainError(PHLError):
    """A structure unlike the training data, refused: ``PHLCalculator(out_of_domain="error")``."""


class ExplodedError(DomainError, NonFiniteError):
    """A structure fell apart into atoms on which no force acts; the search or run must not go on."""


def unknown(what: str, got: object, valid: Iterable[object]) -> PHLError:
    """Return the error for a name that a table does not hold.

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
    """Return the error for an optional package that is not installed, with the line that mends it."""
    return PHLError(f"{purpose} needs the package {package!r}, which is not installed: pip install 'phl-ase[{extra}]'")


class CalculatorError(RuntimeError):
    """A calculator, or a function that the caller gave, failed with an error of its own, which is the ``__cause__``."""


def reason_of(error: BaseException) -> str:
    """Return a foreign error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def guarded(function: Callable[..., T]) -> Callable[..., T]:
    """Return a function of somebody else's whose errors become :class:`CalculatorError`.

    This is how :func:`attempt` tells a calculator that fails, which is a result, from a defect of this package, which
    is not. A :class:`PHLError` passes as it is, and so does ``NotImplementedError``.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> T:
        try:
            return function(*arguments, **options)
        except (PHLError, CalculatorError, NotImplementedError):  # the last is how ASE says: no such property
            raise
        except Exception as error:  # a calculator may raise anything
            raise CalculatorError(reason_of(error)) from error

    return call


class GuardedCalculator:
    """Stand-in for an ASE calculator whose methods are :func:`guarded`; all else is the calculator's own.

    Args:
        calculator: Any ASE calculator.
    """

    def __init__(self, calculator: Any) -> None:
        self._calculator = calculator

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_calculator":  # asked by copy and pickle before there is a calculator
            raise AttributeError(name)
        value = getattr(self._calculator, name)
        return guarded(value) if callable(value) else value


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """Outcome of a computation that a foreign calculator or optimiser takes part in.

    Attributes:
        value: What it gave; ``None`` where it failed.
        outcome: ``"exploded"`` (something was not finite), ``"failed"``, or empty.
        reason: Why it failed, in one line; empty otherwise.
        traceback: Where it failed, as Python prints it; empty otherwise.
        of_calculator: Whether a calculator failed, not what worked with it.
    """

    value: T | None
    outcome: str = ""
    reason: str = ""
    traceback: str = ""
    of_calculator: bool = False


def attempt(action: Callable[[], T]) -> Attempt[T]:
    """Do what a calculator or an optimiser may fail in: that failure is a result, a defect of this package is not.

    Calculators must be asked through :func:`guarded` or :class:`GuardedCalculator`. Errors of installed optimisers and
    of numerical libraries are results, too.

    Raises:
        PHLError: From the action, for a mistake of the caller.
        Exception: For a defect of this package: a TypeError and the like from its own code.
    """
    try:
        return Attempt(action())
    except NonFiniteError as error:
        return Attempt(None, "exploded", str(error), traceback_of(error))
    except PHLError:
        raise
    except CalculatorError as error:
        return Attempt(None, "failed", str(error), traceback_of(error), of_calculator=True)
    except Exception as error:  # whatever Sella or JAX may raise is a result here
        if is_defect(error):
            raise
        return Attempt(None, "failed", reason_of(error), traceback_of(error))


def traceback_of(error: BaseException) -> str:
    """Return the traceback of an error and its causes, as Python prints it."""
    return "".join(traceback.format_exception(error))


# what a mistake in a program raises, as opposed to numbers that cannot be
_OF_PROGRAMS = (TypeError, AttributeError, NameError, UnboundLocalError, KeyError, IndexError, AssertionError)
_NUMERICAL = ("numpy", "scipy")


def is_defect(error: Exception) -> bool:
    """Return whether an error is a mistake in this package, by its kind and by the code that it comes from."""
    modules: list[tuple[str, bool]] = []  # name of the package, and whether it is installed and not this one
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        modules.append((package, package != "phl_ase" and "-packages" in frame.f_code.co_filename))
    if type(error) in _OF_PROGRAMS:
        # NumPy finds what is wrong with its arguments; who gave them is what is asked
        while modules and modules[-1][0] in _NUMERICAL:
            modules.pop()
    elif type(error) is not ValueError:
        return False
    return bool(modules) and not modules[-1][1]
