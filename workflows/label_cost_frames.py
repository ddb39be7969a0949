"""Frames for ``label_cost.py``: geometries that cost nothing, labels whose gradient calls are counted, test sets.

Two reference surfaces. GFN2-xTB stands for a costly method whose labels can be had in any number: geometries are
normal-mode samples of a cheaper method (GFN1-xTB) around the bundled stationary points and reaction paths, labels are
computed as a user would, HVPs and Hessians by central differences. The ωB97X-D/6-31G(d) frames of the bundled data
are the other: their HVPs are those of the stored Hessians, a label without the error of differences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import covalent_radii
from ase.units import kB

from phl_ase.curvature import curvature_of
from phl_ase.datasets import DatasetMeta, MemoryDataset, open_dataset, reactions_of, write_dataset
from phl_ase.potentials.references import fit_reference_energies, species_of
from phl_ase.reference import Probes, label_frame, make_method
from phl_ase.scoring import STATIONARY
from phl_ase.structures import Frame, atoms_from_frame, frame_from_atoms
from phl_ase.study.references import NoReference, own_reaction
from phl_ase.units import wavenumbers
from phl_ase.vibrations import harmonic_analysis

BUNDLED = "reactions-wb97xd-631gd"
TEMPERATURES = (300.0, 600.0, 1000.0, 1500.0)
SOFTEST = 300.0  # cm⁻¹: softer modes are displaced as if they were this stiff
CLOSEST = 0.7  # of the sum of two covalent radii
# first number of the seed of each set of samples; the pools to train on have 100 + seed
VALID, TEST, PRETRAINING = 1, 2, 3


@dataclass(frozen=True)
class TrainingMethod:
    """A training method, by how it spends gradient calls.

    Attributes:
        family: Probe family of its recorded HVPs; empty for none.
        count: HVPs per frame, two gradient calls each.
        hessian: Whether a frame carries its full Hessian, 6n gradient calls.
        scheme: Training scheme.
        regime: Regime of the scheme.
    """

    family: str = ""
    count: int = 0
    hessian: bool = False
    scheme: str = "E-F"
    regime: str = "fixed"

    def cost(self, atoms: int) -> int:
        """Gradient calls of one frame; energy and forces are one."""
        return 1 + 2 * self.count + (6 * atoms if self.hessian else 0)


METHODS = {
    "E-F": TrainingMethod(),
    "HVP random": TrainingMethod("rademacher", 1, scheme="E-F-HVP-random"),
    "HVP one-hot": TrainingMethod("onehot", 1, scheme="E-F-HVP-onehot"),
    "2 HVPs random": TrainingMethod("rademacher", 2, scheme="E-F-HVP-random"),
    # learnt from through new random HVPs in every step: the expectation of the full-Hessian loss at the cost of one
    "full Hessian": TrainingMethod(hessian=True, scheme="E-F-HVP-random", regime="fresh"),
}


@dataclass(frozen=True)
class Surface:
    """What is learnt.

    Attributes:
        reference: The costly method; empty where the bundled labels are taken.
        cheap: Method of the labels to pre-train on.
        after: Another surface, whose pre-trained model that pre-training begins with; empty for none.
        level: Level of theory of the reference.
        budgets: Gradient calls to spend, what is run first in front.
    """

    reference: str
    cheap: str
    after: str
    level: str
    budgets: tuple[int, ...]


SURFACES = {
    "dft": Surface("", "tblite", "xtb", "wB97X-D/6-31G(d)", (750, 210)),
    "xtb": Surface("tblite", "tblite:GFN1-xTB", "", "GFN2-xTB", (1000, 3000, 300)),
}
HELD_OUT = {"xtb": {"valid": 64, "test": 130}, "dft": {"valid": 48, "test": 150}}


# ---------------------------------------------------------------------------------------------------------- geometries


def parents(out: Path) -> list[Frame]:
    """Bundled stationary points and points of paths with Hessians of the cheap method, made once."""
    path = out / "parents.h5"
    if not path.exists():
        with open_dataset(BUNDLED) as dataset:
            chosen = [frame for frame in dataset.frames() if frame.kind in (*STATIONARY, "irc")]
        calculator = make_method(SURFACES["xtb"].cheap)
        labelled = [label_frame(frame, calculator, hessian="differences").frame for frame in chosen]
        write_dataset(path, MemoryDataset(labelled, DatasetMeta(level_of_theory="GFN1-xTB")))
    with open_dataset(str(path)) as dataset:
        return dataset.frames()


def samples(out: Path, stream: int) -> Iterator[Frame]:
    """Unlabelled normal-mode samples around the parents, without end; the same ones for the same stream."""
    around = parents(out)
    analyses = [harmonic_analysis(atoms_from_frame(frame), frame.hessian) for frame in around]
    for index in range(10**9):
        rng = np.random.default_rng([stream, index])
        place = int(rng.integers(len(around)))
        temperature = float(rng.choice(TEMPERATURES))
        parent, analysis = around[place], analyses[place]
        stiff = np.maximum(np.abs(analysis.wavenumbers), SOFTEST) / float(wavenumbers(1.0))
        amplitudes = rng.standard_normal(len(stiff)) * np.sqrt(kB * temperature) / stiff
        positions = parent.positions + np.tensordot(amplitudes, analysis.displacements, axes=1)
        if _closest(parent.numbers, positions) > CLOSEST:
            bare = frame_from_atoms(atoms_from_frame(dataclasses.replace(parent, positions=positions)))
            yield dataclasses.replace(
                bare, kind="nms", reaction=parent.reaction, temperature=temperature, frame_id=stream * 10**6 + index
            )


def _closest(numbers: np.ndarray, positions: np.ndarray) -> float:
    radii = covalent_radii[numbers]
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1)
    return float((distances / (radii[:, None] + radii) + 10 * np.eye(len(radii))).min())


# -------------------------------------------------------------------------------------------------------------- labels


def counted_from_atoms(frames: list[Frame], known: list[Frame]) -> list[Frame]:
    """Frames whose energies are counted from energies per species, fitted to known frames.

    Every method is given them, as a user has the energies of atoms: a few frames with Hessians lack elements.
    """
    energies = dict(zip(species := species_of(known), fit_reference_energies(known, species), strict=True))
    return [
        dataclasses.replace(frame, energy=frame.energy - sum(energies[int(z)] for z in frame.numbers))
        for frame in frames
        if frame.energy is not None
    ]


def spend(out: Path, surface: str, method: str, budget: int, seed: int) -> tuple[list[Frame], int]:
    """Training frames that a budget buys, and the gradient calls that they cost; a smaller budget's come first."""
    spent, frames = 0, []
    pool = _bundled_pool(seed) if not SURFACES[surface].reference else samples(out, 100 + seed)
    label = _Labeller(surface, METHODS[method], seed)
    for bare in pool:
        if spent + METHODS[method].cost(len(bare)) > budget:
            break
        frame, gradients = label(bare)
        if frame is not None:
            frames.append(frame)
            spent += gradients
    return frames, spent


class _Labeller:
    def __init__(self, surface: str, method: TrainingMethod, seed: int) -> None:
        reference = SURFACES[surface].reference
        self.calculator = make_method(reference) if reference else None
        self.method = method
        self.probes = Probes(method.family, method.count, seed) if method.family else None

    def __call__(self, frame: Frame) -> tuple[Frame | None, int]:
        if self.calculator is None:
            return self._from_hessian(frame), self.method.cost(len(frame))
        hessian = "differences" if self.method.hessian else None
        labelled = label_frame(frame, self.calculator, hessian=hessian, probes=self.probes)
        return (None, 0) if labelled.failure else (labelled.frame, labelled.gradients)

    def _from_hessian(self, frame: Frame) -> Frame:
        if self.method.hessian:
            return frame
        if self.probes is None:
            return dataclasses.replace(frame, hessian=None)
        return with_hvps(frame, self.probes)


def with_hvps(frame: Frame, probes: Probes) -> Frame:
    """A frame that knows HVPs of its Hessian and no longer the Hessian itself."""
    vectors = probes.draw(frame)
    hvps = (vectors.reshape(len(vectors), -1) @ frame.hessian).reshape(vectors.shape)
    return dataclasses.replace(frame, hessian=None, probes=vectors, hvp=hvps)


def pretraining(out: Path, surface: str, frames: int) -> list[Frame]:
    """Samples with energies, forces and Hessians of the surface's cheap method, made once."""
    path = out / f"pretraining-{surface}.h5"
    cheap = SURFACES[surface].cheap
    return _kept(path, cheap, lambda: _with_hessians(samples(out, PRETRAINING), cheap, frames))


def held_out(out: Path, surface: str, part: str) -> list[Frame]:
    """Frames with Hessians that no training sees: ``valid`` to tune on, ``test`` with the stationary points."""
    number = HELD_OUT[surface][part]
    reference = SURFACES[surface].reference
    if not reference:
        return _bundled_part(part)

    def make() -> list[Frame]:
        frames = _with_hessians(samples(out, {"valid": VALID, "test": TEST}[part]), reference, number)
        return frames + (_own_stationary_points(reference) if part == "test" else [])

    return _kept(out / f"{part}-{surface}.h5", reference, make)


def _kept(path: Path, level: str, make) -> list[Frame]:
    if not path.exists():
        write_dataset(path, MemoryDataset(make(), DatasetMeta(level_of_theory=level)))
    with open_dataset(str(path)) as dataset:
        return dataset.frames()


def _with_hessians(pool: Iterator[Frame], method: str, number: int) -> list[Frame]:
    calculator = make_method(method)
    frames: list[Frame] = []
    while len(frames) < number:
        labelled = label_frame(next(pool), calculator, hessian="differences")
        if labelled.failure is None:
            frames.append(labelled.frame)
    return frames


def _own_stationary_points(method: str) -> list[Frame]:
    """TSs and both ends of the paths of a method, from the bundled TSs; without reactions that it does not have."""
    calculator = make_method(method)
    hessian = curvature_of(calculator).hessian
    frames = []
    with open_dataset(BUNDLED) as dataset:
        reactions = reactions_of(dataset)
    for name, known in reactions.items():
        assert known.transition_state is not None
        try:
            own = own_reaction(name, atoms_from_frame(known.transition_state), calculator)
        except NoReference as reason:
            print(f"no stationary points of {name} in the test set: {reason}", flush=True)
            continue
        points = {"ts": own.ts.atoms, **{kind: point.atoms for kind, point in own.reaction.ends.items()}}
        for kind, atoms in points.items():
            atoms = atoms.copy()
            atoms.calc = calculator
            labels = {"energy": float(atoms.get_potential_energy()), "forces": atoms.get_forces()}
            frames.append(
                dataclasses.replace(frame_from_atoms(atoms), kind=kind, reaction=name, hessian=hessian(atoms), **labels)
            )
    return frames


# ------------------------------------------------------------------------------------------------------- bundled frames


def _bundled_division() -> tuple[list[Frame], dict[str, list[Frame]]]:
    """The bundled frames: a pool to train on; held-out ones, all stationary points among those to test with."""
    with open_dataset(BUNDLED) as dataset:
        frames = dataset.frames()
    stationary = [frame for frame in frames if frame.kind in STATIONARY]
    rest = [frame for frame in frames if frame.kind not in STATIONARY]
    rest = [rest[i] for i in np.random.default_rng(0).permutation(len(rest))]
    valid, test = (HELD_OUT["dft"][part] for part in ("valid", "test"))
    return rest[valid + test :], {"valid": rest[:valid], "test": rest[valid : valid + test] + stationary}


def _bundled_pool(seed: int) -> Iterator[Frame]:
    pool = _bundled_division()[0]
    return iter([pool[i] for i in np.random.default_rng([seed, 1]).permutation(len(pool))])


def _bundled_part(part: str) -> list[Frame]:
    return _bundled_division()[1][part]
