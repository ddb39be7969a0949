"""Reports: what every validator returns, how it is stored as JSON, and how it is shown as plain text."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase
import numpy as np

import phl_ase
from phl_ase.errors import PHLError, unknown
from phl_ase.files import write_atomic
from phl_ase.tables import counted, text_table
from phl_ase.types import Array

_SCHEMA = 1


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes:
        name: What it is, for example ``"ZPE error"``.
        value: The number; NaN where it could not be had.
        unit: Its unit; empty for a count or a ratio.
        reference: The same quantity of the reference method, in the same unit; ``None`` without one.
        kind: Key of metrics that are alike but for what is in their names, as barriers from several ends.
    """

    name: str
    value: float | int
    unit: str = ""
    reference: float | int | None = None
    kind: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The result of one validation of one potential on one system.

    Attributes:
        system: What was computed, for example ``"HCN -> HNC"``.
        potential: What computed it, for example ``"E-F-HVP, seed 0"`` or ``"GFN2-xTB"``.
        outcome: Name of the outcome, from the validator's own table; a failure is an outcome, not an exception.
        sentence: What the outcome means, for a reader.
        metrics: The numbers.
        arrays: What plots need; each array's unit belongs in its name or in the validator's documentation.
        provenance: Where the numbers come from; see :func:`provenance`.
        validator: Which validator made it; empty when it does not matter.
    """

    system: str
    potential: str
    outcome: str
    sentence: str = ""
    metrics: tuple[Metric, ...] = ()
    arrays: Mapping[str, Array] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    validator: str = ""

    def __repr__(self) -> str:
        numbers = counted(len(self.metrics), "metric")
        return f"<Report {self.validator or 'of'} {self.system} by {self.potential}: {self.outcome}; {numbers}>"

    def metric(self, name: str) -> Metric:
        """Return the metric of a name.

        Raises:
            PHLError: When the report has none of that name.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise unknown(f"metric of the report on {self.system}", name, [m.name for m in self.metrics])

    def to_dict(self) -> dict[str, Any]:
        """Return the report in what JSON knows: arrays as lists, NaN and infinity as ``None``."""
        return plain(self)

    @classmethod
    def from_dict(cls, content: Any) -> Report:
        """Return the report that :meth:`to_dict` wrote; ``None`` where a number should be is read as NaN.

        Raises:
            PHLError: For something else than a report, or a report of another version.
        """
        names = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(content, Mapping) or not {"system", "potential", "outcome"} <= set(content):
            raise PHLError("not a report: expected a JSON object with system, potential and outcome")
        if content.get("schema") != _SCHEMA:
            raise PHLError(
                f"the report has schema {content.get('schema')!r}, this version reads {_SCHEMA}: "
                "make it again, or read it with the phl_ase version in its provenance"
            )
        values = {name: value for name, value in content.items() if name in names}
        metrics = []
        known = {f.name for f in dataclasses.fields(Metric)}
        for one in values.get("metrics", ()):
            if not isinstance(one, Mapping) or not {"name", "value"} <= set(one) <= known:
                raise PHLError(f"not a metric: {one!r}; expected a JSON object with name and value, unit and reference")
            metrics.append(Metric(**{**one, "value": float("nan") if one["value"] is None else one["value"]}))
        arrays = {name: np.asarray(value) for name, value in values.get("arrays", {}).items()}
        # a None among numbers was a NaN, which makes NumPy choose dtype object
        arrays = {name: array.astype(float) if array.dtype == object else array for name, array in arrays.items()}
        values |= {"metrics": tuple(metrics), "arrays": arrays}
        if "way" in (said := values.get("provenance", {})):  # how the Sella strategy was called before
            values["provenance"] = {**said, "strategy": said["way"]}
        return cls(**values)


def plain(value: Any) -> Any:
    """Return a value in what JSON knows: dataclasses as objects, arrays as lists, NaN and infinity as ``None``.

    Raises:
        PHLError: For a value that has no JSON form, naming its type.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        content = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Metric) and not value.kind:
            del content["kind"]
        return {"schema": _SCHEMA, **content} if isinstance(value, Report) else content
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    raise PHLError(f"a {type(value).__name__} has no JSON form; expected numbers, strings, arrays, lists or dicts")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write reports, or anything :func:`plain` takes, as JSON; the file is whole or not there.

    Raises:
        PHLError: When the value has no JSON form or the file cannot be written.
    """
    write_atomic(Path(path), json_text(value).encode())


def json_text(value: Any) -> str:
    """Return reports, or anything :func:`plain` takes, as JSON.

    Raises:
        PHLError: When the value has no JSON form.
    """
    return json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_reports(path: str | os.PathLike[str]) -> tuple[Report, ...]:
    """Return the report, or list of reports, that :func:`write_json` wrote.

    Raises:
        PHLError: When the file is missing or holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PHLError(f"cannot read {path}: {error.strerror}; expected a JSON file of reports") from error
    except (ValueError, RecursionError) as error:
        raise PHLError(f"{path} is not JSON ({error}); expected a file that phl_ase wrote") from error
    return tuple(Report.from_dict(item) for item in (content if isinstance(content, list) else [content]))


def render_table(reports: Iterable[Report]) -> str:
    """Reports as a plain-text table: one row each, one column for each metric with its unit in the heading.

    The reference's value, where there is one, stands in brackets; what a report does not hold is ``-``. The
    sentences of the outcomes follow the table.
    """
    reports = list(reports)
    columns = list(dict.fromkeys((metric.name, metric.unit) for report in reports for metric in report.metrics))
    rows = [["system", "potential", "outcome", *(f"{name} / {unit}" if unit else name for name, unit in columns)]]
    for report in reports:
        cells = {}
        for metric in report.metrics:
            behind = "" if metric.reference is None else f" ({_number(metric.reference)})"
            cells[metric.name, metric.unit] = _number(metric.value) + behind
        rows.append([report.system, report.potential, report.outcome, *(cells.get(key, "-") for key in columns)])
    sentences = dict.fromkeys(f"{report.outcome}: {report.sentence}" for report in reports if report.sentence)
    return "\n".join([text_table(rows[0], rows[1:], words=3), *sentences])


def _number(value: float | int) -> str:
    return "-" if not np.isfinite(value) else f"{value:.5g}"


def provenance(**extra: Any) -> dict[str, Any]:
    """Return versions, machine and date, for a report; neither host name nor path.

    Args:
        **extra: What else the reader needs to know, for example the command, the seed or the level of theory.

    Returns:
        A dict of strings and whatever was added. The version of torch stands in it when torch has been imported.
    """
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():  # platform.processor() is empty or just "x86_64" on Linux
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    # those that this process may use
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    record = {
        "phl_ase": phl_ase.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "ase": ase.__version__,
        "machine": f"{model or platform.machine()}, {cores} cores, {platform.system()} {platform.machine()}",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    # looked up, never imported: this module must not load torch
    torch = sys.modules.get("torch")
    if torch is not None:
        record["torch"] = str(torch.__version__)
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            record["machine"] += f", {torch.cuda.get_device_name()}"
    return {**record, **plain(extra)}
