"""The training loop: minibatches, schedule, averaged weights, validation, checkpoints, exact resume."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import torch

from phl_ase import __version__
from phl_ase.adapters.foreign import Foreign
from phl_ase.derivatives import choose_device, evaluate, own_modes
from phl_ase.errors import NonFiniteError, PHLError, Stopped
from phl_ase.files import write_atomic
from phl_ase.objective import TERMS, CompiledLoss, with_curvature_targets
from phl_ase.potentials import Domain, Model, save_model
from phl_ase.potentials.model import DTYPES
from phl_ase.progress import Progress
from phl_ase.structures import Frame, PackedFrames
from phl_ase.trained_on import training_record
from phl_ase.training.batches import batches_of_epoch, batches_with_replay
from phl_ase.training.checkpoint import (
    BEST,
    CONFIG,
    FOREIGN,
    LAST,
    SPLIT,
    changed_settings,
    load_checkpoint,
    run_folder,
    save_checkpoint,
)
from phl_ase.training.config import TrainConfig
from phl_ase.training.log import RunLog
from phl_ase.training.optimiser import moving_average, new_optimiser, rate_of, set_rate
from phl_ase.training.precision import check_precision, matmul_precision
from phl_ase.training.processes import ProcessGroup, processes_of_run
from phl_ase.training.replay import frames_to_replay
from phl_ase.training.schedule import curvature_weight, learning_rate
from phl_ase.training.setup import (
    RunData,
    check_replay,
    check_species,
    curvature_family,
    new_model,
    recorded_probes,
    term_weights,
)
from phl_ase.training.signals import signals_noticed
from phl_ase.training.step import Abandoned, StepResult, accumulate_gradients, label_counts


@dataclass(frozen=True)
class TrainResult:
    """Result of a run.

    Attributes:
        folder: Its folder: ``best.safetensors``, ``last.ckpt``, ``log.jsonl``, ``log.csv``, ``config.json``.
        best_loss: Validation loss of the model that was kept: of the best one, or with ``keep = "last"`` the last one.
        best_epoch: The epoch it is from.
        records: One record per epoch.
    """

    folder: Path
    best_loss: float
    best_epoch: int
    records: tuple[dict[str, Any], ...]

    @property
    def model(self) -> Path:
        """File of the model that was kept; in the vendor's format where the run started from a foreign one."""
        foreign = self.folder / FOREIGN
        return foreign if foreign.is_file() else self.folder / BEST


@dataclass
class _Position:
    # where a run stands; everything here goes into the checkpoint
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    best_loss: float = float("inf")
    best_epoch: int = -1
    stale: int = 0
    halvings: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def train(config: TrainConfig, data: RunData, folder: str | Path, *, resume: bool = False) -> TrainResult:
    """Train a model, alone or as one of the processes that ``torchrun`` started.

    Args:
        config: Everything the run depends on.
        data: Frames of the three parts and how they were split; :func:`phl_ase.training.prepare_data` makes it.
        folder: Where to keep the run's files.
        resume: Continue the run in the folder, to the same result as without a break.

    Raises:
        PHLError: For a folder in use, labels that the scheme needs and the data lack, ….
        NonFiniteError: When the loss diverges (the last good checkpoint is kept), or no validation gave a finite one.
        Stopped: After Ctrl-C or SIGTERM, with a checkpoint written.
    """
    with ExitStack() as stack:
        stack.enter_context(own_modes(choose_device(config.training.device)))
        processes = stack.enter_context(processes_of_run())
        path = processes.first_says(lambda: stack.enter_context(run_folder(folder, resume=resume)))
        run = _Trainer(config, data, path, processes)
        if resume:
            run.restore()
        else:
            run.start()
        with signals_noticed() as noticed:
            run.loop(noticed)
        loss, epoch = run.kept()
        if epoch < 0:
            raise NonFiniteError(
                f"no validation gave a finite loss, so that no model was kept: lower the learning rate, "
                f"{config.training.learning_rate:g}, or look at the data; the last weights are in {path / LAST}"
            )
        return TrainResult(path, loss, epoch, tuple(run.log.records))


class _Trainer:
    def __init__(self, config: TrainConfig, data: RunData, folder: Path, processes: ProcessGroup) -> None:
        self.config, self.data, self.folder, self.processes = config, data, folder, processes
        training = config.training
        self.device = processes.device(choose_device(training.device))
        self.dtype = DTYPES[training.dtype]
        check_replay(config, data)
        check_precision(config)
        self.family = curvature_family(config, [*data.train, *data.replay])
        self.weights = term_weights(config, [*data.train, *data.replay])
        if self.family is not None and (note := recorded_probes(config, [*data.train, *data.replay])):
            warnings.warn(note, UserWarning, stacklevel=3)
        model = new_model(config, data.train, data.replay)
        replay, replay_valid = frames_to_replay(config.replay, data.replay, data.replay_valid, model)
        self.model = model.to(device=self.device, dtype=self.dtype)
        # of a model that was trained already, what its card says of its training
        self.started_from = dict(self.model.provenance)
        self.known_before = self.started_from.pop("domain", None)
        check_species(self.model, data)
        self.averaged = torch.optim.swa_utils.AveragedModel(self.model, multi_avg_fn=moving_average(training.ema_decay))
        self.optimiser = new_optimiser(self.model, training)
        self.train_set = PackedFrames([*data.train, *replay], self.model.cutoffs)
        self.valid_set = PackedFrames(data.valid, self.model.cutoffs)
        self.replay_valid_set = PackedFrames(replay_valid, self.model.cutoffs) if replay_valid else None
        self.differences = config.scheme.hvp == "differences"
        self.compiled = CompiledLoss(self.model, differences=self.differences) if training.compile else None
        self.at = _Position()
        self.noticed: Sequence[int] = ()
        self._saved_at = time.monotonic()

    @cached_property
    def seen(self) -> dict[str, Any]:
        """Record for the card of the structures that the model was trained on and chosen by."""
        data = self.data
        return training_record([*data.train, *data.replay], data.valid)

    @property
    def scheme(self) -> dict[str, Any]:
        """The scheme as the card says it: recorded probes are fixed, whatever was asked for."""
        asked = self.config.scheme.model_dump()
        drawn = any(frame.hessian is not None for frame in (*self.data.train, *self.data.replay))
        return asked if self.family is None or drawn else {**asked, "regime": "fixed"}

    @property
    def average(self) -> Model:
        """The model with averaged weights."""
        return cast(Model, self.averaged.module)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Write what a run is made of, the checkpoint first: whatever stops the run from here on, it can be resumed."""
        self.log = RunLog(self.folder if self.processes.is_first else None)
        if not self.processes.is_first:
            return
        self.save()
        write_atomic(self.folder / SPLIT, json.dumps(self.data.split, indent=1).encode())
        write_atomic(self.folder / CONFIG, json.dumps(self.config.to_json(), indent=1).encode())

    def save(self) -> None:
        if not self.processes.is_first:
            return
        state = {
            "version": __version__,
            "config": self.config.to_json(),
            "data": self.data.content,
            "position": vars(self.at),
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "records": self.log.records,
        }
        save_checkpoint(self.folder / LAST, state)
        self._saved_at = time.monotonic()

    def restore(self) -> None:
        state = self.processes.first_says(lambda: load_checkpoint(self.folder / LAST))
        changed = changed_settings(state["config"], self.config.to_json())
        if changed:
            raise PHLError(f"{self.folder}: the run was started with another {changed}; resume it unchanged")
        if state["data"] != self.data.content:
            raise PHLError(f"{self.folder}: the data set has changed since the run was started; train anew on it")
        try:
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.at = _Position(**state["position"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise PHLError(f"{self.folder / LAST}: does not fit this model ({reason})") from None
        self.log = RunLog(self.folder if self.processes.is_first else None, state["records"])

    # -- the loop ---------------------------------------------------------------------------------------------------

    def loop(self, noticed: list[int]) -> None:
        epochs, self.noticed = self.config.training.epochs, noticed
        name, shown = self.config.scheme.name, self.processes.is_first
        with Progress(name, epochs, self.at.epoch, shown=shown) as progress:
            while self.at.epoch < epochs and not self._out_of_patience():
                started = time.monotonic() - self.at.seconds
                self._epoch(started)
                before = dataclasses.replace(self.at)
                try:
                    record = self._finish_epoch(started)
                except Abandoned:
                    self.at = before  # resumed, the validation is made anew
                    self._stop()
                learnt = {k.removeprefix("train_"): v for k, v in record.items() if k.startswith("train_")}
                progress.advance(" ".join(f"{name} {value:.3g}" for name, value in learnt.items()))
        self.save()
        self.log.write_table()

    def _stop(self) -> NoReturn:
        self.save()
        at, noticed = self.at, self.noticed
        by = signal.Signals(noticed[0]).name if noticed else "a signal to another process"
        raise Stopped(
            f"stopped by {by} in epoch {at.epoch + 1}, step {at.batch}; "
            f"nothing is lost: continue with --resume --out {self.folder}"
        )

    def _epoch(self, started: float) -> None:
        at, training = self.at, self.config.training
        sizes, replayed = self.train_set.sizes.numpy(), len(self.data.replay)
        order = {"seed": training.seed, "epoch": at.epoch}
        # indices into ``train_set``, whose last frames are those to replay
        if replayed:
            share = self.config.replay.share
            batches = batches_with_replay(sizes, replayed, training.batch_size, share=share, **order)
        else:
            batches = batches_of_epoch(sizes, training.batch_size, **order)
        while at.batch < len(batches):
            fraction = at.epoch + at.batch / len(batches)
            result, asked_to_stop = self._step(batches[at.batch], fraction)
            if result is None:
                self._stop()
            for name in result.sums:
                at.sums[name] = at.sums.get(name, 0.0) + result.sums[name]
                at.counts[name] = at.counts.get(name, 0) + result.counts[name]
            at.batch += 1
            at.seconds = time.monotonic() - started
            if asked_to_stop:
                self._stop()

    def _step(self, chosen: np.ndarray, fraction: float) -> tuple[StepResult | None, bool]:
        """One step on a batch: sums and counts over all processes, and whether one of them was asked to stop.

        Nothing and no step where one of them left off in the middle.
        """
        training, processes = self.config.training, self.processes
        set_rate(self.optimiser, learning_rate(training, fraction, self.at.halvings))
        weights = dict(self.weights)
        if "curvature" in weights:
            weights["curvature"] = curvature_weight(self.config.loss, fraction)
        self.optimiser.zero_grad(set_to_none=True)
        failure, abandoned = None, False
        nothing = StepResult(dict.fromkeys(weights, 0.0), dict.fromkeys(weights, 0))
        try:
            with matmul_precision(training.matmul_precision):
                result = self._accumulate(processes.share(chosen), weights)
        except NonFiniteError as error:
            failure, result = self._placed(error), nothing
        except Abandoned:
            abandoned, result = True, nothing
        # one message for the sums, failures and signals of all
        flags = {"failed": failure is not None, "abandoned": abandoned, "stop": bool(self.noticed)}
        said = processes.sum({**result.sums, **flags}, self.device)
        if said.pop("failed"):
            processes.together(failure)
        if said.pop("abandoned"):
            return None, True
        stop = bool(said.pop("stop"))
        processes.sum_gradients(self.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), training.clip_norm)
        if not torch.isfinite(norm):
            frames = self.train_set.frame_id[chosen[:8]].tolist()
            raise self._placed(NonFiniteError(f"the gradient is not finite for frames {frames}"))
        self.optimiser.step()
        self.averaged.update_parameters(self.model)
        return StepResult(said, result.counts), stop

    def _accumulate(self, share: np.ndarray, weights: dict[str, float]) -> StepResult:
        """Return the gradient of this process's share of a batch; counts are those of the whole batch."""
        drawn = self._draw(self.train_set, share, epoch=self.at.epoch) if len(share) else None
        local = dict.fromkeys(weights, 0) if drawn is None else label_counts(drawn[1], weights)
        counts = {name: int(count) for name, count in self.processes.sum(local, self.device).items()}
        if drawn is None:
            return StepResult(dict.fromkeys(weights, 0.0), counts)
        batch, labels = drawn
        result = accumulate_gradients(
            self.model,
            batch,
            labels,
            weights,
            memory_budget=self.config.training.memory_budget_mb * 2**20,
            counts=counts,
            compiled=self.compiled,
            differences=self.differences,
            stop=lambda: bool(self.noticed),
        )
        return StepResult(result.sums, counts)

    def _placed(self, error: NonFiniteError) -> NonFiniteError:
        replayed = " (−1, −2, …: replayed ones)" if self.data.replay else ""
        return NonFiniteError(
            f"epoch {self.at.epoch + 1}, step {self.at.batch + 1}: {error}{replayed}; lower the learning rate or look "
            "at these frames; the last good checkpoint is kept"
        )

    def _draw(self, frames: PackedFrames, chosen: Sequence[int] | np.ndarray, *, epoch: int, family: str | None = None):
        batch, labels = frames.select(torch.from_numpy(np.asarray(chosen)))
        if self.family is not None and (labels.hessian is not None or labels.probes is not None):
            scheme = self.config.scheme
            labels = with_curvature_targets(
                batch,
                labels,
                family or self.family,
                n_probes=scheme.n_probes,
                regime=scheme.regime,
                seed=self.config.training.seed,
                epoch=epoch,
            )
        return batch.to(self.device, self.dtype), labels.to(self.device, self.dtype)

    # -- validation -------------------------------------------------------------------------------------------------

    def _finish_epoch(self, started: float) -> dict[str, Any]:
        at, training = self.at, self.config.training
        at.epoch, at.batch = at.epoch + 1, 0
        record: dict[str, Any] = {"epoch": at.epoch, "learning_rate": rate_of(self.optimiser)}
        record |= {f"train_{n}": float(np.sqrt(at.sums[n] / max(at.counts[n], 1))) for n in at.sums}
        at.sums, at.counts = {}, {}
        if at.epoch % training.validate_every == 0 or at.epoch == training.epochs:
            record |= self._validate()
        at.seconds = time.monotonic() - started
        record["seconds"] = round(at.seconds, 3)
        self.log.add(record)
        if time.monotonic() - self._saved_at >= training.checkpoint_seconds:
            self.save()
        return record

    def _validate(self) -> dict[str, Any]:
        means = self._mean_terms(self.valid_set)
        loss = sum(self.weights[name] * value for name, value in means.items())
        self._judge(loss)
        record = {"valid_loss": loss, **{f"valid_{name}": float(np.sqrt(value)) for name, value in means.items()}}
        if self.replay_valid_set is not None:
            # what is replayed tells how much has been forgotten; the model is chosen by the new frames alone
            replayed = self._mean_terms(self.replay_valid_set)
            record |= {f"replay_{name}": float(np.sqrt(value)) for name, value in replayed.items()}
        return record

    def _judge(self, loss: float) -> None:
        """Keep the model where its validation loss is the smallest so far, or where the last one is kept."""
        at, training = self.at, self.config.training
        better = loss < at.best_loss
        if better or (training.keep == "last" and math.isfinite(loss)):
            self._save_kept(loss)
        if better:
            at.best_loss, at.best_epoch, at.stale = loss, at.epoch, 0
            return
        at.stale += 1
        if training.schedule == "plateau" and at.stale % training.plateau_patience == 0:
            at.halvings += 1

    def _mean_terms(self, frames: PackedFrames) -> dict[str, float]:
        """Return the mean of each term that the frames carry labels of, over them, for the averaged weights."""
        sums = dict.fromkeys(self.weights, 0.0)
        counts = dict.fromkeys(self.weights, 0.0)
        needs = {TERMS[name].needs for name in self.weights}
        order = np.argsort(frames.sizes.numpy(), kind="stable")
        size = 4 * self.config.training.batch_size
        starts = range(0, len(order), size)
        for start in starts[self.processes.rank :: self.processes.count]:
            if self.noticed and self.processes.count == 1:  # several have to do the same
                raise Abandoned
            # all directions, so that the choice of the best model has no noise of probes
            batch, labels = self._draw(frames, order[start : start + size], epoch=0, family="complete")
            part = needs if labels.probes is not None else needs - {"hvp"}
            predictions = evaluate(self.average, batch, part, probes=labels.probes)
            for name in self.weights:
                term = TERMS[name]
                if term.needs in part:
                    sums[name] += float(term.total(batch, predictions, labels))
                    counts[name] += int(term.present(labels).sum())
        sums, counts = (self.processes.sum(values, self.device) for values in (sums, counts))
        return {name: sums[name] / counts[name] for name in sums if counts[name]}

    def kept(self) -> tuple[float, int]:
        """Validation loss and epoch of the model that is kept."""
        if self.config.training.keep == "best":
            return self.at.best_loss, self.at.best_epoch
        losses = {r["epoch"]: r["valid_loss"] for r in self.log.records if math.isfinite(r.get("valid_loss", math.nan))}
        last = max(losses, default=-1)
        return losses.get(last, math.inf), last

    def _save_kept(self, loss: float) -> None:
        if not self.processes.is_first:
            return
        card = {
            **self.data.provenance,
            **self.seen,
            "scheme": self.scheme,
            "config": self.config.to_json(),
            "epoch": self.at.epoch,
            "validation_loss": loss,
            "domain": self.domain,
            "versions": {"phl_ase": __version__, "torch": torch.__version__},
            **({"started_from": self.started_from} if self.started_from else {}),
        }
        if isinstance(self.average, Foreign):
            self.average.write_with_card(self.folder / FOREIGN, card)
        else:
            save_model(self.folder / BEST, self.average, card)

    @cached_property
    def domain(self) -> dict[str, Any]:
        """The domain of this run's frames, and the distances in the training of the model it started from."""
        seen = Domain.fit([*self.data.train, *self.data.replay])
        if self.known_before is not None:
            seen = seen.joined(Domain.from_json(self.known_before), with_molecules=False)
        return seen.to_json()

    def _out_of_patience(self) -> bool:
        training = self.config.training
        if training.early_stopping is not None and self.at.stale >= training.early_stopping:
            return True
        exhausted = learning_rate(training, self.at.epoch, self.at.halvings) <= training.final_learning_rate
        return training.schedule == "plateau" and self.at.epoch > training.warmup_epochs and exhausted


__all__ = ["Frame", "RunData", "TrainResult", "train"]
