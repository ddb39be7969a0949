"""Model files: one ``.safetensors`` file whose header carries the JSON card, so that weights and card cannot part.

Loading never runs code from the file: tensors are read by safetensors, the card is JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from phl_ase.errors import PHLError, unknown
from phl_ase.files import write_atomic
from phl_ase.potentials.model import Model
from phl_ase.potentials.registry import build_model

SCHEMA = 1
BUNDLED_FOLDER = Path(__file__).parent / "bundled"


def bundled_models() -> dict[str, Path]:
    """Names and files of the models that come with the package."""
    return {path.stem: path for path in sorted(BUNDLED_FOLDER.glob("*.safetensors"))}


def save_model(path: str | Path, model: Model, provenance: Mapping[str, Any]) -> Path:
    """Write a model by atomic replace.

    Args:
        path: Where to; the suffix becomes ``.safetensors``.
        model: A model of the table of architectures.
        provenance: What the card says besides the architecture: level of theory, data, scheme, errors, versions.

    Raises:
        PHLError: When the file cannot be written; an older file of that name is kept.
    """
    path = Path(path).with_suffix(".safetensors")
    card = {"schema": SCHEMA, **model.card(), "provenance": dict(provenance)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    content = save(tensors, metadata={"phl_ase": json.dumps(card, ensure_ascii=False)})
    write_atomic(path, content)
    return path


def read_card(source: str | Path) -> dict[str, Any]:
    """The card of a model, without loading its weights.

    Args:
        source: A bundled name or a file.

    Raises:
        PHLError: As :func:`load_model`.
    """
    return _open(_locate(source))[0]


def load_model(source: str | Path, *, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Model:
    """Load a model.

    Args:
        source: A bundled name (``phl models`` lists them) or a ``.safetensors`` file.
        dtype: Of the weights; energies are float64 always.
        device: ``"cpu"``, ``"cuda"``, ….

    Returns:
        The model with its card's ``provenance`` attached, gradients of parameters off.

    Raises:
        PHLError: For a missing file, a file that is no model of ours, a newer schema, or weights that do not fit.
    """
    path = _locate(source)
    card, tensors = _open(path)
    try:
        # JSON has no tuples
        model = build_model(card["architecture"], {**card["config"], "species": tuple(card["config"]["species"])})
        # assigned, not copied: a new model is float32, and what was trained in float64 would be rounded
        model.load_state_dict(tensors, assign=True)
    except PHLError as error:
        raise PHLError(f"{path.name}: {error}") from None
    except (KeyError, TypeError, RuntimeError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise PHLError(f"{path.name}: card and weights do not fit together ({reason}); the file is damaged") from None
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise PHLError(f"{path.name}: the weights {name} hold NaN or infinity; train the model again")
    model.provenance = card["provenance"]
    return model.to(device=device, dtype=dtype).requires_grad_(False).eval()


def _locate(source: str | Path) -> Path:
    bundled = bundled_models()
    if str(source) in bundled:
        return bundled[str(source)]
    path = Path(source)
    if path.is_file():
        return path
    if path.suffix or os.sep in str(source):
        raise PHLError(f"model file {str(source)!r} does not exist; bundled models: {', '.join(bundled) or 'none'}")
    raise unknown("model", str(source), [*bundled, "a path to a .safetensors file"])


def _open(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # cloned: how a tensor is aligned in the file changes the last bits of matrix products
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise PHLError(f"{path.name}: not a readable model file ({error}); expected a .safetensors file") from None
    try:
        card = json.loads(metadata["phl_ase"])
        schema, _, _, _ = card["schema"], card["architecture"], card["config"]["species"], card["provenance"]
    except (KeyError, TypeError, ValueError):
        raise PHLError(f"{path.name}: has no phl_ase card; expected a model written by 'phl train'") from None
    if schema != SCHEMA:
        raise PHLError(f"{path.name}: has card schema {schema}, this version reads {SCHEMA}; upgrade phl_ase")
    return card, tensors
