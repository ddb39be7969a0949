"""Unpickling what others made: a pickle is a program, and here it can name nothing but what a list holds."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from typing import Any

from phl_ase.errors import PHLError


class NotListed(PHLError):
    """A pickle names what the list does not hold; nothing of it was run."""


class ListedUnpickler(pickle.Unpickler):
    """Resolves names by :meth:`look_up` alone; nothing is imported for a pickle.

    Attributes:
        purpose: What is being read, for the error.
    """

    purpose: str

    def look_up(self, module: str, name: str) -> Any:
        """Return the stand-in for a name.

        Raises:
            KeyError: When nothing does.
        """
        raise KeyError(name)

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name.

        Raises:
            NotListed: When nothing does.
        """
        try:
            return self.look_up(module, name)
        except KeyError:
            raise NotListed(
                f"names {module}.{name}, which {self.purpose} has no use for; refused, nothing was run"
            ) from None


@contextlib.contextmanager
def reading_pickle(where: str) -> Iterator[None]:
    """Tell what reading a pickle raises as one line about ``where``.

    Raises:
        NotListed: When the pickle names what is not listed.
        PHLError: When it is nested too deeply, or damaged.
    """
    try:
        yield
    except PHLError as error:
        raise type(error)(f"{where}: the pickle {error}") from error
    except RecursionError as error:
        raise PHLError(f"{where}: the pickle is nested too deeply; refused") from error
    except Exception as error:  # damaged pickles raise anything at all
        raise PHLError(f"{where}: cannot be unpickled ({type(error).__name__}: {str(error)[:100]}); damaged") from error
