"""Data sets from data sets: merged, when they say the same of the same things, and split into files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from phl_ase.datasets.base import BaseDataset
from phl_ase.datasets.schema import DatasetMeta
from phl_ase.datasets.splits import PARTS, Split
from phl_ase.datasets.spool import spooled
from phl_ase.datasets.tally import Tally
from phl_ase.errors import PHLError
from phl_ase.files import write_atomic

_COMMON = (("level_of_theory", "level of theory"), ("energy_reference", "energy reference"))


def merge(
    datasets: Sequence[BaseDataset], output: str | PathLike[str], *, allow_mixed: bool = False
) -> tuple[str, Tally]:
    """Put data sets one after another into one file, a frame at a time.

    Args:
        datasets: Two or more.
        output: The HDF5 file to write.
        allow_mixed: Merge different levels of theory or energy references; the result is called ``mixed: …``.

    Returns:
        The content hash, and the counts, duplicates between the data sets among them.

    Raises:
        PHLError: For less than two data sets, or different levels of theory or energy references.
    """
    if len(datasets) < 2:
        raise PHLError(f"got {len(datasets)} data set to merge; expected two or more")
    common = {name: _common(datasets, name, words, allow_mixed) for name, words in _COMMON}
    tally = Tally()
    with spooled(Path(output)) as spool:
        for dataset in datasets:
            for frame in dataset:
                tally.seen += 1
                spool.append(frame, f"{dataset.name}: frame {frame.frame_id}")
                tally.add(frame, f"{dataset.name}: frame {frame.frame_id}", {})
        sources = [
            {
                "name": Path(dataset.name).name,
                "frames": len(dataset),
                "content_hash": dataset.content_hash(),
                **{name: getattr(dataset.meta, name) for name, _ in _COMMON},
            }
            for dataset in datasets
        ]
        repeats, pairs = tally.duplicates()
        provenance = {"merged": sources, "duplicates": {"count": repeats, "pairs": pairs}}
        notes = " ".join(dict.fromkeys(dataset.meta.notes for dataset in datasets if dataset.meta.notes))
        return spool.finish(DatasetMeta(**common, provenance=provenance, notes=notes)), tally


def _common(datasets: Sequence[BaseDataset], name: str, words: str, allow_mixed: bool) -> str:
    values = {getattr(dataset.meta, name): dataset.name for dataset in reversed(datasets)}
    if len(values) == 1:
        return next(iter(values))
    said = [f"{dataset}: {value or 'unknown'}" for value, dataset in reversed(values.items())]
    if not allow_mixed:
        raise PHLError(
            f"the data sets differ in {words} ({'; '.join(said)}), so their energies cannot be learnt together; import "
            "them again with the same --level and --energy-reference if they are the same, or say --allow-mixed"
        )
    return "mixed: " + ", ".join(value or "unknown" for value in reversed(values))


def write_split(dataset: BaseDataset, split: Split, folder: str | PathLike[str]) -> dict[str, int]:
    """Write the parts of a split as data sets ``train.h5``, ``valid.h5``, ``test.h5``, and the split as ``split.json``.

    Args:
        dataset: What was split.
        split: Which frames go where; a part without frames is not written.
        folder: Made when it does not exist.

    Returns:
        Frames of each part.

    Raises:
        PHLError: When the split was made for other data, or the folder cannot be written.
    """
    split.check(dataset)
    folder = Path(folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise PHLError(f"cannot make the folder {folder}: {error.strerror}; name one beside existing ones") from error
    parts: dict[str, Sequence[int]] = {part: getattr(split, part) for part in PARTS}
    for part, indices in parts.items():
        if indices:
            record = {"name": split.name, "seed": split.seed, "part": part, "dataset": split.dataset}
            _write_part(dataset, indices, folder / f"{part}.h5", record)
    write_atomic(folder / "split.json", json.dumps(split.to_json(), indent=1).encode())
    return {part: len(indices) for part, indices in parts.items()}


def _write_part(dataset: BaseDataset, indices: Iterable[int], path: Path, record: dict[str, Any]) -> None:
    with spooled(path) as spool:
        for index in indices:
            spool.append(dataset[index], f"{dataset.name}: frame {index}")
        spool.finish(dataclasses.replace(dataset.meta, provenance={**dataset.meta.provenance, "split": record}))
