"""A potential as an ASE calculator, with curvature: Hessians, Hessian-vector products and the operator between them.

Units are ASE's: eV, eV/Å, eV/Å³ (Voigt order and sign of ASE), eV/Å². The structure of a geometry (neighbour list) is
made once and shared by everything asked of it. Curvature is that of the unconstrained energy.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes, compare_atoms
from ase.outputs import Properties, all_outputs
from ase.vibrations import VibrationsData

from phl_ase.calculator.hessians import (
    HessianOperator,
    checked_indices,
    checked_vectors,
    coordinates_of,
    in_layout,
)
from phl_ase.calculator.models import DTYPES, checked_frame, label_of, load_potential
from phl_ase.calculator.unpacking import finite, has_volume, part_of, require_volume, stacked, to_numpy
from phl_ase.derivatives import GradientGraph, choose_device, default_budget, evaluate, rows_per_chunk
from phl_ase.errors import PHLError, unknown
from phl_ase.potentials import Committee
from phl_ase.structures import Batch, Frame, charge_and_multiplicity, collate

Array = np.ndarray

QUANTITIES = ("energy", "forces", "stress", "hessian")
"""What ``PHLCalculator.evaluate`` can be asked for."""

_WITH_SPREAD = ("energy", "forces")


@dataclass
class _Geometry:
    # the last structure asked about, and what was made of it
    atoms: Atoms
    frame: Frame
    batch: Batch
    graph: GradientGraph | None = None


class PHLCalculator(Calculator):
    """Energy, forces, stress, Hessian and Hessian-vector products of a potential or a committee.

    ASE properties: ``energy`` and ``free_energy`` (the same, eV), ``forces`` (eV/Å), ``stress`` (eV/Å³; only where the
    cell has a volume) and ``hessian`` (``(3n, 3n)`` eV/Å², by :meth:`get_property`). Energy and forces come together,
    a Hessian brings them along. A committee gives its mean, and ``energy_std`` and ``forces_std`` (sample standard
    deviations, per component) in ``results``. Beyond ASE's own rules, a change of ``charge``, ``multiplicity`` or
    ``spin`` in ``atoms.info`` is a new calculation; initial charges and magnetic moments, which no potential reads, are
    none. A charge that the model does not take is refused; of a multiplicity that it does not tell apart a warning says
    so, once.

    Args:
        model: A bundled name, a ``.safetensors`` file, a potential, or a list of any of these: a committee.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ….
        dtype: ``"float64"``, or ``"float32"`` (faster on a GPU; forces good to about 1e-5 eV/Å). What comes out is
            float64 either way.
        memory_budget: Bytes that Hessian rows taken together may use; by default 2 GiB, or half of a GPU's free memory.

    Raises:
        PHLError: For a model, device or dtype that does not exist, or a committee whose members do not agree.
    """

    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012 (ASE wants a set)

    def __init__(
        self,
        model: Any = "default",
        device: str | torch.device = "auto",
        dtype: str = "float64",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__()
        self.device = choose_device(str(device))
        if memory_budget is not None and memory_budget <= 0:
            raise PHLError(f"memory_budget is {memory_budget} bytes; expected a positive number, or None")
        self.potential = load_potential(model, dtype, self.device)
        self.memory_budget = memory_budget
        self.parameters.update(model=label_of(model), device=str(self.device), dtype=dtype)
        self.implemented_properties = ["energy", "free_energy", "forces", "stress", "hessian"]
        self._members = list(self.potential.members) if isinstance(self.potential, Committee) else [self.potential]
        if len(self._members) > 1:
            self.implemented_properties += [f"{name}_std" for name in _WITH_SPREAD]
        self._dtype = DTYPES[dtype]
        self._geometry: _Geometry | None = None
        self._warned_of_spin = False

    # -- ASE ----------------------------------------------------------------------------------------------------------

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation; charge and multiplicity in ``atoms.info`` count."""
        return _changes(self.atoms, atoms, tol, self.ignored_changes)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Collection[str] = ("energy",),
        system_changes: Collection[str] = all_changes,
    ) -> None:
        """Fill ``results`` with energy and forces, and with the stress or Hessian where asked for.

        Raises:
            PHLError: For a structure that the model cannot answer for.
            NonFiniteError: For NaN or infinity in the structure or the results.
            PropertyNotImplementedError: For the stress of a structure whose cell has no volume.
        """
        atoms = self._atoms_or_last(atoms)
        geometry = self._at(atoms)
        if self.check_state(atoms):
            self.results = {}
        super().calculate(atoms, list(properties), list(system_changes))
        needs = ["energy", "forces"]
        # a bulk system is about to be asked for its stress, and it costs little beside the forces
        if "stress" in properties or (geometry.frame.pbc.any() and has_volume(geometry.frame)):
            needs.append("stress")
        if "hessian" in properties:
            needs.append("hessian")
        (found,) = self._predict(geometry.batch, [geometry.frame], [_name(atoms)], needs)
        self.results.update(found, free_energy=found["energy"])

    def export_properties(self) -> Properties:
        """The results that ASE has a definition of."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def __getstate__(self) -> dict[str, Any]:
        # copies and pickles do without the graph, which cannot be copied
        return {**self.__dict__, "_geometry": None}

    # -- curvature ----------------------------------------------------------------------------------------------------

    def get_hessian(
        self,
        atoms: Atoms | None = None,
        *,
        layout: str = "3n3n",
        indices: Sequence[int] | Array | str | None = None,
    ) -> Array:
        """The Hessian of the energy; what Sella's ``hessian_function`` wants.

        By default that of all atoms, whatever constraints hold them (Sella and
        :func:`phl_ase.vibrations.harmonic_analysis` take it so and see to the constraints themselves).

        Args:
            atoms: The structure; the last one by default.
            layout: ``"3n3n"`` (Sella), ``"n3n3"`` (ASE's ``VibrationsData``) or ``"nn33"`` (phonopy's force constants).
            indices: Atoms of a partial Hessian, ascending, at the cost of their rows alone; ``"free"`` for those that
                no ``FixAtoms`` or ``FixCartesian`` holds, as in ``ase.vibrations.Vibrations``.

        Returns:
            Symmetrised, float64, C-contiguous, eV/Å², for the m atoms chosen: ``(3m, 3m)``, ``(m, 3, m, 3)`` or
            ``(m, m, 3, 3)``.

        Raises:
            PHLError: For an unknown layout, wrong indices, or a structure that the model cannot answer for.
            NonFiniteError: For NaN or infinity in the structure or the Hessian.
        """
        atoms = self._atoms_or_last(atoms)
        in_layout(np.zeros((3, 3)), layout)  # an unknown layout is found before anything is paid for
        if indices is None:
            return in_layout(self.get_property("hessian", atoms), layout)
        if isinstance(indices, str):
            if indices != "free":
                raise PHLError(f"indices are {indices!r}; expected 'free' or atom numbers")
            indices = VibrationsData.indices_from_constraints(atoms)
        chosen = checked_indices(indices, len(atoms))
        rows = coordinates_of(chosen)
        known = len(chosen) == len(atoms) or ("hessian" in self.results and not self.check_state(atoms))
        if known:
            return in_layout(self.get_property("hessian", atoms)[np.ix_(rows, rows)], layout)
        directions = np.eye(3 * len(atoms))[rows].reshape(-1, len(atoms), 3)
        block = self.get_hvp(directions, atoms).reshape(len(rows), -1)[:, rows]
        return in_layout(0.5 * (block + block.T), layout)

    def get_hvp(self, vectors: Any, atoms: Atoms | None = None) -> Array:
        """Hessian-vector products, without the Hessian. The graph of a geometry is kept for the next ones.

        Args:
            vectors: ``(n, 3)`` or ``(K, n, 3)``.
            atoms: The structure; the last one by default.

        Returns:
            H·v in the shape of the vectors, eV/Å² per unit of vector.

        Raises:
            PHLError: For vectors of another shape, or a structure that the model cannot answer for.
            NonFiniteError: For NaN or infinity in the vectors, the structure or the products.
        """
        atoms = self._atoms_or_last(atoms)
        array = checked_vectors(vectors, len(atoms))
        products = self._products(atoms)(array.reshape(-1, len(atoms), 3))
        return products.reshape(array.shape)

    def hessian_operator(self, atoms: Atoms | None = None) -> HessianOperator:
        """The Hessian as a ``scipy.sparse.linalg.LinearOperator`` ``(3n, 3n)``, eV/Å², matrix-free.

        It stays that of this geometry, whatever is calculated afterwards.

        Args:
            atoms: The structure; the last one by default.

        Raises:
            PHLError: For a structure that the model cannot answer for.
        """
        atoms = self._atoms_or_last(atoms)
        return HessianOperator(self._products(atoms), len(atoms))

    # -- many structures ----------------------------------------------------------------------------------------------

    def evaluate(
        self, structures: Sequence[Atoms] | Atoms, quantities: Collection[str] = ("energy", "forces")
    ) -> list[dict[str, Any]]:
        """Evaluate structures of any size, periodic or not, in one batched pass. ASE's cache plays no part.

        Args:
            structures: A list of structures.
            quantities: Any of energy, forces, stress, hessian.

        Returns:
            For each structure the quantities asked for, shapes and units as elsewhere; from a committee also
            ``energy_std`` and ``forces_std`` beside energy and forces.

        Raises:
            PHLError: For an unknown quantity, or a structure (named by its place) that the model cannot answer for.
            NonFiniteError: For NaN or infinity in a structure or its results.
            PropertyNotImplementedError: For the stress of a structure whose cell has no volume.
        """
        wanted = (quantities,) if isinstance(quantities, str) else tuple(quantities)
        for quantity in wanted:
            if quantity not in QUANTITIES:
                raise unknown("quantity", quantity, QUANTITIES)
        if isinstance(structures, Atoms):  # it would iterate over its atoms
            raise PHLError("got one structure; expected a list of them: evaluate([atoms])")
        if not structures:
            return []
        names = [f"structure {i} ({_name(atoms)})" for i, atoms in enumerate(structures)]
        frames = [self._frame(atoms, name) for atoms, name in zip(structures, names, strict=True)]
        frames = [dataclasses.replace(frame, frame_id=i) for i, frame in enumerate(frames)]
        found = self._predict(self._collate(frames), frames, names, list(wanted))
        keep = {*wanted, *(f"{name}_std" for name in wanted)}
        return [{name: value for name, value in one.items() if name in keep} for one in found]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _atoms_or_last(self, atoms: Atoms | None) -> Atoms:
        if atoms is None:
            atoms = self.atoms
        if atoms is None:
            raise PHLError("no atoms: nothing was calculated yet; give the structure, for example get_hessian(atoms)")
        return atoms

    def _frame(self, atoms: Atoms, name: str) -> Frame:
        frame = checked_frame(atoms, self.potential, name)
        if frame.multiplicity != 1 and not self.potential.takes_charge and not self._warned_of_spin:
            self._warned_of_spin = True
            warnings.warn(
                f"{name} has multiplicity {frame.multiplicity}, but the model does not tell spins apart: it gives the "
                "energy of the state that it was trained on",
                UserWarning,
                stacklevel=2,
            )
        return frame

    def _collate(self, frames: Sequence[Frame]) -> Batch:
        return collate(frames, self.potential.cutoffs)[0].to(self.device, self._dtype)

    def _at(self, atoms: Atoms) -> _Geometry:
        """The geometry of a structure: that of the last one where nothing has changed."""
        last = self._geometry
        if last is None or _changes(last.atoms, atoms, 0.0, self.ignored_changes):
            self._geometry = None  # frees the old graph before the new one is made
            frame = self._frame(atoms, _name(atoms))
            last = self._geometry = _Geometry(atoms.copy(), frame, self._collate([frame]))
        return last

    def _products(self, atoms: Atoms) -> Callable[[Array], Array]:
        """H·v of vectors ``(K, n, 3)`` at the structure's geometry, as many at a time as the memory budget allows."""
        geometry = self._at(atoms)
        if geometry.graph is None:
            geometry.graph = GradientGraph(self.potential, geometry.batch, curvature=True)
        graph, name = geometry.graph, _name(atoms)

        def products(vectors: Array) -> Array:
            if len(vectors) == 0:
                return np.zeros(vectors.shape)
            chunk = rows_per_chunk(graph.saved_bytes, self.memory_budget or default_budget(self.device))
            tensor = torch.as_tensor(vectors, dtype=self._dtype, device=self.device)
            rows = torch.cat([graph.products(part) for part in tensor.split(chunk)])
            return finite(to_numpy(rows), "Hessian-vector products", name)

        return products

    def _predict(
        self, batch: Batch, frames: Sequence[Frame], names: Sequence[str], needs: list[str]
    ) -> list[dict[str, Any]]:
        """The quantities of each system of a batch, and their spread over a committee."""
        if "stress" in needs:
            require_volume(frames, names)
        predictions = [
            evaluate(member, batch, {"energy", *needs}, memory_budget=self.memory_budget) for member in self._members
        ]
        values = {name: stacked(predictions, name) for name in dict.fromkeys(["energy", *needs])}
        tables = {name: value.mean(axis=0) for name, value in values.items()}
        if len(predictions) > 1:
            spreads = {name: values[name].std(axis=0, ddof=1) for name in _WITH_SPREAD if name in values}
            tables |= {f"{name}_std": value for name, value in spreads.items()}
        found, start = [], 0
        for i, (frame, name) in enumerate(zip(frames, names, strict=True)):
            atoms = slice(start, start := start + len(frame))
            one = {key: part_of(key, table, i, atoms) for key, table in tables.items()}
            found.append({key: finite(value, key, name) for key, value in one.items()})
        return found


def _changes(before: Atoms | None, atoms: Atoms, tol: float, ignored: Collection[str]) -> list[str]:
    """What ASE calls changes, and those of charge and multiplicity.

    The structure's own are read first and always: a mistake in them is an error before anything is remembered.
    """
    state = charge_and_multiplicity(atoms)
    changes = compare_atoms(before, atoms, tol=tol, excluded_properties=set(ignored))
    if before is not None:
        previous = charge_and_multiplicity(before)
        pairs = zip(("charge", "multiplicity"), previous, state, strict=True)
        changes += [name for name, old, new in pairs if old != new]
    return changes


def _name(atoms: Atoms) -> str:
    return atoms.get_chemical_formula() or "the structure"
