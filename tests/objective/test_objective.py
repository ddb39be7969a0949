"""The objective: terms against plain loops over mixed labels, targets of every scheme and regime."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from surfaces import cluster, mixed, painn

from phl_ase.derivatives import evaluate
from phl_ase.errors import PHLError
from phl_ase.objective import REGIMES, SCHEMES, TERMS, check_regime, scheme, with_curvature_targets
from phl_ase.probes import FAMILIES, draw_probes
from phl_ase.structures import Frame, Labels, Predictions, collate, labels

CURVATURE = [s.probes for s in SCHEMES.values() if s.probes]
every_family = pytest.mark.parametrize("family", FAMILIES)


def symmetric(rng, n: int) -> np.ndarray:
    h = rng.normal(size=(3 * n, 3 * n))
    return h + h.T


def labelled(frame: Frame, rng, labels: str, probes: int = 0) -> Frame:
    """Random labels: any of e(nergy), f(orces), s(tress), h(essian), and K recorded HVPs."""
    n = len(frame)
    fields = {
        "energy": rng.normal() - 1e5 if "e" in labels else None,
        "forces": rng.normal(size=(n, 3)) if "f" in labels else None,
        "stress": rng.normal(size=(3, 3)) if "s" in labels else None,
        "hessian": symmetric(rng, n) if "h" in labels else None,
    }
    if probes:
        fields |= {"probes": rng.normal(size=(probes, n, 3)), "hvp": rng.normal(size=(probes, n, 3))}
    return dataclasses.replace(frame, **fields)


@pytest.fixture
def frames(rng) -> list[Frame]:
    """Every label is absent from some frame; K recorded HVPs of different number."""
    molecules = [*mixed(rng), cluster(rng, 2, frame_id=20), cluster(rng, 3, frame_id=21)]
    kinds = [("efh", 0), ("e", 1), ("efs", 3), ("f", 0), ("efsh", 2), ("", 5)]
    return [labelled(f, rng, *kind) for f, kind in zip(molecules, kinds, strict=True)]


def predicted(batch, labels: Labels, rng) -> Predictions:
    """Random predictions of everything."""
    random = lambda *shape: torch.as_tensor(rng.normal(size=shape))  # noqa: E731
    atoms, systems = len(batch.numbers), batch.n_systems
    k = 0 if labels.probes is None else len(labels.probes)
    probes = torch.zeros(k, atoms, 3) if labels.probes is None else labels.probes
    return Predictions(
        energy=random(systems) - 1e5,
        forces=random(atoms, 3),
        stress=random(systems, 3, 3),
        # an HVP along a zero vector is zero: the rows that pad K
        hvp=torch.where(probes.abs().sum(2, keepdim=True) > 0, random(k, atoms, 3), 0.0),
    )


def loss(name: str, batch, predictions, labels) -> float:
    term = TERMS[name]
    return (term.total(batch, predictions, labels) / term.present(labels).sum()).item()


def pieces(values: torch.Tensor, frames: list[Frame], axis: int = 0) -> list[np.ndarray]:
    return [x.numpy() for x in values.split([len(f) for f in frames], dim=axis)]


# -------------------------------------------------------------------------------------------------------------- terms


def test_terms_are_the_means_of_plain_loops(frames, rng):
    """L as the design writes it (§2), system by system in NumPy, labels absent here and there."""
    batch, labels = collate(frames, ())
    p = predicted(batch, labels, rng)
    forces, hvps = pieces(p.forces, frames), pieces(p.hvp, frames, 1)
    expected = {name: [] for name in TERMS}
    for s, frame in enumerate(frames):
        n = len(frame)
        if frame.energy is not None:
            expected["energy"].append(((p.energy[s].item() - frame.energy) / n) ** 2)
        if frame.forces is not None:
            expected["forces"].append(np.sum((forces[s] - frame.forces) ** 2) / (3 * n))
        if frame.stress is not None:
            expected["stress"].append(np.mean((p.stress[s].numpy() - frame.stress) ** 2))
        if frame.probes is not None:
            k = len(frame.probes)
            each = [np.sum((hvps[s][a] - frame.hvp[a]) ** 2) for a in range(k)]
            expected["curvature"].append(sum(each) / k / (3 * n) ** 2)
    assert {name: len(values) for name, values in expected.items()} == {
        "energy": 4,
        "forces": 4,
        "stress": 2,
        "curvature": 4,
    }
    for name, values in expected.items():
        assert int(TERMS[name].present(labels).sum()) == len(values)
        assert loss(name, batch, p, labels) == pytest.approx(np.mean(values), rel=1e-12)


def test_terms_do_not_see_what_carries_no_label(frames, rng):
    """Whatever is predicted where a label is absent: the loss and its gradient stay the same."""
    batch, labels = collate(frames, ())
    p = predicted(batch, labels, rng)
    for name, quantity in (("energy", "energy"), ("forces", "forces"), ("stress", "stress"), ("curvature", "hvp")):
        value = getattr(p, quantity).clone().requires_grad_()
        present = TERMS[name].present(labels)
        total = TERMS[name].total(batch, dataclasses.replace(p, **{quantity: value}), labels)
        (gradient,) = torch.autograd.grad(total, value)
        if quantity in ("energy", "stress"):
            by_system = gradient.reshape(batch.n_systems, -1).abs().sum(-1)
        else:
            per_atom = gradient.abs().sum(-1).reshape(-1, len(batch.numbers)).sum(0)
            by_system = torch.zeros(batch.n_systems, dtype=torch.float64).index_add(0, batch.system, per_atom)
        assert torch.equal(by_system > 0, present), name


@pytest.mark.parametrize("name", TERMS)
def test_a_term_without_labels_has_neither_value_nor_count(name, rng):
    batch, labels = collate([cluster(rng, 2), cluster(rng, 3)], ())
    p = dataclasses.replace(predicted(batch, labels, rng), hvp=torch.zeros(1, 5, 3).double())
    labels = labels.replaced(probes=torch.zeros(1, 5, 3).double(), hvp=torch.zeros(1, 5, 3).double())
    assert TERMS[name].total(batch, p, labels).item() == 0
    assert not TERMS[name].present(labels).any()


def test_sums_and_counts_do_not_depend_on_how_a_batch_is_split(frames, rng):
    batch, labels = collate(frames, ())
    p = predicted(batch, labels, rng)
    for name, term in TERMS.items():
        total, count = 0.0, 0
        for s, frame in enumerate(frames):
            part, part_labels = collate([frame], ())
            atoms = batch.system == s
            k = 0 if part_labels.probes is None else len(part_labels.probes)
            if name == "curvature" and not k:
                continue
            own = Predictions(p.energy[s : s + 1], p.forces[atoms], p.stress[s : s + 1], p.hvp[:k, atoms])
            total += term.total(part, own, part_labels).item()
            count += int(term.present(part_labels).sum())
        assert total / count == pytest.approx(loss(name, batch, p, labels), rel=1e-12)


def test_energies_keep_their_digits_in_single_precision(rng):
    """Energies of −1e6 eV that differ by 0.01 eV: float32 would see nothing of it."""
    model = painn(species=(1,))
    frame = dataclasses.replace(cluster(rng, 2, species=(1,)), energy=0.0)
    batch, labels = (x.to(dtype=torch.float32) for x in collate([frame], model.cutoffs))
    assert batch.positions.dtype == torch.float32
    model = model.float()
    model.set_references(torch.tensor([-5e5]), 1.0)
    energy = evaluate(model, batch, ("energy",)).energy
    labels = labels.replaced(energy=energy - 0.01).to(dtype=torch.float32)
    assert labels["energy"].dtype == torch.float64
    value = TERMS["energy"].total(batch, Predictions(energy=energy), labels)
    assert value.item() == pytest.approx(0.005**2, rel=1e-6)


def test_every_term_names_a_quantity_an_evaluator_fills():
    for name, term in TERMS.items():
        assert term.name == name
        assert term.needs in labels()
        assert term.unit


# -------------------------------------------------------------------------------------------------- curvature targets


def curvature(batch, labels, matrices: list[np.ndarray], frames) -> float:
    """The curvature loss of a model whose Hessians are the matrices."""
    flat = torch.zeros_like(labels.probes)
    for s, matrix in enumerate(matrices):
        atoms = batch.system == s
        rows = labels.probes[:, atoms].reshape(len(flat), -1) @ torch.as_tensor(matrix).T
        flat[:, atoms] = rows.reshape(len(flat), -1, 3)
    return loss("curvature", batch, Predictions(torch.zeros(len(frames)).double(), hvp=flat), labels)


@every_family
@pytest.mark.parametrize("regime", REGIMES)
def test_targets_are_hvps_with_the_stored_hessian(family, regime, rng):
    frames = [labelled(f, rng, "h") for f in mixed(rng)]
    batch, labels = collate(frames, ())
    targets = with_curvature_targets(batch, labels, family, n_probes=3, regime=regime, seed=5, epoch=4)
    drawn = draw_probes(family, batch, labels.frame_id, n_probes=3, seed=5, epoch=4 if regime == "fresh" else 0)
    assert torch.equal(targets.probes, drawn.vectors)
    assert torch.equal(targets.n_probes, drawn.n_probes)
    for v, hv, frame in zip(pieces(targets.probes, frames, 1), pieces(targets.hvp, frames, 1), frames, strict=True):
        rows = v.reshape(len(v), -1)
        np.testing.assert_allclose(hv.reshape(len(v), -1), rows @ frame.hessian.T, rtol=0, atol=1e-12)
    # a model with these very Hessians has no loss
    assert curvature(batch, targets, [f.hessian for f in frames], frames) < 1e-25


def test_full_hessians_give_the_loss_of_the_design(rng):
    """E-F-H: mean of ‖D‖_F² / (3n)² over systems of different size."""
    frames = [labelled(f, rng, "h") for f in mixed(rng)]
    models = [symmetric(rng, len(f)) for f in frames]
    batch, labels = collate(frames, ())
    targets = with_curvature_targets(batch, labels, scheme("E-F-H").probes)
    expected = np.mean([np.sum((m - f.hessian) ** 2) / (3 * len(f)) ** 2 for m, f in zip(models, frames, strict=True)])
    assert curvature(batch, targets, models, frames) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("family", [f for f in FAMILIES if not FAMILIES[f].complete])
def test_the_mean_over_epochs_is_the_loss_of_the_full_hessian(family, rng):
    frames = [labelled(cluster(rng, 2, frame_id=k), rng, "h") for k in range(8)]
    models = [symmetric(rng, len(f)) for f in frames]
    batch, labels = collate(frames, ())
    values = [
        curvature(batch, with_curvature_targets(batch, labels, family, n_probes=2, epoch=e), models, frames)
        for e in range(150)
    ]
    full = curvature(batch, with_curvature_targets(batch, labels, "complete"), models, frames)
    assert np.mean(values) == pytest.approx(full, abs=4 * np.std(values) / len(values) ** 0.5)


@pytest.mark.parametrize("family", [f for f in FAMILIES if not FAMILIES[f].complete])
def test_regimes(family, rng):
    frames = [labelled(f, rng, "h") for f in mixed(rng) if len(f) > 1]
    batch, labels = collate(frames, ())

    def probes(**options):
        return with_curvature_targets(batch, labels, family, n_probes=4, **options).probes

    assert torch.equal(probes(regime="fixed", epoch=1), probes(regime="fixed", epoch=2))
    assert not torch.equal(probes(regime="fresh", epoch=1), probes(regime="fresh", epoch=2))
    assert torch.equal(probes(regime="fresh", epoch=3), probes(regime="fresh", epoch=3))
    assert not torch.equal(probes(regime="fixed", seed=1), probes(regime="fixed", seed=2))


def test_recorded_hvps_are_used_where_there_is_no_hessian(rng):
    frames = [labelled(f, rng, "", probes=k) for f, k in zip(mixed(rng), (1, 2, 3, 4), strict=True)]
    batch, labels = collate(frames, ())
    assert with_curvature_targets(batch, labels, "rademacher", epoch=9) is labels


@pytest.mark.parametrize("family", CURVATURE)
def test_mixed_supervision(family, frames, rng):
    """Hessians, recorded HVPs, or neither: each frame is taught what it carries (the Hessian, where both)."""
    batch, labels = collate(frames, ())
    targets = with_curvature_targets(batch, labels, family, n_probes=2, seed=1)
    v, hv = pieces(targets.probes, frames, 1), pieces(targets.hvp, frames, 1)
    drawn = draw_probes(family, batch, labels.frame_id, n_probes=2, seed=1)
    expected = []
    model = [symmetric(rng, len(f)) for f in frames]
    for s, frame in enumerate(frames):
        if frame.hessian is not None:
            own, hvps, k = pieces(drawn.vectors, frames, 1)[s], None, int(drawn.n_probes[s])
        elif frame.probes is not None:
            own, hvps, k = frame.probes, frame.hvp, len(frame.probes)
        else:
            own, hvps, k = np.zeros((0, len(frame), 3)), None, 0
        assert int(targets.n_probes[s]) == k
        np.testing.assert_array_equal(v[s][:k], own[:k])
        assert not v[s][k:].any()
        assert not hv[s][k:].any()
        if hvps is not None:
            np.testing.assert_array_equal(hv[s][:k], hvps)
        if k:
            rows = own[:k].reshape(k, -1)
            target = rows @ frame.hessian if hvps is None else hvps.reshape(k, -1)
            expected.append(np.sum((rows @ model[s] - target) ** 2) / k / (3 * len(frame)) ** 2)
    assert len(expected) == 5
    assert curvature(batch, targets, model, frames) == pytest.approx(np.mean(expected), rel=1e-12)


def test_targets_leave_the_labels_alone(frames):
    batch, labels = collate(frames, ())
    before = {**labels.values, "n_probes": labels.n_probes}
    copies = {name: value.clone() for name, value in before.items()}
    with_curvature_targets(batch, labels, "rademacher", n_probes=7)
    assert all({**labels.values, "n_probes": labels.n_probes}[name] is value for name, value in before.items())
    assert all(torch.equal(before[name], value) for name, value in copies.items())


def test_targets_in_single_precision(frames, device):
    batch, labels = (x.to(device, torch.float32) for x in collate(frames, ()))
    targets = with_curvature_targets(batch, labels, "sphere", n_probes=2)
    assert targets.probes.dtype == targets.hvp.dtype == torch.float32


# -------------------------------------------------------------------------------------------------- schemes, mistakes


def test_schemes_draw_from_families_that_exist():
    assert set(SCHEMES) == {"E-F", "E-F-HVP-onehot", "E-F-HVP-random", "E-F-H"}
    assert {name: s.probes for name, s in SCHEMES.items()} == {
        "E-F": None,
        "E-F-HVP-onehot": "onehot",
        "E-F-HVP-random": "rademacher",
        "E-F-H": "complete",
    }
    assert set(CURVATURE) <= set(FAMILIES)


def test_mistakes(rng):
    with pytest.raises(PHLError, match="unknown scheme 'E-F-HVP'; valid: E-F, E-F-H, E-F-HVP-onehot, E-F-HVP-random"):
        scheme("E-F-HVP")
    with pytest.raises(PHLError, match="unknown regime 'frozen'; valid: fixed, fresh"):
        check_regime("frozen")
    batch, labels = collate([labelled(cluster(rng, 2), rng, "h")], ())
    with pytest.raises(PHLError, match="unknown regime"):
        with_curvature_targets(batch, labels, "rademacher", regime="stale")
    with pytest.raises(PHLError, match="unknown probe family"):
        with_curvature_targets(batch, labels, "random")
    with pytest.raises(PHLError, match="expected at least 1"):
        with_curvature_targets(batch, labels, "rademacher", n_probes=0)
