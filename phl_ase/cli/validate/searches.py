"""Searches of ``phl validate ts``: the reference of each reaction, made once, and where searches start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phl_ase.cli.validate.inputs import is_data_set, read_reactions, read_structures
from phl_ase.errors import PHLError, unknown

if TYPE_CHECKING:
    from ase import Atoms

    from phl_ase.cli.validate.inputs import Structure
    from phl_ase.datasets import ReactionFrames
    from phl_ase.structures import Frame
    from phl_ase.study.references import NoReference
    from phl_ase.validators import ReferenceReaction

Start = tuple[str, "Atoms"]
"""Text for the provenance of a start, and the start."""


@dataclass(frozen=True)
class Displacements:
    """Places where searches start.

    Attributes:
        rms: RMS displacements from the TS, Å.
        starts: Number of starts for each of them.
        seed: Of the displacements.
    """

    rms: tuple[float, ...]
    starts: int
    seed: int

    def of(self, atoms: Atoms) -> list[Start]:
        """Displaced copies of a structure."""
        from phl_ase.paths import displaced

        return [
            (f"{rms:g} Å RMS from the TS, seed {seed}", displaced(atoms, rms, seed))
            for rms in self.rms
            for seed in range(self.seed, self.seed + self.starts)
        ]

    def __len__(self) -> int:
        return len(self.rms) * self.starts


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


def labelled(source: str, names: Sequence[str] | None, displacements: Displacements) -> list[Search]:
    """The reactions of a data set, as its labels have them."""
    from phl_ase.structures import atoms_from_frame
    from phl_ase.study.references import labelled_reaction

    def search(frames: ReactionFrames, ts: Frame) -> Search:
        return Search(
            frames.name,
            len(displacements),
            lambda: (labelled_reaction(frames), displacements.of(atoms_from_frame(ts))),
        )

    reactions = read_reactions(source, names).values()
    return [search(frames, frames.transition_state) for frames in reactions if frames.transition_state is not None]


def of_method(structures: Sequence[Structure], method: Any, displacements: Displacements) -> list[Search]:
    """The reactions that a method has near the transition states of an input."""
    from phl_ase.study.references import own_reaction

    def search(guess: Structure) -> Search:
        name = guess.labels.reaction or guess.name

        def make() -> tuple[ReferenceReaction, list[Start]]:
            own = own_reaction(name, guess.atoms, method)
            return own.reaction, displacements.of(own.ts.atoms)

        return Search(name, len(displacements), make)

    return [search(guess) for guess in structures]


def guesses(structures: Sequence[Structure]) -> list[Search]:
    """Each structure of a file as a guess; nothing is known of what should be found."""
    from phl_ase.validators import ReferenceReaction

    def search(guess: Structure) -> Search:
        return Search(guess.name, 1, lambda: (ReferenceReaction(guess.name), [("the structure given", guess.atoms)]))

    return [search(guess) for guess in structures]


def between(reactant: str, product: Path, method: str, calculator: Any) -> list[Search]:
    """Return one search from a guess between two structures, which it should connect.

    Raises:
        PHLError: For a file that does not hold exactly one structure, other atoms, or an unknown method.
    """
    from phl_ase.paths.guess import BAND, GUESSES, guess_transition_state
    from phl_ase.validators import ReferenceReaction, StationaryPoint

    if method not in GUESSES:
        raise unknown("way to guess a path", method, GUESSES)
    ends = {"reactant": _only(reactant), "product": _only(str(product))}
    name = f"{ends['reactant'].get_chemical_formula()} {Path(reactant).stem} to {product.stem}"

    def make() -> tuple[ReferenceReaction, list[Start]]:
        guess = guess_transition_state(ends["reactant"], ends["product"], calculator, method=method)
        reference = ReferenceReaction(name, None, {key: StationaryPoint(atoms) for key, atoms in ends.items()})
        climbed = ", climbed as an elastic band" if method == BAND else ""
        where = f"image {guess.index + 1} of {len(guess.path)} of the {guess.method} path{climbed}"
        return reference, [(where, guess.atoms)]

    return [Search(name, 1, make)]


def _only(path: str) -> Atoms:
    found = [] if is_data_set(path) else read_structures(path, (), None)
    if len(found) != 1:
        raise PHLError(f"{path} holds {len(found) or 'a data set of'} structures; expected one: an end of the reaction")
    return found[0].atoms
