"""Gradients of the reference, each bought once: counted, limited by a budget, on disk before anyone uses them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import SCFError

from phl_ase.errors import CalculatorError, GuardedCalculator, NonFiniteError, PHLError
from phl_ase.files import write_atomic
from phl_ase.jobs import Store, Task, digest, run, serial
from phl_ase.jobs.executors import Executor
from phl_ase.types import Array

_SAME = 1e-7  # Å: two geometries are one


class LearningStopped(PHLError):
    """A run ended before everything was confirmed; what was learnt is kept.

    Attributes:
        outcome: A key of ``phl_ase.learning.LEARNING_OUTCOMES``.
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
        kind: What the geometry is to the search: ``"ts"``, ``"end"``, ``"path"``; ``"probe"`` for one side of an HVP.
        number: In the order in which gradients were bought, from 0.
    """

    positions: Array
    energy: float
    forces: Array
    kind: str
    number: int

    @property
    def fmax(self) -> float:
        """Largest force on an atom, eV/Å."""
        return float(np.linalg.norm(self.forces, axis=1).max())


@dataclass(frozen=True, eq=False)
class HVP:
    """A Hessian-vector product of the reference, a central difference of two gradients.

    Attributes:
        positions: Where ``(n, 3)`` Å.
        vector: The probe ``(n, 3)``; the atom that moves most moves by 1.
        product: ``(n, 3)`` eV/Å².
    """

    positions: Array
    vector: Array
    product: Array

    def repeats(self, other: HVP) -> bool:
        """Return whether the other says the same: one place, and one direction or its opposite."""
        if not np.array_equal(self.positions, other.positions):
            return False
        return bool(min(np.abs(self.vector - sign * other.vector).max() for sign in (1, -1)) <= 1e-6)


class LabelStore:
    """Gradients and HVPs that the reference has computed for one molecule.

    A gradient is a task of :mod:`phl_ase.jobs`: one file each, written before the result is used. A killed run loses
    at most the gradients under way, and no geometry is computed twice.

    Args:
        store: The open folder of results.
        atoms: The molecule: its elements, charge and multiplicity.
        make: Makes the reference's calculator, where it is to compute.
        identity: What gradients depend on beside the geometry: method and settings. Results of others are left alone.
        step: Displacement, in HVPs, of the atom that moves most, Å.
        budget: Most gradients altogether; ``None`` for no limit.
        executor: Where gradients are computed.

    Attributes:
        gradients: Those known, in the order in which they were bought.
        hvps: HVPs made of them.
        seconds: Time that the reference took, those of former runs included.
    """

    def __init__(
        self,
        store: Store,
        atoms: Atoms,
        make: Callable[[], Any],
        identity: Mapping[str, Any],
        *,
        step: float,
        budget: int | None = None,
        executor: Executor = serial,
    ) -> None:
        self.atoms, self.step, self.budget = atoms.copy(), step, budget
        self.atoms.calc = None
        self.gradients: list[Gradient] = []
        self.hvps: list[HVP] = []
        self.seconds = 0.0
        self._store, self._executor = store, executor
        self._start: Callable[[], Any] = functools.partial(_reference, make, self.atoms)
        if executor is serial:  # one calculator for all calls
            self._start = functools.cache(self._start)
        charge = {name: int(atoms.info.get(name, usual)) for name, usual in (("charge", 0), ("multiplicity", 1))}
        self._identity = digest(dict(identity), atoms.get_chemical_symbols(), charge)
        self._read()

    def __len__(self) -> int:
        return len(self.gradients)

    def _read(self) -> None:
        """Take what former runs have bought."""
        sides: dict[tuple[bytes, bytes], dict[int, Gradient]] = {}
        for path in self._store.folder.glob("??/*.npz"):
            record = self._store.get(path.stem)
            if record is None or record.value.get("identity") != self._identity:
                continue
            self.seconds += record.seconds
            value = record.value
            known = Gradient(value["positions"], value["energy"], value["forces"], value["kind"], value["number"])
            self.gradients.append(known)
            if known.kind == "probe":
                key = (value["centre"].tobytes(), value["vector"].tobytes())
                sides.setdefault(key, {})[value["sign"]] = known
        self.gradients.sort(key=lambda known: known.number)
        whole = [(key, pair) for key, pair in sides.items() if len(pair) == 2]
        for (centre, vector), pair in sorted(whole, key=lambda one: one[1][1].number):
            where, along = (np.frombuffer(one).reshape(-1, 3) for one in (centre, vector))
            self.hvps.append(HVP(where, along, (pair[-1].forces - pair[1].forces) / (2 * self.step)))

    def kernel(self) -> dict[str, float] | None:
        """Return the kernel settings of the last fit, of a former run too; ``None`` where there are none to be read."""
        try:
            found = json.loads(self._kernel_file.read_text())
            return {str(name): float(value) for name, value in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def keep_kernel(self, settings: Mapping[str, float]) -> None:
        """Keep the kernel settings of a fit: the next climbs from them, so that a stop changes no later fit."""
        if settings != self.kernel():
            write_atomic(self._kernel_file, json.dumps(dict(settings)).encode())

    @property
    def _kernel_file(self) -> Path:
        return self._store.folder / f"kernel-{self._identity[:12]}.json"

    @property
    def points(self) -> list[Gradient]:
        """Gradients that are no sides of HVPs."""
        return [known for known in self.gradients if known.kind != "probe"]

    def find(self, positions: Array) -> Gradient | None:
        """Return the known gradient of a geometry; ``None`` where there is none."""
        for known in reversed(self.gradients):
            if np.abs(known.positions - positions).max() <= _SAME:
                return known
        return None

    def gradient(self, positions: Array, kind: str) -> Gradient:
        """Return energy and forces at a geometry, bought where they are not known; see :meth:`buy`."""
        return self.buy([positions], kind)[0]

    def buy(self, places: Sequence[Array], kind: str) -> list[Gradient]:
        """Return energies and forces at geometries, bought together where they are not known.

        Raises:
            LearningStopped: Where the budget does not allow them all, or the reference fails.
        """
        return self._buy([{"positions": np.array(place, dtype=float), "kind": kind} for place in places])

    def label_hvps(self, positions: Array, vectors: Sequence[Array], *, teach: bool = True) -> list[HVP]:
        """Return products of the reference's Hessian, two gradients each, bought where they are not known.

        Args:
            positions: Where ``(n, 3)`` Å.
            vectors: ``(n, 3)`` each, of any length.
            teach: Whether they are kept in ``hvps``, which models learn from.

        Raises:
            LearningStopped: As :meth:`buy`.
        """
        units = [vector / np.linalg.norm(vector, axis=1).max() for vector in vectors]
        requests = [
            {
                "positions": positions + sign * self.step * unit,
                "kind": "probe",
                "centre": np.ascontiguousarray(positions),
                "vector": np.ascontiguousarray(unit),
                "sign": sign,
            }
            for unit in units
            for sign in (1, -1)
        ]
        found = self._buy(requests)
        made = [
            HVP(positions, unit, (behind.forces - ahead.forces) / (2 * self.step))
            for unit, ahead, behind in zip(units, found[::2], found[1::2], strict=True)
        ]
        if teach:
            self.hvps += [one for one in made if not any(map(one.repeats, self.hvps))]
        return made

    def _buy(self, requests: Sequence[dict[str, Any]]) -> list[Gradient]:
        found = [self.find(request["positions"]) for request in requests]
        tasks: dict[int, Task] = {}
        for place, request in enumerate(requests):
            if found[place] is None:
                key = digest(self._identity, request["positions"].tolist())
                payload = {**request, "number": len(self) + len(tasks), "identity": self._identity}
                tasks[place] = Task(request["kind"], key, payload)
        if self.budget is not None and tasks and len(self) + len(tasks) > self.budget:
            spent = f"{len(self)} of {self.budget} reference gradients are spent"
            raise LearningStopped("budget spent", f"{spent}, and the next step needs {len(tasks)}")
        if tasks:
            run(list(tasks.values()), self._start, self._store, executor=self._executor, title="reference", retry=True)
        problem = ""
        for place, task in tasks.items():
            record = self._store.get(task.key)
            if record is None or record.failure is not None:
                why = "it gave no answer" if record is None or record.failure is None else record.failure.reason
                problem = problem or f"the reference failed at a {requests[place]['kind']} geometry: {why}"
                continue
            value = record.value
            made = Gradient(value["positions"], value["energy"], value["forces"], value["kind"], value["number"])
            self.seconds += record.seconds
            self.gradients.append(made)
            found[place] = made
        if problem:
            raise LearningStopped("reference failed", problem)
        return [one for one in found if one is not None]


def _reference(make: Callable[[], Any], atoms: Atoms) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that computes a gradient in a worker."""
    calculator = GuardedCalculator(make())

    def compute(request: dict[str, Any]) -> dict[str, Any]:
        structure = atoms.copy()
        structure.positions = request["positions"]
        structure.calc = calculator
        try:
            forces = np.array(structure.get_forces(apply_constraint=False), dtype=float)
            energy = float(structure.get_potential_energy(apply_constraint=False))
        except CalculatorError as error:
            if isinstance(error.__cause__, SCFError):
                raise PHLError(f"the self-consistent field did not converge ({error.__cause__})") from error
            raise
        if not (np.isfinite(energy) and np.all(np.isfinite(forces))):
            raise NonFiniteError("energy or forces are NaN or infinite")
        return {**request, "energy": energy, "forces": forces}

    return compute


__all__ = ["HVP", "Gradient", "LabelStore", "LearningStopped"]
