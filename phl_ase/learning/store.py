"""Gradients of the reference, each bought once: counted, limited by a budget, on disk before anyone uses them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import SCFError

from phl_ase.errors import CalculatorError, GuardedCalculator, PHLError, reason_of

Array = np.ndarray

_FILE = "gradients.jsonl"
_SAME = 1e-7  # Å: two geometries are one
_SCHEMA = 1


class LearningStopped(PHLError):
    """A run ended before everything was confirmed; what was learnt is kept.

    Attributes:
        outcome: A key of ``phl_ase.learning.OUTCOMES``.
    """

    def __init__(self, outcome: str, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass(frozen=True, eq=False)
class Gradient:
    """Energy and forces of the reference at one geometry.

    Attributes:
        positions: ``(n, 3)`` Å.
        energy: eV.
        forces: ``(n, 3)`` eV/Å.
        kind: What the geometry is to the search: ``"guess"``, ``"ts"``, ``"end"``, ``"path"`` or ``"probe"``.
    """

    positions: Array
    energy: float
    forces: Array
    kind: str

    @property
    def fmax(self) -> float:
        """Largest force on an atom, eV/Å."""
        return float(np.linalg.norm(self.forces, axis=1).max())


@dataclass(frozen=True, eq=False)
class Product:
    """A Hessian-vector product of the reference, a central difference of two gradients.

    Attributes:
        positions: Where ``(n, 3)`` Å.
        vector: The probe ``(n, 3)``, of unit length over all coordinates.
        hvp: ``(n, 3)`` eV/Å².
    """

    positions: Array
    vector: Array
    hvp: Array


class LabelStore:
    """All that the reference has computed for one molecule.

    Every gradient is one line of a file, forced to disk before it is used: a killed run loses at most the one that is
    being computed, and no geometry is computed twice.

    Args:
        folder: Where the file is; made where it does not exist.
        atoms: The molecule: its elements, charge and multiplicity.
        make: Makes the reference's calculator, when the first gradient is needed.
        identity: What gradients depend on beside the geometry: method and settings. A file of another is refused.
        step: Displacement in HVPs along vectors of unit length, Å.
        budget: Most gradients in the file; ``None`` for no limit.

    Attributes:
        gradients: Those known, in the order they were bought.
        products: HVPs made of them.
        seconds: Wall time spent in the reference by this process.
    """

    def __init__(
        self,
        folder: Path,
        atoms: Atoms,
        make: Callable[[], Any],
        identity: dict[str, Any],
        *,
        step: float,
        budget: int | None = None,
    ) -> None:
        self.atoms, self.step, self.budget = atoms.copy(), step, budget
        self.gradients: list[Gradient] = []
        self.products: list[Product] = []
        self.seconds = 0.0
        self._make, self._calculator = make, None
        self._file = folder / _FILE
        header = {
            "schema": _SCHEMA,
            "symbols": atoms.get_chemical_symbols(),
            "charge": int(atoms.info.get("charge", 0)),
            "multiplicity": int(atoms.info.get("multiplicity", 1)),
            **identity,
        }
        folder.mkdir(parents=True, exist_ok=True)
        if self._file.exists() and (lines := self._lines()):
            self._read(header, lines)
        else:
            self._append(header)

    def __len__(self) -> int:
        return len(self.gradients)

    def _lines(self) -> list[dict[str, Any]]:
        """Return the whole lines; one that was being written when the run was killed is cut off."""
        content = self._file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with self._file.open("r+b") as file:
                file.truncate(len(whole))
        return [json.loads(line) for line in whole.splitlines()]

    def _read(self, header: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        before = lines[0]
        for key, value in header.items():
            if before.get(key) != value:
                raise PHLError(
                    f"{self._file.parent} holds gradients of {key} {before.get(key)}, not {value}; "
                    "choose another --out, or move that folder away"
                )
        for line in lines[1:]:
            positions, forces = np.array(line["positions"]), np.array(line["forces"])
            self.gradients.append(Gradient(positions, line["energy"], forces, line["kind"]))

    def _append(self, line: dict[str, Any]) -> None:
        try:
            with self._file.open("a") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise PHLError(f"cannot write {self._file}: {error.strerror}; gradients could not be kept") from error

    def find(self, positions: Array, within: float = _SAME) -> Gradient | None:
        """Return the known gradient of a geometry; ``None`` where there is none."""
        for known in reversed(self.gradients):
            if np.abs(known.positions - positions).max() <= within:
                return known
        return None

    def gradient(self, positions: Array, kind: str) -> Gradient:
        """Return energy and forces at a geometry, bought where they are not known.

        Raises:
            LearningStopped: Where the budget does not allow it, or the reference fails.
        """
        return self.buy([positions], kind)[0]

    def buy(self, places: Sequence[Array], kind: str) -> list[Gradient]:
        """Return energies and forces at geometries, bought where they are not known.

        Raises:
            LearningStopped: Where the budget does not allow them all, or the reference fails.
        """
        new = sum(self.find(place) is None for place in places)
        if self.budget is not None and new and len(self) + new > self.budget:
            raise LearningStopped(
                "budget spent",
                f"{len(self)} of {self.budget} reference gradients are spent, and the next step needs {new}",
            )
        return [self.find(place) or self._compute(place, kind) for place in places]

    def _compute(self, positions: Array, kind: str) -> Gradient:
        started = time.perf_counter()
        if self._calculator is None:
            self._calculator = self._make()
        structure = self.atoms.copy()
        structure.positions = positions
        structure.calc = GuardedCalculator(self._calculator)
        try:
            forces = np.array(structure.get_forces(apply_constraint=False), dtype=float)
            energy = float(structure.get_potential_energy(apply_constraint=False))
        except (CalculatorError, SCFError, PHLError) as error:
            problem = error.__cause__ if isinstance(error, CalculatorError) and error.__cause__ else error
            raise LearningStopped(
                "reference failed", f"the reference failed at a {kind} geometry: {reason_of(problem)}"
            ) from error
        if not (np.isfinite(energy) and np.all(np.isfinite(forces))):
            raise LearningStopped("reference failed", f"the reference gave NaN or infinity at a {kind} geometry")
        self.seconds += time.perf_counter() - started
        made = Gradient(np.array(positions, dtype=float), energy, forces, kind)
        self._append({"kind": kind, "energy": energy, "positions": positions.tolist(), "forces": forces.tolist()})
        self.gradients.append(made)
        return made

    def hvps(self, positions: Array, vectors: Sequence[Array]) -> list[Product]:
        """Return products of the reference's Hessian, two gradients each.

        Args:
            positions: Where ``(n, 3)`` Å.
            vectors: ``(n, 3)`` each, of any length.

        Raises:
            LearningStopped: As :meth:`buy`.
        """
        units = [vector / np.linalg.norm(vector) for vector in vectors]
        places = [positions + sign * self.step * unit for unit in units for sign in (1, -1)]
        found = self.buy(places, "probe")
        made = [
            Product(positions, unit, (behind.forces - ahead.forces) / (2 * self.step))
            for unit, ahead, behind in zip(units, found[::2], found[1::2], strict=True)
        ]
        self.products += made
        return made
