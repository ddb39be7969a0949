"""What a model has seen: the same structures are found in copies of any name, order, precision and orientation."""

from __future__ import annotations

import dataclasses
import json
import re

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from phl_ase.calculator import PHLCalculator
from phl_ase.cli.app import app
from phl_ase.datasets import MemoryDataset, Split, open_dataset, split
from phl_ase.errors import PHLError
from phl_ase.potentials import PaiNN, PaiNNConfig, load_model, read_card, save_model
from phl_ase.results import read_reports
from phl_ase.structures import atoms_from_frame, frame_from_atoms
from phl_ase.structures.fingerprints import StructureSet, invariants
from phl_ase.trained_on import KEY, trained_on, training_record
from phl_ase.training import parse_config, prepare_data, train

DATA = "reactions-wb97xd-631gd"


@pytest.fixture(scope="module")
def frames():
    with open_dataset(DATA) as data:
        return data.frames(range(len(data)))


def moved(change):
    """Frames whose positions are changed by a function of (positions, generator)."""

    def of(frames):
        generator = np.random.default_rng(0)
        return [dataclasses.replace(f, positions=change(np.array(f.positions), generator)) for f in frames]

    return of


def reordered(frames):
    generator = np.random.default_rng(1)
    orders = [generator.permutation(len(f)) for f in frames]
    return [
        dataclasses.replace(f, numbers=f.numbers[order], positions=f.positions[order])
        for f, order in zip(frames, orders, strict=True)
    ]


def relabelled(frames):
    return [
        dataclasses.replace(f, energy=0.0, forces=None, hessian=None, kind="", reaction="", frame_id=7) for f in frames
    ]


COPIES = {
    "relabelled": relabelled,
    "float32, far from the origin": moved(lambda x, _: (x + 50.0).astype(np.float32)),
    "four decimals": moved(lambda x, _: x.round(4)),
    "rotated": moved(lambda x, g: Rotation.random(random_state=g).apply(x) + g.normal(size=3)),
    "mirrored": moved(lambda x, _: x * [1, 1, -1]),
    "atoms in another order": reordered,
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_the_same_structure(frames, copy):
    assert StructureSet.of(frames).contains(COPIES[copy](frames)).all()


def test_displaced_by_a_hundredth_of_an_angstrom_is_another_structure(frames):
    displaced = moved(lambda x, g: x + g.normal(scale=0.01, size=x.shape))(frames)
    assert StructureSet.of(frames).contains(displaced).mean() < 0.01


def test_what_counts_as_the_same_has_the_same_distances_and_energy(frames):
    """Reactions share molecules and paths have mirror images: 40 of the bundled frames repeat another one."""
    values = invariants(frames)
    formulas = [tuple(sorted(f.numbers.tolist())) for f in frames]
    same = [
        (a, b)
        for a in range(len(frames))
        for b in range(a)
        if formulas[a] == formulas[b] and np.abs(values[a] - values[b]).max() < 1e-3
    ]
    assert len(same) > 30
    for a, b in same:
        distances = [
            np.sort(np.linalg.norm(f.positions[:, None] - f.positions, axis=-1), None) for f in (frames[a], frames[b])
        ]
        assert np.abs(distances[0] - distances[1]).max() < 1e-3
        assert abs(frames[a].energy - frames[b].energy) < 1e-3  # a hundredth of a kcal/mol


def test_another_charge_or_element_is_another_structure(frames):
    known = StructureSet.of(frames[:1])
    other = np.array(frames[0].numbers)
    other[other > 1] += 1
    changed = [dataclasses.replace(frames[0], charge=1), dataclasses.replace(frames[0], numbers=other)]
    assert known.contains(changed).tolist() == [False, False]


def test_crystals_whose_atoms_are_wrapped_and_whose_cell_is_turned():
    atoms = bulk("NaCl", "rocksalt", 5.64) * (2, 2, 1)
    atoms.rattle(0.05, seed=0)
    copy = atoms.copy()
    copy.positions += 3.0
    copy.wrap()
    copy.rotate(40, (1, 2, 3), rotate_cell=True)
    strained = atoms.copy()
    strained.set_cell(1.01 * strained.cell.array, scale_atoms=True)
    known = StructureSet.of([frame_from_atoms(atoms)])
    assert known.contains([frame_from_atoms(copy), frame_from_atoms(strained)]).tolist() == [True, False]


def test_the_record_survives_json_at_eight_characters_a_structure(frames):
    record = training_record(frames[:500], frames[500:600])
    assert len(json.dumps(record)) < 8 * 600 + 200
    back = StructureSet.from_json(json.loads(json.dumps(record))[KEY]["train"])
    assert back == StructureSet.of(frames[:500])


@pytest.mark.parametrize("broken", [None, [], {}, {"version": 1, "digests": "???"}, {"version": 9, "digests": ""}])
def test_a_broken_record_is_an_error(broken):
    with pytest.raises(PHLError, match="record of structures"):
        StructureSet.from_json(broken)


def test_training_records_what_it_saw(tmp_path, frames):
    config = parse_config(
        {
            "data": {"max_atoms": 3},
            "potential": {"channels": 4, "n_basis": 4, "cutoff": 3.0, "layers": 1},
            "scheme": {"name": "E-F"},
            "training": {"epochs": 1, "device": "cpu"},
        }
    )
    data = prepare_data(config)
    result = train(config, data, tmp_path / "run")
    seen = trained_on(load_model(result.model))
    assert seen.known
    assert seen.seen(data.train).all()
    assert seen.seen(data.valid, valid=True).all()
    assert not seen.seen([f for f in frames if len(f) > 3]).any()

    # what it was trained on before counts as well
    further = parse_config({"potential": {"from": str(result.model)}, "training": {"epochs": 1, "device": "cpu"}})
    others = dataclasses.replace(data, train=data.test, test=())
    tuned = trained_on(load_model(train(further, others, tmp_path / "tuned").model))
    assert tuned.known
    assert tuned.seen([*data.train, *data.test]).all()


def test_what_the_bundled_model_has_seen(frames):
    """The part of the frames that its card says judged it was not trained on, but for repeats; the others were."""
    recorded = Split.from_json(read_card("default")["provenance"]["split"])
    seen = trained_on(PHLCalculator("default", device="cpu"))
    assert seen.known
    assert seen.seen([frames[i] for i in recorded.train]).all()
    assert seen.seen([frames[i] for i in recorded.test]).mean() < 0.1
    data = MemoryDataset(relabelled(frames), open_dataset(DATA).meta)
    test = [data[i] for i in split(data, "random", 0).test]
    assert seen.seen(test).sum() > 75  # of 103: a random split of another seed tests nothing


def test_methods_have_seen_nothing_and_unknown_is_not_nothing():
    assert not trained_on(EMT())
    unrecorded = trained_on(PaiNN(PaiNNConfig(species=(1,), channels=4, layers=1)))
    assert unrecorded
    assert not unrecorded.known


# ------------------------------------------------------------------------------------------------------ the commands


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model trained on four fifths of the 3-atom frames, and the folder of its run."""
    folder = tmp_path_factory.mktemp("seen") / "run"
    config = parse_config(
        {
            "data": {"max_atoms": 3},
            "potential": {"channels": 4, "n_basis": 4, "cutoff": 3.0, "layers": 1},
            "scheme": {"name": "E-F"},
            "training": {"epochs": 1, "device": "cpu"},
        }
    )
    return config, train(config, prepare_data(config), folder)


def evaluated(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


@pytest.fixture(scope="module")
def copies(frames, tmp_path_factory):
    """The 3-atom frames, relabelled, rounded and moved, in a file of another format."""
    path = tmp_path_factory.mktemp("copies") / "copies.extxyz"
    small = [f for f in frames if len(f) == 3]
    images = [atoms_from_frame(f) for f in COPIES["rotated"](small)]
    for atoms, frame in zip(images, small, strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=frame.energy, forces=frame.forces)
    ase.io.write(path, images)
    return path


def test_a_test_score_leaves_out_what_was_trained_on_in_any_copy(run, copies, tmp_path):
    """Another seed of the split, in a copy of the data that shares nothing with it but the structures."""
    _, result = run
    done = evaluated(result.model, copies, "--split", "random", "--split-seed", 7, "--json", tmp_path / "a.json")
    assert done.exit_code == 0, done.output
    first = done.output.splitlines()[0]
    scored, total = map(int, re.match(r"(\d+) of (\d+) frames are scored", first).groups())
    left_out = int(re.search(r"the other (\d+)", first)[1])
    (report,) = read_reports(tmp_path / "a.json")
    assert report.metric("frames, all").value == scored == total - left_out
    assert left_out > 0
    assert report.provenance["trained_on"] == {"seen": left_out, "of": total, "left_out": True, "recorded": True}

    kept = evaluated(result.model, copies, "--split", "random", "--split-seed", 7, "--include-trained")
    assert re.match(r".* was trained on \d+ of these \d+ frames: errors on new structures are larger", kept.output)


def test_what_is_scored_without_a_split_is_said_in_the_first_line(run, copies):
    config, result = run
    number = len(prepare_data(config).train)
    done = evaluated(result.model, copies)
    assert done.output.splitlines()[0].endswith(
        f"was trained on {number} of these 41 frames: errors on new structures are larger"
    )


def test_nothing_left_to_test_on_is_an_error(run, copies, frames, tmp_path):
    config, result = run
    trained = tmp_path / "trained.extxyz"
    images = [atoms_from_frame(f) for f in prepare_data(config).train]
    for atoms, frame in zip(images, prepare_data(config).train, strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=frame.energy, forces=frame.forces)
    ase.io.write(trained, images)
    done = evaluated(result.model, trained, "--split", "random")
    assert done.exit_code == 2
    assert "nothing is left to test it on" in done.stderr


def test_a_model_whose_card_does_not_say_is_not_believed(copies, tmp_path):
    file = save_model(tmp_path / "old", PaiNN(PaiNNConfig(species=(1, 6, 7), channels=4, layers=1)), {"x": 1})
    done = evaluated(file, copies)
    assert done.exit_code == 0, done.output
    assert "is not recorded: these may be training errors" in done.output.splitlines()[0]


@pytest.mark.parametrize("command", ["frequencies", "ts", "irc"])
def test_validation_says_first_how_much_was_trained_on(command, frames, tmp_path):
    words = ["--reaction", "hcn_hnc"] + (["--starts", "1", "--no-path"] if command == "ts" else [])
    done = CliRunner().invoke(app, ["validate", command, "default", DATA, *words, "--json", str(tmp_path / "a.json")])
    assert done.exit_code == 0, done.output
    states = [f for f in frames if f.reaction == "hcn_hnc" and f.kind in ("reactant", "product", "ts")]
    if command != "frequencies":
        states = [f for f in states if f.kind == "ts"]
    number = int(trained_on(PHLCalculator("default", device="cpu")).seen(states).sum())
    said = f"default was trained on {number} of these {len(states)} structures: errors on new ones are larger"
    assert done.output.splitlines()[0] == (
        said if number else f"default was trained on none of these {len(states)} structures"
    )
    if command == "frequencies":
        assert sum(r.provenance["trained_on"] for r in read_reports(tmp_path / "a.json")) == number
