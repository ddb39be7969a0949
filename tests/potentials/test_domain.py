"""The domain of a model: what it is fitted to, what is outside of it, and what the calculator says and does then."""

from __future__ import annotations

import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from phl_ase.calculator import DomainError, DomainWarning, PHLCalculator
from phl_ase.datasets import open_dataset, split
from phl_ase.errors import ExplodedError, PHLError, attempt
from phl_ase.potentials import (
    Calibration,
    Committee,
    Domain,
    LennardJones,
    PaiNN,
    PaiNNConfig,
    Sum,
    domain_of,
    load_model,
    read_card,
    save_model,
)
from phl_ase.potentials import domain as module
from phl_ase.potentials.domain import Pairs, group
from phl_ase.structures import Frame, frame_from_atoms
from phl_ase.training import RunData, parse_config, train


def frames(*structures: Atoms) -> list[Frame]:
    return [frame_from_atoms(atoms) for atoms in structures]


def beside(first: str, second: str, distance: float = 4.0) -> Atoms:
    other = molecule(second)
    other.positions += [0.0, distance, 0.0]
    return molecule(first) + other


def unknown(domain: Domain, atoms: Atoms) -> tuple[str, ...]:
    return domain.unknown(Pairs.of_frame(frame_from_atoms(atoms)))


def painn(domain: Domain | None, species=(1, 6, 7, 8), **provenance) -> PaiNN:
    config = PaiNNConfig(species=species, channels=4, cutoff=4.5, n_basis=4)
    model = PaiNN(config, torch.Generator().manual_seed(0)).double()
    model.provenance = {**provenance, **({} if domain is None else {"domain": domain.to_json()})}
    return model.requires_grad_(False).eval()


# --------------------------------------------------------------------------------------------------------------- fitted


def test_distances_are_those_of_the_nearest_images():
    chain = Atoms("CH", [[0.2, 0, 0], [2.9, 0, 0]], cell=[4.0, 9.0, 9.0], pbc=True)
    water, copper = molecule("H2O"), bulk("Cu", a=3.6)
    found = Domain.fit(frames(chain, water, Atoms("C"), copper))
    assert found.shortest[1, 6] == pytest.approx(1.3)
    assert found.shortest[1, 8] == pytest.approx(water.get_distance(0, 1))
    nearest = 3.6 / np.sqrt(2)
    assert found.farthest == pytest.approx({1: 1.3, 6: 1.3, 8: water.get_distance(0, 1), 29: nearest})
    assert found.shortest[29, 29] == pytest.approx(nearest)


@pytest.mark.parametrize(
    ("atoms", "entry"),
    [
        (molecule("CH3CH2OH"), "C2H6O"),
        (beside("H2", "CO"), "CO + H2"),
        (beside("H2O", "H2O", 3.0), "H2O"),
        (bulk("Cu", cubic=True), "[Cu]"),
        (bulk("MgO", "rocksalt", a=4.2), "[MgO]"),
        (Atoms("CuCO", [[0, 0, 0], [0, 0, 8.0], [0, 0, 9.15]], cell=[2.6, 2.6, 20], pbc=[1, 1, 0]), "CO + [Cu]"),
        (Atoms("Ar3", [[0, 0, 0], [5, 0, 0], [0, 5, 0]]), "Ar"),
    ],
)
def test_molecules_are_those_that_bonds_hold_together(atoms, entry):
    assert Domain.fit(frames(atoms)).molecules == {entry}


def test_a_molecule_across_the_edge_of_the_cell_is_one_and_has_an_end():
    water = molecule("H2O")
    water.set_cell([9, 9, 9])
    water.pbc = True
    for shift in np.random.default_rng(0).uniform(0, 9, size=(5, 3)):
        water.positions += shift
        water.wrap()
        assert Domain.fit(frames(water)).molecules == {"H2O"}


def test_stretched_bonds_do_not_count_as_molecules_seen_apart():
    stretched = molecule("C2H4")
    stretched.positions[:, 2] += 0.4 * np.sign(stretched.positions[:, 2])
    assert 2.0 < stretched.get_distance(*np.flatnonzero(stretched.symbols == "C")) < 2.4
    assert Domain.fit(frames(stretched)).molecules == {"C2H4"}


def test_groups_do_not_depend_on_how_many_of_the_same_there_are():
    assert group(["H2", "CO"]) == group(["CO", "H2"] * 3) == "CO + H2"
    assert group(["H2", "CO", "H2"]) == "CO + 2 H2"


def test_domains_come_back_from_plain_values_and_old_ones_say_nothing_of_molecules():
    domain = Domain.fit(frames(molecule("CH4"), beside("H2", "CO"), bulk("Cu")))
    plain = json.loads(json.dumps(domain.to_json(), allow_nan=False))
    back = Domain.from_json(plain)
    assert back.molecules == domain.molecules == {"CH4", "CO + H2", "[Cu]"}
    assert back.shortest == pytest.approx(domain.shortest, abs=1e-6)
    del plain["molecules"]
    assert unknown(Domain.from_json(plain), molecule("C6H6")) == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"shortest": {"H-Xx": 1.0}},
        {"shortest": {"H-C": float("nan")}},
        {"farthest": None},
        {"molecules": "CH4"},
        {"molecules": [4]},
        {"molecules": ["<b>"]},
        {"molecules": ["CO + "]},
        {"listed_atoms": "many"},
    ],
)
def test_broken_domains_are_refused(changes, tmp_path):
    values = {**Domain.fit(frames(molecule("CH4"))).to_json(), **changes}
    with pytest.raises(PHLError, match="the domain on the card of a model is broken"):
        Domain.from_json(values)
    path = save_model(tmp_path / "m", painn(None), {"domain": {**values, "shortest": {}} | changes})
    with pytest.raises(PHLError, match=r"m\.safetensors: the domain on the card of a model is broken"):
        load_model(path)


def test_very_many_molecules_are_listed_up_to_a_size(monkeypatch):
    monkeypatch.setattr(module, "_MOST", 2)
    domain = Domain.fit(frames(molecule("C2H6"), molecule("H2"), molecule("H2O"), molecule("CH4")))
    assert (domain.molecules, domain.listed_atoms) == ({"H2", "H2O"}, 4)
    assert Domain.from_json(domain.to_json()).listed_atoms == 4
    assert unknown(domain, molecule("CO")) == ("CO",)
    assert unknown(domain, molecule("CH3OH")) == ()  # larger than what is listed


def test_joined_domains_know_what_either_saw():
    near, far = Domain({(1, 1): 0.7}, {1: 1.0}, frozenset({"H2"})), Domain({(1, 1): 0.9}, {1: 1.5}, frozenset({"CH4"}))
    assert near.joined(far) == Domain({(1, 1): 0.7}, {1: 1.5}, frozenset({"H2", "CH4"}))
    assert near.joined(far, with_molecules=False).molecules == {"H2"}
    assert near.joined(Domain({(1, 6): 1.0})).molecules == frozenset()


# -------------------------------------------------------------------------------------------------------------- outside


def test_a_molecule_that_was_only_seen_beside_another_is_unknown():
    """The sum of their energies is learnt; how it is divided is not."""
    domain = Domain.fit(frames(molecule("H2CO"), beside("H2", "CO"), beside("H2O", "H2O", 3.0)))
    assert unknown(domain, molecule("H2")) == ("H2",)
    assert unknown(domain, molecule("CO")) == ("CO",)
    assert unknown(domain, beside("H2", "CO", 6.0)) == ()
    assert unknown(domain, beside("CO", "CO", 6.0)) == ("CO",)
    assert unknown(domain, molecule("H2O")) == ()  # half of what two of it have
    water = molecule("H2O")
    water.translate([9, 0, 0])
    assert unknown(domain, beside("H2", "CO", 6.0) + water) == ()
    assert unknown(domain, molecule("CH3OH")) == ("CH4O",)


def test_among_many_molecules_others_of_their_elements_and_sizes_are_known(monkeypatch):
    seen = frames(molecule("CH3OH"), molecule("C2H6"), molecule("H2O"), beside("H2", "CH4"), bulk("Cu"))
    assert unknown(Domain.fit(seen), molecule("CH4")) == ("CH4",)
    monkeypatch.setattr(module, "BROAD", 3)
    domain = Domain.fit(seen)
    assert unknown(domain, molecule("CH4")) == unknown(domain, molecule("H2CO")) == ()
    assert unknown(domain, molecule("CO")) == ("CO",)  # smaller than any that was seen alone
    assert unknown(domain, molecule("H2")) == ()  # so is it, but it was seen beside methane, which is known
    assert unknown(domain, molecule("CO2")) == ("CO2",)  # has two O
    assert unknown(domain, molecule("NH3")) == ("H3N",)
    assert unknown(domain, molecule("C3H8")) == ("C3H8",)  # larger than any
    assert unknown(domain, molecule("CH3")) == ("CH3",)  # a radical
    assert unknown(domain, Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]])) == ("Cu2",)


def test_bulk_is_known_in_any_cell_and_a_cluster_is_not():
    domain = Domain.fit(frames(bulk("Cu"), bulk("Cu", cubic=True)))
    assert unknown(domain, bulk("Cu") * (2, 2, 2)) == ()
    assert unknown(domain, Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]])) == ("Cu2",)


def test_hydrogen_bonds_do_not_make_a_new_molecule():
    domain = Domain.fit(frames(molecule("H2O")))
    dimer = molecule("H2O") + molecule("H2O")
    dimer.positions[3:] += dimer.positions[0] - dimer.positions[4]
    dimer.positions[3:, 2] += 1.6  # a short hydrogen bond
    assert dimer.get_distance(0, 4) == pytest.approx(1.6)
    assert unknown(domain, dimer) == ()


def test_frames_held_out_of_the_bundled_data_are_known_but_isolated_fragments_are_not():
    data = open_dataset("reactions-wb97xd-631gd")
    parts = split(data, "random", 0)
    domain = Domain.fit(data.frames(parts.train))
    assert not [frame for frame in data.frames(parts.test) if domain.unknown(Pairs.of_frame(frame))]


# ----------------------------------------------------------------------------------------------------------- calculator


def test_a_single_model_says_what_is_outside():
    rattled = []
    for seed in range(20):
        rattled.append(molecule("CH3CH2OH"))
        rattled[-1].rattle(0.05, seed=seed)
    calculator = PHLCalculator(painn(Domain.fit(frames(*rattled))), device="cpu")
    assert "in_domain" in calculator.implemented_properties
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calculator.get_property("in_domain", molecule("CH3CH2OH")) is True
    apart = molecule("CH3CH2OH")
    apart.positions *= 1.4
    for strange, said in (
        (apart, r"one . is [\d.]+ Å from the nearest atom"),
        (molecule("CH3OH"), "the training data hold no CH4O on its own"),
        (molecule("HCN"), "the training data hold no N with a neighbour"),
    ):
        with pytest.warns(DomainWarning, match=said) as caught:
            assert calculator.get_property("in_domain", strange) is False
        assert "Compositions are warned of once; results['in_domain'] tells" in str(caught[0].message)
        assert "out_of_domain" not in caught[0].message.finding
    assert [one["in_domain"] for one in calculator.evaluate([molecule("CH3CH2OH"), apart])] == [True, False]
    with pytest.raises(DomainError, match="no CH4O on its own"):
        PHLCalculator(calculator.potential, device="cpu", out_of_domain="error").get_hvp(
            np.ones((6, 3)), molecule("CH3OH")
        )


def test_a_new_arrangement_of_bonds_is_looked_at_again():
    """The last answer is kept for the bonds that it was given for, and copies do not take it along."""
    domain = Domain({(1, 1): 0.5, (1, 6): 0.5, (6, 6): 1.0}, {1: 3.0, 6: 3.0}, frozenset({"CH4", "C2H6"}))
    calculator = PHLCalculator(painn(domain), device="cpu", out_of_domain="ignore")
    methane, fragments = molecule("CH4"), molecule("CH4")
    fragments.positions[1] *= 2.2
    for _ in range(2):
        for atoms, known in ((methane, True), (fragments, False)):
            assert calculator.get_property("in_domain", atoms) is known
    again = pickle.loads(pickle.dumps(calculator))
    assert again.get_property("in_domain", fragments) is False


def test_a_run_that_exploded_stops():
    """All forces are zero then, which would count as converged."""
    domain = Domain.fit(frames(molecule("HCN")))
    exploded = molecule("HCN")
    exploded.positions *= 1e3
    with pytest.raises(ExplodedError, match=r"CHN fell apart: .* no force acts on any atom"):
        PHLCalculator(painn(domain), device="cpu").get_property("forces", exploded)
    assert attempt(lambda: PHLCalculator(painn(domain), device="cpu").get_forces(exploded)).outcome == "exploded"
    ignoring = PHLCalculator(painn(domain), device="cpu", out_of_domain="ignore")
    assert not ignoring.get_property("forces", exploded).any()
    # of many structures the others are wanted all the same
    with pytest.warns(DomainWarning, match="has no neighbour"):
        assert [
            one["in_domain"] for one in PHLCalculator(painn(domain), device="cpu").evaluate([exploded, molecule("HCN")])
        ] == [False, True]


def test_free_atoms_that_were_seen_are_known():
    domain = Domain.fit(frames(molecule("CH4"), Atoms("H"), Atoms("C")))
    calculator = PHLCalculator(painn(domain), device="cpu", out_of_domain="error")
    assert calculator.get_property("in_domain", Atoms("H")) is True
    assert calculator.get_property("in_domain", Atoms("CH", [[0, 0, 0], [0, 0, 9]])) is True
    with pytest.raises(DomainError, match=r"is 3\.00 Å from the nearest atom"):
        calculator.get_property("energy", Atoms("CH", [[0, 0, 0], [0, 0, 3]]))


def test_where_nothing_is_known_only_a_structure_without_neighbours_is_noticed():
    calculator = PHLCalculator(painn(None), device="cpu")
    assert "in_domain" not in calculator.implemented_properties
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for atoms in (molecule("C6H6"), Atoms("H"), Atoms("CH2", [[0, 0, 0], [0, 0, 1], [0, 0, 90]])):
            calculator.get_property("energy", atoms)
            assert "in_domain" not in calculator.results
    with pytest.warns(DomainWarning, match=r"no atom has a neighbour within 4\.50 Å, so all forces are zero"):
        calculator.get_property("forces", Atoms("CH", [[0, 0, 0], [0, 0, 9]]))


def test_committees_and_sums_know_what_their_members_know():
    one, two = (Domain.fit(frames(molecule(name))) for name in ("CH4", "H2O"))
    assert domain_of(Committee([painn(one), painn(two)])).molecules == {"CH4", "H2O"}
    assert domain_of(Committee([painn(one), painn(two)], Calibration(1, 1, 1, one))) == one
    assert domain_of(Sum([painn(one), LennardJones(epsilon=0.01, sigma=3.4, cutoff=4.0)])).molecules == {"CH4"}
    assert domain_of(LennardJones(epsilon=0.01, sigma=3.4, cutoff=4.0)) is None


# ------------------------------------------------------------------------------------------------------------- training


def test_training_writes_the_domain_onto_the_card_and_going_on_from_it_keeps_its_distances(tmp_path):
    generator = np.random.default_rng(0)

    def labelled(name: str, size: float) -> list[Frame]:
        made = []
        for seed in range(6):
            atoms = molecule(name)
            atoms.rattle(size, seed=seed)
            made.append(
                Frame(
                    numbers=atoms.numbers,
                    positions=atoms.positions,
                    energy=float(generator.normal()),
                    forces=generator.normal(size=(len(atoms), 3)),
                    frame_id=seed,
                )
            )
        return made

    settings = {"scheme": {"name": "E-F"}, "training": {"epochs": 1, "device": "cpu", "dtype": "float64"}}
    first = labelled("CH4", 0.1)
    config = parse_config({**settings, "potential": {"channels": 4}})
    result = train(config, RunData(first[:4], first[4:]), tmp_path / "first")
    domain = domain_of(load_model(result.model))
    assert domain == Domain.from_json(Domain.fit(first[:4]).to_json())
    second = labelled("C2H6", 0.01)
    config = parse_config({**settings, "potential": {"from": str(result.model)}})
    result = train(config, RunData(second[:4], second[4:]), tmp_path / "second")
    later, fresh = domain_of(load_model(result.model)), Domain.fit(second[:4])
    assert later.molecules == {"C2H6"}
    assert later.shortest[1, 6] == pytest.approx(domain.shortest[1, 6], abs=1e-6)
    assert later.shortest[1, 6] < fresh.shortest[1, 6] - 0.05
    assert later.shortest[6, 6] == pytest.approx(fresh.shortest[6, 6], abs=1e-6)
    assert "domain" not in read_card(result.model)["provenance"]["started_from"]
