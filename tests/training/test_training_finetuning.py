"""Fine-tuning: learning rates of their own for parts of a model, and replay of what it has learnt before."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_models import VENDORS
from test_training import assert_same, configuration, end_of, settings, start_from, stopping_after

from phl_ase.adapters import load_foreign
from phl_ase.calculator import PHLCalculator
from phl_ase.datasets import DatasetMeta, MemoryDataset, write_dataset
from phl_ase.errors import PHLError
from phl_ase.potentials.model_file import load_model
from phl_ase.structures import Frame, atoms_from_frame, collate
from phl_ase.training import RunData, Stopped, TrainConfig, parse_config, prepare_data, train, trainer
from phl_ase.training.batches import batches_with_replay
from phl_ase.training.checkpoint import BEST, LAST, load_checkpoint
from phl_ase.training.optimiser import parameter_groups
from phl_ase.training.replay import frames_to_replay
from phl_ase.training.setup import new_model
from phl_ase.training.step import accumulate_gradients

LEVEL = DatasetMeta("wB97X-D/6-31G(d)", "absolute")
RATES = {"messages.0*": 0.1, "messages*": 0.5, "embedding*": 0.2}


@pytest.fixture(scope="module")
def data() -> RunData:
    return prepare_data(configuration())


@pytest.fixture(scope="module")
def learnt(data, tmp_path_factory) -> Path:
    """A model that has learnt every other frame a little."""
    half = dataclasses.replace(data, train=data.train[1::2])
    config = configuration(training={"epochs": 2}, scheme={"name": "E-F"})
    return train(config, half, tmp_path_factory.mktemp("learnt") / "run").model


@pytest.fixture(scope="module")
def both(data) -> RunData:
    """The other frames to learn; those learnt to replay, every other one without a Hessian, four held out."""
    old = [dataclasses.replace(f, hessian=f.hessian if i % 2 else None) for i, f in enumerate(data.train[1::2])]
    return RunData(data.train[::2], data.valid, replay=old[:-4], replay_valid=old[-4:])


def fine_tuning(learnt: Path, share: float = 0.25, **sections) -> TrainConfig:
    return start_from(learnt, replay={"share": share}, **sections)


# ------------------------------------------------------------------------------------------------------- learning rates


def test_the_first_pattern_that_fits_gives_the_factor(data):
    model = new_model(configuration(), data.train)
    groups = {group["factor"]: group["params"] for group in parameter_groups(model, RATES)}
    place = {id(p): factor for factor, members in groups.items() for p in members}
    found = {name: place[id(p)] for name, p in model.named_parameters()}
    assert set(found.values()) == {0.1, 0.5, 0.2, 1.0}
    for name, factor in found.items():
        expected = 0.1 if "messages.0" in name else 0.5 if "messages" in name else 0.2 if "embedding" in name else 1.0
        assert factor == expected, name
    assert len(parameter_groups(model, {})) == 1


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (
            {"*heads*": 0.1},
            r"training\.rate_factors: no parameter is called '\*heads\*'; the model has, among others, ",
        ),
        ({"*": 0.1, "messages*": 0.5}, r"every parameter called 'messages\*' fits a pattern before it: put it first"),
        ({"embedding*": 0.1}, r"every parameter called 'embedding\*' is frozen: potential\.trainable leaves it out"),
    ],
)
def test_patterns_that_change_no_rate_are_refused(learnt, data, tmp_path, factors, message):
    config = parse_config(
        {
            **settings(training={"rate_factors": factors}),
            "potential": {"from": str(learnt), "trainable": ["messages*"]},
        }
    )
    with pytest.raises(PHLError, match=message) as caught:
        train(config, data, tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factor", [0.0, -1.0, "nan"])
def test_a_factor_is_positive(factor):
    with pytest.raises(PHLError, match=r"training\.rate_factors"):
        configuration(training={"rate_factors": {"*": factor}})


def test_a_step_is_as_much_smaller_as_its_factor_says(learnt, data, tmp_path):
    """The first step of Adam is its learning rate times a function of the gradient alone."""
    few = dataclasses.replace(data, train=data.train[:4])
    once = {"epochs": 1, "dtype": "float64", "weight_decay": 0.0, "warmup_epochs": 0}
    moved = []
    for factors in ({}, RATES):
        config = start_from(learnt, training={**once, "rate_factors": factors})
        result = train(config, few, tmp_path / f"run{len(factors)}")
        start = new_model(config, few.train).double().state_dict()
        moved.append({k: v - start[k] for k, v in load_checkpoint(result.folder / LAST)["model"].items()})
        assert result.records[0]["learning_rate"] == config.training.learning_rate  # that of factor 1
    for name, _ in load_model(learnt).named_parameters():
        expected = 0.1 if "messages.0" in name else 0.5 if "messages" in name else 0.2 if "embedding" in name else 1.0
        torch.testing.assert_close(moved[1][name], expected * moved[0][name], rtol=1e-6, atol=1e-12)
        assert moved[0][name].abs().max() > 0


# -------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize(("new", "old", "size", "share"), [(20, 50, 8, 0.25), (21, 3, 4, 0.5), (5, 9, 2, 0.9)])
def test_every_batch_holds_its_share_of_replayed_frames(new, old, size, share, rng):
    sizes = rng.integers(3, 9, new + old)
    batches = batches_with_replay(sizes, old, size, share=share, seed=1, epoch=4)
    number = {0.25: 2, 0.5: 2, 0.9: 1}[share]  # of two systems one is new, whatever the share
    counts = Counter(np.concatenate(batches).tolist())
    assert [counts[i] for i in range(new)] == [1] * new
    assert all((batch >= new).sum() == number and len(batch) <= size for batch in batches)
    assert len(batches) == -(-new // (size - number))
    replayed = [counts[i] for i in range(new, new + old)]
    assert max(replayed) - min(replayed) <= 1  # none comes again before all have come
    again = batches_with_replay(sizes, old, size, share=share, seed=1, epoch=4)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    other = batches_with_replay(sizes, old, size, share=share, seed=1, epoch=5)
    assert any(not np.array_equal(a, b) for a, b in zip(batches, other, strict=True))


def test_replayed_frames_count_where_they_carry_labels(learnt, both, tmp_path, monkeypatch):
    seen = []

    def step(model, batch, labels, weights, **options):
        result = accumulate_gradients(model, batch, labels, weights, **options)
        seen.append((labels.frame_id.tolist(), result.counts))
        return result

    monkeypatch.setattr(trainer, "accumulate_gradients", step)
    train(fine_tuning(learnt, training={"epochs": 1}), both, tmp_path / "run")
    with_hessian = {-1 - i for i, frame in enumerate(both.replay) if frame.hessian is not None}
    assert 0 < len(with_hessian) < len(both.replay)
    for ids, counts in seen:
        assert sum(i < 0 for i in ids) == 3  # a quarter of 12
        labelled = sum(i >= 0 or i in with_hessian for i in ids)
        assert counts == {"energy": len(ids), "forces": len(ids), "curvature": labelled}
    assert any(counts["curvature"] < len(ids) for ids, counts in seen)


# ---------------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("steps", [2, 3])
def test_a_resumed_run_with_replay_and_rates_ends_bit_for_bit_like_an_unbroken_one(
    learnt, both, tmp_path, monkeypatch, steps
):
    config = fine_tuning(learnt, training={"epochs": 2, "rate_factors": RATES})
    train(config, both, tmp_path / "whole")
    with stopping_after(steps, monkeypatch), pytest.raises(Stopped):
        train(config, both, tmp_path / "broken")
    train(config, both, tmp_path / "broken", resume=True)
    assert_same(end_of(tmp_path / "whole"), end_of(tmp_path / "broken"))
    assert (tmp_path / "whole" / BEST).read_bytes() == (tmp_path / "broken" / BEST).read_bytes()


def test_a_resume_with_patterns_in_another_order_is_refused(learnt, data, tmp_path):
    crossing = {"*.weight": 0.1, "messages*": 0.5}
    train(start_from(learnt, training={"epochs": 1, "rate_factors": crossing}), data, tmp_path / "run")
    other = start_from(learnt, training={"epochs": 1, "rate_factors": dict(reversed(crossing.items()))})
    with pytest.raises(PHLError, match=r"another training\.rate_factors"):
        train(other, data, tmp_path / "run", resume=True)


def test_replay_keeps_what_was_learnt(learnt, both, tmp_path):
    """New labels that contradict the old ones: half the forces and Hessians. What is not replayed is forgotten."""
    new = [dataclasses.replace(f, forces=f.forces / 2, hessian=f.hessian / 2) for f in both.train]
    contradicting = dataclasses.replace(both, train=new)
    longer = {"epochs": 40, "validate_every": 40}
    kept = train(fine_tuning(learnt, 0.5, training=longer), contradicting, tmp_path / "kept").records[-1]
    without = dataclasses.replace(contradicting, replay=())
    forgot = train(fine_tuning(learnt, training=longer), without, tmp_path / "forgot").records[-1]
    assert kept["replay_forces"] < 0.8 * forgot["replay_forces"]
    assert {"replay_energy", "replay_forces", "replay_curvature", "valid_loss"} <= kept.keys()


def test_the_frames_held_out_of_replay_do_not_choose_the_model(learnt, both, tmp_path):
    config = fine_tuning(learnt, training={"epochs": 1})
    whole = train(config, both, tmp_path / "whole")
    blind = train(config, dataclasses.replace(both, replay_valid=()), tmp_path / "blind")
    assert whole.best_loss == blind.best_loss
    assert (whole.folder / BEST).read_bytes() == (blind.folder / BEST).read_bytes()


# ------------------------------------------------------------------------------------------------- levels and mistakes


def written(folder: Path, frames: list[Frame], meta: DatasetMeta, name: str) -> str:
    write_dataset(folder / f"{name}.h5", MemoryDataset(frames, meta))
    return str(folder / f"{name}.h5")


def replaying(learnt: Path, folder: Path, data: RunData, meta: DatasetMeta = LEVEL, **replay) -> TrainConfig:
    """A configuration that replays half of the frames, from a file."""
    half = len(data.train) // 2
    new = written(folder, list(data.train[:half]), LEVEL, "new")
    old = written(folder, list(data.train[half:]), meta, "old")
    section = {"source": old, **replay}
    return start_from(learnt, data={"source": new}, replay=section, training={"epochs": 1})


def test_replay_from_files_and_what_the_card_says_of_it(learnt, data, tmp_path):
    config = replaying(learnt, tmp_path, data, frames=11)
    run = prepare_data(config)
    assert (len(run.replay), len(run.replay_valid)) == (10, 1)
    result = train(config, run, tmp_path / "run")
    said = load_model(result.model).provenance["replay"]
    assert (said["frames"], said["share"], said["level_of_theory"]) == (10, 0.25, "wB97X-D/6-31G(d)")
    card = {**run.provenance, "replay": {**run.provenance["replay"], "data_hash": "0"}}
    with pytest.raises(PHLError, match="data set has changed"):
        train(config, dataclasses.replace(run, provenance=card), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (
            DatasetMeta("HF/STO-3G", "absolute"),
            r"level of theory of \S*old.h5 is HF/STO-3G, of \S*new.h5 wB97X-D/6-31G\(d\)",
        ),
        (DatasetMeta("wB97X-D/6-31G(d)", "atoms"), r"energy reference of \S*old.h5 is atoms, .*replay\.mixed = true"),
    ],
)
def test_another_level_of_theory_is_refused_unless_it_is_allowed(learnt, data, tmp_path, meta, message):
    with pytest.raises(PHLError, match=message) as caught:
        prepare_data(replaying(learnt, tmp_path, data, meta))
    assert "\n" not in str(caught.value)
    assert prepare_data(replaying(learnt, tmp_path, data, meta, mixed=True)).replay


def test_energies_of_mixed_data_are_moved_to_the_models_zero(learnt, data):
    """Labelled by the model itself at its old zero, they get the energies of the model at its new one."""
    old = load_model(learnt, dtype=torch.float64)
    batch, _ = collate(data.train, old.cutoffs)
    original = [dataclasses.replace(f, energy=e) for f, e in zip(data.train, old(batch).tolist(), strict=True)]
    zeros = {1: -3.0, 6: 500.0, 7: 70.0, 8: 0.25}
    moved = [dataclasses.replace(f, energy=f.energy + sum(zeros[int(z)] for z in f.numbers)) for f in data.train]
    config = start_from(learnt, replay={"mixed": True})
    model = new_model(config, moved, original)
    replayed, held = frames_to_replay(config.replay, original[:-3], original[-3:], model)
    energies = model(batch).tolist()
    assert abs(energies[0] - original[0].energy) > 10
    # least squares of energies of keV, in float64
    assert [f.energy for f in (*replayed, *held)] == pytest.approx(energies, abs=1e-6)
    assert len({f.frame_id for f in (*replayed, *held)}) == len(original)
    assert max(f.frame_id for f in replayed) == -1


def test_energies_of_the_same_level_stay(learnt, both):
    config = fine_tuning(learnt)
    replayed, _ = frames_to_replay(config.replay, both.replay, both.replay_valid, load_model(learnt))
    assert [f.energy for f in replayed] == [f.energy for f in both.replay]


def test_replay_that_cannot_be_is_refused(learnt, data, both, tmp_path):
    with pytest.raises(PHLError, match=r"potential\.from names none"):
        train(configuration(), both, tmp_path / "run")
    config = replaying(learnt, tmp_path, data)
    with pytest.raises(PHLError, match=r"the run was given no frames of it"):
        train(config, dataclasses.replace(both, replay=()), tmp_path / "run")
    with pytest.raises(PHLError, match=r"training\.batch_size is 1; expected 2 or more"):
        train(fine_tuning(learnt, training={"batch_size": 1}), both, tmp_path / "run")
    same = config.model_copy(update={"replay": config.replay.model_copy(update={"source": config.data.source})})
    with pytest.raises(PHLError, match=r"the data that data\.source trains, chooses and tests the model with"):
        prepare_data(same)
    strange = dataclasses.replace(both.replay[0], numbers=np.full(len(both.replay[0]), 9))
    with pytest.raises(PHLError, match="training frames hold F, which the model to start from does not know"):
        train(fine_tuning(learnt), dataclasses.replace(both, replay=[*both.replay, strange]), tmp_path / "other")


# ------------------------------------------------------------------------------------------------ models of others


@pytest.mark.foreign
@pytest.mark.graph_pes
def test_a_fine_tuned_graph_pes_model_is_loaded_again_by_both(data, tmp_path):
    """What graph-pes keeps beside its parameters, the elements, must outlive the average of weights that is written."""
    pytest.importorskip("graph_pes")
    vendor = VENDORS["graph-pes"]
    start = f"graph-pes:{vendor.make(tmp_path)}"
    # its model knows H, C, O
    few = [dataclasses.replace(f, numbers=np.where(f.numbers == 7, 8, f.numbers)) for f in data.train[:4]]
    config = start_from(
        start, training={"epochs": 1, "dtype": "float64", "rate_factors": {"*many_body*": 0.1}, "warmup_epochs": 0}
    )
    result = train(config, RunData(few, few), tmp_path / "run")
    model = f"graph-pes:{result.model}"
    assert load_foreign(model).species == (1, 6, 8)
    atoms = atoms_from_frame(few[0])
    again = parse_config({**settings(training={"epochs": 1, "dtype": "float64"}), "potential": {"from": model}})
    train(again, RunData(few, few), tmp_path / "again")
    ours, its = PHLCalculator(model, device="cpu"), vendor.calculator(str(result.model))
    assert ours.get_potential_energy(atoms) == pytest.approx(its.get_potential_energy(atoms), abs=1e-6)
