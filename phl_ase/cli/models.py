"""``phl models``: what comes with the package, and what a model file says of itself."""

from __future__ import annotations

import json
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
    """
    from phl_ase.potentials.model_file import bundled_models, read_card

    if model is not None:
        typer.echo(json.dumps(read_card(model), indent=2, ensure_ascii=False))
        return
    names = list(bundled_models())
    if not names:
        typer.echo("no models come with this version; 'phl demo' or 'phl train' makes one")
        return
    typer.echo(table(("model", "elements", "level of theory", "scheme", "architecture"), _facts(names), words=5))


def _facts(names: list[str]) -> list[tuple[Any, ...]]:
    from ase.data import chemical_symbols

    from phl_ase.potentials.model_file import read_card

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
