"""What a reference calculation costs, and transition states by packages that phl_ase does without.

    python workflows/on_the_fly_routes.py --route pysisyphus --reference tblite --out runs/on_the_fly

Imports ASE and NumPy alone, so that it also runs where another package has an environment of its own
(``python -m venv NAME; NAME/bin/pip install pysisyphus tblite``). ``workflows/on_the_fly.py`` scores what it wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator

STARTS = Path(__file__).with_name("on_the_fly_starts.extxyz")
FMAX = 0.02
"""eV/Å: largest force on an atom of a stationary point, of every route."""
STEPS = 200


class Counted(Calculator):
    """Energy and forces of a reference method, each geometry computed and counted once.

    Attributes:
        calls: Gradients computed.
        parts: The same by what they were for.
        seconds: Wall time in the reference.
        part: What the next gradients are for.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (ASE wants a list)

    def __init__(self, calculator: Any):
        super().__init__()
        self.calculator, self.calls, self.seconds, self.part = calculator, 0, 0.0, "search"
        self.parts: dict[str, int] = {}
        self._known: dict[bytes, dict[str, Any]] = {}

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        key = np.round(atoms.positions, 9).tobytes()
        if key not in self._known:
            structure = atoms.copy()
            structure.calc = self.calculator
            started = time.perf_counter()
            forces = structure.get_forces(apply_constraint=False)
            energy = float(structure.get_potential_energy())
            self.seconds += time.perf_counter() - started
            self.calls += 1
            self.parts[self.part] = self.parts.get(self.part, 0) + 1
            self._known[key] = {"energy": energy, "free_energy": energy, "forces": forces}
        self.results = dict(self._known[key])


def make_reference(name: str) -> Any:
    """The reference method as everywhere here, or, where phl_ase is not installed, the same GFN2-xTB from tblite."""
    try:
        from phl_ase.reference.methods import make_method
    except ImportError:
        from tblite.ase import TBLite

        if name != "tblite":
            raise
        return TBLite(method="GFN2-xTB", verbosity=0, accuracy=0.01)
    return make_method(name)


def read_starts(names: set[str] | None = None, reference: str = "tblite") -> dict[str, dict[str, Atoms]]:
    """Reaction -> kind (``guess``, ``ts``, ``reactant``, ``product``) -> structure.

    The guesses of the bundled reactions are transition states of DFT: with that as the reference, GFN2-xTB's stand in.
    """
    found: dict[str, dict[str, Atoms]] = {}
    for atoms in ase.io.read(STARTS, ":"):
        atoms.calc = None
        if not names or {atoms.info["reaction"], atoms.info["set"]} & names:
            found.setdefault(atoms.info["reaction"], {})[atoms.info["kind"]] = atoms
    for kinds in found.values():
        if reference != "tblite" and kinds["guess"].info["set"] == "bundled":
            kinds["guess"] = kinds["ts"]
    return found


def recorded(folder: Path, reaction: str, route: str, reference: str, run: Callable[[Counted], dict[str, Any]]) -> None:
    """Run a route once and write what it cost and found; what is there already stays."""
    file = folder / route / f"{reaction}.json"
    if file.exists():
        return
    counted = Counted(make_reference(reference))
    started, processor = time.perf_counter(), time.process_time()
    try:
        found = run(counted)
    except Exception as error:  # a failure of a route is a result
        found = {"outcome": f"{type(error).__name__}: {error}"[:300]}
    content = {
        "reaction": reaction,
        "route": route,
        "reference": reference,
        "gradients": counted.calls,
        "parts": counted.parts,
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor,
        "reference_seconds": counted.seconds,
        **found,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(content, default=lambda value: np.asarray(value).tolist()), encoding="utf-8")
    temporary.rename(file)
    print(f"{route:24s} {reaction:20s} {content['gradients']:6d} {content['outcome']}", flush=True)


def sella_alone(atoms: Atoms, counted: Counted, **options: Any) -> dict[str, Any]:
    """Sella with its own defaults."""
    from sella import Sella

    working = atoms.copy()
    working.calc = counted
    with Sella(working, logfile=os.devnull, **options) as optimiser:
        converged = optimiser.run(fmax=FMAX, steps=STEPS)
    return {"outcome": "converged" if converged else "not converged", "ts": working.positions}


def dimer(atoms: Atoms, counted: Counted) -> dict[str, Any]:
    """ASE's dimer, from a random mode as its documentation begins."""
    from ase.mep import DimerControl, MinModeAtoms, MinModeTranslate

    working = atoms.copy()
    working.calc = counted
    control = DimerControl(logfile=None, eigenmode_logfile=None, displacement_method="vector")
    surface = MinModeAtoms(working, control, random_seed=0)
    surface.displace(displacement_vector=0.01 * np.random.default_rng(0).standard_normal((len(atoms), 3)))
    with MinModeTranslate(surface, logfile=None) as optimiser:
        converged = optimiser.run(fmax=FMAX, steps=STEPS)
    return {"outcome": "converged" if converged else "not converged", "ts": surface.atoms.positions}


def pysisyphus(atoms: Atoms, counted: Counted) -> dict[str, Any]:
    """Its default of a ``tsopt`` block: RS-P-RFO in redundant internal coordinates from a calculated Hessian."""
    from ase.units import Bohr, Hartree
    from pysisyphus.calculators.Calculator import Calculator as Base
    from pysisyphus.Geometry import Geometry
    from pysisyphus.tsoptimizers import RSPRFOptimizer

    class Bridge(Base):
        def get_forces(self, symbols, coordinates, **_):
            structure = Atoms(atoms.symbols, np.reshape(coordinates, (-1, 3)) * Bohr, calculator=counted)
            forces, energy = structure.get_forces(), structure.get_potential_energy()
            return {"energy": energy / Hartree, "forces": forces.ravel() * Bohr / Hartree}

        def get_energy(self, symbols, coordinates, **options):
            return self.get_forces(symbols, coordinates, **options)

    with _elsewhere() as folder:
        geometry = Geometry(list(atoms.symbols), atoms.positions.ravel() / Bohr, coord_type="redund")
        geometry.set_calculator(Bridge(out_dir=folder))
        optimiser = RSPRFOptimizer(geometry, thresh="gau", max_cycles=150, overachieve_factor=5, out_dir=folder)
        optimiser.run()
    outcome = "converged" if optimiser.is_converged else "not converged"
    return {"outcome": outcome, "ts": geometry.cart_coords.reshape(-1, 3) * Bohr}


def machine_learned_band(structures: dict[str, Atoms], counted: Counted) -> dict[str, Any]:
    """CatLearn's ML-NEB between reactant and product, with its own settings; its saddle point is the highest image."""
    from catlearn.optimize.mlneb import MLNEB

    ends = [Atoms(structures[name].symbols, structures[name].positions) for name in ("reactant", "product")]
    for end in ends:
        end.calc = counted
        forces = end.get_forces()
        end.calc = SinglePointCalculator(end, energy=end.get_potential_energy(), forces=forces)
    with _elsewhere():
        for name, end in zip(("start.traj", "end.traj"), ends, strict=True):
            ase.io.write(name, end)
        band = MLNEB("start.traj", "end.traj", ase_calc=counted, interpolation="idpp", n_images=11, restart=False)
        band.run(fmax=FMAX, steps=STEPS, trajectory="band.traj")
        images = ase.io.read("band.traj", ":")
    highest = max(images, key=lambda image: image.get_potential_energy())
    return {"outcome": "converged" if counted.calls < STEPS else "not converged", "ts": highest.positions}


@contextmanager
def _elsewhere() -> Iterator[str]:
    """A folder for what a package writes, as the working directory."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def _from_guess(search: Callable[..., dict[str, Any]], **options: Any) -> Callable[..., dict[str, Any]]:
    return lambda structures, counted: search(structures["guess"], counted, **options)


ROUTES: dict[str, Callable[[dict[str, Atoms], Counted], dict[str, Any]]] = {
    "sella-defaults": _from_guess(sella_alone),
    "sella-internal": _from_guess(sella_alone, internal=True),
    "ase-dimer": _from_guess(dimer),
    "pysisyphus": _from_guess(pysisyphus),
    "catlearn-mlneb": machine_learned_band,
}
"""Route -> what searches a transition state; all but the last from a guess."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--route", action="append", choices=ROUTES, required=True)
    parser.add_argument("--reference", default="tblite")
    parser.add_argument("--reactions", nargs="*", help="names of reactions or of the sets; all by default")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    folder = given.out.resolve() / given.reference
    for reaction, structures in read_starts(set(given.reactions or ()), given.reference).items():
        for route in given.route:
            run = ROUTES[route]
            recorded(folder, reaction, route, given.reference, lambda c, s=structures, r=run: r(s, c))


if __name__ == "__main__":
    main()
