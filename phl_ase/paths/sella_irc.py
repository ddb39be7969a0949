"""Sella's IRC, with its Hessian prepared so that it converges.

E. D. Hermes, K. Sargsyan, H. N. Najm, J. Zádor, J. Chem. Theory Comput. 18, 6974 (2022),
doi:10.1021/acs.jctc.2c00395. Sella takes the lowest eigenvector of the mass-weighted Hessian for the first step and
wants its lowest *unprojected* eigenvalue to be positive at the end: the zeros of translations and rotations, which are
as often slightly negative, defeat both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from phl_ase.hessians import symmetrised
from phl_ase.paths.branch import Branch, StepError
from phl_ase.types import Array
from phl_ase.vibrations import harmonic_analysis, rigid_motions

# eV/Å²: as stiff as a soft bond, so that translations and rotations are neither the lowest modes nor the stiffest
_RIGID_STIFFNESS = 15.0

_SHORTEST = 0.1  # of the step that was asked for


def prepared_hessian(atoms: Atoms, hessian: Array, *, stiffness: float = _RIGID_STIFFNESS) -> Array:
    """Return a Hessian whose translations and rotations are stiff, in mass-weighted coordinates.

    M^½ [P H_m P + (s / mean mass) U Uᵀ] M^½ with H_m = M^-½ H M^-½, U the mass-weighted translations and rotations and
    P = 1 − U Uᵀ: the vibrations of H, uncoupled from rigid motions that have the curvature s. Without the masses, the
    shift would couple them again.

    Args:
        atoms: The structure.
        hessian: ``(3n, 3n)`` eV/Å².
        stiffness: s, eV/Å².

    Returns:
        ``(3n, 3n)`` eV/Å², symmetric.
    """
    masses = atoms.get_masses()
    weights = np.outer(*[np.repeat(np.sqrt(masses), 3)] * 2)
    rigid = rigid_motions(atoms.positions, masses)
    projector = np.eye(len(rigid)) - rigid @ rigid.T
    weighted = projector @ (hessian / weights) @ projector + stiffness / masses.mean() * rigid @ rigid.T
    return weights * symmetrised(weighted)


def follow_sella(branch: Branch) -> bool:
    """Follow one side with Sella, with a shorter step where the first finds no point; whether it converged.

    Raises:
        StepError: Where Sella finds no point of the path with the shortest step.
    """
    step = branch.step
    while True:
        try:
            return _follow(branch, step)
        except StepError as error:
            step /= 2
            if error.points or step < _SHORTEST * branch.step:
                raise


def _follow(branch: Branch, step: float) -> bool:
    """Follow one side with Sella and a step of a length, √amu·Å; whether it converged."""
    from sella import IRC  # takes seconds (JAX), so not before it is needed
    from sella.optimize.irc import IRCInnerLoopConvergenceFailure

    working = branch.working()
    prepared = prepared_hessian(branch.start, branch.ts_hessian)
    options: dict[str, Any] = {"logfile": None, "dx": step, "hessian_function": lambda _: prepared.copy()}
    with IRC(working, **options) as irc:
        # asked for a direction, Sella diagonalises and says which way that is; it goes nowhere before it is iterated
        irc.irun(fmax=branch.fmax, direction="forward")
        along = float(np.vdot(branch.weights * irc.v0ts, branch.mode))
        direction = "forward" if along > 0 else "reverse"
        points = irc.irun(fmax=branch.fmax, steps=branch.max_points, direction=direction)
        found: list[Array] = []
        while True:
            try:
                converged = False
                for done in points:
                    converged = bool(done)
                    if irc.nsteps > len(found):
                        found.append(irc.atoms.positions.copy())
                        branch.record(found[-1], branch.calculator.energy)
                return converged
            except IRCInnerLoopConvergenceFailure as error:
                if not found or irc.dx <= _SHORTEST * branch.step:
                    raise StepError(
                        f"Sella's IRC found no point of the path at {irc.dx:.2g} √amu·Å from "
                        f"{'its last one' if found else 'the transition state'} (IRCInnerLoopConvergenceFailure)",
                        len(found),
                    ) from error
                working.positions[:] = found[-1]
                # a path may end here by its true Hessian: Sella's may be wrong in the sign of a soft mode
                at_rest = np.linalg.norm(working.get_forces(), axis=1).max() <= branch.fmax
                if at_rest and harmonic_analysis(working, branch.hessian(working)).n_imaginary == 0:
                    return True
                # half the step: a whole one may lie across a minimum, on no point of its sphere the path
                irc.dx /= 2
                irc.d1 *= 0.0
                irc.pes.set_x(irc.atoms.positions.ravel())
                # not Sella's own, which would begin at the TS again
                points = super(type(irc), irc).irun(branch.fmax, branch.max_points - irc.nsteps)
