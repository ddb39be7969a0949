"""Committees trained by one command: members see no frame that calibrates them, and a stopped one ends as unbroken."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from phl_ase import PHLCalculator
from phl_ase.cli.app import app
from phl_ase.datasets import Split, open_dataset
from phl_ase.errors import PHLError
from phl_ase.potentials import load_model, read_card
from phl_ase.potentials.references import species_of
from phl_ase.structures import atoms_from_frame
from phl_ase.trained_on import trained_on
from phl_ase.training import RunData, Stopped, parse_config, prepare_data, recorded_members, train, train_committee
from phl_ase.training import committee as module
from phl_ase.training.committee import draw_evenly, member_run

DATA = "reactions-wb97xd-631gd"
CONFIG = {
    "data": {"max_atoms": 3, "fractions": [0.5, 0.3, 0.2]},
    "potential": {"channels": 8, "n_basis": 4, "cutoff": 3.0},
    "training": {"epochs": 1, "batch_size": 24, "validate_every": 1, "device": "cpu", "seed": 7},
}


@pytest.fixture(scope="module")
def config():
    return parse_config(CONFIG)


@pytest.fixture(scope="module")
def data(config) -> RunData:
    return prepare_data(config)


@pytest.fixture(scope="module")
def made(tmp_path_factory, config, data):
    return train_committee(config, data, tmp_path_factory.mktemp("committee") / "run", 2)


def test_a_committee_is_one_file_that_the_calculator_takes(made, data):
    calculator = PHLCalculator(str(made.model), device="cpu")
    atoms = atoms_from_frame(data.test[0])
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    members = [PHLCalculator(str(one.model), device="cpu") for one in made.members]
    energies = [one.evaluate([atoms], ("energy",))[0]["energy"] for one in members]
    assert energy == pytest.approx(np.mean(energies))
    assert energies[0] != energies[1]
    spread = np.std(energies, ddof=1) * made.calibration.energy
    assert calculator.results["energy_std"] == pytest.approx(spread)
    assert "in_domain" in calculator.results


def test_what_calibrates_was_seen_by_no_member(made, data):
    assert made.calibration.frames == len(data.valid)
    for one in made.members:
        seen = trained_on(load_model(one.model))
        assert not seen.seen(data.valid, valid=True).any()
        assert not seen.seen(data.test, valid=True).any()
    whole = trained_on(PHLCalculator(str(made.model), device="cpu"))
    assert whole.seen(data.train).all()
    assert whole.seen(data.valid, valid=True).all()  # it is calibrated by these: no test on them either


def test_the_factor_is_that_of_the_held_out_errors(made, data):
    """68.27 % of the errors lie within one calibrated standard deviation, by definition of the factor."""
    frames = [frame for frame in data.valid if frame.energy is not None]
    calculator = PHLCalculator(str(made.model), device="cpu", out_of_domain="ignore")
    found = calculator.evaluate([atoms_from_frame(frame) for frame in frames], ("energy",))
    ratios = [abs(one["energy"] - f.energy) / one["energy_std"] for one, f in zip(found, frames, strict=True)]
    assert np.quantile(ratios, 0.6827) == pytest.approx(1.0, rel=1e-3)


def test_the_card_says_what_the_committee_is(made, data):
    card = read_card(made.model)
    assert card["provenance"]["training_frames"] == len(data.train)
    assert card["provenance"]["scheme"]["name"] == "E-F-HVP-random"
    with open_dataset(DATA) as opened:
        split = Split.from_json(card["provenance"]["split"]).check(opened)
    assert set(split.valid) >= {frame.frame_id for frame in data.valid}
    seeds = [entry["provenance"]["config"]["training"]["seed"] for entry in card["config"]["members"]]
    assert seeds == [7, 8]


def test_members_are_watched_on_frames_of_their_own(config, data):
    (first, one), (second, other) = (member_run(config, data, k) for k in (1, 2))
    assert (first.training.seed, second.training.seed) == (7, 8)
    numbers = {frame.frame_id for frame in data.train}
    for run in (one, other):
        learnt, watched = ({frame.frame_id for frame in part} for part in (run.train, run.valid))
        assert learnt | watched == numbers
        assert not learnt & watched
        assert 0 < len(watched) < 0.1 * len(numbers)
        assert species_of(run.train) == species_of(data.train)
    assert {f.frame_id for f in one.valid} != {f.frame_id for f in other.valid}


def test_an_element_of_a_single_frame_is_learnt(config, data):
    numbers = np.array([6, 9, 9])
    rare = [dataclasses.replace(frame, numbers=numbers) if k == 5 else frame for k, frame in enumerate(data.train)]
    for member in range(1, 30):
        _, run = member_run(config, dataclasses.replace(data, train=rare), member)
        assert 9 in species_of(run.train)
    lone = [dataclasses.replace(data.train[k], numbers=np.array([z] * 3)) for k, z in enumerate((1, 6, 7))]
    with pytest.raises(PHLError, match="none of the 3 training frames can be left out"):
        member_run(config, dataclasses.replace(data, train=lone), 1)


def test_parts_are_spread_over_the_kinds():
    kinds = np.array(["ts"] * 100 + ["irc"] * 300)
    first, second, rest = draw_evenly(kinds, np.arange(400), (0.1, 0.2), seed=3)
    assert sorted([*first, *second, *rest]) == list(range(400))
    assert (len(first), len(second)) == (pytest.approx(40, abs=2), pytest.approx(80, abs=2))
    assert np.sum(first < 100) == pytest.approx(10, abs=2)


@pytest.mark.parametrize("stopped", [1, 2])
def test_a_stopped_committee_ends_as_an_unbroken_one(made, tmp_path, config, data, monkeypatch, stopped):
    calls = []

    def training(*arguments, **options):
        calls.append(arguments)
        if len(calls) == stopped:
            raise Stopped("stopped by SIGTERM in epoch 1, step 1; nothing is lost")
        return train(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train", training)
        with pytest.raises(Stopped, match=rf"member {stopped} of 2: stopped by SIGTERM .*--resume --out {tmp_path}"):
            train_committee(config, data, tmp_path / "run", 2)
    result = train_committee(config, data, tmp_path / "run", 2, resume=True)
    assert result.model.read_bytes() == made.model.read_bytes()


def test_members_trained_at_once_are_those_trained_one_by_one(made, tmp_path, config, data):
    result = train_committee(config, data, tmp_path / "run", 2, processes=2)
    weights, expected = (load_file(one.model) for one in (result, made))
    assert weights.keys() == expected.keys()
    for name, value in expected.items():  # rounding differs with the number of threads
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5)
    assert result.calibration.forces == pytest.approx(made.calibration.forces, rel=1e-3)


def test_a_member_that_fails_in_its_process_is_named(tmp_path, data):
    wild = parse_config({**CONFIG, "training": {**CONFIG["training"], "learning_rate": 1e30, "warmup_epochs": 0}})
    with pytest.raises(PHLError, match=r"member 1: .*learning rate"):
        train_committee(wild, data, tmp_path / "run", 2, processes=2)
    assert not (tmp_path / "run" / "committee.safetensors").exists()


def test_what_could_not_become_a_committee_is_refused_at_once(tmp_path, config, data, made, monkeypatch):
    def refused(match, *arguments, **options):
        with pytest.raises(PHLError, match=match):
            train_committee(*arguments, **options)

    new = tmp_path / "run"
    refused("a committee of 1; expected two members", config, data, new, 1)
    few = dataclasses.replace(data, valid=data.valid[:4])
    refused("has 4 frames with energies and forces; expected at least 5", config, few, new, 2)
    foreign = parse_config({**CONFIG, "potential": {"from": "mace:some.model"}})
    refused("a committee of models like mace:some.model cannot be written", foreign, data, new, 2)
    assert not new.exists()
    refused("started with 2 members, not 3; resume it unchanged", config, data, made.folder, 3, resume=True)
    other = parse_config({**CONFIG, "potential": {**CONFIG["potential"], "cutoff": 4.0}})
    refused("started with another potential.cutoff", other, data, made.folder, 2, resume=True)
    refused("holds a run already", config, data, made.folder, 2)
    single = train(config, data, tmp_path / "single").folder
    refused("holds a run of a single model", config, data, single, 2, resume=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused("without torchrun", config, data, new, 2)


def test_members_go_on_from_those_of_a_committee(made, config):
    data = RunData(*(list(prepare_data(config).train),) * 2)
    started = parse_config({**CONFIG, "potential": {"from": str(made.model)}})
    assert [member_run(started, data, k)[0].potential.start for k in (1, 2, 3)] == [
        f"{made.model}#1",
        f"{made.model}#2",
        f"{made.model}#1",
    ]
    one = parse_config({**CONFIG, "potential": {"from": f"{made.model}#2"}})
    assert member_run(one, data, 1)[0].potential.start == f"{made.model}#2"


def test_the_command_makes_and_resumes_it(tmp_path, made):
    lines = []
    for section, values in CONFIG.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    (tmp_path / "train.toml").write_text("\n".join(lines))
    run = tmp_path / "run"
    first = CliRunner().invoke(app, ["train", str(tmp_path / "train.toml"), "-o", str(run), "--members", "2"])
    assert first.exit_code == 0, first.output
    assert f"model: {run / 'committee.safetensors'}" in first.stdout
    assert "member 2 of 2: epoch 1" in first.stderr
    assert (run / "committee.safetensors").read_bytes() == made.model.read_bytes()
    assert recorded_members(run) == 2
    again = CliRunner().invoke(app, ["train", "--resume", "-o", str(run)])
    assert again.stdout == first.stdout
