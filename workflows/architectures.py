"""Shapes of PaiNN at equal time: which one learns the Hessians of organic reactions best on one core.

    python workflows/architectures.py train.h5 test.h5 --minutes 8 --out runs/architectures \
        --json workflows/results/architectures.json

Data and settings are those of ``workflows/grambow.toml`` (E-F-HVP-random on recorded HVPs); ``test.h5`` needs full
Hessians and holds reactions that ``train.h5`` lacks. A few steps are timed first, then every shape is given as many
epochs as fit; compiling is not counted. Finished runs stay in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phl_ase.calculator import PHLCalculator
from phl_ase.datasets import open_dataset
from phl_ase.results import provenance, write_json
from phl_ase.scoring import frame_errors
from phl_ase.structures import Frame, atoms_from_frame
from phl_ase.training import TrainConfig, prepare_data, read_config, train

SHAPES: dict[str, dict[str, float]] = {
    "64 channels, 2 layers, 5 Å": {"channels": 64, "layers": 2, "cutoff": 5.0, "n_basis": 8},
    "64 channels, 3 layers, 5 Å": {"channels": 64, "layers": 3, "cutoff": 5.0, "n_basis": 8},
    "64 channels, 3 layers, 6 Å": {"channels": 64, "layers": 3, "cutoff": 6.0, "n_basis": 12},
    "128 channels, 2 layers, 5 Å": {"channels": 128, "layers": 2, "cutoff": 5.0, "n_basis": 8},
    "128 channels, 3 layers, 6 Å": {"channels": 128, "layers": 3, "cutoff": 6.0, "n_basis": 12},
}
CONFIG = Path(__file__).with_name("grambow.toml")
TIMED = 60
"""Steps of an epoch that is timed."""


def configuration(source: str, shape: dict[str, float], epochs: int, seed: int) -> TrainConfig:
    """Configuration of a run."""
    own = {"data.source": f'"{source}"', "training.epochs": epochs, "training.seed": seed}
    settings = {**own, **{f"potential.{name}": value for name, value in shape.items()}}
    return read_config(CONFIG, [f"{name}={value}" for name, value in settings.items()])


def run(source: str, shape: dict[str, float], minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    """Train one shape for so many minutes and return what it took."""
    data = prepare_data(configuration(source, shape, 2, seed))
    size = configuration(source, shape, 2, seed).training.batch_size
    few = replace(data, train=data.train[: TIMED * size], valid=data.valid[:size])
    first, second = train(configuration(source, shape, 2, seed), few, folder / "timed").records
    step = (second["seconds"] - first["seconds"]) / TIMED
    steps = -(-len(data.train) // size)
    epochs = max(2, round(60.0 * minutes / (step * steps)))
    result = train(configuration(source, shape, epochs, seed), data, folder / "run")
    seconds = result.records[-1]["seconds"] - result.records[0]["seconds"]
    return {
        "model": str(result.model),
        "epochs": epochs,
        "steps": epochs * steps,
        "ms_per_step": 1e3 * seconds / ((epochs - 1) * steps),
    }


def scored(model: str, frames: list[Frame]) -> dict[str, float]:
    """Mean errors on frames."""
    calculator = PHLCalculator(model, device="cpu", out_of_domain="ignore")
    predictions = calculator.evaluate([atoms_from_frame(f) for f in frames], ("energy", "forces", "hessian"))
    return {name: float(np.mean(values)) for name, values in frame_errors(frames, predictions).items()}


def main() -> None:
    """Train what is not trained, show and keep a row for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--minutes", type=float, default=8.0, help="of each training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # recorded HVPs are learnt as recorded
    with open_dataset(given.test) as dataset:
        frames = list(dataset)
    rows = {}
    for k, (name, shape) in enumerate(SHAPES.items()):
        folder = given.out / f"shape-{k}-{given.minutes:g}min-seed{given.seed}"
        done = folder / "row.json"
        if not done.exists():
            row = run(given.train, shape, given.minutes, given.seed, folder)
            write_json(done, {**row, **scored(row.pop("model"), frames)})
        rows[name] = done.read_text(encoding="utf-8")
        print(f"{name:30} {' '.join(rows[name].split())}", flush=True)
    if given.json:
        table = {name: json.loads(row) for name, row in rows.items()}
        write_json(given.json, {"minutes": given.minutes, "rows": table, "provenance": provenance(threads=1)})


if __name__ == "__main__":
    main()
