"""Configurations that ship with the package; read without loading what a study needs."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from phl_ase.errors import PHLError

DEMO, TEMPLATE = "demo.toml", "study.toml"
"""Configurations of this folder: that of ``phl demo``, and what ``phl study --init`` writes."""


def packaged(name: str) -> str:
    """Return the text of a configuration that ships with this package."""
    return files("phl_ase.study").joinpath(name).read_text(encoding="utf-8")


def write_template(path: Path) -> Path:
    """Write the commented configuration of ``phl study --init``.

    Raises:
        PHLError: When the file exists or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(packaged(TEMPLATE))
    except FileExistsError:
        raise PHLError(f"{path} exists; name another file: phl study --init other.toml") from None
    except OSError as error:
        raise PHLError(f"cannot write {path}: {error.strerror}; name another file") from None
    return path
