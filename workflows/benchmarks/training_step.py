"""Cost of one optimiser step of each scheme: time and peak tensor memory against the number of atoms.

    python workflows/benchmarks/training_step.py --json workflows/results/training_step.json

Rounds are interleaved (every scheme once per round) and the fastest round of each counts, so that the ratios stand even
on a busy machine. One thread. E-F-H is shown beside its bound (1 + 3n (r − 1)) / r, where a row costs one
Hessian-vector product.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phl_ase.derivatives.compiled import CompiledEvaluator
from phl_ase.objective import SCHEMES, with_curvature_targets
from phl_ase.potentials import PaiNN, PaiNNConfig
from phl_ase.results import provenance
from phl_ase.structures import Batch, Frame, Labels, collate
from phl_ase.training.step import accumulate_gradients

WEIGHTS = {"energy": 10.0, "forces": 1.0, "curvature": 0.1}
SPECIES = (1, 6, 7, 8)


def random_molecules(n_atoms: int, count: int, seed: int = 0) -> list[Frame]:
    """Random compact molecules, no atoms closer than 0.95 Å, with random labels."""
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(count):
        side = 1.9 * n_atoms ** (1 / 3)
        points: list[np.ndarray] = []
        while len(points) < n_atoms:
            point = rng.uniform(0, side, 3)
            if all(np.linalg.norm(point - other) > 0.95 for other in points):
                points.append(point)
        hessian = rng.normal(size=(3 * n_atoms, 3 * n_atoms))
        frames.append(
            Frame(
                rng.choice(SPECIES, n_atoms),
                np.array(points),
                energy=0.0,
                forces=rng.normal(size=(n_atoms, 3)),
                hessian=hessian + hessian.T,
                frame_id=index,
            )
        )
    return frames


def step_of(scheme: str, model: PaiNN, batch: Batch, labels: Labels, compiled: bool) -> Callable[[], None]:
    """One step's loss and gradient, targets drawn inside as in training."""
    family = SCHEMES[scheme].probes
    weights = {k: w for k, w in WEIGHTS.items() if k != "curvature" or family}
    evaluator = CompiledEvaluator(model) if compiled else None

    def step() -> None:
        model.zero_grad(set_to_none=True)
        targets = with_curvature_targets(batch, labels, family) if family else labels
        accumulate_gradients(model, batch, targets, weights, memory_budget=2**29, compiled=evaluator)

    return step


def fastest(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Fastest of some interleaved rounds, s."""
    best = dict.fromkeys(steps, float("inf"))
    for number in range(rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if number:  # the first round warms up
                best[name] = min(best[name], time.perf_counter() - started)
    return best


def peak_bytes(step: Callable[[], None]) -> int:
    """Peak of the tensor memory allocated during a step, from the profiler's memory events."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return int(np.max(np.cumsum(sizes)))


def measure(n_atoms: int, channels: int, systems: int, rounds: int, compiled: bool, memory: bool) -> dict[str, Any]:
    """One row of the table."""
    model = PaiNN(PaiNNConfig(SPECIES, channels=channels, layers=2, n_basis=8)).float()
    batch, labels = collate(random_molecules(n_atoms, systems), model.cutoffs)
    batch, labels = batch.to(dtype=torch.float32), labels.to(dtype=torch.float32)
    names = [s for s in SCHEMES if not (compiled and s == "E-F-H")]
    steps = {scheme: step_of(scheme, model, batch, labels, compiled) for scheme in names}
    seconds = fastest(steps, rounds)
    r = seconds["E-F-HVP-random"] / seconds["E-F"]
    row: dict[str, Any] = {"atoms": n_atoms, "channels": channels, "systems": systems, "compiled": compiled}
    row |= {"milliseconds": {k: 1e3 * v for k, v in seconds.items()}, "r": r}
    if "E-F-H" in seconds:
        row["E-F-H : E-F-HVP"] = seconds["E-F-H"] / seconds["E-F-HVP-random"]
        row["bound"] = (1 + 3 * n_atoms * (r - 1)) / r
    if memory and not compiled:
        row["peak_MiB"] = {k: peak_bytes(steps[k]) / 2**20 for k in ("E-F", "E-F-HVP-random")}
        row["memory ratio"] = row["peak_MiB"]["E-F-HVP-random"] / row["peak_MiB"]["E-F"]
    return row


def main() -> None:
    """Read the command line, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=[4, 6, 12, 20, 24, 48])
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--systems", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="also the compiled steps (minutes to compile)")
    parser.add_argument("--skip-hessian-above", type=int, default=20, help="atoms beyond which E-F-H is left out")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for compiled in (False, True) if arguments.compiled else (False,):
        for n_atoms in arguments.atoms:
            if n_atoms > arguments.skip_hessian_above:
                full = SCHEMES.pop("E-F-H", None)
            row = measure(n_atoms, arguments.channels, arguments.systems, arguments.rounds, compiled, True)
            if n_atoms > arguments.skip_hessian_above and full is not None:
                SCHEMES["E-F-H"] = full
            rows.append(row)
            print(json.dumps(row, ensure_ascii=False), flush=True)
    if arguments.json:
        content = {"provenance": provenance(), "threads": 1}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({**content, "rows": rows}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
