"""DeePMD's folders of ``.npy`` files (its ``deepmd/npy`` format), with ``hessian.npy``: reading and writing.

A system is a folder with ``type.raw`` (a number for each atom), ``type_map.raw`` (their elements) and ``set.*`` folders
with one row a frame: ``coord`` (3n, Å), ``energy`` (eV), ``force`` (3n, eV/Å), ``virial`` (9, eV: −volume × stress),
``box`` (9, Å), ``hessian`` (9n², eV/Å²), labels of other packages under their own names. A file ``nopbc`` says that
nothing is periodic.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from ase.formula import Formula

from phl_ase.datasets.base import BaseDataset
from phl_ase.datasets.formats.entry import Entry, Found, Options
from phl_ase.datasets.formats.npy import Rows, opened
from phl_ase.errors import PHLError
from phl_ase.structures.frame import Frame
from phl_ase.structures.label import Label, labels
from phl_ase.types import Array

_OWN_NAMES = {"forces": "force", "stress": "virial"}


def kept_labels() -> dict[str, Label]:
    """Return the labels that the format has a place for, by the names of their files: a row for each frame."""
    return {_OWN_NAMES.get(name, name): label for name, label in labels().items() if label.per != "probe"}


def _systems(path: Path) -> list[Path]:
    return sorted(file.parent for file in path.rglob("type.raw"))


def recognises(path: Path) -> bool:
    """Return whether a folder holds a system of DeePMD's, itself or below."""
    return path.is_dir() and bool(_systems(path))


def read(path: Path, options: Options) -> Iterator[Entry]:
    """Read the frames of every system in a folder, set by set.

    Raises:
        PHLError: When a file is absent, truncated, holds Python objects, or does not fit the others.
    """
    systems = _systems(path)
    if not systems:
        raise PHLError(f"{path}: has no type.raw, in itself or below; expected systems in DeePMD's npy format")
    for system in systems:
        numbers, periodic = _elements(system), not (system / "nopbc").exists()
        n = len(numbers)
        widths = {name: int(np.prod(label.shape_for(n))) for name, label in kept_labels().items()}
        widths |= {"coord": 3 * n, "box": 9}
        sets = sorted(folder for folder in system.glob("set*") if folder.is_dir())
        if not sets:
            raise PHLError(f"{system}: has no folders set.000, …; expected DeePMD's npy format ('dp convert' of .raw)")
        for folder in sets:
            if (folder / "real_atom_types.npy").exists():
                raise PHLError(f"{folder}: is in DeePMD's mixed-type format; write it as deepmd/npy with dpdata first")
            with opened({name: folder / f"{name}.npy" for name in widths}) as arrays:
                absent = [name for name in ("coord", *(["box"] if periodic else [])) if name not in arrays]
                if absent:
                    raise PHLError(
                        f"{folder}: lacks {absent[0]}.npy; a system without a cell needs a file nopbc beside type.raw"
                    )
                frames = len(arrays["coord"])
                for name, array in arrays.items():
                    if len(array) != frames or int(np.prod(array.shape[1:], dtype=object)) != widths[name]:
                        raise PHLError(
                            f"{array.path}: has shape {array.shape}; expected {(frames, widths[name])} for {n} atoms "
                            f"and {frames} frames"
                        )
                for index in range(frames):
                    name = f"{system.name}/{folder.name}: frame {index}"
                    yield Entry(name, partial(_frame, numbers, arrays, index, periodic=periodic))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise PHLError(f"{path}: cannot be read; expected text of DeePMD's npy format") from error


def _elements(system: Path) -> Array:
    """Return the atomic numbers of a system ``(n,)``."""
    if not (system / "type_map.raw").exists():
        kinds = sorted(set(_words(system / "type.raw")))
        raise PHLError(
            f"{system}: has no type_map.raw, so nothing says which elements its types {', '.join(kinds[:8])} are; "
            "write that file: one symbol for each type, in the order of their numbers"
        )
    names = _words(system / "type_map.raw")
    unknown = [name for name in names if name not in atomic_numbers]
    if unknown:
        raise PHLError(f"{system / 'type_map.raw'}: names {unknown[0][:20]!r}, which is no element; expected H, C, …")
    types = _words(system / "type.raw")
    wrong = [kind for kind in types if not kind.isdecimal() or int(kind) >= len(names)]
    if wrong or not types:
        what = repr(wrong[0][:20]) if wrong else "nothing"
        raise PHLError(f"{system / 'type.raw'}: holds {what}; expected a number from 0 to {len(names) - 1} an atom")
    return np.array([atomic_numbers[names[int(kind)]] for kind in types])


def _frame(numbers: Array, arrays: Mapping[str, Rows], index: int, *, periodic: bool) -> tuple[Frame, Found]:
    n = len(numbers)
    row: dict[str, Any] = {name: array.row(index).reshape(-1) for name, array in arrays.items()}
    structure: dict[str, Any] = {"positions": row.pop("coord").reshape(n, 3)}
    if periodic:
        structure |= {"cell": row["box"].reshape(3, 3), "pbc": np.ones(3, dtype=bool)}
        volume = abs(np.linalg.det(structure["cell"]))
        row["virial"] = -row["virial"] / volume if "virial" in row and volume > 0 else None
    else:
        row.pop("virial", None)
    values, found = {}, {}
    for name, label in kept_labels().items():
        if row.get(name) is not None:  # a frame without a volume is refused for its cell
            shaped = row[name].reshape(label.shape_for(n))
            values[label.name] = shaped if shaped.shape else float(shaped)
            found[label.name] = f"{name}.npy"
    return Frame(numbers=numbers, **structure).with_labels(values), found


# ------------------------------------------------------------------------------------------------------------- writing


def write(dataset: BaseDataset, folder: Path) -> None:
    """Write a folder of systems: one for each sequence of elements, cell or none, and set of labels.

    Args:
        dataset: What to write; it is read twice, a frame at a time.
        folder: An empty folder.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, frame in enumerate(dataset):
        carried = tuple(frame.label(label.name) is not None for label in kept_labels().values())
        groups.setdefault((tuple(frame.numbers.tolist()), bool(np.any(frame.pbc)), carried), []).append(index)
    for place, (key, indices) in enumerate(groups.items()):
        numbers, periodic, _ = key
        symbols = [chemical_symbols[z] for z in numbers]
        system = folder / f"{place:05d}_{Formula.from_list(symbols).format('hill')}"
        (system / "set.000").mkdir(parents=True)
        names = sorted(set(symbols))
        (system / "type_map.raw").write_text("\n".join(names) + "\n", encoding="utf-8")
        (system / "type.raw").write_text("\n".join(str(names.index(s)) for s in symbols) + "\n", encoding="utf-8")
        if not periodic:
            (system / "nopbc").touch()
        # written, not mapped into memory: on a full disk, a store into a mapped page kills the process
        with contextlib.ExitStack() as stack:
            files: dict[str, BinaryIO] = {}
            for index in indices:
                frame = dataset[index]
                arrays: dict[str, Any] = {"coord": frame.positions, "box": frame.cell if periodic else None}
                arrays |= {name: frame.label(label.name) for name, label in kept_labels().items()}
                if frame.stress is not None:
                    arrays["virial"] = -abs(np.linalg.det(frame.cell)) * frame.stress if periodic else None
                for name, given in arrays.items():
                    if given is None:
                        continue
                    values = np.ascontiguousarray(given, dtype="<f8")
                    if name not in files:
                        files[name] = stack.enter_context((system / "set.000" / f"{name}.npy").open("wb"))
                        shape = (len(indices), *([values.size] if np.shape(given) else []))
                        header = {"descr": "<f8", "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(files[name], header)
                    files[name].write(values.tobytes())
