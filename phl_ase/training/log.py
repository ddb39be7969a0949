"""The log of a run: JSON lines and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phl_ase.errors import PHLError
from phl_ase.files import write_atomic
from phl_ase.training.checkpoint import LOG, TABLE


class RunLog:
    """Records of a run, one per epoch, as ``log.jsonl`` and ``log.csv``.

    Args:
        folder: The run's folder; ``None`` keeps the records in memory alone.
        records: Those of the epochs before a resume; the files are rewritten to hold exactly these.
    """

    def __init__(self, folder: Path | None, records: Sequence[dict[str, Any]] = ()) -> None:
        self._folder = folder
        self.records = list(records)
        if folder is not None:
            write_atomic(folder / LOG, "".join(json.dumps(r) + "\n" for r in self.records).encode())

    def add(self, record: dict[str, Any]) -> None:
        """Add one epoch's record."""
        self.records.append(record)
        if self._folder is None:
            return
        try:
            with open(self._folder / LOG, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            path = self._folder / LOG
            raise PHLError(f"cannot write {path}: {error.strerror}; the last checkpoint is kept") from None

    def write_table(self) -> None:
        """Write all records as CSV."""
        if self._folder is None:
            return
        columns = list(dict.fromkeys(key for record in self.records for key in record))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records)
        write_atomic(self._folder / TABLE, text.getvalue().encode())
