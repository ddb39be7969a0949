"""Labels of one frame by a reference method: energy, forces, the stress of a periodic frame, a Hessian, HVPs along
recorded probes.

An HVP, H·v, is a central difference of two gradients, so K of them cost 2K gradient calls whatever the size of the
molecule. The probes are a function of the seed and the frame's identity (:mod:`phl_ase.probes`).

What goes wrong with a structure is part of the result; an exception is a mistake in the request.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import SCFError

from phl_ase.curvature import curvature_of, finite_difference_hvp
from phl_ase.datasets.schema import plausible
from phl_ase.errors import (
    CalculatorError,
    GuardedCalculator,
    NonFiniteError,
    PHLError,
    is_defect,
    traceback_of,
    unknown,
)
from phl_ase.jobs import Failure
from phl_ase.probes import check_family, draw_probes
from phl_ase.reference.distances import check_distances
from phl_ase.reference.methods import STEP
from phl_ase.structures import Frame, atoms_from_frame, charge_and_multiplicity, collate
from phl_ase.types import ASECalculator
from phl_ase.vibrations import finite_difference_hessian

Array = np.ndarray

Make = Callable[[], Any]
"""Makes an ASE calculator; sent to other processes, so a function of a module or a ``functools.partial`` of one."""

STEPS = (0.0005, 0.001, 0.002, 0.005, 0.01)
"""Å: what :func:`choose_step` tries."""

FAILURES: dict[str, str] = {
    "scf": "the self-consistent field did not converge",
    "not-finite": "the structure or the method's results hold NaN or infinity",
    "refused": "the method cannot treat the structure",
    "crashed": "the calculator raised an error",
    "died": "the process that labelled it ended, twice: a crash of compiled code, or out of memory",
    "time limit": "it took longer than was allowed",
    "defect": "phl_ase has a defect; please report it with the traceback",
}
"""Outcome of a frame that could not be labelled -> what it means."""

# the first that fits: SCFError is no PHLError, NonFiniteError is one
_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (SCFError, "scf"),
    (NonFiniteError, "not-finite"),
    (PHLError, "refused"),
    (Exception, "crashed"),
)


@dataclass(frozen=True)
class Probes:
    """Probes that a frame is labelled along.

    Attributes:
        family: A key of ``phl_ase.probes.FAMILIES``.
        count: K, probes per frame; the family ``complete`` draws all 3n.
        seed: With the frame's identity it determines the probes.

    Raises:
        PHLError: For an unknown family or fewer than one probe.
    """

    family: str = "rademacher"
    count: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_family(self.family, self.count, smallest=self.count)

    def draw(self, frame: Frame) -> Array:
        """Return the probes ``(K, n, 3)`` of a frame, dimensionless.

        Raises:
            PHLError: For more orthogonal probes than 3n.
        """
        batch, _ = collate([frame], ())
        drawn = draw_probes(
            self.family, batch, torch.tensor([frame.frame_id], device="cpu"), n_probes=self.count, seed=self.seed
        ).vectors
        return drawn.numpy().copy()


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """A frame after labelling.

    Attributes:
        frame: With its labels; without any where it failed.
        failure: ``None`` when everything asked for was computed.
        gradients: Gradient calls that the labels cost; a calculator's own Hessian is not counted, a failure neither.
        seconds: Wall time.
        hvp_error: Estimated rms error of an element of the HVPs, eV/Å², where it was asked for.
    """

    frame: Frame
    failure: Failure | None
    gradients: int
    seconds: float
    hvp_error: float | None = None


HESSIANS = ("own", "differences")
"""How a Hessian is made: by the calculator where it has one, or by central differences of its forces."""


def label_frame(
    structure: Atoms | Frame,
    calculator: ASECalculator,
    *,
    hessian: str | None = None,
    probes: Probes | None = None,
    step: float = STEP,
    estimate_error: bool = False,
) -> LabelledFrame:
    """Compute energy and forces of a structure, the stress of a periodic one, and the curvature asked for.

    Args:
        structure: What is labelled. A frame keeps its kind, reaction and identity (which determines its probes); labels
            it already carries are replaced.
        calculator: Any ASE calculator.
        hessian: A key of ``HESSIANS``; ``None`` for no Hessian.
        probes: Label along these; ``None`` for no HVPs.
        step: Displacement of the atom that moves most in central differences, Å.
        estimate_error: Repeat the HVPs with twice the step and compare: 2K gradients more.

    Raises:
        PHLError: For a mistake in the request, or a charge or multiplicity in ``atoms.info`` that is no whole number.
            What else goes wrong with the structure is in the result.
    """
    check_request(hessian, probes, step, estimate_error=estimate_error)
    start = time.monotonic()
    frame = without_labels(structure)
    try:
        atoms = atoms_from_frame(plausible(frame, "the structure"))  # extreme cells would hang ASE's neighbour lists
        check_distances(atoms, atoms.get_chemical_formula())
        # stated even where they are the usual: what the frame says is what must be computed
        atoms.info.update(charge=frame.charge, multiplicity=frame.multiplicity)
        atoms.calc = GuardedCalculator(calculator)
        labels, gradients, hvp_error = _labels(frame, atoms, hessian, probes, step, estimate_error)
        labelled = dataclasses.replace(frame, **labels).check(atoms.get_chemical_formula())
    except Exception as error:  # whatever a method raises about one structure must not end the others
        if is_defect(error):
            raise
        problem = (isinstance(error, CalculatorError) and error.__cause__) or error
        outcome = next(name for cause, name in _CAUSES if isinstance(problem, cause))
        reason = " ".join(str(problem).split()) or type(problem).__name__
        failure = Failure(outcome, reason, traceback_of(problem))
        return LabelledFrame(frame, failure, 0, time.monotonic() - start)
    return LabelledFrame(labelled, None, gradients, time.monotonic() - start, hvp_error)


def check_request(hessian: str | None, probes: Probes | None, step: float, *, estimate_error: bool) -> None:
    """Check what is asked of :func:`label_frame`.

    Raises:
        PHLError: For an unknown kind of Hessian, a step that is not positive, or an error of HVPs without probes.
    """
    if hessian is not None and hessian not in HESSIANS:
        raise unknown("kind of Hessian", hessian, HESSIANS)
    if not (np.isfinite(step) and step > 0):
        raise PHLError(f"step is {step!r} Å; expected a positive displacement, for example {STEP}")
    if estimate_error and probes is None:
        raise PHLError("estimate_error compares HVPs, but no probes were asked for; give probes=Probes(…)")


def _labels(
    frame: Frame, atoms: Atoms, hessian: str | None, probes: Probes | None, step: float, estimate_error: bool
) -> tuple[dict[str, Any], int, float | None]:
    """Return labels by their name, the gradient calls they cost, and the error of the HVPs where asked for."""
    labels: dict[str, Any] = {"stress": None}
    # first: calculators that have it compute energy and forces along
    if atoms.pbc.any() and atoms.cell.rank == 3 and "stress" in getattr(atoms.calc, "implemented_properties", ()):
        with contextlib.suppress(NotImplementedError):  # PropertyNotImplementedError of ASE: of some structures only
            labels["stress"] = np.array(atoms.get_stress(voigt=False), dtype=float)
    labels["energy"] = float(atoms.get_potential_energy())
    labels["forces"] = np.array(atoms.get_forces(), dtype=float)
    gradients, error = 1, None
    if probes is not None:
        vectors = probes.draw(frame)
        hvps = finite_difference_hvp(vectors, atoms, delta=step)
        gradients += 2 * len(vectors)
        labels.update(probes=vectors, hvp=hvps)
        if estimate_error:
            # the error of second-order differences is a third of what they differ by from those at twice the step
            coarser = finite_difference_hvp(vectors, atoms, delta=2 * step)
            error = float(np.sqrt(np.mean((coarser - hvps) ** 2)) / 3.0)
            gradients += 2 * len(vectors)
    if hessian is not None:
        curvature = curvature_of(atoms.calc)
        if hessian == "own" and curvature.is_exact:
            labels["hessian"] = curvature.hessian(atoms)
        else:
            labels["hessian"] = finite_difference_hessian(atoms, delta=step)
            gradients += 6 * len(atoms)
    return labels, gradients, error


@dataclass(frozen=True)
class LabelRequest:
    """Labels of every frame of a data set beside energy, forces and stress.

    Attributes:
        hessian: A key of ``HESSIANS``; ``None`` for no Hessian.
        probes: Label along these; ``None`` for no HVPs.
        step: Displacement of the atom that moves most in central differences, Å.
        estimate_error: On how many frames the HVPs are repeated with twice the step: 2K gradients more on each.

    Raises:
        PHLError: For an unknown kind of Hessian, a step or a number of frames that cannot be.
    """

    hessian: str | None = None
    probes: Probes | None = None
    step: float = STEP
    estimate_error: int = 0

    def __post_init__(self) -> None:
        if self.estimate_error < 0:
            raise PHLError(f"estimate_error is {self.estimate_error} frames; expected 0 or more")
        check_request(self.hessian, self.probes, self.step, estimate_error=self.estimate_error > 0)

    @property
    def description(self) -> dict[str, Any]:
        """Return all that the labels depend on, as JSON holds it."""
        probes = self.probes
        return {
            "hessian": self.hessian,
            "probes": probes and {"family": probes.family, "count": probes.count, "seed": probes.seed},
            "step": self.step,
            "estimate_error": self.estimate_error,
        }

    def label(self, frame: Frame, calculator: ASECalculator, *, estimate_error: bool = False) -> LabelledFrame:
        """Label one frame, as :func:`label_frame`; ``estimate_error`` where it is one of the sample."""
        asked: dict[str, Any] = {"hessian": self.hessian, "probes": self.probes, "step": self.step}
        return label_frame(frame, calculator, **asked, estimate_error=estimate_error)

    def sample(self, frames: int) -> set[int]:
        """Return which of a number of frames have the error of their HVPs estimated, spread at random."""
        seed = 0 if self.probes is None else self.probes.seed
        chosen = np.random.default_rng(seed).permutation(frames)[: self.estimate_error]
        return set(chosen.tolist())


def choose_step(
    structure: Atoms | Frame, calculator: ASECalculator, *, steps: Sequence[float] = STEPS, seed: int = 0
) -> tuple[float, dict[float, float]]:
    """Return the step whose HVPs are most nearly those of the next larger one: noise below, anharmonicity above.

    Args:
        structure: A typical structure.
        calculator: Any ASE calculator.
        steps: Å, ascending; two gradients each.
        seed: Of the one probe.

    Returns:
        The step (Å), and for every step but the largest the rms difference from the next, eV/Å².

    Raises:
        PHLError: For fewer than three steps, or steps that are not ascending.
    """
    if len(steps) < 3 or not all(0 < a < b for a, b in pairwise(steps)):
        raise PHLError(f"steps are {list(steps)}; expected at least three ascending positive displacements in Å")
    frame = without_labels(structure)
    atoms = atoms_from_frame(frame)
    atoms.calc = calculator
    vectors = Probes(seed=seed).draw(frame)
    hvps = [finite_difference_hvp(vectors, atoms, delta=step) for step in steps]
    differences = {
        step: float(np.sqrt(np.mean((a - b) ** 2))) for step, a, b in zip(steps, hvps, hvps[1:], strict=False)
    }
    return min(differences, key=differences.__getitem__), differences


def without_labels(structure: Atoms | Frame) -> Frame:
    """Return a frame without labels; of an ``Atoms``, what it says about itself and not what its calculator says."""
    if not isinstance(structure, Atoms):
        return structure.with_labels(dict.fromkeys(structure.labels()))
    info, (charge, multiplicity) = structure.info, charge_and_multiplicity(structure)
    return Frame(
        numbers=structure.numbers.astype(np.int64),
        positions=np.array(structure.positions, dtype=float),
        cell=np.array(structure.cell, dtype=float),
        pbc=np.array(structure.pbc, dtype=bool),
        charge=charge,
        multiplicity=multiplicity,
        **{name: info[name] for name in ("kind", "reaction", "irc_s", "temperature") if name in info},
    )
