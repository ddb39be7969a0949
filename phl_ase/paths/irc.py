"""Intrinsic reaction coordinates: the steepest-descent path in mass-weighted coordinates from a TS to both sides.

K. Fukui, Acc. Chem. Res. 14, 363 (1981), doi:10.1021/ar00072a001. What happens to a path is an outcome of each
direction with a sentence; only the caller's own mistakes are exceptions.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory, TrajectoryWriter

from phl_ase.curvature import HessianFunction, curvature_of
from phl_ase.errors import PHLError, attempt, unknown
from phl_ase.files import replacing
from phl_ase.paths.arc_length import arc_length
from phl_ase.paths.branch import Branch, BranchCalculator
from phl_ase.paths.counting import CountingCalculator, CountingHessian
from phl_ase.paths.optimisation import check_start, open_trajectory
from phl_ase.paths.quadratic import follow_quadratic
from phl_ase.paths.reaction_path import Direction, ReactionPath
from phl_ase.paths.sella_irc import follow_sella
from phl_ase.tables import counted
from phl_ase.types import Array
from phl_ase.vibrations import HarmonicAnalysis, harmonic_analysis

INTEGRATORS: dict[str, Callable[[Branch], bool]] = {
    "sella": follow_sella,
    "quadratic": follow_quadratic,
}
"""Integrator -> the function that follows one branch and says whether it converged."""

STATIONARY_WITHIN = 0.05
"""Largest force on a free atom, eV/Å, up to which a structure counts as stationary: its frequencies mean something and
a path may start from it."""


def follow_irc(
    ts: Atoms,
    hessian: HessianFunction | None = None,
    *,
    method: str = "sella",
    step: float = 0.1,
    fmax: float = 0.01,
    max_points: int = 300,
    trajectory: str | PathLike[str] | None = None,
) -> ReactionPath:
    """Follow the intrinsic reaction coordinate from a transition state in both directions.

    Args:
        ts: The transition state of its calculator, with that calculator; it is not changed. Its masses count.
        hessian: ``hessian(atoms) -> (3n, 3n)`` eV/Å²; without one, the calculator's own, else differences of forces.
        method: A key of ``INTEGRATORS``: ``"sella"`` (one Hessian, then gradients), ``"quadratic"`` (a Hessian a step).
            Where it fails in a direction, and the calculator does not, the others follow that direction.
        step: Length of a step, √amu·Å; the largest of ``"quadratic"``, which shortens its steps where the path bends.
        fmax: A direction ends where the largest force on an atom is below this, eV/Å, and the curvature is positive.
        max_points: Most points of one direction.
        trajectory: An ASE trajectory: the points as they are found (readable when stopped), in the end in order, with
            energies, and arc lengths in ``info["irc_s"]``.

    Returns:
        The path, whatever became of it; where the structure is no transition state, it alone.

    Raises:
        PHLError: For a mistake of the caller: no calculator, fewer than two atoms, a periodic structure, constraints,
            an unknown method, a length or threshold that is not positive, a Hessian of the wrong shape, a trajectory
            that cannot be written.
    """
    for name, size in {"step": step, "fmax": fmax, "max_points": max_points}.items():
        if not (np.isfinite(size) and size > 0):
            raise PHLError(f"{name} is {size!r}; expected a positive number")
    check_start(ts, fmax, max_points, "a reaction path", n_least=2)
    if np.any(ts.pbc):
        raise PHLError("the structure is periodic; reaction paths are followed for molecules: set atoms.pbc = False")
    if ts.constraints:
        raise PHLError("the structure has constraints; on a reaction path all atoms move: del atoms.constraints")
    if method not in INTEGRATORS:
        raise unknown("integrator of reaction paths", method, INTEGRATORS)
    source = curvature_of(ts.calc)
    counted = CountingHessian(hessian or source.hessian, ts.calc)
    counter = BranchCalculator(ts.calc, ts.positions)
    start = ts.copy()
    # Sella would put the masses of the most common isotopes where ASE has the averages, but not over stated ones
    start.set_masses(ts.get_masses())
    verdict, analysis = _analyse(start, counter, counted)
    energy = counter.energy
    sides = [_Side(verdict), _Side(verdict)]
    with _images(trajectory, start, energy) as images:
        if verdict.converged and analysis is not None:
            mode = analysis.modes[0]
            # the largest component positive: the same direction is forward in every run
            forward, matrix = mode * np.sign(mode.flat[np.argmax(np.abs(mode))]), counted(start)
            for side, mode in enumerate((-forward, forward)):
                branch = Branch(start, counter, counted, energy, matrix, mode, step, fmax, max_points)
                sides[side] = _follow_by_any(branch, method, images)
    back, ahead = sides
    structures = (*reversed(back.structures), start, *ahead.structures)
    energies = np.array([*reversed(back.energies), energy, *ahead.energies])
    lengths = arc_length(structures, len(back.structures))
    if trajectory is not None:  # in order, in place of the order of the steps
        with replacing(Path(trajectory)) as temporary, Trajectory(str(temporary), "w") as images:
            for structure, value, length in zip(structures, energies, lengths, strict=True):
                images.write(_labelled(structure, float(value), irc_s=float(length)))
    return ReactionPath(
        structures=structures,
        energies=energies,
        arc_length=lengths,
        ts_index=len(back.structures),
        backward=sides[0].direction,
        forward=sides[1].direction,
        method=method,
        curvature="hessian function" if hessian is not None else source.source,
        analysis=analysis,
        hessian_calls=counted.calls,
        force_calls=counter.calls,
    )


@dataclass(frozen=True, eq=False)
class _Side:
    """One direction: what became of it, and its points from the TS outwards."""

    direction: Direction
    structures: tuple[Atoms, ...] = ()
    energies: tuple[float, ...] = ()


def _analyse(
    start: Atoms, counter: CountingCalculator, hessian: CountingHessian
) -> tuple[Direction, HarmonicAnalysis | None]:
    """Return whether a path can start here, and the harmonic analysis where there is one."""
    made: list[HarmonicAnalysis] = []
    structure = start.copy()
    structure.calc = counter

    def judge() -> str:
        structure.get_forces()
        made.append(harmonic_analysis(start, hessian(start)))
        if counter.largest_force() > STATIONARY_WITHIN:
            return "not stationary"
        return "converged" if made[0].n_imaginary == 1 else "no transition state"

    judged = attempt(judge)
    outcome, reason = judged.value or judged.outcome, judged.reason
    if outcome == "not stationary":
        reason = f"largest force {counter.largest_force():.3g} eV/Å, at most {STATIONARY_WITHIN:g}"
    elif outcome == "no transition state":
        reason = counted(made[0].n_imaginary, "imaginary mode")
    return Direction(outcome, reason=reason, traceback=judged.traceback), made[0] if made else None


def _follow_by_any(branch: Branch, method: str, images: TrajectoryWriter | None) -> _Side:
    """Follow one direction with an integrator; where that fails, with the others in turn.

    Of a direction that none can follow, the one asked for says how far it came.
    """
    asked, blameless = _follow(branch, method, images)
    side, reasons = asked, [f"{method}: {asked.direction.reason}"]
    for other in INTEGRATORS:
        if side.direction.outcome not in ("failed", "exploded") or not blameless:
            break
        if other != method:
            side, blameless = _follow(branch, other, images)
            reasons.append(f"{other}: {side.direction.reason}" if side.direction.reason else f"followed by {other}")
    if len(reasons) == 1:
        return asked
    kept = asked if side.direction.outcome in ("failed", "exploded") else side
    counts = {
        name: getattr(asked.direction, name) + getattr(side.direction, name)
        for name in ("force_calls", "hessian_calls", "seconds")
    }
    return replace(kept, direction=replace(kept.direction, reason="; ".join(reasons), **counts))


def _follow(branch: Branch, method: str, images: TrajectoryWriter | None) -> tuple[_Side, bool]:
    """Follow one direction, whatever happens, and whether the calculator is without blame for that."""
    structures: list[Atoms] = []
    energies: list[float] = []

    def record(positions: Array, energy: float) -> None:
        point = branch.start.copy()
        point.positions = positions
        structures.append(point)
        energies.append(energy)
        if images is not None:
            images.write(_labelled(point, energy))

    force_calls, hessian_calls = branch.calculator.calls, branch.hessian.calls
    branch = replace(branch, record=record)
    branch.calculator.set_out()
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(sella|jax|jaxlib)\b")
        followed = attempt(lambda: "converged" if INTEGRATORS[method](branch) else "not converged")
    overlap = float("nan")
    if branch.calculator.first_away is not None:
        first = branch.weights * (branch.calculator.first_away - branch.start.positions).ravel()
        overlap = float(first @ branch.mode.ravel() / np.linalg.norm(first))
    direction = Direction(
        outcome=followed.value or followed.outcome,
        steps=len(structures),
        force_calls=branch.calculator.calls - force_calls,
        hessian_calls=branch.hessian.calls - hessian_calls,
        seconds=time.perf_counter() - started,
        first_step_overlap=overlap,
        reason=followed.reason,
        traceback=followed.traceback,
        method=method,
    )
    return _Side(direction, tuple(structures), tuple(energies)), not followed.of_calculator


@contextlib.contextmanager
def _images(path: str | PathLike[str] | None, start: Atoms, energy: float) -> Iterator[TrajectoryWriter | None]:
    """Yield an open trajectory that begins with the TS, or ``None``; it can be read whatever happens next."""
    if path is None:
        yield None
        return
    with open_trajectory(path) as images:
        images.write(_labelled(start, energy))
        yield images


def _labelled(structure: Atoms, energy: float, **info: float) -> Atoms:
    """Return a copy that carries its energy (where there is one) and more in ``info``."""
    copy = structure.copy()
    copy.info.update(info)
    if np.isfinite(energy):
        copy.calc = SinglePointCalculator(copy, energy=energy)
    return copy
