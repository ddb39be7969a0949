"""Commands that do a chemist's own work: ``phl relax``, ``freq``, ``ts``, ``irc``, ``reaction``, ``phonons``."""

from collections.abc import Callable
from typing import Any

from phl_ase.cli.tasks.freq import freq
from phl_ase.cli.tasks.phonons import phonons
from phl_ase.cli.tasks.reaction import irc, reaction
from phl_ase.cli.tasks.relax import relax
from phl_ase.cli.tasks.ts import ts

COMMANDS: dict[str, Callable[..., Any]] = {
    "relax": relax,
    "freq": freq,
    "ts": ts,
    "irc": irc,
    "reaction": reaction,
    "phonons": phonons,
}
"""Name -> command."""
