"""Foreign files into our format: streamed, symmetrised, counted; the refused are recorded, never silently dropped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from phl_ase.datasets.consistency import Consistency, WrongUnits, to_internal
from phl_ase.datasets.formats import FORMATS, Entry, Format, Options, format_of
from phl_ase.datasets.labelled import check_keys, keys_not_read, no_such_key
from phl_ase.datasets.schema import DatasetMeta
from phl_ase.datasets.spool import Spool, spooled
from phl_ase.datasets.tally import Tally
from phl_ase.errors import PHLError, unknown
from phl_ase.structures.frame import Frame
from phl_ase.structures.label import labels


@dataclass(frozen=True)
class ImportReport:
    """What an import took and what it found.

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
        """The report as values that JSON holds."""
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
    options = Options(keys=_checked_keys(keys, name, reader), structures=_structures(structures, name, reader, keys))
    stored_in = {**reader.stored_in, **(units or {})}
    factors = _factors(stored_in)
    said = _said(reader, path, level, energy_reference)
    consistency = Consistency(str(path), stored_in, said.energy_reference) if reader.consistent else None
    tally = Tally()
    with spooled(Path(output)) as spool:
        for entry in reader.read(path, options):
            _take(entry, spool, tally, factors, consistency)
        if consistency is not None:
            consistency.finish()
        _check_taken(tally, spool, path, options)
        converted = {"units_converted": dict(units)} if units else {}
        origin = {"source": path.name, "format": name, "units_of_source": reader.units, **converted}
        found = [(label, key) for label, places in tally.places.items() for key in places]
        left = {"keys_not_read": keys_not_read(options.seen, found)} if reader.keyed else {}
        settled = consistency.notes() if consistency is not None else ""
        meta = _counted(said, {**origin, **left}, tally, settled)
        content_hash = spool.finish(meta)
    coverage = {name: spool.covered[label.offsets] for name, label in labels().items()}
    lines = tuple(_lines(name, meta, coverage, tally, spool.frames))
    return ImportReport(str(path), name, meta, spool.frames, tally.refused, coverage, content_hash, lines)


def _said(reader: Format, path: Path, level: str, energy_reference: str) -> DatasetMeta:
    said = reader.meta(path) if reader.meta else DatasetMeta(reader.level_of_theory, reader.energy_reference)
    return dataclasses.replace(
        said,
        level_of_theory=level or said.level_of_theory,
        energy_reference=energy_reference or said.energy_reference,
    )


def _checked_keys(keys: Mapping[str, str] | None, name: str, reader: Format) -> Mapping[str, str]:
    if keys and not (reader.keyed or reader.labels_only):
        raise PHLError(f"{name} has keys of its own; leave out the key mapping ({', '.join(keys)})")
    return check_keys(keys)


def _structures(source: str | PathLike[str] | None, name: str, reader: Format, keys: Mapping[str, str] | None):
    if source is None:
        return None
    if not reader.labels_only:
        raise PHLError(f"{name} holds its own structures; leave out --structures")
    path = Path(source)
    other = FORMATS[format_of(path)]
    if other.labels_only:
        raise PHLError(f"{path} holds labels alone; name a file of structures")

    def entries() -> Iterator[Entry]:
        return other.read(path, Options(keys=check_keys(keys)))

    return entries


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


def _converted(frame: Frame, factors: Mapping[str, float]) -> Frame:
    places = {name: factors[name] * getattr(frame, name) for name in ("positions", "cell") if name in factors}
    values = {name: frame.label(name) for name in factors if name not in places}
    scaled = {name: factors[name] * value for name, value in values.items() if value is not None}
    return dataclasses.replace(frame, **places).with_labels(scaled)


def _take(
    entry: Entry, spool: Spool, tally: Tally, factors: Mapping[str, float], consistency: Consistency | None
) -> None:
    tally.seen += 1
    try:
        frame, found = entry.build()
        frame = tally.symmetric(_converted(frame, factors), entry.name)
        if consistency is not None:
            frame = consistency.checked(frame, entry.name)
        spool.append(frame, entry.name)
    except WrongUnits:
        raise
    except PHLError as error:
        tally.refuse(entry.name, str(error).removeprefix(entry.name).lstrip(": "))
    else:
        tally.add(frame, entry.name, found)


def _check_taken(tally: Tally, spool: Spool, path: Path, options: Options) -> None:
    if not tally.seen:
        raise PHLError(f"{path}: holds no structures; expected at least one")
    if not spool.frames:
        first = tally.refusals[0]
        raise PHLError(f"{path}: all {tally.seen} frames were refused; the first, {first.name}: {first.reason}")
    for label, key in options.keys.items():
        if key not in tally.places.get(label, {}):
            raise PHLError(no_such_key(path, label, key, options.seen))


def _counted(said: DatasetMeta, origin: Mapping[str, Any], tally: Tally, settled: str) -> DatasetMeta:
    provenance = {**origin, **tally.to_json()}
    if said.provenance:
        provenance["before"] = dict(said.provenance)
    notes = " ".join(filter(None, [said.notes, settled, *_notes(tally)]))
    return dataclasses.replace(said, provenance=provenance, notes=notes)


def _notes(tally: Tally) -> Iterator[str]:
    if tally.asymmetric[0]:
        yield f"Hessians of the source were asymmetric by up to {tally.asymmetric[0]:.2g} eV/Å²; averaged."
    if tally.refused:
        yield f"{tally.refused} of {tally.seen} frames of the source were refused; the provenance says why."


def _lines(name: str, meta: DatasetMeta, coverage: Mapping[str, int], tally: Tally, frames: int) -> Iterator[str]:
    yield f"{frames} of {tally.seen} frames taken, {tally.refused} refused; format {name}"
    yield f"labels: {', '.join(f'{label} {count}' for label, count in coverage.items())}"
    said = "".join(f", {label} {unit}" for label, unit in meta.provenance.get("units_converted", {}).items())
    yield f"units of the source: {meta.provenance['units_of_source']}{said and f' but{said[1:]}'}; kept in eV, Å"
    yield (
        f"level of theory: {meta.level_of_theory or 'unknown (say it with --level)'}; "
        f"energies: {meta.energy_reference or 'unknown'}"
    )
    if left := meta.provenance.get("keys_not_read"):
        yield f"keys not read (a label under one: --key LABEL=KEY): {', '.join(left)}"
    yield from tally.lines()
    for refusal in tally.refusals:
        yield f"refused {refusal.name}: {refusal.reason}"
    if tally.refused > len(tally.refusals):
        yield f"… and {tally.refused - len(tally.refusals)} more refused"
