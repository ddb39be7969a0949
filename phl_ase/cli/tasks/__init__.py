"""Commands that do a chemist's own work, one function each: ``COMMANDS`` names them."""

from collections.abc import Callable
from typing import Any

from phl_ase.cli.tasks.freq import freq
from phl_ase.cli.tasks.learn import learn
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
    "learn": learn,
    "phonons": phonons,
}
"""Name -> command."""
