"""Runs of optimisers on any calculator, as results that cannot raise; relaxations with ASE.

The loop is shared by relaxations and transition-state searches: what happens to a run is an outcome with a sentence;
only the user's own mistakes (no calculator, a trajectory that cannot be written) are exceptions, and Ctrl-C.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.trajectory import Trajectory

from phl_ase.errors import NonFiniteError, PHLError, attempt
from phl_ase.paths.counting import CountingCalculator

RELAXATION_OUTCOMES: dict[str, str] = {
    "converged": "the forces are below the threshold",
    "not converged": "the steps ran out before the forces fell below the threshold",
    "exploded": "an energy, force, Hessian or position became infinite, NaN or absurd",
    "failed": "the optimiser or the calculator stopped with an error",
}
"""Outcome of a relaxation -> what it means."""

# Sella tests forces without rigid motions and its internal coordinates' residue: it may stop at 1.3 times the
# threshold. It is asked again with half of it, at most this often: beyond, the difference is not the optimiser's.
_TIGHTENINGS = 6


@dataclass(frozen=True, eq=False)
class Relaxation:
    """The result of a relaxation.

    Attributes:
        outcome: A name in ``RELAXATION_OUTCOMES``.
        atoms: The last sound structure: a copy with the input's calculator.
        energy: Its energy, eV; NaN when there is none.
        fmax: Largest force on one of its atoms (raw forces, with constraints), eV/Å.
        steps: Optimiser steps.
        force_calls: Geometries at which energy and forces were computed.
        seconds: Wall time.
        reason: Why it exploded or failed; empty otherwise.
        traceback: Where it did, as Python prints it; empty otherwise.
    """

    outcome: str
    atoms: Atoms
    energy: float
    fmax: float
    steps: int
    force_calls: int
    seconds: float
    reason: str = ""
    traceback: str = ""

    @property
    def converged(self) -> bool:
        """Return whether the outcome is ``"converged"``."""
        return self.outcome == "converged"

    @property
    def sentence(self) -> str:
        """Return what the outcome means, with the reason where there is one."""
        return sentence_of(RELAXATION_OUTCOMES, self.outcome, self.reason)


def relax(
    atoms: Atoms,
    fmax: float = 0.01,
    steps: int = 500,
    *,
    trajectory: str | PathLike[str] | None = None,
    logfile: Any = None,
) -> Relaxation:
    """Relax to a minimum with ASE's BFGS.

    Args:
        atoms: The start, with a calculator; it is not changed.
        fmax: Threshold for the largest force on an atom, eV/Å.
        steps: Most steps of the optimiser.
        trajectory: An ASE trajectory file of the steps.
        logfile: Where the optimiser writes its table: a path or open file, ``"-"`` for the terminal, or nowhere.

    Returns:
        The result; a relaxation that fails is one, too. That the structure is a minimum is for
        :func:`phl_ase.vibrations.harmonic_analysis` to say.

    Raises:
        PHLError: For a mistake of the caller: no calculator, no atoms, a threshold that is not positive.
    """
    from ase.optimize import BFGS

    check_start(atoms, fmax, steps, "a minimum", n_least=1)
    return run_optimiser(atoms, lambda working: BFGS(working, logfile=logfile), fmax, steps, trajectory)


def check_start(atoms: Atoms, fmax: float, steps: int, aim: str, n_least: int) -> None:
    """Refuse what cannot work before anything is computed.

    Raises:
        PHLError: For too few atoms, no calculator, a threshold or number of steps that is not positive.
        NonFiniteError: For positions that are NaN or infinite.
    """
    if len(atoms) < n_least:
        found = f"{len(atoms)} atom{'s' * (len(atoms) != 1)}"
        raise PHLError(f"the structure has {found}; {aim} needs at least {n_least}")
    if atoms.calc is None:
        raise PHLError(f"the atoms have no calculator; {aim} needs one that gives energies and forces: set atoms.calc")
    if not np.all(np.isfinite(atoms.positions)):
        raise NonFiniteError("the structure to start from has positions that are NaN or infinite; mend them first")
    if not fmax > 0:
        raise PHLError(f"fmax is {fmax!r} eV/Å; expected a positive number, for example 0.01")
    if steps < 1:
        raise PHLError(f"the number of steps is {steps!r}; expected at least 1")


def run_optimiser(
    atoms: Atoms,
    make: Callable[[Atoms], Any],
    fmax: float,
    max_steps: int,
    trajectory: str | PathLike[str] | None,
) -> Relaxation:
    """Run an optimiser on a copy until the raw forces are below the threshold.

    Args:
        atoms: The start, with a calculator; it is not changed.
        make: Makes an ASE optimiser of the working copy.
        fmax: Threshold for the largest force on an atom, eV/Å.
        max_steps: Most steps.
        trajectory: An ASE trajectory file of the steps; after an interruption, too, it holds all that were taken.

    Raises:
        PHLError: What the calculator or a Hessian function says of a mistake of the caller.
        KeyboardInterrupt: Where the user stops the run.
    """
    working = atoms.copy()
    working.calc = counter = CountingCalculator(atoms.calc)
    made: list[Any] = []

    def optimise() -> str:
        with make(working) as optimiser:
            made.append(optimiser)
            if write is not None:
                optimiser.attach(write, interval=1)
            _iterate(optimiser, working, fmax, max_steps)
        return "converged" if counter.largest_force() <= fmax else "not converged"

    started = time.perf_counter()
    with _trajectory(trajectory, working) as write, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(sella|jax|jaxlib)\b")
        run = attempt(optimise)
    result = atoms.copy() if counter.last is None else counter.last.copy()
    result.calc = atoms.calc
    return Relaxation(
        outcome=run.value or run.outcome,
        atoms=result,
        energy=counter.energy,
        fmax=counter.largest_force(),
        steps=made[0].nsteps if made else 0,
        force_calls=counter.calls,
        seconds=time.perf_counter() - started,
        reason=run.reason,
        traceback=run.traceback,
    )


def _iterate(optimiser: Any, working: Atoms, fmax: float, max_steps: int) -> None:
    """Run until the raw forces are below the threshold, tightening the optimiser's own where it stops too early."""
    for tightening in range(_TIGHTENINGS + 1):
        optimiser.run(fmax=fmax / 2**tightening, steps=max_steps - optimiser.nsteps)
        # asked of the working copy, so that the counter's last structure is this one and not a probe beside it
        reached = np.linalg.norm(working.get_forces(), axis=1).max()
        if reached <= fmax or optimiser.nsteps >= max_steps:
            return


def open_trajectory(path: str | PathLike[str], atoms: Atoms | None = None) -> Any:
    """Return an ASE trajectory, open for writing.

    Raises:
        PHLError: Where it cannot be written.
    """
    try:
        return Trajectory(str(path), "w", atoms)
    except OSError as error:
        message = f"cannot write the trajectory {path}: {error.strerror}; give a file in a folder that exists"
        raise PHLError(message) from error


@contextlib.contextmanager
def _trajectory(path: str | PathLike[str] | None, working: Atoms) -> Iterator[Callable[[], None] | None]:
    """Return what writes the working copy to an open trajectory, or ``None``.

    Not the optimiser's own: Sella's holds every probe of its eigensolver, and its dummy atoms.
    """
    if path is None:
        yield None
        return
    images = open_trajectory(path, working)

    def write() -> None:
        try:
            images.write()
        except BaseException:
            # ASE would put the half-written image into the file on closing it, and then cannot read it
            images.backend.data = {}
            raise

    with images:
        yield write


def sentence_of(table: Mapping[str, str], outcome: str, reason: str) -> str:
    """Return what an outcome means, with the reason where there is one."""
    return f"{table[outcome]} ({reason})" if reason else table[outcome]
