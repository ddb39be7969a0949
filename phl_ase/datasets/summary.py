"""Summary of a data set: counts, label coverage, ranges with units, outliers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from phl_ase.datasets.base import BaseDataset
from phl_ase.hessians import asymmetry
from phl_ase.structures.frame import Frame
from phl_ase.structures.label import label_of, others
from phl_ase.types import Array

OUTLIERS = {
    "energy_above_lowest": (">", 2.0, "eV/atom", "energy above the lowest of the same composition and charge"),
    "force_max": (">", 50.0, "eV/Å", "largest force on an atom"),
    "net_force": (">", 0.05, "eV/Å", "sum of the forces of a molecule (0 in theory)"),
    "hessian_max": (">", 1000.0, "eV/Å²", "largest element of a Hessian"),
    "hessian_sum_rule": (">", 0.1, "eV/Å²", "acoustic sum rule: largest sum over the atoms of a row"),
    "closest": ("<", 0.5, "Å", "shortest distance between two atoms"),
}
"""Measure -> (side, limit, unit, meaning): frames beyond the limit are listed as outliers."""

MEASURES = {
    "energy_per_atom": ("eV/atom", "energy per atom"),
    **{name: (unit, meaning) for name, (_, _, unit, meaning) in OUTLIERS.items()},
    "stress_max": ("eV/Å³", "largest element of a stress"),
    "hvp_max": ("eV/Å²", "largest element of a Hessian-vector product"),
    "hessian_asymmetry": ("eV/Å²", "largest |H − Hᵀ|"),
    "temperature": ("K", "sampling temperature"),
    "irc_s": ("√amu·Å", "signed arc length from the TS"),
}
"""Measure of one frame -> (unit, meaning)."""

_LISTED = 20


def measures(dataset: BaseDataset) -> dict[str, Array]:
    """Return every measure of every frame.

    Returns:
        Measure -> ``(frames,)``, NaN where a frame does not carry what it is taken from; units in :data:`MEASURES`.
    """
    table = {name: np.full(len(dataset), np.nan) for name in (*MEASURES, *(f"{label}_max" for label in others()))}
    number_of: dict[tuple, int] = {}
    composition = np.empty(len(dataset), dtype=int)
    for index, frame in enumerate(dataset):
        key = (*sorted(frame.numbers.tolist()), frame.charge, frame.multiplicity)
        composition[index] = number_of.setdefault(key, len(number_of))
        for name, value in _measured(frame):
            table[name][index] = value
    energies = table["energy_per_atom"]
    lowest = np.full(len(number_of), np.inf)
    np.fmin.at(lowest, composition, energies)  # takes no notice of NaN
    table["energy_above_lowest"] = energies - lowest[composition]
    return table


def _measured(frame: Frame) -> Iterator[tuple[str, float | None]]:
    n = len(frame)
    yield "temperature", np.nan if frame.temperature is None else frame.temperature
    yield "irc_s", np.nan if frame.irc_s is None else frame.irc_s
    if 1 < n <= 500:  # all pairs: not worth it for larger systems
        periodic = bool(np.any(frame.pbc))
        atoms = Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
        yield "closest", float(atoms.get_all_distances(mic=periodic)[np.triu_indices(n, 1)].min())
    if frame.energy is not None:
        yield "energy_per_atom", frame.energy / n
    if frame.forces is not None:
        yield "force_max", float(np.linalg.norm(frame.forces, axis=1).max())
        yield "net_force", float(np.linalg.norm(frame.forces.sum(axis=0)))
    if frame.stress is not None:
        yield "stress_max", float(np.abs(frame.stress).max())
    if frame.hvp is not None:
        yield "hvp_max", float(np.abs(frame.hvp).max())
    for label, value in frame.extra.items():
        yield f"{label}_max", float(np.abs(value).max())
    if frame.hessian is not None:
        yield "hessian_max", float(np.abs(frame.hessian).max())
        yield "hessian_asymmetry", asymmetry(frame.hessian)
        yield "hessian_sum_rule", float(np.abs(frame.hessian.reshape(3 * n, n, 3).sum(axis=1)).max())


def summarise(dataset: BaseDataset) -> dict[str, Any]:
    """Return a summary of a data set; it reads every frame twice.

    Returns:
        Values that JSON holds: ``name``, ``frames``, ``atoms``, ``level_of_theory``, ``energy_reference``,
        ``content_hash``, ``notes``, ``keys_not_read``, counts ``by_kind``, ``by_reaction`` (reaction -> kind -> count),
        ``elements`` (symbol -> frames), ``sizes`` (atoms -> frames), ``charges``, ``periodic``, ``coverage`` (label ->
        frames), ``ranges`` (measure -> min, mean, max, unit, meaning) and ``outliers`` (measure -> limit, count, first
        frames).
    """
    table = measures(dataset)
    kinds = [kind or "unknown" for kind in dataset.kinds.tolist()]
    by_reaction: dict[str, Counter] = {}
    for reaction, kind in zip(dataset.reactions.tolist(), kinds, strict=True):
        by_reaction.setdefault(reaction or "unknown", Counter())[kind] += 1
    elements: Counter[int] = Counter()
    charges: Counter[int] = Counter()
    periodic = 0
    for frame in dataset:
        elements.update(set(frame.numbers.tolist()))
        charges[frame.charge] += 1
        periodic += bool(np.any(frame.pbc))
    ranges, outliers = {}, {}
    for name, values in table.items():
        if np.isnan(values).all():
            continue
        label = name.removesuffix("_max")
        unit, meaning = MEASURES.get(name) or (label_of(label).unit, f"largest element of {label}")
        low, mean, high = (float(f(values)) for f in (np.nanmin, np.nanmean, np.nanmax))
        ranges[name] = {"min": low, "mean": mean, "max": high, "unit": unit, "meaning": meaning}
    for name, (side, limit, unit, meaning) in OUTLIERS.items():
        beyond = np.nonzero(table[name] > limit if side == ">" else table[name] < limit)[0]
        if len(beyond):
            limit_text, first = f"{side} {limit:g} {unit}", beyond[:_LISTED].tolist()
            outliers[name] = {"limit": limit_text, "meaning": meaning, "count": len(beyond), "frames": first}
    return {
        "name": dataset.name,
        "frames": len(dataset),
        "atoms": int(dataset.sizes.sum()),
        "level_of_theory": dataset.meta.level_of_theory or "unknown",
        "energy_reference": dataset.meta.energy_reference or "unknown",
        "content_hash": dataset.content_hash(),
        "notes": dataset.meta.notes,
        "keys_not_read": list(dataset.keys_not_read),
        "by_kind": dict(sorted(Counter(kinds).items())),
        "by_reaction": {name: dict(sorted(count.items())) for name, count in sorted(by_reaction.items())},
        "elements": {chemical_symbols[z]: count for z, count in sorted(elements.items())},
        "sizes": {str(n): count for n, count in sorted(Counter(dataset.sizes.tolist()).items())},
        "charges": {str(q): count for q, count in sorted(charges.items())},
        "periodic": periodic,
        "coverage": {label: int(carried.sum()) for label, carried in dataset.coverage.items()},
        "ranges": ranges,
        "outliers": outliers,
    }
