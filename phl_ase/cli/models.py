"""``phl models``: the bundled models, and the card of any model file."""

from __future__ import annotations

import re
import textwrap
from json import dumps
from typing import Annotated, Any

import typer

from phl_ase.cli.options import argument, option
from phl_ase.errors import PHLError
from phl_ase.tables import text_table

_LISTED = 60  # molecules of a model


def models(
    model: Annotated[str | None, argument("[MODEL]", "A bundled name or a .safetensors file.")] = None,
    json: Annotated[bool, option("--json", "Show the whole card as JSON.")] = False,
) -> None:
    """List the bundled models, or show what one was trained on and how good it is.

    phl models
    phl models run/best.safetensors      elements, molecules, level of theory, data, scheme, errors
    phl models default#1 --json          the card of the first member of a committee, whole
    """
    from phl_ase.potentials.cards import bundled_models, members_of, read_card

    if model is not None:
        card = read_card(model)
        if not json:
            typer.echo(_summary(model, card))
            return
        # members of a committee by name, whole numbers of a list in one line
        if (count := members_of(card)) is not None:
            card["config"]["members"] = [f"{model}#{k}" for k in range(1, count + 1)]
        text = dumps(card, indent=2, ensure_ascii=False)
        typer.echo(re.sub(r"\[\s*\d+(?:,\s*\d+)*\s*\]", lambda found: re.sub(r"\s+", " ", found[0]), text))
        return
    if json:
        raise PHLError("--json shows the card of a model: name one, as in phl models default --json")
    names = list(bundled_models())
    if not names:
        typer.echo("no models come with this version; 'phl demo' or 'phl train' makes one")
        return
    rows = []
    for name in names:
        card = read_card(name)
        made, elements = card["provenance"], _elements(card["config"]["species"])
        scheme = _table(made.get("scheme")).get("name")
        rows.append((name, elements, made.get("level_of_theory"), scheme, card["architecture"]))
    typer.echo(text_table(("model", "elements", "level of theory", "scheme", "architecture"), rows, words=5))


def _summary(model: str, card: dict[str, Any]) -> str:
    """Return a card in ten lines; what it does not say is left out."""
    from phl_ase.potentials.cards import find_model, members_of

    count = members_of(card)
    one = card if count is None else _table(card["config"]["members"][0])
    sizes = ", ".join(f"{key} {value}" for key, value in _table(one.get("config")).items() if key != "species")
    committee = "" if count is None else f"committee of {count}: "
    made = card["provenance"]
    scheme = _table(made.get("scheme"))
    frames, data = made.get("training_frames"), made.get("data")
    calibration = _table(card.get("calibration"))
    molecules = _molecules(card)
    more = f" and {len(molecules) - _LISTED} more" if len(molecules) > _LISTED else ""
    lines = {
        "model": f"{model}, {committee}{one.get('architecture')} ({sizes})",
        "for": made.get("intended_use"),
        "elements": _elements(card["config"]["species"]),
        "molecules": ", ".join(molecules[:_LISTED]) + more,
        "level of theory": made.get("level_of_theory"),
        "energies": made.get("energy_reference"),
        "trained on": f"{frames} structures of {data}" if frames and data else None,
        "scheme": scheme.get("name"),
        "errors": _errors(made),
        "uncertainty": f"calibrated on {calibration['frames']} structures" if calibration.get("frames") else None,
        "file": find_model(model)[0],
    }
    width = max(map(len, lines)) + 2
    indent = " " * width
    shown = {name: "".join(c for c in " ".join(str(text).split()) if c.isprintable()) for name, text in lines.items()}
    return "\n".join(
        textwrap.fill(shown[name], 100, initial_indent=f"{name}:".ljust(width), subsequent_indent=indent)
        for name, text in lines.items()
        if text
    )


def _table(value: Any) -> dict[str, Any]:
    """Return a table of a card; of an older card, where a name stands in its place, that name."""
    return value if isinstance(value, dict) else {"name": value} if isinstance(value, str) else {}


def _elements(species: Any) -> str:
    from ase.data import chemical_symbols

    return " ".join(chemical_symbols[z] if 0 < z < len(chemical_symbols) else str(z) for z in species)


def _molecules(card: dict[str, Any]) -> list[str]:
    """Return formulas of what a model was trained on, as its card lists them or as the bundled data have them."""
    from phl_ase.datasets import BUNDLED, open_dataset
    from phl_ase.structures import atoms_from_frame

    made = card["provenance"]
    for record in (card.get("calibration"), made.get("domain")):
        if found := _table(record).get("molecules"):
            return sorted(map(str, found), key=lambda formula: (len(formula), formula))
    training = _table(made.get("split")).get("train")
    if made.get("data") not in BUNDLED or not isinstance(training, list):
        return []
    with open_dataset(made["data"]) as data:
        if data.content_hash() != made.get("data_hash"):
            return []
        seen = {atoms_from_frame(frame).get_chemical_formula() for frame in data.frames(training)}
    return sorted(seen, key=lambda formula: (len(formula), formula))


def _errors(made: dict[str, Any]) -> str | None:
    """Return errors on frames that were held out; of a run that tested none, its validation loss."""
    test, units = _table(_table(made.get("test_errors")).get("all")), _table(made.get("error_units"))
    shown = [
        f"{name} {test[name]:.3g} {units.get(name, '')}"
        for name in ("energy", "forces", "hessian")
        if isinstance(test.get(name), float)
    ]
    if shown:
        return f"{', '.join(shown)} (mean absolute, {test.get('frames')} held-out structures)"
    loss = made.get("validation_loss")
    return f"validation loss {loss:.3g}" if isinstance(loss, float) else None
