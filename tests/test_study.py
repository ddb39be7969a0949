"""Schemes trained side by side, the demo and what it writes."""

from __future__ import annotations

import base64
import copy
import fcntl
import html.parser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from phl_ase.errors import PHLError
from phl_ase.objective import SCHEMES
from phl_ase.potentials.cards import read_card
from phl_ase.results import Metric, Report
from phl_ase.study import demo, render_report, render_reports, run_demo, train_schemes
from phl_ase.study.compare import fingerprint, relative_cost
from phl_ase.study.figures import FIGURES, draw_figures
from phl_ase.study.progress import ManyRuns, schedule_length
from phl_ase.study.scores import STARTS
from phl_ase.study.table import metric, rows, shown, table_text
from phl_ase.training import parse_config, prepare_data
from phl_ase.validators.funnel import STAGES

TINY = {"max_atoms": 3}
PNG = b"\x89PNG\r\n\x1a\n"


def tiny(name="E-F", epochs=1, **scheme):
    return parse_config(
        {
            "data": {**demo.DATA, **TINY},
            "potential": {"channels": 8, "layers": 1},
            "scheme": {"name": name, **scheme},
            "training": {"epochs": epochs},
        }
    )


@pytest.fixture(scope="module")
def data():
    return prepare_data(tiny())


# ----------------------------------------------------------------------------------------------------- training several


def test_one_that_fails_does_not_stop_the_others_and_nothing_is_repeated(data, tmp_path):
    configs = {"good": tiny(), "bad": tiny("E-F-HVP-random", probes="nonsense"), "full": tiny("E-F-H")}
    trained = train_schemes(configs, data, tmp_path / "runs", processes=2)
    assert list(trained) == ["good", "bad", "full"]
    assert [run.outcome for run in trained.values()] == ["trained", "failed", "trained"]
    assert "unknown probe family 'nonsense'" in trained["bad"].reason
    assert "\n" not in trained["bad"].reason
    assert trained["good"].model.exists()
    assert trained["full"].seconds > 0
    assert trained["full"].records[-1]["epoch"] == 1

    before = {name: run.model.stat().st_mtime_ns for name, run in trained.items() if run.succeeded}
    again = train_schemes({name: configs[name] for name in before}, data, tmp_path / "runs")
    assert {name: run.model.stat().st_mtime_ns for name, run in again.items()} == before
    assert again["good"] == trained["good"]

    with pytest.raises(PHLError, match=r"another training\.epochs"):
        train_schemes({"good": tiny(epochs=2)}, data, tmp_path / "runs")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_names_that_are_no_folders(data, tmp_path, name):
    with pytest.raises(PHLError, match="no name for a run"):
        train_schemes({name: tiny()}, data, tmp_path)


def test_other_mistakes(data, tmp_path):
    with pytest.raises(PHLError, match="expected at least 1"):
        train_schemes({"a": tiny()}, data, tmp_path, processes=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(PHLError, match="choose another output folder"):
        train_schemes({"a": tiny()}, data, tmp_path / "file")


def test_fingerprint_sees_settings_and_frames_and_not_the_device(data):
    config = tiny()
    same = parse_config(config.to_json() | {"training": config.to_json()["training"] | {"device": "cpu"}})
    assert fingerprint(config, data) == fingerprint(same, data)
    assert fingerprint(config, data) != fingerprint(tiny(epochs=2), data)
    fewer = type(data)(data.train[1:], data.valid)
    assert fingerprint(config, data) != fingerprint(config, fewer)


def test_a_key_that_came_later_leaves_runs_what_they_were(data):
    config = tiny()
    before = config.to_json()
    del before["training"]["keep"]  # a configuration of before there was such a key
    assert config.identity() == parse_config(before).identity()
    assert "keep" not in config.identity()["training"]
    last = parse_config(config.to_json() | {"training": config.to_json()["training"] | {"keep": "last"}})
    assert last.identity()["training"]["keep"] == "last"
    assert fingerprint(last, data) != fingerprint(config, data)


def test_the_longest_run_is_thought_the_longest():
    costs = [relative_cost(tiny(name)) for name in SCHEMES]
    assert costs == sorted(costs)
    assert relative_cost(tiny("E-F", 10)) == 10 * relative_cost(tiny("E-F"))


def test_time_left_over_all():
    assert schedule_length([], [], 2) == 0
    assert schedule_length([5.0], [], 2) == 5
    assert schedule_length([5.0, 1.0], [3.0, 3.0], 2) == 7
    assert schedule_length([], [4.0, 3.0, 2.0], 1) == 9


def test_progress_reads_logs_and_is_silent_without_a_terminal(tmp_path, capfd):
    (tmp_path / "log.jsonl").write_text('{"epoch": 1, "seconds": 2}\n{"epoch": 4, "seconds": 10}\n{"epo')
    with ManyRuns({"a": (tmp_path, 8), "b": (tmp_path / "none", 8)}) as bars:
        bars.show(["a", "b"], [], 3.0)
        assert bars.epochs_done("a") == 4
        assert bars.seconds_per_epoch("a") == 2.5
        assert bars.seconds_per_epoch("b") is None
    assert capfd.readouterr() == ("", "")


_LONG = """
import sys
sys.path.insert(0, {tests!r})
def main():
    from phl_ase.training import parse_config, prepare_data
    from phl_ase.study import train_schemes
    config = parse_config({config!r})
    train_schemes({{"a": config}}, prepare_data(config), {folder!r})
if __name__ == "__main__":
    main()
"""


def survivors(group, within):
    """Whether processes of a group are left after so many seconds (multiprocessing's own tracker takes a moment)."""
    limit = time.monotonic() + within
    while time.monotonic() < limit:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.2)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_with_a_checkpoint_and_without_leftovers(data, tmp_path, number):
    script, folder = tmp_path / "script.py", tmp_path / "runs"
    values = tiny(epochs=100000).to_json()
    script.write_text(_LONG.format(tests=str(tmp_path), config=values, folder=str(folder)))
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True, start_new_session=True)
    log = folder / "a" / "log.jsonl"
    limit = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < limit:
        time.sleep(0.2)
    # Ctrl-C of a terminal reaches the whole group
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "nothing is lost" in errors.splitlines()[-1]
    assert errors.count("Traceback") == 1  # that of the script, whose author may catch it
    assert (folder / "a" / "last.ckpt").exists()
    assert json.loads((folder / "a" / "run.json").read_text())["outcome"] == "started"
    assert not survivors(process.pid, within=10)


# ------------------------------------------------------------------------------------------------------------ the demo


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A demo of one epoch on triatomic molecules; workers of pytest-xdist share one."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "demo-out"
    with open(base / "demo.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "results.json").exists():
            stored = json.loads((folder / "results.json").read_text(encoding="utf-8"))
            return folder, {**stored, "report": str(folder / "report.html")}
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(demo.DATA, "max_atoms", TINY["max_atoms"])
            return folder, run_demo(folder, epochs=1, quick=True)


def test_demo_writes_what_it_promises(finished):
    folder, results = finished
    for name in FIGURES:
        assert (folder / f"{name}.png").read_bytes().startswith(PNG)
    for scheme in SCHEMES:
        assert results["schemes"][scheme]["outcome"] == "trained"
        card = read_card(folder / results["schemes"][scheme]["model"])
        assert card["provenance"]["scheme"]["name"] == scheme
        assert "forces, all / meV/Å" in card["provenance"]["test_errors"]
    stored = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert stored == {name: value for name, value in results.items() if name != "report"}
    assert stored["provenance"]["phl_ase"]
    assert stored["data"]["data_hash"]
    assert str(folder) not in json.dumps(stored)
    assert results["report"] == str(folder / "report.html")
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {"models", "training", "results.json", "report.html", *(f"{name}.png" for name in FIGURES)}


def test_demo_scores_every_scheme_on_everything(finished):
    _, results = finished
    assert results["data"]["search"]["ts_in"] == "test"
    for entry in results["schemes"].values():
        scores = entry["scores"]
        assert metric(scores["accuracy"], "hessian, far") > 0
        assert [report["system"] for report in scores["frequencies"]] == ["hcn_hnc"]
        assert metric(scores["frequencies"][0], "imaginary wavenumber", "reference") < -900
        assert metric(scores["search"], "force calls") >= 1
        assert [report["system"] for report in scores["searches"]] == ["hcn_hnc"] * STARTS
        assert scores["funnel"]["starts"] == STARTS
        passed = [scores["funnel"]["passed"][stage] for stage in STAGES]
        assert passed == sorted(passed, reverse=True)
        # HNC lies above HCN, and the barrier of this level is near 48 kcal/mol
        barriers = [metric(scores["search"], f"barrier from {end}", "reference") for end in ("HCN", "HNC")]
        assert 45 < barriers[0] < 52
        assert 28 < barriers[1] < 38


def test_table_names_schemes_units_and_what_was_trained_on(finished):
    _, results = finished
    text = results["table"]
    head = text.splitlines()[0].split()
    assert head == ["unit", *SCHEMES, "DFT"]
    for unit in ("meV/atom", "meV/Å", "eV/Å²", "cm⁻¹", "meV", "kcal/mol", "Å", "s"):
        assert re.search(rf"  {re.escape(unit)}  ", text), unit
    assert "TSs not trained on: hcn_hnc" in text
    assert "of the reaction's frames" in text
    assert "no result" in text
    assert f"{STARTS} searches with Sella, from 0.1 Å off the test TSs" in text


class Page(html.parser.HTMLParser):
    """What a page loads and runs."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.opened = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "img", "br"):
            self.opened.append(tag)

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag


def test_report_is_self_contained(finished):
    folder, _ = finished
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.opened
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert len(page.sources) == len(FIGURES)
    prefix = "data:image/png;base64,"
    assert all(base64.b64decode(s.removeprefix(prefix)).startswith(PNG) for s in page.sources if s.startswith(prefix))
    assert "@import" not in text
    assert "url(" not in text
    assert text.index("<table") < text.index("<figure")
    for scheme in SCHEMES:
        assert scheme in text


EVIL = '<script>alert("1")</script>'


def test_report_escapes_names_and_reasons(finished):
    _, results = finished
    changed = copy.deepcopy(results)
    changed["schemes"][EVIL] = changed["schemes"].pop("E-F")
    changed["schemes"][EVIL].update(outcome="failed", reason=EVIL, scores=None)
    changed["notes"].append(EVIL)
    changed["provenance"]["machine"] = EVIL
    changed["data"]["transition_states"]["test"] = [EVIL]
    changed["data"]["level_of_theory"] = EVIL
    text = render_report(changed, draw_figures(changed))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 6


def test_report_can_be_made_again_from_the_file(finished):
    folder, _ = finished
    stored = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert render_report(stored) == (folder / "report.html").read_text(encoding="utf-8")
    for wrong in ({}, {"format": "other"}, []):
        with pytest.raises(PHLError, match=r"results\.json"):
            render_report(wrong)


def test_a_failed_scheme_is_shown_as_failed(finished):
    _, results = finished
    changed = copy.deepcopy(results)
    changed["schemes"]["E-F-H"].update(outcome="failed", reason="the disk is full", scores=None, records=[])
    changed["notes"] = demo._notes(changed)
    text = table_text(changed)
    assert "E-F-H failed: the disk is full." in text
    assert rows(changed)[0].values["E-F-H"] == "failed"
    assert all(row.cell("E-F-H") == "–" for row in rows(changed)[1:])
    assert "<b>E-F-H failed:</b> the disk is full" in render_report(changed)
    for entry in changed["schemes"].values():
        entry.update(outcome="failed", reason="no", scores=None, records=[])
    assert all(content.startswith(PNG) for content in draw_figures(changed).values())
    assert "failed" in table_text(changed)


def test_a_finished_demo_is_not_overwritten(finished, tmp_path):
    folder, _ = finished
    with pytest.raises(PHLError, match="holds a finished demo") as caught:
        run_demo(folder, quick=True)
    assert "\n" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(PHLError, match="choose another output folder"):
        run_demo(tmp_path / "file", quick=True)


def test_a_demo_with_other_settings_is_not_mixed_in(finished, monkeypatch, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "unfinished")
    monkeypatch.setitem(demo.DATA, "max_atoms", TINY["max_atoms"])
    (folder / "results.json").unlink()
    with pytest.raises(PHLError, match=r"another training\.epochs"):
        run_demo(folder, epochs=2, quick=True)


def test_the_split_holds_what_the_demo_says():
    configs = demo.demo_configs(3)
    assert list(configs) == list(SCHEMES)
    settings = [config.to_json() for config in configs.values()]
    assert len({json.dumps({**values, "scheme": None}) for values in settings}) == 1
    data = prepare_data(configs["E-F"])
    questions = demo.demo_questions(data)
    assert max(map(len, questions.stationary)) == 4
    states = [frame.reaction for frame in questions.transition_states]
    assert "hcn_hnc" in states
    assert len(states) >= 3
    assert list(questions.ends) == ["HCN", "HNC"]
    assert questions.ends["HCN"].energy < questions.ends["HNC"].energy


@pytest.mark.slow
def test_quick_demo_from_end_to_end(tmp_path):
    results = run_demo(tmp_path / "out", quick=True)
    assert all(entry["outcome"] == "trained" for entry in results["schemes"].values())
    assert len(results["data"]["transition_states"]["test"]) >= 3


def test_numbers_as_text():
    assert [shown(v, 1) for v in (-0.04, 2.25, None, float("nan"), "word")] == ["0.0", "2.2", "–", "–", "word"]
    assert shown(1186, 0) == "1186"


def test_reports_of_validators_as_a_page():
    reports = [
        Report(
            "HCN", "model <1>", "agrees", "as <it> should", (Metric("ZPE", 1.25, "meV", 2.5),), validator="frequencies"
        ),
        Report("HNC", "model <1>", "failed", "", (Metric("steps", float("nan")),), validator="search"),
    ]
    text = render_reports(reports, "A & B")
    Page(text)
    assert '1.25</span> <span class="number">(2.5)' in text
    assert "model &lt;1&gt;" in text
    assert "as &lt;it&gt; should" in text
    assert "<title>A &amp; B</title>" in text
