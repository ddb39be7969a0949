"""Package exports that load their module when they are first used, so that importing one light module of it is fast."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def lazy_exports(package: str, homes: Mapping[str, Iterable[str]]) -> Callable[[str], Any]:
    """Return the module-level ``__getattr__`` of a package whose exports are imported on first use (PEP 562).

    Args:
        package: Its ``__name__``.
        homes: Module of the package (``"batch"``), or a full name (``"phl_ase.errors"``) -> the names it exports.
    """
    where = {name: home if "." in home else f"{package}.{home}" for home, names in homes.items() for name in names}

    def load(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(where[name]), name)
        setattr(sys.modules[package], name, value)  # found without this function from now on
        return value

    return load
