"""A calculator that remembers: what it has computed is in a file at once and never computed again.

A search that is started anew with the same settings asks for the same geometries, so it runs through what is known in
milliseconds and goes on where it was stopped: a kill loses one calculation.
"""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from phl_ase.curvature import curvature_of
from phl_ase.errors import DiskError, GuardedCalculator, PHLError
from phl_ase.files import write_atomic
from phl_ase.results import plain
from phl_ase.types import Array, ASECalculator

_Entry = dict[str, Any]

LABEL_FILE = "labels.jsonl"
"""The file, one JSON object a line: positions (Å) with energy and forces, or a Hessian, or vectors and HVPs."""


class Memory:
    """Finished calculations of one molecule, by geometry, bit for bit.

    Args:
        path: The file; one writer at a time.

    Attributes:
        trouble: Why something could not be written; a search would take the exception for one of its calculator.

    Raises:
        PHLError: For a file that holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble: DiskError | None = None
        self._known: dict[bytes, _Entry] = {}
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise PHLError(f"cannot read {path}: {error.strerror}") from None
        # a kill may have left half a line
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            write_atomic(path, whole)
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                self._known.setdefault(_key(entry), {}).update(entry)
            except (ValueError, TypeError, KeyError):
                raise PHLError(f"line {number} of {path} is damaged; delete it: its calculation is repeated") from None

    def find(self, atoms: Atoms, label: str, vectors: Array | None = None) -> Any:
        """Return a label of a geometry; ``None`` where it is not known."""
        asked = (
            {"positions": atoms.positions} if vectors is None else {"positions": atoms.positions, "vectors": vectors}
        )
        return self._known.get(_key(asked), {}).get(label)

    def keep(self, entry: _Entry) -> None:
        """Add what was computed; what is not finite is not kept.

        Raises:
            PHLError: When it cannot be written.
        """
        arrays = [np.asarray(value, dtype=float) for value in entry.values()]
        if not all(np.all(np.isfinite(array)) for array in arrays):
            return
        if self.trouble is not None:
            raise self.trouble
        record = plain(entry)
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            self.trouble = DiskError(f"cannot write {self.path}: {error.strerror}; what was computed before is kept")
            raise self.trouble from None
        self._known.setdefault(_key(record), {}).update(record)

    def count(self, label: str) -> int:
        """Return the number of geometries of which a label is known."""
        return sum(label in entry for entry in self._known.values())

    @property
    def seconds(self) -> float:
        """Time that everything known took."""
        return float(sum(entry.get("seconds", 0.0) for entry in self._known.values()))


def _key(entry: _Entry) -> bytes:
    parts = [entry["positions"], *(entry[name] for name in ("vectors",) if name in entry)]
    return b"|".join(np.asarray(part, dtype=float).tobytes() for part in parts)


class Remembering(Calculator):
    """Energy and forces of a calculator, each geometry once.

    Args:
        calculator: Who computes what is not known.
        memory: What is known.

    Attributes:
        computed: Number of gradients, Hessians and HVPs that were not known.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (ASE wants a list)

    def __init__(self, calculator: ASECalculator, memory: Memory) -> None:
        super().__init__()
        self.calculator, self.memory = GuardedCalculator(calculator), memory
        self.computed = {"gradients": 0, "hessians": 0, "hvp": 0}

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """Energy and forces, from memory where they are known."""
        super().calculate(atoms, properties, system_changes)
        energy, forces = (self.memory.find(atoms, label) for label in ("energy", "forces"))
        if energy is None:
            started = time.perf_counter()
            structure = self._given(atoms)
            # forces first: a calculator asked for the energy alone would have to start again
            forces = np.array(structure.get_forces(apply_constraint=False), dtype=float)
            energy = float(structure.get_potential_energy(apply_constraint=False))
            self._keep(atoms, "gradients", started, energy=energy, forces=forces)
        self.results = {"energy": energy, "free_energy": energy, "forces": np.array(forces)}

    def _given(self, atoms: Atoms) -> Atoms:
        copy = atoms.copy()
        copy.calc = self.calculator
        return copy

    def _keep(self, atoms: Atoms, kind: str, started: float, **labels: Any) -> None:
        self.computed[kind] += 1
        self.memory.keep({"positions": atoms.positions.copy(), **labels, "seconds": time.perf_counter() - started})
        if time.perf_counter() - started > 0.1:
            gc.collect()  # PySCF's objects are cycles around large arrays, and few: nothing else frees them in time


class RememberingCurvature(Remembering):
    """Energy, forces and curvature of a calculator that has Hessians of its own, each once."""

    def get_hessian(self, atoms: Atoms) -> Array:
        """``(3n, 3n)`` eV/Å²."""
        known = self.memory.find(atoms, "hessian")
        if known is not None:
            return np.array(known)
        started = time.perf_counter()
        hessian = curvature_of(self.calculator).hessian(self._given(atoms))
        self._keep(atoms, "hessians", started, hessian=hessian)
        return np.array(hessian)

    def get_hvp(self, vectors: Array, atoms: Atoms) -> Array:
        """HVPs ``(n, 3)`` or ``(K, n, 3)``, eV/Å² per unit of vector."""
        given = np.asarray(vectors, dtype=float)
        hvps = []
        for vector in given.reshape(-1, len(atoms), 3):
            hvp = self.memory.find(atoms, "hvp", vector)
            if hvp is None:
                started = time.perf_counter()
                hvp = curvature_of(self.calculator).hvp(vector, self._given(atoms))
                self._keep(atoms, "hvp", started, vectors=vector, hvp=hvp)
            hvps.append(hvp)
        return np.array(hvps).reshape(given.shape)


def remembering(calculator: ASECalculator, memory: Memory) -> Remembering:
    """Return a remembering calculator with as much curvature of its own as another has."""
    kind = RememberingCurvature if curvature_of(calculator).is_exact else Remembering
    return kind(calculator, memory)
