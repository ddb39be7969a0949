"""Batches in blocks, and the loss as one compiled function: the numbers of lists and of eager mode.

Tracing is tested by running what was traced; that the compiler changes no number is tested where tests may be slow.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from surfaces import cluster, crystal, painn

from phl_ase import PHLCalculator
from phl_ase.derivatives import evaluate
from phl_ase.derivatives.compiled import CompileFailure, compiled
from phl_ase.errors import NonFiniteError
from phl_ase.objective import SCHEMES, CompiledLoss, with_curvature_targets
from phl_ase.objective import compiled as objective_module
from phl_ase.potentials import committee
from phl_ase.potentials.painn import PaiNN
from phl_ase.structures import (
    BlockedNeighbours,
    Neighbours,
    blocks,
    blocks_pay,
    collate,
    frame_from_atoms,
    in_blocks,
)
from phl_ase.training.step import accumulate_gradients

WEIGHTS = {"energy": 10.0, "forces": 1.0, "stress": 2.0, "curvature": 0.5}
# float64: order of sums alone differs; float32: six digits less rounding of three derivatives
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def labelled(frame, rng):
    n = len(frame)
    hessian = rng.normal(size=(3 * n, 3 * n))
    return dataclasses.replace(frame, energy=rng.normal(), forces=rng.normal(size=(n, 3)), hessian=hessian + hessian.T)


def molecules(rng, *sizes):
    return [labelled(cluster(rng, n, frame_id=k), rng) for k, n in enumerate(sizes)]


def cells(rng, *sizes):
    """Labelled with stress too."""
    frames = [labelled(crystal(rng, n), rng) for n in sizes]
    stresses = rng.normal(size=(len(sizes), 3, 3))
    return [
        dataclasses.replace(frame, stress=s + s.T, frame_id=k)
        for k, (frame, s) in enumerate(zip(frames, stresses, strict=True))
    ]


def drawn(model, frames, scheme="E-F-HVP-random", n_probes=1, dtype=torch.float64):
    batch, labels = collate(frames, model.cutoffs)
    family = SCHEMES[scheme].probes
    if family:
        labels = with_curvature_targets(batch, labels, family, n_probes=n_probes, seed=3)
    return batch.to(dtype=dtype), labels.to(dtype=dtype)


def gradient(model, batch, labels, loss=None, **options):
    model.zero_grad(set_to_none=True)
    absent = {"curvature": labels.probes is None, "stress": not labels.carried("stress").any()}
    weights = {name: w for name, w in WEIGHTS.items() if not absent.get(name)}
    result = accumulate_gradients(model, batch, labels, weights, memory_budget=2**31, compiled=loss, **options)
    return result, torch.cat([p.grad.ravel() for p in model.parameters()])


def assert_same(model, batch, labels, loss, **options):
    """Losses and gradients of the compiled and the eager step."""
    result, vector = gradient(model, batch, labels, loss, **options)
    expected, reference = gradient(model, batch, labels, **options)
    tolerance = TOLERANCE[batch.positions.dtype]
    assert (vector - reference).norm() <= tolerance * reference.norm()
    assert result.sums == pytest.approx(expected.sums, rel=tolerance)
    assert result.counts == expected.counts


# ------------------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("core", ["none", "zbl"])
def test_blocks_change_no_number(layers, core, rng):
    """Systems of one atom, of different size, and a cell whose atoms see their own images."""
    model = painn(layers=layers, core=core)
    model.set_references(torch.tensor([-13.6, -1035.0, -2043.0]), 2.5)
    frames = [*molecules(rng, 5, 1, 7), labelled(crystal(rng, 3), rng)]
    batch, labels = drawn(model, frames, n_probes=2)
    blocked, spread = in_blocks(batch, labels)
    assert blocked.positions.shape == (4 * 7, 3)
    assert isinstance(blocked.neighbours[4.0], BlockedNeighbours)
    assert torch.equal(blocked.sizes(), batch.sizes())
    listed = evaluate(model, batch, ("energy", "forces", "hvp"), probes=labels.probes)
    dense = evaluate(model, blocked, ("energy", "forces", "hvp"), probes=spread.probes)
    atoms = blocked.atom_mask
    # order of sums alone differs: of energies of 1e4 eV, of curvatures of 1e2 eV/Å²
    torch.testing.assert_close(dense.energy, listed.energy, rtol=1e-14, atol=1e-12)
    torch.testing.assert_close(dense.forces[atoms], listed.forces, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(dense.hvp[:, atoms], listed.hvp, rtol=1e-11, atol=1e-11)
    assert not dense.forces[~atoms].any()
    assert not dense.hvp[:, ~atoms].any()


def test_a_step_in_blocks_has_the_gradient_of_lists(rng, monkeypatch):
    model = painn()
    batch, labels = drawn(model, molecules(rng, 9, 9, 8, 9, 9, 7, 9), n_probes=2)
    assert blocks_pay(batch, "training")
    result, vector = gradient(model, batch, labels)
    monkeypatch.setattr(type(model), "takes_blocks", False)
    expected, reference = gradient(model, batch, labels)
    assert (vector - reference).norm() <= 1e-12 * reference.norm()
    assert result.sums == pytest.approx(expected.sums, rel=1e-12)


def test_lists_are_kept_where_blocks_would_be_empty(rng):
    model = painn(cutoff=1.5)
    batch, _ = drawn(model, molecules(rng, 2, 2, 2, 2, 2, 2, 20))
    assert not blocks_pay(batch, "compiled training")


@pytest.fixture
def forms(monkeypatch):
    """The kinds of neighbours that PaiNN was asked with."""
    seen = []
    forward = PaiNN.forward

    def noted(self, batch):
        seen.append(type(batch.neighbours[self.config.cutoff]))
        return forward(self, batch)

    monkeypatch.setattr(PaiNN, "forward", noted)
    return seen


@pytest.mark.parametrize("periodic", [False, True])
def test_hessians_in_blocks_are_those_of_lists(periodic, rng, monkeypatch, forms):
    """Systems of different size, padded; and cells whose atoms see their own images."""
    model = painn(layers=2, core="zbl")
    model.set_references(torch.tensor([-13.6, -1035.0, -2043.0]), 2.5)
    monkeypatch.setitem(blocks.LIMITS, "hessians", (blocks.Limits(rows=4, filled=0.3),))
    frames = [crystal(rng), crystal(rng, 3)] if periodic else molecules(rng, 9, 8, 1, 9, 7, 9)
    batch, _ = collate(frames, model.cutoffs)
    assert blocks_pay(batch, "hessians")
    needs = ("energy", "forces", "hessian", *["stress"] * periodic)
    dense = evaluate(model, batch, needs)
    monkeypatch.setattr(type(model), "takes_blocks", False)
    listed = evaluate(model, batch, needs)
    assert forms == [BlockedNeighbours, Neighbours]
    torch.testing.assert_close(dense.energy, listed.energy, rtol=1e-14, atol=1e-12)
    torch.testing.assert_close(dense.forces, listed.forces, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(dense.hessian, listed.hessian, rtol=1e-11, atol=1e-11)
    if periodic:
        torch.testing.assert_close(dense.stress, listed.stress, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("sizes", [(3, 5, 5), (9, 2, 2, 2, 2, 2, 2)])
def test_small_or_mostly_padded_systems_keep_lists_for_hessians(sizes, rng):
    batch, _ = collate(molecules(rng, *sizes), painn().cutoffs)
    assert not blocks_pay(batch, "hessians")


@pytest.mark.parametrize("sizes", [(17,), (14, 14, 12), (13, 13, 1)])
def test_forces_in_blocks_are_those_of_lists(sizes, rng, monkeypatch, forms):
    model = painn(layers=2, core="zbl")
    batch, _ = collate(molecules(rng, *sizes), model.cutoffs)
    blocked = evaluate(model, batch)
    monkeypatch.setattr(type(model), "takes_blocks", False)
    listed = evaluate(model, batch)
    padded = len(batch.numbers) < 0.8 * len(sizes) * max(sizes)
    assert forms == [Neighbours if padded else BlockedNeighbours, Neighbours]
    torch.testing.assert_close(blocked.energy, listed.energy, rtol=1e-14, atol=1e-12)
    torch.testing.assert_close(blocked.forces, listed.forces, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("crowded", "form"), [(10**9, Neighbours), (400, BlockedNeighbours)])
def test_large_sparse_cells_take_blocks_once_lists_are_long(crowded, form, monkeypatch, forms):
    model = painn(layers=2)
    frame = frame_from_atoms(bulk("Cu", "fcc", a=3.6, cubic=True) * 3)
    batch, _ = collate([dataclasses.replace(frame, numbers=np.full(len(frame), model.species[0]))], model.cutoffs)
    pairs = len(batch.neighbours[4.0].i)
    sparse, dense = blocks.LIMITS["forces"]
    limits = dataclasses.replace(sparse, filled=0.1 + pairs / 108**2), dataclasses.replace(dense, pairs=crowded)
    monkeypatch.setitem(blocks.LIMITS, "forces", limits)
    found = evaluate(model, batch, ("energy", "forces", "stress"))
    assert forms == [form]
    monkeypatch.setattr(type(model), "takes_blocks", False)
    listed = evaluate(model, batch, ("energy", "forces", "stress"))
    torch.testing.assert_close(found.forces, listed.forces, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.stress, listed.stress, rtol=1e-11, atol=1e-11)


def test_few_pairs_are_listed(rng, forms):
    model = painn()
    batch, _ = collate(molecules(rng, 6, 6), model.cutoffs)
    evaluate(model, batch)
    assert forms == [Neighbours]


@pytest.mark.parametrize("members", [1, 2])
def test_hvps_of_a_calculator_take_blocks(members, rng, monkeypatch, forms):
    atoms = molecule("isobutane")
    models = [painn(layers=2, seed=seed) for seed in range(members)]
    vectors = rng.normal(size=(3, len(atoms), 3))
    monkeypatch.setattr(committee, "FEW_BYTES", 0)  # members one by one
    blocked = PHLCalculator(models).get_hvp(vectors, atoms)
    assert forms == [BlockedNeighbours] * members
    monkeypatch.setattr(type(models[0]), "takes_blocks", False)
    np.testing.assert_allclose(blocked, PHLCalculator(models).get_hvp(vectors, atoms), rtol=0, atol=1e-10)
    assert forms[members:] == [Neighbours] * members


# ----------------------------------------------------------------------------------------------------- what is traced


@pytest.fixture
def without_compiler(monkeypatch):
    """What was traced is run operation by operation; keeps the graphs."""
    traced = []

    def compile_(graph, examples):
        traced.append(graph)
        return graph

    monkeypatch.setattr(torch._inductor, "compile", compile_)
    return traced


@pytest.mark.no_typecheck
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("layers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_traced_loss_has_the_gradient_of_the_eager_one(layers, rng, without_compiler):
    """One trace for all sizes, numbers of probes and schemes with curvature, E-F-H included."""
    model = painn(channels=4, n_basis=3, layers=layers)
    loss = CompiledLoss(model)
    assert_same(model, *drawn(model, molecules(rng, 4, 3)), loss)
    assert_same(model, *drawn(model, molecules(rng, 2, 6, 5), n_probes=2), loss)
    assert_same(model, *drawn(model, molecules(rng, 3, 2), "E-F-H"), loss)
    assert loss.failure is None
    assert len(without_compiler) == 1

    batch, labels = drawn(model, molecules(rng, 4, 3))
    _, vector = gradient(model, batch, labels, loss)
    _difference_quotient(model, batch, labels, vector, loss)


@pytest.mark.no_typecheck
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("differences", [False, True], ids=["exact", "differences"])
def test_the_traced_loss_of_cells_with_stress(differences, rng, without_compiler):
    model = painn(channels=4, n_basis=3, layers=1)
    loss = CompiledLoss(model, differences=differences)
    for sizes in ((4, 3), (2, 4, 3)):
        assert_same(model, *drawn(model, cells(rng, *sizes)), loss, differences=differences)
    assert loss.failure is None
    assert len(without_compiler) == 1


@pytest.mark.parametrize("axes", [("systems", "rows"), ("atoms",)])
def test_no_product_is_read_across(axes, rng, without_compiler):
    """Of matrices and of batches of them, and sums of those; what is also wanted as it is stays as it is."""
    shape = (*(4, 5)[: len(axes)], 3)
    values = {name: torch.as_tensor(rng.normal(size=shape)) for name in "ab"}

    def function(given):
        a, b = given["a"], given["b"]
        product = torch.mm if a.dim() == 2 else torch.bmm  # ``@`` puts views between
        one, two, kept = product(a, b.mT), product(a + 1, b.mT), product(2 * a, b.mT)
        return [(one + two).mT * product(b, a.mT), product(a - 1, b.mT).mT, kept.mT.exp(), kept]

    made = compiled(function, values, dict.fromkeys(values, axes))
    for found, expected in zip(made(values), function(values), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (graph,) = without_compiler
    assert len(_read_across(graph)) == 1  # ``kept``


def _read_across(graph):
    """Matrix products, and sums with one, that are transposed."""

    def holds_a_product(node):
        if getattr(node, "target", None) is torch.ops.aten.add.Tensor:
            return any(holds_a_product(term) for term in node.args)
        return getattr(node, "target", None) in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)

    permuted = [node.args[0] for node in graph.graph.nodes if node.target is torch.ops.aten.permute.default]
    return [node for node in permuted if holds_a_product(node)]


def _difference_quotient(model, batch, labels, vector, loss=None, h=1e-4):
    """The gradient along a random direction against central differences of the loss, extrapolated."""
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(5)
    along = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    origin = [p.detach().clone() for p in parameters]

    def value(t: float) -> float:
        with torch.no_grad():
            for p, start, d in zip(parameters, origin, along, strict=True):
                p.copy_(start + t * d)
        result, _ = gradient(model, batch, labels, loss)
        return sum(WEIGHTS[name] * result.sums[name] / result.counts[name] for name in result.sums)

    slope = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    value(0.0)
    # h⁴ times a fifth derivative, and rounding over h
    assert float(torch.cat([d.ravel() for d in along]) @ vector) == pytest.approx(slope, rel=1e-7)


# ------------------------------------------------------------------------------------------------- where it cannot be


@pytest.mark.parametrize("broken", ["raises", "wrong", "raises later"])
def test_what_cannot_be_compiled_is_said_once_and_done_eagerly(broken, rng, monkeypatch):
    def compiled(function, arguments, axes):
        if broken == "raises":
            raise CompileFailure("no compiler\nat line 3")

        def made(values):
            if broken == "raises later":
                raise RuntimeError("out of registers")
            return [1.01 * value for value in function(values)]

        return made

    monkeypatch.setattr(objective_module, "compiled", compiled)
    model = painn()
    loss = CompiledLoss(model)
    batch, labels = drawn(model, molecules(rng, 4, 3))
    with pytest.warns(RuntimeWarning, match=r"no compiler|other numbers|out of registers") as caught:
        assert_same(model, batch, labels, loss)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert_same(model, batch, labels, loss)  # and without another warning


def test_a_potential_that_reads_numbers_out_cannot_be_traced(rng):
    class Reads(type(painn())):
        def forward(self, batch):
            energy = super().forward(batch)
            return energy * 2 if float(energy.detach().sum()) > 0 else energy

    model = Reads(painn().config).double()
    with pytest.warns(RuntimeWarning, match="the loss could not be compiled"):
        assert_same(model, *drawn(model, molecules(rng, 3, 2), "E-F"), CompiledLoss(model))


@pytest.mark.parametrize("sizes", [(4,), (1, 1)])
def test_batches_too_small_to_stand_for_others_are_done_eagerly(sizes, rng, monkeypatch):
    monkeypatch.setattr(objective_module, "compiled", None)  # would raise if it were called
    model = painn()
    assert_same(model, *drawn(model, molecules(rng, *sizes)), CompiledLoss(model))


def test_a_loss_that_is_not_finite_names_the_frame(rng, monkeypatch):
    monkeypatch.setattr(objective_module, "compiled", lambda function, arguments, axes: function)
    model = painn()
    frames = molecules(rng, 4, 3)
    frames[1] = dataclasses.replace(frames[1], forces=np.full((3, 3), 1e200))
    with pytest.raises(NonFiniteError, match=r"forces loss is not finite for frames \[1\]"):
        gradient(model, *drawn(model, frames), CompiledLoss(model))


@pytest.mark.no_typecheck
@pytest.mark.timeout(600)
def test_the_traced_loss_by_differences(rng, without_compiler):
    """One trace for all sizes, as with exact HVPs."""
    model = painn(channels=4, n_basis=3, layers=1)
    loss = CompiledLoss(model, differences=True)
    for frames, options in ((molecules(rng, 4, 3), {}), (molecules(rng, 2, 6, 5), {"n_probes": 2})):
        batch, labels = drawn(model, frames, **options)
        assert_same(model, batch, labels, loss, differences=True)
    assert loss.failure is None
    assert len(without_compiler) == 1


# --------------------------------------------------------------------------------------------------- with the compiler


@pytest.mark.no_typecheck
@pytest.mark.slow
@pytest.mark.timeout(1800)  # compiling takes minutes where cores are shared
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("schemes", [("E-F",), ("E-F-HVP-random", "E-F-H")])
def test_the_compiled_loss_has_the_gradient_of_the_eager_one(schemes, dtype, rng):
    model = painn(channels=8, n_basis=4).to(dtype)
    loss = CompiledLoss(model)
    for scheme in schemes:
        assert_same(model, *drawn(model, molecules(rng, 6, 5, 6), scheme, dtype=dtype), loss)
        assert_same(model, *drawn(model, molecules(rng, 3, 3), scheme, n_probes=2, dtype=dtype), loss)
    assert loss.failure is None
    if dtype == torch.float64:
        batch, labels = drawn(model, molecules(rng, 4, 3), schemes[0])
        _, vector = gradient(model, batch, labels, loss)
        _difference_quotient(model, batch, labels, vector, loss)


@pytest.mark.no_typecheck
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_compiled_loss_of_cells_with_stress(dtype, rng):
    """In float32 sums of a hundred pairs an atom are rounded more than those of a molecule, which is no failure."""
    model = painn(channels=8, n_basis=4).to(dtype)
    loss = CompiledLoss(model)
    for sizes in ((3, 4, 2), (4, 2, 3, 4)):
        assert_same(model, *drawn(model, cells(rng, *sizes), dtype=dtype), loss)
    assert loss.failure is None
