"""Our own HDF5 as a format to import: to state a missing level of theory, or as structures for labels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import h5py

from phl_ase.datasets.file_checks import open_file
from phl_ase.datasets.formats.entry import Entry, Found, Options
from phl_ase.datasets.schema import DatasetMeta
from phl_ase.datasets.store import Dataset
from phl_ase.structures.frame import Frame
from phl_ase.structures.label import labels


def recognises(path: Path) -> bool:
    """Return whether a file is HDF5 with the attributes of a data set of ours, of any version."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with open_file(path) as file:
        return "format" in file.attrs


def meta(path: Path) -> DatasetMeta:
    """Return what the data set says of itself.

    Raises:
        PHLError: When it is broken or of a newer version.
    """
    with Dataset(path) as dataset:
        return dataset.meta


def read(path: Path, options: Options) -> Iterator[Entry]:
    """Read the frames of a data set of ours.

    Raises:
        PHLError: When it is broken or of a newer version.
    """
    with Dataset(path) as dataset:
        for index in range(len(dataset)):
            yield Entry(f"{path.name}: frame {index}", partial(_frame, dataset, index))


def _frame(dataset: Dataset, index: int) -> tuple[Frame, Found]:
    frame = dataset[index]
    return frame, {name: label.column for name, label in labels().items() if frame.label(name) is not None}
