"""Transition-state searches with Sella and relaxations with ASE, on any calculator, as results that cannot raise.

Sella: E. D. Hermes, K. Sargsyan, H. N. Najm, J. Zádor, J. Chem. Theory Comput. 18, 6974 (2022),
doi:10.1021/acs.jctc.2c00395. What happens to a search is an outcome with a sentence; only the user's own mistakes
(no calculator, a Hessian of the wrong shape) are exceptions.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.trajectory import Trajectory

from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.paths.counting import CountingCalculator, CountingHessian, HessianFunction
from phl_ase.vibrations import HarmonicAnalysis, finite_difference_hessian, free_atoms, harmonic_analysis

OUTCOMES: dict[str, str] = {
    "converged": "the forces are below the threshold and exactly one mode is imaginary",
    "wrong order of saddle": "the forces are below the threshold, but the number of imaginary modes is not one",
    "not converged": "the steps ran out before the forces fell below the threshold",
    "exploded": "an energy, force, Hessian or position became infinite, NaN or absurd",
    "failed": "the optimiser or the calculator stopped with an error",
}
"""Outcome of a transition-state search -> what it means."""

RELAXATION_OUTCOMES: dict[str, str] = {
    "converged": "the forces are below the threshold",
    **{name: OUTCOMES[name] for name in ("not converged", "exploded", "failed")},
}
"""Outcome of a relaxation -> what it means."""

# Sella tests forces without rigid motions and its internal coordinates' residue: it may stop at 1.3 times the
# threshold. It is asked again with half of it, at most this often: beyond, the difference is not the optimiser's.
_TIGHTENINGS = 6


@dataclass(frozen=True, eq=False)
class Relaxation:
    """What became of a relaxation.

    Attributes:
        outcome: A name in ``RELAXATION_OUTCOMES``.
        atoms: The last sound structure: a copy with the input's calculator.
        energy: Its energy, eV; NaN when there is none.
        fmax: Largest force on one of its atoms (raw forces, with constraints), eV/Å.
        steps: Optimiser steps.
        force_calls: Geometries at which energy and forces were computed.
        seconds: Wall time.
        reason: Why it exploded or failed; empty otherwise.
    """

    outcome: str
    atoms: Atoms
    energy: float
    fmax: float
    steps: int
    force_calls: int
    seconds: float
    reason: str = ""

    @property
    def converged(self) -> bool:
        """Whether the outcome is ``"converged"``."""
        return self.outcome == "converged"

    @property
    def sentence(self) -> str:
        """What the outcome means, with the reason where there is one."""
        return _sentence(RELAXATION_OUTCOMES, self.outcome, self.reason)


@dataclass(frozen=True, eq=False)
class TransitionStateSearch:
    """What became of a transition-state search.

    Attributes:
        outcome: A name in ``OUTCOMES``.
        atoms: The last sound structure: a copy with the input's calculator.
        energy: Its energy, eV; NaN when there is none.
        fmax: Largest force on one of its atoms (raw forces, with constraints), eV/Å.
        steps: Optimiser steps.
        force_calls: Geometries at which energy and forces were computed during the search.
        hessian_calls: Hessians computed during the search. What the final analysis costs (one Hessian, or 6 gradients
            for each free atom) is in neither count.
        seconds: Wall time of the search, without the final analysis.
        reason: Why it exploded or failed; empty otherwise.
        analysis: Harmonic analysis of the structure where the forces converged; ``None`` otherwise.
        curvature: Where the analysis has its Hessian from: ``"hessian function"``, ``"finite differences"`` or empty.
    """

    outcome: str
    atoms: Atoms
    energy: float
    fmax: float
    steps: int
    force_calls: int
    hessian_calls: int
    seconds: float
    reason: str = ""
    analysis: HarmonicAnalysis | None = None
    curvature: str = ""

    @property
    def converged(self) -> bool:
        """Whether the outcome is ``"converged"``."""
        return self.outcome == "converged"

    @property
    def n_imaginary(self) -> int | None:
        """Number of imaginary modes; ``None`` where the forces did not converge."""
        return None if self.analysis is None else self.analysis.n_imaginary

    @property
    def sentence(self) -> str:
        """What the outcome means, with the reason where there is one."""
        return _sentence(OUTCOMES, self.outcome, self.reason)


def find_transition_state(
    atoms: Atoms,
    hessian: HessianFunction | None = None,
    *,
    fmax: float = 0.01,
    max_steps: int = 200,
    diag_every_n: int | None = None,
    internal: bool = True,
    trajectory: str | PathLike[str] | None = None,
    logfile: Any = None,
) -> TransitionStateSearch:
    """Search a first-order saddle point from a guess.

    Args:
        atoms: The guess, with a calculator; it is not changed.
        hessian: ``hessian(atoms) -> (3n, 3n)`` eV/Å² for all atoms; it gets copies with the same calculator. Without
            one, Sella finds the curvature it needs from differences of forces.
        fmax: Threshold for the largest force on an atom, eV/Å, checked on the raw forces.
        max_steps: Most steps of the optimiser.
        diag_every_n: How often the curvature is computed anew: 0 for every step, 3 for few gradients and few Hessians;
            by default once, and again when the sign of the curvature is lost.
        internal: Internal coordinates (molecules) or Cartesian ones (periodic structures, fixed atoms).
        trajectory: An ASE trajectory file of the steps.
        logfile: Where Sella writes its table: a path or open file, ``"-"`` for the terminal, or nowhere.

    Returns:
        The result; a search that fails is one, too.

    Raises:
        PHLError: For a mistake of the caller: no calculator, fewer than two atoms, a threshold that is not positive, a
            Hessian of the wrong shape, a trajectory that cannot be written.
    """
    _check(atoms, fmax, max_steps, "a transition state")
    curvature = None if hessian is None else CountingHessian(hessian, atoms.calc)
    options: dict[str, Any] = {} if diag_every_n is None else {"diag_every_n": diag_every_n}

    from sella import Sella  # takes seconds (JAX), so not before it is needed

    def make(working: Atoms):
        return Sella(working, order=1, internal=internal, hessian_function=curvature, logfile=logfile, **options)

    run = _run(atoms, make, fmax, max_steps, trajectory)
    search = TransitionStateSearch(**run, hessian_calls=0 if curvature is None else curvature.calls)
    return _analysed(search, curvature) if search.converged else search


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

    _check(atoms, fmax, steps, "a minimum", n_least=1)
    return Relaxation(**_run(atoms, lambda working: BFGS(working, logfile=logfile), fmax, steps, trajectory))


def _check(atoms: Atoms, fmax: float, steps: int, aim: str, n_least: int = 2) -> None:
    """Refuse what cannot work before anything is computed."""
    if len(atoms) < n_least:
        raise PHLError(f"the structure has {len(atoms)} atoms; {aim} needs at least {n_least}")
    if atoms.calc is None:
        raise PHLError(f"the atoms have no calculator; {aim} needs one that gives energies and forces: set atoms.calc")
    if not np.all(np.isfinite(atoms.positions)):
        raise NonFiniteError("the structure to start from has positions that are NaN or infinite; mend them first")
    if not fmax > 0:
        raise PHLError(f"fmax is {fmax!r} eV/Å; expected a positive number, for example 0.01")
    if steps < 1:
        raise PHLError(f"the number of steps is {steps!r}; expected at least 1")


def _run(
    atoms: Atoms,
    make: Callable[[Atoms], Any],
    fmax: float,
    max_steps: int,
    trajectory: str | PathLike[str] | None,
) -> dict[str, Any]:
    """Run an optimiser on a copy until the raw forces are below the threshold: the fields of a :class:`Relaxation`."""
    working = atoms.copy()
    working.calc = counter = CountingCalculator(atoms.calc)
    outcome, reason, optimiser = "not converged", "", None
    started = time.perf_counter()
    with _trajectory(trajectory, working) as images, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(sella|jax|jaxlib)\b")
        try:
            with make(working) as optimiser:
                if images is not None:
                    optimiser.attach(images.write, interval=1)
                _iterate(optimiser, working, fmax, max_steps)
            if counter.largest_force() <= fmax:
                outcome = "converged"
        except NonFiniteError as error:
            outcome, reason = "exploded", str(error)
        except PHLError:
            raise
        except Exception as error:  # whatever Sella, JAX or a foreign calculator may raise is a result here
            outcome, reason = "failed", _reason(error)
    result = atoms.copy() if counter.last is None else counter.last.copy()
    result.calc = atoms.calc
    return {
        "outcome": outcome,
        "atoms": result,
        "energy": counter.energy,
        "fmax": counter.largest_force(),
        "steps": 0 if optimiser is None else optimiser.nsteps,
        "force_calls": counter.calls,
        "seconds": time.perf_counter() - started,
        "reason": reason,
    }


def _iterate(optimiser: Any, working: Atoms, fmax: float, max_steps: int) -> None:
    """Run until the raw forces are below the threshold, tightening the optimiser's own where it stops too early."""
    for tightening in range(_TIGHTENINGS + 1):
        optimiser.run(fmax=fmax / 2**tightening, steps=max_steps - optimiser.nsteps)
        # asked of the working copy, so that the counter's last structure is this one and not a probe beside it
        reached = np.linalg.norm(working.get_forces(), axis=1).max()
        if reached <= fmax or optimiser.nsteps >= max_steps:
            return


@contextlib.contextmanager
def _trajectory(path: str | PathLike[str] | None, working: Atoms):
    """An open trajectory of the working copy, or ``None``.

    Not the optimiser's own: Sella's holds every probe of its eigensolver, and its dummy atoms.
    """
    if path is None:
        yield None
        return
    try:
        images = Trajectory(str(path), "w", working)
    except OSError as error:
        message = f"cannot write the trajectory {path}: {error.strerror}; give a file in a folder that exists"
        raise PHLError(message) from error
    with images:
        yield images


def _analysed(search: TransitionStateSearch, curvature: CountingHessian | None) -> TransitionStateSearch:
    """The same search with the harmonic analysis of its structure, and the outcome that follows from it."""
    fields = dict(vars(search))
    try:
        if curvature is None:
            matrix = finite_difference_hessian(search.atoms, indices=free_atoms(search.atoms))
        else:
            matrix = curvature(search.atoms)
        analysis = harmonic_analysis(search.atoms, matrix)
    except NonFiniteError as error:
        return TransitionStateSearch(**{**fields, "outcome": "exploded", "reason": str(error)})
    except PHLError:
        raise
    except Exception as error:
        return TransitionStateSearch(**{**fields, "outcome": "failed", "reason": _reason(error)})
    fields["analysis"] = analysis
    fields["curvature"] = "finite differences" if curvature is None else "hessian function"
    if analysis.n_imaginary != 1:
        fields["outcome"], fields["reason"] = "wrong order of saddle", f"{analysis.n_imaginary} imaginary modes"
    return TransitionStateSearch(**fields)


def _reason(error: Exception) -> str:
    """A foreign error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _sentence(table: dict[str, str], outcome: str, reason: str) -> str:
    return f"{table[outcome]} ({reason})" if reason else table[outcome]
