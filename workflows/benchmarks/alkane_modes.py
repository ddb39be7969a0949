"""The three lowest modes of a long alkane at its own minimum, beside all rows of its Hessian.

    python workflows/benchmarks/alkane_modes.py --out runs/alkane --json workflows/results/alkane_modes.json

Soft bending modes of a floppy molecule want a model that knows it, and ``default`` knows small molecules alone: a model
is made first, on propane to octane drawn and labelled with GFN2-xTB (energies, forces, one HVP a frame), by the
commands that a user would type. Finished steps are kept. One thread, processor time, float64.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.optimize import LBFGS
from hessian_inference import alkane, shown

from phl_ase.calculator import PHLCalculator
from phl_ase.results import provenance, write_json
from phl_ase.units import wavenumbers
from phl_ase.vibrations import lowest_modes
from phl_ase.vibrations.operator import VibrationalOperator

SHORT = (3, 4, 5, 6, 8)
"""Carbons of the molecules that the model is trained on."""

TRAINING = """
[data]
source = "frames.h5"
[scheme]
name = "E-F-HVP-random"
regime = "fixed"
n_probes = 1
[potential]
channels = 128
[training]
epochs = 150
batch_size = 10
learning_rate = 2e-3
keep = "last"
dtype = "float32"
device = "cpu"
validate_every = 10
"""

COMMANDS = {
    "harmonic.xyz": "sample short.xyz --with tblite --relax --temperature 300 --temperature 1000 --count 15",
    "md.xyz": "sample short.xyz --with tblite --relax --how md --temperature 500 --count 20 --interval 100 "
    "--equilibration 200",
    "frames.h5": "label frames.xyz --with tblite --hvp 1",
    "run": "train train.toml",
}
"""What ``phl`` makes, and how, in this order."""

FMAX, STEPS = 0.005, 500
TOGETHER = 30
"""Rows of the dense Hessian that are taken at a time."""


def model(folder: Path) -> Path:
    """The model's file, made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    ase.io.write(folder / "short.xyz", [alkane(n) for n in SHORT])
    (folder / "train.toml").write_text(TRAINING, encoding="utf-8")
    made = folder / "run" / "best.safetensors"
    for target, command in COMMANDS.items():
        if target == "frames.h5":
            ase.io.write(
                folder / "frames.xyz", [a for f in ("harmonic", "md") for a in ase.io.read(folder / f"{f}.xyz", ":")]
            )
        if not (made if target == "run" else folder / target).exists():
            words = [sys.executable, "-m", "phl_ase", *command.split(), "--out", target]
            subprocess.run(words, cwd=folder, check=True)
    return made


def relaxed(calculator: PHLCalculator, n_carbon: int) -> Atoms:
    """The all-trans chain at the model's own minimum."""
    atoms = alkane(n_carbon)
    atoms.calc = calculator
    if not LBFGS(atoms, logfile=None, maxstep=0.1).run(fmax=FMAX, steps=STEPS):
        raise SystemExit(f"{atoms.get_chemical_formula()} did not relax in {STEPS} steps")
    return atoms


def dense_eigenvalues(atoms: Atoms, calculator: PHLCalculator, count: int) -> np.ndarray:
    """The lowest of the mass-weighted Hessian, rigid motions projected out, from all of its rows, eV/(Å² amu)."""
    operator = VibrationalOperator(atoms, calculator.get_hvp)
    unit = np.eye(operator.size)
    rows = np.concatenate(
        [operator(operator.project(part)) for part in np.split(unit, range(TOGETHER, len(unit), TOGETHER))]
    )
    values = np.linalg.eigvalsh(0.5 * (rows + rows.T))
    # rigid motions are exact zeros here
    zeros = np.argsort(np.abs(values))[: operator.size - operator.n_vibrations]
    return np.delete(values, zeros)[:count]


def measure(calculator: PHLCalculator, n_carbon: int) -> dict[str, Any]:
    """One chain."""
    atoms = relaxed(calculator, n_carbon)
    started = time.process_time()
    found = lowest_modes(atoms, calculator.get_hvp)
    seconds = time.process_time() - started
    atoms.rattle(1e-9)  # nothing is cached
    started = time.process_time()
    dense = dense_eigenvalues(atoms, calculator, len(found.eigenvalues))
    dense_seconds = time.process_time() - started
    return {
        "atoms": len(atoms),
        "largest force": float(np.abs(atoms.get_forces()).max()),
        "HVPs for the modes": found.n_hvps,
        "converged": found.converged,
        "modes s": seconds,
        "cm^-1": found.wavenumbers,
        "all rows": 3 * len(atoms),
        "all rows s": dense_seconds,
        "modes : all rows": seconds / dense_seconds,
        # relative, to (1 cm⁻¹)² where a mode is softer
        "largest error": float(
            np.max(np.abs(found.eigenvalues - dense) / np.maximum(np.abs(dense), wavenumbers(1.0) ** -2))
        ),
    }


def main(words: Sequence[str] | None = None) -> None:
    """Make the model, measure, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--carbons", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    calculator = PHLCalculator(model(arguments.out), device="cpu", dtype="float64")
    rows = []
    for n_carbon in arguments.carbons:
        rows.append(measure(calculator, n_carbon))
        print(shown(rows[-1]), flush=True)
        if arguments.json is not None:
            write_json(arguments.json, {"provenance": provenance(), "threads": 1, "rows": rows})


if __name__ == "__main__":
    main()
