"""Output of commands: files and figures, checked before the work starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phl_ase.errors import PHLError, shortened

if TYPE_CHECKING:
    from ase import Atoms

    from phl_ase.results import Report

_BESIDE = 40
FIGURE_SUFFIXES = (".png", ".pdf", ".svg")


def check_target(path: Path | None, what: str) -> None:
    """Check, before the work, that a file can be written.

    Raises:
        PHLError: When its folder does not exist or is not writable, or it is a folder itself.
    """
    if path is None:
        return
    try:
        # what is written beside a file first has a longer name
        os.lstat(path.with_name(f"{path.name}{'.' * _BESIDE}"))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a name that no file system takes
        reason = getattr(error, "strerror", None) or error
        raise PHLError(f"cannot write the {what} {shortened(str(path))}: {reason}; choose another name") from None
    if not path.parent.is_dir():
        raise PHLError(f"cannot write the {what} {path}: the folder {path.parent} does not exist; make it first")
    if path.is_dir():
        raise PHLError(f"cannot write the {what} {path}: it is a folder; name a file")
    if not os.access(path.parent, os.W_OK):
        raise PHLError(f"cannot write the {what} {path}: permission denied; choose another folder")


def save_json(path: Path | None, value: Any) -> None:
    """Write JSON where a path is given.

    Raises:
        PHLError: When the file cannot be written.
    """
    from phl_ase.results import write_json

    if path is not None:
        write_json(path, value)


def write_structures(path: Path, structures: Sequence[Atoms]) -> None:
    """Write structures as extended XYZ, atomically.

    Raises:
        PHLError: When the file cannot be written.
    """
    import ase.io

    from phl_ase.files import replacing

    with replacing(path) as temporary:
        ase.io.write(str(temporary), list(structures), format="extxyz")


def check_outputs(json: Path | None, plot: Path | None) -> None:
    """Check, before the work, that results can be written.

    Raises:
        PHLError: For a folder that is missing or not writable, or a figure of a kind that is not drawn.
    """
    check_target(json, "JSON file")
    check_target(plot, "figure")
    if plot is not None and plot.suffix.lower() not in FIGURE_SUFFIXES:
        raise PHLError(f"cannot draw {plot}: expected a file ending in {', '.join(FIGURE_SUFFIXES)}")


def save_figure(path: Path | None, draw: Callable[[Any], Any], content: Any) -> None:
    """Draw where a figure was asked for; the suffix of the file says what kind it is.

    Raises:
        PHLError: When the file cannot be written.
    """
    if path is not None:
        from phl_ase.files import write_atomic
        from phl_ase.plots.style import rendered

        write_atomic(path, rendered(draw, content, path.suffix.lower().removeprefix(".")))


def save_plot(path: Path | None, validator: str, reports: Sequence[Report]) -> None:
    """Draw reports where a figure was asked for.

    Args:
        path: The file; its suffix says what kind it is.
        validator: A key of ``phl_ase.plots.FIGURES``.
        reports: What the validator returned.

    Raises:
        PHLError: When the file cannot be written.
    """
    if path is not None:
        from phl_ase.plots import FIGURES

        save_figure(path, FIGURES[validator], reports)
