"""What is in a data set: counts, label coverage, ranges with units, outliers; as a table and as a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from phl_ase.datasets.base import BaseDataset
from phl_ase.datasets.schema import asymmetry
from phl_ase.errors import missing_package
from phl_ase.files import replacing
from phl_ase.structures.frame import Frame

Array = np.ndarray

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
    """Every measure of every frame.

    Returns:
        Measure -> ``(frames,)``, NaN where a frame does not carry what it is taken from; units in :data:`MEASURES`.
    """
    table = {name: np.full(len(dataset), np.nan) for name in MEASURES}
    composition: list[tuple] = []
    for index, frame in enumerate(dataset):
        composition.append((*sorted(frame.numbers.tolist()), frame.charge, frame.multiplicity))
        for name, value in _measured(frame):
            table[name][index] = value
    energies = table["energy_per_atom"]
    for group in set(composition):
        members = np.array([c == group for c in composition]) & ~np.isnan(energies)
        if members.any():
            table["energy_above_lowest"][members] = energies[members] - energies[members].min()
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
    if frame.products is not None:
        yield "hvp_max", float(np.abs(frame.products).max())
    if frame.hessian is not None:
        yield "hessian_max", float(np.abs(frame.hessian).max())
        yield "hessian_asymmetry", asymmetry(frame.hessian)
        yield "hessian_sum_rule", float(np.abs(frame.hessian.reshape(3 * n, n, 3).sum(axis=1)).max())


def summarise(dataset: BaseDataset) -> dict[str, Any]:
    """What a data set holds; reads every frame once.

    Returns:
        Values that JSON holds: ``name``, ``frames``, ``atoms``, ``level_of_theory``, ``energy_reference``,
        ``content_hash``, ``notes``, counts ``by_kind``, ``by_reaction`` (reaction -> kind -> count), ``elements``
        (symbol -> frames), ``sizes`` (atoms -> frames), ``charges``, ``periodic``, ``coverage`` (label -> frames),
        ``ranges`` (measure -> min, mean, max, unit, meaning) and ``outliers`` (measure -> limit, count, first frames).
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
    return {
        "name": dataset.name,
        "frames": len(dataset),
        "atoms": int(dataset.sizes.sum()),
        "level_of_theory": dataset.meta.level_of_theory or "unknown",
        "energy_reference": dataset.meta.energy_reference or "unknown",
        "content_hash": dataset.content_hash(),
        "notes": dataset.meta.notes,
        "by_kind": dict(sorted(Counter(kinds).items())),
        "by_reaction": {name: dict(sorted(count.items())) for name, count in sorted(by_reaction.items())},
        "elements": {chemical_symbols[z]: count for z, count in sorted(elements.items())},
        "sizes": {str(n): count for n, count in sorted(Counter(dataset.sizes.tolist()).items())},
        "charges": {str(q): count for q, count in sorted(charges.items())},
        "periodic": periodic,
        "coverage": {label: int(carried.sum()) for label, carried in dataset.coverage.items()},
        "ranges": {name: _range(name, values) for name, values in table.items() if not np.isnan(values).all()},
        "outliers": _outliers(table),
    }


def _range(name: str, values: Array) -> dict[str, Any]:
    unit, meaning = MEASURES[name]
    low, mean, high = (float(f(values)) for f in (np.nanmin, np.nanmean, np.nanmax))
    return {"min": low, "mean": mean, "max": high, "unit": unit, "meaning": meaning}


def _outliers(table: dict[str, Array]) -> dict[str, Any]:
    found = {}
    for name, (side, limit, unit, meaning) in OUTLIERS.items():
        beyond = np.nonzero(table[name] > limit if side == ">" else table[name] < limit)[0]
        if len(beyond):
            limit_text, first = f"{side} {limit:g} {unit}", beyond[:_LISTED].tolist()
            found[name] = {"limit": limit_text, "meaning": meaning, "count": len(beyond), "frames": first}
    return found


# Okabe and Ito's colours, told apart with any colour vision
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
_PANELS = (
    ("energy_above_lowest", "energy above the lowest of its composition, eV/atom"),
    ("force_max", "largest force on an atom, eV/Å"),
    ("hessian_max", "largest Hessian element, eV/Å²"),
    ("closest", "shortest distance, Å"),
)


def histograms(dataset: BaseDataset, path: str | PathLike[str]) -> None:
    """Draw how energies, forces, curvatures and shortest distances spread over the kinds of geometry, as a PNG.

    Raises:
        PHLError: When matplotlib is missing or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise missing_package("matplotlib", "plot", "drawing histograms") from error
    table = measures(dataset)
    kinds = np.array([kind or "unknown" for kind in dataset.kinds.tolist()])
    names = sorted(set(kinds.tolist()), key=lambda kind: (-int((kinds == kind).sum()), kind))
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(names))]
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (measure, label) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        values = [v[~np.isnan(v)] for v in (table[measure][kinds == kind] for kind in names)]
        if sum(map(len, values)):
            axes.hist(values, bins=30, stacked=True, color=colours)
        else:
            axes.text(0.5, 0.5, "no frame carries this label", ha="center", va="center", transform=axes.transAxes)
        axes.set_xlabel(label)
        axes.set_ylabel("frames")
    handles = [Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(names)))
    level = dataset.meta.level_of_theory or "level unknown"
    figure.suptitle(f"{Path(dataset.name).name}: {len(dataset)} frames, {level}")
    with replacing(Path(path)) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))
