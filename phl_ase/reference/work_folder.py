"""The folder a labelling campaign works in: one small file for each finished or failed frame, one writer at a time.

``campaign.json`` says what the campaign is; ``frames/`` holds labels as NumPy archives (never pickles), ``failures/``
reasons as JSON, both by the frame's index in the input. Every file is written by atomic replace: a run that is killed
leaves whole files alone.
"""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.files import held, write_atomic
from phl_ase.reference.labels import Failure, LabelledFrame
from phl_ase.structures import Frame

CAMPAIGN, LOCK, FRAMES, FAILED = "campaign.json", ".lock", "frames", "failures"
_LABELS = ("energy", "forces", "stress", "hessian", "probes", "products")
_A_FOLDER = 1000


@dataclass
class WorkFolder:
    """A work folder that is held open; made by :func:`work_folder`.

    Attributes:
        path: The folder.
        finished: Indices of frames that have labels.
        failures: Index -> why it has none.
    """

    path: Path
    finished: set[int] = field(default_factory=set)
    failures: dict[int, Failure] = field(default_factory=dict)

    def keep(self, labelled: LabelledFrame) -> None:
        """Write what became of a frame.

        Raises:
            PHLError: When it cannot be written.
        """
        index = labelled.frame.frame_id
        record = {
            "gradients": labelled.gradients,
            "seconds": labelled.seconds,
            "product_error": labelled.product_error,
        }
        if labelled.failure is not None:
            failure = dataclasses.asdict(labelled.failure)
            self._write(FAILED, index, ".json", json.dumps(failure).encode())
            self.failures[index] = labelled.failure
            return
        arrays = {name: getattr(labelled.frame, name) for name in _LABELS}
        buffer = io.BytesIO()
        filled = {name: np.asarray(value) for name, value in arrays.items() if value is not None}
        np.savez(buffer, record=np.array(json.dumps(record)), **filled)  # type: ignore[arg-type]
        self._write(FRAMES, index, ".npz", buffer.getvalue())
        self.finished.add(index)

    def labelled(self, frame: Frame) -> LabelledFrame:
        """The labels of a finished frame.

        Args:
            frame: Of the input, its ``frame_id`` the index there.

        Raises:
            PHLError: When they cannot be read.
        """
        path = self._file(FRAMES, frame.frame_id, ".npz")
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                record = json.loads(str(archive["record"]))
                arrays = {name: archive[name] for name in _LABELS if name in archive}
            values: dict[str, Any] = {**dict.fromkeys(_LABELS), **arrays}
            labels = replace(frame, **{**values, "energy": float(values["energy"])}).check(str(path))
            return LabelledFrame(labels, None, record["gradients"], record["seconds"], record["product_error"])
        except OSError as error:  # not damaged: no permission, too many open files, a share that is gone
            raise PHLError(f"{path} cannot be read: {error.strerror or error}; finished frames are kept") from None
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise PHLError(
                f"{path} is damaged ({reason}); delete it and run again: its frame is labelled anew"
            ) from None

    def retry(self) -> None:
        """Forget the failures, so that their frames are tried again."""
        for index in self.failures:
            self._file(FAILED, index, ".json").unlink(missing_ok=True)
        self.failures.clear()

    def remove(self) -> None:
        """Delete what the campaign has written, and the folder where nothing else is in it."""
        # first, so that whoever finds the folder half deleted does not take it for an unfinished campaign
        (self.path / CAMPAIGN).unlink(missing_ok=True)
        for name in (FRAMES, FAILED):
            shutil.rmtree(self.path / name, ignore_errors=True)
        (self.path / LOCK).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def scan(self) -> None:
        """Find out what is there.

        Raises:
            PHLError: For a damaged record of a failure.
        """
        self.finished = {int(path.stem) for path in self.path.glob(f"{FRAMES}/*/[0-9]*.npz")}
        for path in self.path.glob(f"{FAILED}/*/[0-9]*.json"):
            try:
                self.failures[int(path.stem)] = Failure(**json.loads(path.read_text(encoding="utf-8")))
            except OSError as error:
                raise PHLError(f"{path} cannot be read: {error.strerror or error}; finished frames are kept") from None
            except (ValueError, TypeError):
                raise PHLError(f"{path} is damaged; delete it and run again: its frame is tried anew") from None

    def _file(self, part: str, index: int, suffix: str) -> Path:
        return self.path / part / f"{index // _A_FOLDER:05d}" / f"{index:08d}{suffix}"

    def _write(self, part: str, index: int, suffix: str, content: bytes) -> None:
        path = self._file(part, index, suffix)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PHLError(f"cannot write into {self.path}: {error.strerror}; finished frames are kept") from None
        write_atomic(path, content)


@contextmanager
def work_folder(path: Path, campaign: Mapping[str, Any]) -> Iterator[WorkFolder]:
    """Make or open the folder of a campaign and hold it.

    Args:
        path: The folder.
        campaign: What the results depend on, as JSON holds it; a folder of another campaign is refused.

    Raises:
        PHLError: When it cannot be written, another run holds it, or it holds something else.
    """
    with held(path, LOCK, "work folder") as mine:
        if not mine:
            raise PHLError(f"{path} is in use by another run; wait for it or choose another work folder")
        recorded = path / CAMPAIGN
        if recorded.exists():
            _check_same(recorded, campaign)
        elif strange := [p.name for p in path.iterdir() if p.name not in (CAMPAIGN, LOCK)]:
            (path / LOCK).unlink(missing_ok=True)  # ours, made just now
            raise PHLError(f"{path} holds other files ({sorted(strange)[0]}, …); choose an empty or new work folder")
        else:
            write_atomic(recorded, json.dumps(dict(campaign), indent=1, ensure_ascii=False).encode())
        folder = WorkFolder(path)
        folder.scan()
        yield folder


def _check_same(recorded: Path, campaign: Mapping[str, Any]) -> None:
    try:
        old = json.loads(recorded.read_text(encoding="utf-8"))
    except OSError as error:
        raise PHLError(f"{recorded} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise PHLError(f"{recorded} is no record of a campaign; choose another work folder") from None
    wanted = json.loads(json.dumps(dict(campaign)))
    if old != wanted:
        # a campaign that was interrupted by an older version may lack a key
        names = sorted(set(wanted) | set(old)) if isinstance(old, dict) else ["format"]
        changed = [name for name in names if not isinstance(old, dict) or old.get(name) != wanted.get(name)]
        raise PHLError(
            f"{recorded.parent} holds the work of a campaign with another {', '.join(changed)}; repeat its command "
            "to finish it, choose another work folder, or delete this one"
        )
