"""A study from its configuration to its report: small models on triatomic molecules, and claims of known truth."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from phl_ase.errors import PHLError
from phl_ase.jobs import Store, digest, open_store
from phl_ase.results import Metric, Report, read_reports
from phl_ase.scoring import ERRORS
from phl_ase.study import worker
from phl_ase.study.claims import NOT_ASKED, NOT_SEEN, SEEN, UNDECIDED, judge
from phl_ase.study.config import parse_study
from phl_ase.study.figures import learning_curves, pooled_accuracy, styles
from phl_ase.study.outcomes import RunResult, by_series, observations
from phl_ase.study.packaged import TEMPLATE, packaged
from phl_ase.study.plan import Length, PlannedRun, Run, Series, TrainingMethod
from phl_ase.study.quantities import QUANTITIES
from phl_ase.study.report import (
    REPORT,
    RESULTS,
    SCOREBOARD,
    as_csv,
    as_json,
    as_text,
    number,
    render_study,
    wavenumber,
    write_report,
)
from phl_ase.study.results import Results, make_rows
from phl_ase.study.run import JOBS, MARKER, TUNING, Study, run_study
from phl_ase.training.checkpoint import last_epoch

RANDOM = TrainingMethod("E-F-HVP-random", "fresh", 1, "rademacher")
FIXED = TrainingMethod("E-F-HVP-random", "fixed", 1, "rademacher")
COLUMN = TrainingMethod("E-F-HVP-onehot", "fixed", 1, "onehot")
FULL, PLAIN = TrainingMethod("E-F-H", probes="complete"), TrainingMethod("E-F")

TINY = {
    "title": "a <b>tiny</b> study",
    "data": {"max_atoms": 3, "fractions": [0.6, 0.15, 0.25]},
    "potential": {"channels": 8, "layers": 1, "n_basis": 4},
    "training": {"batch_size": 16, "device": "cpu"},
    "budget": {"epochs": 1, "rounds": 2},
    "validators": {"run": ["accuracy", "frequencies"]},
    "matrix": [{"schemes": ["E-F", "E-F-H"], "seeds": [0]}],
    # more orthogonal probes than a triatomic molecule has directions
    "run": [{"scheme": "E-F-HVP-random", "regime": "fixed", "n_probes": 99, "probes": "orthogonal"}],
    "claim": tomllib.loads(packaged(TEMPLATE))["claim"],
}

CLAIMS = parse_study({"claim": TINY["claim"]}).claim


# ------------------------------------------------------------------------------------ what a study says, of known truth


def seeded(name):
    """A generator of its own for each name, the same in every process (``hash`` of a string is not)."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def accuracy(seed, factor, *, far=1.0, error=None, frames=39):
    """A report as the accuracy validator writes it: errors of the same frames, those far off times another factor."""
    random = np.random.default_rng(seed)
    is_far = np.arange(frames) % 3 == 0
    base = np.exp(random.normal(0, 0.5, frames)) * factor * np.where(is_far, far, 1.0)
    arrays = {
        **{f"{name}_error": base * np.exp(seeded(name).normal(0, 0.01)) for name in ERRORS},
        "frame_id": np.arange(frames),
        "reaction": np.array([f"r{index % 13}" for index in range(frames)]),
        "is_near": (~is_far).astype(int),
        "is_far": is_far.astype(int),
        "displacement": np.linspace(0, 0.9, frames),
    }
    metrics = tuple(Metric(f"{name}, all", float(arrays[f"{name}_error"].mean())) for name in ERRORS)
    return Report("test frames", "m", "scored", metrics=metrics, arrays=arrays, validator="accuracy")


def results_of(method, factor, *, far=1.0, seeds=(0, 1, 2), noise=0.02, **facts):
    """Runs of one method; each seed's errors are a little off by themselves."""
    random = seeded(method.label)
    found = []
    for seed in seeds:
        report = accuracy(seed, factor * np.exp(random.normal(0, noise)), far=far)
        facts = {"epochs": 10, "capped_from": 0} | facts
        found.append(RunResult(Run(Series(method), seed), "done", facts=facts, reports={"accuracy": (report,)}))
    return found


def claimed(*groups, seconds=None):
    """The claims about some runs, by their first word."""
    series = by_series(run for group in groups for run in group)
    return {claim.text.split()[0]: claim for claim in judge(CLAIMS, series, seconds or {})}


@pytest.mark.parametrize(
    ("factor", "noise", "verdict"),
    [(1.05, 0.02, SEEN), (0.5, 0.02, SEEN), (1.6, 0.02, NOT_SEEN), (1.25, 0.1, UNDECIDED)],
)
def test_matching_full_hessians(factor, noise, verdict):
    found = claimed(results_of(RANDOM, factor, noise=noise), results_of(FULL, 1.0), results_of(PLAIN, 5.0))["Fresh"]
    assert found.verdict == verdict
    assert len(found.evidence) == 3
    for one in found.evidence:
        assert one.estimate.low < factor * np.exp(2 * noise)
        assert (one.estimate.seeds, one.estimate.units, one.estimate.unit) == (3, 13, "reactions")


def test_models_that_learnt_nothing_match_nothing():
    found = claimed(results_of(RANDOM, 1.0), results_of(FULL, 1.0), results_of(PLAIN, 1.02))["Fresh"]
    assert found.verdict == UNDECIDED
    assert "cannot tell schemes apart" in found.note


def test_a_cap_on_steps_is_said():
    found = claimed(results_of(RANDOM, 1.0), results_of(FULL, 1.0, capped_from=40))["Fresh"]
    assert found.note == "E-F-H was stopped by the cap on steps after 10 of 40 epochs"


@pytest.mark.parametrize(("near", "far", "verdict"), [(0.8, 0.6, SEEN), (0.8, 1.0, NOT_SEEN), (1.0, 1.0, NOT_SEEN)])
def test_one_random_hvp_against_one_column(near, far, verdict):
    found = claimed(results_of(FIXED, near, far=far), results_of(COLUMN, 1.0), results_of(PLAIN, 5.0))["One"]
    assert found.verdict == verdict
    change = next(one for one in found.evidence if one.what == "Hessian error, far : near")
    nobody = Study(parse_study({}), Path(), (), {}, {}, {}, {}, {}, Store(Path()))
    text = as_csv(Results(nobody, (), {}, (), [found]))
    assert sum(line["table"] == "evidence" for line in csv.DictReader(io.StringIO(text))) == len(found.evidence) == 12
    assert change.estimate.low < far < change.estimate.high or change.estimate.value == pytest.approx(far)


@pytest.mark.parametrize(("times", "verdict"), [(40.0, SEEN), (6.0, NOT_SEEN)])
def test_speed(times, verdict):
    seconds = {"E-F-HVP-random K=1": [0.02, 0.021, 0.02], "E-F-H": [0.02 * times, 0.021 * times, 0.02 * times]}
    assert claimed(seconds=seconds)["Steps"].verdict == verdict


def test_what_was_not_trained_is_not_asked():
    assert {claim.verdict for claim in claimed(results_of(PLAIN, 1.0)).values()} == {NOT_ASKED}


def test_rows_compare_with_full_hessians_of_the_same_setting():
    series = by_series([*results_of(RANDOM, 1.1), *results_of(FULL, 1.0)])
    found = {(row.series.method, row.quantity, row.group): row for row in make_rows(series, "E-F-H")}
    row = found[RANDOM, "hessian", "far"]
    assert row.ratio is not None
    assert 1.0 < row.ratio.value < 1.2
    assert found[FULL, "hessian", "far"].ratio is None
    assert (RANDOM, "funnel", "reactions") not in found


def test_an_exploded_model_is_counted_and_an_absent_label_is_not():
    report = accuracy(0, 1.0)
    report.arrays["hessian_error"][3] = np.nan
    run = RunResult(Run(Series(PLAIN)), "done", reports={"accuracy": (report,)})
    assert len(observations(QUANTITIES["hessian"], "all", [run])) == 38
    exploded = dataclasses.replace(run, reports={"accuracy": (dataclasses.replace(report, outcome="exploded"),)})
    assert np.isnan(observations(QUANTITIES["hessian"], "all", [exploded]).values).sum() == 1


def test_searches_and_frequencies_are_read_of_reports():
    facts = {"reaction": "a", "part": "test", "start": "seed 0"}
    search = Report(
        "a",
        "m",
        "found",
        metrics=(
            *(Metric(stage, 1) for stage in ("converged", "first order", "connected", "same TS")),
            Metric("barrier error from reactant", -2.0),
            Metric("barrier error from product", 1.0),
        ),
    )
    stopped = (Metric("converged", 1), Metric("first order", 0), Metric("connected", 1), Metric("same TS", 1))
    lost = Report(
        "b", "m", "exploded", metrics=stopped, provenance={"reaction": "b", "part": "train", "start": "seed 0"}
    )
    state = Report("a ts", "m", "agrees", metrics=(Metric("imaginary wavenumber", -900.0, "", -1000.0),))
    reports = {
        "ts": (dataclasses.replace(search, provenance=facts), lost),
        "frequencies": (dataclasses.replace(state, provenance={**facts, "kind": "ts"}),),
    }
    run = RunResult(Run(Series(PLAIN)), "done", reports=reports)
    assert observations(QUANTITIES["converged"], "reactions", [run]).values.tolist() == [100.0, 100.0]
    assert observations(QUANTITIES["connected"], "reactions", [run]).values.tolist() == [100.0, 0.0]
    assert observations(QUANTITIES["funnel"], "reactions", [run]).values.tolist() == [100.0, 0.0]
    assert observations(QUANTITIES["funnel"], "reactions, not trained on", [run]).values.tolist() == [100.0]
    assert observations(QUANTITIES["barrier"], "reactions", [run]).values.tolist() == [1.5]
    assert observations(QUANTITIES["imaginary"], "TSs", [run]).values.tolist() == [100.0]


def test_curves_of_several_seeds_are_of_all_their_frames():
    found = pooled_accuracy(results_of(RANDOM, 1.0))
    assert found is not None
    assert len(found.arrays["displacement"]) == 3 * 39
    assert np.nansum(found.arrays["displacement_frames"]) == 3 * 39
    inside = found.arrays["displacement"] >= 0.5
    expected = found.arrays["hessian_error"][inside].mean()
    assert found.arrays["hessian_by_displacement"][-1] == pytest.approx(expected)
    assert pooled_accuracy([]) is None


def test_no_two_methods_look_alike_and_the_colour_is_that_of_the_scheme(finished):
    probes = ("rademacher", "gaussian", "sphere", "orthogonal")
    fixed = [TrainingMethod("E-F-HVP-random", "fixed", k, "rademacher") for k in (1, 2, 3, 4)]
    methods = [PLAIN, *(TrainingMethod("E-F-HVP-random", "fresh", 1, name) for name in probes), *fixed, FULL]
    series = by_series(run for method in methods for run in results_of(method, 1.0))
    found = styles(dataclasses.replace(finished[1], series=series))
    assert set(found) == set(methods)
    assert len({(colour, marker) for colour, marker, _ in found.values()}) == len(methods)
    assert len({colour for colour, _, _ in found.values()}) == 3
    assert len({found[method][0] for method in methods if method.scheme == "E-F-HVP-random"}) == 1


def test_learning_curves_leave_out_the_seeds_that_wait(finished):
    runs = []
    for method, factor in ((RANDOM, 1.0), (PLAIN, 2.0)):
        for fraction, frames in ((0.25, 200), (0.5, 400)):
            done = results_of(method, factor, training_frames=frames, gradient_calls=3 * frames)
            moved = [dataclasses.replace(r, run=Run(Series(method, fraction=fraction), r.run.seed)) for r in done]
            # the last seed waits: neither facts of its training nor reports
            runs += [*moved[:2], RunResult(moved[2].run, "not run", "waits", {"epochs": 10, "capped_from": 0})]
    series = by_series(runs)
    (drawn,) = learning_curves(Results(finished[1].study, runs, series, make_rows(series, "E-F-H"), []))
    assert drawn.png().startswith(b"\x89PNG")
    upper, lower = drawn.draw().axes[2], drawn.draw().axes[5]
    assert [line.get_xdata().tolist() for line in upper.lines] == [[200, 400]] * 2
    assert [line.get_xdata().tolist() for line in lower.lines] == [[600, 1200]] * 2


# ------------------------------------------------------------------------------------------------ a study in its folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of two runs that work and one that fails."""
    folder = tmp_path_factory.mktemp("study") / "out"
    study = run_study(parse_study(TINY), folder, workers=1)
    results = Results.of(study)
    write_report(results)
    return folder, results


def test_a_run_that_fails_stops_no_other(finished):
    _, results = finished
    outcomes = {one.run.method.label: one.outcome for one in results.runs}
    assert outcomes == {"E-F": "done", "E-F-H": "done", "E-F-HVP-random (orthogonal), fixed K=99": "failed"}
    (failed,) = [one.reason for one in results.runs if one.outcome != "done"]
    assert "at most 9 orthogonal directions" in failed
    assert "\n" not in failed


def test_every_number_is_in_json_and_csv(finished):
    folder, results = finished
    stored = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(as_json(results) | {"provenance": stored["provenance"]}))
    lines = list(csv.DictReader(io.StringIO((folder / SCOREBOARD).read_text(encoding="utf-8"))))
    assert {line["table"] for line in lines} == {"claim", "error", "run", "cost"}
    errors = [line for line in lines if line["table"] == "error"]
    assert len(errors) == len(stored["rows"]) == len(results.rows)
    full = next(r for r in stored["rows"] if (r["method"], r["quantity"], r["group"]) == ("E-F", "hessian", "all"))
    assert full["ratio"]["pairs"] == full["mean"]["pairs"] > 0
    (report,) = read_reports(folder_of(results, "E-F") / "accuracy.json")
    assert full["mean"]["value"] == pytest.approx(report.metric("hessian, all").value)
    assert any(line["verdict"] == "failed" for line in lines)
    assert {"E-F", "E-F-H"} <= set(stored["step_seconds"])
    assert str(folder) not in json.dumps(stored)


class Elements(html.parser.HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_report_holds_everything_loads_nothing_and_escapes(finished):
    folder, results = finished
    text = (folder / REPORT).read_text(encoding="utf-8")
    assert "<b>tiny</b>" not in text
    assert "a &lt;b&gt;tiny&lt;/b&gt; study" in text
    found = Elements(text).found
    images = [attributes["src"] for tag, attributes in found if tag == "img"]
    assert len(images) == len(list((folder / "figures").iterdir())) >= 6
    assert all(source.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,")) for source in images)
    assert not {tag for tag, _ in found} & {"script", "link", "iframe", "object"}
    assert text.index("Claims") < text.index("Scoreboard") < text.index("<figure>")
    assert "at most 9 orthogonal directions" in text
    assert "at most 9 orthogonal directions" in as_text(results)


def folder_of(results, method):
    """Folder of the run of a method."""
    return next(one.folder for run, one in results.study.planned.items() if run.method.label == method)


ONE = {**TINY, "run": [], "matrix": [{"schemes": ["E-F"], "seeds": [0]}]}


def test_finished_parts_are_not_repeated_and_what_is_new_is_added(finished, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(finished[0], folder)
    planned = next(one for run, one in finished[1].study.planned.items() if run.method.label == "E-F")
    one = folder / "runs" / planned.folder.name
    before = {path: path.stat().st_mtime_ns for path in (one / "best.safetensors", one / "accuracy.json")}
    Store(folder / JOBS).forget([planned.validator_key("frequencies")])
    (one / "frequencies.json").unlink()
    study = run_study(parse_study(ONE), folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (one / "frequencies.json").exists()
    assert [one.outcome for one in Results.of(study).runs] == ["done"]


def test_a_changed_validator_option_validates_again_and_trains_nothing(finished, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(finished[0], folder)
    one = folder / "runs" / folder_of(finished[1], "E-F").name
    before = {name: (one / name).stat().st_mtime_ns for name in ("best.safetensors", "accuracy.json")}
    changed = parse_study({**ONE, "validators": {**TINY["validators"], "frequencies": {"kinds": ["ts"]}}})
    waiting = Results.of(run_study(changed, folder, train=False)).runs[0]
    assert (waiting.outcome, waiting.reason) == ("trained", "frequencies: not done yet")
    done = Results.of(run_study(changed, folder)).runs[0]
    assert done.outcome == "done"
    assert {report.provenance["kind"] for report in done.reports["frequencies"]} == {"ts"}
    assert {report.provenance["kind"] for report in read_reports(one / "frequencies.json")} == {"ts"}
    assert {name: (one / name).stat().st_mtime_ns for name in before} == before
    # with the options of before, what was found then is there still
    again = Results.of(run_study(parse_study(ONE), folder)).runs[0]
    assert len({report.provenance["kind"] for report in again.reports["frequencies"]}) > 1
    assert len({report.provenance["kind"] for report in read_reports(one / "frequencies.json")}) > 1


@pytest.mark.parametrize(("schema", "parent"), [(1, "cells"), (2, "runs")])
def test_a_study_of_an_older_schema_is_read_and_gone_on_with(finished, tmp_path, schema, parent):
    """Folder, marker with the version of the package, and digests of validators as that schema wrote them."""
    folder, results = tmp_path / "out", finished[1]
    for run, planned in results.study.planned.items():
        shutil.copytree(planned.folder, folder / parent / run.name)
        record = results.study.store.get(planned.key)
        marker = {"outcome": "failed", "fingerprint": planned.key}
        if record.failure is None:
            options = {"relaxed": False, "kinds": ["reactant", "product", "ts"]}
            digests = {name: planned.validator_key(name) for name in planned.validators}
            if schema == 1:
                digests["frequencies"] = digest(planned.key, "frequencies", options, [])
                digests["accuracy"] = digest(planned.key, "accuracy", {}, [])
            states = {name: {"outcome": "done", "digest": d, "seconds": 1.0} for name, d in digests.items()}
            marker = {**record.value, **marker, "outcome": "trained", "validators": states}
        (folder / parent / run.name / "run.json").write_text(json.dumps(marker))
    (folder / MARKER).write_text(json.dumps({"format": "phl study", "schema": schema, "phl_ase": "0.0.1"}))
    timing = {"clock": "processor", "seconds": results.study.step_seconds}
    (folder / "timing.json").write_text(json.dumps(timing))
    found = Results.of(run_study(parse_study(TINY), folder, train=False))
    assert [one.outcome for one in found.runs] == ["done", "done", "not run"]
    assert str(found.rows) == str(results.rows)
    assert found.study.step_seconds == results.study.step_seconds
    best = [(folder / parent / run.name / "best.safetensors").stat().st_mtime_ns for run in list(found.study.runs)[:2]]
    again = Results.of(run_study(parse_study(TINY), folder))
    assert [one.outcome for one in again.runs] == ["done", "done", "failed"]
    assert best == [
        (folder / parent / run.name / "best.safetensors").stat().st_mtime_ns for run in list(again.study.runs)[:2]
    ]


def test_keys_are_those_that_schema_2_wrote():
    """Of results that lie on the disks of users: a renamed key of the configuration must not orphan them."""
    run = Run(Series(RANDOM), 3)
    planned = PlannedRun.of(run, Path(), parse_study({}), "hash", Length(7, 70))
    assert planned.key == "e7888b7699bfa594942dc8a730097fed112cedbf0e48ec61a0f4d713107ac34a"
    assert planned.validator_key("ts") == "996b12716e26a6ab2bf1f9d9d5862c61513c3bb709d5f5fd96f19386348ca8e4"


EVIL = '<script>alert("1")</script>'


def test_the_report_escapes_whatever_comes_from_outside(finished):
    results = finished[1]
    failed = dataclasses.replace(results.runs[0], outcome="failed", reason=EVIL)
    changed = dataclasses.replace(results, runs=[failed, *results.runs[1:]])
    text = render_study(changed, [])
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_folder_serves_several_settings(finished, tmp_path):
    """Another loss weight trains another model beside; the first stays what it is."""
    folder = tmp_path / "out"
    shutil.copytree(finished[0], folder)
    one = folder / "runs" / folder_of(finished[1], "E-F").name / "best.safetensors"
    before = one.stat().st_mtime_ns
    changed = parse_study({**ONE, "loss": {"energy": 2.0}})
    assert Results.of(run_study(changed, folder, train=False)).runs[0].reason == "waits"
    other = run_study(changed, folder, workers=1)
    assert Results.of(other).runs[0].outcome == "done"
    assert one.stat().st_mtime_ns == before
    assert folder_of(Results.of(other), "E-F") != one.parent
    assert Results.of(run_study(parse_study(ONE), folder, train=False)).runs[0].outcome == "done"


@pytest.mark.parametrize("content", ['{"format": "phl study", "schema": 99, "phl_ase": "9.0"}', "[]", "no json"])
def test_a_folder_of_an_unknown_schema_is_refused(tmp_path, content):
    (tmp_path / MARKER).write_text(content)
    with pytest.raises(PHLError, match=r"holds a study of schema .*choose another folder"):
        run_study(parse_study(TINY), tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(PHLError, match="holds other files and no study"):
        run_study(parse_study(TINY), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"matrix": [], "run": [{"scheme": "E-F", "n_probes": 1}]},
            "run.0: E-F learns no curvature",
        ),
        ({"validators": {"run": ["accuracy"], "reactions": ["hcn_hcn"]}}, "has no reaction hcn_hcn; it has"),
        ({"data": {"source": "none.h5"}}, "none.h5"),
        ({"potential": {"architecture": "pain"}}, "unknown architecture 'pain'; valid: painn"),
        ({"potential": {"chanels": 8}}, "unknown setting of painn 'chanels'; valid: .*channels"),
        ({"training": {"device": "gpu"}}, "gpu"),
    ],
)
def test_nothing_to_do_is_said_before_the_work(tmp_path, change, message):
    with pytest.raises(PHLError, match=message):
        run_study(parse_study({**TINY, **change}), tmp_path / "out")


def test_weights_are_chosen_by_validation(tmp_path):
    settings = [{"energy": 10.0}, {"energy": 1.0, "forces": 0.1}]
    config = {
        **TINY,
        "run": [],
        "matrix": [{"schemes": ["E-F"], "seeds": [1]}],
        "validators": {"run": ["accuracy"]},
        "tuning": {"epochs": 2, "settings": {"E-F": settings}},
    }
    study = run_study(parse_study(config), tmp_path / "out")
    stored = json.loads((tmp_path / "out" / TUNING).read_text(encoding="utf-8"))
    scores = study.trials["E-F"]
    for place, score in enumerate(scores):
        weights = settings[place]
        (report,) = next(
            read_reports(path.with_name("validation.json"))
            for path in (tmp_path / "out" / "tuning").glob("*/config.json")
            if json.loads(path.read_text())["loss"]["energy"] == weights["energy"]
        )
        errors = [report.metric(f"{name}, all").value for name in ("energy", "forces", "hessian")]
        assert score == pytest.approx(np.log(errors).sum())
    assert stored["chosen"] == {"E-F": settings[int(np.argmin(scores))]} == dict(study.weights)
    (planned,) = study.planned.values()
    assert planned.config.loss.energy == study.weights["E-F"]["energy"]
    assert Results.of(study).runs[0].outcome == "done"


def test_a_report_needs_a_study_and_no_lock(finished, tmp_path):
    folder, results = finished
    with pytest.raises(PHLError, match="no study to report on"):
        run_study(parse_study(TINY), tmp_path, train=False)
    with open_store(folder / JOBS):
        study = run_study(parse_study(TINY), folder, train=False)
        with pytest.raises(PHLError, match="in use by another run"):
            run_study(parse_study(TINY), folder)
    assert [one.outcome for one in Results.of(study).runs] == [one.outcome for one in results.runs]


def test_a_missing_package_is_said_before_the_work(tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = parse_study({**TINY, "validators": {"run": ["accuracy", "ts"]}})
    with pytest.raises(PHLError, match=r"the validator 'ts' of validators\.run needs the package 'sella'"):
        run_study(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_steps_are_timed_on_one_thread(monkeypatch):
    """The processor's clock counts threads that wait for each other: a step took ten times as long."""
    used = []

    def seconds(run, config, data, epochs):
        used.append(torch.get_num_threads())
        return float(epochs)

    monkeypatch.setattr(worker, "training_seconds", seconds)
    config, threads = parse_study(TINY), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = worker.step_seconds({"E-F": Run(Series(PLAIN))}, config)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert used == [1] * 4
    assert len(found["E-F"]) == 2


def test_the_last_epoch_is_read_of_a_log_that_is_being_written(tmp_path):
    assert last_epoch(tmp_path) == 0
    (tmp_path / "log.jsonl").write_text('{"epoch": 1, "seconds": 2}\n{"epoch": 4, "seconds": 10}\n{"epo')
    assert last_epoch(tmp_path) == 4


def test_numbers_as_text():
    assert [number(v, 1) for v in (-0.04, 2.25, float("nan"))] == ["0.0", "2.2", "–"]
    assert [number(1186.2, 0), wavenumber(-1186.2)] == ["1186", "1186i"]


def test_csv_has_no_formulas(finished):
    _, results = finished
    run = dataclasses.replace(results.runs[0], outcome="failed", reason="=HYPERLINK(1)")
    changed = dataclasses.replace(results, runs=[run])
    assert "'=HYPERLINK(1)" in as_csv(changed)


def test_series_are_ordered():
    assert min(Series(PLAIN, budget="time"), Series(PLAIN, fraction=0.5, budget="time")).fraction == 0.5


# --------------------------------------------------------------------------------------------------- killed and stopped

_SLOW = """
title = "slow"
[data]
max_atoms = 3
fractions = [0.6, 0.15, 0.25]
[potential]
channels = 8
layers = 1
n_basis = 4
[budget]
epochs = {epochs}
rounds = 2
step_cap = {{ "E-F-H" = 1 }}
[validators]
run = ["accuracy", "frequencies", "ts", "irc"]
[validators.ts]
starts = 1
max_steps = 20
[[matrix]]
schemes = ["E-F", "E-F-HVP-random", "E-F-H"]
seeds = [0, 1]
[[matrix]]
schemes = ["E-F", "E-F-HVP-random"]
regimes = ["fixed"]
fractions = [0.5]
seeds = [0]
[[matrix]]
schemes = ["E-F", "E-F-HVP-random"]
budgets = ["time"]
seeds = [0]
"""


def wait_for(condition, seconds):
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.2)
    assert condition()


def workers(text):
    """Processes whose command line holds a text."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines()[1:] if text in line]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_gone_on_with(tmp_path, number):
    config, folder = tmp_path / "study.toml", tmp_path / "out"
    config.write_text(_SLOW.format(epochs=100000))
    command = [sys.executable, "-m", "phl_ase", "study", str(config), "--out", str(folder), "--processes", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    pattern = "runs/random-E-F-f1-epochs-s0-*/log.jsonl"
    wait_for(lambda: any(path.stat().st_size for path in folder.glob(pattern)), 240)
    # Ctrl-C of a terminal reaches the whole group
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "nothing is lost" in errors
    assert "Traceback" not in errors
    (log,) = folder.glob(pattern)
    assert (log.parent / "last.ckpt").exists()
    assert not workers(str(folder))


@pytest.mark.slow
def test_whole_study_with_a_killed_run(tmp_path):
    config, folder = tmp_path / "study.toml", tmp_path / "out"
    config.write_text(_SLOW.format(epochs=3))
    command = [sys.executable, "-m", "phl_ase", "study", str(config), "--out", str(folder), "--processes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    assert {run["outcome"] for run in results["runs"]} == {"done"}
    assert any(run["capped_from"] for run in results["runs"] if run["scheme"] == "E-F-H")
    assert {run["budget"] for run in results["runs"]} == {"epochs", "time"}
    assert (folder / "figures" / "curves-random-epochs.png").exists()
    again = subprocess.run([*command, "--report"], capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    (run,) = folder.glob("runs/random-E-F-f1-epochs-s1-*")
    page = [sys.executable, "-m", "phl_ase", "report", str(run / "irc.json"), "-o", str(tmp_path / "one.html")]
    assert subprocess.run(page, check=False).returncode == 0
