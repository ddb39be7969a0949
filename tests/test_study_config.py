"""What a study is asked for: the configuration, the cells it stands for, how long each trains."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from phl_ase.datasets import open_dataset
from phl_ase.errors import PHLError
from phl_ase.objective import SCHEMES
from phl_ase.study.matrix.budget import (
    cell_data,
    cost_key,
    gradient_calls,
    length,
    speed_ratio,
    subset,
    train_config,
)
from phl_ase.study.matrix.cells import Cell, Method, methods, plan
from phl_ase.study.matrix.config import CellSection, MatrixSection, StudyConfig, parse_study, read_study
from phl_ase.study.matrix.template import TEMPLATE, write_template

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"


# ---------------------------------------------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"matrx": []}, "unknown key 'matrx'; valid: .*matrix"),
        ({"matrix": [{"scheme": ["E-F"]}]}, r"unknown key 'matrix.0.scheme'; valid: .*schemes"),
        ({"cell": [{"scheme": "E-F", "k": 2}]}, r"unknown key 'cell.0.k'; valid: .*n_probes"),
        ({"validators": {"ts": {"start": 1}}}, r"unknown key 'validators.ts.start'; valid: .*starts"),
        ({"matrix": [{"schemes": ["E-G"]}]}, "unknown scheme 'E-G'; valid: E-F"),
        ({"matrix": [{"regimes": ["stale"]}]}, r"matrix.0.regimes.0 is 'stale': input should be 'fresh' or 'fixed'"),
        ({"matrix": [{"fractions": [0.0]}]}, "fractions above 0"),
        ({"matrix": [{"n_probes": [0]}]}, "at least 1"),
        ({"matrix": [{"seeds": [-1]}]}, "0 or more"),
        ({"data": {"split": "random"}}, "data.split is set for each cell: say it in matrix.splits"),
        ({"training": {"epochs": 3}}, "training.epochs is set for each cell: say it in budget.epochs"),
        ({"validators": {"run": ["spectra"]}}, "unknown validator 'spectra'; valid: .*frequencies"),
        ({"weights": {"E-F": {"hessian": 1.0}}}, "unknown weight in weights of E-F 'hessian'; valid: curvature"),
        ({"budget": {"step_cap": {"EFH": 3}}}, "unknown scheme 'EFH'"),
        (
            {"tuning": {"settings": {"E-F": [{"energy": 1.0}]}}},
            "equal effort, so equally many settings; got E-F 1, E-F-H 0",
        ),
    ],
)
def test_mistakes_are_one_line(values, message):
    with pytest.raises(PHLError, match=message) as caught:
        parse_study(values, "study.toml")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("study.toml: ")


def test_weights_and_tuning_of_one_scheme():
    one = {"tuning": {"settings": {"E-F": [{"energy": 1.0}]}}, "matrix": [{"schemes": ["E-F"]}]}
    assert parse_study(one).tuning.settings["E-F"] == ({"energy": 1.0},)
    with pytest.raises(PHLError, match="keep one of the two"):
        parse_study({**one, "weights": {"E-F": {"energy": 2.0}}})


def test_files(tmp_path):
    with pytest.raises(PHLError, match="does not exist; 'phl study --init'"):
        read_study(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("[")
    with pytest.raises(PHLError, match="not a readable TOML file"):
        read_study(tmp_path / "broken.toml")
    written = write_template(tmp_path / "study.toml")
    assert read_study(written, ["budget.epochs=7"]).budget.epochs == 7
    with pytest.raises(PHLError, match="exists; name another file"):
        write_template(written)


def test_template_names_every_key_of_a_study():
    values = tomllib.loads(TEMPLATE)
    assert parse_study(values).to_json() == parse_study(parse_study(values).to_json()).to_json()

    def keys(model):
        for name, field in model.model_fields.items():
            yield name
            inner = [kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ())) if kind]
            for kind in inner:
                # those of phl train have a template of their own
                if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__module__ == StudyConfig.__module__:
                    yield from keys(kind)

    missing = [key for key in keys(StudyConfig) if key not in TEMPLATE]
    assert not missing


@pytest.mark.parametrize("name", ["study.toml", "study_variations.toml", "study_small.toml"])
def test_workflows_can_be_read(name):
    config = read_study(WORKFLOWS / name)
    planned = plan(config)
    assert not planned.impossible
    assert {cell.method.scheme for cell in planned.cells} == set(SCHEMES)
    assert len({cell.seed for cell in planned.cells}) >= 3


# ---------------------------------------------------------------------------------------------------------------- cells


def test_the_product_without_what_cannot_be():
    block = MatrixSection(regimes=("fresh", "fixed"), n_probes=(1, 2, 4), probes=("rademacher", "sphere"))
    labels = [method.label for method in methods(block)]
    assert labels.count("E-F") == labels.count("E-F-H") == 1
    assert [label for label in labels if label.startswith("E-F-HVP-onehot")] == [
        "E-F-HVP-onehot",
        *(f"E-F-HVP-onehot, fixed K={k}" for k in (1, 2, 4)),
    ]
    assert len([label for label in labels if "(sphere)" in label]) == 4
    assert len(set(labels)) == len(labels) == 2 + 4 + 8


def test_every_cell_once_and_a_folder_each():
    config = parse_study(
        {
            "matrix": [
                {"splits": ["random", "by-reaction"], "regimes": ["fresh", "fixed"], "fractions": [0.5, 1.0]},
                {"budgets": ["epochs", "time"]},
            ]
        }
    )
    cells = plan(config).cells
    assert len(set(cells)) == len(cells) == len({cell.name for cell in cells}) == 6 * 3 * 4 + 4 * 3
    assert all("/" not in cell.name and " " not in cell.name for cell in cells)
    # seeds outermost: an early stop leaves whole comparisons
    assert [cell.seed for cell in cells[:24]] == [0] * 24


def test_fresh_cells_with_more_products_have_folders_of_their_own():
    asked = [CellSection(scheme="E-F-HVP-random", regime="fresh", n_probes=k) for k in (1, 2, 4)]
    planned = plan(StudyConfig(matrix=(), cell=tuple(asked)))
    assert [cell.method.label for cell in planned.cells] == [
        "E-F-HVP-random",
        "E-F-HVP-random, K=2",
        "E-F-HVP-random, K=4",
    ]
    assert len({cell.name for cell in planned.cells}) == 3


def test_products_by_differences_are_methods_of_their_own():
    """With names, folders, times and training configurations of their own; nothing else has them."""
    config = parse_study({"matrix": [{"products": ["exact", "differences"], "seeds": [0]}]})
    planned = plan(config)
    labels = [cell.method.label for cell in planned.cells]
    assert labels == [
        "E-F",
        "E-F-HVP-onehot",
        "E-F-HVP-onehot, by differences",
        "E-F-HVP-random",
        "E-F-HVP-random, by differences",
        "E-F-H",
    ]
    assert len({cell.name for cell in planned.cells}) == len({cost_key(cell.method) for cell in planned.cells}) == 6
    taken = {cell.method.label: train_config(cell, config).scheme.products for cell in planned.cells}
    assert [label for label, products in taken.items() if products == "differences"] == [labels[2], labels[4]]
    named = {"scheme": "E-F-HVP-random", "products": "differences"}
    assert plan(parse_study({"matrix": [], "cell": [named]})).cells == (planned.cells[4],)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"scheme": "E-F", "products": "exact"}, "E-F learns no curvature: it has no products"),
        ({"scheme": "E-F", "regime": "fixed"}, "E-F learns no curvature: it has no regime"),
        ({"scheme": "E-F-H", "n_probes": 2, "regime": "fresh"}, "E-F-H takes the whole Hessian: it has no regime, n_"),
        ({"scheme": "E-F-HVP-onehot", "probes": "gaussian"}, "no probes 'gaussian'; valid: onehot"),
        ({"scheme": "E-F-HVP-random", "probes": "complete"}, "no probes 'complete'; valid: rademacher, gaussian"),
        ({"scheme": "E-F-HVP-random", "n_probes": 0}, "expected at least 1"),
        ({"scheme": "E-F", "split": "scaffold"}, "unknown split 'scaffold'; valid: by-reaction"),
        ({"scheme": "E-F", "fraction": 1.5}, "expected more than 0, up to 1"),
        ({"scheme": "X"}, "unknown scheme 'X'"),
    ],
)
def test_impossible_cells_are_kept_with_their_reason(asked, reason):
    planned = plan(StudyConfig(matrix=(), cell=(CellSection(**asked),)))
    assert not planned.cells
    assert reason in planned.impossible[0].reason


# --------------------------------------------------------------------------------------------------- how long, how much


def config_of(**budget):
    return parse_study({"budget": {"epochs": 100, "time_epochs": 100, **budget}, "training": {"batch_size": 16}})


@pytest.mark.parametrize(
    ("method", "fraction", "budget", "frames", "epochs", "capped"),
    [
        (Method("E-F"), 1.0, "epochs", 160, 100, 0),
        (Method("E-F"), 0.25, "epochs", 40, 333, 0),  # 1,000 steps of 3 batches
        (Method("E-F"), 1.0, "time", 160, 200, 0),
        (Method("E-F-HVP-random", "fixed", 4, "rademacher"), 1.0, "time", 160, 50, 0),
        (Method("E-F-H", probes="complete"), 1.0, "epochs", 160, 30, 100),
        (Method("E-F-H", probes="complete"), 1.0, "time", 160, 10, 0),
    ],
)
def test_lengths(method, fraction, budget, frames, epochs, capped):
    seconds = {"E-F": 0.01, "E-F-HVP-random K=1": 0.02, "E-F-HVP-random K=4": 0.04, "E-F-H": 0.2}
    cell = Cell(method, "random", fraction, budget, 0)
    found = length(cell, config_of(step_cap={"E-F-H": 300}), frames, 160, seconds)
    assert (found.epochs, found.capped_from) == (epochs, capped)
    assert found.steps == epochs * -(-frames // 16)


def test_cells_differ_from_phl_train_in_what_they_say_alone():
    config = parse_study({"weights": {"E-F-HVP-random": {"curvature": 0.7}}, "loss": {"energy": 3.0}})
    cell = Cell(Method("E-F-HVP-random", "fixed", 2, "sphere"), "stationary", 1.0, "epochs", 5)
    found = train_config(cell, config, epochs=40)
    assert (found.data.split, found.data.split_seed, found.training.seed) == ("stationary", 5, 5)
    assert (found.scheme.regime, found.scheme.n_probes, found.scheme.probes) == ("fixed", 2, "sphere")
    assert (found.loss.energy, found.loss.forces, found.loss.curvature) == (3.0, 1.0, 0.7)
    # as many validations as a run of the study's own length
    assert found.training.validate_every == 1
    assert train_config(cell, config, epochs=200).training.validate_every == 5


def test_smaller_training_sets_are_inside_larger_ones_and_hold_every_kind():
    config = parse_study({"data": {"max_atoms": 4}})
    cells = [Cell(Method("E-F"), "random", fraction, "epochs", 3) for fraction in (0.25, 0.5, 1.0)]
    with open_dataset(config.data.source) as dataset:
        parts = [cell_data(cell, config, dataset=dataset) for cell in cells]
    frames = [{frame.frame_id for frame in part.train} for part in parts]
    assert frames[0] < frames[1] < frames[2]
    assert [len(f) / len(frames[2]) for f in frames] == pytest.approx([0.25, 0.5, 1.0], abs=0.01)
    kinds = [sorted({frame.kind for frame in part.train}) for part in parts]
    assert kinds[0] == kinds[2]
    assert parts[0].provenance["training_frames"] == len(frames[0])
    assert [f.frame_id for f in parts[0].test] == [f.frame_id for f in parts[2].test]
    shares = [np.mean([f.kind == "irc" for f in part.train]) for part in parts]
    assert shares[0] == pytest.approx(shares[2], abs=0.05)
    assert len(subset(parts[2].train, 1e-6, 0)) == 1


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        (Method("E-F"), 2),
        (Method("E-F-HVP-random", "fixed", 1, "rademacher"), 2 * 3),
        (Method("E-F-HVP-onehot", "fixed", 4, "onehot"), 2 * 9),
        (Method("E-F-HVP-random", "fresh", 1, "rademacher"), 2 + 6 * 7),
        (Method("E-F-H", probes="complete"), 2 + 6 * 7),
    ],
)
def test_labels_cost_gradients(method, calls):
    """Two frames, of 3 and of 4 atoms."""
    assert gradient_calls(method, [3, 4]) == calls


def test_speed_ratio_is_that_of_rounds():
    found = speed_ratio([2.0, 2.2, 2.4], [0.2, 0.22, 0.24])
    assert (found.value, found.low, found.high) == pytest.approx((10, 10, 10))
    assert speed_ratio([2.0, 3.0], [0.2, 0.2]).low < 10 < speed_ratio([2.0, 3.0], [0.2, 0.2]).high
