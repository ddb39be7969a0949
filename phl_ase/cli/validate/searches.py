"""Searches of ``phl validate ts``: the reference of each reaction, made once, and where searches start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from phl_ase.cli.validate.inputs import is_data_set, read_reactions, read_structures
from phl_ase.errors import PHLError, unknown

if TYPE_CHECKING:
    from ase import Atoms

    from phl_ase.cli.validate.inputs import Structure
    from phl_ase.datasets import ReactionFrames
    from phl_ase.study.references import NoReference
    from phl_ase.types import ASECalculator
    from phl_ase.validators import ReferenceReaction

Start = tuple[str, "Atoms"]
"""Text for the provenance of a start, and the start."""


Displacement = tuple[float, int]
"""RMS displacement of a start from the TS, Å, and its seed."""


@dataclass(frozen=True)
class Search:
    """A reaction to search the TS of.

    Attributes:
        name: Of the reaction.
        count: Number of starts.
        make: Makes the reference and the starts; called once, when the first search begins.
    """

    name: str
    count: int
    make: Callable[[], tuple[ReferenceReaction, Sequence[Start]]]

    @property
    def made(self) -> tuple[ReferenceReaction, Sequence[Start]]:
        """The reference and the starts.

        Raises:
            NoReference: Where the reference method has no such reaction.
        """
        if isinstance(self._attempt, Exception):
            raise self._attempt
        return self._attempt

    @cached_property
    def _attempt(self) -> tuple[ReferenceReaction, Sequence[Start]] | NoReference:
        """A failure is kept too: it took as long as a success."""
        from phl_ase.study.references import NoReference

        try:
            return self.make()
        except NoReference as error:
            return error


def _displaced(atoms: Atoms, displacements: Sequence[Displacement]) -> list[Start]:
    from phl_ase.paths import displaced

    return [(f"{rms:g} Å RMS from the TS, seed {seed}", displaced(atoms, rms, seed)) for rms, seed in displacements]


def labelled(source: str, names: Sequence[str] | None, displacements: Sequence[Displacement]) -> list[Search]:
    """Return searches of the reactions of a data set, as its labels have them."""
    from phl_ase.structures import atoms_from_frame
    from phl_ase.study.references import labelled_reaction

    def make(frames: ReactionFrames) -> tuple[ReferenceReaction, list[Start]]:
        # read_reactions gives those with a TS alone
        return labelled_reaction(frames), _displaced(atoms_from_frame(frames.transition_state), displacements)  # type: ignore[arg-type]

    found = read_reactions(source, names)
    return [Search(name, len(displacements), partial(make, frames)) for name, frames in found.items()]


def of_method(
    structures: Sequence[Structure], method: ASECalculator, displacements: Sequence[Displacement]
) -> list[Search]:
    """Return searches of the reactions that a method has near the transition states of an input."""
    from phl_ase.study.references import own_reaction

    def make(name: str, guess: Atoms) -> tuple[ReferenceReaction, list[Start]]:
        own = own_reaction(name, guess, method)
        return own.reaction, _displaced(own.ts.atoms, displacements)

    named = [(one.labels.reaction or one.name, one.atoms) for one in structures]
    return [Search(name, len(displacements), partial(make, name, guess)) for name, guess in named]


def guesses(structures: Sequence[Structure]) -> list[Search]:
    """Return a search from each structure of a file; nothing is known of what should be found."""
    from phl_ase.validators import ReferenceReaction

    def make(guess: Structure) -> tuple[ReferenceReaction, list[Start]]:
        return ReferenceReaction(guess.name), [("the structure given", guess.atoms)]

    return [Search(guess.name, 1, partial(make, guess)) for guess in structures]


def between(reactant: str, product: Path, method: str, calculator: ASECalculator) -> Search:
    """Return the search from a guess between two structures, which it should connect.

    Raises:
        PHLError: For a file that does not hold exactly one structure, other atoms, or an unknown method.
    """
    from phl_ase.paths.guess import BAND, GUESSES, guess_transition_state
    from phl_ase.validators import ReferenceReaction, StationaryPoint

    if method not in GUESSES:
        raise unknown("way to guess a path", method, GUESSES)
    ends: dict[str, Atoms] = {}
    for end, path in (("reactant", reactant), ("product", str(product))):
        found = [] if is_data_set(path) else read_structures(path, (), None)
        if len(found) != 1:
            count = len(found) or "a data set of"
            raise PHLError(f"{path} holds {count} structures; expected one: an end of the reaction")
        ends[end] = found[0].atoms
    name = f"{ends['reactant'].get_chemical_formula()} {Path(reactant).stem} to {product.stem}"

    def make() -> tuple[ReferenceReaction, list[Start]]:
        guess = guess_transition_state(ends["reactant"], ends["product"], calculator, method=method)
        reference = ReferenceReaction(name, None, {key: StationaryPoint(atoms) for key, atoms in ends.items()})
        climbed = ", climbed as an elastic band" if method == BAND else ""
        where = f"image {guess.index + 1} of {len(guess.path)} of the {guess.method} path{climbed}"
        return reference, [(where, guess.atoms)]

    return Search(name, 1, make)
