"""Transition-state searches with Sella on any calculator, as results that cannot raise.

Sella: E. D. Hermes, K. Sargsyan, H. N. Najm, J. Zádor, J. Chem. Theory Comput. 18, 6974 (2022),
doi:10.1021/acs.jctc.2c00395. What happens to a search is an outcome with a sentence; only the user's own mistakes
(no calculator, a Hessian of the wrong shape) are exceptions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
from ase import Atoms

from phl_ase.curvature import HessianFunction, HVPFunction
from phl_ase.errors import PHLError, attempt
from phl_ase.hessians import checked_hessian
from phl_ase.paths.counting import CountingHessian, CountingHVP
from phl_ase.paths.optimisation import RELAXATION_OUTCOMES, check_start, run_optimiser, sentence_of
from phl_ase.vibrations import (
    HarmonicAnalysis,
    finite_difference_hessian,
    free_atoms,
    free_motions,
    harmonic_analysis,
)
from phl_ase.vibrations.constraints import count_from_zero

_ON_A_LINE, _BENT = 1e-3, 0.01  # Å: when a molecule is taken for linear, and how far its inner atoms are moved then

SEARCH_OUTCOMES: dict[str, str] = {
    **RELAXATION_OUTCOMES,
    "converged": "the forces are below the threshold and exactly one mode is imaginary",
    "wrong order of saddle": "the forces are below the threshold, but the number of imaginary modes is not one",
}
"""Outcome of a transition-state search -> what it means."""


@dataclass(frozen=True, eq=False)
class TransitionStateSearch:
    """The result of a transition-state search.

    What the final analysis costs (a Hessian, 3n HVPs, or 6 gradients for each free atom) is in none of the counts.

    Attributes:
        outcome: A name in ``SEARCH_OUTCOMES``.
        atoms: The last sound structure: a copy with the input's calculator.
        energy: Its energy, eV; NaN when there is none.
        fmax: Largest force on one of its atoms (raw forces, with constraints), eV/Å.
        steps: Optimiser steps.
        force_calls: Geometries at which energy and forces were computed during the search.
        hessian_calls: Hessians computed during the search.
        seconds: Wall time of the search, without the final analysis.
        reason: Why it exploded or failed; empty otherwise.
        analysis: Harmonic analysis of the structure where the forces converged; ``None`` otherwise.
        curvature: Where the analysis has its Hessian from: ``"hessian function"``, ``"Hessian-vector products"``,
            ``"finite differences"`` or empty.
        hvp_calls: Vectors multiplied with a Hessian during the search.
        hvp_fallbacks: HVPs that Sella took from differences of gradients although exact ones were given.
        hidden_force_calls: Gradients behind Hessians and HVPs that are differences themselves, beside
            ``force_calls``; known where :func:`phl_ase.paths.search` ran the search, 0 otherwise.
        internal: Whether the coordinates were internal.
        traceback: Where it exploded or failed, as Python prints it; empty otherwise.
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
    hvp_calls: int = 0
    hvp_fallbacks: int = 0
    hidden_force_calls: int = 0
    internal: bool = True
    traceback: str = ""

    @property
    def converged(self) -> bool:
        """Return whether the outcome is ``"converged"``."""
        return self.outcome == "converged"

    @property
    def n_imaginary(self) -> int | None:
        """Number of imaginary modes; ``None`` where the forces did not converge."""
        return None if self.analysis is None else self.analysis.n_imaginary

    @property
    def sentence(self) -> str:
        """Return what the outcome means, with the reason where there is one."""
        return sentence_of(SEARCH_OUTCOMES, self.outcome, self.reason)


def find_transition_state(
    atoms: Atoms,
    hessian: HessianFunction | None = None,
    *,
    hvp: HVPFunction | None = None,
    fmax: float = 0.01,
    max_steps: int = 200,
    diag_every_n: int | None = None,
    internal: bool | None = None,
    trajectory: str | PathLike[str] | None = None,
    logfile: Any = None,
    analysis_hessian: HessianFunction | None = None,
) -> TransitionStateSearch:
    """Search a first-order saddle point from a guess.

    Sella's curvature comes from what is given: differences of gradients in its eigensolver; Hessians
    (``hessian``); exact HVPs in its eigensolver (``hvp``, see :mod:`phl_ase.paths.sella_hvp`); or, with both,
    one Hessian at the start and HVPs whenever the curvature is computed anew.

    Args:
        atoms: The guess, with a calculator; it is not changed.
        hessian: ``hessian(atoms) -> (3n, 3n)`` eV/Å² for all atoms; it gets copies with the same calculator.
        hvp: ``hvp(vectors, atoms)`` with vectors ``(n, 3)`` or ``(K, n, 3)``, eV/Å² per unit of vector. One HVP is
            compared with the gradients at the start, for one more gradient.
        fmax: Threshold for the largest force on an atom, eV/Å, checked on the raw forces.
        max_steps: Most steps of the optimiser.
        diag_every_n: How often the curvature is computed anew: 0 for every step, 3 for few gradients and few Hessians;
            by default once, and again when the sign of the curvature is lost.
        internal: Internal coordinates or Cartesian ones; by default internal ones for molecules and Cartesian ones for
            periodic structures. In Cartesian ones a molecule whose atoms lie exactly on a line is bent by 0.01 Å first.
        trajectory: An ASE trajectory file of the steps; it holds them all wherever the search ends, Ctrl-C included.
        logfile: Where Sella writes its table: a path or open file, ``"-"`` for the terminal, or nowhere.
        analysis_hessian: The Hessian of the final analysis, where Sella is not to have it.

    Returns:
        The result; a search that fails is one, too.

    Raises:
        PHLError: For a mistake of the caller: no calculator, fewer than two atoms, a threshold that is not positive, a
            Hessian of the wrong shape, HVPs that are not those of the gradients, internal coordinates of a periodic
            structure, a trajectory that cannot be written.
        KeyboardInterrupt: Where the user stops the search.
    """
    check_start(atoms, fmax, max_steps, "a transition state", n_least=2)
    if internal is None:
        internal = not np.any(atoms.pbc)
    if internal and np.any(atoms.pbc):
        raise PHLError("internal coordinates are for molecules, and the structure is periodic: take internal=False")
    if not internal:
        atoms = _off_the_line(atoms)
    hessians = None if hessian is None else CountingHessian(hessian, atoms.calc)
    hvps = None if hvp is None else CountingHVP(hvp, atoms.calc)
    options: dict[str, Any] = {"order": 1, "internal": internal, "logfile": logfile}
    if diag_every_n is not None:
        options["diag_every_n"] = diag_every_n
    made: list[Any] = []

    def make(working: Atoms) -> Any:
        count_from_zero(working)
        if hvps is None:
            from sella import Sella  # it loads JAX, which takes seconds

            made.append(Sella(working, hessian_function=hessians, **options))
        else:
            from phl_ase.paths.sella_hvp import HVPSella

            made.append(HVPSella(working, hvps, start=hessians, **options))
        return made[-1]

    run = run_optimiser(atoms, make, fmax, max_steps, trajectory)
    search = TransitionStateSearch(
        **vars(run),
        hessian_calls=0 if hessians is None else hessians.calls,
        hvp_calls=0 if hvps is None else hvps.calls,
        hvp_fallbacks=getattr(made[-1], "fallbacks", 0) if made else 0,
        internal=internal,
    )
    if not search.converged:
        return search
    known = hessians if analysis_hessian is None else CountingHessian(analysis_hessian, atoms.calc)
    return _analysed(search, known, hvps)


def _off_the_line(atoms: Atoms) -> Atoms:
    """Return a molecule whose atoms lie on a line bent a little; any other structure as it is.

    In Cartesian coordinates Sella fixes three rotations. A linear molecule has two: the third divides by zero, and the
    atoms fly millions of Å apart. By symmetry nothing would lead off the line either.
    """
    if np.any(atoms.pbc) or len(atoms) < 3:
        return atoms
    centred = atoms.positions - atoms.positions.mean(axis=0)
    axes = np.linalg.svd(centred)[2]
    if np.linalg.norm(centred @ axes[1:].T, axis=1).max() > _ON_A_LINE:
        return atoms
    bent = atoms.copy()
    bent.calc = atoms.calc
    inner = np.argsort(centred @ axes[0])[1:-1]
    positions = atoms.positions.copy()
    positions[inner] += _BENT * axes[1]
    bent.set_positions(positions)  # constraints hold what they hold
    return bent


def _analysed(
    search: TransitionStateSearch, hessians: CountingHessian | None, hvps: CountingHVP | None
) -> TransitionStateSearch:
    """Return the search with the harmonic analysis of its structure, and the outcome that follows from it."""

    def analyse() -> tuple[HarmonicAnalysis, str]:
        atoms = search.atoms
        if hessians is not None:
            matrix, source = hessians(atoms), "hessian function"
        elif hvps is not None:
            rows = hvps(np.eye(3 * len(atoms)).reshape(-1, len(atoms), 3), atoms)
            matrix = checked_hessian(rows.reshape(3 * len(atoms), -1), len(atoms))
            source = "Hessian-vector products"
        else:
            matrix, source = finite_difference_hessian(atoms, indices=free_atoms(atoms)), "finite differences"
        # lengths and angles that are held have forces, which belong to the curvature
        curved = bool(atoms.constraints) and free_motions(atoms).is_curved
        forces = atoms.get_forces(apply_constraint=False) if curved else None
        return harmonic_analysis(atoms, matrix, forces=forces), source

    answer = attempt(analyse)
    if answer.value is None:
        return replace(search, outcome=answer.outcome, reason=answer.reason, traceback=answer.traceback)
    analysis, source = answer.value
    analysed = replace(search, analysis=analysis, curvature=source)
    if analysis.n_imaginary == 1:
        return analysed
    reason = f"{analysis.n_imaginary} imaginary modes instead of one"
    if analysis.n_imaginary == 0 and search.steps == 0:
        reason = "the start is a minimum already: a search needs a guess between two minima"
    return replace(analysed, outcome="wrong order of saddle", reason=reason)
