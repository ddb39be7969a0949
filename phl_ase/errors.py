"""The one exception a user's mistake raises: what was got, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable


class PHLError(ValueError):
    """A mistake that the user can mend; the command line prints it as one line, without a traceback."""


class NonFiniteError(PHLError):
    """A number that should be finite is not (a NaN coordinate, a diverged loss)."""


def unknown(what: str, got: object, valid: Iterable[object]) -> PHLError:
    """The error for a name that a table does not hold.

    Args:
        what: What the name should have been, for example ``"probe family"``.
        got: The name that was given.
        valid: The names that exist.

    Returns:
        The error, to be raised by the caller.
    """
    return PHLError(f"unknown {what} {got!r}; valid: {', '.join(sorted(map(str, valid)))}")


def missing_package(package: str, extra: str, purpose: str) -> PHLError:
    """The error for an optional package that is not installed, with the line that mends it."""
    return PHLError(f"{purpose} needs the package {package!r}, which is not installed: pip install 'phl-ase[{extra}]'")
