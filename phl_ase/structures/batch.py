"""Batches: systems of different size packed into flat tensors, with their labels and what a model predicts for them.

Axis names used in every annotation: ``atoms`` (all systems together), ``systems``, ``edges`` (ordered pairs),
``probes`` (K), ``dense`` (3 × atoms of the largest system).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from phl_ase.errors import PHLError
from phl_ase.structures.label import OWN, arrays


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Ordered pairs of a batch within one cutoff, sorted by the centre atom ``i``.

    Attributes:
        i: Centre atom of each pair.
        j: Its neighbour.
        shifts: Integer lattice shifts of ``j`` as floats, or ``None`` when no system of the batch is periodic.
    """

    i: Int[Tensor, " edges"]
    j: Int[Tensor, " edges"]
    shifts: Float[Tensor, "edges 3"] | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Systems packed one after the other (a pytree).

    Attributes:
        positions: Å.
        numbers: Atomic numbers.
        system: Index of the system each atom belongs to, ascending.
        slot: Index of each atom within its system.
        cell: Å, rows are lattice vectors; zero where not periodic.
        pbc: Periodic directions.
        charge: Total charge, e.
        multiplicity: 2S+1.
        neighbours: Neighbour lists keyed by cutoff (Å).
        atom_mask: False for padded atoms; ``None`` when nothing is padded.
        elements: Atomic numbers that occur, noted when the batch left the CPU so that nobody waits for a GPU to ask; no
            part of the pytree. ``dataclasses.replace`` keeps them: code that replaces numbers on a GPU gives both.
    """

    positions: Float[Tensor, "atoms 3"]
    numbers: Int[Tensor, " atoms"]
    system: Int[Tensor, " atoms"]
    slot: Int[Tensor, " atoms"]
    cell: Float[Tensor, "systems 3 3"]
    pbc: Bool[Tensor, "systems 3"]
    charge: Int[Tensor, " systems"]
    multiplicity: Int[Tensor, " systems"]
    neighbours: dict[float, Neighbours]
    atom_mask: Bool[Tensor, " atoms"] | None = None
    elements: frozenset[int] | None = None

    @property
    def n_systems(self) -> int:
        """Number of systems."""
        return self.cell.shape[0]

    def sizes(self) -> Int[Tensor, " systems"]:
        """Number of atoms of each system."""
        ones = torch.ones_like(self.system) if self.atom_mask is None else self.atom_mask.to(self.system.dtype)
        return torch.zeros(self.n_systems, dtype=self.system.dtype, device=self.system.device).index_add(
            0, self.system, ones
        )

    def vectors(self, cutoff: float) -> Float[Tensor, "edges 3"]:
        """Vectors from centre to neighbour, differentiable in positions and cell, Å."""
        pairs = self.neighbours[cutoff]
        vectors = self.positions.index_select(0, pairs.j) - self.positions.index_select(0, pairs.i)
        if pairs.shifts is None:
            return vectors
        cells = self.cell.index_select(0, self.system.index_select(0, pairs.i))
        return vectors + torch.einsum("ea,eab->eb", pairs.shifts, cells)

    def moved(self, positions: Float[Tensor, "atoms 3"], cell: Float[Tensor, "systems 3 3"] | None = None) -> Batch:
        """Return the systems at other positions (and cells), neighbour lists kept."""
        return dataclasses.replace(self, positions=positions, cell=self.cell if cell is None else cell)

    def elements_present(self) -> frozenset[int] | None:
        """Atomic numbers in the batch; ``None`` while it is traced or vectorised, when no numbers can be read."""
        if self.elements is not None and self.numbers.device.type != "cpu":
            return self.elements
        fake = type(self.numbers) is not Tensor or torch._C._functorch.is_functorch_wrapped_tensor(self.numbers)
        if fake or torch.compiler.is_compiling():
            return None
        return frozenset(self.numbers.tolist())

    def to(self, device=None, dtype: torch.dtype | None = None) -> Batch:
        """Return the batch on a device and with its floating-point tensors in a dtype."""
        moved = _convert(self, device, dtype)
        if moved.numbers.device == self.numbers.device:
            return moved
        return dataclasses.replace(moved, elements=self.elements_present())


@dataclass(frozen=True, eq=False)
class Labels:
    """Reference values of a batch, each declared in :mod:`phl_ase.structures.label`; masks say which systems carry it.

    Labels per system and per atom are always there, zero where a system carries none. Those per pair of atoms and per
    probe are large, and are there where one system carries them: matrices in the upper left corner of a square of the
    largest, HVPs beside their ``"probes"``, zero-padded in K where systems carry different numbers.

    Attributes:
        values: Name -> ``(systems, …)``, ``(atoms, …)``, ``(systems, dense, dense)`` or ``(probes, atoms, 3)``, in the
            unit of the declaration. Another shape is a ``PHLError``.
        present: Name -> systems that carry it; of HVPs ``n_probes`` says it.
        n_probes: Number of probes of each system; 0 where it carries none.
        frame_id: Identity of each frame in its data set.
    """

    values: dict[str, Float[Tensor, ...]]
    present: dict[str, Bool[Tensor, " systems"]]
    n_probes: Int[Tensor, " systems"]
    frame_id: Int[Tensor, " systems"]

    def __post_init__(self) -> None:
        if type(self.n_probes) is not Tensor:  # traced: sizes are symbols, which comparing would make constants
            return
        declared, systems, atoms = arrays(), len(self.n_probes), None
        for name, value in self.values.items():
            label, shape = declared[name], tuple(value.shape)
            if label.per in ("atom", "probe"):
                axis = 0 if label.per == "atom" else 1
                atoms = shape[axis] if atoms is None else atoms
                fits = shape[axis:] == (atoms, *label.shape)
            else:
                side = shape[-1:] * 2 if label.per == "pair" else label.shape
                fits = shape == (systems, *side)
            if not fits:
                raise PHLError(
                    f"labels of {systems} systems hold {name} of shape {shape}, which does not fit the others"
                )

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    @property
    def hessian(self) -> Float[Tensor, "systems dense dense"] | None:
        """Hessians, eV/Å²; ``None`` where no system carries one."""
        return self.values.get("hessian")

    @property
    def probes(self) -> Float[Tensor, "probes atoms 3"] | None:
        """Probe vectors of the HVPs; ``None`` where no system carries any."""
        return self.values.get("probes")

    @property
    def hvp(self) -> Float[Tensor, "probes atoms 3"] | None:
        """Hessian-vector products, eV/Å²; ``None`` where no system carries any."""
        return self.values.get("hvp")

    def carried(self, name: str) -> Bool[Tensor, " systems"]:
        """Return which systems carry a label."""
        return self.n_probes > 0 if name == "hvp" else self.present[name]

    def replaced(self, **values: Tensor | None) -> Labels:
        """Return labels with other values; ``None`` takes one away. Masks stay."""
        kept = {name: value for name, value in {**self.values, **values}.items() if value is not None}
        return dataclasses.replace(self, values=kept)

    def to(self, device=None, dtype: torch.dtype | None = None) -> Labels:
        """Return the labels on a device and in a dtype; those declared ``double`` (energies) stay in float64."""
        double = {name: value.to(device) for name, value in self.values.items() if arrays()[name].double}
        return _convert(self, device, dtype).replaced(**double)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of an evaluator; those not asked for are ``None``. Units as in :class:`Labels`.

    Attributes:
        extra: Labels that other packages declare, by name, where they were asked for.
    """

    energy: Float[Tensor, " systems"]
    forces: Float[Tensor, "atoms 3"] | None = None
    stress: Float[Tensor, "systems 3 3"] | None = None
    hvp: Float[Tensor, "probes atoms 3"] | None = None
    hessian: Float[Tensor, "systems dense dense"] | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)

    def get(self, name: str) -> Tensor | None:
        """Return the prediction of a label by name; ``None`` where it was not asked for."""
        return getattr(self, name) if name in OWN else self.extra.get(name)


def _convert(value, device, dtype):
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    if isinstance(value, dict):
        return {key: _convert(item, device, dtype) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _convert(getattr(value, f.name), device, dtype) for f in dataclasses.fields(value)}
        return type(value)(**fields)
    return value


def to_dense(
    batch: Batch, values: Float[Tensor, "probes atoms 3"], n_max: int
) -> Float[Tensor, "probes systems dense"]:
    """Spread flat per-atom vectors over a dense block per system, zero-padded to ``3 n_max`` columns."""
    k = values.shape[0]
    dense = values.new_zeros(k, batch.n_systems * n_max, 3)
    dense = dense.index_copy(1, batch.system * n_max + batch.slot, values)
    return dense.reshape(k, batch.n_systems, 3 * n_max)


def to_flat(batch: Batch, dense: Float[Tensor, "probes systems dense"], n_max: int) -> Float[Tensor, "probes atoms 3"]:
    """Gather dense blocks per system back into flat per-atom vectors (the inverse of :func:`to_dense`)."""
    k = dense.shape[0]
    return dense.reshape(k, batch.n_systems * n_max, 3).index_select(1, batch.system * n_max + batch.slot)


for _kind in (Neighbours, Labels, Predictions):
    torch.export.register_dataclass(_kind)
torch.utils._pytree.register_dataclass(
    Batch,
    field_names=[field.name for field in dataclasses.fields(Batch) if field.name != "elements"],
    drop_field_names=["elements"],
)
