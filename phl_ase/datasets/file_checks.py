"""Opening an HDF5 file that somebody else made: nothing outside the file is followed, nothing absurd is allocated.

Refused: soft, external and user-defined links, groups, virtual data sets, external storage, object and
variable-length types, filters other than HDF5's own, and declared sizes that the bytes on disk cannot fill.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from phl_ase.datasets.schema import FORMAT, NAME_BYTES, REQUIRED, SCHEMA, Column, columns, offsets_name, ragged_groups
from phl_ase.errors import PHLError
from phl_ase.structures.label import labels

# deflate cannot shrink further than this (RFC 1951: 258 bytes from two bits); no filter may stand twice
_RATIO = 1032
_MAX_CHUNK = 64 * 2**20
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}


def open_file(path: Path) -> h5py.File:
    """Open a data-set file for reading.

    Raises:
        PHLError: When it is missing, unreadable, truncated or not HDF5.
    """
    if not path.exists():
        raise PHLError(f"no data set at {path}: no such file; check the path")
    if not path.is_file():
        raise PHLError(f"{path} is a folder, not a data-set file; name the .h5 file inside it")
    try:
        return h5py.File(path, "r")
    except PermissionError as error:
        raise PHLError(f"{path} cannot be read: permission denied; check its mode") from error
    except (OSError, RuntimeError) as error:
        reason = str(error)
        if "unable to lock file" in reason:
            raise PHLError(
                f"{path} is locked: another program has it open for writing; wait until it has closed the file"
            ) from error
        if "truncated" in reason:
            raise PHLError(f"{path} is truncated: it ends before its data do; copy or download it again") from error
        if "signature" in reason:
            raise PHLError(f"{path} is not an HDF5 file; expected a data set written by phl_ase") from error
        raise PHLError(f"{path} cannot be opened as HDF5: {first_line(error)}; copy or download it again") from error


def first_line(error: Exception) -> str:
    """Return the first line of another package's error, short enough for one line of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


@contextlib.contextmanager
def damage_of(where: str) -> Iterator[None]:
    """Turn what h5py raises on damaged bytes, which may be nearly anything, into one line about ``where``."""
    try:
        yield
    except PHLError:
        raise
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, ArithmeticError, MemoryError) as error:
        raise PHLError(f"{where} cannot be read ({first_line(error)}); the file is damaged") from error


def text_attribute(file: h5py.File, name: str, path: Path) -> str:
    """Return a text attribute of the file; empty when it is absent.

    Raises:
        PHLError: When it is not one string of fixed length.
    """
    if name not in file.attrs:
        return ""
    attribute = file.attrs.get_id(name)
    # no text of variable length: HDF5 2.0 loops for ever on a damaged global heap, where that is kept
    if attribute.shape != () or attribute.dtype.kind != "S":
        raise PHLError(
            f"{path}: the attribute {name!r} is not plain text of fixed length; write the file again, or set it as "
            "numpy.bytes_(text.encode())"
        )
    return bytes(file.attrs[name]).decode()


def check_format(file: h5py.File, path: Path) -> None:
    """Check that the file is ours and of a version that is known.

    Raises:
        PHLError: Otherwise.
    """
    if text_attribute(file, "format", path) != FORMAT:
        raise PHLError(
            f"{path} is HDF5 but not a phl_ase data set (no format attribute); convert it with 'phl data import'"
        )
    schema = file.attrs.get_id("schema") if "schema" in file.attrs else None
    if schema is None or schema.shape != () or schema.dtype.kind not in "iu":
        raise PHLError(f"{path}: no schema version (a whole number) among its attributes; expected {SCHEMA}")
    version = int(file.attrs["schema"])
    if version > SCHEMA:
        raise PHLError(f"{path}: schema version {version} is newer than {SCHEMA}, the last one known; upgrade phl_ase")
    if version < 1:
        raise PHLError(f"{path}: unknown schema version {version}; expected 1 to {SCHEMA}")


def check_arrays(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    """Check links, storage, types and declared sizes of every array in the file.

    Returns:
        The arrays, by name.

    Raises:
        PHLError: Naming the array and what is wrong with it.
    """
    known = {**columns(), **{offsets_name(ragged): Column("<i8") for ragged in ragged_groups()}}
    total = path.stat().st_size
    arrays: dict[str, h5py.Dataset] = {}
    for name in file:
        if name not in known:
            raise PHLError(
                f"{path}: holds {name[:80]!r}, which is no part of a data set; expected {', '.join(known)}: if it is a "
                "label of another package, import that package first"
            )
        where = f"{path}: array {name!r}"
        check_hard_link(file, name, where, "since data sets hold their own data: write it again as one file")
        with damage_of(where):
            array = file[name]
            if not isinstance(array, h5py.Dataset):
                raise PHLError(f"{where} is a group or a type; expected an array")
            check_storage(array, where)
            column, dtype = known[name], array.dtype
            text = column.dtype == "S"
            expected = "fixed-length text" if text else str(np.dtype(column.dtype))
            if dtype.kind == "O":
                raise PHLError(f"{where} holds references or data of variable length; expected {expected}")
            fitting_text = dtype.kind == "S" and 1 <= dtype.itemsize <= NAME_BYTES
            if not (fitting_text if text else dtype.newbyteorder("<") == np.dtype(column.dtype)):
                raise PHLError(f"{where} has type {dtype}, expected {expected}")
            if array.ndim != 1 + len(column.shape) or array.shape[1:] != column.shape:
                rows = ", ".join(("rows", *map(str, column.shape)))
                raise PHLError(f"{where} has shape {array.shape}, expected ({rows})")
            check_size(array, where, total)
        arrays[name] = array
    absent = [name for name in (*REQUIRED, offsets_name("atoms")) if name not in arrays]
    if absent:
        raise PHLError(f"{path}: lacks the arrays {', '.join(absent)}; the file is incomplete, write it again")
    if sum(array.id.get_storage_size() for array in arrays.values()) > total:
        raise PHLError(f"{path}: its arrays claim more bytes than the file has ({total}); the file is damaged")
    return arrays


def check_hard_link(parent: h5py.Group, name: str, where: str, reason: str) -> None:
    """Check that a member of a group is in the file itself.

    Args:
        parent: The group.
        name: The member.
        where: How an error names it.
        reason: Why links are refused, for the error.

    Raises:
        PHLError: When it is a soft, external or user-defined link.
    """
    try:
        link = parent.get(name, getlink=True)
    except TypeError:  # a link of a type that h5py does not know
        link = None
    if not isinstance(link, h5py.HardLink):
        kind = {h5py.SoftLink: "a soft link", h5py.ExternalLink: "an external link"}.get(type(link), "an unknown link")
        raise PHLError(f"{where} is {kind}; refused, {reason}")


def check_storage(array: h5py.Dataset, where: str) -> None:
    """Check that an array holds its own data, through HDF5's own filters.

    Raises:
        PHLError: When its data are elsewhere, or behind another filter.
    """
    # before shape or type is asked for: HDF5 opens the sources of a virtual data set to answer
    properties = array.id.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL:
        raise PHLError(f"{where} is a virtual data set (its data are in other files); refused: write it as one file")
    if properties.get_layout() != h5py.h5d.CHUNKED and properties.get_external_count():
        raise PHLError(f"{where} keeps its data in another file; refused: write it again as one file")
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if len(set(filters)) != len(filters) or not set(filters) <= _FILTERS:
        raise PHLError(f"{where} is stored with HDF5 filters {filters}; expected none, gzip, lzf or shuffle, each once")


def check_size(array: h5py.Dataset, where: str, total: int) -> None:
    """Check that the bytes in the file can fill the shape that an array declares.

    Raises:
        PHLError: Otherwise.
    """
    declared = array.size * array.dtype.itemsize
    stored = array.id.get_storage_size()
    ratio = 1 if array.id.get_create_plist().get_nfilters() == 0 else _RATIO
    if declared > ratio * stored or stored > total:
        raise PHLError(
            f"{where} declares {array.size:,} elements ({declared:,} bytes) but {min(stored, total):,} bytes are "
            "stored; refused: the file is incomplete or made to exhaust memory"
        )
    if array.chunks is not None and int(np.prod(array.chunks)) * array.dtype.itemsize > _MAX_CHUNK:
        raise PHLError(f"{where} is stored in chunks of {array.chunks}; expected at most {_MAX_CHUNK:,} bytes each")


def check_offsets(arrays: dict[str, h5py.Dataset], path: Path) -> dict[str, np.ndarray]:
    """Read the offsets and check them against each other and against the arrays they point into.

    Returns:
        Group of ragged columns -> offsets ``(frames + 1,)``; zeros for a group that the file does not hold.

    Raises:
        PHLError: Naming the offsets and the first frame where they are wrong.
    """
    frames = len(arrays["pbc"])
    if frames == 0:
        raise PHLError(f"{path}: the data set is empty; expected at least one frame")
    for name, column in columns().items():
        if not column.ragged and len(arrays[name]) != frames:
            raise PHLError(f"{path}: array {name!r} has {len(arrays[name])} rows, expected {frames}, one a frame")
    offsets: dict[str, np.ndarray] = {}
    for ragged in ragged_groups():
        key = offsets_name(ragged)
        members = [column for column, spec in columns().items() if spec.ragged == ragged]
        if key not in arrays:
            if orphans := [column for column in members if column in arrays]:
                raise PHLError(f"{path}: holds {orphans[0]!r} without {key!r}; the file is incomplete")
            offsets[ragged] = np.zeros(frames + 1, dtype=np.int64)
            continue
        if len(arrays[key]) != frames + 1:
            raise PHLError(f"{path}: {key} has {len(arrays[key])} entries, expected {frames + 1} for {frames} frames")
        with damage_of(f"{path}: array {key!r}"):
            values = arrays[key][...]
        falling = np.diff(values) < 0
        if values[0] != 0 or falling.any():
            raise PHLError(f"{path}: {key} do not rise from 0 (at frame {int(falling.argmax())}); the file is damaged")
        for member in members:
            length = len(arrays[member]) if member in arrays else 0
            if int(values[-1]) != length:
                raise PHLError(f"{path}: {key} end at row {values[-1]} but {member!r} has {length} rows; file damaged")
        offsets[ragged] = values
    sizes = np.diff(offsets["atoms"])
    allowed = {label.offsets: label.rows_for(sizes) for label in labels().values() if label.per != "probe"}
    for ragged, values in offsets.items():
        filled = np.diff(values)
        if ragged == "atoms":
            wrong = filled < 1
        elif ragged == "probes":
            wrong = filled % sizes != 0
        else:
            wrong = (filled != 0) & (filled != allowed.get(ragged, 1))
        if wrong.any():
            first = int(wrong.argmax())
            raise PHLError(
                f"{path}: {offsets_name(ragged)} give frame {first} {filled[first]} rows, which do not fit its "
                f"{sizes[first]} atoms; the file is damaged"
            )
    return offsets
