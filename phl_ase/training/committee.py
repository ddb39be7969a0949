"""Committees: members trained alike but for their random numbers, and what their spread means on frames unseen by all.

Every member learns from the training part of the split, less a few frames of its own that it is watched on. The
validation part of the split calibrates the spread: no member has seen it. The test part is nobody's.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from phl_ase import __version__, jobs
from phl_ase.adapters import is_foreign
from phl_ase.errors import PHLError, Stopped
from phl_ase.files import write_atomic
from phl_ase.potentials import Calibration, Model, load_model, save_committee
from phl_ase.potentials.cards import find_model, members_of, read_card
from phl_ase.potentials.references import species_of
from phl_ase.structures import Frame, atoms_from_frame
from phl_ase.trained_on import training_record
from phl_ase.training.checkpoint import CONFIG, LAST, SPLIT, changed_settings, last_epoch, run_folder
from phl_ase.training.config import TrainConfig, parse_config
from phl_ase.training.setup import RunData
from phl_ase.training.trainer import TrainResult, train

COMMITTEE, MEMBERS = "committee.safetensors", "committee.json"
"""File of the committee in its folder, and of what it is made of."""

VALID = 0.05
"""Share of the training frames that each member is watched on."""

FEWEST = 5
"""Frames with energies and forces that calibrate, at least."""


@dataclass(frozen=True)
class CommitteeResult:
    """Result of the training of a committee.

    Attributes:
        folder: Its folder: ``committee.safetensors``, and ``member-1``, ``member-2``, … with the run of each.
        members: The results of their runs.
        calibration: What the spread means.
    """

    folder: Path
    members: tuple[TrainResult, ...]
    calibration: Calibration

    @property
    def model(self) -> Path:
        """File of the committee."""
        return self.folder / COMMITTEE


def train_committee(
    config: TrainConfig,
    data: RunData,
    folder: str | Path,
    members: int,
    *,
    resume: bool = False,
    processes: int = 1,
    said: Callable[[str], None] = lambda _: None,
) -> CommitteeResult:
    """Train the members of a committee, calibrate it and write it as one file.

    Args:
        config: Of every member; the seed of member k is ``training.seed`` + k − 1.
        data: Frames as :func:`phl_ase.training.prepare_data` divides them; the validation frames calibrate.
        folder: Where to keep the files; the run of each member in a folder of its own.
        members: How many, two or more.
        resume: Go on with the members that are not finished, to the same result as without a break.
        processes: Members trained at once, each by a process of one thread; 1: one after the other, here.
        said: Told of each finished member.

    Raises:
        PHLError: For fewer than two members, too few frames to calibrate with, another number of members than the
            folder was started with, …; as :func:`phl_ase.training.train`.
        Stopped: After Ctrl-C or SIGTERM; what was trained is kept.
    """
    _check(config, data, members)
    with run_folder(folder, resume=resume) as path:
        if resume:
            before = recorded_members(path)
            if before is None:
                raise PHLError(f"{path} holds a run of a single model; leave --members out, or choose another folder")
            if before != members:
                raise PHLError(
                    f"{path}: the committee was started with {before} members, not {members}; resume it unchanged"
                )
            old = json.loads((path / CONFIG).read_text(encoding="utf-8"))
            if changed := changed_settings(old, config.to_json()):
                raise PHLError(f"{path}: the committee was started with another {changed}; resume it unchanged")
        else:
            write_atomic(path / MEMBERS, json.dumps({"members": members}).encode())
            write_atomic(path / SPLIT, json.dumps(data.split, indent=1).encode())
            write_atomic(path / CONFIG, json.dumps(config.to_json(), indent=1).encode())
        runs = {k: (*member_run(config, data, k), path / f"member-{k}") for k in range(1, members + 1)}
        if processes > 1:
            _train_at_once(runs, path, processes)
        results = []
        for k, run in runs.items():
            try:
                results.append(_train_member(run))
            except Stopped as stop:
                at = str(stop).partition(";")[0]
                raise Stopped(
                    f"member {k} of {members}: {at}; nothing is lost: continue with --resume --out {path}"
                ) from None
            said(f"member {k} of {members}: epoch {results[-1].best_epoch}, loss {results[-1].best_loss:.4g}")
        card = {
            **data.provenance,
            "scheme": read_card(results[0].model)["provenance"]["scheme"],
            "config": config.to_json(),
            "split": dict(data.split),
            # the members' own cards record what each has learnt from
            **training_record([*data.train, *data.replay], data.valid),
            "versions": {"phl_ase": __version__, "torch": torch.__version__},
        }
        models = [load_model(one.model, dtype=getattr(torch, config.training.dtype)) for one in results]
        calibration = save_calibrated(path / COMMITTEE, models, [*data.train, *data.replay], data.valid, card)
        return CommitteeResult(path, tuple(results), calibration)


MemberRun = tuple[TrainConfig, RunData, Path]
"""What a member is trained with, and its folder."""


def _train_member(run: MemberRun) -> TrainResult:
    """Train a member, or go on with it."""
    config, data, folder = run
    return train(config, data, folder, resume=(folder / LAST).exists())


def _in_a_process() -> Callable[[MemberRun], None]:
    """Return what trains members in a worker process."""
    torch.set_num_threads(1)

    def do(run: MemberRun) -> None:
        try:
            _train_member(run)
        except Stopped:  # the process was told to end
            raise KeyboardInterrupt from None

    return do


def _train_at_once(runs: Mapping[int, MemberRun], folder: Path, processes: int) -> None:
    """Train members in processes; each leaves its run in its folder."""

    def task(k: int, run: MemberRun) -> jobs.Task:
        epochs = run[0].training.epochs

        def progress() -> tuple[float, str]:
            epoch = last_epoch(run[2])
            return epoch / epochs, f"epoch {epoch} of {epochs}"

        return jobs.Task(f"member {k}", jobs.digest(k), run, progress=progress)

    tasks = [task(k, run) for k, run in runs.items()]
    with TemporaryDirectory() as scratch, jobs.open_store(scratch) as store:
        try:
            jobs.run(tasks, _in_a_process, store, executor=jobs.processes(processes), title="members", lines=True)
        except KeyboardInterrupt:
            raise Stopped(f"stopped; nothing is lost: continue with --resume --out {folder}") from None
        for one in tasks:
            if (record := store.get(one.key)) is not None and record.failure is not None:
                raise PHLError(f"{one.name}: {record.failure.reason}")


def save_calibrated(
    path: Path, members: Sequence[Model], seen: Sequence[Frame], held_out: Sequence[Frame], card: Mapping[str, Any]
) -> Calibration:
    """Calibrate a committee and write it as one file.

    Args:
        path: The file.
        members: Trained models.
        seen: Frames that they learnt from.
        held_out: Frames that none of them has seen.
        card: What the card says of the committee.

    Returns:
        The calibration that was written.

    Raises:
        PHLError: For too few held-out frames with energies and forces, members that do not differ or do not agree, or
            a file that cannot be written.
    """
    from phl_ase.calculator import PHLCalculator

    # labels of other frames calibrate nothing
    labelled = [frame for frame in held_out if frame.energy is not None and frame.forces is not None]
    calculator = PHLCalculator(list(members), device="cpu", out_of_domain="ignore")
    predictions = calculator.evaluate([atoms_from_frame(frame) for frame in labelled], ("energy", "forces"))
    calibration = Calibration.fit(labelled, predictions, seen)
    save_committee(path, members, card, calibration)
    return calibration


def recorded_members(folder: str | Path) -> int | None:
    """Return how many members the committee in a folder was started with; ``None`` where there is none.

    Raises:
        PHLError: For a record that cannot be read.
    """
    file = Path(folder) / MEMBERS
    try:
        return int(json.loads(file.read_text(encoding="utf-8"))["members"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise PHLError(f"{file} cannot be read ({error}); train anew into another folder") from None


def member_run(config: TrainConfig, data: RunData, member: int) -> tuple[TrainConfig, RunData]:
    """Return configuration and frames of a member, counted from 1."""
    values = config.to_json()
    values["training"]["seed"] += member - 1
    source = config.potential.start
    # of a committee one of its members, each in turn
    if source is not None and find_model(source)[1] is None and (count := members_of(read_card(source))) is not None:
        source = f"{source}#{(member - 1) % count + 1}"
    if source is not None:
        values["potential"]["from"] = source
    learnt, watched = _divided(data.train, seed=1000 + values["training"]["seed"])
    held_out = [frame.frame_id for frame in (*data.valid, *data.test)]
    split = {
        **data.split,
        "name": f"member {member}",
        "train": [frame.frame_id for frame in learnt],
        "valid": [frame.frame_id for frame in watched],
        "test": sorted(held_out),
    }
    provenance = {**data.provenance, "training_frames": len(learnt)}
    return parse_config(values), dataclasses.replace(
        data, train=learnt, valid=watched, test=(), split=split, provenance=provenance
    )


def draw_evenly(
    kinds: Sequence[str] | np.ndarray, indices: np.ndarray, shares: Sequence[float], seed: int
) -> list[np.ndarray]:
    """Parts of some frames at random, spread evenly over the kinds of geometry, and last what is left.

    Args:
        kinds: Kind of every frame of a data set.
        indices: The frames to divide.
        shares: Of each part but the last.
        seed: Same seed, same parts.

    Returns:
        Indices of each part, ascending.
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(indices)
    order = shuffled[np.argsort(np.asarray(kinds)[shuffled], kind="stable")]
    places = (np.arange(len(order)) + generator.random()) / len(order)
    # frame k of the order goes to the part in whose share the k-th element of a low-discrepancy sequence falls
    golden = (places * len(order) * 0.6180339887498949) % 1.0
    part = np.searchsorted(np.cumsum(shares), golden, side="right")
    return [np.sort(order[part == p]) for p in range(len(shares) + 1)]


def _divided(frames: Sequence[Frame], seed: int) -> tuple[list[Frame], list[Frame]]:
    """Frames to learn from and to be watched on: one of these at least, and no element that is in no other frame."""
    watched, rest = draw_evenly([frame.kind for frame in frames], np.arange(len(frames)), (VALID,), seed)
    elements = [set(frame.numbers.tolist()) for frame in frames]
    left = Counter(z for one in elements for z in one)
    chosen: set[int] = set()
    for place in [*watched.tolist(), *np.random.default_rng(seed).permutation(rest).tolist()]:
        if len(chosen) < max(1, len(watched)) and all(left[z] > 1 for z in elements[place]):
            chosen.add(place)
            left.subtract(elements[place])
    if not chosen:
        raise PHLError(
            f"none of the {len(frames)} training frames can be left out to watch a member on: each holds an element "
            "that no other does; add frames"
        )
    return [f for k, f in enumerate(frames) if k not in chosen], [f for k, f in enumerate(frames) if k in chosen]


def _check(config: TrainConfig, data: RunData, members: int) -> None:
    """Refuse before anything is trained what could not become a committee afterwards."""
    if members < 2:
        raise PHLError(f"a committee of {members}; expected two members or more")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise PHLError("members are trained one after the other by one process: start 'phl train' without torchrun")
    start = config.potential.start
    if start is not None and is_foreign(start):
        raise PHLError(
            f"a committee of models like {start} cannot be written as one file: train each with another training.seed "
            "and use PHLCalculator([…])"
        )
    labelled = sum(frame.energy is not None and frame.forces is not None for frame in data.valid)
    if labelled < FEWEST:
        raise PHLError(
            f"the validation part, which calibrates a committee, has {labelled} frames with energies and forces; "
            f"expected at least {FEWEST}: give it a larger share (data.fractions) or add frames"
        )
    if strange := set(species_of(data.valid)) - set(species_of(data.train)) if start is None else set():
        symbols = ", ".join(chemical_symbols[z] for z in sorted(strange))
        raise PHLError(f"validation frames hold {symbols}, which no training frame holds; choose another split or seed")
