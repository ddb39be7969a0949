"""Extended XYZ files, frame by frame: every frame is read, whatever blank lines stand between them.

ASE's own reader stops at the first blank line, skips as many lines as a file declares atoms, however few it holds, and
refuses labels of atoms such as ``O1``, atomic numbers and ``D``. So the file is cut into frames here, the symbols are
made elements, and ASE parses each frame.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from phl_ase.errors import PHLError, shortened

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_SUFFIXES = (".xyz", ".extxyz")
_LINE = 2**26
"""Longest line of a file, characters: a Hessian row of 800 atoms has 10⁵."""
_ISOTOPES = {"D": 2.014102, "T": 3.016049}  # amu; AME2020
_PROPERTIES = re.compile(r"""\bProperties\s*=\s*["'{]?\s*([^\s"'}]+)""", re.IGNORECASE)


def is_xyz(path: Path) -> bool:
    """Return whether a path is an XYZ file by its name, compressed or not."""
    plain = path.with_suffix("") if path.suffix.lower() in _OPENERS else path
    return plain.suffix.lower() in _SUFFIXES


def xyz_texts(path: Path) -> Iterator[str]:
    """Yield the text of one frame after another; memory does not grow with the file.

    Raises:
        PHLError: When the file is no XYZ text, or ends within a frame.
    """
    opener = _OPENERS.get(path.suffix.lower(), open)
    index = 0
    # a byte-order mark is no part of the first number
    with opener(path, "rt", encoding="utf-8-sig", errors="strict") as file:
        try:
            line = file.readline(_LINE)
            while True:
                while line and not line.strip():
                    line = file.readline(_LINE)
                if not line:
                    return
                try:
                    number = int(line)
                except ValueError as error:
                    start = f"{path}: frame {index}: starts with {line.strip()[:40]!r}"
                    raise PHLError(f"{start}; expected the number of its atoms") from error
                if number < 1:
                    raise PHLError(f"{path}: frame {index}: declares {number} atoms; expected at least one")
                lines = [line]
                for _ in range(number + 1):
                    if not (line := file.readline(_LINE)):
                        raise PHLError(
                            f"{path}: frame {index}: the file ends after {max(0, len(lines) - 2)} of {number:,} atoms: "
                            "it is truncated; copy it again"
                        )
                    lines.append(line)
                while (line := file.readline(_LINE)).lstrip().startswith("VEC"):  # cell vectors of ADF's kind of XYZ
                    lines.append(line)
                yield "".join(lines)
                index += 1
        except UnicodeDecodeError as error:
            raise PHLError(f"{path}: is not UTF-8 text at frame {index}; expected extended XYZ") from error
        except (gzip.BadGzipFile, lzma.LZMAError, EOFError) as error:
            raise PHLError(f"{path}: is damaged at frame {index} ({error}); copy it again") from error


def parsed_xyz(text: str) -> Atoms:
    """Return the structure of one frame, deuterium and tritium as hydrogen of their mass.

    Raises:
        PHLError: For a symbol that is no element, naming the atom.
        Exception: Whatever ASE raises of a broken frame.
    """
    from ase.io.extxyz import read_xyz

    try:
        return next(read_xyz(io.StringIO(text), index=0))
    except KeyError:  # an unknown symbol: labels such as O1, atomic numbers and isotopes become elements
        lines = text.splitlines()
    found = _PROPERTIES.search(lines[1])
    parts = found.group(1).split(":") if found else []
    names = parts[::3]
    widths = [int(width) if width.isdecimal() else 1 for width in parts[2::3]]
    column = sum(widths[: names.index("species")]) if "species" in names else sum(widths)
    masses = {}
    for atom, line in enumerate(lines[2 : 2 + int(lines[0])]):
        words = line.split()
        if len(words) <= column:
            continue  # ASE says what is missing
        word = words[column]
        symbol = word.rstrip("0123456789").capitalize()
        if word.isdecimal():
            number = int(word) if len(word) < 4 else 0
            symbol = chemical_symbols[number] if 1 <= number < len(chemical_symbols) else ""
        elif symbol in _ISOTOPES:
            masses[atom] = _ISOTOPES[symbol]
            symbol = "H"
        if not atomic_numbers.get(symbol, 0):
            raise PHLError(
                f"atom {atom} is {shortened(word)}, which is no element; expected a symbol (H, He, …) or an atomic "
                "number: remove ghost and dummy atoms"
            )
        words[column] = symbol
        lines[2 + atom] = " ".join(words)
    atoms = next(read_xyz(io.StringIO("\n".join(lines) + "\n"), index=0))
    if masses:
        of_atoms = atoms.get_masses()
        of_atoms[list(masses)] = list(masses.values())
        atoms.set_masses(of_atoms)
    return atoms
