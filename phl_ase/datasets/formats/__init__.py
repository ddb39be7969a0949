"""Foreign formats: a table of readers and one of writers. A format is one module and one line here.

What is read is data: nothing of a file is executed, nothing outside of it is followed, and sizes that it declares are
compared with its bytes before they are believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py

from phl_ase.datasets.formats import deepmd, graphs, mlff_distill, of_ase, openreact, own, transition1x
from phl_ase.datasets.formats.entry import Entry, Format, Options
from phl_ase.datasets.formats.exporters import EXPORTERS, Exporter
from phl_ase.errors import PHLError, unknown

FORMATS: Mapping[str, Format] = {
    "extxyz": Format(
        "extended XYZ: keys of phl and MACE",
        of_ase.recognises_xyz,
        of_ase.read_extxyz,
        keyed=True,
    ),
    "ase-db": Format("ASE data base (SQLite)", of_ase.suffix_in(".db"), of_ase.read_database, keyed=True),
    "horm": Format(
        "HORM: LMDB of torch_geometric objects",
        graphs.recognises_horm,
        graphs.read,
        level_of_theory="wB97X/6-31G(d)",
        energy_reference="HORM 'ae': a sum over the atoms subtracted",
    ),
    "fairchem": Format("fairchem: LMDB of torch_geometric objects", graphs.recognises, graphs.read),
    "mlff-distill": Format(
        "MLFF-distill: LMDB of force Jacobians, structures apart",
        mlff_distill.recognises,
        mlff_distill.read,
        units="force Jacobians eV/Å², sign turned",
        labels_only=True,
    ),
    "phl": Format("our own HDF5", own.recognises, own.read, meta=own.meta),
    "openreact": Format(
        "OpenREACT-CHON-EFH: HDF5 in ANI's layout, with Hessians",
        openreact.recognises,
        openreact.read,
        units=", ".join(f"{label} {unit}" for label, unit in openreact.OPENREACT_UNITS.items()),
        stored_in=openreact.OPENREACT_UNITS,
        consistent=True,
        level_of_theory="wB97X-D/6-31G(d)",
        energy_reference="absolute",
    ),
    "transition1x": Format(
        "Transition1x: HDF5 of reactions",
        transition1x.recognises,
        transition1x.read,
        level_of_theory="wB97X/6-31G(d)",
        energy_reference="absolute",
    ),
    "deepmd": Format(
        "DeePMD: folder of .npy with hessian.npy",
        deepmd.recognises,
        deepmd.read,
        units="energies eV, forces eV/Å, virials eV (divided by −volume), Hessians eV/Å²",
    ),
    "ase": Format("trajectories and all else that ase.io reads", Path.is_file, of_ase.read_any, keyed=True),
}
"""Name -> format, in the order in which a path is tried."""

BINARY = {**dict.fromkeys((".h5", ".hdf5"), "HDF5 file"), **dict.fromkeys((".lmdb", ".mdb", ".aselmdb"), "LMDB")}
"""Suffix -> what a file of such a name should be; ASE reads none of them."""


def format_of(path: Path, name: str = "") -> str:
    """Return the format of a path: the one named, or the first that recognises it.

    Raises:
        PHLError: For an unknown name, a path that does not exist, or a folder that no format recognises.
    """
    if name and name not in FORMATS:
        raise unknown("format", name, FORMATS)
    if not path.exists():
        raise PHLError(f"no file or folder {str(path)!r} to import; check the path")
    found = name or next((known for known, format in FORMATS.items() if format.recognises(path)), "")
    if not name and found == "ase" and h5py.is_hdf5(path):
        raise PHLError(
            f"{path} is HDF5 of no known layout: expected {transition1x.TRANSITION1X_LAYOUT}, or "
            f"{openreact.OPENREACT_LAYOUT}; found {openreact.contents(path)}"
        )
    if not name and found == "ase" and (kind := BINARY.get(path.suffix.lower())):
        raise PHLError(f"{path} is no {kind}: its first bytes are not those of one; copy or download it again")
    if not found:
        raise PHLError(f"{path} is a folder of no known format; expected systems of DeePMD's or an LMDB (data.mdb)")
    return found


def exporter_of(path: Path, name: str = "") -> str:
    """Return the format to write a path in: the one named, or the one of its suffix.

    Raises:
        PHLError: For an unknown name or suffix.
    """
    if name and name not in EXPORTERS:
        raise unknown("format to export to", name, EXPORTERS)
    suffix = path.suffix.lower()
    found = name or next((known for known, exporter in EXPORTERS.items() if suffix in exporter.suffixes), "")
    if not found:
        raise PHLError(f"no format has the suffix {suffix!r}; say which: --format {', '.join(EXPORTERS)}")
    return found


__all__ = ["EXPORTERS", "FORMATS", "Entry", "Exporter", "Format", "Options", "exporter_of", "format_of"]
