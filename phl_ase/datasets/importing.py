"""Import of foreign files into our format: streamed, symmetrised, counted; refused frames are recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from phl_ase.datasets.consistency import Consistency, WrongUnits, to_internal
from phl_ase.datasets.formats import FORMATS, Entry, Format, Options, format_of
from phl_ase.datasets.labelled import check_keys, keys_not_read, no_such_key
from phl_ase.datasets.schema import DatasetMeta
from phl_ase.datasets.statistics import FrameStatistics
from phl_ase.datasets.writer import dataset_writer
from phl_ase.errors import PHLError, unknown
from phl_ase.structures.label import labels


@dataclass(frozen=True)
class ImportReport:
    """The result of an import.

    Attributes:
        source: The file or folder.
        format: Name of its format.
        meta: What was written into the data set; its provenance holds the counts.
        frames: Frames taken.
        refused: Frames refused.
        coverage: Label -> frames that carry it.
        content_hash: Hash of the data set.
        lines: The report for a reader, line by line.
    """

    source: str
    format: str
    meta: DatasetMeta
    frames: int
    refused: int
    coverage: Mapping[str, int]
    content_hash: str
    lines: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as values that JSON holds."""
        return {
            "frames": self.frames,
            "coverage": dict(self.coverage),
            "level_of_theory": self.meta.level_of_theory,
            "energy_reference": self.meta.energy_reference,
            "content_hash": self.content_hash,
            **self.meta.provenance,
        }


def import_dataset(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    format: str = "",
    keys: Mapping[str, str] | None = None,
    level: str = "",
    energy_reference: str = "",
    units: Mapping[str, str] | None = None,
    structures: str | PathLike[str] | None = None,
) -> ImportReport:
    """Import a foreign file or folder; memory does not grow with its size but for 8 bytes a frame.

    Hessians are symmetrised. A broken frame is refused and recorded in the data set's provenance, and the others are
    taken; a broken file ends the import and leaves nothing behind.

    Args:
        source: A file or folder of a format in :data:`phl_ase.datasets.formats.FORMATS`.
        output: The HDF5 file to write; one that stands there is replaced.
        format: Name of the format; recognised when empty.
        keys: Label -> key, for files that ASE reads; see :func:`phl_ase.datasets.labelled.default_keys`.
        level: Level of theory; that of the published data, where the format says it, when empty.
        energy_reference: What energies are relative to; likewise.
        units: Label, ``positions`` or ``cell`` -> its unit in the file, where that is
            not the format's: a name of :mod:`phl_ase.units`; the Hessian and HVPs are d²E/dR². A minus sign before
            it turns the sign: ``-Ha/Bohr`` for forces that are stored as gradients.
        structures: Where the structures are, for formats that hold labels alone.

    Raises:
        PHLError: For a missing, unknown, truncated or hostile file, keys that no frame has, or when every frame was
            refused.
    """
    path = Path(source)
    name = format_of(path, format)
    reader = FORMATS[name]
    if keys and not (reader.keyed or reader.labels_only):
        raise PHLError(f"{name} has keys of its own; leave out the key mapping ({', '.join(keys)})")
    options = Options(keys=check_keys(keys), structures=_structures(structures, name, reader, keys))
    stored_in = {**reader.stored_in, **(units or {})}
    factors = _factors(stored_in)
    published = reader.meta(path) if reader.meta else DatasetMeta(reader.level_of_theory, reader.energy_reference)
    energy_reference = energy_reference or published.energy_reference
    consistency = Consistency(str(path), stored_in, energy_reference) if reader.consistent else None
    statistics = FrameStatistics()
    with dataset_writer(Path(output)) as writer:
        for entry in reader.read(path, options):
            statistics.seen += 1
            try:
                frame, found = entry.build()
                places = {k: factors[k] * getattr(frame, k) for k in ("positions", "cell") if k in factors}
                scaled = {k: factor * frame.label(k) for k, factor in factors.items() if frame.label(k) is not None}
                frame = dataclasses.replace(frame, **places).with_labels(scaled)
                frame = statistics.symmetric(frame, entry.name)
                if consistency is not None:
                    frame = consistency.checked(frame, entry.name)
                writer.append(frame, entry.name)
            except WrongUnits:
                raise
            except PHLError as error:
                statistics.refuse(entry.name, str(error).removeprefix(entry.name).lstrip(": "))
            else:
                statistics.add(frame, entry.name, found)
        if consistency is not None:
            consistency.finish()
        if not statistics.seen:
            raise PHLError(f"{path}: holds no structures; expected at least one")
        if not writer.frames:
            first, reason = statistics.refusals[0]
            raise PHLError(f"{path}: all {statistics.seen} frames were refused; the first, {first}: {reason}")
        for label, key in options.keys.items():
            if key not in statistics.places.get(label, {}):
                raise PHLError(no_such_key(path, label, key, options.seen))
        provenance: dict[str, Any] = {"source": path.name, "format": name, "units_of_source": reader.units}
        if units:
            provenance["units_converted"] = dict(units)
        if reader.keyed:
            found_under = [(label, key) for label, places in statistics.places.items() for key in places]
            provenance["keys_not_read"] = keys_not_read(options.seen, found_under)
        provenance |= statistics.to_json()
        if published.provenance:
            provenance["before"] = dict(published.provenance)
        notes = [published.notes, consistency.notes() if consistency is not None else ""]
        if (largest := statistics.asymmetric[0]) > 0:
            notes.append(f"Hessians of the source were asymmetric by up to {largest:.2g} eV/Å²; averaged.")
        if refused := statistics.refused:
            notes.append(f"{refused} of {statistics.seen} frames of the source were refused; the provenance says why.")
        meta = DatasetMeta(
            level or published.level_of_theory, energy_reference, provenance, " ".join(filter(None, notes))
        )
        content_hash = writer.finish(meta)
    coverage = {name: writer.covered[label.offsets] for name, label in labels().items()}
    lines = tuple(_lines(name, meta, coverage, statistics, writer.frames))
    return ImportReport(str(path), name, meta, writer.frames, statistics.refused, coverage, content_hash, lines)


def _structures(
    source: str | PathLike[str] | None, name: str, reader: Format, keys: Mapping[str, str] | None
) -> Callable[[], Iterator[Entry]] | None:
    if source is None:
        return None
    if not reader.labels_only:
        raise PHLError(f"{name} holds its own structures; leave out --structures")
    path = Path(source)
    other = FORMATS[format_of(path)]
    if other.labels_only:
        raise PHLError(f"{path} holds labels alone; name a file of structures")
    return partial(other.read, path, Options(keys=check_keys(keys)))


def _factors(units: Mapping[str, str]) -> dict[str, float]:
    signed = {"positions": False, "cell": False} | {name: label.signed for name, label in labels().items()}
    factors = {}
    for label, text in units.items():
        if label not in signed:
            raise unknown("label with a unit", label, signed)
        if text.strip().startswith(("-", "−")) and not signed[label]:
            may = ", ".join(name for name, allowed in signed.items() if allowed)
            raise PHLError(f"the unit of {label} is {text!r}; only {may} may be stored with another sign")
        factors[label] = to_internal(label, text)
    return factors


def _lines(
    name: str, meta: DatasetMeta, coverage: Mapping[str, int], statistics: FrameStatistics, frames: int
) -> Iterator[str]:
    yield f"{frames} of {statistics.seen} frames taken, {statistics.refused} refused; format {name}"
    yield f"labels: {', '.join(f'{label} {count}' for label, count in coverage.items())}"
    said = "".join(f", {label} {unit}" for label, unit in meta.provenance.get("units_converted", {}).items())
    yield f"units of the source: {meta.provenance['units_of_source']}{said and f' but{said[1:]}'}; kept in eV, Å"
    yield (
        f"level of theory: {meta.level_of_theory or 'unknown (say it with --level)'}; "
        f"energies: {meta.energy_reference or 'unknown'}"
    )
    if left := meta.provenance.get("keys_not_read"):
        yield f"keys not read (a label under one: --key LABEL=KEY): {', '.join(left)}"
    yield from statistics.lines()
    for refused, reason in statistics.refusals:
        yield f"refused {refused}: {reason}"
    if statistics.refused > len(statistics.refusals):
        yield f"… and {statistics.refused - len(statistics.refusals)} more refused"
