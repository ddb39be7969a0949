"""Phonons of copper from hot supercells: PaiNN trained on EMT energies and forces, with and without recorded HVPs.

    python workflows/phonons_emt.py tune  --out runs/phonons    # three weights per scheme, judged on validation frames
    python workflows/phonons_emt.py run   --out runs/phonons    # trains what is not trained yet, then scores
    python workflows/phonons_emt.py score --out runs/phonons --json workflows/results/phonons_emt.json

Every run (method, seed) is one training run of the same time on one thread of an idle machine: epochs follow from the
processor time of one epoch, measured first and interleaved. Finished runs are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.md.langevin import Langevin
from ase.optimize import BFGS

from phl_ase.calculator import PHLCalculator
from phl_ase.curvature import finite_difference_hvp
from phl_ase.datasets import DatasetMeta, MemoryDataset, open_dataset, write_dataset
from phl_ase.phonons import force_constants, make_phonopy, phonons_of
from phl_ase.plots.phonons import draw
from phl_ase.plots.style import to_png
from phl_ase.results import provenance, render_table, write_json
from phl_ase.structures import Frame, atoms_from_frame, frame_from_atoms
from phl_ase.training import RunData, TrainConfig, parse_config, train
from phl_ase.validators.phonons import OWN_DISPLACEMENTS, validate_phonons

METAL = "Cu"
# temperature of the dynamics, K -> linear expansion of the cell
TEMPERATURES = {300: 1.0, 600: 1.005, 900: 1.01}
WARM_UP_STEPS, GAP_STEPS, STEP_FS = 400, 20, 5.0  # 20 times the thermostat's relaxation time; 100 fs apart
PROBES = 1  # recorded HVPs per frame, two gradients each
# one frame with HVPs costs as much as this many with energies and forces alone
GRADIENTS = 1 + 2 * PROBES
CORE, HELD_OUT = 2, 4  # frames per temperature: to train on with HVPs; for validation and test together
SUPERCELL = (5, 5, 5)  # of the primitive cell
SECONDS = 24.0
MODEL = {"channels": 32, "layers": 2, "n_basis": 8, "cutoff": 5.0}
TRAINING = {"batch_size": 2, "checkpoint_seconds": 30.0, "device": "cpu"}


@dataclass(frozen=True)
class TrainingMethod:
    """What is compared: a scheme on some of the frames.

    Attributes:
        scheme: Name of the training scheme.
        every: Which of the labelled frames it sees: each one, or those that carry HVPs.
    """

    scheme: str
    every: int


METHODS = {
    "E-F": TrainingMethod("E-F", GRADIENTS),
    "E-F, equal gradient calls": TrainingMethod("E-F", 1),
    "E-F-HVP-random": TrainingMethod("E-F-HVP-random", GRADIENTS),
}
# equal effort: three weights for each scheme, see `tune`
GRID: dict[str, tuple[dict[str, float], ...]] = {
    "E-F": tuple({"energy": weight} for weight in (0.3, 1.0, 3.0)),
    "E-F-HVP-random": tuple({"energy": 1.0, "curvature": weight} for weight in (4.0, 16.0, 64.0)),
}


# -------------------------------------------------------------------------------------------------------------- labels


def unit_cell() -> Atoms:
    """The primitive cell, relaxed with EMT."""
    atoms = bulk(METAL)
    atoms.calc = EMT()
    with BFGS(FrechetCellFilter(atoms), logfile=None) as optimiser:
        optimiser.run(fmax=1e-6)
    return Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=True)


def label() -> list[Frame]:
    """Frames of Langevin dynamics with EMT; every third to train on, and all held out, carry recorded HVPs."""
    constant = float(np.sqrt(2) * unit_cell().cell.cellpar()[0])
    frames = []
    for temperature, expansion in TEMPERATURES.items():
        rng = np.random.default_rng(temperature)
        atoms = bulk(METAL, a=constant * expansion, cubic=True) * (2, 2, 2)
        atoms.calc = EMT()
        # the centre of mass wanders, which changes nothing here
        dynamics = Langevin(
            atoms, STEP_FS * units.fs, temperature_K=temperature, friction=0.01 / units.fs, fixcm=False, rng=rng
        )
        dynamics.run(WARM_UP_STEPS)
        for index in range(CORE * GRADIENTS + HELD_OUT):
            dynamics.run(GAP_STEPS)
            held_out = index >= CORE * GRADIENTS
            frames.append(labelled(atoms, rng, temperature, hvps=held_out or index % GRADIENTS == 0))
    return frames


def labelled(atoms: Atoms, rng: np.random.Generator, temperature: float, *, hvps: bool) -> Frame:
    """One frame of the dynamics with its labels."""
    labels: dict[str, Any] = {"energy": float(atoms.get_potential_energy()), "forces": atoms.get_forces()}
    if hvps:
        probes = rng.choice([-1.0, 1.0], size=(PROBES, len(atoms), 3))
        copy = atoms.copy()
        copy.calc = EMT()
        labels |= {"probes": probes, "hvp": finite_difference_hvp(probes, copy)}
    return dataclasses.replace(frame_from_atoms(atoms), kind="md", temperature=float(temperature), **labels)


def open_frames(out: Path) -> list[Frame]:
    """The labelled frames, made once."""
    path = out / "frames.h5"
    if not path.exists():
        write_dataset(path, MemoryDataset(label(), DatasetMeta(level_of_theory="EMT (ASE)")))
    with open_dataset(str(path)) as dataset:
        return dataset.frames()


def parts(frames: list[Frame], every: int) -> RunData:
    """Train, validation and test frames of a method; the held-out ones are the same for all."""
    per_temperature = CORE * GRADIENTS + HELD_OUT
    chosen: dict[str, list[Frame]] = {"train": [], "valid": [], "test": []}
    for position, frame in enumerate(frames):
        place = position % per_temperature
        if place < CORE * GRADIENTS:
            if place % every == 0:
                chosen["train"].append(frame)
        else:
            chosen["valid" if place % 2 == 0 else "test"].append(frame)
    return RunData(**chosen, provenance={"level_of_theory": "EMT (ASE)", "training_frames": len(chosen["train"])})


# ------------------------------------------------------------------------------------------------------------ training


def config(scheme: str, epochs: int, loss: dict[str, float], seed: int = 0, validate_every: int = 0) -> TrainConfig:
    """Configuration of one run."""
    training = {**TRAINING, "epochs": epochs, "seed": seed, "validate_every": validate_every or max(2, epochs // 40)}
    return parse_config(
        {
            "potential": MODEL,
            "scheme": {"name": scheme, "regime": "fixed", "n_probes": PROBES},
            "loss": loss,
            "training": training,
        }
    )


def seconds_per_frame(frames: list[Frame], out: Path) -> dict[str, float]:
    """Processor time that one training frame takes in each scheme: the least of three, interleaved."""
    path = out / "seconds.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    fastest = dict.fromkeys(GRID, float("inf"))
    data = parts(frames, GRADIENTS)
    for scheme in GRID:
        processor_time(scheme, 1, data)  # loads and warms up what the first run needs
    for _ in range(3):
        for scheme in GRID:
            # what starting, stopping and validating take drops out of the difference
            times = {epochs: processor_time(scheme, epochs, data) for epochs in (1, 4)}
            fastest[scheme] = min(fastest[scheme], (times[4] - times[1]) / (3 * len(data.train)))
    write_json(path, fastest)
    return fastest


def processor_time(scheme: str, epochs: int, data: RunData) -> float:
    """Processor time of a short run, which validates once."""
    settings = config(scheme, epochs, {}, validate_every=epochs)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        train(settings, data, folder)
        return time.process_time() - started


@dataclass(frozen=True)
class TrainingRun:
    """One run: its folder, frames, scheme, number of epochs, loss weights and seed."""

    folder: Path
    data: RunData
    scheme: str
    epochs: int
    loss: dict[str, float]
    seed: int


def run_one(run: TrainingRun) -> None:
    """Train and score on held-out frames; a run that was stopped goes on."""
    torch.set_num_threads(1)
    started = time.process_time()
    settings = config(run.scheme, run.epochs, run.loss, run.seed)
    result = train(settings, run.data, run.folder, resume=(run.folder / "last.ckpt").exists())
    content: dict[str, Any] = {"processor_seconds": time.process_time() - started, "epochs": run.epochs}
    content |= {part: errors(str(result.model), getattr(run.data, part)) for part in ("valid", "test")}
    content |= {"scheme": run.scheme, "seed": run.seed, "loss": run.loss, "best_epoch": result.best_epoch}
    write_json(run.folder / "held_out.json", {**content, "training_frames": len(run.data.train)})
    print(run.folder.name, content, flush=True)


def run_all(runs: list[TrainingRun], processes: int) -> None:
    """Run what is not finished."""
    waiting = [run for run in runs if not (run.folder / "held_out.json").exists()]
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        pool.map(run_one, waiting, chunksize=1)


def errors(model: str, frames: list[Frame]) -> dict[str, float]:
    """Mean absolute errors of energies (meV/atom), forces (meV/Å) and HVPs (eV/Å²)."""
    calculator = PHLCalculator(model, device="cpu")
    found: dict[str, list[float]] = {"energy": [], "forces": [], "hvp": []}
    for frame in frames:
        atoms = atoms_from_frame(frame)
        atoms.calc = calculator
        found["energy"].append(1e3 * abs(atoms.get_potential_energy() - frame.energy) / len(frame))
        found["forces"].append(1e3 * float(np.abs(atoms.get_forces() - frame.forces).mean()))
        hvps = calculator.get_hvp(frame.probes, atoms)
        found["hvp"].append(float(np.abs(hvps - frame.hvp).mean()))
    return {name: float(np.mean(values)) for name, values in found.items()}


def tune(out: Path, seconds: float, processes: int) -> dict[str, dict[str, float]]:
    """The weight of each scheme with the smallest log errors of forces and HVPs on the validation frames.

    Not of energies: those who want phonons would not give up forces for them.
    """
    frames = open_frames(out)
    speed, data = seconds_per_frame(frames, out), parts(frames, GRADIENTS)
    runs = {
        scheme: [
            TrainingRun(out / f"tune-{scheme}-{k}", data, scheme, epochs_within(seconds, speed[scheme], data), loss, 0)
            for k, loss in enumerate(grid)
        ]
        for scheme, grid in GRID.items()
    }
    run_all([run for group in runs.values() for run in group], processes)
    best = {}
    for scheme, group in runs.items():
        valid = [held_out(run.folder)["valid"] for run in group]
        scores = [np.log(found["forces"]) + np.log(found["hvp"]) for found in valid]
        best[scheme] = GRID[scheme][int(np.argmin(scores))]
        print(scheme, [round(float(score), 3) for score in scores], "best:", best[scheme], flush=True)
    return best


def epochs_within(seconds: float, per_frame: float, data: RunData) -> int:
    """Epochs that fit a processor time."""
    return max(4, round(seconds / (per_frame * len(data.train))))


def held_out(folder: Path) -> dict[str, Any]:
    """What a finished run left."""
    return dict(json.loads((folder / "held_out.json").read_text()))


def folder_of(out: Path, method: str, seed: int) -> Path:
    """Folder of a run."""
    return out / f"{method.replace(', ', '-').replace(' ', '-')}-{seed}"


def run(out: Path, seeds: int, tuning_seconds: float, processes: int) -> None:
    """Train every run."""
    weights = tune(out, tuning_seconds, processes)
    frames = open_frames(out)
    speed, runs = seconds_per_frame(frames, out), []
    for seed in range(seeds):
        for name, method in METHODS.items():
            data = parts(frames, method.every)
            epochs = epochs_within(SECONDS, speed[method.scheme], data)
            runs.append(
                TrainingRun(folder_of(out, name, seed), data, method.scheme, epochs, weights[method.scheme], seed)
            )
    run_all(runs, processes)


# ------------------------------------------------------------------------------------------------------------- scoring


def score(out: Path, seeds: int, target: Path | None) -> None:
    """Phonons of every finished run against EMT's in the same crystal; tables, figure and JSON."""
    phonon = make_phonopy(unit_cell(), SUPERCELL)
    reference = phonons_of(phonon, force_constants(phonon, EMT()))
    check = validate_phonons(phonon, EMT(), OWN_DISPLACEMENTS, system=METAL, potential="EMT", distance=0.002)
    runs, reports = {}, []
    for name in METHODS:
        for seed in range(seeds):
            folder = folder_of(out, name, seed)
            if not (folder / "held_out.json").exists():
                print(f"{name}, seed {seed}: not finished")
                continue
            calculator = PHLCalculator(str(folder / "best.safetensors"), device="cpu")
            report = validate_phonons(phonon, calculator, reference, system=METAL, potential=f"{name}, seed {seed}")
            reports.append(report)
            metrics = {f"{m.name} / {m.unit}" if m.unit else m.name: m.value for m in report.metrics}
            runs[report.potential] = {"method": name, "outcome": report.outcome, **held_out(folder), "phonons": metrics}
    print(render_table([check, *reports]))
    means = summary(runs)
    for name, row in means.items():
        print(f"{name:26s}", "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    (out / "phonons.png").write_bytes(to_png(draw, reports[: len(METHODS) * seeds : seeds]))
    if target:
        content = {
            "command": f"python workflows/phonons_emt.py run --out runs/phonons --seeds {seeds} "
            "--json workflows/results/phonons_emt.json",
            "provenance": provenance(),
            "settings": {"metal": METAL, "supercell": SUPERCELL, "seconds": SECONDS, "model": MODEL, "seeds": seeds}
            | {"training": TRAINING, "probes": PROBES, "temperatures": TEMPERATURES, "grid": GRID},
            "processor_seconds_per_frame": json.loads((out / "seconds.json").read_text()),
            "own_displacements_with_emt": {m.name: m.value for m in check.metrics},
            "runs": runs,
            "means": means,
        }
        write_json(target, content)


# name in the summary -> where it stands in a run
SUMMARY = {
    "band MAE / THz": ("phonons", "band MAE / THz"),
    "largest band error / THz": ("phonons", "largest band error / THz"),
    "DOS distance / THz": ("phonons", "DOS distance / THz"),
    "|free energy error| at 300 K / meV": ("phonons", "error of free energy at 300 K / meV"),
    "energy MAE / meV/atom": ("test", "energy"),
    "force MAE / meV/Å": ("test", "forces"),
    "HVP MAE / eV/Å²": ("test", "hvp"),
}


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over the seeds of each method; errors with a sign by modulus."""
    rows = {}
    for method in METHODS:
        chosen = [run for run in runs.values() if run["method"] == method]
        if chosen:
            rows[method] = {
                name: float(np.mean([abs(run[part][key]) for run in chosen])) for name, (part, key) in SUMMARY.items()
            }
            rows[method] |= {name: chosen[0][name] for name in ("epochs", "training_frames")}
    return rows


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("tune", "run", "score"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tuning-seconds", type=float, default=12.0)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if arguments.task == "tune":
        tune(arguments.out, arguments.tuning_seconds, arguments.processes)
        return
    if arguments.task == "run":
        run(arguments.out, arguments.seeds, arguments.tuning_seconds, arguments.processes)
    score(arguments.out, arguments.seeds, arguments.json)


if __name__ == "__main__":
    main()
