"""What a device does in a second: training steps, Hessians of many molecules at once, large cells. Made for a GPU.

    python workflows/benchmarks/throughput.py --device cuda --json workflows/results/throughput.json

Wall time with the device waited for at both ends, the fastest of some rounds, ratios within one row. Rows are written
as they are measured, and what does not fit into memory is one line in its row. On a CPU: ``--device cpu --batches 16
--precisions highest --molecules 10 --cells 512``.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hessian_inference import diamond, water
from training_step import COMPILED, SPECIES, our_steps, random_molecules

from phl_ase import PHLCalculator, PHLError
from phl_ase.objective import CompiledLoss
from phl_ase.potentials import PaiNN, PaiNNConfig
from phl_ase.results import provenance, write_json
from phl_ase.structures import collate
from phl_ase.training.precision import matmul_precision

Row = dict[str, Any]
ROUNDS = 5
ATOMS = 20
"""Of the molecules that are trained on."""
WATERS = 8
"""Of the clusters whose Hessians are taken."""


class Clock:
    """Times what a device does, and says how much of its memory that took.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait(self) -> None:
        """Until the device has done all that it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def fastest(self, function: Callable[[], Any], rounds: int = ROUNDS) -> float:
        """Seconds of the fastest of some calls, after one that warms up."""
        function()
        best = float("inf")
        for _ in range(rounds):
            self.wait()
            started = time.perf_counter()
            function()
            self.wait()
            best = min(best, time.perf_counter() - started)
        return best

    def forget(self) -> None:
        """Start to measure memory anew."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> float | None:
        """GiB of tensors at most since then; nothing is known of a CPU's."""
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else None


def training(clock: Clock, arguments: argparse.Namespace) -> Iterator[Row]:
    """Training steps on molecules of 20 atoms: molecules a second, and the share of E-F's."""
    for precision in arguments.precisions:
        for systems in arguments.batches:
            model = PaiNN(PaiNNConfig(SPECIES, channels=64, layers=2, n_basis=8)).float().to(clock.device)
            batch, labels = collate(random_molecules(ATOMS, systems), model.cutoffs)
            losses = None
            if arguments.compiled:
                losses = {differences: CompiledLoss(model, differences=differences) for differences in (False, True)}
            steps = our_steps(
                model,
                batch.to(clock.device, torch.float32),
                labels.to(clock.device, torch.float32),
                losses,
                full=arguments.full,
            )
            row: Row = {"systems": systems, "matmul precision": precision, "molecules a second": {}, "peak GiB": {}}
            for name, step in steps.items():
                clock.forget()
                with matmul_precision(precision):
                    seconds, failure = tried(functools.partial(clock.fastest, step))
                row["molecules a second"][name] = failure or systems / seconds
                row["peak GiB"][name] = clock.peak()
            row["compiler failed"] = [loss.failure for loss in (losses or {}).values() if loss.failure]
            row["share of E-F"] = shares(row["molecules a second"])
            yield row


def shares(rates: dict[str, Any]) -> dict[str, float]:
    """Molecules a second over those of E-F, the faster of eager and compiled on either side."""
    best = {}
    for name in COMPILED:
        found = [rates[key] for key in (name, f"{name}, compiled") if isinstance(rates.get(key), float)]
        if found:
            best[name] = max(found)
    return {name: rate / best["E-F"] for name, rate in best.items() if "E-F" in best}


def hessians(clock: Clock, arguments: argparse.Namespace) -> Iterator[Row]:
    """Full Hessians of clusters of 24 atoms, one and many at once, in force calls of one and of as many."""
    atoms = water(WATERS)
    for dtype in ("float64", "float32"):
        calculator = PHLCalculator("default#1", device=str(clock.device), dtype=dtype, out_of_domain="ignore")
        seconds: dict[tuple[str, int], float] = {}
        row: Row = {"atoms": len(atoms), "dtype": dtype}
        for count in (1, arguments.molecules):
            copies = [atoms.copy() for _ in range(count)]
            for number, copy in enumerate(copies):
                copy.rattle(0.02, seed=number)
            for need in ("forces", "hessian"):
                clock.forget()
                evaluate = functools.partial(calculator.evaluate, copies, [need])
                found, failure = tried(functools.partial(clock.fastest, evaluate))
                row[f"{need} of {count}, ms each"] = failure or 1e3 * found / count
                row[f"{need} of {count}, peak GiB"] = clock.peak()
                seconds[need, count] = found / count
        row["Hessian alone in force calls alone"] = seconds["hessian", 1] / seconds["forces", 1]
        row["Hessian of many in force calls alone"] = seconds["hessian", arguments.molecules] / seconds["forces", 1]
        row["Hessian of many in force calls of many"] = (
            seconds["hessian", arguments.molecules] / seconds["forces", arguments.molecules]
        )
        yield row


def cells(clock: Clock, arguments: argparse.Namespace) -> Iterator[Row]:
    """Energy, forces and stress, and HVPs, of large cells of diamond, the densest that there is."""
    for dtype in ("float32", "float64"):
        calculator = PHLCalculator("default#1", device=str(clock.device), dtype=dtype, out_of_domain="ignore")
        for n in arguments.cells:
            atoms = diamond(n)
            vector = np.random.default_rng(0).standard_normal((len(atoms), 3))
            row: Row = {"atoms": len(atoms), "dtype": dtype}
            wanted = {
                "energy, forces and stress": functools.partial(calculator.evaluate, [atoms], ["forces", "stress"]),
                "HVP": functools.partial(calculator.get_hvp, vector, atoms),
            }
            for name, function in wanted.items():
                clock.forget()
                seconds, failure = tried(functools.partial(clock.fastest, function, 1))
                row[f"{name} s"], row[f"{name}, peak GiB"] = failure or seconds, clock.peak()
            yield row


def tried(function: Callable[[], float]) -> tuple[float, str | None]:
    """What a function gives; NaN and one line where memory is short."""
    try:
        return function(), None
    except (torch.OutOfMemoryError, PHLError) as error:
        return float("nan"), str(error).splitlines()[0]


PARTS: dict[str, Callable[[Clock, argparse.Namespace], Iterator[Row]]] = {
    "training": training,
    "hessians": hessians,
    "cells": cells,
}


def main(words: Sequence[str] | None = None) -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64, 256, 1024], help="molecules a step")
    parser.add_argument("--precisions", nargs="+", default=["highest", "high"], help="of matrix products in training")
    parser.add_argument("--compiled", action="store_true", help="also the compiled steps (minutes to compile)")
    parser.add_argument("--full", action="store_true", help="also E-F-H")
    parser.add_argument("--molecules", type=int, default=100, help="whose Hessians are taken at once")
    parser.add_argument("--cells", type=int, nargs="+", default=[2000, 10000], help="about so many atoms in a cell")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    clock = Clock(torch.device(arguments.device))
    found: dict[str, list[Row]] = {}
    for part in arguments.parts:
        print(f"\n{part}: {PARTS[part].__doc__}")
        for row in PARTS[part](clock, arguments):
            found.setdefault(part, []).append(row)
            print(row, flush=True)
            if arguments.json is not None:
                write_json(arguments.json, {"provenance": provenance(device=arguments.device), **found})


if __name__ == "__main__":
    main()
