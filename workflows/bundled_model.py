"""Train the bundled model ``default`` and write its card, with errors measured on frames it never saw.

python workflows/bundled_model.py --out runs/default
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from phl_ase.calculator import PHLCalculator
from phl_ase.potentials import load_model, save_model
from phl_ase.potentials.model_file import BUNDLED_FOLDER
from phl_ase.scoring import ERRORS, frame_errors, mean_errors
from phl_ase.structures import atoms_from_frame
from phl_ase.training import parse_config, prepare_data, train

CONFIG: dict[str, Any] = {
    "data": {"split": "random", "fractions": [0.85, 0.05, 0.10]},
    "potential": {"channels": 128},
    "scheme": {"name": "E-F-HVP-random"},
    "training": {"epochs": 600, "validate_every": 10},
}
USE = (
    "Gas-phase reactions of the bundled data set (H, C, N, O; 3 to 5 atoms) near the geometries it holds. "
    "Other molecules, charged systems, radicals and periodic systems: not to be trusted."
)


def main() -> None:
    """Train (or resume), score, write the model into the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = parse_config(CONFIG)
    data = prepare_data(config)
    result = train(config, data, arguments.out, resume=(arguments.out / "last.ckpt").exists())
    calculator = PHLCalculator(str(result.model), device="cpu")
    atoms = [atoms_from_frame(frame) for frame in data.test]
    predictions = calculator.evaluate(atoms, ("energy", "forces", "hessian"))
    means = mean_errors(data.test, frame_errors(data.test, predictions))
    units = {name: kind.unit for name, kind in ERRORS.items()}
    model = load_model(result.model, dtype=torch.float32)
    card = {**model.provenance, "name": "default", "intended_use": USE, "test_errors": means, "error_units": units}
    BUNDLED_FOLDER.mkdir(exist_ok=True)
    path = save_model(BUNDLED_FOLDER / "default.safetensors", model, card)
    print(path.name, f"{result.records[-1]['seconds']:.0f} s, mean absolute errors on {len(data.test)} test frames:")
    for group, errors in means.items():
        print(f"{group:10s}", "  ".join(f"{errors[name]:.3g} {units[name]}" for name in units))


if __name__ == "__main__":
    main()
