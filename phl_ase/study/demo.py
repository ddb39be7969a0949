"""``phl demo``: the four schemes trained alike on small molecules, and what each is good for afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from phl_ase.calculator import PHLCalculator
from phl_ase.errors import PHLError
from phl_ase.files import write_atomic
from phl_ase.objective import SCHEMES
from phl_ase.potentials.model_file import load_model, save_model
from phl_ase.progress import Progress
from phl_ase.results import plain, provenance
from phl_ase.structures import Frame
from phl_ase.study.compare import Trained, new_folder, train_schemes
from phl_ase.study.figures import FIGURES, draw_figures
from phl_ase.study.report import render_report
from phl_ase.study.scores import START_RMS, Questions, linear_end_names, score
from phl_ase.study.table import table_text
from phl_ase.training import RunData, TrainConfig, parse_config, prepare_data
from phl_ase.training.checkpoint import run_folder

EPOCHS = 150
"""Epochs of every scheme: about 6 minutes on two cores that do nothing else; E-F-H takes that long, the others less."""

QUICK_EPOCHS = 5
QUICK_CHANNELS = 16

REACTION = "hcn_hnc"
"""The reaction whose TS is searched."""

DATA = {
    "max_atoms": 4,
    "split": "random",
    # a quarter to test on, and of the seeds from 0 on the first whose test part holds the TS of the reaction above
    # and at least two others: how well they are predicted had no part in the choice
    "fractions": (0.65, 0.10, 0.25),
    "split_seed": 1,
}
"""Which frames train and test: the same for every scheme."""

RESULTS, REPORT, MODELS, TRAINING = "results.json", "report.html", "models", "training"
_FORMAT = "phl demo"


def demo_configs(epochs: int, *, quick: bool = False) -> dict[str, TrainConfig]:
    """The configurations of a demo: scheme -> configuration, alike but for the scheme.

    Args:
        epochs: Epochs of every scheme.
        quick: Smaller models, to see that everything runs.
    """
    potential = {"channels": QUICK_CHANNELS} if quick else {}
    return {
        name: parse_config(
            {"data": DATA, "potential": potential, "scheme": {"name": name}, "training": {"epochs": epochs}}
        )
        for name in SCHEMES
    }


def run_demo(
    folder: str | Path, *, epochs: int | None = None, processes: int = 2, quick: bool = False
) -> dict[str, Any]:
    """Train every scheme on bundled data, score the models, write models, numbers, figures and a report.

    A demo that was stopped goes on where it was when it is run again into the same folder with the same settings.

    Args:
        folder: Where everything is written: ``results.json``, ``report.html``, figures, ``models/<scheme>.safetensors``
            and the runs in ``training/<scheme>``.
        epochs: Epochs of every scheme; ``EPOCHS`` by default, ``QUICK_EPOCHS`` where quick.
        processes: How many schemes train at once, one thread each.
        quick: A few epochs of small models: shows the way, no result.

    Returns:
        What stands in ``results.json``, besides ``table`` (the table as text) and ``report`` (path of the report).

    Raises:
        PHLError: For a folder that cannot be written, is in use or holds a finished demo or one with other settings.
        Stopped: After Ctrl-C or SIGTERM while training.
    """
    started = time.monotonic()
    configs = demo_configs((QUICK_EPOCHS if quick else EPOCHS) if epochs is None else epochs, quick=quick)
    with run_folder(folder, resume=False) as root:
        _refuse_finished(root)
        data = prepare_data(next(iter(configs.values())))
        questions = demo_questions(data)
        trained = train_schemes(configs, data, root / TRAINING, processes)
        schemes = _score_all(trained, configs, questions, root)
        results = {
            "format": _FORMAT,
            "schema": 1,
            "settings": {
                "quick": quick,
                "processes": processes,
                "config": next(iter(configs.values())).to_json() | {"scheme": "each in turn"},
            },
            "data": _data(data, questions),
            "schemes": schemes,
            "seconds": round(time.monotonic() - started, 1),
            "provenance": provenance(),
        }
        results["notes"] = _notes(results)
        results = plain(results)
        results["table"] = table_text(results)
        _write(root, results)
    return {**results, "report": str(root / REPORT)}


def demo_questions(data: RunData) -> Questions:
    """What the demo asks of every model: test frames, TSs among them, the search and the ends of its reaction."""
    frames = [*data.train, *data.valid, *data.test]
    found: dict[str, Frame] = {f.kind: f for f in frames if f.reaction == REACTION and f.kind != "nms"}
    return Questions(
        frames=data.test,
        stationary=frames,
        transition_states=[f for f in data.test if f.kind == "ts"],
        search=found["ts"],
        ends=linear_end_names(found["reactant"], found["product"]),
    )


def _refuse_finished(root: Path) -> None:
    try:
        previous = json.loads((root / RESULTS).read_text(encoding="utf-8"))
        outcomes = {entry["outcome"] for entry in previous["schemes"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if outcomes == {"trained"}:
        raise PHLError(f"{root} holds a finished demo (see {root / REPORT}); choose another folder with --out")


def _score_all(
    trained: Mapping[str, Trained], configs: Mapping[str, TrainConfig], questions: Questions, root: Path
) -> dict[str, Any]:
    models = root / MODELS
    new_folder(models)
    schemes: dict[str, Any] = {}
    with Progress("scoring", len(trained)) as progress:
        for name, run in trained.items():
            schemes[name] = {
                "description": SCHEMES[name].description,
                "outcome": run.outcome,
                "reason": run.reason,
                "training": {
                    "seconds": run.seconds,
                    "cpu_seconds": run.cpu_seconds,
                    "best_epoch": run.best_epoch,
                    "best_validation_loss": run.best_loss,
                },
                "records": run.records,
                "scores": None,
            }
            if run.succeeded:
                _score_one(schemes[name], name, run, configs[name], questions, models)
            progress.advance(name)
    return schemes


def _score_one(
    entry: dict[str, Any], name: str, run: Trained, config: TrainConfig, questions: Questions, models: Path
) -> None:
    """Fill in a scheme's scores and write its model; a model that cannot answer is a failed scheme."""
    try:
        calculator = PHLCalculator(str(run.model), device=config.training.device)
        entry["scores"] = score(calculator, name, questions)
    except PHLError as error:
        entry["outcome"], entry["reason"] = "failed", f"trained, but cannot be scored: {' '.join(str(error).split())}"
        return
    model: Any = load_model(run.model, dtype=getattr(torch, config.training.dtype))
    metrics = entry["scores"]["accuracy"]["metrics"]
    errors = {f"{m['name']} / {m['unit']}" if m["unit"] else m["name"]: m["value"] for m in metrics}
    file = save_model(models / f"{name}.safetensors", model, {**model.provenance, "test_errors": errors})
    entry["model"] = f"{MODELS}/{file.name}"


def _data(data: RunData, questions: Questions) -> dict[str, Any]:
    """What was trained on, chosen by, tested on."""
    parts = {"train": data.train, "valid": data.valid, "test": data.test}
    search = questions.search
    reaction = "" if search is None else search.reaction
    return {
        **data.provenance,
        **{key: data.split.get(key) for key in ("name", "seed", "fractions")},
        "max_atoms": DATA["max_atoms"],
        "reactions": sorted({f.reaction for f in questions.stationary}),
        "frames": {part: len(frames) for part, frames in parts.items()},
        "transition_states": {part: [f.reaction for f in frames if f.kind == "ts"] for part, frames in parts.items()},
        "search": {
            "reaction": reaction,
            "name": " → ".join(questions.ends or {}),
            "start_rms": START_RMS,
            "seed": questions.seed,
            "ts_in": next((part for part, frames in parts.items() if any(f is search for f in frames)), "none"),
            "frames": {part: sum(f.reaction == reaction for f in frames) for part, frames in parts.items()},
        },
    }


def _notes(results: Mapping[str, Any]) -> list[str]:
    """What a reader of the table must know: failures first."""
    data, config = results["data"], results["settings"]["config"]
    search, states = data["search"], data["transition_states"]
    failed = [f"{n} failed: {e['reason']}." for n, e in results["schemes"].items() if e["outcome"] != "trained"]
    quick = ["Quick mode: a few epochs of small models; the numbers show the way and are no result."]
    return [
        *failed,
        *(quick if results["settings"]["quick"] else []),
        f"Data: {data['data']} ({data['level_of_theory']}), molecules of up to {data['max_atoms']} atoms: "
        f"{data['frames']['train']} frames to train on, {data['frames']['valid']} to choose the model by, "
        f"{data['frames']['test']} to test; {config['training']['epochs']} epochs for every scheme.",
        "near: stationary points and normal-mode samples up to 600 K; far: hotter samples, points on reaction paths, "
        "structures displaced at random.",
        f"TSs not trained on: {', '.join(states['test'])}. TSs trained on: {', '.join(states['train']) or 'none'}. "
        "The split is random over frames, so other geometries of every reaction were in training.",
        f"{search['name']} ({search['reaction']}): the TS itself was in the {search['ts_in']} part; of the reaction's "
        f"frames {search['frames']['train']} were trained on. The search starts {search['start_rms']} Å (RMS) from the "
        "DFT TS; 'found' means that the path from where it ended leads both ways to the DFT end points. Barriers are "
        "from the ends of the path, relaxed with the model.",
    ]


def _write(root: Path, results: dict[str, Any]) -> None:
    """Figures and report first: results.json is what says that a demo is finished."""
    drawn = draw_figures(results)
    for name, content in drawn.items():
        write_atomic(root / f"{name}.png", content)
    results["figures"] = {f"{name}.png": caption for name, (_, caption) in FIGURES.items()}
    write_atomic(root / REPORT, render_report(results, drawn).encode())
    write_atomic(root / RESULTS, (json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
