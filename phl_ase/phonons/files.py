"""Phonopy's files, both ways: crystals from ``phonopy_disp.yaml``, force constants as text or HDF5.

What is written is what phonopy's own command line reads; what is read may come from anybody, so that YAML is parsed
without the tags that would run code (phonopy's own loader runs them).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from phl_ase.errors import PHLError, reason_of
from phl_ase.files import replacing
from phl_ase.phonons.force_constants import ForceConstants
from phl_ase.phonons.supercell import SYMPREC, build, parse_supercell

if TYPE_CHECKING:
    from phonopy import Phonopy
FilePath = str | os.PathLike[str]

HDF5 = (".hdf5", ".h5")
"""Endings of force constants in HDF5; every other name is written as phonopy's text."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNITS = {"length_unit": "angstrom", "force_constants_unit": "eV/angstrom^2"}
_LEFT_ASIDE = {
    "born_effective_charge",
    "dielectric_constant",
    "displacements",
    "force_constants",
    "nac",
}
_DEEPEST = 20  # phonopy's own files nest 5 deep
_NEEDED = "expected a phonopy_disp.yaml or phonopy.yaml, as phonopy writes it"


def read_phonopy_yaml(path: FilePath, *, supercell: Any = None, primitive_matrix: Any = None) -> Phonopy:
    """Crystal and supercell of a ``phonopy_disp.yaml`` or ``phonopy.yaml``.

    Displacements, forces, force constants and the parameters of the non-analytic correction in the file are left
    aside, and so are files that lie beside it.

    Args:
        path: The file; plain YAML, not compressed.
        supercell: What :func:`phl_ase.phonons.parse_supercell` reads, in place of the file's.
        primitive_matrix: In place of the file's; without either, phonopy finds it by symmetry.

    Returns:
        ``phonopy.Phonopy`` without force constants.

    Raises:
        PHLError: For a file that is missing, broken or of something else, without a supercell, or in other units than
            Å and eV.
    """
    from phonopy.interface.phonopy_yaml import load_phonopy_yaml
    from phonopy.physical_units import get_calculator_physical_units

    content = _safe_yaml(Path(path))
    # forces and force constants are not needed, and a broken one of them should not be in the way
    kept = {name: value for name, value in content.items() if name not in _LEFT_ASIDE}
    try:
        data = load_phonopy_yaml(kept)
        units = get_calculator_physical_units(data.calculator)
        if data.unitcell is None:
            raise PHLError(f"{path} holds no unit cell; {_NEEDED}")
        for name, expected in _UNITS.items():
            if getattr(units, name) != expected:
                raise PHLError(
                    f"{path} is in units of the calculator {data.calculator!r} ({name} {getattr(units, name)}); "
                    f"expected {expected}: write it with an interface that has eV and Å"
                )
        matrix = data.supercell_matrix if supercell is None else supercell
        if matrix is None:
            raise PHLError(f"{path} holds no supercell_matrix; give one (--supercell 2 2 2)")
        primitive = data.primitive_matrix if primitive_matrix is None else primitive_matrix
        return build(data.unitcell, parse_supercell(matrix), "auto" if primitive is None else primitive, SYMPREC)
    except PHLError:
        raise
    except Exception as error:  # a foreign file through a foreign reader may fail in any way
        reason = reason_of(error)
        raise PHLError(f"{path} is not a file of a phonopy calculation ({reason}); {_NEEDED}") from error


def _safe_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a file, without what costs far more than its size to read: references, deep nesting.

    Raises:
        PHLError: For either, which phonopy writes none of; for what is no YAML.
    """
    try:
        text, depth = path.read_bytes(), 0
        for event in yaml.parse(text, Loader=_LOADER):
            # a few lines of nested references can stand for more numbers than fit any memory
            if isinstance(event, yaml.AliasEvent):
                raise PHLError(f"{path} holds references (*name), which phonopy does not write; {_NEEDED}")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise PHLError(f"{path} nests lists or settings more than {_DEEPEST} deep; {_NEEDED}")
        content = yaml.load(text, Loader=_LOADER)
    except PHLError:
        raise
    except OSError as error:
        raise PHLError(f"cannot read {path}: {error.strerror}; {_NEEDED}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PHLError(f"{path} is not plain YAML ({reason}); {_NEEDED}") from error
    if not isinstance(content, dict):
        raise PHLError(f"{path} holds no settings of phonopy; {_NEEDED}")
    return content


def write_phonopy_yaml(path: FilePath, phonon: Phonopy) -> None:
    """Write crystal, supercell and primitive matrix as ``phonopy.yaml``, for phonopy's command line.

    Raises:
        PHLError: When the file cannot be written.
    """
    settings = {"force_sets": False, "displacements": False, "force_constants": False}
    with replacing(Path(path)) as temporary:
        phonon.save(filename=str(temporary), settings=settings)


def write_force_constants(path: FilePath, found: ForceConstants) -> None:
    """Write force constants as phonopy's ``force_constants.hdf5``, or its text ``FORCE_CONSTANTS``, by the name.

    Raises:
        PHLError: When the file cannot be written.
    """
    from phonopy.file_IO import write_FORCE_CONSTANTS, write_force_constants_to_hdf5

    target, rows = Path(path), np.asarray(found.primitive_atoms, dtype=np.int64)
    with replacing(target) as temporary:
        if target.suffix in HDF5:
            write_force_constants_to_hdf5(
                found.values, str(temporary), p2s_map=rows, physical_unit=_UNITS["force_constants_unit"]
            )
        else:
            write_FORCE_CONSTANTS(found.values, str(temporary), p2s_map=rows)


def read_force_constants(path: FilePath, phonon: Phonopy) -> ForceConstants:
    """Read force constants that phonopy, or :func:`write_force_constants`, wrote for a crystal.

    Args:
        path: ``FORCE_CONSTANTS`` or ``force_constants.hdf5``, eV/Å².
        phonon: The crystal and supercell that they are of.

    Raises:
        PHLError: For a file that is missing or broken, another supercell or primitive cell, or NaN.
    """
    from phonopy.file_IO import parse_FORCE_CONSTANTS, read_force_constants_hdf5

    rows = np.array(phonon.primitive.p2s_map, dtype=np.int64)
    atoms = len(phonon.supercell)
    try:
        reader = read_force_constants_hdf5 if Path(path).suffix in HDF5 else parse_FORCE_CONSTANTS
        values = np.asarray(reader(str(path), p2s_map=rows), dtype=float)
    except Exception as error:  # a foreign file through a foreign reader may fail in any way
        reason = reason_of(error)
        raise PHLError(f"cannot read force constants from {path} ({reason}); expected what phonopy writes") from error
    expected = [(len(rows), atoms, 3, 3), (atoms, atoms, 3, 3)]
    if values.shape not in expected:
        raise PHLError(f"{path} holds force constants {values.shape}; expected {expected[0]} or {expected[1]}")
    if not np.all(np.isfinite(values)):
        raise PHLError(f"{path} holds NaN or infinity; make it again")
    return ForceConstants(values, rows, f"the file {Path(path).name}", float(np.abs(values.sum(axis=1)).max()))
