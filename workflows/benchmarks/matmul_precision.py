"""What rounded factors of matrix products cost in accuracy: TF32 and bfloat16, as GPUs round them, without one.

    python workflows/benchmarks/matmul_precision.py --json workflows/results/matmul_precision.json

Every product of float32 matrices has its factors rounded to 10 (TF32) or 7 bits (bfloat16), is summed in float32, and
so are those of its derivatives, which is what ``training.matmul_precision`` "high" and "medium" ask of an NVIDIA GPU.
First the bundled model with such products against itself in float64; then trainings with them, E-F-HVP-random on the
bundled data, the last weights of each scored without any rounding.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from phl_ase import PHLCalculator
from phl_ase.datasets import open_dataset
from phl_ase.results import provenance, write_json
from phl_ase.scoring import ERRORS, frame_errors
from phl_ase.structures import atoms_from_frame
from phl_ase.training import parse_config, prepare_data, train

SHOWN = ("energy", "forces", "hessian")
EVERY = 8
"""Of the bundled frames, for the bundled model."""

_aten = torch.ops.aten
_FACTORS = {
    _aten.mm.default: (0, 1),
    _aten.bmm.default: (0, 1),
    _aten.addmm.default: (1, 2),
    _aten.baddbmm.default: (1, 2),
}
"""Operation -> which of its arguments are multiplied."""


def to_tf32(values: Tensor) -> Tensor:
    """The nearest numbers with 10 bits behind the point."""
    return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def to_bfloat16(values: Tensor) -> Tensor:
    """The nearest numbers with 7 bits behind the point."""
    return values.to(torch.bfloat16).to(torch.float32)


class RoundedFactors(TorchDispatchMode):
    """In the block factors of float32 matrix products are rounded."""

    def __init__(self, rounded: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rounded = rounded

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        factors = _FACTORS.get(function, ())
        if factors and args[factors[0]].dtype == torch.float32:
            args = tuple(self.rounded(a) if place in factors else a for place, a in enumerate(args))
        return function(*args, **(kwargs or {}))


PRECISIONS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float32": nullcontext,
    "TF32": lambda: RoundedFactors(to_tf32),
    "bfloat16": lambda: RoundedFactors(to_bfloat16),
}


def of_the_bundled_model() -> list[dict[str, Any]]:
    """Mean absolute differences of a bundled model in float32 from the same in float64, by precision."""
    frames = list(open_dataset("reactions-wb97xd-631gd"))[::EVERY]
    structures = [atoms_from_frame(frame) for frame in frames]
    needs = ["energy", "forces", "hessian"]
    exact = PHLCalculator("default#1", device="cpu").evaluate(structures, needs)
    rows = []
    for name, rounding in PRECISIONS.items():
        calculator = PHLCalculator("default#1", device="cpu", dtype="float32", out_of_domain="ignore")
        with rounding():
            found = calculator.evaluate(structures, needs)
        row: dict[str, Any] = {"precision": name, "frames": len(frames)}
        for label in SHOWN:
            differences = [
                np.abs(a[label] - b[label]) / (len(s) if label == "energy" else 1)
                for a, b, s in zip(found, exact, structures, strict=True)
            ]
            row[label] = ERRORS[label].scale * float(np.mean([d.mean() for d in differences]))
        rows.append(row)
        print(shown(row), flush=True)
    return rows


def of_training(epochs: int, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Mean errors on the test frames of models trained at each precision."""
    rows = []
    for seed in seeds:
        training = {"epochs": epochs, "seed": seed, "device": "cpu", "keep": "last", "validate_every": epochs}
        config = parse_config({"scheme": {"name": "E-F-HVP-random"}, "training": training})
        data = prepare_data(config)
        structures = [atoms_from_frame(frame) for frame in data.test]
        for name, rounding in PRECISIONS.items():
            with tempfile.TemporaryDirectory() as folder:
                with rounding():
                    result = train(config, data, Path(folder) / "run")
                seconds = result.records[-1]["seconds"]
                found = PHLCalculator(result.model, device="cpu").evaluate(structures, list(SHOWN))
            errors = frame_errors(data.test, found)
            row = {"precision": name, "seed": seed, "epochs": epochs, "frames": len(structures), "seconds": seconds}
            row |= {label: float(np.mean(errors[label])) for label in SHOWN}
            rows.append(row)
            print(shown(row), flush=True)
    return rows


def shown(row: dict[str, Any]) -> str:
    """A line of the table."""
    which = f"{row['precision']:9s}" + (f" seed {row['seed']}, {row['epochs']} epochs" if "seed" in row else "")
    return f"{which}: " + ", ".join(f"{ERRORS[label].title} {row[label]:.3g} {ERRORS[label].unit}" for label in SHOWN)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    rows = {"model": of_the_bundled_model(), "training": of_training(arguments.epochs, arguments.seeds)}
    if arguments.json is not None:
        write_json(arguments.json, {"provenance": provenance(), "threads": 1, **rows})


if __name__ == "__main__":
    main()
