"""What the command line writes to: any encoding, a closed or full output, giant words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import mistake

from phl_ase.training.config import default_toml, read_config

COMMAND = [sys.executable, "-m", "phl_ase", "data", "info", "reactions-wb97xd-631gd"]


def shell(redirection: str, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *words], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp437", "utf-8"])
def test_every_encoding_is_written(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(COMMAND, capture_output=True, env=environment, check=False, timeout=60)
    text = done.stdout.decode(encoding)
    assert done.returncode == 0, done.stderr
    assert "2 eV/atom" in text
    assert ("largest |H − Hᵀ|" if encoding == "utf-8" else "largest |H - H^T|") in text


@pytest.mark.parametrize(("redirection", "code"), [(">&-", 0), ("<&- >&- 2>&-", 0), (">/dev/full", 2)])
def test_a_closed_or_full_output_is_no_defect(redirection, code):
    done = shell(redirection, *COMMAND)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    expected = "error: the output cannot be written (No space left on device); send it elsewhere\n"
    assert done.stderr == (expected if code else "")


def test_nothing_that_is_written_lands_in_a_closed_output(tmp_path):
    """With descriptor 1 closed, the next file that is opened would be what print writes into."""
    words = [*COMMAND[:3], "data", "export", COMMAND[-1], "-o", str(tmp_path / "a.xyz")]
    done = shell(">&-", *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.xyz").read_bytes()[:2] == b"3\n"
    assert b"left behind" not in (tmp_path / "a.xyz").read_bytes()


def test_a_byte_order_mark_before_a_configuration(tmp_path):
    (tmp_path / "a.toml").write_text("\ufeff" + default_toml(), encoding="utf-8")
    assert read_config(tmp_path / "a.toml").scheme.name == "E-F-HVP-random"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data]\nsource = 'FILE'\nkeys = { energy = 'GIANT' }", "keys seen"),
        ("[data]\nsource = 'GIANT'", "no data set"),
        ("[data]\nGIANT = 1", "unknown key"),
        ("[data]\nsource = 'FILE'\n[scheme]\nname = 'GIANT'", "GIANT"),
        ("GIANT = 1", "unknown key"),
    ],
)
def test_a_giant_word_is_not_echoed(tmp_path: Path, text, message):
    (tmp_path / "a.xyz").write_text("".join(f"1\nREF_energy=1 \nO 0 0 {z}\n" for z in range(9)))
    giant = "GIANT" * 1_000_000
    (tmp_path / "a.toml").write_text(text.replace("FILE", str(tmp_path / "a.xyz")).replace("GIANT", giant))
    line = mistake("train", tmp_path / "a.toml", "-o", tmp_path / "run", "--set", "loss.forces=0")
    assert len(line) < 3000
    assert message in line
