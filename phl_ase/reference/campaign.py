"""Labelling a whole data set: interrupted and continued, on several processes or machines, nothing labelled twice.

Every finished frame is one file of a work folder; when none is left they are packed into one HDF5 data set by atomic
replace. A frame that fails is recorded with its reason and does not stop the others.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from phl_ase.datasets import BaseDataset, DatasetMeta, write_dataset
from phl_ase.datasets.schema import check_suffix
from phl_ase.errors import PHLError
from phl_ase.probes import check_family
from phl_ase.progress import Progress
from phl_ase.reference.cluster import on_cluster
from phl_ase.reference.executors import in_processes, in_this_process
from phl_ase.reference.labels import FAILURES, Failure, LabelledFrame, LabelRequest, Make, Task
from phl_ase.reference.methods import METHODS, energy_reference, level_of_theory
from phl_ase.reference.work_folder import WorkFolder, work_folder
from phl_ase.results import provenance
from phl_ase.structures import Frame

Array = np.ndarray

_LISTED_FAILURES, _REASON = 150, 200  # the provenance of a data set is at most 60,000 bytes


@dataclass(frozen=True)
class LabelResult:
    """What a campaign has come to.

    Attributes:
        path: The data set; ``None`` where none was written: no frame has labels, or it was stopped at a failure.
        frames: Number of frames of the input.
        labelled: How many have labels, those of earlier runs included.
        computed: How many frames this run worked on.
        failures: Index in the input -> why the frame has no labels.
        level_of_theory: Of the labels.
        gradients: Gradient calls that all labels cost.
        seconds: Time of all workers spent on them, s.
        product_error: Estimated rms error of an element of the products, eV/Å²; ``None`` where it was not asked for.
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
    product_error: float | None = None
    error_frames: tuple[int, ...] = ()
    stresses: int = 0
    work: Path | None = None


@dataclass(frozen=True)
class LabelMethod:
    """What labels.

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
    _check(structures, path, folder, request, workers, scheduler)
    level, reference = _level_and_reference(method)
    sample = request.sample(len(structures))
    about = _description(structures, method, request)
    with work_folder(folder, {**about, "level_of_theory": level}) as kept:
        if retry:
            kept.retry()
        done = kept.finished | set(kept.failures)
        tasks = ((structures[i], i in sample) for i in range(len(structures)) if i not in done)
        results = _results(tasks, method.make, request, workers, scheduler)
        _keep_all(results, kept, len(structures), keep_going=keep_going)
        computed = len(kept.finished) + len(kept.failures) - len(done)
        state: dict[str, Any] = {"computed": computed, "failures": dict(sorted(kept.failures.items()))}
        state |= {"frames": len(structures), "labelled": len(kept.finished), "level_of_theory": level}
        if not kept.finished or state["labelled"] + len(kept.failures) < len(structures):
            return LabelResult(path=None, work=folder, **state)
        state |= _costs(structures, kept)
        result = LabelResult(path=path, work=folder if kept.failures else None, **state)
        meta = _meta(result, structures, about, reference, request)
        write_dataset(path, _Finished(structures, kept), meta)
        if not kept.failures:
            kept.remove()
        return result


def _check(
    structures: BaseDataset, path: Path, folder: Path, request: LabelRequest, workers: int, scheduler: str | None
) -> None:
    """What can be wrong before anything is computed."""
    check_suffix(path)
    if not path.parent.is_dir():
        raise PHLError(f"cannot write {path}: the folder {path.parent} does not exist; make it first")
    if path.exists() and not (folder / "campaign.json").exists():
        raise PHLError(f"{path} exists; choose another name, or delete it to label anew")
    if workers < 1:
        raise PHLError(f"workers is {workers}; expected at least 1")
    if scheduler is not None and workers != 1:
        raise PHLError("got both workers and a scheduler; a cluster has workers of its own")
    if request.probes is not None:
        check_family(request.probes.family, request.probes.count, int(structures.sizes.min()))


def _level_and_reference(method: LabelMethod) -> tuple[str, str]:
    calculator = method.make()
    return level_of_theory(calculator), energy_reference(calculator)


def _results(
    tasks: Iterable[Task], make: Make, request: LabelRequest, workers: int, scheduler: str | None
) -> Generator[LabelledFrame, None, None]:
    if scheduler is not None:
        return on_cluster(tasks, make, request, scheduler)
    start = partial(request.labeller, make)
    return in_processes(tasks, start, workers, died=_died) if workers > 1 else in_this_process(tasks, start)


def _died(task: Task, how: str) -> LabelledFrame:
    return LabelledFrame(task[0], Failure("died", how), 0, 0.0)


def _keep_all(results: Generator[LabelledFrame, None, None], kept: WorkFolder, total: int, *, keep_going: bool) -> None:
    done = len(kept.finished) + len(kept.failures)
    with closing(results), Progress("label", total, done) as progress:
        for labelled in results:
            kept.keep(labelled)
            progress.advance(f"{len(kept.failures)} failed" if kept.failures else "")
            if labelled.failure is not None and not keep_going:
                return


def _description(structures: BaseDataset, method: LabelMethod, request: LabelRequest) -> dict[str, Any]:
    """What the labels depend on, as JSON holds it: the same for every run of a campaign."""
    return {
        "input": _structures_hash(structures),
        "method": method.name,
        "settings": dict(method.settings),
        **request.description,
    }


def _structures_hash(structures: Iterable[Frame]) -> str:
    """A sha256 of structures and what is known of them but for labels, which labelling replaces."""
    digest = hashlib.sha256()
    for frame in structures:
        for array, kind in ((frame.numbers, "<i8"), (frame.positions, "<f8"), (frame.cell, "<f8"), (frame.pbc, "?")):
            digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
        known = (len(frame), frame.charge, frame.multiplicity, frame.kind, frame.reaction)
        digest.update(repr((*known, frame.irc_s, frame.temperature)).encode())
    return digest.hexdigest()


class _Finished(Sequence):
    """The finished frames with their labels, read as they are asked for."""

    def __init__(self, structures: BaseDataset, kept: WorkFolder) -> None:
        self._structures, self._kept = structures, kept
        self._indices = sorted(kept.finished)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place: Any) -> Any:
        return self._kept.labelled(self._structures[self._indices[place]]).frame


def _costs(structures: BaseDataset, kept: WorkFolder) -> dict[str, Any]:
    gradients, seconds, stresses, errors = 0, 0.0, 0, {}
    for index in sorted(kept.finished):
        labelled = kept.labelled(structures[index])
        gradients += labelled.gradients
        seconds += labelled.seconds
        stresses += labelled.frame.stress is not None
        if labelled.product_error is not None:
            errors[index] = labelled.product_error
    rms = float(np.sqrt(np.mean(np.square(list(errors.values()))))) if errors else None
    return {
        "gradients": gradients,
        "seconds": seconds,
        "product_error": rms,
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
        "units": {"step": "Å", "product_error": "eV/Å²"},
        "product_error": result.product_error,
        "product_error_frames": list(result.error_frames),
        "gradients": result.gradients,
        "seconds": round(result.seconds, 3),
        "frames_of_input": result.frames,
        "failed": len(failures),
        "failures": failures[:_LISTED_FAILURES],
        "versions": method_versions(str(about["method"])),
    }
    stresses = [f"Stress of {result.stresses} periodic frames."] if result.stresses else []
    notes = [labels_note(request), *stresses, *_of_error(result), *_of_failures(result)]
    return DatasetMeta(result.level_of_theory, reference, provenance(**details), " ".join(notes))


def method_versions(method: str) -> dict[str, str]:
    """Package -> version of what computes a method of the table; empty for another calculator."""
    name = method.partition(":")[0]
    packages = {METHODS[name].package} if name in METHODS else set()
    return {package: importlib.metadata.version(package) for package in sorted(packages)}


def labels_note(request: LabelRequest) -> str:
    """What the notes of a data set say of its labels."""
    parts = ["energy", "forces"]
    differences = f"central differences of {request.step:g} Å"
    if request.hessian is not None:
        how = differences if request.hessian == "differences" else f"the method's own, else {differences}"
        parts.append(f"Hessians ({how})")
    if request.probes is not None:
        count, family, seed = request.probes.count, request.probes.family, request.probes.seed
        which = "all 3n" if family == "complete" else f"{count} {family}"
        parts.append(f"products along {which} probes a frame, seed {seed} ({differences})")
    return f"Labels: {', '.join(parts)}."


def _of_error(result: LabelResult) -> list[str]:
    if result.product_error is None:
        return []
    return [
        f"Products: rms error of an element about {result.product_error:.2g} eV/Å², by twice the step on "
        f"{len(result.error_frames)} frames."
    ]


def _of_failures(result: LabelResult) -> list[str]:
    if not result.failures:
        return []
    reasons = Counter(failure.outcome for failure in result.failures.values())
    counted = "; ".join(f"{count} because {FAILURES[outcome]}" for outcome, count in sorted(reasons.items()))
    return [f"{len(result.failures)} of {result.frames} frames of the input failed and are left out: {counted}."]
