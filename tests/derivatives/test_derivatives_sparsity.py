"""Hessians of large systems: zeros that are zeros, HVPs that are shared, memory that is kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from surfaces import cluster, morse, painn

from phl_ase.derivatives import GradientGraph, evaluate, sparse_hessian
from phl_ase.derivatives import graph as graph_module
from phl_ase.derivatives import sparsity as sparsity_module
from phl_ase.derivatives.sparsity import sparsity_of, worthwhile_sparsity
from phl_ase.errors import PHLError
from phl_ase.potentials import Committee, Sum
from phl_ase.structures import Frame, collate

BUDGET = 2**30


def chain(rng, n: int, *, periodic: bool = False) -> Frame:
    """A zigzag of atoms 1.1 Å apart along x, shaken; a ring by periodicity."""
    positions = np.stack([1.1 * np.arange(n), 0.4 * (np.arange(n) % 2), np.zeros(n)], axis=1)
    positions += rng.uniform(-0.05, 0.05, (n, 3))
    fields = {"cell": np.diag([1.1 * n, 9.0, 9.0]), "pbc": np.array([True, False, False])} if periodic else {}
    return Frame(numbers=rng.choice([1, 6, 8], n), positions=positions, **fields)


def solid(rng, n: int) -> Frame:
    """A periodic cubic lattice of n × n × n shaken atoms, 2 Å apart."""
    positions = 2.0 * np.array([[x, y, z] for x in range(n) for y in range(n) for z in range(n)], dtype=float)
    cell = 2.0 * n * np.eye(3)
    shaken = positions + rng.uniform(-0.1, 0.1, positions.shape)
    return Frame(numbers=np.full(n**3, 6), positions=shaken, cell=cell, pbc=np.ones(3, dtype=bool))


def backwards(frame: Frame, rng) -> Frame:
    order = rng.permutation(len(frame))
    return Frame(numbers=frame.numbers[order], positions=frame.positions[order], cell=frame.cell, pbc=frame.pbc)


SYSTEMS = {
    "chain": lambda rng: chain(rng, 70),
    "chain in any order": lambda rng: backwards(chain(rng, 70), rng),
    "ring": lambda rng: chain(rng, 70, periodic=True),
    "solid": lambda rng: solid(rng, 5),
}
SHORT = {
    "morse": lambda: morse(2.4),
    "painn, one layer": lambda: painn(layers=1, cutoff=2.4, channels=4),
    "painn, two layers": lambda: painn(layers=2, cutoff=2.4, channels=4),
    "sum": lambda: Sum([painn(layers=2, cutoff=1.6, channels=4), morse(2.6)]),
    "committee": lambda: Committee([painn(s, layers=1, cutoff=2.4, channels=4) for s in (1, 2)]),
}


def batch_of(potential, *frames, device="cpu"):
    return collate(list(frames), potential.cutoffs)[0].to(device)


def dense_rows(potential, batch, monkeypatch):
    """The Hessian from all of its rows."""
    with monkeypatch.context() as patch:
        patch.setattr(sparsity_module, "SPARSE_FROM", math.inf)
        return evaluate(potential, batch, ("hessian",)).hessian


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", SHORT)
def test_zeros_are_zeros_and_the_rest_is_exact(system, name, rng, device, monkeypatch):
    potential = SHORT[name]().to(device)
    batch = batch_of(potential, SYSTEMS[system](rng), device=device)
    every_row = dense_rows(potential, batch, monkeypatch)[0].cpu().numpy()
    sparsity = sparsity_of(potential, batch)
    outside = np.kron(sparsity.pattern.toarray() == 0, np.ones((3, 3), dtype=bool))
    assert not every_row[outside].any()
    matrix = sparse_hessian(potential, batch, memory_budget=BUDGET)
    # the order of sums alone may differ
    np.testing.assert_allclose(matrix.toarray(), every_row, rtol=0, atol=1e-13 * np.abs(every_row).max())
    np.testing.assert_array_equal(matrix.toarray(), matrix.toarray().T)
    # no row meets two atoms of one colour
    for row in range(len(batch.numbers)):
        colours = sparsity.colours[sparsity.pattern[[row]].indices]
        assert len(set(colours)) == len(colours)


def test_chosen_where_it_pays(rng, device, monkeypatch):
    """A batch of a long chain, a short one and a molecule: fewer HVPs than rows, nothing else changes."""
    potential = painn(layers=1, cutoff=2.4, channels=4).to(device)
    batch = batch_of(potential, chain(rng, 60), cluster(rng, 5), chain(rng, 20), device=device)
    expected = dense_rows(potential, batch, monkeypatch)
    taken = []
    original = GradientGraph.hvp
    monkeypatch.setattr(GradientGraph, "hvp", lambda s, v, *b: taken.append(len(v)) or original(s, v, *b))
    found = evaluate(potential, batch, ("hessian",)).hessian
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13 * expected.abs().max().item())
    sparsity = worthwhile_sparsity(potential, batch)
    assert sum(taken) == 3 * sparsity.n_colours < 0.5 * 180
    # where every atom sees every other nothing is looked for
    near = painn(cutoff=40.0, channels=4)
    assert worthwhile_sparsity(near, batch_of(near, chain(rng, 60))) is None
    assert worthwhile_sparsity(potential, batch_of(potential, chain(rng, 20))) is None


@pytest.mark.parametrize("periodic", [False, True])
def test_hvps_stop_growing(periodic, rng):
    potential = painn(layers=2, cutoff=2.4, channels=4)
    counts = []
    for n in (60, 120, 480):
        sparsity = sparsity_of(potential, batch_of(potential, chain(rng, n, periodic=periodic)))
        fullest = int(np.diff(sparsity.pattern.indptr).max())
        counts.append(sparsity.n_colours)
        assert sparsity.n_colours <= (2 if periodic else 1) * fullest  # a ring has to close
    assert max(counts[1:]) <= 1.6 * counts[0]
    assert counts[-1] < 480 / 8


def test_no_finite_receptive_field(rng, monkeypatch):
    potential = morse(2.4)
    potential.receptive_field = math.inf
    batch = batch_of(potential, chain(rng, 60))
    with pytest.raises(PHLError, match=r"Morse has no finite receptive field .* ask for the dense Hessian") as error:
        sparse_hessian(potential, batch, memory_budget=BUDGET)
    assert "\n" not in str(error.value)
    assert sparsity_of(Sum([potential, morse(3.0)]), batch_of(morse(3.0), chain(rng, 5))) is None
    assert torch.equal(evaluate(potential, batch, ("hessian",)).hessian, dense_rows(potential, batch, monkeypatch))


def test_one_atom(rng):
    matrix = sparse_hessian(painn(), batch_of(painn(), cluster(rng, 1)), memory_budget=BUDGET)
    assert matrix.shape == (3, 3)
    assert matrix.count_nonzero() == 0


# ------------------------------------------------------------------------------------------------------------ memory


def peak_bytes(function) -> int:
    """Peak of the tensor memory allocated inside, above that at the start."""
    function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return int(np.max(np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])))


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")  # of torch 2.11
def test_the_budget_is_kept(rng, monkeypatch):
    """Rows taken together allocate no more than the budget, whatever it is; fewer rows, less memory."""
    monkeypatch.setattr(graph_module, "CPU_CHUNK", 2**40)  # as on a GPU: as many rows as the budget allows
    model = painn(channels=32)
    batch = batch_of(model, cluster(rng, 12))
    graph = GradientGraph(model, batch, curvature=True)
    vectors = torch.randn(36, 12, 3, dtype=torch.float64)
    peaks = {}
    for rows in (1, 4, 16):
        budget = rows * graph.saved_bytes
        assert graph.rows_together(budget) == rows
        peaks[rows] = peak_bytes(lambda budget=budget: graph.hvp(vectors, budget))
        assert peaks[rows] <= budget + 2 * vectors.nbytes
    assert peaks[16] > 2 * peaks[1]
    with pytest.raises(PHLError, match="one Hessian-vector product needs about"):
        graph.hvp(vectors, graph.saved_bytes - 1)
    with pytest.raises(PHLError, match="memory budget is"):
        evaluate(model, batch, ("hessian",), memory_budget=1000)
    with pytest.raises(PHLError, match="memory budget is"):
        sparse_hessian(model, batch, memory_budget=1000)
