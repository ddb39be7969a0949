"""HVPs by differences of gradients at two places, in the loss: against exact ones, closed forms and their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from surfaces import POTENTIALS, cluster, crystal, mixed, painn
from test_compiled import WEIGHTS, drawn, molecules

from phl_ase.derivatives import evaluate
from phl_ase.objective import displaced, predictions_by_differences
from phl_ase.structures import Predictions, collate, in_blocks
from phl_ase.training.step import accumulate_gradients

every_potential = pytest.mark.parametrize("name", POTENTIALS)


def of_differences(potential, batch, probes, **options) -> Predictions:
    found = predictions_by_differences(potential, batch, probes, **options)
    return Predictions(
        **{name: value.detach() for name, value in vars(found).items() if isinstance(value, torch.Tensor)}
    )


def random_probes(batch, generator):
    return torch.randn(1, len(batch.numbers), 3, dtype=torch.float64, generator=generator)


@every_potential
def test_they_are_the_exact_ones_but_for_the_step_squared(name, rng, generator):
    """Molecules of different size, cells, a lone atom; what forces and HVPs are off by, exact HVPs tell."""
    potential = POTENTIALS[name]()
    batch = collate([*mixed(rng), cluster(rng, 1)], potential.cutoffs)[0]
    probes = random_probes(batch, generator)
    found = of_differences(potential, batch, probes, stress=True)
    exact = evaluate(potential, batch, ("energy", "forces", "hvp", "stress"), probes=probes)
    lengths = probes[0].norm(dim=-1)
    most = torch.stack([lengths[batch.system == s].max() for s in range(batch.n_systems)])
    step = displaced.DISPLACEMENTS[torch.float64] / most[batch.system].unsqueeze(-1)
    there, back = (
        evaluate(potential, batch.moved(batch.positions + sign * step * probes[0]), ("hvp",), probes=probes).hvp[0]
        for sign in (1.0, -1.0)
    )
    # s²/2 and s²/6 of the third and fourth derivative along the probe
    forces, hvps = exact.forces - 0.25 * step * (there - back), exact.hvp[0] + (there + back - 2 * exact.hvp[0]) / 6
    torch.testing.assert_close(found.forces, forces, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(found.hvp[0], hvps, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.energy, exact.energy, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.stress, exact.stress, rtol=0, atol=5e-6)


def test_the_order_of_the_error(rng, generator, monkeypatch):
    """Half of the step: a quarter of the error of forces and HVPs, a sixteenth of that of energies."""
    potential = painn()
    batch = collate([cluster(rng, 5), crystal(rng, 3)], potential.cutoffs)[0]
    probes = random_probes(batch, generator)
    exact = evaluate(potential, batch, ("energy", "forces", "hvp"), probes=probes)
    errors = []
    for step in (4e-2, 2e-2):
        monkeypatch.setitem(displaced.DISPLACEMENTS, torch.float64, step)
        found = of_differences(potential, batch, probes)
        errors.append([float((getattr(found, k) - getattr(exact, k)).norm()) for k in ("energy", "forces", "hvp")])
    ratios = np.array(errors[0]) / np.array(errors[1])
    assert ratios == pytest.approx([16, 4, 4], rel=0.15)


@pytest.mark.parametrize("probe", [0.0, 1e-3, 1e3])
def test_a_probe_of_any_length(probe, rng):
    """The step is an atom's, not the probe's; without one a system is where it is."""
    potential = painn()
    batch = collate([cluster(rng, 3), cluster(rng, 4)], potential.cutoffs)[0]
    probes = torch.ones(1, 7, 3, dtype=torch.float64)
    probes[0, :3] *= probe
    exact = evaluate(potential, batch, ("energy", "hvp"), probes=probes)
    found = of_differences(potential, batch, probes)
    torch.testing.assert_close(found.hvp, exact.hvp, rtol=1e-5, atol=1e-5 * max(probe, 1.0))
    torch.testing.assert_close(found.energy, exact.energy, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("scheme", "n_probes"), [("E-F-HVP-random", 2), ("E-F-HVP-onehot", 1), ("E-F-H", 1)])
@pytest.mark.parametrize("in_dense_blocks", [False, True])
def test_a_step_has_the_gradient_of_exact_hvps(scheme, n_probes, in_dense_blocks, rng):
    model = painn()
    batch, labels = drawn(model, molecules(rng, 4, 3, 5), scheme, n_probes)
    if in_dense_blocks:
        batch, labels = in_blocks(batch, labels)

    def step(**options):
        model.zero_grad(set_to_none=True)
        result = accumulate_gradients(model, batch, labels, WEIGHTS, memory_budget=2**31, **options)
        return result, torch.cat([p.grad.ravel() for p in model.parameters()])

    expected, reference = step()
    result, vector = step(differences=True)
    assert 0 < (vector - reference).norm() <= 1e-5 * reference.norm()
    assert result.sums == pytest.approx(expected.sums, rel=1e-5)
    assert result.counts == expected.counts


def test_batches_without_hvps_are_done_as_ever(rng):
    model = painn()
    batch, labels = drawn(model, molecules(rng, 4, 3), "E-F")
    weights = {"energy": 1.0, "forces": 1.0}
    sums = [
        accumulate_gradients(model, batch, labels, weights, memory_budget=2**31, differences=flag).sums
        for flag in (False, True)
    ]
    assert sums[0] == sums[1]
