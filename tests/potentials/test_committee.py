"""Committees: the mean and its exact derivatives, the spread and its calibration, the domain, the file."""

from __future__ import annotations

import copy
import json
import re
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.optimize import BFGS
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.stats import norm

from phl_ase.calculator import DomainError, DomainWarning, PHLCalculator
from phl_ase.derivatives import evaluate
from phl_ase.errors import PHLError
from phl_ase.potentials import (
    Calibration,
    Committee,
    Domain,
    LennardJones,
    PaiNN,
    PaiNNConfig,
    load_model,
    load_saved,
    read_card,
    save_committee,
    save_model,
)
from phl_ase.potentials.calibration import ONE_SIGMA, largest_on_an_atom
from phl_ase.potentials.stacked import side_by_side, stacked
from phl_ase.structures import Frame, collate, frame_from_atoms

MEMBERS = 3
LEVEL = {"level_of_theory": "HF/STO-3G", "energy_reference": "absolute"}
SEEN = Calibration(
    energy=1.5,
    forces=2.0,
    forces_limit=1e3,
    domain=Domain({(1, 1): 0.7, (1, 6): 1.0, (6, 6): 1.2}, {1: 1.2, 6: 1.6}),
    frames=30,
)


def painn(seed: int, **settings) -> PaiNN:
    config = {"species": (1, 6), "channels": 8, "cutoff": 4.0, "n_basis": 5, "core": "zbl"} | settings
    model = PaiNN(PaiNNConfig(**config), torch.Generator().manual_seed(seed)).double()
    references = torch.tensor([-13.6 - 0.1 * seed, -1030.0 + 0.3 * seed], dtype=torch.float64)
    model.set_references(references[: len(config["species"])], 1.0 + 0.2 * seed)
    model.provenance = {**LEVEL, "seed": seed}
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def members() -> list[PaiNN]:
    return [painn(seed) for seed in range(MEMBERS)]


@pytest.fixture
def path(tmp_path, members):
    return save_committee(tmp_path / "committee", members, {**LEVEL, "note": "Å"}, SEEN)


def rattled(name: str, seed: int = 0) -> Atoms:
    atoms = molecule(name)
    atoms.rattle(0.05, seed=seed)
    return atoms


def diamond() -> Atoms:
    atoms = bulk("C", cubic=False)
    atoms.rattle(0.05, seed=1)
    return atoms


def calculator(members, calibration=None, **settings) -> PHLCalculator:
    return PHLCalculator(Committee(members, calibration), device="cpu", **settings)


# ---------------------------------------------------------------------------------------- mean, derivatives, evaluation


@pytest.mark.parametrize(
    "structures", [[rattled("CH4")], [rattled("C2H4"), rattled("H2"), rattled("CH4")], [diamond()]]
)
def test_side_by_side_each_member_says_what_it_says_alone(members, structures):
    """To rounding: the same operations on longer arrays."""
    needs = ("energy", "forces", "hessian") + (("stress",) if structures[0].pbc.any() else ())
    batch, _ = collate([frame_from_atoms(atoms) for atoms in structures], members[0].cutoffs)
    together = evaluate(stacked(members), side_by_side(batch, MEMBERS), needs)
    for name in needs:
        alone = torch.stack([getattr(evaluate(member, batch, needs), name) for member in members])
        found = getattr(together, name).reshape(alone.shape)
        assert torch.allclose(found, alone, rtol=1e-12, atol=1e-11), name


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_two_ways_of_evaluation_agree(members, dtype):
    atoms = rattled("C2H4")
    side = PHLCalculator(members, device="cpu", dtype=dtype)
    one_by_one = PHLCalculator(members, device="cpu", dtype=dtype)
    one_by_one.potential.together = None
    assert side.potential.together is not None
    for name in ("energy", "forces", "energy_std", "forces_std", "hessian"):
        # of float32 forces of some 10 eV/Å a few last digits
        tolerance = {"rtol": 1e-11, "atol": 1e-11} if dtype == "float64" else {"rtol": 1e-4, "atol": 1e-3}
        np.testing.assert_allclose(side.get_property(name, atoms), one_by_one.get_property(name, atoms), **tolerance)


def test_large_batches_are_taken_member_by_member(members):
    committee = Committee(members).stack()
    small, _ = collate([frame_from_atoms(rattled("CH4"))], committee.cutoffs)
    large, _ = collate([frame_from_atoms(rattled("CH4", seed)) for seed in range(20)], committee.cutoffs)
    assert committee.suits(small)
    assert not committee.suits(large)
    assert not Committee(members).suits(small)


def test_a_copy_may_change(members):
    """What trains or checks a copy must not meet weights that stand still."""
    committee = Committee(members, SEEN).stack()
    copied = copy.deepcopy(committee)
    assert committee.together is not None
    assert copied.together is None
    assert copied.calibration == SEEN
    batch, _ = collate([frame_from_atoms(rattled("CH4"))], committee.cutoffs)
    assert torch.allclose(copied(batch), committee(batch), rtol=1e-13)
    copied.requires_grad_(True)
    (gradient,) = torch.autograd.grad(copied(batch).sum(), copied.members[2].embedding)
    assert gradient.abs().max() > 0
    assert PHLCalculator(copied, device="cpu").potential.together is not None


@pytest.mark.parametrize(
    "other",
    [
        lambda: painn(5, channels=12),
        lambda: painn(5).float(),
        lambda: LennardJones(epsilon=0.01, sigma=2.0, cutoff=4.0),
    ],
)
def test_members_of_another_kind_are_evaluated_one_by_one(members, other):
    assert stacked([members[0], other()]) is None


def test_curvature_is_that_of_the_mean_energy(members):
    """HVPs, the Hessian, the operator and the lowest modes against differences of the mean's forces.

    Central differences at h = 1e-3 Å, extrapolated from h/2: errors of order h⁴, below 1e-6 of some 10² eV/Å².
    """
    atoms, committee = rattled("CH4"), PHLCalculator(members, device="cpu")
    hessian = committee.get_hessian(atoms)
    vector = np.random.default_rng(0).standard_normal((len(atoms), 3))

    def slope(step: float) -> np.ndarray:
        forces = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions += sign * step * vector
            forces.append(committee.evaluate([moved], ("forces",))[0]["forces"])
        return (forces[1] - forces[0]) / (2 * step)

    expected = (4 * slope(5e-4) - slope(1e-3)) / 3
    scale = np.abs(expected).max()
    hvp = committee.get_hvp(vector, atoms)
    np.testing.assert_allclose(hvp, expected, atol=1e-6 * scale)
    np.testing.assert_allclose(hessian @ vector.ravel(), hvp.ravel(), atol=1e-10 * scale)
    np.testing.assert_allclose(committee.hessian_operator(atoms) @ vector.ravel(), hvp.ravel(), atol=1e-10 * scale)
    np.testing.assert_allclose(committee.get_sparse_hessian(atoms).toarray(), hessian, atol=1e-9 * scale)
    values, _ = committee.get_lowest_modes(atoms, k=1, max_hvps=200)
    assert np.isfinite(values).all()


def test_sella_searches_on_a_committee(members):
    from phl_ase.curvature import curvature_of
    from phl_ase.paths import search

    atoms = rattled("CH4")
    committee = PHLCalculator(members, device="cpu")
    atoms.calc = committee
    found = search(atoms, "hvp", curvature_of(committee), max_steps=2)
    assert np.isfinite(found.atoms.positions).all()


def test_energies_alone_pay_for_energies_alone(members, monkeypatch):
    committee = calculator(members, SEEN)
    asked = []

    def watched(potential, batch, needs, **settings):
        asked.append(set(needs))
        return evaluate(potential, batch, needs, **settings)

    monkeypatch.setattr("phl_ase.calculator.uncertainty.evaluate", watched)
    (found,) = committee.evaluate([molecule("CH4")], ("energy",))
    assert asked == [{"energy"}]
    assert set(found) == {"energy", "energy_std", "in_domain"}


# ---------------------------------------------------------------------------------------------------------- calibration


def test_a_calibrated_spread_is_the_spread_times_its_factor(members):
    atoms = rattled("CH4")
    raw, calibrated = (calculator(members, known) for known in (None, SEEN))
    for name in ("energy", "forces"):
        assert calibrated.get_property(name, atoms) == pytest.approx(raw.get_property(name, atoms), rel=1e-12)
        expected = getattr(SEEN, name) * np.asarray(raw.get_property(f"{name}_std", atoms))
        np.testing.assert_allclose(calibrated.get_property(f"{name}_std", atoms), expected, rtol=1e-12)
    assert "in_domain" not in raw.implemented_properties


def normal_frames(rng, factor: float, count: int, spread: float = 1.0):
    """Frames whose errors are normal with ``factor`` times the spread that predictions state."""
    frames, predictions = [], []
    for _ in range(count):
        std = spread * rng.lognormal(0.0, 0.5, (3, 3))
        energy_std = float(rng.lognormal(0.0, 0.5))
        forces = rng.normal(size=(3, 3))
        positions = np.array([[0.0, 0, 0], [1.0, 0, 0], [0, 1.1, 0]]) + 0.01 * rng.normal(size=(3, 3))
        frames.append(Frame(numbers=np.array([6, 1, 1]), positions=positions, energy=-40.0, forces=forces))
        predictions.append(
            {
                "energy": -40.0 + factor * energy_std * rng.normal(),
                "energy_std": energy_std,
                "forces": forces + factor * std * rng.normal(size=(3, 3)),
                "forces_std": std,
            }
        )
    return frames, predictions


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_factor_of_normal_errors_is_found(rng, factor):
    """3,600 components: the 68 % quantile of |z| has a standard error of 1.6 %; 400 energies: 4.8 %; three of them."""
    frames, predictions = normal_frames(rng, factor, 400)
    found = Calibration.fit(frames, predictions, frames)
    assert found.forces == pytest.approx(factor, rel=0.05)
    assert found.energy == pytest.approx(factor, rel=0.15)
    assert found.frames == 400


def test_the_factor_is_that_of_most_errors_whatever_the_tails(rng):
    frames, predictions = normal_frames(rng, 1.0, 300)
    for row in predictions[:10]:
        row["forces"] = row["forces"] + 1e3
    assert Calibration.fit(frames, predictions, frames).forces == pytest.approx(1.0, rel=0.15)


def test_components_that_vanish_by_symmetry_do_not_count(rng):
    frames, predictions = normal_frames(rng, 2.0, 100)
    for row in predictions:
        row["forces_std"][:, 2] = 1e-17
        row["forces"][:, 2] += 1e-4  # noise of the reference
    assert Calibration.fit(frames, predictions, frames).forces == pytest.approx(2.0, rel=0.15)


def test_the_limit_is_above_nearly_all_held_out_frames(rng):
    frames, predictions = normal_frames(rng, 1.0, 400)
    found = Calibration.fit(frames, predictions, frames)
    largest = np.array([found.forces * largest_on_an_atom(row["forces_std"]) for row in predictions])
    limits = [found.limit(largest_on_an_atom(row["forces"])) for row in predictions]
    assert 0.0 <= np.mean(largest > limits) <= 0.03
    assert max(limits) < 5 * largest.max()


def test_the_limit_follows_uncertainties_that_grow_with_the_forces(rng):
    """Uncertainties that grow as (1 + F)^1.5, from forces of 1 to 150 eV/Å."""
    frames, predictions = normal_frames(rng, 1.0, 400, spread=1e-3)
    for frame, row in zip(frames, predictions, strict=True):
        size, error = np.exp(rng.uniform(0, 5)), row["forces"] - frame.forces
        frame.forces[:] = size * rng.normal(size=frame.forces.shape)
        growth = (1 + largest_on_an_atom(frame.forces)) ** 1.5
        row["forces"], row["forces_std"] = frame.forces + growth * error, growth * row["forces_std"]
    found = Calibration.fit(frames, predictions, frames)
    assert found.forces_exponent == pytest.approx(1.5, abs=0.1)
    assert found.limit(0.0) == found.rest_limit
    assert found.limit(3.0) / found.limit(0.0) == pytest.approx(4.0**found.forces_exponent)
    assert found.limit(1e3) == found.forces_limit


def test_what_cannot_be_calibrated_is_said(rng):
    frames, predictions = normal_frames(rng, 1.0, 6)
    with pytest.raises(PHLError, match="4 held-out frames carry energies and forces; expected at least 5"):
        Calibration.fit(frames[:4], predictions[:4], frames)
    for row in predictions:
        row["energy_std"] = 0.0
    with pytest.raises(PHLError, match="members of the committee do not differ"):
        Calibration.fit(frames, predictions, frames)


def test_calibrations_come_back_from_plain_values():
    growing = Calibration(**{**vars(SEEN), "rest_limit": 0.1, "forces_exponent": 1.1})
    for known in (SEEN, growing):
        assert Calibration.from_json(json.loads(json.dumps(known.to_json(), allow_nan=False))) == known


@pytest.mark.parametrize(
    "changes",
    [
        {"energy": float("nan")},
        {"forces": -1.0},
        {"forces_limit": 0},
        {"rest_limit": 1.0, "forces_exponent": -1.0},
        {"rest_limit": 0.0},
        {"forces": "much"},
        {"shortest": {"H-Xx": 1.0}},
        {"shortest": {"H": 1.0}},
        {"shortest": {"H-C": -1.0}},
        {"shortest": None},
        {"farthest": {"C": float("inf")}},
        {"farthest": [1.0]},
    ],
)
def test_broken_calibrations_are_refused(changes):
    with pytest.raises(PHLError, match="calibration of a committee"):
        Calibration.from_json({**SEEN.to_json(), **changes})


# --------------------------------------------------------------------------------------------------------------- domain


def compressed() -> Atoms:
    atoms = molecule("CH4")
    atoms.positions *= 0.85
    return atoms


def stretched() -> Atoms:
    atoms = molecule("CH4")
    atoms.positions[1] *= 3.0
    return atoms


OUTSIDE = {
    "nearer than any": (compressed, r"C and H are 0\.93 Å apart \(at least 1\.00 Å in"),
    "farther than any": (stretched, r"one H is 3\.\d\d Å from the nearest atom \(at most 1\.20 Å in"),
    "no neighbour": (lambda: Atoms("C"), r"one C has no neighbour \(at most 1\.60 Å in"),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_what_is_outside_is_said(members, case):
    make, said = OUTSIDE[case]
    for action in ("warn", "error", "ignore"):
        committee = calculator(members, SEEN, out_of_domain=action)
        if action == "warn":
            with pytest.warns(DomainWarning, match=said):
                assert committee.get_property("in_domain", make()) is False
        elif action == "error":
            with pytest.raises(DomainError, match=said):
                committee.get_property("energy", make())
        else:
            assert committee.get_property("in_domain", make()) is False
            assert committee.evaluate([make(), molecule("CH4")], ("energy",))[0]["in_domain"] is False


def test_pairs_of_elements_that_never_met_are_outside(members):
    alone = Calibration(1.0, 1.0, 1e3, Domain({(1, 1): 0.7}, {1: 1.2, 6: 1.6}))
    with pytest.warns(DomainWarning, match=r"C and H are 1\.09 Å apart \(never so near in"):
        calculator(members, alone).get_property("energy", molecule("CH4"))


def test_uncertain_forces_are_outside_and_energies_alone_do_not_tell(members):
    atoms = rattled("CH4")
    known = calculator(members, SEEN)
    assert known.get_property("in_domain", atoms) is True
    limit = 0.5 * largest_on_an_atom(known.results["forces_std"])
    tight = calculator(members, Calibration(**{**vars(SEEN), "forces_limit": limit}))
    with pytest.warns(DomainWarning, match=r"the force on an atom is uncertain by .* eV/Å"):
        assert tight.get_property("in_domain", atoms) is False
    assert tight.evaluate([atoms], ("energy",))[0]["in_domain"] is True


def test_a_composition_is_warned_of_once(members):
    committee = calculator(members, SEEN)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in range(3):
            atoms = compressed()
            atoms.rattle(0.01, seed=seed)
            committee.get_property("energy", atoms)
        assert len(caught) == 1
        committee.evaluate([compressed(), Atoms("CH", [[0, 0, 0], [0.8, 0, 0]])])
    assert [w.category for w in caught] == [DomainWarning, DomainWarning]


def test_an_optimiser_takes_in_domain_along(members):
    """ASE's own bookkeeping is not disturbed by results that it does not know."""
    atoms = rattled("CH4")
    atoms.calc = calculator(members, SEEN, out_of_domain="ignore")
    BFGS(atoms, logfile=None).run(steps=2)
    assert isinstance(atoms.calc.results["in_domain"], bool)
    assert "energy" in atoms.calc.export_properties()


def test_an_unknown_action_is_refused(members):
    with pytest.raises(PHLError, match="unknown action for structures out of domain 'shout'; valid: error, ignore"):
        calculator(members, SEEN, out_of_domain="shout")


# ----------------------------------------------------------------------------------------------------------------- file


def test_a_committee_is_one_file(path, members):
    loaded = load_saved(path)
    assert loaded.calibration == SEEN
    assert loaded.provenance["note"] == "Å"
    for member, own in zip(loaded.members, members, strict=True):
        assert member.provenance == own.provenance
        for name, value in own.state_dict().items():
            assert torch.equal(member.state_dict()[name], value), name
    atoms = rattled("CH4")
    from_file, direct = PHLCalculator(str(path), device="cpu"), PHLCalculator(members, device="cpu")
    for name in ("energy", "forces", "hessian"):
        assert np.array_equal(from_file.get_property(name, atoms), direct.get_property(name, atoms))


def test_the_card_of_a_committee(path):
    card = read_card(path)
    assert card["architecture"] == "committee"
    assert card["config"]["species"] == [1, 6]
    assert [entry["provenance"]["seed"] for entry in card["config"]["members"]] == [0, 1, 2]
    assert read_card(f"{path}#3")["provenance"]["seed"] == 2


def test_a_single_model_is_a_member(path, tmp_path, members):
    assert load_model(f"{path}#2").provenance["seed"] == 1
    single = save_model(tmp_path / "one", members[0], {"seed": 0})
    assert load_model(f"{single}#1").provenance["seed"] == 0
    atoms = rattled("CH4")
    member = PHLCalculator(f"{path}#2", device="cpu").get_property("energy", atoms)
    assert member == PHLCalculator(members[1], device="cpu").get_property("energy", atoms)
    with pytest.raises(PHLError, match=r"is a committee of 3 models, expected a single one: choose a member, .*#1 to "):
        load_model(path)
    for number, file, size in ((0, path, 3), (4, path, 3), (2, single, 1)):
        with pytest.raises(PHLError, match=f"has no member #{number}; it has {size}, counted from 1"):
            load_model(f"{file}#{number}")


def test_training_goes_on_from_a_member_alone(path):
    from phl_ase.training.config import parse_config
    from phl_ase.training.pretrained import pretrained_model

    frames = [frame_from_atoms(rattled("CH4"))]
    for start, refused in ((str(path), True), (f"{path}#1", False)):
        settings = parse_config({"potential": {"from": start}}).potential
        if refused:
            with pytest.raises(PHLError, match="choose a member"):
                pretrained_model(settings, frames)
        else:
            assert pretrained_model(settings, frames).species == (1, 6)


def rewrite(path, change) -> None:
    with safe_open(path, "pt") as file:
        card = json.loads(file.metadata()["phl_ase"])
    tensors = load_file(path)
    change(card, tensors)
    save_file(tensors, path, metadata={"phl_ase": json.dumps(card)})


BROKEN = {
    "schema": (lambda card, _: card.update(schema=1), "card schema 1, this version reads"),
    "newer": (lambda card, _: card.update(schema=3), "card schema 3, .* upgrade phl_ase"),
    "no members": (lambda card, _: card["config"].update(members=[]), "names no members"),
    "members": (lambda card, _: card["config"].update(members=3), "names no members"),
    "member": (lambda card, _: card["config"]["members"][1].pop("config"), "card of member #2 is broken"),
    "nested": (
        lambda card, _: card["config"]["members"][1].update(architecture="committee"),
        "#2: unknown architecture 'committee'",
    ),
    "weights": (lambda _, tensors: tensors.pop("2.embedding"), "#2: card and weights do not fit together"),
    "not finite": (lambda _, tensors: tensors["3.embedding"].fill_(float("nan")), "#3: the weights embedding hold NaN"),
    "level": (
        lambda card, _: card["config"]["members"][0]["provenance"].update(level_of_theory="xTB"),
        "differ in level_of_theory",
    ),
    "calibration": (lambda card, _: card.update(calibration={"energy": 1}), "calibration of a committee is broken"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_committee_files_are_refused(path, case):
    change, said = BROKEN[case]
    rewrite(path, change)
    with pytest.raises(PHLError, match=said) as caught:
        PHLCalculator(str(path), device="cpu")
    assert "\n" not in str(caught.value)


def test_what_is_no_committee_is_not_saved(tmp_path, members):
    with pytest.raises(PHLError, match="a committee of 1; expected two models or more"):
        save_committee(tmp_path / "c", members[:1], {})
    with pytest.raises(PHLError, match="differ in species"):
        save_committee(tmp_path / "c", [members[0], painn(1, species=(1, 8))], {})
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------- uncertainties against errors


def test_reliability_of_what_is_normal(rng):
    """20,000 values: standard errors of 0.3 % of the coverages."""
    from phl_ase.scoring.uncertainty import reliability

    stds = rng.lognormal(0.0, 1.0, 20_000)
    errors = stds * rng.normal(size=len(stds))
    right, narrow = reliability(errors, stds), reliability(errors, 0.5 * stds)
    assert (right.one_sigma, right.two_sigma) == pytest.approx((ONE_SIGMA, 2 * norm.cdf(2) - 1), abs=0.012)
    assert right.scale == pytest.approx(1.0, abs=0.03)
    assert right.miscalibration_area < 0.01
    assert narrow.one_sigma == pytest.approx(2 * norm.cdf(0.5) - 1, abs=0.012)
    assert narrow.scale == pytest.approx(2.0, abs=0.06)
    # ∫|2Φ(z/2) − 2Φ(z)| of confidences, z the quantile of each: by the trapezoidal rule of fine steps
    confidence = np.linspace(0, 1, 2001)[:-1]
    area = np.trapezoid(confidence - (2 * norm.cdf(0.5 * norm.ppf(0.5 + 0.5 * confidence)) - 1), confidence)
    assert narrow.miscalibration_area == pytest.approx(area, abs=0.01)
    assert right.rank_correlation == pytest.approx(narrow.rank_correlation)
    assert right.rank_correlation > 0.4


def test_the_report_reads_frames_and_leaves_out_what_is_missing(rng):
    from phl_ase.validators.uncertainty import validate_uncertainty

    frames, predictions = normal_frames(rng, 1.0, 60)
    frames[0] = Frame(numbers=frames[0].numbers, positions=frames[0].positions, energy=-40.0)
    predictions[1]["forces"] = predictions[1]["forces"] * np.nan
    for k, row in enumerate(predictions):
        row["in_domain"] = k >= 6
    report = validate_uncertainty(frames, predictions, system="test", potential="c")
    assert report.outcome == "exploded"
    assert report.metric("frames in domain").value == pytest.approx(90.0)
    assert report.metric("frames").value == 60
    assert report.metric("forces within 1 std").value == pytest.approx(68.3, abs=8)
    errors = [1e3 * (p["energy"] + 40.0) for p in predictions]
    assert report.metric("energy RMSE").value == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert len(report.arrays["forces_group_std"]) == 10
    assert np.all(np.diff(report.arrays["forces_group_std"]) >= 0)
    with pytest.raises(PHLError, match="no frame has a label and an uncertainty"):
        validate_uncertainty(frames, [{"energy": -40.0}] * 60, system="test", potential="c")


def test_large_errors_that_the_committee_noticed_are_counted(rng):
    from phl_ase.validators.uncertainty import validate_uncertainty

    frames, predictions = normal_frames(rng, 1.0, 60)
    for k, row in enumerate(predictions):
        row["in_domain"] = k % 2 == 0
    none = validate_uncertainty(frames, predictions, system="test", potential="c")
    assert "frames of large force errors" not in {metric.name for metric in none.metrics}
    for row in predictions[:5]:
        row["forces"] = row["forces"] + 100.0
    report = validate_uncertainty(frames, predictions, system="test", potential="c")
    assert report.metric("frames of large force errors").value == 5
    assert report.metric("… of them noticed").value == pytest.approx(40.0)


def test_the_figure_says_its_units(rng):
    from phl_ase.plots import FIGURES
    from phl_ase.validators.uncertainty import validate_uncertainty

    reports = [
        validate_uncertainty(*normal_frames(rng, factor, 40), system="test", potential=name)
        for name, factor in (("right", 1.0), ("too sure", 3.0))
    ]
    figure = FIGURES["uncertainty"](reports)
    labels = [axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes]
    assert len(labels) == 4
    assert [("meV" in label) or ("%" in label) for label in labels] == [True] * 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["right, test", "too sure, test"]


def test_evaluate_shows_the_uncertainty_of_a_committee(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    from typer.testing import CliRunner

    from phl_ase.cli.app import app
    from phl_ase.datasets import open_dataset, split
    from phl_ase.results import read_reports

    name = "reactions-wb97xd-631gd"
    dataset = open_dataset(name)
    settings = {"species": (1, 6, 7, 8), "channels": 4, "layers": 1, "cutoff": 3.0}
    members = [PaiNN(PaiNNConfig(**settings), torch.Generator().manual_seed(seed)).double() for seed in (1, 2)]
    parts = split(dataset, "random", 0)
    file = save_committee(
        tmp_path / "c", members, {"split": parts.to_json()}, Calibration(1, 1, 9, Domain({(1, 1): 1}, {1: 1}))
    )

    def phl(*words):
        return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)

    outputs = ("--json", tmp_path / "a.json", "--reliability", tmp_path / "a.png")
    done = phl("evaluate", file, name, "--split", file, "--max-atoms", 3, *outputs)
    assert done.exit_code == 0, done.output
    assert "within 1 std / %" in done.output
    assert "0.0 % of the frames are in domain" in done.output
    assert "far outside" not in done.output + done.stderr
    accuracy, uncertainty = read_reports(tmp_path / "a.json")
    assert accuracy.metric("frames, all").value == uncertainty.metric("frames").value
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    shown = phl("models", file, "--json").output
    assert json.loads(shown)["config"]["members"] == [f"{file}#1", f"{file}#2"]
    assert re.search(r'"train": \[ \d+, \d+,', shown)
    alone = phl("evaluate", f"{file}#1", name, "--max-atoms", 3, "--reliability", tmp_path / "b.png")
    assert alone.exit_code == 2
    assert "states no uncertainty; --reliability takes a committee" in alone.stderr
    missing = phl("evaluate", file, name, "--split", save_model(tmp_path / "d", members[0], {}))
    assert "holds no split; expected the split.json of a run, or a model" in missing.stderr
