"""The transition state of the report: its imaginary mode as the reference and the models have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from phl_ase.calculator import PHLCalculator
from phl_ase.datasets import open_dataset, reactions_of
from phl_ase.errors import PHLError
from phl_ase.paths import aligned
from phl_ase.plots import mode
from phl_ase.structures import atoms_from_frame
from phl_ase.study.matrix.cells import FULL, RANDOM
from phl_ase.training.checkpoint import BEST
from phl_ase.vibrations import harmonic_analysis

if TYPE_CHECKING:
    from phl_ase.study.matrix.gather import CellResult
    from phl_ase.study.matrix.tables import Outcome

_ORDER = (RANDOM, FULL)


def mode_picture(outcome: Outcome) -> tuple[str, Callable[[], Any]] | None:
    """Caption and figure of the TS with the largest molecule that a search found; ``None`` where none did."""
    found = _best_search(outcome)
    if found is None:
        return None
    result, report = found
    reference = _reference(outcome, str(report.provenance["reaction"]))
    if reference is None:
        return None
    atoms, analysis = reference
    own = atoms.copy()
    own.positions = np.asarray(report.arrays["positions"], dtype=float)
    own = aligned(own, atoms)
    try:
        calculator = PHLCalculator(str(outcome.study.jobs[result.cell].folder / BEST), device="cpu")
        modes = harmonic_analysis(own, calculator.get_hessian(own))
    except PHLError:
        return None
    label = result.cell.method.label
    wavenumbers = f"{-analysis.wavenumbers[0]:.0f}i", f"{-modes.wavenumbers[0]:.0f}i"
    caption = (
        f"The transition state of {report.system}, three perpendicular views along its principal axes. Arrows: its "
        f"imaginary mode, of the reference ({wavenumbers[0]} cm⁻¹) and of {label} ({wavenumbers[1]} cm⁻¹) at its own "
        f"TS, which a search found from {report.provenance.get('start', 'a displaced start')} "
        f"({result.cell.split} split, seed {result.cell.seed}). The longest arrow of each is equally long."
    )
    pictures = {
        f"reference, {wavenumbers[0]} cm⁻¹": mode.Mode(atoms, analysis.displacements[0]),
        f"{label}, {wavenumbers[1]} cm⁻¹": mode.Mode(own, modes.displacements[0]),
    }
    return caption, lambda: mode.draw(str(report.system), pictures)


def _best_search(outcome: Outcome) -> tuple[CellResult, Any] | None:
    """Preferably of fresh random probes, not trained on, of many atoms."""
    searches = [
        (cell, report)
        for cells in outcome.arms.values()
        for cell in cells
        for report in cell.reports.get("ts", ())
        if report.outcome == "found"
    ]

    def rank(pair: tuple[CellResult, Any]) -> tuple[Any, ...]:
        cell, report = pair
        method = cell.cell.method
        scheme = _ORDER.index(method.scheme) if method.scheme in _ORDER else len(_ORDER)
        unseen = report.provenance.get("part") == "test"
        return (method.regime == "fixed", scheme, not unseen, -len(report.arrays["positions"]), cell.cell.seed)

    return min(searches, key=rank) if searches else None


def _reference(outcome: Outcome, name: str) -> Any:
    """The reference's TS of a reaction and its analysis; ``None`` where it has no Hessian."""
    data = outcome.study.config.data
    with open_dataset(data.source, keys=data.keys or None) as dataset:
        frame = reactions_of(dataset, [name])[name].transition_state
    if frame is None or frame.hessian is None:
        return None
    atoms = atoms_from_frame(frame)
    return atoms, harmonic_analysis(atoms, frame.hessian)
