"""``phl models``: what comes with the package, and what a model file says of itself."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import typer

from phl_ase.cli.output import table


def models(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A bundled name or a .safetensors file.")
    ] = None,
) -> None:
    """List the bundled models, or show the card of one.

    phl models
    phl models run/best.safetensors      the card: architecture, species, level of theory, data, scheme, errors
    phl models default#1                 that of one member of a committee
    """
    from phl_ase.potentials.cards import bundled_models

    if model is not None:
        typer.echo(_card(model))
        return
    names = list(bundled_models())
    if not names:
        typer.echo("no models come with this version; 'phl demo' or 'phl train' makes one")
        return
    typer.echo(table(("model", "elements", "level of theory", "scheme", "architecture"), _facts(names), words=5))


def _card(model: str) -> str:
    """A card as JSON; members of a committee by name, whole numbers of a list in one line."""
    from phl_ase.potentials.cards import COMMITTEE, read_card

    card = read_card(model)
    if card["architecture"] == COMMITTEE:
        count = len(card["config"]["members"])
        card["config"]["members"] = [f"{model}#{k}" for k in range(1, count + 1)]
    text = json.dumps(card, indent=2, ensure_ascii=False)
    return re.sub(r"\[\s*\d+(?:,\s*\d+)*\s*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)


def _facts(names: list[str]) -> list[tuple[Any, ...]]:
    from ase.data import chemical_symbols

    from phl_ase.potentials.cards import read_card

    rows = []
    for name in names:
        card = read_card(name)
        made = card["provenance"]
        scheme = made.get("scheme")
        rows.append(
            (
                name,
                " ".join(chemical_symbols[z] for z in card["config"]["species"]),
                made.get("level_of_theory"),
                scheme.get("name") if isinstance(scheme, dict) else scheme,
                card["architecture"],
            )
        )
    return rows
