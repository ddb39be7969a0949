"""Force Jacobians of MLFF-distill (doi:10.48550/arXiv.2501.09009): ∂F/∂R = −H, without the structures.

An LMDB whose record ``i`` is the bytes of ``(n, 3, n, 3)`` numbers, float32 or float64, for frame i of the data set
that the teacher labelled; that data set is another file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from phl_ase.datasets.formats.entry import Entry, Found, Options
from phl_ase.datasets.formats.graphs import PICKLE, first_value
from phl_ase.datasets.formats.lmdb_file import is_lmdb, opened
from phl_ase.errors import PHLError
from phl_ase.structures.frame import Frame


def recognises(path: Path) -> bool:
    """Return whether a path is an LMDB of bare numbers."""
    return is_lmdb(path) and not first_value(path).startswith(PICKLE)


def read(path: Path, options: Options) -> Iterator[Entry]:
    """Read the structures that the labels belong to, each with its Hessian; those without a label keep their own.

    Raises:
        PHLError: When the structures are not given, or the file is truncated or damaged.
    """
    if options.structures is None:
        raise PHLError(
            f"{path}: force Jacobians stand without structures; name the file that the teacher labelled: --structures"
        )
    with opened(path) as transaction:
        records = int(transaction.stat()["entries"])
        used = 0
        for index, structure in enumerate(options.structures()):
            data = transaction.get(str(index).encode())
            used += data is not None
            yield Entry(
                f"{path.name}: record {index}", partial(_frame, structure, data, f"{path.name}: record {index}")
            )
        if used != records:
            raise PHLError(
                f"{path}: has {records} labels, of which {used} belong to one of the {index + 1} structures; "
                "expected those that the teacher labelled, in their order"
            )


def _frame(structure: Entry, data: bytes | None, name: str) -> tuple[Frame, Found]:
    frame, found = structure.build()
    if data is None:
        return frame, found
    numbers = 9 * len(frame) ** 2
    dtype = {4 * numbers: "<f4", 8 * numbers: "<f8"}.get(len(data))
    if dtype is None:
        raise PHLError(
            f"{name}: {len(data)} bytes are no force Jacobian of {structure.name} with {len(frame)} atoms; expected "
            f"{4 * numbers} (float32) or {8 * numbers} (float64)"
        )
    jacobian = np.frombuffer(data, dtype=dtype).astype(float).reshape(3 * len(frame), 3 * len(frame))
    return dataclasses.replace(frame, hessian=-jacobian), {**found, "hessian": "force Jacobian, times −1"}
