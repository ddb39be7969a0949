"""The examples run as they are, with the bundled model, and say what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from phl_ase.potentials.cards import bundled_models

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

# example -> what its output must hold, with the bundled model
PROMISES = {
    "reactions.py": ("hcn_hnc: finished", "transition state: converged", "frames, labels of", "md: 3 structures"),
    "relax.py": ("converged after", "relaxed / Å"),
    "frequencies.py": (
        "frequency MAE",
        "imaginary modes (beyond 10i cm^-1): 1",
        "Gibbs energy",
        "1 imaginary mode left out",
    ),
    "hessian.py": ("Hessian (12, 12)", "HCN"),
    "phonons.py": ("108 atoms in the supercell, 1 in the primitive cell", "imaginary: 0", "heat capacity"),
    "irc.py": ("path converged:", "reaction converged: the path leads both ways to minima", "barrier forward"),
    "recipes.py": (
        "exactly one mode is imaginary; {'gradients':",
        "quasi-irc -1: -",
        "imaginary modes: 1; path: both directions: the path ends",
    ),
    "batched.py": ("50 molecules, 226 atoms; largest force 0.0", "after 25 fs at 300 K"),
    "path_integrals.py": (
        "8 beads, 40 steps; the conserved energy drifts by 0.00",
        "kinetic energy (centroid virial): 0.",
    ),
    "transition_state.py": ("converged:", "imaginary modes (beyond 10i cm^-1): 1", "kcal/mol"),
}

# example -> the marks of what it needs besides this package
NEEDS = {
    "batched.py": [pytest.mark.foreign, pytest.mark.torch_sim],
    "path_integrals.py": [pytest.mark.foreign, pytest.mark.ipi],
}


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PROMISES)


@pytest.mark.parametrize("name", PROMISES)
def test_is_short(name):
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.skipif("default" not in bundled_models(), reason="this version has no bundled model 'default' yet")
@pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDS.get(name, [])) for name in PROMISES])
def test_example(name, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:phl_ase", str(EXAMPLES / name)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for promise in PROMISES[name]:
        assert promise in done.stdout, done.stdout
    assert not done.stderr, done.stderr
    assert "nan" not in done.stdout.lower()
