"""What gradient calls of a costly method buy: more energies and forces, one HVP per frame, or a few Hessians.

    python workflows/label_cost.py tune  --out runs/label_cost    # three loss weights for each method
    python workflows/label_cost.py run   --out runs/label_cost    # surfaces × methods × budgets × seeds; restartable
    python workflows/label_cost.py table --out runs/label_cost --json workflows/results/label_cost.json

A frame costs one gradient call for energy and forces, two more for each HVP, 6n more for a Hessian by central
differences. Every run (surface, method, budget, seed, pre-trained or not) is one training run on one thread, of the
same number of optimiser steps whatever the method. Finished runs are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from label_cost_frames import METHODS, SURFACES, counted_from_atoms, held_out, pretraining, spend
from label_cost_table import figure, rows, text

from phl_ase.calculator import PHLCalculator
from phl_ase.errors import PHLError
from phl_ase.plots.style import to_png
from phl_ase.results import provenance, write_json
from phl_ase.scoring import STATIONARY, frame_errors
from phl_ase.structures import Frame, atoms_from_frame
from phl_ase.training import RunData, TrainConfig, parse_config, train
from phl_ase.vibrations import harmonic_analysis

MODEL = {"channels": 64, "layers": 2, "n_basis": 8, "cutoff": 5.0}
BATCH = 8
# optimiser steps, the same for every method: from scratch, from a pre-trained model, and of the pre-training
STEPS, FINE_TUNING_STEPS, PRETRAINING_STEPS = 8000, 4000, 4000
RATE, FINE_TUNING_RATE = 5e-3, 2e-3
PRETRAINING_FRAMES = 800
AFTER = 0.3  # share of frames and steps where a pre-training begins with the model of another one
MAIN = ("E-F", "HVP random", "full Hessian")
"""Training methods that are tried at every budget, with and without pre-training; the others from a pre-trained model,
at the first budget of each surface."""
# equal effort: three settings for each method, see `tune`; the others take the weight of one random HVP
GRID = {
    method: [
        {"curvature": w} if METHODS[method].count or METHODS[method].hessian else {"energy": 200 * w}
        for w in (0.05, 0.2, 0.8)
    ]
    for method in MAIN
}
TUNED_AT = ("xtb", 1000, 0)  # surface, budget, seed


@dataclass(frozen=True)
class TrainingRun:
    """One training run.

    Attributes:
        surface: Key of ``SURFACES``.
        method: Key of ``METHODS``.
        budget: Gradient calls.
        seed: Of pool, probes and weights.
        pretrained: Whether it starts from the model that has learnt the cheap method.
        loss: Loss weights that are not the defaults.
        longer: Factor on the number of steps.
        tag: Marks a run beside the study (tuning, longer training).
    """

    surface: str
    method: str
    budget: int
    seed: int
    pretrained: bool = False
    loss: dict[str, float] = dataclasses.field(default_factory=dict)
    longer: float = 1
    tag: str = ""

    @property
    def name(self) -> str:
        """Of its folder."""
        parts = (self.surface, self.method.replace(" ", "_"), str(self.budget), str(self.seed))
        return "-".join((*parts, *(["pretrained"] if self.pretrained else []), *([self.tag] if self.tag else [])))


# ------------------------------------------------------------------------------------------------------------ training


def config(
    method: str, frames: int, steps: float, *, seed: int, loss: dict[str, float], start: str = ""
) -> TrainConfig:
    """Configuration of a run of so many steps, from scratch or from a model."""
    epochs = max(1, round(steps / math.ceil(frames / BATCH)))
    chosen = METHODS[method]
    return parse_config(
        {
            "potential": {"from": start} if start else MODEL,
            "scheme": {"name": chosen.scheme, "regime": chosen.regime, "n_probes": max(1, chosen.count)},
            "loss": loss,
            "training": {
                "epochs": epochs,
                "batch_size": BATCH,
                "learning_rate": FINE_TUNING_RATE if start else RATE,
                "warmup_epochs": max(1, epochs // 30) if epochs > 3 else 0,
                "validate_every": max(1, epochs // (8 if start else 20)),
                "seed": seed,
                "device": "cpu",
            },
        }
    )


def without_hessians(frames: Iterable[Frame]) -> list[Frame]:
    """What chooses a model among the epochs of its run: energies and forces, whatever the method."""
    return [dataclasses.replace(frame, hessian=None) for frame in frames]


def pretrained(out: Path, surface: str, scale: float) -> str:
    """The model that has learnt the cheap method's energies, forces and Hessians, trained once."""
    folder = out / f"{surface}-pretraining"
    if not (folder / "done").exists():
        before = SURFACES[surface].after
        start, scale_here = (pretrained(out, before, scale), AFTER * scale) if before else ("", scale)
        frames = pretraining(out, surface, max(20, round(PRETRAINING_FRAMES * scale_here)))
        frames, held = counted_from_atoms(frames, frames), len(frames) // 20
        data = RunData(
            frames[held:], without_hessians(frames[:held]), provenance={"level_of_theory": SURFACES[surface].cheap}
        )
        steps = PRETRAINING_STEPS * scale_here
        settings = config("full Hessian", len(data.train), steps, seed=0, loss={}, start=start)
        train(settings, data, folder, resume=(folder / "last.ckpt").exists())
        (folder / "done").touch()
    return str(folder / "best.safetensors")


def run_one(out: Path, run: TrainingRun, *, part: str = "test", scale: float = 1.0) -> dict[str, Any]:
    """Train a run and score it frame by frame, unless that is done; its record is what ``table`` reads."""
    folder = out / run.name
    path = folder / "errors.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    frames, gradients = spend(out, run.surface, run.method, run.budget, run.seed)
    start = pretrained(out, run.surface, scale) if run.pretrained else ""
    steps = scale * run.longer * (FINE_TUNING_STEPS if run.pretrained else STEPS)
    settings = config(run.method, len(frames), steps, seed=run.seed, loss=run.loss, start=start)
    valid = held_out(out, run.surface, "valid")
    test = valid if part == "valid" else held_out(out, run.surface, "test")
    frames, valid, test = (counted_from_atoms(some, valid) for some in (frames, valid, test))
    level = {"level_of_theory": SURFACES[run.surface].level, "training_frames": len(frames)}
    started = time.process_time()
    data = RunData(frames, without_hessians(valid), provenance=level)
    result = train(settings, data, folder, resume=(folder / "last.ckpt").exists())
    record = {
        **dataclasses.asdict(run),
        "frames": len(frames),
        "gradients": gradients,
        "cpu_seconds": time.process_time() - started,
        "validation": [[r["epoch"], r["valid_energy"], r["valid_forces"]] for r in result.records if "valid_loss" in r],
        "best_epoch": result.best_epoch,
        **score(result.model, test),
    }
    write_json(path, record)
    print(
        f"{run.name}: {len(frames)} frames, {gradients} gradient calls, {record['cpu_seconds']:.0f} s,",
        ", ".join(f"{name} {value:.3g}" for name, value in means(record).items()),
        flush=True,
    )
    return record


def score(model: Path, frames: list[Frame]) -> dict[str, Any]:
    """Errors of a model on each frame; of wavenumbers (cm⁻¹, in ascending order) at the stationary points."""
    calculator = PHLCalculator(str(model), device="cpu")
    atoms = [atoms_from_frame(frame) for frame in frames]
    predictions = calculator.evaluate(atoms, ("energy", "forces", "hessian"))
    errors = {name: frame_errors(frames, predictions)[name].tolist() for name in ("energy", "forces", "hessian")}
    wavenumbers: list[float | None] = [None] * len(frames)
    for index, (frame, structure, predicted) in enumerate(zip(frames, atoms, predictions, strict=True)):
        if frame.kind in STATIONARY:
            found, known = (harmonic_analysis(structure, h).wavenumbers for h in (predicted["hessian"], frame.hessian))
            wavenumbers[index] = float(np.mean(np.abs(found - known)))
    return {
        "errors": {**errors, "wavenumbers": wavenumbers},
        "kind": [frame.kind for frame in frames],
        "reaction": [frame.reaction for frame in frames],
    }


# --------------------------------------------------------------------------------------------------------- what is run


def tune(out: Path, scale: float) -> dict[str, dict[str, float]]:
    """Loss weights of each method: the best of three by the sum of log errors of E, F and H on validation frames."""
    path = out / "tuned.json"
    if not path.exists():
        surface, budget, seed = TUNED_AT
        scores: dict[str, list[float]] = {}
        for method, settings in GRID.items():
            tried = [
                TrainingRun(surface, method, budget, seed, True, loss, 0.4, f"tune{k}")
                for k, loss in enumerate(settings)
            ]
            errors = [run_one(out, run, part="valid", scale=scale)["errors"] for run in tried]
            scores[method] = [
                sum(math.log(np.mean(e[name])) for name in ("energy", "forces", "hessian")) for e in errors
            ]
            print(method, [f"{score:.3f}" for score in scores[method]], flush=True)
        loss = {method: GRID[method][int(np.argmin(values))] for method, values in scores.items()}
        write_json(path, {"at": TUNED_AT, "grid": GRID, "scores": scores, "loss": loss})
    loss = json.loads(path.read_text())["loss"]
    return {method: loss[method if method in MAIN else "HVP random"] for method in METHODS}


def runs(seeds: int, loss: dict[str, dict[str, float]]) -> list[TrainingRun]:
    """All runs, in the order in which they are run."""
    others = [method for method in METHODS if method not in MAIN]
    # from scratch or not, methods, budgets by their place, seed: what tells most first
    every = range(seeds)
    first = [(True, MAIN, 0, seed) for seed in every] + [(False, MAIN, 0, 0)]
    first += [(True, MAIN, place, 0) for place in (1, 2)] + [(False, MAIN, 0, seed) for seed in every[1:]]
    later = [(True, MAIN, place, seed) for seed in every[1:] for place in (1, 2)]
    later += [(True, others, 0, seed) for seed in every]
    later += [(False, MAIN, place, seed) for seed in every for place in (1, 2)]
    # whether every method has had steps enough
    steps = [
        TrainingRun("xtb", method, 1000, 0, start, loss[method], factor, name)
        for start, factor, name in ((True, 2, "twice"), (True, 0.5, "half"), (False, 2, "twice"))
        for method in MAIN
    ]
    return [*_cells(first, loss), *steps[:6], *_cells(later, loss), *steps[6:]]


def _cells(plan: list[tuple[bool, Iterable[str], int, int]], loss: dict[str, dict[str, float]]) -> list[TrainingRun]:
    return [
        TrainingRun(name, method, budget, seed, start, loss[method])
        for start, methods, place, seed in plan
        for name, surface in SURFACES.items()
        for budget in surface.budgets[place : place + 1]
        for method in methods
    ]


def baseline(out: Path, surface: str, scale: float) -> dict[str, Any]:
    """Errors of the pre-trained model that has seen no label of the costly method."""
    path = out / f"{surface}-pretraining" / "errors.json"
    if not path.exists():
        test = counted_from_atoms(held_out(out, surface, "test"), held_out(out, surface, "valid"))
        write_json(path, score(Path(pretrained(out, surface, scale)), test))
    return dict(json.loads(path.read_text()))


def report(out: Path, target: Path | None, seeds: int, scale: float) -> None:
    """Print the table; write the numbers as JSON and the figure beside the runs."""
    wanted = runs(seeds, tune(out, scale))
    paths = {run.name: out / run.name / "errors.json" for run in wanted}
    records = [json.loads(path.read_text()) for path in paths.values() if path.exists()]
    found = rows([record for record in records if not record["tag"]])
    print(text(found))
    untouched = {
        name: baseline(out, name, scale) for name in SURFACES if (out / f"{name}-pretraining" / "done").exists()
    }
    titles = {name: surface.level for name, surface in SURFACES.items()}
    (out / "label_cost.png").write_bytes(to_png(figure, (found, untouched, list(METHODS), titles)))
    missing = [name for name, path in paths.items() if not path.exists()]
    if missing:
        print(f"not finished: {', '.join(missing)}")
    if target:
        command = "python workflows/label_cost.py run --out runs/label_cost; the same with table --json"
        content = {
            "provenance": provenance(command=command, threads=1, levels=titles),
            "settings": {
                "model": MODEL,
                "steps": {"from scratch": STEPS, "fine-tuning": FINE_TUNING_STEPS, "pre-training": PRETRAINING_STEPS},
                "batch": BATCH,
                "learning_rate": {"from scratch": RATE, "fine-tuning": FINE_TUNING_RATE},
                "pretraining_frames": PRETRAINING_FRAMES,
            },
            "tuning": json.loads((out / "tuned.json").read_text()),
            "rows": found,
            "pretrained_as_it_is": {name: means(record) for name, record in untouched.items()},
            "other_numbers_of_steps": [
                {key: record[key] for key in ("method", "budget", "seed", "frames", "cpu_seconds", "longer")}
                | means(record)
                for record in records
                if record["tag"]
            ],
            "curves": {record_name(r): r["validation"] for r in records if r["seed"] == 0},
            "not_finished": missing,
        }
        write_json(target, content)


def means(record: dict[str, Any]) -> dict[str, float]:
    """Mean of each error of one run; without those that no frame has."""
    present = {name: [v for v in values if v is not None] for name, values in record["errors"].items()}
    return {name: float(np.mean(values)) for name, values in present.items() if values}


def record_name(record: dict[str, Any]) -> str:
    """Name of the run that a record is of."""
    return TrainingRun(**{field.name: record[field.name] for field in dataclasses.fields(TrainingRun)}).name


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("tune", "run", "table"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="where `table` writes the numbers")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all numbers of steps, to try things out")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if arguments.task == "tune":
        tune(arguments.out, arguments.scale)
    if arguments.task == "run":
        for run in runs(arguments.seeds, tune(arguments.out, arguments.scale)):
            run_one(arguments.out, run, scale=arguments.scale)
    if arguments.task == "table":
        report(arguments.out, arguments.json, arguments.seeds, arguments.scale)


if __name__ == "__main__":
    try:
        main()
    except PHLError as error:
        sys.exit(f"label_cost: {error}")
