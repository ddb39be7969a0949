"""What potentials are held to wherever they are asked: known elements, one differentiable energy for each system."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from phl_ase import PHLCalculator
from phl_ase.derivatives import GradientGraph, evaluate
from phl_ase.errors import PHLError
from phl_ase.objective import CompiledLoss
from phl_ase.potentials import Committee, LennardJones, PaiNN, PaiNNConfig, Sum
from phl_ase.structures import Batch, collate, frame_from_atoms, in_blocks

CUTOFF = 5.0


@pytest.fixture(scope="module")
def hydrocarbons() -> PaiNN:
    """A model that knows H and C."""
    return PaiNN(PaiNNConfig((1, 6), channels=8, cutoff=CUTOFF)).double().requires_grad_(False)


def pair(symbols: str):
    return collate([frame_from_atoms(Atoms(symbols, [[0, 0, 0], [0, 0, 1.1]]))] * 2, [CUTOFF])


ASKED = {
    "the model": lambda model, batch: model(batch),
    "its forward under torch.func": lambda model, batch: torch.func.grad(lambda r: model(batch.moved(r)).sum())(
        batch.positions
    ),
    "a sum": lambda model, batch: Sum([model, LennardJones(epsilon=0.01, sigma=2.0, cutoff=CUTOFF)])(batch),
    "a committee": lambda model, batch: Committee([model, model])(batch),
    "a stacked committee": lambda model, batch: Committee([model, model]).stack()(batch),
    "a committee in a sum": lambda model, batch: Sum([Committee([model, model])])(batch),
    "energies": lambda model, batch: evaluate(model, batch, ("energy",)),
    "forces": lambda model, batch: evaluate(model, batch, ("forces",)),
    "Hessians": lambda model, batch: evaluate(model, batch, ("hessian",)),
    "a graph": lambda model, batch: GradientGraph(model, batch, curvature=True),
    "blocks": lambda model, batch: model(in_blocks(batch, pair("HH")[1])[0]),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("unseen", ["O", "U", "He"])
def test_unknown_elements_are_refused_on_every_path(asked, unseen, hydrocarbons):
    with pytest.raises(PHLError, match=f"have {unseen}, which the model never saw; it knows H, C"):
        ASKED[asked](hydrocarbons, pair(f"H{unseen}")[0])
    ASKED[asked](hydrocarbons, pair("HC")[0])


def test_unknown_elements_are_refused_by_what_is_compiled(hydrocarbons):
    """Before anything is traced: a compiled function has no errors of its own."""
    with pytest.raises(PHLError, match="have O, which the model never saw"):
        CompiledLoss(hydrocarbons)(*pair("HO"), {"energy": 1.0})


def test_numbers_that_are_no_elements_are_refused(hydrocarbons):
    batch, _ = pair("HC")
    batch.numbers[0] = 200
    with pytest.raises(PHLError, match="have 200, which the model never saw"):
        hydrocarbons(batch)


def test_a_batch_on_another_device_is_not_asked_for_its_elements():
    """They are noted on the way: a GPU would be waited for."""
    batch, _ = pair("HO")
    away = batch.to("meta")  # a tensor without numbers
    assert away.elements == {1, 8}
    assert away.elements_present() == {1, 8}
    assert away.moved(away.positions).elements_present() == {1, 8}
    with pytest.raises(PHLError, match="have O, which the model never saw"):
        PaiNN(PaiNNConfig((1, 6), channels=8, cutoff=CUTOFF)).to("meta")(away)


# ------------------------------------------------------------------------------------------------------- what they give


def potential_of(energy):
    """A potential from a function of a batch."""

    class Given(SimpleNamespace):
        def __call__(self, batch):
            return energy(batch)

    return Given(
        species=(),
        cutoffs=(CUTOFF,),
        receptive_field=CUTOFF,
        derivative_modes=("batched", "loop"),
        takes_charge=False,
    )


def squares(batch: Batch):
    """Σ r² of each system: forces −2r, the Hessian 2."""
    atomic = batch.positions.square().sum(-1)
    return atomic.new_zeros(batch.n_systems).index_add(0, batch.system, atomic)


class Fourth(torch.autograd.Function):
    """Σ r⁴ whose derivative is computed outside of autograd."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.detach())
        return (x**4).sum(-1)

    @staticmethod
    def backward(ctx, _):
        (x,) = ctx.saved_tensors
        return torch.as_tensor(4.0 * x.numpy() ** 3)


def fourth(batch: Batch):
    atomic = Fourth.apply(batch.positions)
    return atomic.new_zeros(batch.n_systems).index_add(0, batch.system, atomic)


WRONG = {
    "an energy for each atom": (lambda batch: batch.positions.square().sum(-1), r"torch.float64 of shape \(3,\)"),
    "one number": (lambda batch: squares(batch).sum(), r"torch.float64 of shape \(\)"),
    "a column": (lambda batch: squares(batch).unsqueeze(-1), r"torch.float64 of shape \(1, 1\)"),
    "nothing": (lambda batch: None, "NoneType"),
    "a float": (lambda batch: 1.0, "float"),
    "an array": (lambda batch: squares(batch).detach().numpy(), "ndarray"),
    "complex numbers": (lambda batch: squares(batch).to(torch.complex128), r"torch.complex128 of shape \(1,\)"),
    "whole numbers": (lambda batch: squares(batch).long(), r"torch.int64 of shape \(1,\)"),
    "detached": (lambda batch: squares(batch).detach(), "energies change when atoms move, but cannot be diff"),
    "detached but for a parameter": (
        lambda batch: squares(batch).detach() * torch.ones(1, dtype=torch.float64, requires_grad=True),
        "energies change when atoms move, but cannot be diff",
    ),
}

CALLS = {
    "forces": lambda calc, atoms: calc.get_forces(atoms),
    "Hessian": lambda calc, atoms: calc.get_hessian(atoms),
    "HVP": lambda calc, atoms: calc.get_hvp(np.ones((3, 3)), atoms),
    "many": lambda calc, atoms: calc.evaluate([atoms], ("energy", "forces")),
    "modes": lambda calc, atoms: calc.get_lowest_modes(atoms, 1),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_energy_is_refused(wrong, call):
    energy, message = WRONG[wrong]
    with pytest.raises(PHLError, match=message):
        CALLS[call](PHLCalculator(potential_of(energy)), molecule("H2O"))


@pytest.mark.parametrize("combination", [Sum, Committee])
def test_what_is_no_energy_is_refused_as_a_member(combination):
    batch, _ = collate([frame_from_atoms(molecule("H2O"))], [CUTOFF])
    with pytest.raises(PHLError, match=r"of shape \(3,\); expected a floating-point tensor with one energy"):
        combination([potential_of(lambda b: b.positions.square().sum(-1)), potential_of(squares)])(batch)


@pytest.mark.parametrize("call", ["Hessian", "HVP", "modes"])
def test_forces_that_cannot_be_differentiated_have_no_curvature(call):
    calc, atoms = PHLCalculator(potential_of(fourth)), molecule("H2O")
    np.testing.assert_allclose(calc.get_forces(atoms), -4.0 * atoms.positions**3, atol=1e-12)
    with pytest.raises(PHLError, match="forces change when atoms move, but cannot be differentiated again"):
        CALLS[call](calc, atoms)


@pytest.mark.parametrize(
    ("energy", "force"),
    [
        (lambda batch: torch.ones(batch.n_systems, dtype=torch.float64), 0.0),
        (lambda batch: squares(batch.moved(batch.positions.detach() * 0)), 0.0),
        (
            lambda batch: batch.positions.new_zeros(batch.n_systems).index_add(
                0, batch.system, batch.positions.sum(-1)
            ),
            -1.0,
        ),
    ],
)
def test_constant_energies_and_constant_forces_are_potentials(energy, force):
    calc, atoms = PHLCalculator(potential_of(energy)), molecule("H2O")
    np.testing.assert_array_equal(calc.get_forces(atoms), np.full((3, 3), force))
    np.testing.assert_array_equal(calc.get_hessian(atoms), np.zeros((9, 9)))
