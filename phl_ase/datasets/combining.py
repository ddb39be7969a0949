"""Data sets from data sets: merged, when their levels of theory agree, and split into files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from phl_ase.datasets.base import BaseDataset
from phl_ase.datasets.schema import DatasetMeta
from phl_ase.datasets.splits import PARTS, Split
from phl_ase.datasets.statistics import FrameStatistics
from phl_ase.datasets.writer import dataset_writer
from phl_ase.errors import PHLError
from phl_ase.files import write_atomic

_COMMON = (("level_of_theory", "level of theory"), ("energy_reference", "energy reference"))


def merge(
    datasets: Sequence[BaseDataset], output: str | PathLike[str], *, allow_mixed: bool = False
) -> tuple[str, FrameStatistics]:
    """Put data sets one after another into one file, a frame at a time.

    Args:
        datasets: Two or more.
        output: The HDF5 file to write.
        allow_mixed: Merge different levels of theory or energy references; the result is called ``mixed: …``.

    Returns:
        The content hash and the statistics, duplicates between the data sets among them.

    Raises:
        PHLError: For less than two data sets, or different levels of theory or energy references.
    """
    if len(datasets) < 2:
        raise PHLError(f"got {len(datasets)} data set to merge; expected two or more")
    common: dict[str, str] = {}
    for name, words in _COMMON:
        values = {getattr(dataset.meta, name): dataset.name for dataset in reversed(datasets)}
        if len(values) > 1 and not allow_mixed:
            said = "; ".join(f"{dataset}: {value or 'unknown'}" for value, dataset in reversed(values.items()))
            raise PHLError(
                f"the data sets differ in {words} ({said}), so their energies cannot be learnt together; import them "
                "again with the same --level and --energy-reference if they are the same, or say --allow-mixed"
            )
        mixed = "mixed: " + ", ".join(value or "unknown" for value in reversed(values))
        common[name] = mixed if len(values) > 1 else next(iter(values))
    statistics = FrameStatistics()
    with dataset_writer(Path(output)) as writer:
        for dataset in datasets:
            for frame in dataset:
                statistics.seen += 1
                writer.append(frame, f"{dataset.name}: frame {frame.frame_id}")
                statistics.add(frame, f"{dataset.name}: frame {frame.frame_id}", {})
        sources = [
            {
                "name": Path(dataset.name).name,
                "frames": len(dataset),
                "content_hash": dataset.content_hash(),
                **{name: getattr(dataset.meta, name) for name, _ in _COMMON},
            }
            for dataset in datasets
        ]
        repeats, pairs = statistics.duplicates()
        provenance = {"merged": sources, "duplicates": {"count": repeats, "pairs": pairs}}
        notes = " ".join(dict.fromkeys(dataset.meta.notes for dataset in datasets if dataset.meta.notes))
        return writer.finish(DatasetMeta(**common, provenance=provenance, notes=notes)), statistics


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
            meta = dataclasses.replace(dataset.meta, provenance={**dataset.meta.provenance, "split": record})
            with dataset_writer(folder / f"{part}.h5") as writer:
                for index in indices:
                    writer.append(dataset[index], f"{dataset.name}: frame {index}")
                writer.finish(meta)
    write_atomic(folder / "split.json", json.dumps(split.to_json(), indent=1).encode())
    return {part: len(indices) for part, indices in parts.items()}
