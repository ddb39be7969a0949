"""Labelling a whole data set: interrupted and continued, on several processes or machines, nothing labelled twice.

Every frame is a task of :mod:`phl_ase.jobs`; when none is left their labels are packed into one HDF5 data set by atomic
replace. A frame that fails is recorded with its reason and does not stop the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from phl_ase.datasets import BaseDataset, DatasetMeta, open_dataset, write_dataset
from phl_ase.datasets.schema import check_suffix
from phl_ase.errors import PHLError
from phl_ase.jobs import Failure, Record, Store, Task, cluster, digest, open_store, processes, run, serial
from phl_ase.probes import check_family
from phl_ase.reference.labels import FAILURES, LabelRequest, Make, without_labels
from phl_ase.reference.methods import METHODS, energy_reference, level_of_theory
from phl_ase.results import provenance
from phl_ase.structures import Frame
from phl_ase.tables import counted

_SCHEMA = 1  # of what a task keeps
_LISTED_FAILURES, _REASON = 150, 200  # the provenance of a data set is at most 60,000 bytes


@dataclass(frozen=True)
class LabelResult:
    """Result of labelling a data set.

    Attributes:
        path: The data set; ``None`` where none was written: no frame has labels, or it was stopped at a failure.
        frames: Number of frames of the input.
        labelled: How many have labels, those of earlier runs included.
        computed: How many frames this run worked on.
        failures: Index in the input -> why the frame has no labels.
        level_of_theory: Of the labels.
        gradients: Gradient calls that all labels cost.
        seconds: Time of all workers spent on them, s.
        hvp_error: Estimated rms error of an element of the HVPs, eV/Å²; ``None`` where it was not asked for.
        error_frames: Frames that it was estimated on.
        stresses: How many frames have a stress: periodic ones, of a method that gives it.
        work: The work folder, where it is kept: while frames are failed or missing.
    """

    path: Path | None
    frames: int
    labelled: int
    computed: int
    failures: Mapping[int, Failure]
    level_of_theory: str
    gradients: int = 0
    seconds: float = 0.0
    hvp_error: float | None = None
    error_frames: tuple[int, ...] = ()
    stresses: int = 0
    work: Path | None = None


@dataclass(frozen=True)
class LabelMethod:
    """A reference method, as the user named it, and how to make its calculator.

    Attributes:
        make: Makes an ASE calculator; sent to other processes, so a function of a module or a ``functools.partial``.
        name: As the user named it, ``"tblite"``; part of what tells one campaign from another.
        settings: Whatever else its labels depend on and JSON holds.
    """

    make: Make
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def label_dataset(
    structures: BaseDataset,
    method: LabelMethod,
    path: str | Path,
    *,
    request: LabelRequest | None = None,
    workers: int = 1,
    time_limit: float | None = None,
    scheduler: str | None = None,
    keep_going: bool = True,
    retry: bool = False,
    work: str | Path | None = None,
) -> LabelResult:
    """Label every frame of a data set and write the data set of them; called again, it goes on where it stopped.

    With several workers a script calls this under ``if __name__ == "__main__":``, because worker processes import it.

    Args:
        structures: What is labelled; kinds, reactions and the like are kept, labels replaced. A frame's index is the
            identity that its probes are drawn from.
        method: What labels.
        path: The data set to write, HDF5; it must not exist, unless this very campaign has left frames failed.
        request: What to label with beside energy and forces.
        workers: 1 labels in this process, more in as many processes of one thread each.
        time_limit: Most seconds for a frame; with one, frames are labelled in worker processes.
        scheduler: Label on the dask.distributed cluster of this address instead.
        keep_going: Whether to go on after a frame that fails.
        retry: Try frames again that failed in an earlier run.
        work: Work folder; by default the name of the data set and ``.work``. It is deleted when all frames have labels.

    Raises:
        PHLError: For a mistake in the request, or when something cannot be written. What goes wrong with a frame is in
            the result.
        KeyboardInterrupt: On Ctrl-C; finished frames are kept.
    """
    path, request = Path(path), request or LabelRequest()
    folder = Path(work) if work is not None else path.with_name(path.name + ".work")
    check_suffix(path)
    if not path.parent.is_dir():
        raise PHLError(f"cannot write {path}: the folder {path.parent} does not exist; make it first")
    if workers < 1:
        raise PHLError(f"workers is {workers}; expected at least 1")
    if scheduler is not None and workers != 1:
        raise PHLError("got both workers and a scheduler; a cluster has workers of its own")
    if scheduler is not None and time_limit is not None:
        raise PHLError("got a time limit and a scheduler; a time limit is for worker processes")
    if request.probes is not None:
        check_family(request.probes.family, request.probes.count, int(structures.sizes.min()))
    calculator = method.make()
    level, reference = level_of_theory(calculator), energy_reference(calculator)
    frames = [_frame_digest(frame) for frame in structures]
    about = {
        "input": digest(*frames),
        "method": method.name,
        "settings": dict(method.settings),
        **request.description,
    }
    if path.exists():
        known: Mapping[str, Any] = {}
        if folder.is_dir():  # left by an earlier run of the same campaign?
            with contextlib.suppress(PHLError), open_dataset(path) as dataset:
                known = dataset.meta.provenance
        if any(known.get(name) != value for name, value in about.items()):
            raise PHLError(f"{path} exists; choose another name, or delete it to label anew")
    sample, labels_of = request.sample(len(frames)), request.description
    del labels_of["estimate_error"]  # how many other frames have it is no matter
    tasks = []
    for i, frame in enumerate(frames):
        # probes follow from the index
        parts = (frame, method.name, dict(method.settings), level, labels_of, request.probes and i, i in sample)
        tasks.append(Task(f"frame {i}", digest("label", _SCHEMA, *parts), (i, i in sample)))
    executor = serial if workers == 1 and time_limit is None else processes(workers, time_limit=time_limit)
    executor = executor if scheduler is None else cluster(scheduler)
    with open_store(folder) as store:
        worked = run(
            tasks,
            partial(_labeller, request, method.make),
            store,
            executor=executor,
            title="label",
            retry=retry,
            keep_going=keep_going,
            load=lambda payload: (structures[payload[0]], payload[1]),
        )
        records = {i: store.get(task.key) for i, task in enumerate(tasks) if store.has_failed(task.key)}
        failures = {i: one.failure for i, one in records.items() if one is not None and one.failure is not None}
        finished = _Finished(structures, store, {i: t.key for i, t in enumerate(tasks) if store.is_done(t.key)})
        result = LabelResult(
            path=None,
            frames=len(structures),
            labelled=len(finished),
            computed=sum(task.key in worked for task in tasks),
            failures=failures,
            level_of_theory=level,
            work=folder,
        )
        if not len(finished) or len(finished) + len(failures) < len(structures):
            return result
        result = dataclasses.replace(result, path=path, work=folder if failures else None, **finished.costs())
        write_dataset(path, finished, _meta(result, structures, about, reference, request))
        if not failures:
            store.remove({task.key for task in tasks})
        return result


def _frame_digest(frame: Frame) -> str:
    """Return a sha256 of a structure and what is known of it but for labels, which labelling replaces."""
    found = hashlib.sha256()
    for array, kind in ((frame.numbers, "<i8"), (frame.positions, "<f8"), (frame.cell, "<f8"), (frame.pbc, "?")):
        found.update(np.ascontiguousarray(array, dtype=kind).tobytes())
    known = (len(frame), frame.charge, frame.multiplicity, frame.kind, frame.reaction)
    found.update(repr((*known, frame.irc_s, frame.temperature)).encode())
    return found.hexdigest()


def _labeller(request: LabelRequest, make: Make) -> Callable[[tuple[Frame, bool]], dict[str, Any] | Failure]:
    """Return a function that labels one frame after another with a calculator of its own."""
    calculator = make()

    def label(task: tuple[Frame, bool]) -> dict[str, Any] | Failure:
        labelled = request.label(task[0], calculator, estimate_error=task[1])
        if labelled.failure is not None:
            return labelled.failure
        labels = labelled.frame.labels()
        return {"gradients": labelled.gradients, "hvp_error": labelled.hvp_error, "labels": labels}

    return label


class _Finished(Sequence):
    """The finished frames with their labels, read when asked for."""

    def __init__(self, structures: BaseDataset, store: Store, keys: Mapping[int, str]) -> None:
        self._structures, self._store = structures, store
        self._keys = list(keys.items())

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, place: Any) -> Any:
        index, key = self._keys[place]
        labels = self._record(key).value["labels"]
        return without_labels(self._structures[index]).with_labels(labels).check(f"frame {index}")

    def _record(self, key: str) -> Record:
        record = self._store.get(key)
        assert record is not None
        return record

    def costs(self) -> dict[str, Any]:
        """Return what the labels cost, and the error of their HVPs, as attributes of a result."""
        gradients, seconds, stresses, errors = 0, 0.0, 0, dict[int, float]()
        counted = set[str]()  # frames may be alike
        for index, key in self._keys:
            record = self._record(key)
            stresses += record.value["labels"].get("stress") is not None
            if key not in counted:
                gradients, seconds = gradients + record.value["gradients"], seconds + record.seconds
                counted.add(key)
            if record.value["hvp_error"] is not None:
                errors[index] = record.value["hvp_error"]
        return {
            "gradients": gradients,
            "seconds": seconds,
            "hvp_error": float(np.sqrt(np.mean(np.square(list(errors.values()))))) if errors else None,
            "error_frames": tuple(errors),
            "stresses": stresses,
        }


def _meta(
    result: LabelResult, structures: BaseDataset, about: Mapping[str, Any], reference: str, request: LabelRequest
) -> DatasetMeta:
    failures = [{"frame": i, "outcome": f.outcome, "reason": f.reason[:_REASON]} for i, f in result.failures.items()]
    details = {
        **about,
        "source": Path(structures.name).name,
        "source_level_of_theory": structures.meta.level_of_theory,
        "units": {"step": "Å", "hvp_error": "eV/Å²"},
        "hvp_error": result.hvp_error,
        "hvp_error_frames": list(result.error_frames),
        "gradients": result.gradients,
        "seconds": round(result.seconds, 3),
        "frames_of_input": result.frames,
        "failed": len(failures),
        "failures": failures[:_LISTED_FAILURES],
        "versions": method_versions(str(about["method"])),
    }
    notes = [labels_note(request)]
    if result.stresses:
        notes.append(f"Stress of {counted(result.stresses, 'periodic frame')}.")
    if result.hvp_error is not None:
        notes.append(
            f"HVPs: rms error of an element about {result.hvp_error:.2g} eV/Å², by twice the step on "
            f"{counted(len(result.error_frames), 'frame')}."
        )
    if failures:
        reasons = sorted(Counter(failure.outcome for failure in result.failures.values()).items())
        causes = "; ".join(f"{count} because {FAILURES.get(outcome, outcome)}" for outcome, count in reasons)
        notes.append(f"{len(failures)} of {result.frames} frames of the input failed and are left out: {causes}.")
    return DatasetMeta(result.level_of_theory, reference, provenance(**details), " ".join(notes))


def method_versions(method: str) -> dict[str, str]:
    """Return package -> version of what computes a method of the table; empty for another calculator."""
    name = method.partition(":")[0]
    packages = {METHODS[name].package} if name in METHODS else set()
    return {package: importlib.metadata.version(package) for package in sorted(packages)}


def labels_note(request: LabelRequest) -> str:
    """Return what the notes of a data set say of its labels."""
    parts = ["energy", "forces"]
    differences = f"central differences of {request.step:g} Å"
    if request.hessian is not None:
        how = differences if request.hessian == "differences" else f"the method's own, else {differences}"
        parts.append(f"Hessians ({how})")
    if request.probes is not None:
        count, family, seed = request.probes.count, request.probes.family, request.probes.seed
        which = "all 3n" if family == "complete" else f"{count} {family}"
        parts.append(f"HVPs along {which} probes a frame, seed {seed} ({differences})")
    return f"Labels: {', '.join(parts)}."
