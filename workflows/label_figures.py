"""Measure the labels: their error against converged references, two workers against one, a large import.

    python workflows/label_figures.py pyscf   --json FILE   # five molecules, about 15 minutes of one core
    python workflows/label_figures.py tblite  --json FILE
    python workflows/label_figures.py workers --json FILE   # on a machine with nothing else to do
    python workflows/label_figures.py import  --json FILE

Each part replaces its own entry of the JSON file. The converged reference of a Hessian is a Richardson extrapolation of
central differences of gradients (0.005 and 0.01 Å), for PySCF on a finer grid than the labels'. Errors of HVPs are
root mean squares over their elements, along Rademacher probes; eV/Å².
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from phl_ase.datasets import MemoryDataset, open_dataset
from phl_ase.errors import PHLError
from phl_ase.files import write_atomic
from phl_ase.reference import (
    LabelMethod,
    LabelRequest,
    Probes,
    difference_step,
    label_dataset,
    label_frame,
    make_method,
)
from phl_ase.results import plain, provenance
from phl_ase.structures import frame_from_atoms
from phl_ase.vibrations import finite_difference_hessian

Array = np.ndarray

MOLECULES = ("H2O", "HCN", "NH3", "H2CO", "C2H2")
DISPLACED = 0.05  # Å rms of each coordinate: labels are wanted away from minima
PROBES = Probes(count=4, seed=1)
CONVERGED_GRID = 7
IMPORTED = 100_000
DRAWN = 5_000


def structures() -> Iterator[tuple[str, Atoms]]:
    """The molecules, off their minima."""
    for name in MOLECULES:
        atoms = molecule(name)
        atoms.positions += DISPLACED * np.random.default_rng(len(atoms)).standard_normal(atoms.positions.shape)
        yield name, atoms


def converged_hessian(atoms: Atoms, calculator: Any) -> Array:
    """A Hessian free of the error of second order in the displacement."""
    displaced = atoms.copy()
    displaced.calc = calculator
    fine, coarse = (finite_difference_hessian(displaced, delta=delta) for delta in (0.005, 0.01))
    return (4 * fine - coarse) / 3


def rms(difference: Array) -> float:
    """Root mean square of an array."""
    return float(np.sqrt(np.mean(difference**2)))


def errors(method: str, converged: Any, *, own_hessian: bool) -> dict[str, Any]:
    """Errors of the labels of every molecule: of HVPs by differences, and of the method's own Hessian."""
    found = {}
    for name, atoms in structures():
        reference = converged_hessian(atoms, converged)
        started = time.process_time()
        labelled = label_frame(atoms, make_method(method), probes=PROBES, step=difference_step(method))
        if labelled.failure is not None:
            raise PHLError(f"{name}: {labelled.failure.reason}")
        seconds = time.process_time() - started
        probes = labelled.frame.probes
        expected = (probes.reshape(len(probes), -1) @ reference).reshape(probes.shape)
        entry = {
            "rms_hvp": rms(expected),
            "hvp_error": rms(labelled.frame.hvp - expected),
            "gradient_calls": labelled.gradients,
            "cpu_seconds": seconds,
        }
        if own_hessian:
            started = time.process_time()
            hessian = label_frame(atoms, make_method(method), hessian="own").frame.hessian
            hvps = (probes.reshape(len(probes), -1) @ hessian).reshape(probes.shape)
            entry |= {
                "own_hessian_error": rms(hessian - reference),
                "own_hessian_hvp_error": rms(hvps - expected),
                "own_hessian_cpu_seconds": time.process_time() - started,
            }
        print(name, {key: float(f"{value:.3g}") for key, value in entry.items()}, flush=True)
        found[name] = entry
    return found


def pyscf() -> dict[str, Any]:
    """ωB97X-D/6-31G(d) labels at the default grid against a finer one."""
    converged = make_method("pyscf", {"grid_level": str(CONVERGED_GRID)})
    return {
        "grid_of_reference": CONVERGED_GRID,
        "molecules": errors("pyscf", converged, own_hessian=True),
    }


def tblite() -> dict[str, Any]:
    """GFN2-xTB labels."""
    return {"molecules": errors("tblite", make_method("tblite", {"accuracy": "0.001"}), own_hessian=False)}


def workers() -> dict[str, Any]:
    """Wall time of one campaign with one worker and with two, in turn."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(24):
        atoms = molecule("HCN")
        atoms.positions += DISPLACED * rng.standard_normal(atoms.positions.shape)
        frames.append(frame_from_atoms(atoms))
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(2):
        for count, taken in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                method = LabelMethod(partial(make_method, "pyscf"), "pyscf")
                started = time.perf_counter()
                label_dataset(
                    MemoryDataset(frames),
                    method,
                    Path(folder) / "labels.h5",
                    request=LabelRequest(probes=Probes()),
                    workers=count,
                )
                taken.append(time.perf_counter() - started)
            print(f"{count} worker(s): {taken[-1]:.1f} s", flush=True)
    return {"frames": len(frames), "seconds": seconds, "ratio": min(seconds[1]) / min(seconds[2])}


def large_import() -> dict[str, Any]:
    """Memory and time of importing a large extxyz file, and of random access to what was made of it."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "large.extxyz", Path(folder) / "large.h5"
        _write_large(source)
        started = time.perf_counter()
        command = [sys.executable, "-m", "phl_ase", "data", "import", str(source), "-o", str(target), "--level", "none"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        with open_dataset(str(target)) as dataset:
            indices = np.random.default_rng(1).integers(len(dataset), size=DRAWN)
            started = time.perf_counter()
            for index in indices:
                dataset[int(index)]
            access = (time.perf_counter() - started) / len(indices)
        size = source.stat().st_size / 2**20
    found = {"frames": IMPORTED, "file_MiB": size, "seconds": seconds, "peak_MiB": peak, "access_ms": 1e3 * access}
    print(found)
    return found


def _write_large(path: Path) -> None:
    """Frames of nine atoms with energy, forces and one HVP."""
    rng = np.random.default_rng(0)
    block = []
    for _ in range(1000):
        atoms = molecule("CH3CH2OH")
        atoms.positions += DISPLACED * rng.standard_normal(atoms.positions.shape)
        atoms.calc = SinglePointCalculator(atoms, energy=rng.standard_normal(), forces=rng.standard_normal((9, 3)))
        atoms.arrays["REF_hvp"], atoms.arrays["hvp_dir"] = rng.standard_normal((2, 9, 3))
        block.append(atoms)
    for _ in range(IMPORTED // len(block)):
        ase.io.write(path, block, append=True)


PARTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "pyscf": pyscf,
    "tblite": tblite,
    "workers": workers,
    "import": large_import,
}
"""Name -> what it measures."""


def main() -> None:
    """Measure one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    found = PARTS[arguments.part]() | {"provenance": provenance()}
    # read after the work: other parts may have been measured meanwhile
    known = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    content = json.dumps(plain(known | {arguments.part: found}), indent=1, ensure_ascii=False)
    write_atomic(arguments.json, content.encode() + b"\n")


if __name__ == "__main__":
    main()
