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

from phl_ase.paths.branch import Branch
from phl_ase.vibrations import rigid_motions

Array = np.ndarray

# eV/Å²: as stiff as a soft bond, so that translations and rotations are neither the lowest modes nor the stiffest
_RIGID_STIFFNESS = 15.0


def prepared_hessian(atoms: Atoms, hessian: Array, *, stiffness: float = _RIGID_STIFFNESS) -> Array:
    """A Hessian whose translations and rotations are stiff, in mass-weighted coordinates.

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
    return weights * 0.5 * (weighted + weighted.T)


def follow_sella(branch: Branch) -> bool:
    """Follow one side with Sella; whether it converged."""
    from sella import IRC  # takes seconds (JAX), so not before it is needed

    working = branch.working()
    prepared = prepared_hessian(branch.start, branch.ts_hessian)
    options: dict[str, Any] = {"logfile": None, "dx": branch.step, "hessian_function": lambda _: prepared.copy()}
    converged = False
    with IRC(working, **options) as irc:
        # asked for a direction, Sella diagonalises and says which way that is; it goes nowhere before it is iterated
        irc.irun(fmax=branch.fmax, direction="forward")
        along = float(np.vdot(branch.weights * irc.v0ts, branch.mode))
        direction = "forward" if along > 0 else "reverse"
        for done in irc.irun(fmax=branch.fmax, steps=branch.max_points, direction=direction):
            converged = bool(done)
            if irc.nsteps:
                branch.record(working.positions.copy(), branch.calculator.energy)
    return converged
