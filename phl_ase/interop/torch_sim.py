"""Any potential of this package as a model of torch-sim: batched relaxation and dynamics of many systems on one device.

torch-sim: doi:10.1088/3050-287X/ae1799. All systems of a state are one batch of :func:`phl_ase.derivatives.evaluate`,
neighbour lists included; nothing loops over systems.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from phl_ase.calculator import PHLCalculator
from phl_ase.derivatives import evaluate
from phl_ase.errors import NonFiniteError, PHLError, missing_package, unknown
from phl_ase.interop.neighbours import batched_neighbours
from phl_ase.lattice import FARTHEST
from phl_ase.structures import Batch, Potential, symbols_of

try:
    _simulation: Any = importlib.import_module("torch_sim")
    _interface: Any = importlib.import_module("torch_sim.models.interface")
except ImportError as error:
    raise missing_package("torch-sim-atomistic", "torch-sim", "PHLTorchSimModel") from error

_DTYPE_NAMES = {torch.float32: "float32", torch.float64: "float64"}


class PHLTorchSimModel(_interface.ModelInterface):
    """A potential or a committee (its mean) as a torch-sim model.

    Energies are float64 whatever the dtype (absolute energies do not fit float32); forces and stresses have the dtype.
    The stress of systems whose cells have no volume is zero. torch-sim's ``atoms_to_state`` keeps neither charges nor
    directions that alone are periodic: a state's ``charge`` and ``spin`` (2S+1) are read where it has them, else those
    given here hold for every system.

    Args:
        model: What ``PHLCalculator`` takes: a bundled name, a file, a foreign model (``mace:FILE``, …), a potential, or
            a list of these.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, …, or a ``torch.device``.
        dtype: ``torch.float64`` or ``torch.float32``.
        compute_forces: Whether to compute forces.
        compute_stress: Whether to compute stresses.
        charge: Charge of every system, e.
        multiplicity: 2S+1 of every system.
        trust: Allow a foreign model whose loading runs code from its file.

    Raises:
        PHLError: For a model, device or dtype that does not exist, or a charge that the model does not take.
    """

    def __init__(
        self,
        model: Any = "default",
        device: str | torch.device = "auto",
        *,
        dtype: torch.dtype = torch.float64,
        compute_forces: bool = True,
        compute_stress: bool = True,
        charge: int = 0,
        multiplicity: int = 1,
        trust: bool = False,
    ) -> None:
        super().__init__()
        if dtype not in _DTYPE_NAMES:
            raise unknown("dtype", dtype, _DTYPE_NAMES)
        calculator = PHLCalculator(model, str(device), _DTYPE_NAMES[dtype], trust=trust)
        self.potential: Potential = calculator.potential
        if charge and not self.potential.takes_charge:
            raise PHLError(f"charge is {charge:+d}, but the model does not take charge; use one that does, or charge=0")
        self._device, self._dtype = calculator.device, dtype
        self._compute_forces, self._compute_stress = compute_forces, compute_stress
        self._charge, self._multiplicity = charge, multiplicity
        self._known_numbers: Tensor | None = None

    @property
    def compute_forces(self) -> bool:
        """Return whether forces are computed."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, wanted: bool) -> None:
        self._compute_forces = wanted

    @property
    def compute_stress(self) -> bool:
        """Return whether stresses are computed."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, wanted: bool) -> None:
        self._compute_stress = wanted

    def forward(self, state: Any, **_: Any) -> dict[str, Float[Tensor, "..."]]:
        """Return energies (eV, float64), forces (eV/Å) and stresses (eV/Å³, ASE's sign) of the systems of a state.

        Args:
            state: A ``SimState``, or the mapping of its fields.
            **_: What other models take.

        Returns:
            ``energy`` ``(systems,)``, and as wanted ``forces`` ``(atoms, 3)`` and ``stress`` ``(systems, 3, 3)``,
            detached.

        Raises:
            PHLError: For an element that the model never saw, a charge it does not take, overlapping atoms, or a cell
                that does not fit ``pbc``; the error names the system.
            NonFiniteError: For NaN or infinity in positions or results.
        """
        if isinstance(state, Mapping):
            fields = dict(state)
            fields.setdefault("masses", torch.ones_like(fields["positions"][:, 0]))
            state = _simulation.SimState(**fields)
        batch = self._batch(state)
        has_volume = self._compute_stress and bool((torch.linalg.det(batch.cell.double()).abs() > 1e-10).any())
        needs = ["energy", *["forces"] * self._compute_forces, *["stress"] * has_volume]
        predicted = evaluate(self.potential, batch, needs)
        found = {"energy": predicted.energy.detach().double()}
        if predicted.forces is not None:
            found["forces"] = predicted.forces
        if self._compute_stress:
            found["stress"] = torch.zeros_like(batch.cell) if predicted.stress is None else predicted.stress
        for name, value in found.items():
            _require_finite(value, name, batch.system)
        return found

    def _batch(self, state: Any) -> Batch:
        system = state.system_idx.long()
        cell = state.row_vector_cell.to(self._dtype).contiguous()
        _require_finite(state.positions, "positions", system, FARTHEST)
        numbers, known = state.atomic_numbers.long(), self.potential.species
        if known and (self._known_numbers is None or not torch.equal(self._known_numbers, numbers)):
            unseen = ~torch.isin(numbers, torch.tensor(known, device=numbers.device))
            if bool(unseen.any()):
                where = int(torch.nonzero(unseen)[0])
                raise PHLError(
                    f"system {int(system[where])} has {symbols_of([int(numbers[where])])}, which the model never saw; "
                    f"it knows {symbols_of(known)}: use or train a model for these elements"
                )
            self._known_numbers = numbers.clone()
        sizes = torch.bincount(system, minlength=len(cell))
        pbc = torch.as_tensor(state.pbc, device=cell.device).expand(3)
        positions = state.positions.detach().to(self._dtype)
        return Batch(
            positions=positions,
            numbers=numbers,
            system=system,
            slot=torch.arange(len(system), device=system.device) - (torch.cumsum(sizes, 0) - sizes)[system],
            cell=cell,
            pbc=pbc.expand(len(cell), 3),
            charge=self._of_systems(state, "charge", self._charge, len(cell)),
            multiplicity=self._of_systems(state, "spin", self._multiplicity, len(cell)),
            neighbours={
                cutoff: batched_neighbours(state.positions, system, state.row_vector_cell, pbc, cutoff)
                for cutoff in self.potential.cutoffs
            },
            elements=frozenset(self.potential.species) or None,  # just checked: there are no others
        )

    def _of_systems(self, state: Any, name: str, default: int, n_systems: int) -> Tensor:
        values = getattr(state, name, None)
        if values is None:
            return torch.full((n_systems,), default, device=state.positions.device)
        values = torch.as_tensor(values, device=state.positions.device).long().reshape(n_systems)
        if name == "charge" and not self.potential.takes_charge and bool(values.any()):
            which = int(torch.nonzero(values)[0])
            raise PHLError(
                f"system {which} has charge {int(values[which]):+d}, but the model does not take charge; "
                "use one that does"
            )
        return values


def _require_finite(values: Tensor, name: str, system: Tensor, largest: float | None = None) -> None:
    finite = torch.isfinite(values) if largest is None else values.abs() <= largest
    if bool(finite.all()):
        return
    first = int(torch.nonzero(~finite)[0, 0])
    which = int(system[first]) if len(values) == len(system) and name in ("positions", "forces") else first
    bad = (
        "NaN or infinity" if largest is None or not bool(torch.isfinite(values).all()) else f"more than {largest:.0e} Å"
    )
    raise NonFiniteError(
        f"system {which}: {name} with {bad}; expected finite numbers: it may be far from what the model was "
        "trained on (a smaller time step, or dtype=torch.float64)"
    )
