"""Fine-tuning models of other packages in equal time: energies and forces, or a Hessian-vector product a frame as well.

    python workflows/finetuning.py run   --out runs/finetuning --seeds 3   # restartable; or --potential NAME
    python workflows/finetuning.py table --out runs/finetuning --seeds 3 --json workflows/results/finetuning.json

Small models are trained from scratch on energies and forces, then every method goes on from the same model, on the same
frames, for the same processor time. Time goes by the processor's clock, on one thread: a step's is measured first, and
the number of epochs chosen from it. No training frame is a stationary point: all of these are tested, and a search
starts near each transition state, with the models of the first seed. A seed draws frames, weights and the order of
steps. Finished runs are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finetuning_models import CUTOFF, SETTINGS, write_untrained
from finetuning_table import figure, rows, text
from label_cost import means, score, without_hessians
from label_cost_frames import with_hvps

from phl_ase.calculator import PHLCalculator
from phl_ase.datasets import MemoryDataset, open_dataset, reactions_of, split, write_split
from phl_ase.paths import displaced
from phl_ase.plots.style import to_png
from phl_ase.reference import Probes
from phl_ase.results import provenance, write_json
from phl_ase.scoring import STATIONARY
from phl_ase.structures import Frame
from phl_ase.study.references import labelled_reaction
from phl_ase.training import RunData, TrainConfig, parse_config, train
from phl_ase.validators import validate_transition_state

DATA = "reactions-wb97xd-631gd"
BATCH = 16
RATE, FINE_TUNING_RATE = 5e-3, 2e-3
CURVATURE = 0.05
"""Weight of curvature: the best of three for HVPs in ``label_cost.py`` at 1,000 steps; others are defaults."""
PRETRAINING = 1.5
"""Processor time of the pre-training, in those of a fine-tuning, unless it is said."""
SEARCH_RMS, SEARCH_STEPS = 0.1, 100
SEARCHED = 0
"""The seed whose models search."""
BEFORE = "before"
PARTS = ("trained", "scores", "searches")


@dataclass(frozen=True)
class TrainingMethod:
    """How to go on from a trained model.

    Attributes:
        title: In tables.
        scheme: Training scheme.
        recorded: HVPs that a frame carries, which is then all that is known of its Hessian; 0 where a Hessian is
            given.
        hvps: How they are taken of the model, as configurations say it.
    """

    title: str
    scheme: str
    recorded: int = 0
    hvps: str = "exact"


METHODS = {
    "E-F": TrainingMethod("energies and forces", "E-F"),
    "HVP fixed": TrainingMethod("and one recorded HVP a frame", "E-F-HVP-random", 1),
    "HVP fresh": TrainingMethod("and new HVPs of Hessians", "E-F-HVP-random"),
    "HVP fresh differences": TrainingMethod("the same, by differences of forces", "E-F-HVP-random", hvps="differences"),
}


# ---------------------------------------------------------------------------------------------------------------- data


def parts(out: Path, seed: int) -> dict[str, list[Frame]]:
    """Frames to train, choose and test with, written once: whatever becomes of the bundled data, a study has its own.

    All stationary points are tested, none is trained on; the others are divided at random, evenly over their kinds.
    """
    folder = seed_folder(out, seed) / "data"
    if not (folder / "split.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open_dataset(DATA) as dataset:
            drawn = split(dataset, "random", seed)
            moved = np.flatnonzero(np.isin(dataset.kinds, STATIONARY)).tolist()
            kept = {part: tuple(sorted(set(getattr(drawn, part)) - set(moved))) for part in ("train", "valid", "test")}
            kept["test"] = tuple(sorted({*kept["test"], *moved}))
            write_split(dataset, dataclasses.replace(drawn, name="random, stationary points to test", **kept), folder)
    found = {}
    for part in ("train", "valid", "test"):
        with open_dataset(str(folder / f"{part}.h5")) as dataset:
            found[part] = dataset.frames()
    return found


def labelled(frames: Sequence[Frame], method: TrainingMethod, seed: int) -> list[Frame]:
    """What a method knows of the frames: with ``recorded`` HVPs, these and no Hessian."""
    if not method.recorded:
        return list(frames)
    probes = Probes("rademacher", method.recorded, seed)
    return [with_hvps(frame, probes) for frame in frames]


# ------------------------------------------------------------------------------------------------------------ training


def configuration(start: str, method: TrainingMethod, epochs: int, rate: float, seed: int = 0) -> TrainConfig:
    """Configuration of a run from a model."""
    return parse_config(
        {
            "potential": {"from": start},
            "loss": {"curvature": CURVATURE},
            "scheme": {
                "name": method.scheme,
                "regime": "fixed" if method.recorded else "fresh",
                "n_probes": max(1, method.recorded),
                "hvp": method.hvps,
            },
            "training": {
                "epochs": epochs,
                "batch_size": BATCH,
                "learning_rate": rate,
                "seed": seed,
                "warmup_epochs": min(2, epochs - 1),
                "validate_every": max(1, epochs // 15),
                "dtype": "float64",
                "device": "cpu",
                "checkpoint_seconds": 20.0,
            },
        }
    )


def trained(
    folder: Path,
    start: str,
    method: TrainingMethod,
    frames: dict[str, list[Frame]],
    *,
    rate: float,
    seconds: float,
    seed: int,
) -> str:
    """A model trained from another for so many seconds of processor time, once; its file as configurations call it."""
    kind = start.partition(":")[0]
    model = folder / "run" / "best.model"
    if not (folder / "trained.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        # chosen among epochs by energies and forces, whatever the method
        data = RunData(labelled(frames["train"], method, seed), without_hessians(frames["valid"]))
        epochs = max(2, round(seconds / _seconds_of_epoch(folder, start, method, data, rate)))
        config = configuration(start, method, epochs, rate, seed)
        with _counted(folder / "seconds.json"):
            result = train(config, data, folder / "run", resume=(folder / "run" / "config.json").exists())
        spent = json.loads((folder / "seconds.json").read_text())
        losses = [[r["epoch"], r["valid_energy"], r["valid_forces"]] for r in result.records if "valid_loss" in r]
        write_json(
            folder / "trained.json",
            {
                "epochs": epochs,
                "asked_seconds": seconds,
                "cpu_seconds": spent,
                "best_epoch": result.best_epoch,
                "validation": losses,
            },
        )
        print(f"{folder}: {epochs} epochs, {spent:.0f} s", flush=True)
    return f"{kind}:{model}"


def _seconds_of_epoch(folder: Path, start: str, method: TrainingMethod, data: RunData, rate: float) -> float:
    """Processor time of an epoch: half of what a run of three takes longer than one of one. Measured once and kept."""
    path = folder / "pilot.json"
    if not path.exists():
        times = []
        for attempt, epochs in enumerate((1, 1, 3)):  # the first time much is loaded and compiled
            begun = time.process_time()
            pilot = folder / f"pilot{attempt}-{time.time_ns()}"
            train(configuration(start, method, epochs, rate), data, pilot)
            times.append(time.process_time() - begun)
            for file in pilot.iterdir():
                file.unlink()
            pilot.rmdir()
        write_json(path, max((times[2] - times[1]) / 2, 1e-3))
    return float(json.loads(path.read_text()))


@contextlib.contextmanager
def _counted(path: Path) -> Iterator[None]:
    """Add the processor time of what is done inside to the number in a file, also where it is stopped."""
    begun, before = time.process_time(), float(json.loads(path.read_text())) if path.exists() else 0.0
    try:
        yield
    finally:
        write_json(path, before + time.process_time() - begun)


# ------------------------------------------------------------------------------------------------------------- scoring


def scored(folder: Path, model: str, frames: Sequence[Frame]) -> None:
    """Errors of a model on each test frame, once."""
    path = folder / "scores.json"
    if not path.exists():
        write_json(path, score(Path(model), list(frames)))
        print(f"{folder}:", *(f"{name} {value:.3g}" for name, value in means(read(path)).items()), flush=True)


def searched(folder: Path, model: str, frames: Sequence[Frame]) -> None:
    """A search near each transition state whose two ends are known, with the model's Hessians, and its path, once."""
    path = folder / "searches.json"
    found = read(path) if path.exists() else {}
    calculator = PHLCalculator(model, device="cpu")
    stationary = MemoryDataset([frame for frame in frames if frame.kind in STATIONARY])
    for name, known in reactions_of(stationary).items():
        reaction = labelled_reaction(known)
        if name in found or reaction.transition_state is None or not reaction.ends:
            continue
        report = validate_transition_state(
            displaced(reaction.transition_state.atoms, SEARCH_RMS, 0),
            calculator,
            reaction,
            potential=folder.name,
            max_steps=SEARCH_STEPS,
        )
        found[name] = report.to_dict()
        write_json(path, found)
        print(f"{folder}: {name}: {report.outcome}", flush=True)


def read(path: Path) -> dict[str, Any]:
    """What a file of the study holds."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


# --------------------------------------------------------------------------------------------------------- what is run


def seed_folder(out: Path, seed: int) -> Path:
    """Where the frames, models and runs of a seed are kept."""
    return out / f"s{seed}"


def folder_of(out: Path, kind: str, method: str, seed: int) -> Path:
    """Where a run is kept."""
    return seed_folder(out, seed) / f"{kind}-{method.replace(' ', '_')}"


def run(
    out: Path,
    kinds: Sequence[str],
    methods: Sequence[str],
    times: tuple[float, float],
    seeds: int,
    *,
    search: bool = True,
) -> None:
    """Everything that is not finished, the searches last; ``times`` are those of pre-training and of fine-tuning."""
    frames = {seed: parts(out, seed) for seed in range(seeds)}
    models: dict[tuple[Path, int], str] = {}
    for seed, kind in itertools.product(frames, kinds):
        untrained = seed_folder(out, seed) / f"{kind}-untrained.model"
        if not untrained.exists():
            write_untrained(kind, frames[seed]["train"], untrained, seed)
        start = f"{kind}:{untrained}"
        tasks = [
            (BEFORE, METHODS["E-F"], RATE, times[0]),
            *((name, METHODS[name], FINE_TUNING_RATE, times[1]) for name in methods),
        ]
        for name, method, rate, limit in tasks:
            folder = folder_of(out, kind, name, seed)
            model = trained(folder, start, method, frames[seed], rate=rate, seconds=limit, seed=seed)
            models[folder, seed] = model
            scored(folder, model, frames[seed]["test"])
            start = model if name == BEFORE else start
    for (folder, seed), model in models.items():
        if search and seed == SEARCHED:
            searched(folder, model, frames[seed]["test"])


def report(out: Path, target: Path | None, kinds: Sequence[str], asked: Sequence[str], seeds: int) -> None:
    """Print the table; write the numbers as JSON and the figure beside the runs."""
    methods = [BEFORE, *asked]
    runs = {
        (kind, method, seed): {
            part: read(path) if (path := folder_of(out, kind, method, seed) / f"{part}.json").exists() else None
            for part in PARTS
        }
        for kind in kinds
        for method in methods
        for seed in range(seeds)
    }
    found = rows(runs)
    print(text(found))
    missing = [
        f"{kind} {method}, seed {seed}: {part}"
        for (kind, method, seed), run in runs.items()
        for part in run
        if not run[part] and (part != "searches" or seed == SEARCHED)
    ]
    if missing:
        print(f"not finished: {', '.join(missing)}")
    (out / "finetuning.png").write_bytes(to_png(figure, (found, methods)))
    if target:
        divisions = [read(seed_folder(out, seed) / "data" / "split.json") for seed in range(seeds)]
        content = {
            "provenance": provenance(
                command="python workflows/finetuning.py run --seconds … --out runs/finetuning --seeds …; table …",
                threads=1,
            ),
            "settings": {
                "models": {kind: SETTINGS[kind] for kind in kinds},
                "cutoff": CUTOFF,
                "batch": BATCH,
                "loss": configuration("mace:", METHODS["HVP fixed"], 2, RATE).loss.model_dump(),
                "learning_rate": {"from scratch": RATE, "fine-tuning": FINE_TUNING_RATE},
                "frames": [{part: len(one[part]) for part in ("train", "valid", "test")} for one in divisions],
                "data": DATA,
                "data_hash": divisions[0]["dataset"],
                "methods": {name: METHODS[name].title for name in asked},
                "searches": {"start": f"{SEARCH_RMS} Å rms from the TS", "most_steps": SEARCH_STEPS},
            },
            "rows": found,
            "curves": {
                f"{kind} {method}, seed {seed}": run["trained"]["validation"]
                for (kind, method, seed), run in runs.items()
                if run["trained"]
            },
            "not_finished": missing,
        }
        write_json(target, content)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("run", "table"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="where `table` writes the numbers")
    parser.add_argument("--potential", choices=SETTINGS, action="append", help="one of them; both by default")
    parser.add_argument("--method", choices=METHODS, action="append", help="one of them; all by default")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0")
    parser.add_argument("--seconds", type=float, default=100.0, help="processor time of a fine-tuning")
    parser.add_argument("--pretraining", type=float, help="of the pre-training; one and a half of these by default")
    parser.add_argument("--no-searches", action="store_true", help="train and score alone")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    kinds = arguments.potential or list(SETTINGS)
    methods = arguments.method or list(METHODS)
    if arguments.task == "run":
        times = (arguments.pretraining or PRETRAINING * arguments.seconds, arguments.seconds)
        run(arguments.out, kinds, methods, times, arguments.seeds, search=not arguments.no_searches)
    else:
        report(arguments.out, arguments.json, kinds, methods, arguments.seeds)


if __name__ == "__main__":
    main()
