"""A potential as an ASE calculator, with curvature: Hessians, Hessian-vector products and the operator between them.

Units are ASE's: eV, eV/Å, eV/Å³ (Voigt order and sign of ASE), eV/Å². The structure of a geometry (neighbour list) is
made once and shared by everything asked of it. Curvature is that of the unconstrained energy.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.outputs import Properties, all_outputs
from scipy import sparse

from phl_ase.calculator.grouping import groups_of
from phl_ase.calculator.hessians import (
    HessianOperator,
    checked_indices,
    coordinates_of,
    in_layout,
)
from phl_ase.calculator.models import checked_frame, label_of, load_potential
from phl_ase.calculator.state import Geometry, changes_between, one_at_a_time
from phl_ase.calculator.uncertainty import IN_DOMAIN, committee_tables, results_of_spread, watch_of
from phl_ase.calculator.unpacking import finite, has_volume, part_of, require_volume, to_numpy
from phl_ase.derivatives import GradientGraph, choose_device, default_budget, evaluate, own_modes, sparse_hessian
from phl_ase.errors import PHLError, shortened, unknown
from phl_ase.hessians import symmetrised
from phl_ase.potentials import Committee
from phl_ase.potentials.model import DTYPES
from phl_ase.structures import Batch, Frame, PackedFrames, collate, in_faster_form
from phl_ase.vibrations import checked_vectors, free_atoms, free_motions, lowest_modes

Array = np.ndarray

CALCULATED = ("energy", "forces", "stress", "hessian")
"""Quantities of ``PHLCalculator.evaluate``."""

_UNBUDGETED_BYTES = 2**26
"""Bytes that HVPs may keep without a look at how much memory is free."""

# relative, of the eigenvalues of the lowest modes: what HVPs in a dtype can tell
_MODE_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}


class PHLCalculator(Calculator):
    """Energy, forces, stress, Hessian and Hessian-vector products of a potential or a committee.

    ASE properties: ``energy`` and ``free_energy`` (the same, eV), ``forces`` (eV/Å), ``stress`` (eV/Å³; only where the
    cell has a volume) and ``hessian`` (``(3n, 3n)`` eV/Å², by :meth:`get_property`). Energy and forces come together,
    a Hessian brings them along. A committee gives its mean, and ``energy_std`` and ``forces_std`` in ``results``:
    sample standard deviations, per component, times the factors of a calibrated committee, so that they are the errors
    to expect. A model whose card records what it was trained on also says whether a structure is ``in_domain``: no two
    atoms nearer than any pair of these elements in training and none farther from all others, no molecule that training
    never showed alone, and of a calibrated committee no force more uncertain than there. Beyond ASE's own rules, a
    change of ``charge``, ``multiplicity`` or ``spin`` in ``atoms.info`` is a new calculation; initial charges and
    magnetic moments, which no potential reads, are none. A charge that the model does not take is refused; of a
    multiplicity that it does not tell apart a warning says so, once. Threads may share a calculator: they wait for
    each other.

    Args:
        model: A bundled name, a ``.safetensors`` file, a foreign model (``mace:FILE``, …), a potential, or a list of
            any of these: a committee.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ….
        dtype: ``"float64"``, or ``"float32"`` (faster on a GPU; forces good to about 1e-5 eV/Å). What comes out is
            float64 either way.
        memory_budget: Bytes that Hessian rows taken together may use; by default half of what a GPU has free, 3/4 of
            what a CPU has.
        trust: Allow a foreign model whose loading runs code from its file.
        out_of_domain: What to do about a structure outside of the domain: ``"warn"`` (a :class:`DomainWarning`, once
            for each composition; an error only where a structure fell apart into atoms on which no force acts),
            ``"ignore"``, or ``"error"`` (a :class:`DomainError`).

    Raises:
        PHLError: For a model, device, dtype or action that does not exist, or a committee whose members do not agree.
    """

    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012 (ASE wants a set)
    curvature_is_tested = True  # curvature_of asks foreign calculators for a proof

    def __init__(
        self,
        model: Any = "default",
        device: str | torch.device = "auto",
        dtype: str = "float64",
        memory_budget: int | None = None,
        *,
        trust: bool = False,
        out_of_domain: str = "warn",
    ) -> None:
        self._lock = threading.RLock()
        super().__init__()
        self.device = choose_device(str(device))
        if memory_budget is not None:
            real = isinstance(memory_budget, int | float | np.number) and not isinstance(memory_budget, bool)
            if not real or not 0 < memory_budget < np.inf:
                raise PHLError(f"memory_budget is {shortened(memory_budget)}; expected a number of bytes, or None")
        with own_modes(self.device):  # weights made in the caller's inference mode would have no derivatives
            self.potential = load_potential(model, dtype, self.device, trust=trust)
        self.memory_budget = memory_budget
        self.parameters.update(model=label_of(model), device=str(self.device), dtype=dtype)
        self._watch = watch_of(self.potential, out_of_domain)
        more = results_of_spread(self.potential) + [IN_DOMAIN] * self._knows_domain
        self.implemented_properties = ["energy", "free_energy", "forces", "stress", "hessian", *more]
        self._dtype = DTYPES[dtype]
        self._geometry: Geometry | None = None
        self._modes: tuple[Any, Array] | None = None
        self._warned_of_spin = False

    # -- ASE ----------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        model = self.parameters["model"]
        named = f"a committee of {len(model)}" if isinstance(model, list) and len(model) > 3 else repr(model)
        return f"PHLCalculator({named}, device={str(self.device)!r}, dtype={self.parameters['dtype']!r})"

    def set(self, **settings: Any) -> dict[str, Any]:
        """Refuse settings: what a calculator is made of stays.

        Raises:
            PHLError: For any setting.
        """
        if settings:
            raise PHLError(f"{', '.join(settings)} of a PHLCalculator cannot be changed; make another PHLCalculator")
        return {}

    @one_at_a_time
    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a result of the structure, calculated unless it is known; by default that of the last structure.

        Raises:
            PHLError: As :meth:`calculate`.
            PropertyNotImplementedError: For a property that the potential does not have.
        """
        return super().get_property(name, self._atoms_or_last(atoms), allow_calculation)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation; charge and multiplicity in ``atoms.info`` count."""
        _require_atoms(atoms, "the structure")
        return changes_between(self.atoms, atoms, tol, self.ignored_changes)

    @one_at_a_time
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
        if strange := [name for name in _listed(properties, "properties") if name not in self.implemented_properties]:
            raise PropertyNotImplementedError(f"{shortened(strange[0])}: not among {self.implemented_properties}")
        geometry = self._at(atoms)
        if self.check_state(atoms):
            self.results = {}
        super().calculate(atoms, _listed(properties, "properties"), list(system_changes))
        needs = ["energy", "forces"]
        # a bulk system is about to be asked for its stress, and it costs little beside the forces
        if "stress" in properties or (geometry.frame.pbc.any() and has_volume(geometry.frame)):
            needs.append("stress")
        if "hessian" in properties:
            needs.append("hessian")
        (found,) = self._predict(geometry.batch, [geometry.frame], [_name(atoms)], needs, refuse_atoms=True)
        self.results.update(found, free_energy=found["energy"])

    def export_properties(self) -> Properties:
        """Return the results that ASE has a definition of."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def __getstate__(self) -> dict[str, Any]:
        # copies and pickles do without the graph and the lock, which cannot be copied
        return {**{name: value for name, value in self.__dict__.items() if name != "_lock"}, "_geometry": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())
        potential: Any = self.potential
        if not isinstance(potential, torch.nn.Module):
            return
        with own_modes(self.device):
            if any(value.is_inference() for value in potential.state_dict().values()):
                potential = copy.deepcopy(potential)  # was copied in inference mode
            # a copy of a committee does not know that its weights stay as they are
            self.potential = potential.stack() if isinstance(potential, Committee) else potential

    # -- curvature ----------------------------------------------------------------------------------------------------

    @one_at_a_time
    def get_hessian(
        self,
        atoms: Atoms | None = None,
        *,
        layout: str = "3n3n",
        indices: Sequence[int] | Array | str | None = None,
    ) -> Array:
        """Return the Hessian of the energy; Sella takes this method as its ``hessian_function``.

        By default that of all atoms, whatever constraints hold them (Sella and
        :func:`phl_ase.vibrations.harmonic_analysis` take it so and see to the constraints themselves).

        Args:
            atoms: The structure; the last one by default.
            layout: ``"3n3n"`` (Sella), ``"n3n3"`` (ASE's ``VibrationsData``) or ``"nn33"`` (phonopy's force constants).
            indices: Atoms of a partial Hessian, ascending, at the cost of their rows alone; ``"free"`` for those that
                the constraints leave some motion (:func:`phl_ase.vibrations.free_atoms`).

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
            indices = free_atoms(atoms)
        chosen = checked_indices(indices, len(atoms))
        rows = coordinates_of(chosen)
        known = len(chosen) == len(atoms) or ("hessian" in self.results and not self.check_state(atoms))
        if known:
            return in_layout(self.get_property("hessian", atoms)[np.ix_(rows, rows)], layout)
        directions = np.eye(3 * len(atoms))[rows].reshape(-1, len(atoms), 3)
        block = self.get_hvp(directions, atoms).reshape(len(rows), -1)[:, rows]
        return in_layout(symmetrised(block), layout)

    @one_at_a_time
    def get_hvp(self, vectors: Any, atoms: Atoms | None = None) -> Array:
        """Return Hessian-vector products, without the Hessian. The graph of a geometry is kept for the next ones.

        Args:
            vectors: ``(n, 3)`` or ``(K, n, 3)``.
            atoms: The structure; the last one by default.

        Returns:
            H·v in the shape of the vectors, eV/Å² per unit of vector.

        Raises:
            PHLError: For vectors of another shape, or a structure that the model cannot answer for.
            NonFiniteError: For NaN or infinity in the vectors, the structure or the HVPs.
        """
        atoms = self._atoms_or_last(atoms)
        array = checked_vectors(vectors, len(atoms))
        hvps = self._hvps(atoms)(array.reshape(-1, len(atoms), 3))
        return hvps.reshape(array.shape)

    @one_at_a_time
    def hessian_operator(self, atoms: Atoms | None = None) -> HessianOperator:
        """Return the Hessian as a ``scipy.sparse.linalg.LinearOperator`` ``(3n, 3n)``, eV/Å², matrix-free.

        It stays that of this geometry, whatever is calculated afterwards.

        Args:
            atoms: The structure; the last one by default.

        Raises:
            PHLError: For a structure that the model cannot answer for.
        """
        atoms = self._atoms_or_last(atoms)
        return HessianOperator(self._hvps(atoms), len(atoms))

    @one_at_a_time
    def get_sparse_hessian(self, atoms: Atoms | None = None) -> sparse.csr_array:
        """Return the Hessian as a sparse matrix ``(3n, 3n)``, eV/Å²: time and size grow with n alone in a large system.

        Exact: what is left out is zero, since no atom's energy depends on both atoms of the pair. :meth:`get_hessian`
        uses the same zeros by itself where they save HVPs, but returns 9n² numbers.

        Args:
            atoms: The structure; the last one by default.

        Raises:
            PHLError: For a potential without a finite receptive field, or a structure that it cannot answer for.
            NonFiniteError: For NaN or infinity in the structure or the Hessian.
        """
        atoms = self._atoms_or_last(atoms)
        geometry = self._at(atoms)
        matrix = sparse_hessian(self.potential, geometry.batch, memory_budget=self._budget())
        self._look_at(geometry)
        finite(matrix.data, "a Hessian", _name(atoms))
        return matrix

    @one_at_a_time
    def get_lowest_modes(
        self, atoms: Atoms | None = None, k: int = 3, *, tolerance: float | None = None, max_hvps: int | None = None
    ) -> tuple[Array, Array]:
        """Return the k modes of lowest curvature from HVPs alone, translations and rotations projected out.

        A geometry of the same atoms as the last one asked for starts from the modes found there. Constraints are
        projected out, as in :func:`phl_ase.vibrations.harmonic_analysis`;
        :func:`phl_ase.vibrations.lowest_modes` does the same for any calculator and tells more.

        Args:
            atoms: The structure; the last one by default.
            k: Number of modes.
            tolerance: Largest error of an eigenvalue, relative to it; by default 1e-6, in float32 1e-3.
            max_hvps: HVPs after which to give up, with a warning; by default twice the number of vibrations.

        Returns:
            Eigenvalues of the mass-weighted Hessian ``(k,)`` in eV/(Å² amu), ascending, negative for imaginary modes
            (:func:`phl_ase.units.wavenumbers` gives cm⁻¹), and mass-weighted unit modes ``(k, n, 3)``.

        Raises:
            PHLError: For more modes than there are vibrations, or a structure that the model cannot answer for.
            NonFiniteError: For NaN or infinity in the structure or the HVPs.
        """
        atoms = self._atoms_or_last(atoms)
        self._at(atoms)  # what is wrong with the structure is said before anything is made of it
        same = (tuple(atoms.numbers), tuple(atoms.pbc))
        tolerance = _MODE_TOLERANCE[self._dtype] if tolerance is None else tolerance
        start = self._modes[1] if self._modes is not None and self._modes[0] == same else None
        # lengths and angles that are held have forces, which belong to the curvature
        curved = bool(atoms.constraints) and free_motions(atoms).is_curved
        forces = self.get_property("forces", atoms) if curved else None
        found = lowest_modes(atoms, self.get_hvp, k, start=start, tolerance=tolerance, max_hvps=max_hvps, forces=forces)
        if not found.converged:
            warnings.warn(f"{_name(atoms)}: {found.sentence}; raise max_hvps or tolerance", stacklevel=2)
        self._modes = (same, found.start)
        return found.eigenvalues, found.modes

    def warn_again(self) -> None:
        """Warn anew of structures outside of the domain, also of compositions that were warned of already."""
        if self._watch is not None:
            self._watch.warned.clear()

    # -- many structures ----------------------------------------------------------------------------------------------

    @one_at_a_time
    def evaluate(
        self, structures: Iterable[Atoms] | Atoms, quantities: Collection[str] = ("energy", "forces")
    ) -> list[dict[str, Any]]:
        """Evaluate structures of any size, periodic or not, in batches that fit the memory. ASE's cache plays no part.

        Args:
            structures: A list of structures.
            quantities: Any of energy, forces, stress, hessian, and what else the model ``predicts``.

        Returns:
            For each structure the quantities asked for, shapes and units as elsewhere; from a committee also
            ``energy_std`` and ``forces_std`` beside energy and forces, and ``in_domain`` where the domain is known (by
            the geometry alone where no forces are asked for).

        Raises:
            PHLError: For an unknown quantity, or a structure (named by its place) that the model cannot answer for.
            NonFiniteError: For NaN or infinity in a structure or its results.
            PropertyNotImplementedError: For the stress of a structure whose cell has no volume.
        """
        wanted = _listed(quantities, "quantities")
        known = (*CALCULATED, *getattr(self.potential, "predicts", ()))
        if strange := [quantity for quantity in wanted if quantity not in known]:
            raise unknown("quantity", strange[0], known)
        if isinstance(structures, Atoms):  # it would iterate over its atoms
            raise PHLError("got one structure; expected a list of them: evaluate([atoms])")
        structures = _listed(structures, "structures")
        if not structures:
            return []
        for place, atoms in enumerate(structures):
            _require_atoms(atoms, f"structure {place}")
        names = [f"structure {i} ({_name(atoms)})" for i, atoms in enumerate(structures)]
        frames = [self._frame(atoms, name) for atoms, name in zip(structures, names, strict=True)]
        frames = [dataclasses.replace(frame, frame_id=i) for i, frame in enumerate(frames)]
        packed = PackedFrames(frames, self.potential.cutoffs, names)
        found: dict[int, dict[str, Any]] = {}
        groups = groups_of(
            packed,
            self.potential,
            needs=wanted,
            dtype=self._dtype,
            device=self.device,
            memory_budget=self._budget(),
        )
        for group in groups:
            batch = packed.select(group)[0].to(self.device, self._dtype)
            results = self._predict(batch, [frames[i] for i in group], [names[i] for i in group], list(wanted))
            found.update(zip(group, results, strict=True))
        keep = {*wanted, *(f"{name}_std" for name in wanted), IN_DOMAIN}
        return [{name: value for name, value in found[i].items() if name in keep} for i in range(len(frames))]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _atoms_or_last(self, atoms: Atoms | None) -> Atoms:
        if atoms is None:
            atoms = self.atoms
        if atoms is None:
            raise PHLError("no atoms: nothing was calculated yet; give the structure, for example get_hessian(atoms)")
        _require_atoms(atoms, "the structure")
        return atoms

    def _budget(self) -> int:
        return self.memory_budget or default_budget(self.device)

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

    def _at(self, atoms: Atoms) -> Geometry:
        """Return the geometry of a structure: that of the last one where nothing has changed."""
        last = self._geometry
        if last is None or changes_between(last.atoms, atoms, 0.0, self.ignored_changes):
            self._geometry = None  # frees the old graph before the new one is made
            name = _name(atoms)
            frame = self._frame(atoms, name)
            batch = collate([frame], self.potential.cutoffs, [name])[0].to(self.device, self._dtype)
            last = self._geometry = Geometry(atoms.copy(), frame, batch)
        return last

    @property
    def _knows_domain(self) -> bool:
        return self._watch is not None and self._watch.domain is not None

    def _look_at(self, geometry: Geometry) -> None:
        """Warn of a geometry outside of the domain, where nothing but curvature may be asked for."""
        if self._watch is not None:
            self._watch.inside(geometry.batch, [geometry.frame], [_name(geometry.atoms)], refuse_atoms=True)

    def _hvps(self, atoms: Atoms) -> Callable[[Array], Array]:
        """H·v of vectors ``(K, n, 3)`` at the structure's geometry, as many at a time as the memory budget allows."""
        geometry = self._at(atoms)
        if geometry.graph is None:
            # one system has no padding: its rows stay what they were
            batch, _ = in_faster_form(self.potential, geometry.batch, hessians=True)
            geometry.graph = GradientGraph(self.potential, batch, curvature=True)
            self._look_at(geometry)
        graph, name = geometry.graph, _name(atoms)

        def hvps(vectors: Array) -> Array:
            if len(vectors) == 0:
                return np.zeros(vectors.shape)
            with self._lock:  # an operator may be at work in another thread
                tensor = torch.as_tensor(vectors, dtype=self._dtype, device=self.device)
                # free memory is looked up where HVPs might not fit, not at each of them
                small = self.memory_budget is None and graph.saved_bytes * len(vectors) < _UNBUDGETED_BYTES
                rows = graph.hvp(tensor, None if small else self._budget())
            return finite(to_numpy(rows), "Hessian-vector products", name)

        return hvps

    def _predict(
        self,
        batch: Batch,
        frames: Sequence[Frame],
        names: Sequence[str],
        needs: list[str],
        *,
        refuse_atoms: bool = False,
    ) -> list[dict[str, Any]]:
        """Return the quantities of each system of a batch, and their spread over a committee."""
        if "stress" in needs:
            require_volume(frames, names)
        quantities = list(dict.fromkeys(["energy", *needs]))
        if isinstance(self.potential, Committee):
            tables = committee_tables(self.potential, batch, quantities, self.memory_budget)
        else:
            predictions = evaluate(self.potential, batch, quantities, memory_budget=self.memory_budget)
            tables = {name: to_numpy(value) for name in quantities if (value := predictions.get(name)) is not None}
        found, start = [], 0
        for i, (frame, name) in enumerate(zip(frames, names, strict=True)):
            atoms = slice(start, start := start + len(frame))
            one = {key: part_of(key, table, i, atoms) for key, table in tables.items()}
            found.append({key: finite(value, key, name) for key, value in one.items()})
        if self._watch is not None:
            spread = tables.get("forces"), tables.get("forces_std")
            inside = self._watch.inside(batch, frames, names, *spread, refuse_atoms=refuse_atoms)
            if self._knows_domain:
                found = [{**one, IN_DOMAIN: known} for one, known in zip(found, inside, strict=True)]
        return found


def _name(atoms: Atoms) -> str:
    return atoms.get_chemical_formula() or "the structure"


def _require_atoms(atoms: Any, name: str) -> None:
    if not isinstance(atoms, Atoms):
        raise PHLError(f"{name} is {shortened(atoms)}, a {type(atoms).__name__}; expected ase.Atoms")


def _listed(values: Any, name: str) -> list[Any]:
    """Return the values of a collection; a name alone is a list of one."""
    try:
        return [values] if isinstance(values, str) else list(values)
    except TypeError:
        raise PHLError(f"{name} are {shortened(values)}, a {type(values).__name__}; expected a list") from None
