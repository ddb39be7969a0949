"""The potential under check, the structures it is checked on, and shorthand for evaluating it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from phl_ase.derivatives import evaluate
from phl_ase.errors import PHLError, unknown
from phl_ase.potentials import Model
from phl_ase.structures import Batch, Frame, Potential, collate

TINY = 1e-300
"""Smallest scale, so that nothing is divided by zero."""


@dataclass(frozen=True)
class Steps:
    """Steps to try, the largest first. A right derivative agrees with differences at one of them, a wrong one at none.

    Attributes:
        displacement: Å (of a direction of length 1), or strain.
        parameter: In units of the root mean square of a parameter tensor.
        cuts: How often the pieces of a path are cut to integrate along it: not so often that the integral resolves the
            rounded kink of √(x² + ε), which no training step does.
        crossing: How far from the cutoff its two sides are compared, Å.
        settled: A relative error below which no smaller step is tried.
    """

    displacement: tuple[float, ...]
    parameter: tuple[float, ...]
    cuts: int
    crossing: float
    settled: float

    def best(self, error: Callable[[float], float], steps: Sequence[float]) -> float:
        """Return the smallest error of the steps tried."""
        smallest = float("inf")
        for step in steps:
            value = error(step)
            if not smallest <= value:
                smallest = value
            if smallest <= self.settled:
                break
        return smallest


DIFFERENCE_STEPS = {
    torch.float64: Steps((1e-3, 1e-4, 1e-5), (1e-3, 1e-4, 1e-5), 3, 1e-4, 1e-7),
    torch.float32: Steps((2e-2, 5e-3), (2e-2, 5e-3), 3, 5e-2, 1e-3),
}


class Subject:
    """A copy of the potential, in the dtype, its reference energies set to zero; the original is not touched.

    Args:
        potential: What to check.
        frames: Structures; by default :func:`default_frames` of its species.
        dtype: A key of ``DIFFERENCE_STEPS``.

    Raises:
        PHLError: For another dtype, or frames with species that the potential does not know.
    """

    def __init__(self, potential: Potential, frames: Sequence[Frame] | None, dtype: torch.dtype) -> None:
        if dtype not in DIFFERENCE_STEPS:
            raise unknown("dtype of a conformance check", dtype, DIFFERENCE_STEPS)
        self.dtype, self.steps = dtype, DIFFERENCE_STEPS[dtype]
        self.species = potential.species or (1, 6, 8)
        self.frames = list(default_frames(self.species) if frames is None else frames)
        if frames is None and not np.all(np.isfinite(potential.cutoffs)):  # sums over all pairs of a molecule
            self.frames = [frame for frame in self.frames if not frame.pbc.any()]
        for frame in self.frames:
            if potential.species and (new := set(frame.numbers.tolist()) - set(potential.species)):
                known = ", ".join(map(str, potential.species))
                raise PHLError(f"a frame to check holds atomic numbers {sorted(new)}; the potential knows {known}")
        self.potential = copy.deepcopy(potential)
        self.device = torch.device("cpu")
        if isinstance(self.potential, nn.Module):
            self.potential.to(dtype=dtype)
            self.device = next((t.device for t in self.potential.state_dict().values()), self.device)
            for module in self.potential.modules():
                if isinstance(module, Model):
                    module.set_references(torch.zeros_like(module.reference_energies), float(module.scale))
        self.rng = np.random.default_rng(20260304)

    def batch(self, frames: Sequence[Frame] | None = None) -> Batch:
        """Return frames (all by default) as a batch, without labels."""
        return collate(self.frames if frames is None else frames, self.potential.cutoffs)[0].to(self.device, self.dtype)

    def energies(self, frames: Sequence[Frame]) -> Tensor:
        """Energies, eV."""
        return evaluate(self.potential, self.batch(frames), ("energy",)).energy

    def evaluate(self, frames: Sequence[Frame] | None = None, needs: Collection[str] = ("forces",), **options):
        """Predictions for frames (all by default); ``options`` as for ``derivatives.evaluate``."""
        return evaluate(self.potential, self.batch(frames), needs, **options)

    def forces(self, frames: Sequence[Frame]) -> Tensor:
        """Forces, eV/Å."""
        return filled(self.evaluate(frames).forces)

    def tensor(self, array: np.ndarray) -> Tensor:
        """Return an array in the dtype and on the device of the check."""
        return torch.as_tensor(array, dtype=self.dtype, device=self.device)

    def directions(self, k: int = 1) -> list[np.ndarray]:
        """K random vectors ``(K, n, 3)`` of length 1 for each frame."""
        vectors = [self.rng.normal(size=(k, len(f), 3)) for f in self.frames]
        return [v / np.linalg.norm(v, axis=(1, 2), keepdims=True) for v in vectors]

    def sums(self, batch: Batch, values: Tensor) -> Tensor:
        """Sum over atoms and components of each system: ``(…, atoms, 3)`` to ``(…, systems)``."""
        totals = values.new_zeros(*values.shape[:-2], batch.n_systems)
        return totals.index_add(-1, batch.system, values.sum(-1))

    @cached_property
    def scale(self) -> float:
        """Size of the interaction energies, eV."""
        lone = {z: self.energies([frame_of([z], np.zeros((1, 3)))]).item() for z in self.species}
        rest = torch.tensor(
            [sum(lone[z] for z in f.numbers.tolist()) for f in self.frames], dtype=torch.float64, device="cpu"
        )
        return max((self.energies(self.frames).cpu() - rest).abs().max().item(), TINY)

    def change(self, frames: Sequence[Frame], mapped: Callable[[int, Tensor], Tensor]) -> float:
        """Return the relative error of energies and forces of transformed frames against the transformed originals.

        Args:
            frames: All frames, transformed.
            mapped: Transforms the forces of the frame of an index.
        """
        before, after = self.evaluate(), self.evaluate(frames)
        pieces = filled(before.forces).split([len(f) for f in self.frames])
        expected = torch.cat([mapped(index, forces) for index, forces in enumerate(pieces)])
        energy = (after.energy - before.energy).abs().max().item() / self.scale
        return max(energy, relative(filled(after.forces), expected))


def frame_of(numbers, positions, **fields) -> Frame:
    """Return a structure without labels."""
    return Frame(numbers=np.asarray(numbers), positions=np.asarray(positions, dtype=float), **fields)


def moved(frames: Sequence[Frame], steps: Sequence[np.ndarray]) -> list[Frame]:
    """Return frames with their atoms displaced, Å."""
    return [dataclasses.replace(f, positions=f.positions + step) for f, step in zip(frames, steps, strict=True)]


def default_frames(species: Sequence[int]) -> list[Frame]:
    """Random molecules of 2, 4 and 6 atoms and a triclinic cell of 4, no two atoms closer than 0.9 Å; always the same.

    Args:
        species: Atomic numbers to take the atoms from.
    """
    rng = np.random.default_rng(7)
    elements = np.resize(np.asarray(species), 6)
    frames = []
    for n in (2, 4, 6):
        positions = np.zeros((1, 3))
        while len(positions) < n:
            step = rng.normal(size=3)
            new = positions[rng.integers(len(positions))] + step * (rng.uniform(1.0, 1.4) / np.linalg.norm(step))
            if np.linalg.norm(positions - new, axis=1).min() > 0.9:
                positions = np.vstack([positions, new])
        frames.append(frame_of(rng.permutation(elements[:n]), positions))
    cell = np.array([[3.6, 0.0, 0.0], [0.4, 3.3, 0.0], [-0.3, 0.5, 3.9]])
    scaled = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
    positions = (scaled + rng.uniform(-0.06, 0.06, size=(4, 3))) @ cell
    return [*frames, frame_of(elements[:4], positions, cell=cell, pbc=np.ones(3, dtype=bool))]


def filled(value: Tensor | None) -> Tensor:
    """Return a value that an evaluator was asked for."""
    if value is None:
        raise RuntimeError("the evaluator did not fill what was asked for")
    return value


def relative(got: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected component; 0 for nothing to compare."""
    if not got.numel():
        return 0.0
    return ((got - expected).abs().max() / expected.abs().max().clamp(min=TINY)).item()


def slope(function: Callable[[float], Tensor], h: float) -> Tensor:
    """dF/dt at t = 0 by central differences at h and 2h, Richardson-extrapolated (error h⁴)."""
    return (8.0 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12.0 * h)
