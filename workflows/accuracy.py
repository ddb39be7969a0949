"""The four schemes on the bundled data: E, F and H errors at equal epochs and at equal wall time, with intervals.

    python workflows/accuracy.py tune --out runs/tune       # three settings per scheme, judged on validation frames
    python workflows/accuracy.py run  --out runs/accuracy   # splits × schemes × seeds; stop and restart freely
    python workflows/accuracy.py table --out runs/accuracy --json workflows/results/accuracy.json

Every cell (split, scheme, seed, budget) is one training run in its own process on one thread; finished cells are kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SCHEMES = ("E-F", "E-F-HVP-onehot", "E-F-HVP-random", "E-F-H")
METRICS = {"energy": "E meV/atom", "forces": "F meV/Å", "hessian": "H eV/Å²"}
POTENTIAL = {"channels": 64, "layers": 2, "n_basis": 8}
EPOCHS = {"random": 200, "stationary": 300}
# equal wall time: what this many epochs of E-F-HVP-random take
WALL_EPOCHS = {"random": 300}
# equal effort: three settings for each scheme, see `tune`
GRID: dict[str, tuple[dict[str, float], ...]] = {
    "E-F": ({"energy": 10.0}, {"energy": 40.0}, {"energy": 160.0}),
    **{name: tuple({"curvature": w} for w in (0.05, 0.2, 0.8)) for name in SCHEMES[1:]},
}
# what `tune` chose (60 epochs, workflows/results/tuning.json); the other weights are the defaults
TUNED: dict[str, dict[str, float]] = {
    "E-F": {"energy": 10.0},
    "E-F-HVP-onehot": {"curvature": 0.05},
    "E-F-HVP-random": {"curvature": 0.2},
    "E-F-H": {"curvature": 0.2},
}


def cell_config(split: str, scheme: str, seed: int, epochs: int, loss: dict[str, float]) -> dict[str, Any]:
    """Configuration of one cell; the split and the initial weights change with the seed, alike for every scheme."""
    return {
        "data": {"split": split, "split_seed": seed},
        "potential": POTENTIAL,
        "scheme": {"name": scheme},
        "loss": loss,
        "training": {"epochs": epochs, "seed": seed, "validate_every": max(3, epochs // 60)},
    }


def run_cell(job: tuple[str, dict[str, Any], str]) -> str:
    """Train one cell and write its errors frame by frame; a failure is written too."""
    folder, values, part = job
    import torch

    from phl_ase.calculator import PHLCalculator
    from phl_ase.errors import PHLError
    from phl_ase.scoring import frame_errors, mean_errors
    from phl_ase.structures import atoms_from_frame
    from phl_ase.training import parse_config, prepare_data, train

    torch.set_num_threads(1)
    config = parse_config(values)
    data = prepare_data(config)
    path = Path(folder)
    try:
        result = train(config, data, path, resume=(path / "last.ckpt").exists())
    except PHLError as error:
        return f"{path.name}: failed: {error}"
    frames = getattr(data, part)
    calculator = PHLCalculator(result.model, device="cpu")
    predictions = calculator.evaluate([atoms_from_frame(f) for f in frames], ("energy", "forces", "hessian"))
    errors = frame_errors(frames, predictions)
    content = {
        "config": values,
        "seconds": result.records[-1]["seconds"],
        "best_epoch": result.best_epoch,
        "means": mean_errors(frames, errors),
        "frames": {name: list(map(float, e)) for name, e in errors.items()},
        "frame_id": [f.frame_id for f in frames],
        "far": [f.kind == "irc" or (f.kind == "nms" and (f.temperature or 0) > 600) for f in frames],
    }
    temporary = path / "errors.json.tmp"
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path / "errors.json")
    shown = content["means"]["all"]
    return f"{path.name}: {content['seconds']:.0f} s, " + ", ".join(f"{u} {shown[m]:.3g}" for m, u in METRICS.items())


def run_cells(jobs: list[tuple[str, dict[str, Any], str]], processes: int) -> None:
    """Run what is not finished, the longest first."""
    waiting = [job for job in jobs if not (Path(job[0]) / "errors.json").exists()]
    waiting.sort(key=lambda job: -job[1]["training"]["epochs"] * (6 if job[1]["scheme"]["name"] == "E-F-H" else 1))
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        for line in pool.imap_unordered(run_cell, waiting):
            print(line, flush=True)


def read(folder: Path) -> dict[str, Any] | None:
    """Errors of a finished cell."""
    path = folder / "errors.json"
    return json.loads(path.read_text()) if path.exists() else None


def tune(out: Path, processes: int, epochs: int) -> None:
    """Three settings per scheme on seed 0's validation frames, judged by the sum of log errors of E, F and H."""
    jobs = []
    for scheme in SCHEMES:
        for k, loss in enumerate(GRID[scheme]):
            jobs.append((str(out / f"{scheme}-{k}"), cell_config("random", scheme, 0, epochs, loss), "valid"))
    run_cells(jobs, processes)
    for scheme in SCHEMES:
        cells = [read(out / f"{scheme}-{k}") for k in range(len(GRID[scheme]))]
        scores = [sum(np.log(c["means"]["all"][m]) for m in METRICS) if c else np.inf for c in cells]
        print(scheme, [round(float(s), 3) for s in scores], "best:", GRID[scheme][int(np.argmin(scores))])


def run(out: Path, processes: int, seeds: int, splits: list[str], schemes: list[str]) -> None:
    """Equal epochs first; then equal wall time, from seconds per epoch measured in the same study."""
    jobs = [
        (str(out / f"{split}-{scheme}-{seed}"), cell_config(split, scheme, seed, EPOCHS[split], TUNED[scheme]), "test")
        for seed in range(seeds)
        for split in splits
        for scheme in schemes
    ]
    run_cells(jobs, processes)
    jobs = []
    for split in set(splits) & set(WALL_EPOCHS):
        seconds = seconds_per_epoch(split, out)
        for scheme in schemes:
            epochs = max(3, round(WALL_EPOCHS[split] * seconds["E-F-HVP-random"] / seconds[scheme]))
            for seed in range(seeds):
                values = cell_config(split, scheme, seed, epochs, TUNED[scheme])
                jobs.append((str(out / f"{split}-{scheme}-{seed}-wall"), values, "test"))
    run_cells(jobs, processes)


def seconds_per_epoch(split: str, out: Path) -> dict[str, float]:
    """Fastest of some epochs of each scheme, interleaved in this process while nothing else of the study runs."""
    path = out / f"seconds-{split}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    import torch

    from phl_ase.training import parse_config, prepare_data, train

    torch.set_num_threads(1)
    fastest = dict.fromkeys(SCHEMES, float("inf"))
    for _ in range(3):
        for scheme in SCHEMES:
            config = parse_config(cell_config(split, scheme, 0, 3, TUNED[scheme]))
            with tempfile.TemporaryDirectory() as folder:
                records = train(config, prepare_data(config), folder).records
            # the second epoch: the first warms up, the last validates
            fastest[scheme] = min(fastest[scheme], records[1]["seconds"] - records[0]["seconds"])
    path.write_text(json.dumps(fastest))
    return fastest


def interval(cells: list[dict[str, Any]], metric: str, chosen: str, rng: np.random.Generator) -> list[float]:
    """Mean and 95 % interval over frames and seeds (hierarchical bootstrap, 2,000 draws)."""
    values = [np.array(c["frames"][metric])[_chosen(c, chosen)] for c in cells]
    draws = []
    for _ in range(2000):
        picked = [values[s] for s in rng.integers(len(values), size=len(values))]
        draws.append(np.mean([v[rng.integers(len(v), size=len(v))].mean() for v in picked]))
    return [float(np.mean([v.mean() for v in values])), *map(float, np.percentile(draws, [2.5, 97.5]))]


def ratio(cells: list[dict[str, Any]], reference: list[dict[str, Any]], metric: str, rng: np.random.Generator):
    """Error ratio to the same frames and seeds of another scheme, with a paired bootstrap 95 % interval."""
    pairs = [
        (np.array(a["frames"][metric]), np.array(b["frames"][metric])) for a, b in zip(cells, reference, strict=True)
    ]
    draws = []
    for _ in range(2000):
        top = bottom = 0.0
        for s in rng.integers(len(pairs), size=len(pairs)):
            a, b = pairs[s]
            k = rng.integers(len(a), size=len(a))
            top, bottom = top + a[k].mean(), bottom + b[k].mean()
        draws.append(top / bottom)
    means = [sum(p[i].mean() for p in pairs) for i in (0, 1)]
    return [float(means[0] / means[1]), *map(float, np.percentile(draws, [2.5, 97.5]))]


def _chosen(cell: dict[str, Any], chosen: str) -> np.ndarray:
    far = np.array(cell["far"])
    return {"all": np.ones_like(far), "near": ~far, "far": far}[chosen]


def table(out: Path, seeds: int, splits: list[str], target: Path | None) -> None:
    """Print the tables and write every number as JSON."""
    from phl_ase.results import provenance

    rng = np.random.default_rng(0)
    results: dict[str, Any] = {
        "epochs": EPOCHS,
        "wall_epochs": WALL_EPOCHS,
        "potential": POTENTIAL,
        "weights": TUNED,
        "seeds": seeds,
    }
    results |= {
        "command": "python workflows/accuracy.py run --out runs/accuracy --json workflows/results/accuracy.json",
        "provenance": provenance(),
        "cells": {},
        "ratios": {},
    }
    for split in splits:
        for budget, suffix in (("epochs", ""), ("wall", "-wall")):
            if suffix and split not in WALL_EPOCHS:
                continue
            print(f"\n{split} split, equal {budget}, {seeds} seeds: mean [95 % interval]")
            rows = {}
            for scheme in SCHEMES:
                cells = [c for s in range(seeds) if (c := read(out / f"{split}-{scheme}-{s}{suffix}"))]
                if len(cells) < seeds:
                    print(f"{scheme:16s} not finished ({len(cells)} of {seeds} seeds)")
                    continue
                rows[scheme] = cells
                row: dict[str, Any] = {"seconds": float(np.mean([c["seconds"] for c in cells]))}
                row["epochs"] = [c["config"]["training"]["epochs"] for c in cells]
                for where in ("all", "near", "far"):
                    if all(_chosen(c, where).any() for c in cells):
                        row[where] = {m: interval(cells, m, where, rng) for m in METRICS}
                results["cells"][f"{split}/{budget}/{scheme}"] = row
                shown = "  ".join(f"{u} {_shown(row['all'][m])}" for m, u in METRICS.items())
                print(f"{scheme:16s} {row['seconds']:5.0f} s  {shown}")
            if "E-F-H" in rows:
                for scheme, cells in rows.items():
                    ratios = {m: ratio(cells, rows["E-F-H"], m, rng) for m in METRICS}
                    results["ratios"][f"{split}/{budget}/{scheme}:E-F-H"] = ratios
                    print(f"{scheme:16s} : E-F-H   " + "  ".join(f"{m} {_shown(r)}" for m, r in ratios.items()))
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(results, indent=1) + "\n")


def _shown(values: list[float]) -> str:
    return f"{values[0]:.3g} [{values[1]:.3g}, {values[2]:.3g}]"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("tune", "run", "table"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tune-epochs", type=int, default=60)
    parser.add_argument("--splits", nargs="+", default=["random", "stationary"], choices=("random", "stationary"))
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES), choices=SCHEMES)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.task == "tune":
        tune(arguments.out, arguments.processes, arguments.tune_epochs)
        return
    if arguments.task == "run":
        run(arguments.out, arguments.processes, arguments.seeds, arguments.splits, arguments.schemes)
    table(arguments.out, arguments.seeds, arguments.splits, arguments.json)


if __name__ == "__main__":
    main()
