"""Model files: weights come back bit for bit, and nothing that is broken, foreign or hostile is loaded."""

from __future__ import annotations

import errno
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save
from torch._subclasses.fake_tensor import FakeTensor

from phl_ase.errors import PHLError
from phl_ase.potentials import PaiNN, PaiNNConfig, bundled_models, load_model, load_saved, read_card, save_model
from phl_ase.potentials.registry import build_model
from phl_ase.structures import Frame, collate

CARD = {"level_of_theory": "HF/STO-3G", "energy_reference": "absolute", "scheme": {"name": "E-F-H"}, "note": "Å²"}


@pytest.fixture
def model(generator):
    made = PaiNN(PaiNNConfig(species=(1, 8), channels=8, layers=2, cutoff=3.0, n_basis=4), generator)
    made.set_references(torch.tensor([-13.6, -2041.123456789], dtype=torch.float64), 1.2345)
    return made


@pytest.fixture
def path(tmp_path, model):
    return save_model(tmp_path / "model.safetensors", model, CARD)


def card_of(path) -> dict:
    return read_card(path)


def rewrite(path, card=None, tensors=None, metadata=None) -> None:
    """The same file with another card, weights or header."""
    state = {k: v.contiguous() for k, v in (tensors if tensors is not None else load_model(path).state_dict()).items()}
    meta = metadata if metadata is not None else {"phl_ase": json.dumps(card if card is not None else card_of(path))}
    path.write_bytes(save(state, metadata=meta))


def water(rng) -> Frame:
    positions = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]).double().numpy()
    return Frame(numbers=torch.tensor([8, 1, 1]).numpy(), positions=positions + 0.01 * rng.normal(size=(3, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_come_back_bit_for_bit(tmp_path, model, dtype, rng, generator):
    model = model.to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=generator, dtype=dtype) / 30)  # digits beyond float32
    back = load_model(save_model(tmp_path / "m", model, CARD), dtype=dtype)
    assert list(back.state_dict()) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert back.state_dict()[name].dtype == value.dtype, name
        assert torch.equal(back.state_dict()[name], value), name
    batch, _ = collate([water(rng)], model.cutoffs)
    batch = batch.to(dtype=dtype)
    assert torch.equal(back(batch), model.requires_grad_(False)(batch))


def test_a_loaded_model_is_ready_for_use(path):
    model = load_model(path)
    assert model.provenance == CARD
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.species == (1, 8)
    assert {v.dtype for v in load_model(path, dtype=torch.float32).parameters()} == {torch.float32}
    assert load_model(path, dtype=torch.float32).reference_energies.dtype == torch.float64


def test_the_card_says_what_is_inside(path):
    card = read_card(path)
    assert card["architecture"] == "painn"
    settings = {"channels": 8, "layers": 2, "cutoff": 3.0, "n_basis": 4, "core": "none"}
    assert card["config"] == {"species": [1, 8], **settings}
    assert card["provenance"] == CARD


def test_saving_adds_the_suffix_and_leaves_no_other_file(tmp_path, model):
    assert save_model(tmp_path / "a", model, {}).name == "a.safetensors"
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_every_bundled_model_loads():
    for name in bundled_models():
        assert load_saved(name).species, name


@pytest.mark.parametrize("length", [0, 1, 8, 100, 2000, -1])
def test_a_truncated_file_is_refused(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(PHLError, match=r"model\.safetensors: not a readable model file") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_an_absurd_header_is_refused(path):
    content = path.read_bytes()
    path.write_bytes((2**62).to_bytes(8, "little") + content[8:])
    with pytest.raises(PHLError, match="not a readable model file"):
        load_model(path)


class Hostile:
    def __init__(self, marker) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("write", [lambda o, p: p.write_bytes(pickle.dumps(o)), torch.save])
def test_a_pickle_is_refused_and_not_run(tmp_path, write):
    write(Hostile(tmp_path / "executed"), tmp_path / "model.safetensors")
    with pytest.raises(PHLError, match="not a readable model file"):
        load_model(tmp_path / "model.safetensors")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "metadata", [{}, {"format": "pt"}, {"phl_ase": "no json"}, {"phl_ase": "[]"}, {"phl_ase": "{}"}]
)
def test_foreign_safetensors_are_refused(path, metadata):
    rewrite(path, tensors={"weight": torch.ones(2)}, metadata=metadata)
    with pytest.raises(PHLError, match="has no phl_ase card; expected a model written by 'phl train'"):
        load_model(path)


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_another_schema_is_refused(path, schema):
    rewrite(path, {**card_of(path), "schema": schema})
    with pytest.raises(PHLError, match=r"card schema .* this version reads 1"):
        load_model(path)


@pytest.mark.parametrize("config", [{"channels": 2048, "layers": 32}, {"channels": 16}, {"layers": 3}, {"n_basis": 5}])
def test_a_card_that_asks_for_more_than_the_file_holds_takes_no_memory(path, config, monkeypatch):
    card = card_of(path)
    rewrite(path, {**card, "config": {**card["config"], **config}})
    made = []

    def build(*arguments):
        model = build_model(*arguments)
        made.extend(type(tensor) for tensor in model.state_dict().values())
        return model

    monkeypatch.setattr("phl_ase.potentials.model_file.build_model", build)
    with pytest.raises(PHLError, match=r"card and weights do not fit together \(.* has the shape .*, by the card .*\)"):
        load_model(path)
    assert set(made) == {FakeTensor}


def test_a_deeply_nested_card_is_refused(path):
    rewrite(path, metadata={"phl_ase": "[" * 100_000})
    with pytest.raises(PHLError, match="has no phl_ase card"):
        load_model(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(path, value):
    tensors = load_model(path).state_dict()
    tensors["filters.weight"][0, 0] = value
    rewrite(path, tensors=tensors)
    with pytest.raises(PHLError, match=r"the weights filters\.weight hold NaN or infinity; train the model again"):
        load_model(path)


@pytest.mark.parametrize("changes", [{"channels": 9}, {"layers": 3}, {"layers": 1}, {"species": [1]}, {"n_basis": 5}])
def test_weights_that_do_not_fit_the_card_are_refused(path, changes):
    card = card_of(path)
    rewrite(path, {**card, "config": {**card["config"], **changes}})
    with pytest.raises(PHLError, match="card and weights do not fit together"):
        load_model(path)


def test_missing_and_extra_weights_are_refused(path):
    tensors = load_model(path).state_dict()
    for broken in ({k: v for k, v in tensors.items() if k != "embedding"}, {**tensors, "more": torch.ones(1)}):
        rewrite(path, card_of(path), tensors=broken)
        with pytest.raises(PHLError, match="card and weights do not fit together"):
            load_model(path)
        rewrite(path, card_of(path), tensors=tensors)


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 10**9},
        {"channels": -1},
        {"channels": 0},
        {"channels": 7.5},
        {"channels": "8"},
        {"channels": None},
        {"layers": 10**6},
        {"cutoff": float("nan")},
        {"cutoff": float("inf")},
        {"cutoff": 0},
        {"n_basis": 10**9},
        {"species": []},
        {"species": [0]},
        {"species": [500]},
        {"species": "HO"},
        {"species": [float("inf")]},
        {"species": [[1]]},
        {"width": 3},
    ],
)
def test_absurd_settings_are_refused(path, changes):
    card = card_of(path)
    rewrite(path, {**card, "config": {**card["config"], **changes}})
    with pytest.raises(PHLError, match=r"model\.safetensors: ") as caught:
        load_model(path)
    # the tests' own checks of annotations speak in many lines
    assert "\n" not in str(caught.value) or "type-check" in str(caught.value).lower()


@pytest.mark.parametrize("architecture", ["schnet", 3, ["painn"], None])
def test_another_architecture_is_refused(path, architecture):
    rewrite(path, {**card_of(path), "architecture": architecture})
    with pytest.raises(PHLError, match=r"model\.safetensors: "):
        load_model(path)


def test_missing_models_are_said(tmp_path):
    with pytest.raises(PHLError, match="is a folder, not a model; expected"):
        load_model(tmp_path)
    with pytest.raises(PHLError, match="does not exist; bundled models: "):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(PHLError, match=r"unknown model 'best'; valid: .*a path to a \.safetensors file"):
        load_model("best")


def test_an_unwritable_folder_is_said(tmp_path, model):
    with pytest.raises(PHLError, match=r"cannot write .*m\.safetensors: the folder .* does not exist; create it first"):
        save_model(tmp_path / "none" / "m.safetensors", model, {})
    (tmp_path / "file").write_text("")
    with pytest.raises(PHLError, match=r"cannot write .*m\.safetensors"):
        save_model(tmp_path / "file" / "m.safetensors", model, {})


def test_a_full_disk_keeps_the_older_file(path, model, monkeypatch):
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(PHLError, match="the disk is full; free some space"):
        save_model(path, model, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
