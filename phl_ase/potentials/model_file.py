"""Model files: one ``.safetensors`` file whose header carries the JSON card, so that weights and card cannot part.

A committee is one file as well: the weights of member k under ``k.``, the members' cards inside the committee's.
``FILE#2`` names its second member wherever a single model is expected.

Loading never runs code from the file: tensors are read by safetensors, the card is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch._subclasses.fake_tensor import FakeTensorMode

from phl_ase.errors import PHLError
from phl_ase.files import write_atomic
from phl_ase.potentials.calibration import Calibration
from phl_ase.potentials.cards import COMMITTEE, COMMITTEE_SCHEMA, SCHEMA, card_of, find_model, member_card
from phl_ase.potentials.committee import Committee
from phl_ase.potentials.domain import domain_of
from phl_ase.potentials.model import Model
from phl_ase.potentials.registry import build_model


def save_model(path: str | Path, model: Model, provenance: Mapping[str, Any]) -> Path:
    """Write a model by atomic replace.

    Args:
        path: Where to; the suffix becomes ``.safetensors``.
        model: A model of the table of architectures.
        provenance: What the card says besides the architecture: level of theory, data, scheme, errors, versions.

    Raises:
        PHLError: When the file cannot be written; an older file of that name is kept.
    """
    card = {"schema": SCHEMA, **model.card(), "provenance": dict(provenance)}
    return _write(path, card, model.state_dict())


def save_committee(
    path: str | Path,
    members: Sequence[Model],
    provenance: Mapping[str, Any],
    calibration: Calibration | None = None,
) -> Path:
    """Write a committee as one file, by atomic replace; the members' cards go with them.

    Args:
        path: Where to; the suffix becomes ``.safetensors``.
        members: Two or more models of the table of architectures.
        provenance: What the card says of the committee: level of theory, data, scheme, errors, versions.
        calibration: What its spread means.

    Raises:
        PHLError: For fewer members, members that do not agree, or a file that cannot be written.
    """
    if len(members) < 2:
        raise PHLError(f"a committee of {len(members)}; expected two models or more, or save_model for one")
    Committee(members)  # whether they agree
    cards = [{**member.card(), "provenance": dict(member.provenance)} for member in members]
    card = {
        "schema": COMMITTEE_SCHEMA,
        "architecture": COMMITTEE,
        "config": {"species": list(members[0].species), "members": cards},
        "calibration": None if calibration is None else calibration.to_json(),
        "provenance": dict(provenance),
    }
    tensors = {f"{k}.{name}": value for k, m in enumerate(members, 1) for name, value in m.state_dict().items()}
    return _write(path, card, tensors)


def _write(path: str | Path, card: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Path:
    path = Path(path).with_suffix(".safetensors")
    content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomic(path, save(content, metadata={"phl_ase": json.dumps(card, ensure_ascii=False)}))
    return path


def load_model(source: str | Path, *, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Model:
    """Load a single model.

    Args:
        source: A bundled name (``phl models`` lists them) or a ``.safetensors`` file; of a committee a member, ``…#2``.
        dtype: Of the weights; energies are float64 always.
        device: ``"cpu"``, ``"cuda"``, ….

    Returns:
        The model with its card's ``provenance`` attached, gradients of parameters off.

    Raises:
        PHLError: For a missing file, a file that is no model of ours, a newer schema, weights that do not fit, or a
            committee of which no member is named.
    """
    path, card, tensors = _read(source)
    if card["architecture"] == COMMITTEE:
        members = len(card["config"]["members"])
        raise PHLError(
            f"{source} is a committee of {members} models, expected a single one: choose a member, "
            f"{source}#1 to {source}#{members}"
        )
    return _built(path.name, card, tensors, dtype=dtype, device=device)


def load_saved(source: str | Path, *, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Model | Committee:
    """Return the model of a file, or its committee ready for evaluation; arguments and errors as :func:`load_model`."""
    path, card, tensors = _read(source)
    if card["architecture"] != COMMITTEE:
        return _built(path.name, card, tensors, dtype=dtype, device=device)
    members = [
        _built(f"{path.name}#{k}", *_member(path, card, tensors, k), dtype=dtype, device=device)
        for k in range(1, len(card["config"]["members"]) + 1)
    ]
    known = card.get("calibration")
    try:
        calibration = None if known is None else Calibration.from_json(known)
        return Committee(members, calibration, card["provenance"]).stack()
    except PHLError as error:
        raise PHLError(f"{path.name}: {error}") from None


def _built(
    name: str, card: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], *, dtype: torch.dtype, device: str
) -> Model:
    """Return the model of a card and its weights; the name is for errors."""
    try:
        # JSON has no tuples
        config = {**card["config"], "species": tuple(card["config"]["species"])}
        with FakeTensorMode():  # shapes without memory: a card may ask for gigabytes that the file does not hold
            wanted = build_model(card["architecture"], config).state_dict()
        found, asked = ({key: list(value.shape) for key, value in weights.items()} for weights in (tensors, wanted))
        for key in [*asked, *found]:
            if found.get(key) != asked.get(key):
                raise ValueError(f"{key} has the shape {found.get(key)}, by the card {asked.get(key)}")
        model = build_model(card["architecture"], config)
        # assigned, not copied: a new model is float32, and what was trained in float64 would be rounded
        model.load_state_dict(tensors, assign=True)
        model.provenance = card["provenance"]
        domain_of(model)  # a broken one is found here rather than by the first structure
    except PHLError as error:
        raise PHLError(f"{name}: {error}") from None
    except (KeyError, TypeError, RuntimeError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise PHLError(f"{name}: card and weights do not fit together ({reason}); the file is damaged") from None
    for key, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise PHLError(f"{name}: the weights {key} hold NaN or infinity; train the model again")
    return model.to(device=device, dtype=dtype).requires_grad_(False).eval()


def _read(source: str | Path) -> tuple[Path, dict[str, Any], dict[str, torch.Tensor]]:
    """File, card and weights of a model, a committee, or the member of a committee that ``#`` names."""
    path, number = find_model(source)
    card = card_of(path)
    try:
        with safe_open(path, framework="pt") as file:
            # cloned: how a tensor is aligned in the file changes the last bits of matrix products
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise PHLError(f"{path.name}: not a readable model file ({error}); expected a .safetensors file") from None
    return (path, card, tensors) if number is None else (path, *_member(path, card, tensors, number))


def _member(
    path: Path, card: dict[str, Any], tensors: dict[str, torch.Tensor], number: int
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Card and weights of a member; of a single model, which is its only member, its own."""
    own, start = member_card(path, card, number), f"{number}."
    if own is card:
        return card, tensors
    return own, {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
