"""Several configurations trained side by side, one process each; what fails is shown and stops nobody else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.objective import SCHEMES
from phl_ase.study.processes import reason_of_death, run_processes
from phl_ase.study.progress import ManyRuns, schedule_length
from phl_ase.study.worker import read_marker, run, write_marker
from phl_ase.training import RunData, TrainConfig
from phl_ase.training.checkpoint import BEST, CONFIG, LAST, run_folder
from phl_ase.training.signals import signals_noticed


@dataclass(frozen=True)
class Trained:
    """What became of one configuration.

    Attributes:
        name: Its name.
        outcome: ``"trained"`` or ``"failed"``.
        folder: The folder of its run.
        reason: One line that says why it failed; empty otherwise.
        seconds: Training time, s, over all resumptions.
        cpu_seconds: Time on the processor, s, all its processes together; a busy machine does not change it.
        best_loss: Validation loss of the best model; NaN where it failed.
        best_epoch: The epoch that the best model is from.
        records: One record per epoch, as in the run's ``log.jsonl``.
    """

    name: str
    outcome: str
    folder: Path
    reason: str = ""
    seconds: float = float("nan")
    cpu_seconds: float = float("nan")
    best_loss: float = float("nan")
    best_epoch: int = -1
    records: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    @property
    def succeeded(self) -> bool:
        """Whether there is a model."""
        return self.outcome == "trained"

    @property
    def model(self) -> Path:
        """File of the best model."""
        return self.folder / BEST


def train_schemes(
    configs: Mapping[str, TrainConfig],
    data: RunData | Mapping[str, RunData],
    folder: str | Path,
    processes: int = 2,
) -> dict[str, Trained]:
    """Train several configurations in parallel processes, one thread each.

    Each run has a folder of its own in ``folder``. Called again with the same configurations and data, finished runs
    are not repeated, stopped ones go on from their checkpoint, failed ones are tried again. A script that calls this
    does so under ``if __name__ == "__main__":``, because worker processes import it.

    Args:
        configs: Name (of a folder, too) -> configuration.
        data: Frames for all of them, or name -> frames.
        folder: Where the runs keep their files.
        processes: How many train at once.

    Returns:
        Name -> what became of it, in the order of ``configs``.

    Raises:
        PHLError: For names that are no names of a folder, a folder in use, not writable, or holding runs of the same
            name with other settings or data.
        Stopped: After Ctrl-C or SIGTERM; what is finished is kept, the others have written checkpoints.
    """
    if processes < 1:
        raise PHLError(f"processes is {processes}; expected at least 1")
    for name in configs:
        if not name or name != Path(name).name or name.startswith("."):
            raise PHLError(f"{name!r} is no name for a run: it becomes a folder, so no slashes and no dot in front")
    frames = {name: data if isinstance(data, RunData) else data[name] for name in configs}
    with run_folder(folder, resume=False) as root:
        prints = {name: fingerprint(configs[name], frames[name]) for name in configs}
        waiting = [name for name in configs if not _finished(root / name, configs[name], prints[name])]
        # the longest first, so that none is left alone at the end
        waiting.sort(key=lambda name: -relative_cost(configs[name]))
        with signals_noticed() as noticed:
            _train_all(waiting, configs, frames, root, processes, noticed)
        return {name: _read(root / name, name) for name in configs}


def relative_cost(config: TrainConfig) -> float:
    """About how long a run takes in comparison with others: the order to start in and a first guess of the time."""
    family = config.scheme.probes or SCHEMES[config.scheme.name].probes if config.scheme.name in SCHEMES else None
    directions = 0 if family is None else 12 if family == "complete" else config.scheme.n_probes
    return config.training.epochs * (1.0 + 1.0 * directions)


def fingerprint(config: TrainConfig, data: RunData) -> str:
    """A sha256 of everything a run's result depends on: configuration (but for the device) and frames."""
    digest = hashlib.sha256(json.dumps(config.identity(), sort_keys=True).encode())
    for part in (data.train, data.valid):
        digest.update(f"|{len(part)}".encode())
        for frame in part:
            for array in (frame.numbers, frame.positions, frame.energy, frame.forces, frame.hessian, frame.products):
                digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _finished(folder: Path, config: TrainConfig, print_of_run: str) -> bool:
    """Whether a run is finished; makes the folder ready for it where it is not.

    Raises:
        PHLError: When the folder holds a run with other settings.
    """
    marker = read_marker(folder)
    if not marker and not folder.exists():
        new_folder(folder)
    elif marker.get("fingerprint", print_of_run) != print_of_run:
        changed = _changed(marker.get("config", {}), config.identity()) or "training data"
        raise PHLError(f"{folder} holds a run with another {changed}; choose another folder")
    elif marker.get("outcome") == "trained" and (folder / BEST).exists():
        return True
    if not (folder / LAST).exists():  # stopped before its first checkpoint: nothing to go on from
        (folder / CONFIG).unlink(missing_ok=True)
    started = {"outcome": "started", "fingerprint": print_of_run, "config": config.to_json()}
    write_marker(folder, {**started, "cpu_seconds": marker.get("cpu_seconds", 0.0)})
    return False


def new_folder(folder: Path) -> None:
    """Make a folder, unless it is there.

    Raises:
        PHLError: When it cannot be made.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise PHLError(f"cannot write into {folder}: {error.strerror}; choose another output folder") from None


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = [f"{s}.{k}" for s in new for k in new[s] if old.get(s, {}).get(k) != new[s][k]]
    return ", ".join(keys)


def _train_all(
    waiting: list[str],
    configs: Mapping[str, TrainConfig],
    frames: Mapping[str, RunData],
    root: Path,
    processes: int,
    noticed: list[int],
) -> None:
    with ManyRuns({name: (root / name, configs[name].training.epochs) for name in waiting}) as bars:

        def tick(running: Sequence[str], queue: Sequence[str], ended: Mapping[str, Any]) -> None:
            for name, process in ended.items():
                _note_death(process, root / name)
            seconds = _seconds_left(waiting, running, queue, configs, bars, processes)
            bars.show(running, list(ended), seconds)

        work = {name: (run, (configs[name], frames[name], str(root / name))) for name in waiting}
        run_processes(work, processes, tick, noticed, root)


def _note_death(process: Any, folder: Path) -> None:
    """A worker that ended without a word (out of memory, killed) is a failed run."""
    marker = read_marker(folder)
    if marker.get("outcome") == "started":
        write_marker(folder, {**marker, "outcome": "failed", "reason": reason_of_death(process)})


def _seconds_left(
    names: list[str],
    running: Sequence[str],
    queue: Sequence[str],
    configs: Mapping[str, TrainConfig],
    bars: ManyRuns,
    processes: int,
) -> float | None:
    """How long all runs will take from here; ``None`` before the first epoch is finished."""
    speeds = {name: bars.seconds_per_epoch(name) for name in names}
    known = [(s * configs[n].training.epochs, relative_cost(configs[n])) for n, s in speeds.items() if s]
    if not known:
        return None
    scale = sum(seconds for seconds, _ in known) / sum(cost for _, cost in known)

    def remaining(name: str) -> float:
        epochs = configs[name].training.epochs
        speed = speeds[name] or scale * relative_cost(configs[name]) / epochs
        return speed * (epochs - bars.epochs_done(name))

    return schedule_length([remaining(n) for n in running], [remaining(n) for n in queue], processes)


def _read(folder: Path, name: str) -> Trained:
    marker = read_marker(folder)
    if marker.get("outcome") != "trained":
        return Trained(name, "failed", folder, str(marker.get("reason") or "did not finish"))
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return Trained(
        name,
        "trained",
        folder,
        seconds=float(marker["seconds"]),
        cpu_seconds=float(marker["cpu_seconds"]),
        best_loss=float(marker["best_loss"]),
        best_epoch=int(marker["best_epoch"]),
        records=tuple(json.loads(line) for line in lines),
    )
