"""Reports: JSON round trip, atomic writing, tables, provenance."""

import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from phl_ase.errors import PHLError
from phl_ase.results import Metric, Report, plain, provenance, read_reports, render_table, write_json


def example(**changes):
    values = {
        "system": "HCN -> HNC <script>",
        "potential": "E-F-HVP",
        "outcome": "converged",
        "sentence": "one mode is imaginary",
        "metrics": (Metric("barrier", 2.0123456, "eV", 2.1), Metric("gradients", 17), Metric("RMSD", np.nan, "Å")),
        "arrays": {
            "wavenumbers": np.array([-1200.5, np.nan, 3000.0]),
            "numbers": np.array([1, 6, 7]),
            "modes": np.arange(12.0).reshape(2, 2, 3),
            "mask": np.array([True, False]),
            "undefined": np.full(2, np.nan),
        },
        "provenance": provenance(seed=3),
        "validator": "ts",
    }
    return Report(**{**values, **changes})


def test_the_sella_strategy_of_an_older_report():
    content = example(provenance={"way": "hvp"}).to_dict()
    assert Report.from_dict(content).provenance["strategy"] == "hvp"


def test_round_trip():
    report = example()
    text = json.dumps(report.to_dict(), allow_nan=False)
    again = Report.from_dict(json.loads(text))
    for name in ("system", "potential", "outcome", "sentence", "provenance", "validator"):
        assert getattr(again, name) == getattr(report, name)
    assert again.metrics[:2] == report.metrics[:2]
    assert np.isnan(again.metric("RMSD").value)
    assert set(again.arrays) == set(report.arrays)
    for name, array in report.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
        assert again.arrays[name].dtype == array.dtype
    assert json.dumps(again.to_dict()) == text


def test_metric_by_name():
    assert example().metric("barrier").value == 2.0123456
    with pytest.raises(PHLError, match="barrier, gradients") as error:
        example().metric("bareer")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "not a report"),
        ({"system": "x"}, "not a report"),
        ({**Report("a", "b", "c").to_dict(), "schema": 99}, "schema 99"),
        ({**Report("a", "b", "c").to_dict(), "metrics": [{"name": "x"}]}, "not a metric"),
    ],
)
def test_something_else(content, message):
    with pytest.raises(PHLError, match=message):
        Report.from_dict(content)


def test_plain():
    value = {"a": np.float64(1.5), "b": (np.int32(2), np.inf, -np.inf), 3: np.array([[True]]), "d": None, "e": "x"}
    assert plain(value) == {"a": 1.5, "b": [2, None, None], "3": [[True]], "d": None, "e": "x"}
    for wrong in (object(), 1j, np.array([1j]), Path("x")):
        with pytest.raises(PHLError, match="no JSON form"):
            plain(wrong)


def test_write_and_read(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, example())
    assert read_reports(path)[0].system == example().system
    write_json(str(path), [example(), example(system="other")])
    assert [report.system for report in read_reports(path)] == [example().system, "other"]
    assert os.listdir(tmp_path) == ["result.json"]
    if os.name == "posix":
        umask = os.umask(0)
        os.umask(umask)
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_write_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_json(path, {"good": 1})
    with pytest.raises(PHLError):
        write_json(path, {"bad": object()})

    def broken(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    for function in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, broken)
            with pytest.raises(PHLError, match="disk is full"):
                write_json(path, {"newer": 2})
        assert json.loads(path.read_text()) == {"good": 1}
        assert os.listdir(tmp_path) == ["result.json"]


def test_unreadable_files(tmp_path):
    with pytest.raises(PHLError, match="does not exist"):
        write_json(tmp_path / "nowhere" / "result.json", {})
    with pytest.raises(PHLError, match="cannot read"):
        read_reports(tmp_path / "missing.json")
    (tmp_path / "text.json").write_text("not json")
    with pytest.raises(PHLError, match="not JSON"):
        read_reports(tmp_path / "text.json")


def test_table(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # narrower, a table of few rows is turned
    other = Report("H2O", "MACE", "exploded", "NaN", (Metric("barrier", 46.0, "kcal/mol"),))
    lines = render_table([example(), other]).splitlines()
    for heading in ("system", "potential", "outcome", "barrier / eV", "barrier / kcal/mol", "gradients", "RMSD / Å"):
        assert heading in lines[0]
    assert "2.0123 (2.1)" in lines[2]
    assert lines[3].split() == ["H2O", "MACE", "exploded", "-", "-", "-", "46"]
    assert lines[4:] == ["converged: one mode is imaginary", "exploded: NaN"]
    assert len(render_table([]).splitlines()) == 2


def test_provenance():
    record = provenance(command="phl validate")
    assert record["command"] == "phl validate"
    assert record["numpy"] == np.__version__
    assert "cores" in record["machine"]
    everything = json.dumps(record)
    for private in (platform.node(), os.getcwd(), os.path.expanduser("~")):
        assert len(private) < 4 or private not in everything


def test_torch_is_not_imported():
    """Scoring runs without torch: a DFT user's environment need not load it."""
    code = (
        "import sys, phl_ase.results, phl_ase.vibrations, phl_ase.paths; phl_ase.results.provenance();"
        "print('torch' in sys.modules, 'sella' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_report_in_a_console_is_one_line():
    report = Report("HCN -> HNC", "E-F, seed 0", "found", arrays={"energies": np.zeros(10_000)}, validator="ts")
    assert repr(report) == "<Report ts HCN -> HNC by E-F, seed 0: found; 0 metrics>"
