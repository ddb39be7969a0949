"""``phl study`` as a user types it."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from phl_ase.cli import app


def phl(*words: object):
    """Run in this process; unexpected exceptions surface here."""
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False, prog_name="phl")


def mistake(*words: object) -> str:
    """The one line of a mistake."""
    result = phl(*words)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


def test_init_writes_a_configuration_that_can_be_read(tmp_path):
    target = tmp_path / "mine.toml"
    assert f"wrote {target}" in phl("study", target, "--init").stdout
    assert "exists; name another file" in mistake("study", target, "--init")


def test_help_says_how():
    shown = phl("study", "--help").stdout
    for word in ("--processes", "--plan", "--report", "--init", "phl study study.toml --out runs/study"):
        assert word in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no configuration: name one; 'phl study --init' writes a commented one"),
        (("none.toml",), "none.toml does not exist"),
    ],
)
def test_mistakes(words, message):
    assert message in mistake("study", *words)


def test_settings_override_and_are_checked(tmp_path):
    target = tmp_path / "study.toml"
    phl("study", target, "--init")
    assert "unknown key 'budget.epoch'" in mistake("study", target, "--set", "budget.epoch=3")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    line = mistake("study", target, "--out", tmp_path / "out", "--set", "data.max_atoms=3")
    assert "holds other files and no study" in line


def test_plan_counts_runs_and_estimates_hours(tmp_path):
    target = tmp_path / "study.toml"
    target.write_text(
        """
[data]
max_atoms = 3
[potential]
channels = 4
layers = 1
n_basis = 4
[[matrix]]
schemes = ["E-F"]
budgets = ["epochs", "time"]
"""
    )
    shown = phl("study", target, "--plan").stdout
    assert "6 runs: about" in shown
    assert re.search(r" 3 +200 ", shown)
    wrong = mistake("study", target, "--plan", "--set", 'validators.run=["acuracy"]')
    assert "unknown validator 'acuracy'; valid: accuracy" in wrong


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('splits = ["random", "by-reactions"]', "unknown split 'by-reactions'; valid: by-reaction, random, stationary"),
        ('probes = ["rademacher", "gausian"]', "unknown probe family 'gausian'; valid: gaussian"),
        ('budgets = ["tim"]', "input should be 'epochs' or 'time'"),
    ],
)
def test_a_mistyped_word_of_the_matrix_is_refused_before_anything_runs(tmp_path, line, message):
    target = tmp_path / "study.toml"
    target.write_text(f"[[matrix]]\n{line}\n")
    assert message in mistake("study", target, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
