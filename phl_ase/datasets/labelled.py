"""Labels in ``ase.Atoms``: where foreign files keep them, and how ours are handed out.

Found without being asked: the stored results of a calculator, where ASE puts the keys ``energy``, ``forces`` and
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

from phl_ase.datasets.schema import asymmetry, plausible, symmetrised
from phl_ase.errors import PHLError, shortened, unknown
from phl_ase.structures import atoms_from_frame, frame_from_atoms
from phl_ase.structures.frame import Frame

Array = np.ndarray

DEFAULT_KEYS = {
    "energy": "REF_energy",
    "forces": "REF_forces",
    "stress": "REF_stress",
    "hessian": "REF_hessian",
    "probes": "hvp_dir",
    "hvp": "REF_hvp",
    "kind": "kind",
    "reaction": "reaction",
    "irc_s": "irc_s",
    "temperature": "temperature",
    "charge": "charge",
    "multiplicity": "multiplicity",
}
"""Label -> the key it is looked for under, in ``atoms.info`` and ``atoms.arrays``."""

_CALCULATOR = ("energy", "forces", "stress")
# what ASE keeps of a structure itself, and of a row of a data base
_NO_LABELS = {"numbers", "positions", "masses", "tags", "initial_charges", "initial_magmoms", "spin"} | {
    *("data", "key_value_pairs", "unique_id")
}
_KEYS, _KEY = 50, 80  # how many keys are told, and how much of each


def check_keys(keys: Mapping[str, str] | None) -> dict[str, str]:
    """A key mapping, its labels checked.

    Raises:
        PHLError: For a label that does not exist.
    """
    for label in keys or {}:
        if label not in DEFAULT_KEYS:
            raise unknown("label in the key mapping", label, DEFAULT_KEYS)
    return dict(keys or {})


def labelled_frame(atoms: Atoms, name: str, *, keys: Mapping[str, str] | None = None) -> tuple[Frame, dict[str, str]]:
    """A frame with every label that an ``Atoms`` carries.

    Args:
        atoms: The structure.
        name: How an error names it.
        keys: Label -> key, where a label stands under another key than :data:`DEFAULT_KEYS` says; only that key is then
            looked at, in ``info``, in the arrays and in stored results (``free_energy`` stands there).

    Returns:
        The frame, its Hessian symmetric, and for each label found where it was found: a key, or ``"calculator"``.

    Raises:
        PHLError: For an unknown label, or a value of the wrong shape or type.
    """
    frame, found = frame_as_found(atoms, name, keys=keys)
    if frame.hessian is not None and np.all(np.isfinite(frame.hessian)):
        frame = dataclasses.replace(frame, hessian=symmetrised(frame.hessian, name))
    return plausible(frame, name), found


def frame_as_found(atoms: Atoms, name: str, *, keys: Mapping[str, str] | None = None) -> tuple[Frame, dict[str, str]]:
    """Like :func:`labelled_frame`, but the Hessian stays as asymmetric as it is in the file.

    Raises:
        PHLError: For an unknown label, or a value of the wrong shape or type.
    """
    given = check_keys(keys)
    info = _everywhere(atoms)
    results = _stored_results(atoms)
    values: dict[str, Any] = {}
    found: dict[str, str] = {}
    for label, key in (DEFAULT_KEYS | given).items():
        value = atoms.arrays.get(key, info.get(key))
        if value is None and label in given:
            value = results.get(key)  # ASE moves what has a name of its own there: energy, free_energy, forces, …
        elif value is None and label in _CALCULATOR:
            key, value = "calculator", results.get(label)
        if value is not None:
            values[label], found[label] = value, key
    bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.info = {**info, **{label: values[label] for label in ("charge", "multiplicity") if label in values}}
    frame = frame_from_atoms(bare, name)
    shaped = {
        label: _shaped(label, value, len(atoms), f"{name}: {shortened(found[label])}")
        for label, value in values.items()
    }
    shaped = {label: value for label, value in shaped.items() if label not in ("charge", "multiplicity")}
    return dataclasses.replace(frame, **shaped), found


def hessian_asymmetry(atoms: Atoms, found: Mapping[str, str]) -> float:
    """Largest |H − Hᵀ| of a Hessian as it stands in a file, eV/Å²; 0 where there is none."""
    if "hessian" not in found:
        return 0.0
    key = found["hessian"]
    value = next(place[key] for place in (atoms.arrays, _everywhere(atoms), _stored_results(atoms)) if key in place)
    return asymmetry(np.asarray(value, dtype=float).reshape(3 * len(atoms), -1))


def _everywhere(atoms: Atoms) -> ChainMap[str, Any]:
    """``atoms.info``, then what rows of an ASE data base put one level below."""
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
    return _told(set(seen) - read)


def no_such_key(path: object, label: str, key: str, seen: Iterable[str]) -> str:
    """Return the error for a key that no frame has, with the keys that were seen."""
    told = ", ".join(_told(seen)) or "none at all"
    return f"{path}: no frame has {shortened(key)} for {label}; keys seen: {told}"


def _told(keys: Iterable[str]) -> list[str]:
    return [key if len(key) <= _KEY else f"{key[:_KEY]}…" for key in sorted(keys)[:_KEYS]]


def _shaped(label: str, value: Any, n: int, where: str) -> Any:
    if label in ("kind", "reaction"):
        return str(value)
    try:
        array = np.array(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise PHLError(f"{where} is {shortened(str(value), 40)}; expected numbers for {label}") from error
    if label in ("energy", "irc_s", "temperature", "charge", "multiplicity"):
        if array.size != 1:
            raise PHLError(f"{where} has shape {array.shape}; expected one number for {label}")
        return float(array.reshape(()))
    if label == "stress":
        if array.size == 6:
            return voigt_6_to_full_3x3_stress(array.reshape(6))
        return _reshaped(array, (3, 3), where, "stress (Voigt 6 or 3 × 3)")
    if label == "forces":
        return _reshaped(array, (n, 3), where, "forces")
    if label == "hessian":
        return _reshaped(array, (3 * n, 3 * n), where, "a Hessian (per-atom array (n, 9n) or 9n² numbers)")
    if array.size == 0 or array.size % (3 * n) or len(array) != n:
        raise PHLError(f"{where} has shape {array.shape}; expected (n, 3K) = ({n}, 3K) for {label}")
    return np.ascontiguousarray(array.reshape(n, -1, 3).transpose(1, 0, 2))


def _reshaped(array: Array, shape: tuple[int, ...], where: str, what: str) -> Array:
    if array.size != np.prod(shape):
        raise PHLError(f"{where} has shape {array.shape}; expected {shape} for {what}")
    return array.reshape(shape)


def labelled_atoms(frame: Frame) -> Atoms:
    """An ``Atoms`` with the labels of a frame under :data:`DEFAULT_KEYS`: for extxyz and other formats of ASE."""
    atoms = atoms_from_frame(frame)
    n = len(frame)
    for label in ("kind", "reaction"):
        if getattr(frame, label):
            atoms.info[label] = getattr(frame, label)
    for label in ("irc_s", "temperature", "energy", "stress"):
        if getattr(frame, label) is not None:
            atoms.info[DEFAULT_KEYS[label]] = getattr(frame, label)
    if frame.forces is not None:
        atoms.arrays[DEFAULT_KEYS["forces"]] = frame.forces.copy()
    if frame.hessian is not None:
        atoms.arrays[DEFAULT_KEYS["hessian"]] = frame.hessian.reshape(n, 9 * n).copy()
    for label in ("probes", "hvp"):
        value = getattr(frame, label)
        if value is not None:
            atoms.arrays[DEFAULT_KEYS[label]] = value.transpose(1, 0, 2).reshape(n, -1)
    return atoms
