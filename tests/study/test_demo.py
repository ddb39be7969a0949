"""``phl demo``: a small study, whose configuration ships with the package, from its runs to its report."""

from __future__ import annotations

import base64
import csv
import html.parser
import io
import json
import re

import pytest

from phl_ase.objective import SCHEMES
from phl_ase.plots.page import render_reports
from phl_ase.potentials.cards import read_card
from phl_ase.results import Metric, Report
from phl_ase.study.config import read_demo
from phl_ase.study.report import FIGURES, REPORT, RESULTS, SCOREBOARD, as_text, comparison, write_report
from phl_ase.study.results import Results
from phl_ase.study.run import run_study

PNG = b"\x89PNG\r\n\x1a\n"
STARTS = 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A demo of one epoch on triatomic molecules."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    results = Results.of(run_study(read_demo(epochs=1, quick=True, data={"max_atoms": 3}), folder))
    write_report(results)
    return folder, results


def test_demo_writes_what_it_promises(finished):
    folder, results = finished
    assert {one.outcome for one in results.runs} == {"done"}
    for one in results.runs:
        card = read_card(results.study.planned[one.run].folder / "model.safetensors")
        assert card["provenance"]["scheme"]["name"] == one.run.method.scheme
        assert "forces, all / meV/Å" in card["provenance"]["test_errors"]
    stored = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    assert stored["provenance"]["phl_ase"]
    assert str(folder) not in json.dumps(stored)
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {"study.json", "jobs", "runs", RESULTS, SCOREBOARD, REPORT, FIGURES}
    drawn = {path.stem.partition("-")[0] for path in (folder / FIGURES).iterdir()}
    assert {"errors", "displacement", "parity", "training"} <= drawn


def test_demo_validates_every_scheme_alike(finished):
    _, results = finished
    assert [one.run.method.scheme for one in results.runs] == list(SCHEMES)
    for one in results.runs:
        assert "hcn_hnc" in one.facts["transition_states"]["test"]
        (accuracy,) = one.reports["accuracy"]
        assert accuracy.metric("hessian, far").value > 0
        assert [report.system for report in one.reports["frequencies"]] == ["hcn_hnc ts"]
        assert one.reports["frequencies"][0].metric("imaginary wavenumber").reference < -900
        assert [report.system for report in one.reports["ts"]] == ["hcn_hnc"] * STARTS
        # HNC lies above HCN, and the barrier of this level is near 48 kcal/mol
        search = one.reports["ts"][0]
        assert 45 < search.metric("barrier from reactant").reference < 52
        assert 28 < search.metric("barrier from product").reference < 38


def test_the_stages_of_searches_are_each_inside_the_one_before(finished):
    _, results = finished
    for series in results.series:
        rows = [results.row(series, key, "reactions") for key in ("converged", "first_order", "connected", "funnel")]
        shares = [row.mean.value for row in rows]
        assert shares == sorted(shares, reverse=True)
        assert {row.mean.pairs for row in rows} == {STARTS}


def test_table_names_schemes_units_and_what_was_trained_on(finished):
    folder, results = finished
    text = as_text(results, width=160)
    assert re.search(r" +".join(SCHEMES), text)
    for unit in ("meV/atom", "meV/Å", "eV/Å²", "cm⁻¹", "meV", "kcal/mol", "Å", "s"):
        assert re.search(rf"{re.escape(unit)}\s", text), unit
    assert "TSs among the test frames: hcn_hnc" in text
    assert "other geometries of every reaction were trained on" in text
    assert "The numbers mean nothing" in text
    table = comparison(results, "random", "epochs")
    (barrier,) = (line for line in table.lines if line.label == "barrier from HCN")
    assert 45 < float(barrier.reference) < 52
    lines = list(csv.DictReader(io.StringIO((folder / SCOREBOARD).read_text(encoding="utf-8"))))
    energies = [one for one in lines if (one["quantity"], one["group"]) == ("energy", "near")]
    stored = {
        row["method"]: row
        for row in json.loads((folder / RESULTS).read_text())["rows"]
        if row["quantity"] == "energy" and row["group"] == "near"
    }
    for one in energies:
        assert float(one["value"]) == pytest.approx(stored[one["method"]]["mean"]["value"], rel=1e-5)
    (shown,) = (line for line in table.lines if line.label == "energy, near")
    assert [float(cell.split()[0]) for cell in shown.cells] == pytest.approx(
        [float(e["value"]) for e in energies], abs=0.06
    )


def test_a_finished_demo_is_shown_again_and_trains_nothing(finished):
    folder, results = finished
    models = [one.folder / "best.safetensors" for one in results.study.planned.values()]
    before = [path.stat().st_mtime_ns for path in models]
    again = Results.of(run_study(read_demo(epochs=1, quick=True, data={"max_atoms": 3}), folder))
    assert [path.stat().st_mtime_ns for path in models] == before
    assert str(again.rows) == str(results.rows)


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
    text = (folder / REPORT).read_text(encoding="utf-8")
    page = Page(text)
    assert not page.opened
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert len(page.sources) == len(list((folder / FIGURES).iterdir()))
    for source in page.sources:
        kind, _, content = source.partition(";base64,")
        starts = {"data:image/png": PNG, "data:image/svg+xml": b"<?xml"}[kind]
        assert base64.b64decode(content).startswith(starts)
    assert "@import" not in text
    assert "url(" not in text
    assert text.index("<table") < text.index("<figure")
    assert "Projected Hessian" in text
    for scheme in SCHEMES:
        assert scheme in text


@pytest.mark.slow
def test_quick_demo_from_end_to_end(tmp_path):
    results = Results.of(run_study(read_demo(quick=True), tmp_path / "out"))
    assert {one.outcome for one in results.runs} == {"done"}
    assert len(set(results.runs[0].facts["transition_states"]["test"])) >= 3


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
