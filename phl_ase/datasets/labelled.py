"""Labels in ``ase.Atoms``: where foreign files keep them, and how ours are handed out; the keys are those declared.

Read by default: the stored results of a calculator, where ASE puts the keys ``energy``, ``forces`` and
``stress`` of a file; ``REF_energy``, ``REF_forces``, ``REF_stress``
(MACE's, taken before a calculator's); ``REF_hessian`` as a per-atom array ``(n, 9n)`` or a flat ``9n²`` in ``info``;
``hvp_dir`` and ``REF_hvp`` as per-atom arrays ``(n, 3K)``, probe after probe; ``kind``, ``reaction``, ``irc_s``,
``temperature``, charge and spin in ``info``.
"""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from phl_ase.datasets.schema import plausible, symmetrised
from phl_ase.errors import PHLError, shortened, unknown
from phl_ase.structures import atoms_from_frame, frame_from_atoms
from phl_ase.structures.frame import Frame
from phl_ase.structures.label import arrays

_SAMPLING = ("kind", "reaction", "irc_s", "temperature", "charge", "multiplicity")


def default_keys() -> dict[str, str]:
    """Return the key that each label, and each fact of a structure, is looked for under, in ``info`` and ``arrays``."""
    return {name: label.key for name, label in arrays().items()} | {name: name for name in _SAMPLING}


# what ASE keeps of a structure itself, and of a row of a data base
_NO_LABELS = {"numbers", "positions", "masses", "tags", "initial_charges", "initial_magmoms", "spin"} | {
    *("data", "key_value_pairs", "unique_id")
}
_KEYS, _KEY = 50, 80  # most keys in a list, and characters of each


def check_keys(keys: Mapping[str, str] | None) -> dict[str, str]:
    """Return a key mapping whose labels exist; empty for none.

    Raises:
        PHLError: For a label that does not exist.
    """
    for label in keys or {}:
        if label not in default_keys():
            raise unknown("label in the key mapping", label, default_keys())
    return dict(keys or {})


def labelled_frame(atoms: Atoms, name: str, *, keys: Mapping[str, str] | None = None) -> tuple[Frame, dict[str, str]]:
    """Return a frame with every label that an ``Atoms`` carries.

    Args:
        atoms: The structure.
        name: How an error names it.
        keys: Label -> key, where a label stands under another key than :func:`default_keys` says; only that key is then
            looked at, in ``info``, in the arrays and in stored results (``free_energy`` stands there).

    Returns:
        The frame, its Hessian symmetric, and for each label found where it was found: a key, or ``"calculator"``.

    Raises:
        PHLError: For an unknown label, or a value of the wrong shape or type.
    """
    frame, found = frame_as_found(atoms, name, keys=keys)
    return plausible(symmetrised(frame, name), name), found


def frame_as_found(atoms: Atoms, name: str, *, keys: Mapping[str, str] | None = None) -> tuple[Frame, dict[str, str]]:
    """Return a frame as :func:`labelled_frame` does, but with the Hessian as asymmetric as it is in the file.

    Raises:
        PHLError: For an unknown label, or a value of the wrong shape or type.
    """
    given = check_keys(keys)
    info = _everywhere(atoms)
    results, known = _stored_results(atoms), arrays()
    values: dict[str, Any] = {}
    found: dict[str, str] = {}
    for label, key in (default_keys() | given).items():
        value = atoms.arrays.get(key, info.get(key))
        if value is None and label in given:
            value = results.get(key)  # ASE moves what has a name of its own there: energy, free_energy, forces, …
        elif value is None and label in known and known[label].result:
            key, value = "calculator", results.get(known[label].result)
        if value is not None:
            values[label], found[label] = value, key
    bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.info = {**info, **{label: values[label] for label in ("charge", "multiplicity") if label in values}}
    frame = frame_from_atoms(bare, name)
    shaped = {
        label: _shaped(label, value, len(atoms), f"{name}: {shortened(found[label])}")
        for label, value in values.items()
    }
    facts = {name: shaped.pop(name) for name in _SAMPLING if name in shaped}
    facts = {name: value for name, value in facts.items() if name not in ("charge", "multiplicity")}
    return dataclasses.replace(frame, **facts).with_labels(shaped), found


def _everywhere(atoms: Atoms) -> ChainMap[str, Any]:
    """Return ``atoms.info``, then what rows of an ASE data base put one level below."""
    nested = (atoms.info.get(key) for key in ("data", "key_value_pairs"))
    return ChainMap(atoms.info, *(part for part in nested if isinstance(part, dict)))


def _stored_results(atoms: Atoms) -> Mapping[str, Any]:
    # stored results only: asking a live calculator could start a calculation
    return getattr(atoms.calc, "results", None) or {}


def seen_keys(atoms: Atoms) -> set[str]:
    """Return the keys of an ``Atoms`` that a label may stand under: in ``info``, in arrays and in stored results."""
    places = (_everywhere(atoms), atoms.arrays, _stored_results(atoms))
    keys = {str(key) for place in places for key, value in place.items() if value is not None and np.size(value)}
    return keys - _NO_LABELS


def keys_not_read(seen: Iterable[str], found: Iterable[tuple[str, str]]) -> list[str]:
    """Return the keys of a file that no label was read from, as the provenance of a data set keeps them.

    Args:
        seen: All of its keys.
        found: Pairs (label, key that it was found under, or ``"calculator"``).
    """
    read = {label if key == "calculator" else key for label, key in found}
    return _listed(set(seen) - read)


def no_such_key(path: object, label: str, key: str, seen: Iterable[str]) -> str:
    """Return the error for a key that no frame has, with the keys that were seen."""
    shown = ", ".join(_listed(seen)) or "none at all"
    return f"{path}: no frame has {shortened(key)} for {label}; keys seen: {shown}"


def _listed(keys: Iterable[str]) -> list[str]:
    return [key if len(key) <= _KEY else f"{key[:_KEY]}…" for key in sorted(keys)[:_KEYS]]


def _shaped(label: str, value: Any, n: int, where: str) -> Any:
    if label in ("kind", "reaction"):
        return str(value)
    try:
        array = np.array(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise PHLError(f"{where} is {shortened(str(value), 40)}; expected numbers for {label}") from error
    known = arrays().get(label)
    if known is None or (known.per == "system" and not known.shape):
        if array.size != 1:
            raise PHLError(f"{where} has shape {array.shape}; expected one number for {label}")
        return float(array.reshape(()))
    if known.per == "probe":
        if array.size == 0 or array.size % (3 * n) or len(array) != n:
            raise PHLError(f"{where} has shape {array.shape}; expected (n, 3K) = ({n}, 3K) for {label}")
        return np.ascontiguousarray(array.reshape(n, -1, 3).transpose(1, 0, 2))
    if known.voigt and array.size == 6:
        return voigt_6_to_full_3x3_stress(array.reshape(6))
    shape = known.shape_for(n)
    if array.size != np.prod(shape):
        also = " (Voigt 6 or 3 × 3)" if known.voigt else ""
        also = f" (per-atom array {(n, shape[0] * shape[1] // n)} or flat)" if known.per == "pair" else also
        raise PHLError(f"{where} has shape {array.shape}; expected {shape} for {label}{also}")
    return array.reshape(shape)


def labelled_atoms(frame: Frame) -> Atoms:
    """Return an ``Atoms`` with the labels of a frame under :func:`default_keys`, for extxyz and the like."""
    atoms = atoms_from_frame(frame)
    n, known = len(frame), arrays()
    facts = {name: getattr(frame, name) for name in ("kind", "reaction", "irc_s", "temperature")}
    atoms.info.update({name: value for name, value in facts.items() if value not in ("", None)})
    for name, value in frame.labels().items():
        per, key = known[name].per, known[name].key
        if per == "system":
            atoms.info[key] = value
        else:
            rows = value.transpose(1, 0, 2) if per == "probe" else value
            atoms.arrays[key] = np.array(rows if per == "atom" and rows.ndim < 3 else rows.reshape(n, -1))
    return atoms
