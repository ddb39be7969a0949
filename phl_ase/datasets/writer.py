"""Writing a data set: checked frame by frame, then written beside the target and moved over it in one step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phl_ase.datasets.base import BaseDataset
from phl_ase.datasets.schema import (
    FORMAT,
    SCHEMA,
    ContentHash,
    DatasetMeta,
    blocks,
    check_suffix,
    columns,
    counts,
    offsets_name,
    ragged_groups,
    storable,
    stored_units,
)
from phl_ase.datasets.sink import Sink
from phl_ase.errors import PHLError
from phl_ase.files import replacing
from phl_ase.structures.frame import Frame

_TEXT = 60_000  # HDF5 keeps attributes of up to 64 KiB
_CHUNK = 2**15
"""Bytes of a compressed chunk: small, since reading one frame inflates a whole chunk."""


def write_dataset(
    path: str | PathLike[str],
    frames: BaseDataset | Iterable[Frame],
    meta: DatasetMeta | None = None,
    *,
    compression: bool = False,
) -> str:
    """Write frames to an HDF5 data set by atomic replace; a file that stands there is replaced.

    Args:
        path: Where to, .h5 or .hdf5; its folder must exist.
        frames: What to write, in this order; the index becomes the ``frame_id``. A data set is streamed, not loaded.
        meta: Level of theory and the like; that of ``frames`` when they are a data set and nothing is given.
        compression: Deflate the arrays: smaller, and slower to read at random.

    Returns:
        The content hash.

    Raises:
        PHLError: When there is nothing to write, a frame is broken, or the file cannot be written (folder missing or
            not writable, disk full); a file that stood at ``path`` is then untouched.
    """
    path = Path(path)
    check_suffix(path)
    if meta is None:
        meta = frames.meta if isinstance(frames, BaseDataset) else DatasetMeta()
    source: Any = frames if isinstance(frames, BaseDataset | Sequence) else list(frames)
    attributes(meta)  # what is wrong with them is said before the frames are read
    offsets, widths = _measure(source, path)
    with replacing(path) as temporary:
        return write_columns(temporary, blocks(source), meta, offsets=offsets, widths=widths, compression=compression)


def attributes(meta: DatasetMeta) -> dict[str, Any]:
    """What stands in the attributes of a file.

    Raises:
        PHLError: When the provenance is not what JSON holds, or a text is longer than HDF5 keeps.
    """
    try:
        provenance = json.dumps(dict(meta.provenance), sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise PHLError(f"the provenance of a data set must be what JSON holds: {error}") from error
    for name, text in (("provenance", provenance), ("notes", meta.notes), ("level_of_theory", meta.level_of_theory)):
        if len(text.encode()) > _TEXT:
            raise PHLError(f"the {name} of a data set are {len(text.encode()):,} bytes; expected at most {_TEXT:,}")
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "level_of_theory": meta.level_of_theory,
        "energy_reference": meta.energy_reference,
        "units": json.dumps(stored_units(), ensure_ascii=False),
        "provenance": provenance,
        "notes": meta.notes,
    }


def _measure(frames: Iterable[Frame], path: Path) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Check every frame and find where each will stand, and how wide the columns of text must be."""
    table, groups = [], ragged_groups()
    widths = {name: 1 for name, column in columns().items() if column.dtype == "S"}
    for index, frame in enumerate(frames):
        filled = counts(storable(frame, f"frame {index}"))
        table.append(tuple(filled[ragged] for ragged in groups))
        widths = {name: max(width, len(getattr(frame, name).encode())) for name, width in widths.items()}
    if not table:
        raise PHLError(f"cannot write {path}: there are no frames; a data set holds at least one")
    ends = np.cumsum(np.array(table, dtype=np.int64), axis=0)
    return {ragged: np.concatenate([[0], ends[:, i]]) for i, ragged in enumerate(groups)}, widths


def write_columns(
    path: Path,
    parts: Iterable[Mapping[str, np.ndarray]],
    meta: DatasetMeta,
    *,
    offsets: Mapping[str, np.ndarray],
    widths: Mapping[str, int],
    compression: bool = False,
) -> str:
    """Write a file from blocks of columns.

    Args:
        path: A file that does not exist.
        parts: Blocks: column -> rows; those of one column in the order of the frames.
        meta: Level of theory and the like.
        offsets: Group of ragged columns -> offsets ``(frames + 1,)``.
        widths: Column of text -> bytes of its longest entry.
        compression: Deflate the arrays.

    Returns:
        The content hash.

    Raises:
        PHLError: For attributes that cannot be written.
        OSError: When the disk is full.
    """
    sink = Sink(path)
    try:
        with h5py.File(sink, "w") as file:
            for name, value in attributes(meta).items():
                _set_attribute(file, name, value)
            digest = _fill(file, parts, offsets, widths, compression, sink)
            _set_attribute(file, "content_hash", digest.hexdigest(meta))
        sink.check()
    finally:
        sink.close()
    return digest.hexdigest(meta)


def _set_attribute(file: h5py.File, name: str, value: Any) -> None:
    if isinstance(value, str):
        data = value.encode()
        file.attrs.create(name, data, dtype=h5py.string_dtype("utf-8", max(1, len(data))))
    else:
        file.attrs[name] = value


def _fill(file, parts, offsets, widths, compression, sink) -> ContentHash:
    digest = ContentHash()
    arrays = {}
    for name, column in columns().items():
        rows = int(offsets[column.ragged][-1]) if column.ragged else len(offsets["atoms"]) - 1
        if rows:
            dtype = h5py.string_dtype("utf-8", widths[name]) if column.dtype == "S" else np.dtype(column.dtype)
            arrays[name] = _create(file, name, (rows, *column.shape), dtype, compression)
    for ragged, values in offsets.items():
        digest.update(offsets_name(ragged), values)
        if values[-1]:
            array = _create(file, offsets_name(ragged), values.shape, np.dtype("<i8"), compression)
            array[...] = values
    written = dict.fromkeys(arrays, 0)
    for block in parts:
        for name, values in block.items():
            # HDF5 converts no ASCII text, NumPy's own, to UTF-8
            fitting = values.astype(arrays[name].dtype) if values.dtype.kind == "S" else values
            arrays[name][written[name] : written[name] + len(values)] = fitting
            written[name] += len(values)
            digest.update(name, values)
        sink.check()
    return digest


def _create(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype, compression: bool) -> h5py.Dataset:
    if not compression:
        return file.create_dataset(name, shape, dtype)
    rows = max(1, min(shape[0], _CHUNK // (dtype.itemsize * int(np.prod(shape[1:])))))
    return file.create_dataset(name, shape, dtype, chunks=(rows, *shape[1:]), compression="gzip", shuffle=True)
