"""Structures: frames and their checks, neighbour lists against ASE's, packing, batches."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list as ase_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.structures import (
    Batch,
    Frame,
    Labels,
    Neighbours,
    PackedFrames,
    Predictions,
    atoms_from_frame,
    charge_and_multiplicity,
    collate,
    frame_from_atoms,
    neighbour_list,
    to_dense,
    to_flat,
)

CUTOFF = 4.0
needs_checks = pytest.mark.skipif(os.environ.get("PHL_NO_TYPECHECK") == "1", reason="annotation checks are off")


def labelled(name: str, rng: np.random.Generator, labels: str = "", probes: int = 0, **fields) -> Frame:
    """A molecule of ASE's G2 set with random labels: any of e(nergy), f(orces), s(tress), h(essian), and K probes."""
    frame = frame_from_atoms(molecule(name))
    n = len(frame)
    if "h" in labels:
        hessian = rng.normal(size=(3 * n, 3 * n))
        fields["hessian"] = hessian + hessian.T
    if probes:
        fields.update(probes=rng.normal(size=(probes, n, 3)), hvp=rng.normal(size=(probes, n, 3)))
    return dataclasses.replace(
        frame,
        energy=rng.normal() if "e" in labels else None,
        forces=rng.normal(size=(n, 3)) if "f" in labels else None,
        stress=rng.normal(size=(3, 3)) if "s" in labels else None,
        **fields,
    )


@pytest.fixture
def frames(rng) -> list[Frame]:
    """Different sizes, and every label absent from some frame."""
    return [
        labelled("H2O", rng, "efh", probes=2, charge=1, multiplicity=2, frame_id=10),
        labelled("CH3CH2OH", rng, "", frame_id=11),
        labelled("H", rng, "e", probes=1, multiplicity=2, frame_id=12),
        labelled("NH3", rng, "fsh", frame_id=13),
        labelled("HCN", rng, "efsh", probes=3, frame_id=14),
    ]


# ---------------------------------------------------------------------------------------------------- frames and ASE


def test_atoms_round_trip():
    atoms = molecule("H2O", cell=[5, 6, 7], pbc=[True, False, True])
    atoms.info.update(charge=-1, multiplicity=2)
    back = atoms_from_frame(frame_from_atoms(atoms))
    assert back == atoms
    assert charge_and_multiplicity(back) == (-1, 2)


def test_frame_does_not_share_memory_with_atoms():
    atoms = molecule("H2O")
    frame = frame_from_atoms(atoms)
    before = frame.positions.copy()
    atoms.positions += 1.0
    np.testing.assert_array_equal(frame.positions, before)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, (0, 1)),
        ({"charge": 1}, (1, 1)),
        ({"charge": np.int64(-2), "multiplicity": 3.0}, (-2, 3)),
        ({"spin": 2}, (0, 2)),
        ({"spin": 2, "multiplicity": 4}, (0, 4)),
    ],
)
def test_charge_and_multiplicity(info, expected):
    assert charge_and_multiplicity(Atoms("H", info=info)) == expected


@pytest.mark.parametrize(
    "info", [{"charge": 0.5}, {"charge": "one"}, {"multiplicity": 0}, {"spin": -1}, {"multiplicity": None}]
)
def test_broken_charge_or_multiplicity(info):
    with pytest.raises(PHLError, match=r"atoms\.info\['(charge|multiplicity)'\] is .*; expected"):
        charge_and_multiplicity(Atoms("H", info=info))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_position_that_is_no_number_names_the_atom(value):
    atoms = molecule("H2O")
    atoms.positions[1, 2] = value
    with pytest.raises(NonFiniteError, match="water: the position of atom 1"):
        frame_from_atoms(atoms, "water")


def test_no_atoms():
    with pytest.raises(PHLError, match="has no atoms"):
        frame_from_atoms(Atoms())


@pytest.mark.parametrize(
    ("label", "shape"),
    [
        ("positions", (3, 2)),
        ("forces", (2, 3)),
        ("stress", (6,)),
        ("hessian", (3, 3, 3, 3)),
        ("hessian", (9, 8)),
    ],
)
def test_wrong_shape_names_the_label(label, shape):
    frame = dataclasses.replace(frame_from_atoms(molecule("H2O")), **{label: np.zeros(shape)})
    with pytest.raises(PHLError, match=f"water: {label} ha.* shape .*expected"):
        frame.check("water")


@pytest.mark.parametrize("label", ["cell", "energy", "forces", "stress", "hessian", "probes", "hvp"])
def test_label_that_is_no_number_is_named(label, rng):
    frame = labelled("H2O", rng, "efsh", probes=2)
    value = np.array(getattr(frame, label))
    value.flat[0] = np.nan
    frame = dataclasses.replace(frame, **{label: float(value) if label == "energy" else value})
    with pytest.raises(NonFiniteError, match=f"water: {label} "):
        frame.check("water")


@pytest.mark.parametrize("missing", ["probes", "hvp"])
def test_probes_and_hvps_come_together(missing, rng):
    frame = dataclasses.replace(labelled("H2O", rng, probes=2), **{missing: None})
    with pytest.raises(PHLError, match="probes and hvp come together"):
        frame.check()


def test_as_many_hvps_as_probes(rng):
    frame = labelled("H2O", rng, probes=2)
    with pytest.raises(PHLError, match="hvp has shape"):
        dataclasses.replace(frame, hvp=frame.hvp[:1]).check()


# --------------------------------------------------------------------------------------------------- neighbour lists


def as_rows(i, j, shifts) -> np.ndarray:
    rows = np.column_stack([i, j, shifts]).astype(int)
    return rows[np.lexsort(rows.T[::-1])]


def in_a_slab_without_height() -> Atoms:
    slab = fcc111("Cu", size=(2, 2, 3))
    slab.cell[2] = 0.0
    slab.pbc = (True, True, False)
    return slab


def a_skewed_cell() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.64) * (1, 1, 2)
    atoms.cell[1] += 3 * atoms.cell[0]  # the same crystal, a very flat cell
    atoms.rattle(0.1, seed=3)
    return atoms


def across_the_boundary() -> Atoms:
    """Atoms outside of the cell: shifts must bring them back."""
    atoms = bulk("Si", cubic=True)
    atoms.positions[::2] += 2 * atoms.cell[0] - atoms.cell[2]
    return atoms


STRUCTURES = {
    "atom": lambda: Atoms("He"),
    "molecule": lambda: molecule("C6H6"),
    "molecule in a box, not periodic": lambda: molecule("C6H6", vacuum=2.0),
    "crystal": lambda: bulk("Cu", cubic=True),
    "cell smaller than the cutoff": lambda: bulk("Cu"),
    "skewed cell": a_skewed_cell,
    "atoms outside the cell": across_the_boundary,
    "slab without a third lattice vector": in_a_slab_without_height,
    "wire": lambda: Atoms("C2", positions=[[0, 0, 0], [1.3, 0, 0]], cell=[2.6, 0, 0], pbc=(True, False, False)),
}


@pytest.mark.parametrize("cutoff", [2.0, CUTOFF, 7.0])
@pytest.mark.parametrize("name", STRUCTURES)
def test_neighbours_are_those_of_ase(name, cutoff):
    frame = frame_from_atoms(STRUCTURES[name]())
    i, j, shifts = neighbour_list(frame.positions, frame.cell, frame.pbc, cutoff)
    expected = ase_neighbor_list("ijS", atoms_from_frame(frame), cutoff)
    np.testing.assert_array_equal(as_rows(i, j, shifts), as_rows(*expected))
    assert np.all(np.diff(i) >= 0)


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_pair_has_its_mirror_image(name):
    """(i, j, S) comes with (j, i, −S): without it forces do not add up to zero."""
    frame = frame_from_atoms(STRUCTURES[name]())
    i, j, shifts = neighbour_list(frame.positions, frame.cell, frame.pbc, 7.0)
    np.testing.assert_array_equal(as_rows(i, j, shifts), as_rows(j, i, -shifts))


@pytest.mark.parametrize("name", [n for n in STRUCTURES if n != "atom"])
def test_vectors_have_the_lengths_ase_finds(name):
    atoms = STRUCTURES[name]()
    batch, _ = collate([frame_from_atoms(atoms)], [7.0])
    lengths = torch.linalg.vector_norm(batch.vectors(7.0), dim=1)
    expected = ase_neighbor_list("d", atoms, 7.0)
    # rounding of coordinates of about 10 Å
    np.testing.assert_allclose(np.sort(lengths.numpy()), np.sort(expected), atol=1e-12)


@pytest.mark.parametrize("pbc", [False, True])
def test_overlapping_atoms_are_named(pbc):
    atoms = Atoms("H3", positions=[[0, 0, 0], [2, 0, 0], [2, 0, 1e-3]], cell=[6, 6, 6], pbc=pbc)
    with pytest.raises(PHLError, match=r"pair: atoms (1 and 2|2 and 1) are 0\.001 Å apart"):
        neighbour_list(atoms.positions, np.array(atoms.cell), atoms.pbc, CUTOFF, "pair")


def test_overlap_through_the_boundary():
    atoms = Atoms("H2", positions=[[0, 0, 0], [5.999, 0, 0]], cell=[6, 6, 6], pbc=True)
    with pytest.raises(PHLError, match="apart"):
        neighbour_list(atoms.positions, np.array(atoms.cell), atoms.pbc, CUTOFF)


def test_periodic_direction_needs_a_lattice_vector():
    with pytest.raises(PHLError, match="a periodic lattice vector is zero; set the cell"):
        neighbour_list(np.zeros((1, 3)), np.zeros((3, 3)), np.array([True, False, False]), CUTOFF)


COPPER, SQUARE = [[0.0, 0, 0], [0, 0, 2.0]], [3.0, 3.0, 3.0]

EXTREME = {
    # structure -> one of ordinary size that has the same pairs
    "far off a slab": ([*COPPER[:1], [0, 0, 1000000.0]], SQUARE, (1, 1, 0), [*COPPER[:1], [0, 0, 50.0]], SQUARE),
    "far off a wire": ([*COPPER, [0, 300000.0, 100000.0]], SQUARE, (1, 0, 0), [*COPPER, [0, 30.0, 50.0]], SQUARE),
    "a long cell": (COPPER, [3, 3, 1e6], (1, 1, 1), COPPER, [3, 3, 90.0]),
    "across the end of a long cell": ([*COPPER[:1], [0, 0, 999998]], [3, 3, 1e6], (1, 1, 1), COPPER, [3, 3, 90.0]),
    "cells away": ([*COPPER[:1], [0, 0, 300000.0 + 2]], SQUARE, (1, 1, 1), COPPER, SQUARE),
    "a skewed cell": (COPPER, [[3, 0, 0], [3000, 3, 0], [0, 0, 3]], (1, 1, 1), COPPER, SQUARE),
    "no height where nothing is periodic": (COPPER, [3, 3, 1e-7], (1, 1, 0), COPPER, SQUARE),
    "a lattice vector aslant where nothing is periodic": (
        [*COPPER[:1], [1, 1, 1000.0]],
        [[3, 0, 0], [0, 3, 0], [1, 1, 0.1]],
        (1, 1, 0),
        [*COPPER[:1], [1, 1, 30]],
        SQUARE,
    ),
}


@pytest.mark.parametrize("name", EXTREME)
def test_extreme_structures_have_the_pairs_of_ordinary_ones(name):
    """Vesin divides by zero or hangs over the first six, were it given them as they are."""
    positions, cell, pbc, same_positions, same_cell = EXTREME[name]
    pbc = np.array(pbc, dtype=bool)
    lengths = []
    for r, lattice in ((positions, cell), (same_positions, same_cell)):
        box = np.array(Atoms(cell=lattice).cell)
        i, j, shifts = neighbour_list(np.array(r, dtype=float), box, pbc, 4.5)
        lengths.append(np.sort(np.linalg.norm(np.array(r)[j] - np.array(r)[i] + shifts @ box, axis=1)))
    # rounding of coordinates of up to 10⁶ Å
    np.testing.assert_allclose(*lengths, atol=1e-9)
    assert len(lengths[0]) >= 2


ABSURD = {
    "flat": ([[3, 0, 0], [3, 1e-5, 0], [0, 0, 3]], (1, 1, 1), "an atom and its own image are 1e-05 Å apart"),
    "thin": ([3, 3, 1e-7], (1, 1, 1), "an atom and its own image are 1e-07 Å apart"),
    "dense": ([0.05, 0.05, 0.05], (1, 1, 1), "an atom would have about .* neighbours within 4.5 Å, more than any"),
    "in a plane": ([[3, 0, 0], [0, 3, 0], [3, 3, 0]], (1, 1, 1), "span no volume; set the cell"),
    "wide": ([3, 3, 1e7], (1, 1, 1), "expected lattice vectors of at most"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_cells_are_refused_and_named(name):
    cell, pbc, message = ABSURD[name]
    with pytest.raises(PHLError, match=f"frame 7: .*{message}"):
        neighbour_list(np.array(COPPER), np.array(Atoms(cell=cell).cell), np.array(pbc, dtype=bool), 4.5, "frame 7")


@pytest.mark.parametrize("pbc", [False, True])
def test_exploded_structures_are_refused_and_named(pbc):
    positions = np.array([[0, 0, 0], [2e7, 0, 0]])
    with pytest.raises(NonFiniteError, match=r"frame 7: atom 1 is at .*optimiser or a dynamics step explode"):
        neighbour_list(positions, 9.0 * np.eye(3), np.full(3, pbc), 4.5, "frame 7")


def test_a_heap_of_atoms_is_refused_before_its_pairs_are_counted(rng):
    with pytest.raises(PHLError, match=r"heap: an atom would have about .* neighbours"):
        neighbour_list(rng.uniform(size=(30_000, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool), 4.5, "heap")


def test_a_sum_over_all_pairs_is_for_molecules_that_fit_into_memory(rng):
    with pytest.raises(PHLError, match="gas: has 20000 atoms and the model sums over all pairs"):
        neighbour_list(1e3 * rng.normal(size=(20_000, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool), np.inf, "gas")


@pytest.mark.parametrize("flown", [0.0, 1e4])
def test_large_molecules_have_the_pairs_of_all_distances(flown, rng):
    positions = rng.uniform(0.0, 25.0, size=(900, 3))
    positions[::90] += flown
    i, j, _ = neighbour_list(positions, np.zeros((3, 3)), np.zeros(3, dtype=bool), 4.5)
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1) + 1e9 * np.eye(900)
    np.testing.assert_array_equal(np.column_stack([i, j]), np.argwhere(distances < 4.5))


# ----------------------------------------------------------------------------------------------------------- packing


def check_system(frame: Frame, s: int, batch: Batch, labels: Labels) -> None:
    """System ``s`` of the batch holds exactly what the frame holds, and zeros where it holds nothing."""
    atoms, n = batch.system == s, len(frame)
    np.testing.assert_array_equal(batch.numbers[atoms], frame.numbers)
    np.testing.assert_array_equal(batch.positions[atoms], frame.positions)
    np.testing.assert_array_equal(batch.slot[atoms], np.arange(n))
    np.testing.assert_array_equal(batch.cell[s], frame.cell)
    np.testing.assert_array_equal(batch.pbc[s], frame.pbc)
    assert (batch.charge[s], batch.multiplicity[s]) == (frame.charge, frame.multiplicity)
    assert labels.frame_id[s] == frame.frame_id
    for name, value in (
        ("energy", labels["energy"][s]),
        ("forces", labels["forces"][atoms]),
        ("stress", labels["stress"][s]),
    ):
        expected = getattr(frame, name)
        assert bool(labels.carried(name)[s]) == (expected is not None)
        np.testing.assert_array_equal(value, np.zeros_like(value) if expected is None else expected)
    assert bool(labels.carried("hessian")[s]) == (frame.hessian is not None)
    if labels.hessian is not None:
        padded = np.zeros(labels.hessian.shape[1:])
        padded[: 3 * n, : 3 * n] = 0.0 if frame.hessian is None else frame.hessian
        np.testing.assert_array_equal(labels.hessian[s], padded)
    assert labels.n_probes[s] == (0 if frame.probes is None else len(frame.probes))
    for name in ("probes", "hvp"):
        packed = labels.values.get(name)
        if packed is not None:
            padded = np.zeros((packed.shape[0], n, 3))
            padded[: int(labels.n_probes[s])] = 0.0 if frame.probes is None else getattr(frame, name)
            np.testing.assert_array_equal(packed[:, atoms], padded)


def check_neighbours(frame: Frame, s: int, batch: Batch, cutoff: float) -> None:
    pairs = batch.neighbours[cutoff]
    edges = batch.system[pairs.i] == s
    start = int((batch.system < s).sum())
    shifts = torch.zeros(int(edges.sum()), 3) if pairs.shifts is None else pairs.shifts[edges]
    expected = neighbour_list(frame.positions, frame.cell, frame.pbc, cutoff)
    np.testing.assert_array_equal(as_rows(pairs.i[edges] - start, pairs.j[edges] - start, shifts), as_rows(*expected))


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0], [1], [3, 3, 1], [2, 1]])
def test_packing_gives_back_every_frame(frames, order):
    packed = PackedFrames(frames, (2.0, CUTOFF))
    batch, labels = packed.select(order)
    assert len(packed) == len(frames)
    assert batch.n_systems == len(order)
    assert batch.sizes().tolist() == [len(frames[k]) for k in order]
    for s, k in enumerate(order):
        check_system(frames[k], s, batch, labels)
        check_neighbours(frames[k], s, batch, 2.0)
        check_neighbours(frames[k], s, batch, CUTOFF)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_mixture_of_labels_survives_packing(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    frames = [
        labelled(
            data.draw(st.sampled_from(["H", "H2O", "HCN", "NH3"])),
            rng,
            "".join(data.draw(st.sets(st.sampled_from("efsh")))),
            probes=data.draw(st.integers(0, 3)),
            frame_id=k,
        )
        for k in range(data.draw(st.integers(1, 5)))
    ]
    order = data.draw(st.lists(st.integers(0, len(frames) - 1), min_size=1, max_size=6))
    batch, labels = PackedFrames(frames, (CUTOFF,)).select(order)
    for s, k in enumerate(order):
        check_system(frames[k], s, batch, labels)
        check_neighbours(frames[k], s, batch, CUTOFF)


def test_molecules_and_crystals_in_one_batch(rng):
    frames = [labelled("H2O", rng, "ef"), frame_from_atoms(bulk("Cu")), frame_from_atoms(bulk("Si", cubic=True))]
    batch, labels = collate(frames, (CUTOFF,))
    for s, frame in enumerate(frames):
        check_system(frame, s, batch, labels)
        check_neighbours(frame, s, batch, CUTOFF)


def test_absent_labels_take_no_memory(frames):
    _, labels = PackedFrames(frames, (CUTOFF,)).select([1])
    assert labels.hessian is None
    assert labels.probes is None
    assert labels.hvp is None
    assert not labels.carried("energy").any()


def test_nothing_to_pack():
    with pytest.raises(PHLError, match="no structures to pack"):
        PackedFrames([], (CUTOFF,))


def test_packing_names_the_broken_frame(frames):
    broken = dataclasses.replace(frames[0], forces=np.zeros((1, 3)), reaction="rxn7", kind="ts", frame_id=42)
    with pytest.raises(PHLError, match=r"frame 42 \(rxn7 ts\): forces has shape"):
        PackedFrames([frames[1], broken], (CUTOFF,))


# ----------------------------------------------------------------------------------------------------------- batches


@pytest.fixture
def batch_and_labels(frames) -> tuple[Batch, Labels]:
    return collate(frames, (2.0, CUTOFF))


def test_dense_and_flat_are_inverse(batch_and_labels, generator):
    batch, _ = batch_and_labels
    n_max = int(batch.sizes().max())
    flat = torch.randn(4, len(batch.numbers), 3, generator=generator, dtype=torch.float64)
    dense = to_dense(batch, flat, n_max)
    assert dense.shape == (4, batch.n_systems, 3 * n_max)
    torch.testing.assert_close(to_flat(batch, dense, n_max), flat, rtol=0, atol=0)
    for s, size in enumerate(batch.sizes().tolist()):
        expected = flat[:, batch.system == s].reshape(4, 3 * size)
        torch.testing.assert_close(dense[:, s, : 3 * size], expected, rtol=0, atol=0)
        assert not dense[:, s, 3 * size :].any()


def test_dense_hessian_times_dense_probe_is_each_systems_own_hvp(frames):
    batch, labels = collate([frames[0], frames[4]], (CUTOFF,))
    n_max = int(batch.sizes().max())
    dense = torch.einsum("sab,ksb->ksa", labels.hessian, to_dense(batch, labels.probes, n_max))
    flat = to_flat(batch, dense, n_max)
    for s, frame in enumerate((frames[0], frames[4])):
        for k, probe in enumerate(frame.probes):
            expected = (frame.hessian @ probe.ravel()).reshape(-1, 3)
            # a sum of nine products of order one
            np.testing.assert_allclose(flat[k, batch.system == s], expected, atol=1e-13)


@pytest.mark.parametrize("which", [0, 1])
def test_batch_and_labels_are_pytrees(batch_and_labels, which):
    value = batch_and_labels[which]
    leaves, spec = pytree.tree_flatten(value)
    assert leaves
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves if leaf is not None)
    again = pytree.tree_unflatten(leaves, spec)
    assert type(again) is type(value)
    for before, after in zip(leaves, pytree.tree_leaves(again), strict=True):
        assert before is after


def test_batch_passes_through_torch_func(batch_and_labels):
    """Gradient, double gradient and vmap of a function of a batch, as the evaluators take them."""
    batch, labels = batch_and_labels

    def energy(positions):
        return batch.moved(positions).vectors(CUTOFF).pow(3).sum()

    def hvp(vector):
        return torch.func.jvp(torch.func.grad(energy), (batch.positions,), (vector,))[1]

    hvps = torch.func.vmap(hvp)(labels.probes)
    expected = torch.stack([torch.autograd.functional.hvp(energy, batch.positions, v)[1] for v in labels.probes])
    torch.testing.assert_close(hvps, expected)


@pytest.mark.skipif(torch.__version__ < "2.12", reason="torch.compile of gradients of gradients fails in torch 2.11")
@pytest.mark.no_typecheck
def test_batch_passes_through_compilation(batch_and_labels):
    """One graph without a break: frozen dataclasses that hold a dictionary of neighbour lists can be arguments."""
    batch, labels = batch_and_labels

    def energy(positions, batch):
        return batch.moved(positions).vectors(CUTOFF).pow(3).sum()

    def hvp(batch, vector):
        return torch.func.grad(lambda r: (torch.func.grad(energy)(r, batch) * vector).sum())(batch.positions)

    compiled = torch.compile(hvp, backend="aot_eager", dynamic=True, fullgraph=True)
    torch.testing.assert_close(compiled(batch, labels.probes[0]), hvp(batch, labels.probes[0]))


def test_vectors_can_be_differentiated_in_positions_and_cell():
    batch, _ = collate([frame_from_atoms(bulk("Si"))], (CUTOFF,))

    def vectors(positions, cell):
        return batch.moved(positions, cell).vectors(CUTOFF)

    inputs = (batch.positions.clone().requires_grad_(), batch.cell.clone().requires_grad_())
    assert torch.autograd.gradcheck(vectors, inputs)


def test_moving_a_batch_leaves_the_first_one_as_it_was(batch_and_labels):
    batch, _ = batch_and_labels
    before = batch.positions.clone()
    moved = batch.moved(batch.positions + 1.0)
    torch.testing.assert_close(batch.positions, before, rtol=0, atol=0)
    torch.testing.assert_close(moved.positions, before + 1.0, rtol=0, atol=0)
    assert moved.neighbours is batch.neighbours
    assert moved.cell is batch.cell


def test_batches_are_frozen(batch_and_labels):
    batch, labels = batch_and_labels
    for value, name in ((batch, "positions"), (labels, "energy")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, torch.zeros(1))


def test_dtype_leaves_integers_and_energies_alone(batch_and_labels):
    batch, labels = (value.to(dtype=torch.float32) for value in batch_and_labels)
    assert batch.positions.dtype == batch.cell.dtype == torch.float32
    assert batch.numbers.dtype == batch.neighbours[CUTOFF].i.dtype == torch.int64
    assert batch.pbc.dtype == labels.carried("energy").dtype == torch.bool
    assert labels["forces"].dtype == labels.hessian.dtype == labels.probes.dtype == torch.float32
    assert labels["energy"].dtype == torch.float64
    torch.testing.assert_close(labels["energy"], batch_and_labels[1]["energy"], rtol=0, atol=0)


def test_shifts_follow_the_dtype():
    batch, _ = collate([frame_from_atoms(bulk("Cu"))], (CUTOFF,))
    assert batch.to(dtype=torch.float32).vectors(CUTOFF).dtype == torch.float32


def test_everything_moves_to_a_device(batch_and_labels, device):
    for value in batch_and_labels:
        leaves = pytree.tree_leaves(value.to(device=device))
        assert {leaf.device.type for leaf in leaves if leaf is not None} == {device.type}


def test_sizes_count_only_real_atoms(batch_and_labels):
    batch, _ = batch_and_labels
    mask = torch.ones_like(batch.system, dtype=torch.bool)
    mask[0] = False
    expected = batch.sizes().clone()
    expected[0] -= 1
    assert dataclasses.replace(batch, atom_mask=mask).sizes().tolist() == expected.tolist()


# ------------------------------------------------------------------------------- the checks of annotations are in force


@needs_checks
@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("positions", (5, 3), torch.float64),
        ("positions", (22, 2), torch.float64),
        ("numbers", (22,), torch.float64),
        ("cell", (5, 3), torch.float64),
        ("charge", (4,), torch.int64),
    ],
)
def test_batch_of_wrong_shape_or_kind_is_refused(batch_and_labels, name, shape, dtype):
    from jaxtyping import TypeCheckError

    with pytest.raises(TypeCheckError):
        dataclasses.replace(batch_and_labels[0], **{name: torch.zeros(shape, dtype=dtype)})


@pytest.mark.parametrize(("name", "shape"), [("energy", (3,)), ("forces", (4, 2)), ("hessian", (5, 9, 12))])
def test_labels_of_wrong_shape_are_refused(batch_and_labels, name, shape):
    with pytest.raises(PHLError, match=f"{name} of shape"):
        batch_and_labels[1].replaced(**{name: torch.zeros(shape, dtype=torch.float64)})


def test_labels_of_another_number_of_atoms_are_refused(batch_and_labels):
    labels = batch_and_labels[1]
    with pytest.raises(PHLError, match="hold hvp of shape"):
        labels.replaced(forces=labels["forces"], hvp=torch.zeros(1, 4, 3, dtype=torch.float64))


@needs_checks
def test_neighbours_and_predictions_of_wrong_shape_are_refused():
    from jaxtyping import TypeCheckError

    with pytest.raises(TypeCheckError):
        Neighbours(torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeCheckError):
        Predictions(torch.zeros(2), stress=torch.zeros(3, 3, 3))


@needs_checks
def test_function_given_a_wrong_shape_is_refused(batch_and_labels):
    from jaxtyping import TypeCheckError

    with pytest.raises(TypeCheckError):
        to_dense(batch_and_labels[0], torch.zeros(2, 7), 9)
