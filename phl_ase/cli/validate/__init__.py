"""``phl validate``: what a chemist wants of a model, scored against a reference; one module for each command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from phl_ase.cli.validate.frequencies import frequencies
from phl_ase.cli.validate.irc import irc
from phl_ase.cli.validate.phonons import phonons
from phl_ase.cli.validate.ts import ts

COMMANDS: Mapping[str, Callable[..., Any]] = {
    "frequencies": frequencies,
    "ts": ts,
    "irc": irc,
    "phonons": phonons,
}
"""Name -> command."""
