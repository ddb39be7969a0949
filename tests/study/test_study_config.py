"""The configuration of a study, the runs it stands for, how long each trains."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from phl_ase.datasets import open_dataset
from phl_ase.errors import PHLError
from phl_ase.objective import SCHEMES
from phl_ase.study.claims import speed_ratio
from phl_ase.study.config import (
    MatrixSection,
    StudyConfig,
    parse_study,
    read_demo,
    read_study,
)
from phl_ase.study.packaged import TEMPLATE, packaged, write_template
from phl_ase.study.plan import (
    Length,
    PlannedRun,
    Run,
    Series,
    TrainingMethod,
    gradient_calls,
    length,
    methods_of,
    plan_runs,
    run_data,
    subset,
    train_config,
)

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


# ---------------------------------------------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"matrx": []}, "unknown key 'matrx'; valid: .*matrix"),
        ({"matrix": [{"scheme": ["E-F"]}]}, r"unknown key 'matrix.0.scheme'; valid: .*schemes"),
        ({"run": [{"scheme": "E-F", "k": 2}]}, r"unknown key 'run.0.k'; valid: .*n_probes"),
        ({"validators": {"ts": {"start": 1}}}, r"unknown key 'validators.ts.start'; valid: .*starts"),
        ({"matrix": [{"schemes": ["E-G"]}]}, "unknown scheme 'E-G'; valid: E-F"),
        ({"matrix": [{"regimes": ["stale"]}]}, r"matrix.0.regimes.0 is 'stale': input should be 'fresh' or 'fixed'"),
        ({"matrix": [{"fractions": [0.0]}]}, "matrix.0.fractions.0 is 0.0: input should be greater than 0"),
        ({"matrix": [{"n_probes": [0]}]}, "matrix.0.n_probes.0 is 0: input should be greater than or equal to 1"),
        ({"matrix": [{"seeds": [-1]}]}, "matrix.0.seeds.0 is -1: input should be greater than or equal to 0"),
        ({"matrix": [{"splits": ["by-reactions"]}]}, "unknown split 'by-reactions'; valid: by-reaction, random"),
        ({"matrix": [{"probes": ["gausian"]}]}, "unknown probe family 'gausian'; valid: gaussian"),
        ({"matrix": [{"probes": ["onehot"]}]}, "E-F-HVP-random has no probes 'onehot'; valid: rademacher"),
        ({"matrix": [{"budgets": ["steps"]}]}, "matrix.0.budgets.0 is 'steps': input should be 'epochs' or 'time'"),
        ({"matrix": [{"hvps": ["exakt"]}]}, "matrix.0.hvps.0 is 'exakt': input should be 'exact' or 'differences'"),
        ({"matrix": [{"n_probes": [4]}]}, "matrix.0.n_probes counts fixed probes; add 'fixed' to regimes"),
        ({"matrix": [{"schemes": ["E-F"], "regimes": ["fixed"]}]}, "matrix.0.regimes: none of the schemes E-F"),
        ({"matrix": [{"schemes": ["E-F-HVP-onehot"], "probes": ["gaussian"]}]}, "matrix.0.probes: none of the"),
        ({"matrix": []}, "the configuration has no runs"),
        ({"validators": {"ts": {"strategy": "hesian"}}}, "unknown Sella strategy 'hesian'; valid: gradients"),
        ({"validators": {"irc": {"method": "euler"}}}, "unknown integrator of reaction paths 'euler'; valid: quad"),
        ({"validators": {"frequencies": {"kinds": ["saddle"]}}}, "frequencies.kinds.0 is 'saddle': input should be"),
        ({"validators": {"run": ["phonons"]}}, "validators.phonons.crystal is ''; expected a file"),
        ({"budget": {"epochs_of": {"rnadom": 3}}}, "unknown split 'rnadom'"),
        (
            {"budget": {"rounds": 0}, "matrix": [{"budgets": ["time"]}]},
            "equal time and claims of speed need steps timed",
        ),
        ({"tuning": {"split": "rnadom"}}, "unknown split 'rnadom'"),
        ({"report": {"baseline": "E-G"}}, "unknown scheme 'E-G'"),
        (
            {
                "claim": [
                    {"text": "", "expect": "match", "of": {"scheme": "E-F", "n_probes": 1}, "to": {"scheme": "E-F"}}
                ]
            },
            "claim.0: E-F learns no curvature: it has no n_probes",
        ),
        ({"data": {"split": "random"}}, "data.split is set for each run: say it in matrix.splits"),
        ({"training": {"epochs": 3}}, "training.epochs is set for each run: say it in budget.epochs"),
        ({"validators": {"run": ["spectra"]}}, "unknown validator 'spectra'; valid: .*frequencies"),
        ({"weights": {"E-F": {"hessian": 1.0}}}, "unknown loss weight 'hessian'; valid: curvature"),
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
    values = tomllib.loads(packaged(TEMPLATE))
    assert parse_study(values).to_json() == parse_study(parse_study(values).to_json()).to_json()

    def keys(model):
        for name, field in model.model_fields.items():
            yield name
            inner = [kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ())) if kind]
            for kind in inner:
                # those of phl train have a template of their own
                if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__module__ == StudyConfig.__module__:
                    yield from keys(kind)

    missing = [key for key in keys(StudyConfig) if key not in packaged(TEMPLATE)]
    assert not missing


@pytest.mark.parametrize("name", ["study.toml", "study_variations.toml", "study_small.toml", "study_organic.toml"])
def test_workflows_can_be_read(name):
    config = read_study(WORKFLOWS / name)
    runs = plan_runs(config)
    assert {run.method.scheme for run in runs} == set(SCHEMES)
    assert len({run.seed for run in runs}) >= 3
    assert {claim.expect for claim in config.claim} == {"match", "smaller", "faster"}


# ----------------------------------------------------------------------------------------------------------------- runs


def test_the_product_without_what_cannot_be():
    block = MatrixSection(regimes=("fresh", "fixed"), n_probes=(1, 2, 4), probes=("rademacher", "sphere"))
    labels = [method.label for method in methods_of(block)]
    assert labels.count("E-F") == labels.count("E-F-H") == 1
    assert [label for label in labels if label.startswith("E-F-HVP-onehot")] == [
        "E-F-HVP-onehot",
        *(f"E-F-HVP-onehot, fixed K={k}" for k in (1, 2, 4)),
    ]
    assert len([label for label in labels if "(sphere)" in label]) == 4
    assert len(set(labels)) == len(labels) == 2 + 4 + 8


def test_every_run_once_and_a_folder_each():
    config = parse_study(
        {
            "matrix": [
                {"splits": ["random", "by-reaction"], "regimes": ["fresh", "fixed"], "fractions": [0.5, 1.0]},
                {"budgets": ["epochs", "time"]},
            ]
        }
    )
    runs = plan_runs(config)
    assert len(set(runs)) == len(runs) == len({run.name for run in runs}) == 6 * 3 * 4 + 4 * 3
    assert all("/" not in run.name and " " not in run.name for run in runs)
    # seeds outermost: an early stop leaves whole comparisons
    assert [run.seed for run in runs[:24]] == [0] * 24


def test_fresh_runs_with_more_hvps_have_folders_of_their_own():
    named = [{"scheme": "E-F-HVP-random", "regime": "fresh", "n_probes": k} for k in (1, 2, 4)]
    runs = plan_runs(parse_study({"matrix": [], "run": named}))
    assert [run.method.label for run in runs] == ["E-F-HVP-random", "E-F-HVP-random, K=2", "E-F-HVP-random, K=4"]
    assert len({run.name for run in runs}) == 3


def test_hvps_by_differences_are_methods_of_their_own():
    """With names, folders, times and training configurations of their own; nothing else has them."""
    config = parse_study({"matrix": [{"hvps": ["exact", "differences"], "seeds": [0]}]})
    runs = plan_runs(config)
    labels = [run.method.label for run in runs]
    assert labels == [
        "E-F",
        "E-F-HVP-onehot",
        "E-F-HVP-onehot, by differences",
        "E-F-HVP-random",
        "E-F-HVP-random, by differences",
        "E-F-H",
    ]
    assert len({run.name for run in runs}) == len({run.method.cost_key for run in runs}) == 6
    taken = {run.method.label: train_config(run, config).scheme.hvp for run in runs}
    assert [label for label, hvps in taken.items() if hvps == "differences"] == [labels[2], labels[4]]
    named = {"scheme": "E-F-HVP-random", "hvps": "differences"}
    assert plan_runs(parse_study({"matrix": [], "run": [named]})) == (runs[4],)


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ({"scheme": "E-F", "hvps": "exact"}, "E-F learns no curvature: it has no hvps"),
        ({"scheme": "E-F", "regime": "fixed"}, "E-F learns no curvature: it has no regime"),
        ({"scheme": "E-F-H", "n_probes": 2, "regime": "fresh"}, "E-F-H takes the whole Hessian: it has no regime, n_"),
        ({"scheme": "E-F-HVP-onehot", "probes": "gaussian"}, "no probes 'gaussian'; valid: onehot"),
        (
            {"scheme": "E-F-HVP-random", "probes": "complete"},
            "unknown probe family 'complete'; valid: gaussian, onehot",
        ),
        ({"scheme": "E-F-HVP-random", "n_probes": 0}, "run.0.n_probes is 0"),
        ({"scheme": "E-F", "split": "scaffold"}, "unknown split 'scaffold'; valid: by-reaction"),
        ({"scheme": "E-F", "fraction": 1.5}, "run.0.fraction is 1.5: input should be less than or equal to 1"),
        ({"scheme": "X"}, "unknown scheme 'X'"),
    ],
)
def test_runs_that_cannot_be_are_refused_with_their_reason(named, reason):
    with pytest.raises(PHLError, match=reason) as caught:
        parse_study({"matrix": [], "run": [named]})
    assert "run.0" in str(caught.value)


def test_the_demo_is_a_study_of_all_schemes_alike():
    config = read_demo(epochs=3, quick=True)
    runs = plan_runs(config)
    assert [run.method.scheme for run in runs] == list(SCHEMES)
    settings = [train_config(run, config, epochs=3).to_json() for run in runs]
    assert {one["potential"]["channels"] for one in settings} == {16}
    assert len({str({**one, "scheme": None}) for one in settings}) == 1
    assert (settings[0]["data"]["split_seed"], settings[0]["training"]["seed"]) == (1, 0)
    data = run_data(runs[0], config)
    states = {frame.reaction for frame in data.test if frame.kind == "ts"}
    assert config.report.search.reaction in states
    assert len(states) >= 3
    assert max(map(len, data.train)) == 4


def test_results_depend_on_their_own_inputs_alone():
    """A validator's option changes that validator's digest and no training; a new option leaves old results alone."""
    run = Run(Series(TrainingMethod("E-F")))

    def task(**changes):
        return PlannedRun.of(run, Path(), parse_study(changes), "hash", Length(1, 1))

    plain = task()
    other = task(validators={"ts": {"starts": 7}})
    assert other.key == plain.key != task(loss={"energy": 2.0}).key
    assert other.validator_key("ts") != plain.validator_key("ts")
    assert other.validator_key("irc") == plain.validator_key("irc")
    assert task(training={"device": "cpu"}).key == plain.key
    chosen = task(validators={"reactions": ["hcn_hnc"]})
    assert chosen.validator_key("accuracy") == plain.validator_key("accuracy")
    assert chosen.validator_key("ts") != plain.validator_key("ts")
    explicit = task(validators={"ts": {"starts": 2}})
    assert explicit.validator_key("ts") == plain.validator_key("ts")


# --------------------------------------------------------------------------------------------------- how long, how much


def config_of(**budget):
    return parse_study({"budget": {"epochs": 100, "time_epochs": 100, **budget}, "training": {"batch_size": 16}})


@pytest.mark.parametrize(
    ("method", "fraction", "budget", "frames", "epochs", "capped"),
    [
        (TrainingMethod("E-F"), 1.0, "epochs", 160, 100, 0),
        (TrainingMethod("E-F"), 0.25, "epochs", 40, 333, 0),  # 1,000 steps of 3 batches
        (TrainingMethod("E-F"), 1.0, "time", 160, 200, 0),
        (TrainingMethod("E-F-HVP-random", "fixed", 4, "rademacher"), 1.0, "time", 160, 50, 0),
        (TrainingMethod("E-F-H", probes="complete"), 1.0, "epochs", 160, 30, 100),
        (TrainingMethod("E-F-H", probes="complete"), 1.0, "time", 160, 10, 0),
    ],
)
def test_lengths(method, fraction, budget, frames, epochs, capped):
    seconds = {"E-F": 0.01, "E-F-HVP-random K=1": 0.02, "E-F-HVP-random K=4": 0.04, "E-F-H": 0.2}
    run = Run(Series(method, "random", fraction, budget))
    found = length(run, config_of(step_cap={"E-F-H": 300}), frames, 160, seconds)
    assert (found.epochs, found.capped_from) == (epochs, capped)
    assert found.steps == epochs * -(-frames // 16)


def test_runs_differ_from_phl_train_in_what_they_say_alone():
    config = parse_study({"weights": {"E-F-HVP-random": {"curvature": 0.7}}, "loss": {"energy": 3.0}})
    run = Run(Series(TrainingMethod("E-F-HVP-random", "fixed", 2, "sphere"), "stationary"), 5)
    found = train_config(run, config, epochs=40)
    assert (found.data.split, found.data.split_seed, found.training.seed) == ("stationary", 5, 5)
    assert (found.scheme.regime, found.scheme.n_probes, found.scheme.probes) == ("fixed", 2, "sphere")
    assert (found.loss.energy, found.loss.forces, found.loss.curvature) == (3.0, 1.0, 0.7)
    # as many validations as a run of the study's own length
    assert found.training.validate_every == 1
    assert train_config(run, config, epochs=200).training.validate_every == 5


def test_smaller_training_sets_are_inside_larger_ones_and_hold_every_kind():
    config = parse_study({"data": {"max_atoms": 4}})
    runs = [Run(Series(TrainingMethod("E-F"), "random", fraction), 3) for fraction in (0.25, 0.5, 1.0)]
    with open_dataset(config.data.source) as dataset:
        parts = [run_data(run, config, dataset=dataset) for run in runs]
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
        (TrainingMethod("E-F"), 2),
        (TrainingMethod("E-F-HVP-random", "fixed", 1, "rademacher"), 2 * 3),
        (TrainingMethod("E-F-HVP-onehot", "fixed", 4, "onehot"), 2 * 9),
        (TrainingMethod("E-F-HVP-random", "fresh", 1, "rademacher"), 2 + 6 * 7),
        (TrainingMethod("E-F-H", probes="complete"), 2 + 6 * 7),
    ],
)
def test_labels_cost_gradients(method, calls):
    """Two frames, of 3 and of 4 atoms."""
    assert gradient_calls(method, [3, 4]) == calls


def test_speed_ratio_is_that_of_rounds():
    found = speed_ratio([2.0, 2.2, 2.4], [0.2, 0.22, 0.24])
    assert (found.value, found.low, found.high) == pytest.approx((10, 10, 10))
    assert speed_ratio([2.0, 3.0], [0.2, 0.2]).low < 10 < speed_ratio([2.0, 3.0], [0.2, 0.2]).high
