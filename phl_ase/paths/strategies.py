"""Sella strategies: which curvature Sella is given, and how often."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ase import Atoms

from phl_ase.curvature import DIFFERENCES, EXACT, Curvature
from phl_ase.errors import unknown
from phl_ase.paths.transition_state import TransitionStateSearch, find_transition_state

Result = TypeVar("Result")


@dataclass(frozen=True)
class Strategy:
    """A Sella strategy: the curvature that a search is given, and how often.

    Attributes:
        description: What it does, in a few words.
        needs_hessian: Whether Sella is given Hessians.
        needs_hvp: Whether Sella's eigensolver is given exact Hessian-vector products.
        diag_every_n: How often the curvature is computed anew: 0 for every step; ``None`` for when its sign is lost.
    """

    description: str
    needs_hessian: bool = False
    needs_hvp: bool = False
    diag_every_n: int | None = None


STRATEGIES: Mapping[str, Strategy] = {
    "gradients": Strategy("gradients alone: Sella's eigensolver takes differences of them"),
    "hvp": Strategy("exact HVPs in Sella's eigensolver", needs_hvp=True),
    "hvp-3": Strategy("exact HVPs in Sella's eigensolver, every third step", needs_hvp=True, diag_every_n=3),
    "hessian": Strategy("a Hessian at the start and when the curvature is lost", needs_hessian=True),
    "hessian-3": Strategy("a Hessian every third step", needs_hessian=True, diag_every_n=3),
    "hessian-every": Strategy("a Hessian every step", needs_hessian=True, diag_every_n=0),
    "hessian-hvp": Strategy("a Hessian at the start, exact HVPs later", needs_hessian=True, needs_hvp=True),
    "hessian-hvp-3": Strategy(
        "a Hessian at the start, exact HVPs every third step", needs_hessian=True, needs_hvp=True, diag_every_n=3
    ),
}
"""Name -> Sella strategy."""

RECOMMENDED: Mapping[str, str] = {EXACT: "hessian-every", DIFFERENCES: "gradients"}
"""Origin of the curvature (``Curvature.source``) -> the strategy to take for small molecules, where a Hessian
costs little more than forces. For large ones, ``hvp`` needs no Hessian."""

StrategyInCoordinates = tuple[str, bool | None]
"""A key of ``STRATEGIES``, and whether in internal coordinates; ``None`` for what the structure suggests."""

LADDERS: Mapping[str, tuple[StrategyInCoordinates, ...]] = {
    EXACT: (("hessian", None), ("hessian-3", False), ("hessian-every", None)),
    DIFFERENCES: (("gradients", None), ("hessian", None), ("hessian-3", False)),
}
"""Origin of the curvature (``Curvature.source``) -> the strategies that are tried in turn until one finds the
transition state that is meant, cheap ones of quantum chemistry first."""


def search(atoms: Atoms, strategy: str, curvature: Curvature, **options: Any) -> TransitionStateSearch:
    """Search a transition state with a Sella strategy.

    Args:
        atoms: The guess, with a calculator; it is not changed.
        strategy: A key of ``STRATEGIES``.
        curvature: The calculator's, from :func:`phl_ase.curvature.curvature_of`; its Hessian serves the final analysis
            with every strategy, outside the counts. Where it is differences of forces, the gradients behind it are
            ``hidden_force_calls`` of the result.
        **options: The others of :func:`phl_ase.paths.find_transition_state`.

    Raises:
        PHLError: For an unknown strategy, and what the search itself refuses.
    """
    if strategy not in STRATEGIES:
        raise unknown("Sella strategy", strategy, STRATEGIES)
    chosen = STRATEGIES[strategy]
    found = find_transition_state(
        atoms,
        curvature.hessian if chosen.needs_hessian else None,
        hvp=curvature.hvp if chosen.needs_hvp else None,
        diag_every_n=chosen.diag_every_n,
        analysis_hessian=curvature.hessian,
        **options,
    )
    hidden = found.hessian_calls * curvature.gradients_per_hessian(len(atoms))
    return replace(found, hidden_force_calls=hidden + found.hvp_calls * curvature.gradients_per_hvp)


def search_in_turn(
    strategies: Iterable[StrategyInCoordinates],
    attempt: Callable[[str, bool | None], Result],
    missed: Callable[[Result], int],
) -> list[Result]:
    """Search with one strategy after another until a result misses nothing of what is wanted.

    Args:
        strategies: What to try, as in ``LADDERS``.
        attempt: Searches with a strategy, in internal coordinates or not.
        missed: How far a result is from what is wanted; 0 ends the searches.

    Returns:
        The results, the best first; equal ones in the order of the searches.
    """
    results: list[Result] = []
    for strategy, internal in strategies:
        results.append(attempt(strategy, internal))
        if missed(results[-1]) == 0:
            break
    return sorted(results, key=missed)
