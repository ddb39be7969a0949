"""Compute the benchmark of small reactions with PySCF, a stage of a reaction at a time, from guesses of its TS.

python workflows/benchmark_data.py --out FOLDER [--seeds FILE] [--status]

Stages, each one JSON file in the folder of its reaction: ``ts`` (one imaginary mode), ``stability`` (of its closed
shell), ``path`` (IRC both ways, relaxed ends, points equally spaced in arc length), ``samples`` (normal-mode samples
around the three stationary points, with Hessians), ``path-hessians``, ``difference-hessians`` (of all frames, instead
of analytic ones). What fails is written with its reason and not tried again before its file is deleted. Everything
computed goes to ``labels.jsonl`` at once, and a search that is started again is answered from it: a run can be killed
at any time and loses one calculation. Several processes may work in one folder: each takes a reaction of its own. What
was computed so far is in ``workflows/benchmark_progress.tar.xz``: unpack it into FOLDER, and the script goes on from
it. Energies eV, lengths Å, arc lengths √amu·Å.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, SCFError, all_changes
from ase.data import covalent_radii
from ase.units import kB

from phl_ase.curvature import curvature_of, finite_difference_hvp
from phl_ase.files import write_atomic
from phl_ase.paths import ReactionPath, find_reaction, search
from phl_ase.reference.pyscf_method import PySCFCalculator
from phl_ase.reference.scf import pyscf_package
from phl_ase.results import plain, provenance
from phl_ase.units import wavenumbers
from phl_ase.vibrations import HarmonicAnalysis, finite_difference_hessian, harmonic_analysis

Array = np.ndarray
Record = dict[str, Any]

SEEDS = Path(__file__).with_name("benchmark_seeds.extxyz")
STATIONARY = ("ts", "reactant", "product")
# (way to run Sella, internal coordinates), tried in this order
ATTEMPTS = (("hessian", None), ("hessian-3", False))
POINTS_A_SIDE = 6
TEMPERATURES = (300.0, 600.0, 900.0, 1200.0, 1600.0, 2000.0)
DRAWS = 10
# cm⁻¹: softer modes are sampled as if they were this stiff; a straight line is no torsion
SOFTEST = 250.0
# times the sum of covalent radii; nearer atoms are on a wall that no reaction climbs
CLOSEST = 0.65
# times the harmonic mean of the potential energy
HOTTEST = 3.0
# reactions of more atoms wait until those of fewer are finished, but for their transition states
LARGE = 7


class Remembering(Calculator):
    """A calculator whose answers are kept in a file and never computed twice.

    Attributes:
        computed: Number of gradients and of Hessians that were not in the file.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (ASE wants a list)

    def __init__(self, calculator: PySCFCalculator, path: Path) -> None:
        super().__init__()
        self.calculator, self.path = calculator, path
        self.computed = {"gradients": 0, "hessians": 0}
        self._known: dict[bytes, Record] = {}
        content = path.read_bytes() if path.exists() else b""
        # a kill may have left half a line
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            write_atomic(path, whole)
        for line in whole.splitlines():
            entry = json.loads(line)
            self._known.setdefault(np.array(entry["positions"]).tobytes(), {}).update(entry)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """Energy and forces, from the file where they are in it."""
        super().calculate(atoms, properties, system_changes)
        entry = self._known.get(atoms.positions.tobytes(), {})
        if "energy" not in entry:
            started = time.perf_counter()
            forces = self.calculator.get_forces(atoms)
            energy = self.calculator.get_potential_energy(atoms)
            entry = self._keep(atoms, "gradients", started, energy=energy, forces=forces)
        self.results = {"energy": entry["energy"], "free_energy": entry["energy"], "forces": np.array(entry["forces"])}

    def get_hessian(self, atoms: Atoms) -> Array:
        """``(3n, 3n)`` eV/Å²."""
        entry = self._known.get(atoms.positions.tobytes(), {})
        if "hessian" not in entry:
            started = time.perf_counter()
            entry = self._keep(atoms, "hessians", started, hessian=self.calculator.get_hessian(atoms))
        return np.array(entry["hessian"])

    def get_hvp(self, vectors: Array, atoms: Atoms) -> Array:
        """Products by central differences of the forces."""
        copy = atoms.copy()
        copy.calc = self
        return finite_difference_hvp(vectors, copy)

    def _keep(self, atoms: Atoms, kind: str, started: float, **labels: Any) -> Record:
        self.computed[kind] += 1
        entry = plain({"positions": atoms.positions.copy(), **labels, "seconds": time.perf_counter() - started})
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        known = self._known.setdefault(atoms.positions.tobytes(), {})
        known.update(entry)
        gc.collect()  # PySCF's objects are cycles around large arrays, and few objects: nothing else frees them in time
        return known


@dataclass(frozen=True)
class Work:
    """One reaction.

    Attributes:
        seed: The guess of its transition state, what is known of it in ``info``.
        folder: Where its files are.
    """

    seed: Atoms
    folder: Path

    @property
    def name(self) -> str:
        """Name of the reaction."""
        return str(self.seed.info["reaction"])

    def record(self, stage: str) -> Record | None:
        """What became of a stage; ``None`` where it was not done."""
        path = self.folder / f"{stage}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def with_calculator(self, positions: Any, calculator: Remembering) -> Atoms:
        """The molecule at positions."""
        return Atoms(self.seed.numbers, positions, calculator=calculator)

    def frames(self, stage: str) -> dict[str, Record]:
        """Frames of a finished stage by kind, the last one of each."""
        record = self.record(stage) or {"frames": []}
        return {frame["kind"]: frame for frame in record["frames"]}


def labelled(work: Work, calculator: Remembering, positions: Any, kind: str, *, hessian: bool, **more: Any) -> Record:
    """A frame with energy and forces, and a Hessian where wanted."""
    atoms = work.with_calculator(positions, calculator)
    frame = {"kind": kind, "positions": atoms.positions, "forces": atoms.get_forces(), **more}
    frame["energy"] = atoms.get_potential_energy()
    if hessian:
        matrix = calculator.get_hessian(atoms)
        frame |= {"hessian": matrix, "wavenumbers": harmonic_analysis(atoms, matrix).wavenumbers}
    return frame


def transition_state(work: Work, calculator: Remembering) -> Record:
    """The transition state from the guess."""
    curvature = curvature_of(calculator)
    tried = []
    for way, internal in ATTEMPTS:
        start = work.with_calculator(work.seed.positions, calculator)
        found = search(start, way, curvature, internal=internal, fmax=0.005, max_steps=60)
        tried.append(f"{way}: {found.sentence}, {found.steps} steps, {found.force_calls} gradients")
        if found.converged:
            frame = labelled(work, calculator, found.atoms.positions, "ts", hessian=True, irc_s=0.0)
            return {"outcome": "converged", "sentence": "; ".join(tried), "frames": [frame]}
    return {"outcome": found.outcome, "sentence": "; ".join(tried), "frames": []}


def path(work: Work, calculator: Remembering) -> Record:
    """The path from the transition state, its ends relaxed, and points along it."""
    ts = work.with_calculator(work.frames("ts")["ts"]["positions"], calculator)
    reaction = find_reaction(ts, calculator.get_hessian, relax_steps=300)
    frames = []
    ends = {"reactant": (reaction.backward, 0), "product": (reaction.forward, -1)}
    for kind, (end, index) in ends.items():
        if end is not None and end.relaxation.converged:
            length = float(reaction.path.arc_length[index])
            frame = labelled(work, calculator, end.atoms.positions, kind, hessian=True, irc_s=length)
            frames.append({**frame, "n_imaginary": end.n_imaginary, "fragments": end.fragments})
    for index in spread(reaction.path):
        point, length = reaction.path.structures[index], float(reaction.path.arc_length[index])
        frames.append(labelled(work, calculator, point.positions, "irc", hessian=False, irc_s=length))
    return {
        "outcome": reaction.outcome,
        "sentence": reaction.sentence,
        "breaks": reaction.broken,
        "makes": reaction.made,
        "barriers_eV": (reaction.barrier_forward, reaction.barrier_back),
        "force_calls": reaction.force_calls,
        "arc_length": reaction.path.arc_length,
        "energies": reaction.path.energies,
        "frames": frames,
    }


def spread(found: ReactionPath) -> list[int]:
    """Points equally spaced in arc length on either side, between the transition state and the end."""
    chosen: set[int] = set()
    for index in (0, len(found.arc_length) - 1):
        wanted = found.arc_length[index] * np.arange(1, POINTS_A_SIDE + 1) / (POINTS_A_SIDE + 1)
        chosen |= {int(np.abs(found.arc_length - length).argmin()) for length in wanted}
    return sorted(chosen - {found.ts_index})


def samples(work: Work, calculator: Remembering) -> Record:
    """Normal-mode samples around the stationary points, one at each temperature."""
    stationary = {**work.frames("ts"), **work.frames("path")}
    frames, failures = [], []
    for kind in STATIONARY:
        if kind not in stationary:
            failures.append(f"{kind}: there is none to sample around")
            continue
        centre = stationary[kind]
        analysis = harmonic_analysis(work.with_calculator(centre["positions"], calculator), np.array(centre["hessian"]))
        rng = np.random.default_rng(zlib.crc32(f"{work.name} {kind}".encode()))
        for temperature in TEMPERATURES:
            for _ in range(DRAWS):
                positions = drawn(analysis, temperature, rng)
                reason = unfit(work, calculator, positions, centre["energy"], temperature, len(analysis.modes))
                if not reason:
                    more = {"around": kind, "temperature": temperature}
                    frames.append(labelled(work, calculator, positions, "nms", hessian=True, **more))
                    break
                failures.append(f"{kind} at {temperature:g} K: {reason}")
    wanted = len(STATIONARY) * len(TEMPERATURES)
    outcome = "converged" if len(frames) == wanted else "incomplete"
    return {"outcome": outcome, "sentence": f"{len(frames)} of {wanted}", "failures": failures, "frames": frames}


def drawn(analysis: HarmonicAnalysis, temperature: float, rng: np.random.Generator) -> Array:
    """Positions from the classical harmonic distribution: Q ~ N(0, kT/λ), imaginary modes by their absolute value."""
    stiff = np.maximum(np.abs(analysis.wavenumbers), SOFTEST)
    eigenvalues = (stiff / float(wavenumbers(1.0))) ** 2
    amplitudes = rng.standard_normal(len(stiff)) * np.sqrt(kB * temperature / eigenvalues)
    return analysis.atoms.positions + np.tensordot(amplitudes, analysis.displacements, axes=1)


def unfit(
    work: Work, calculator: Remembering, positions: Array, energy: float, temperature: float, n_modes: int
) -> str:
    """Why a sample is not taken; empty where it is."""
    atoms = work.with_calculator(positions, calculator)
    radii = covalent_radii[atoms.numbers]
    ratios = atoms.get_all_distances() / (radii[:, None] + radii) + 10 * np.eye(len(atoms))
    if ratios.min() < CLOSEST:
        return f"two atoms at {ratios.min():.2f} times the sum of their radii"
    try:
        excess = atoms.get_potential_energy() - energy
    except SCFError as error:
        return str(error)
    limit = HOTTEST * 0.5 * n_modes * kB * temperature
    return f"{excess:.2f} eV above the stationary point, at most {limit:.2f}" if excess > limit else ""


def path_hessians(work: Work, calculator: Remembering) -> Record:
    """Hessians of the points along the path."""
    points = [frame for frame in (work.record("path") or {})["frames"] if frame["kind"] == "irc"]
    frames = [labelled(work, calculator, p["positions"], "irc", hessian=True, irc_s=p["irc_s"]) for p in points]
    return {"outcome": "converged", "sentence": f"{len(frames)} points", "frames": frames}


def difference_hessians(work: Work, calculator: Remembering) -> Record:
    """Hessians of all frames by central differences, free of the error of the grid in analytic ones."""
    frames = []
    for stage in ("ts", "path", "samples"):
        for frame in (work.record(stage) or {"frames": []})["frames"]:
            matrix = finite_difference_hessian(work.with_calculator(frame["positions"], calculator))
            frames.append({"kind": frame["kind"], "positions": frame["positions"], "hessian": matrix})
    return {"outcome": "converged", "sentence": f"{len(frames)} Hessians", "frames": frames}


def stability(work: Work, calculator: Remembering) -> Record:
    """Whether the closed-shell solution at the transition state is a minimum among restricted and unrestricted ones."""
    pyscf, reference = pyscf_package(), calculator.calculator.parameters
    places = list(zip(work.seed.get_chemical_symbols(), work.frames("ts")["ts"]["positions"], strict=True))
    molecule = pyscf.gto.M(atom=places, basis=reference["basis"], cart=reference["cartesian"], verbose=0)
    mean_field = pyscf.dft.RKS(molecule, xc="471")  # its dispersion has no part in this
    mean_field.grids.level = reference["grid_level"]
    mean_field.kernel()
    _, _, internal, external = mean_field.stability(internal=True, external=True, return_status=True)
    sentence = (
        f"restricted: {'stable' if internal else 'unstable'}, unrestricted: {'stable' if external else 'unstable'}"
    )
    return {"outcome": "stable" if internal and external else "unstable", "sentence": sentence, "frames": []}


@dataclass(frozen=True)
class Stage:
    """A stage of every reaction.

    Attributes:
        run: Makes its record.
        after: The stage that must have left frames; empty for none.
        rank: Place in the order of work.
        rank_large: The same for reactions of many atoms.
    """

    run: Callable[[Work, Remembering], Record]
    after: str
    rank: int
    rank_large: int


STAGES: Mapping[str, Stage] = {
    "ts": Stage(transition_state, "", 0, 0),
    "stability": Stage(stability, "ts", 1, 4),
    "path": Stage(path, "ts", 2, 5),
    "samples": Stage(samples, "path", 2, 5),
    "path-hessians": Stage(path_hessians, "path", 7, 8),
    "difference-hessians": Stage(difference_hessians, "samples", 9, 10),
}
"""Name -> stage."""


def works(seeds: Path, out: Path) -> list[Work]:
    """The reactions of a file of guesses."""
    frames = ase.io.read(seeds, index=":")
    return [Work(frame, out / frame.info["reaction"]) for frame in frames]


def jobs(reactions: Sequence[Work]) -> list[tuple[Work, str]]:
    """What can be done now: by stage, then by size; a reaction's samples follow its path."""
    waiting = []
    for work in reactions:
        for name, stage in STAGES.items():
            ready = not stage.after or work.frames(stage.after)
            if ready and not (work.folder / f"{name}.json").exists():
                rank = stage.rank_large if len(work.seed) >= LARGE else stage.rank
                waiting.append(((rank, len(work.seed), work.name), work, name))
    return [job[1:] for job in sorted(waiting, key=lambda job: job[0])]


@contextlib.contextmanager
def locked(work: Work) -> Iterator[bool]:
    """Whether the reaction is this process's alone meanwhile."""
    work.folder.mkdir(parents=True, exist_ok=True)
    with (work.folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def work_once(seeds: Path, out: Path) -> bool:
    """Do the next stage of a reaction that no other process works on; ``False`` where there is none."""
    for work, name in jobs(works(seeds, out)):
        with locked(work) as mine:
            if mine and work.record(name) is None:
                record = run_stage(work, name)
                cost = f"{record['seconds']:.0f} s, {record['computed']}"
                print(f"{work.name} {name}: {record['outcome']} ({record['sentence']}); {cost}", flush=True)
                return True
    return False


def run_stage(work: Work, name: str) -> Record:
    """Do a stage and write its record."""
    reference = PySCFCalculator()
    calculator = Remembering(reference, work.folder / "labels.jsonl")
    started = time.perf_counter()
    try:
        record = STAGES[name].run(work, calculator)
    except Exception as error:  # the next reaction must go on
        record = {"outcome": "failed", "sentence": f"{type(error).__name__}: {error}", "frames": []}
    record |= {
        "reaction": work.name,
        "description": work.seed.info["description"],
        "numbers": work.seed.numbers,
        "seconds": time.perf_counter() - started,
        "computed": calculator.computed,
        "provenance": provenance(level=reference.level_of_theory, **reference.parameters),
    }
    write_atomic(work.folder / f"{name}.json", json.dumps(plain(record), indent=1).encode())
    return record


def show(reactions: Sequence[Work]) -> None:
    """Print what is done."""
    print(f"{'reaction':28s} atoms  " + "  ".join(f"{name:>19s}" for name in STAGES))
    for work in reactions:
        cells = []
        for name in STAGES:
            record = work.record(name)
            cells.append(f"{record['outcome']} {record['seconds']:.0f} s" if record else "-")
        print(f"{work.name:28s} {len(work.seed):5d}  " + "  ".join(f"{cell:>19s}" for cell in cells))


def main() -> None:
    """Work until nothing is left that another process is not at; guesses that are added meanwhile are taken up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=Path, default=SEEDS)
    parser.add_argument("--status", action="store_true", help="print what is done, and stop")
    arguments = parser.parse_args()
    if arguments.status:
        show(works(arguments.seeds, arguments.out))
        return
    while work_once(arguments.seeds, arguments.out):
        pass


if __name__ == "__main__":
    main()
