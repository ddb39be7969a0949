"""Cost of one optimiser step of each scheme, eager and compiled: time and peak memory against atoms and channels.

    python workflows/benchmarks/training_step.py --compiled --json workflows/results/training_step.json

Rounds are interleaved (every step once per round), processor time is taken and the fastest round of each counts, so
that the ratios stand even on a busy machine. One thread. E-F-H is shown beside its bound (1 + 3n (r − 1)) / r, where a
row costs one Hessian-vector product and r is E-F-HVP : E-F. Beside ours stand, where they are installed, the E-F steps
of graph-pes' PaiNN and of MACE on the same frames; one E-F-HVP step along four unit vectors is what HORM and
MLFF-distill take. Rows are written as they are measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training_step_vendors import vendor_steps

from phl_ase.files import write_atomic
from phl_ase.objective import SCHEMES, CompiledLoss, with_curvature_targets
from phl_ase.potentials import PaiNN, PaiNNConfig
from phl_ase.results import plain, provenance
from phl_ase.structures import Batch, Frame, Labels, collate
from phl_ase.training.step import accumulate_gradients

WEIGHTS = {"energy": 10.0, "forces": 1.0, "curvature": 0.1}
SPECIES = (1, 6, 7, 8)
Step = Callable[[], None]
Losses = Mapping[bool, CompiledLoss]
"""Whether by differences -> the compiled loss."""

STEPS = {
    "E-F": ("E-F", 1),
    "E-F-HVP-onehot": ("E-F-HVP-onehot", 1),
    "E-F-HVP-random": ("E-F-HVP-random", 1),
    "E-F-HVP-random by differences": ("E-F-HVP-random", 1),
    "E-F-HVP-onehot, four rows": ("E-F-HVP-onehot", 4),
    "E-F-H": ("E-F-H", 1),
}
"""Name in the table -> scheme and number of probes."""

COMPILED = ("E-F", "E-F-HVP-random", "E-F-HVP-random by differences", "E-F-H")
"""What is compiled: the one-hot steps run the same function as the random ones."""


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


def our_steps(model: PaiNN, batch: Batch, labels: Labels, losses: Losses | None, *, full: bool) -> dict[str, Step]:
    """One step's loss and gradient of each scheme, targets drawn inside as in training.

    Args:
        model: The model.
        batch: The systems.
        labels: Their labels.
        losses: Add the compiled steps, where they are given.
        full: Whether with E-F-H.
    """

    def made(name: str, losses: Losses | None) -> Step:
        scheme, n_probes = STEPS[name]
        differences = "by differences" in name
        compiled = losses and losses[differences]
        family = SCHEMES[scheme].probes
        weights = {k: w for k, w in WEIGHTS.items() if k != "curvature" or family}

        def step() -> None:
            model.zero_grad(set_to_none=True)
            targets = with_curvature_targets(batch, labels, family, n_probes=n_probes) if family else labels
            accumulate_gradients(
                model, batch, targets, weights, memory_budget=2**29, compiled=compiled, differences=differences
            )

        return step

    names = [name for name in STEPS if full or name != "E-F-H"]
    steps = {name: made(name, None) for name in names}
    if losses is not None:
        steps |= {f"{name}, compiled": made(name, losses) for name in names if name in COMPILED}
    return steps


def fastest(steps: Mapping[str, Step], rounds: int) -> dict[str, float]:
    """Least processor time of some interleaved rounds, s; steps of more than a second are taken three times at most."""
    best: dict[str, float] = {}
    for name, step in steps.items():  # warms up, compiles
        step()
        best[name] = float("inf")
    for number in range(rounds):
        for name, step in steps.items():
            if number < 3 or best[name] < 1.0:
                started = time.process_time()
                step()
                best[name] = min(best[name], time.process_time() - started)
    return best


def peak_bytes(step: Step) -> int:
    """Peak of the tensor memory allocated during a step, from the profiler's memory events."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return int(np.max(np.cumsum(sizes)))


def measure(
    n_atoms: int, model: PaiNN, losses: Losses | None, *, systems: int, rounds: int, full: bool, vendors: bool
) -> dict[str, Any]:
    """One row of the table."""
    frames = random_molecules(n_atoms, systems)
    batch, labels = collate(frames, model.cutoffs)
    steps = our_steps(model, batch.to(dtype=torch.float32), labels.to(dtype=torch.float32), losses, full=full)
    if vendors:
        steps |= vendor_steps(frames, model.config.channels, SPECIES, WEIGHTS)
    seconds = fastest(steps, rounds)
    row: dict[str, Any] = {"atoms": n_atoms, "channels": model.config.channels, "systems": systems}
    row["compiled"] = losses is not None and not any(loss.failure for loss in losses.values())
    row["milliseconds"] = {k: 1e3 * v for k, v in seconds.items()}
    row["ratios"] = ratios(seconds, n_atoms)
    hvps = [name for name in steps if name.startswith(("E-F-HVP-random", "E-F,")) or name == "E-F"]
    row["peak_MiB"] = {name: peak_bytes(steps[name]) / 2**20 for name in hvps}
    row["memory ratio"] = row["peak_MiB"]["E-F-HVP-random"] / row["peak_MiB"]["E-F"]
    return row


def ratios(seconds: Mapping[str, float], n_atoms: int) -> dict[str, float]:
    """What is claimed of costs, the faster of eager and compiled on either side where nothing else is said."""
    best = {name: min(seconds[name], seconds.get(f"{name}, compiled", np.inf)) for name in STEPS if name in seconds}
    r = best["E-F-HVP-random"] / best["E-F"]
    cheaper = best["E-F-HVP-random by differences"] / best["E-F"]
    found = {
        "E-F-HVP : E-F, both best": r,
        "by differences : E-F, both best": cheaper,
        "E-F-HVP : E-F, eager": seconds["E-F-HVP-random"] / seconds["E-F"],
    }
    if "E-F, compiled" in seconds:
        hvps = seconds["E-F-HVP-random, compiled"]
        found["E-F-HVP : E-F, compiled"] = hvps / seconds["E-F, compiled"]
        found["E-F-HVP, compiled : eager"] = hvps / seconds["E-F-HVP-random"]
    if "E-F-H" in best:
        found["E-F-H : E-F-HVP, both best"] = best["E-F-H"] / best["E-F-HVP-random"]
        found["bound of E-F-H : E-F-HVP"] = (1 + 3 * n_atoms * (r - 1)) / r
    return found


def main() -> None:
    """Read the command line, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=[6, 12, 20, 48, 96])
    parser.add_argument("--channels", type=int, nargs="+", default=[64], help="of the models; 32 … 256")
    parser.add_argument("--systems", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="also the compiled steps (minutes to compile)")
    parser.add_argument("--skip-hessian-above", type=int, default=20, help="atoms beyond which E-F-H is left out")
    parser.add_argument("--skip-vendors-above", type=int, default=12, help="atoms beyond which they are left out")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for channels in arguments.channels:
        model = PaiNN(PaiNNConfig(SPECIES, channels=channels, layers=2, n_basis=8)).float()
        losses = None
        if arguments.compiled:
            losses = {differences: CompiledLoss(model, differences=differences) for differences in (False, True)}
        for n_atoms in arguments.atoms:
            row = measure(
                n_atoms,
                model,
                losses,
                systems=arguments.systems,
                rounds=arguments.rounds,
                full=n_atoms <= arguments.skip_hessian_above,
                vendors=n_atoms <= arguments.skip_vendors_above,
            )
            rows.append(row)
            print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
            write(arguments.json, rows)


def write(path: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """The table as JSON, the machine named."""
    if path is not None:
        content = plain({"provenance": provenance(), "threads": 1, "rows": rows})
        write_atomic(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
