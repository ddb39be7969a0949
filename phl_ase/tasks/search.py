"""Transition states between a reactant and a product: guesses and Sella strategies are tried until one joins them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from ase import Atoms

from phl_ase.curvature import curvature_of
from phl_ase.errors import GuardedCalculator, PHLError
from phl_ase.errors import attempt as attempted
from phl_ase.paths import (
    LADDERS,
    PATH_METHODS,
    RECOMMENDED,
    Connection,
    Reaction,
    TransitionStateSearch,
    connects,
    find_reaction,
    guess_transition_state,
    search,
    search_in_turn,
)
from phl_ase.paths.end_points import same_structure
from phl_ase.paths.guess import BAND
from phl_ase.types import ASECalculator

_RELAXED = 0.05  # eV/Å: largest force on an atom of what is meant to be a minimum


@dataclass(frozen=True, eq=False)
class JoiningSearch:
    """The result of a search between two structures.

    Attributes:
        search: The search of the TS.
        reaction: The path from it and its ends, from the reactant's side to the product's where it joins them; ``None``
            where there is no TS.
        connection: How those ends relate to the structures given; ``None`` without both ends.
        attempts: What became of the searches that did not join them, those from one guess that met the same fate in
            one line.
        hints: Where nothing joins them, what of the input or the installation may be the reason.
    """

    search: TransitionStateSearch
    reaction: Reaction | None
    connection: Connection | None
    attempts: tuple[str, ...]
    hints: tuple[str, ...] = ()

    @property
    def joins(self) -> bool:
        """Return whether the TS joins reactant and product: the same bonds at both ends."""
        return self.connection is not None and self.connection.connected


def check_ends(reactant: Atoms, product: Atoms) -> None:
    """Refuse two structures that no path leads between.

    Raises:
        PHLError: For other atoms, another order of atoms, or the same structure twice.
    """
    first, second = reactant.get_chemical_formula(), product.get_chemical_formula()
    if first != second:
        raise PHLError(f"the reactant is {first}, the product {second}; expected the same atoms in both files")
    if reactant.numbers.tolist() != product.numbers.tolist():
        raise PHLError(
            "reactant and product list their atoms in another order; expected atom k of the one to become atom k of "
            f"the other (reactant: {' '.join(reactant.symbols)}; product: {' '.join(product.symbols)})"
        )
    if same_structure(reactant, product):
        raise PHLError("reactant and product are the same structure; expected two different minima")


def search_from(
    atoms: Atoms, calculator: ASECalculator, *, strategy: str | None = None, fmax: float = 0.01, max_steps: int = 200
) -> TransitionStateSearch:
    """Search a TS from a guess; where internal coordinates fail, again in Cartesian ones.

    Args:
        atoms: The guess; it is not changed.
        calculator: What computes.
        strategy: A key of ``phl_ase.paths.STRATEGIES``; by default what is recommended for the calculator.
        fmax: Largest force at the end, eV/Å.
        max_steps: Most steps.
    """
    curvature = curvature_of(calculator)
    start = atoms.copy()
    start.calc = calculator
    chosen = strategy or RECOMMENDED[curvature.source]
    # periodic structures are searched in Cartesian coordinates at once
    coordinates = (None,) if np.any(atoms.pbc) else (None, False)

    def attempt(name: str, internal: bool | None) -> TransitionStateSearch:
        return search(start, name, curvature, fmax=fmax, max_steps=max_steps, internal=internal)

    return search_in_turn([(chosen, one) for one in coordinates], attempt, lambda found: not found.converged)[0]


def search_between(
    reactant: Atoms,
    product: Atoms,
    calculator: ASECalculator,
    *,
    guess: str = "auto",
    strategy: str | None = None,
    integrator: str = "sella",
    fmax: float = 0.01,
    max_steps: int = 200,
    note: Callable[[str], object] = lambda text: None,
) -> JoiningSearch:
    """Search the TS that joins two structures.

    An interpolated path gives the first guess, an elastic band of it the second. From each, Sella strategies are tried
    in turn until the path from a TS leads to both structures.

    Args:
        reactant: One end.
        product: The other, the same atoms in the same order.
        calculator: What computes.
        guess: One of ``phl_ase.paths.GUESSES``; ``"auto"`` for both kinds in turn.
        strategy: A key of ``phl_ase.paths.STRATEGIES``, for that alone.
        integrator: Of the path.
        fmax: Largest force at the TS, eV/Å.
        max_steps: Most steps of a search.
        note: Is told what is tried, for progress.

    Returns:
        The first that joins them; else the TS whose path comes nearest to that, else the first search.

    Raises:
        PHLError: For ends that no path leads between; see :func:`check_ends`.
    """
    check_ends(reactant, product)
    curvature = curvature_of(calculator)
    tried: list[JoiningSearch] = []
    fates: dict[tuple[str, str], list[str]] = {}  # guess and what became of the search -> strategies

    def attempt(how: str, start: Atoms, name: str, internal: bool | None) -> JoiningSearch:
        note(f"{how} guess, {name}")
        found = search(start, name, curvature, fmax=fmax, max_steps=max_steps, internal=internal)
        path = find_reaction(found.atoms, curvature.hessian, method=integrator) if found.converged else None
        connection = None
        if path is not None and len(path.ends) == 2:
            connection = connects((path.ends[0].atoms, path.ends[1].atoms), reactant, product)
            if connection.flipped:
                path = path.turned()
                connection = connects((path.ends[0].atoms, path.ends[1].atoms), reactant, product)
        if connection is None or not connection.connected:
            fates.setdefault((how, (connection or found).sentence), []).append(name)
        return JoiningSearch(found, path, connection, ())

    # an elastic band costs more than an interpolation: it is made where the first guess leads nowhere
    for method in ("auto", BAND) if guess == "auto" else (guess,):
        start = guess_transition_state(reactant, product, calculator, method=method)
        from_it = partial(attempt, "elastic band" if method == BAND else start.method, start.atoms)
        ladder = [(strategy, None)] if strategy else LADDERS[curvature.source]
        tried = sorted([*tried, *search_in_turn(ladder, from_it, _missed)], key=_missed)
        if tried[0].joins:
            break
    hints = () if tried[0].joins else _hints(reactant, product, calculator)
    attempts = tuple(f"{how} guess, {', '.join(names)}: {fate}" for (how, fate), names in fates.items())
    return replace(tried[0], attempts=attempts, hints=hints)


def _hints(reactant: Atoms, product: Atoms, calculator: ASECalculator) -> tuple[str, ...]:
    """Return what may keep a search from joining two structures: ends with forces, a better guess not installed."""
    hints = []
    for name, atoms in (("reactant", reactant), ("product", product)):
        structure = atoms.copy()
        structure.calc = GuardedCalculator(calculator)
        forces = attempted(structure.get_forces).value
        largest = 0.0 if forces is None else float(np.linalg.norm(forces, axis=1).max())
        if largest > _RELAXED:
            hints.append(
                f"the {name} is no minimum of this method: forces up to {largest:.2f} eV/Å; 'phl relax' makes it one"
            )
    lacking = [name for name, one in PATH_METHODS.items() if not one.is_installed]
    if lacking and not np.any(reactant.pbc):
        hints.append(
            f"{lacking[0]} paths give better guesses where groups rotate, and are not installed: "
            f"pip install 'phl-ase[{lacking[0]}]'"
        )
    return tuple(hints)


def _missed(found: JoiningSearch) -> int:
    """Return how far a search is from what was wanted: joins, one end right, another path, a TS alone, nothing."""
    if found.connection is not None:
        return 0 if found.joins else 1 if found.connection.outcome == "one end" else 2
    return 3 if found.search.converged else 4
