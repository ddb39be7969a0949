"""Probes: moments of every family, the variances of the design, and draws that depend on nothing but their counters."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from surfaces import cluster, mixed

from phl_ase.errors import PHLError
from phl_ase.probes import FAMILIES, check_family, draw_probes
from phl_ase.probes.counter import hash_counters, normal, uniform
from phl_ase.structures import Batch, PackedFrames, collate

RANDOM = [name for name, family in FAMILIES.items() if not family.complete]
every_family = pytest.mark.parametrize("name", FAMILIES)
every_random_family = pytest.mark.parametrize("name", RANDOM)
MANY = 20_000
ATOMS = 2
N = 3 * ATOMS


def molecule(atoms: int = ATOMS, copies: int = 1) -> Batch:
    return PackedFrames([cluster(np.random.default_rng(1), atoms)], ()).select([0] * copies)[0]


def draw(name: str, batch: Batch, ids, **options) -> torch.Tensor:
    return draw_probes(name, batch, torch.as_tensor(ids), **options).vectors


@functools.cache
def many(name: str, n_probes: int = 1, seed: int = 0) -> torch.Tensor:
    """Probes (MANY, K, N): as many frames of one molecule, each with K probes."""
    batch = molecule(copies=MANY)
    vectors = draw(name, batch, range(MANY), n_probes=n_probes, seed=seed)
    return vectors.reshape(n_probes, MANY, N).transpose(0, 1)


@pytest.fixture(scope="module")
def difference() -> torch.Tensor:
    """D = Ĥ − H of one molecule, with eigenvalues and diagonal elements of different size."""
    d = torch.randn(N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return d + d.T + torch.diag(torch.arange(N, dtype=torch.float64))


def standard_error(values: torch.Tensor) -> float:
    return (values.std() / len(values) ** 0.5).item()


# ------------------------------------------------------------------------------------------------------------ moments


@every_random_family
def test_second_moment_is_the_identity(name):
    v = many(name)[:, 0]
    outer = v.unsqueeze(-1) * v.unsqueeze(-2)
    error = (outer.mean(0) - torch.eye(N, dtype=torch.float64)).abs()
    # 36 elements: six standard errors leave no false alarm (and each draw is the same at every run)
    assert (error <= 6 * outer.std(0) / MANY**0.5 + 1e-12).all()
    # one-hot vectors have a mean, which E[v vᵀ] = I does not forbid
    if name != "onehot":
        assert (v.mean(0).abs() <= 6 * v.std(0) / MANY**0.5).all()


@every_random_family
@pytest.mark.parametrize("k", [1, 3])
def test_mean_of_the_hvp_loss_is_the_hessian_loss(name, k, difference):
    loss = (many(name, k) @ difference).square().sum(-1).mean(-1) / N**2
    expected = difference.square().sum().item() / N**2
    assert loss.mean().item() == pytest.approx(expected, abs=5 * standard_error(loss))


@pytest.mark.parametrize(("name", "k"), [("orthogonal", N), ("complete", 1)])
def test_all_directions_give_the_hessian_loss_exactly(name, k, difference):
    v = draw_probes(name, molecule(), torch.tensor([7]), n_probes=k).vectors.reshape(-1, N)
    assert len(v) == N
    torch.testing.assert_close(v.T @ v / N, torch.eye(N, dtype=torch.float64), rtol=0, atol=1e-13)
    loss = (v @ difference).square().sum() / N / N**2
    assert loss.item() == pytest.approx(difference.square().sum().item() / N**2, rel=1e-12)


def test_all_one_hots_give_the_hessian_loss_exactly(difference):
    v = many("onehot")[:, 0].unique(dim=0)
    assert len(v) == N
    assert ((v @ difference).square().sum() / N).item() == pytest.approx(difference.square().sum().item(), rel=1e-12)


def variance_of_one(name: str, a: torch.Tensor) -> float:
    """Var of vᵀAv for one probe (design §2)."""
    frobenius, diagonal, trace = (a.square().sum(), a.diagonal().square().sum(), a.trace().square())
    return {
        "rademacher": 2 * (frobenius - diagonal),
        "gaussian": 2 * frobenius,
        "sphere": 2 * N / (N + 2) * (frobenius - trace / N),
        "onehot": N * diagonal - trace,
        "orthogonal": 2 * N / (N + 2) * (frobenius - trace / N),
    }[name].item()


@every_random_family
@pytest.mark.parametrize("k", [1, 4])
def test_variance(name, k, difference):
    """The variance of the mean over K probes: 1/K of one probe's, for orthogonal ones times (N − K)/(N − 1) as well."""
    a = difference.T @ difference
    values = torch.einsum("mka,ab,mkb->mk", many(name, k), a, many(name, k)).mean(-1)
    expected = variance_of_one(name, a) / k
    if name == "orthogonal":
        expected *= (N - k) / (N - 1)
    deviations = (values - values.mean()).square()
    assert deviations.mean().item() == pytest.approx(expected, abs=5 * standard_error(deviations))


def test_rademacher_components_are_signs_and_spheres_have_a_radius():
    assert set(many("rademacher").unique().tolist()) == {-1.0, 1.0}
    for name in ("sphere", "orthogonal", "onehot"):
        torch.testing.assert_close(many(name).norm(dim=-1), torch.full((MANY, 1), N**0.5, dtype=torch.float64))


# ------------------------------------------------------------------------------------ functions of their counters only


@every_family
def test_batch_order_and_padding_do_not_matter(name, rng, device):
    frames = [f for f in mixed(rng) if len(f) > 1]
    batch, labels = (x.to(device) for x in collate(frames, ()))
    together = draw_probes(name, batch, labels.frame_id, n_probes=3, seed=1, epoch=2)
    pieces = together.vectors.split([len(f) for f in frames], dim=1)
    for order in ([2, 0, 1], [1], [0, 2]):
        part, part_labels = (x.to(device) for x in collate([frames[k] for k in order], ()))
        drawn = draw_probes(name, part, part_labels.frame_id, n_probes=3, seed=1, epoch=2)
        expected = torch.cat([pieces[k][: len(drawn.vectors)] for k in order], dim=1)
        # orthogonal: zero rows of the padding change the rounding of a QR decomposition
        torch.testing.assert_close(drawn.vectors, expected, rtol=0, atol=1e-13 if name == "orthogonal" else 0)
        assert torch.equal(drawn.n_probes, together.n_probes[torch.tensor(order, device=device)])


@every_random_family
def test_the_first_probes_do_not_depend_on_how_many(name):
    batch = molecule(4, copies=2)
    few, more = (draw(name, batch, [3, 4], n_probes=k) for k in (2, 7))
    torch.testing.assert_close(more[:2], few, rtol=0, atol=1e-13 if name == "orthogonal" else 0)


@every_random_family
def test_every_counter_counts(name):
    # 12 components and 6 probes: no two draws of any family agree by chance
    draws = [
        draw(name, molecule(4), [frame], n_probes=6, seed=seed, epoch=epoch)
        for seed, epoch, frame in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1))
    ]
    for a, one in enumerate(draws):
        assert all(not torch.equal(one, other) for other in draws[:a])
    again = draw(name, molecule(4), [0], n_probes=6)
    assert torch.equal(again, draws[0])


def test_probes_of_one_frame_differ_and_do_not_correlate():
    v = many("rademacher", 2)
    correlation = (v[:, 0] * v[:, 1]).mean(0)
    assert correlation.abs().max() < 6 / MANY**0.5
    neighbours = (v[1:, 0] * v[:-1, 0]).mean(0)  # consecutive frames
    assert neighbours.abs().max() < 6 / MANY**0.5
    epochs = (v[:, 0] * draw("rademacher", molecule(copies=MANY), range(MANY), epoch=1).reshape(MANY, N)).mean(0)
    assert epochs.abs().max() < 6 / MANY**0.5


@every_family
def test_draws_agree_over_devices_and_dtypes(name, device):
    batch = molecule(3, copies=2)
    expected = draw_probes(name, batch, torch.tensor([5, 9]), n_probes=4)
    single = batch.to(device, torch.float32)
    got = draw_probes(name, single, torch.tensor([5, 9], device=device), n_probes=4)
    assert got.vectors.dtype == torch.float64
    torch.testing.assert_close(got.vectors.cpu(), expected.vectors, rtol=0, atol=1e-12)


def test_complete_draws_as_many_as_each_system_has(rng):
    frames = mixed(rng)
    batch, labels = collate(frames, ())
    drawn = draw_probes("complete", batch, labels.frame_id)
    assert drawn.n_probes.tolist() == [3 * len(f) for f in frames]
    assert len(drawn.vectors) == 3 * max(map(len, frames))
    for piece, frame in zip(drawn.vectors.split([len(f) for f in frames], dim=1), frames, strict=True):
        n = 3 * len(frame)
        rows = piece.reshape(-1, n)
        torch.testing.assert_close(rows[:n], n**0.5 * torch.eye(n, dtype=torch.float64))
        assert not rows[n:].any()


# ------------------------------------------------------------------------------------------------------------- numbers


def test_uniform_and_normal_numbers():
    bits = hash_counters(torch.arange(100_000))
    u, z = uniform(bits), normal(bits)
    assert 0 < u.min() < u.max() < 1
    ordered = u.sort().values
    # Kolmogorov and Smirnov: 1.95/√n is passed by chance once in a thousand
    assert (ordered - torch.linspace(0, 1, len(u), dtype=torch.float64)).abs().max() < 1.95 / len(u) ** 0.5
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(z.pow(power).mean().item() - moment) < 5 * (spread / len(z)) ** 0.5
    assert len(bits.unique()) == len(bits)


# ------------------------------------------------------------------------------------------------------------ mistakes


def test_more_orthogonal_probes_than_directions():
    with pytest.raises(PHLError, match="K = 7 orthogonal probes, but the smallest system has 2 atoms and so at most 6"):
        draw("orthogonal", molecule(), [0], n_probes=7)
    assert check_family("orthogonal", 6, 2).name == "orthogonal"
    assert check_family("rademacher", 100, 1).name == "rademacher"


def test_unknown_family():
    with pytest.raises(PHLError, match="unknown probe family 'hutchinson'; valid: complete, gaussian, onehot"):
        draw("hutchinson", molecule(), [0])


@pytest.mark.parametrize("k", [0, -1])
def test_no_probes(k):
    with pytest.raises(PHLError, match=f"got {k} probes per frame; expected at least 1"):
        draw("rademacher", molecule(), [0], n_probes=k)


def test_a_table_entry_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FAMILIES["sphere"].name = "ball"
