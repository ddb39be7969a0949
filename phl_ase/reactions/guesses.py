"""Starting points of reactions: a guess of a TS, or a reactant and a product, checked before any work."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from phl_ase.datasets.schema import check_name
from phl_ase.errors import PHLError
from phl_ase.structures import charge_and_multiplicity, frame_from_atoms

# times the sum of covalent radii; H2 is at 1.2, no transition state below 0.8
_OVERLAP = 0.5
_FOLDER_BYTES = 140  # file systems take 255, encrypted ones 143


@dataclass(frozen=True, eq=False)
class ReactionGuess:
    """A reaction before it is computed.

    Attributes:
        name: Of the reaction; its folder is called like it.
        structures: The guess of the TS alone, or reactant and product, the same atoms in the same order; molecules,
            charge and multiplicity in ``info``.
        description: For a reader; may be empty.

    Raises:
        PHLError: For no name or one that a data set cannot keep, a number of structures other than one or two, a single
            atom, a periodic structure, constraints, atoms that overlap, or ends of different atoms, charge or
            multiplicity.
        NonFiniteError: For NaN or infinite positions.
    """

    name: str
    structures: tuple[Atoms, ...]
    description: str = ""

    def __post_init__(self) -> None:
        check_name("the name of a reaction", self.name)
        if not self.folder:
            raise PHLError(f"a reaction is called {self.name!r}; expected a name of letters or digits")
        if len(self.structures) not in (1, 2):
            raise PHLError(f"{self.name} has {len(self.structures)} structures; expected a TS guess, or both ends")
        roles = ("guess",) if len(self.structures) == 1 else ("reactant", "product")
        for atoms, role in zip(self.structures, roles, strict=True):
            name = f"{self.name}, {role}"
            frame_from_atoms(atoms, name)
            if len(atoms) < 2:
                raise PHLError(f"{name}: has {len(atoms)} atom; a reaction needs at least 2")
            if np.any(atoms.pbc):
                raise PHLError(f"{name}: is periodic; reactions are built of molecules: set atoms.pbc = False")
            if atoms.constraints:
                raise PHLError(f"{name}: has constraints; in a reaction all atoms move: del atoms.constraints")
            closest, (i, j) = closest_atoms(atoms)
            if closest < _OVERLAP:
                distance = atoms.get_distance(i, j)
                raise PHLError(
                    f"{name}: atoms {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]}) overlap, {distance:.2f} Å "
                    "apart; mend the structure (are the units Å?)"
                )
        for one, other in pairwise(self.structures):
            if not np.array_equal(one.numbers, other.numbers):
                what = f"{one.symbols} and {other.symbols}"
                raise PHLError(f"{self.name}: reactant and product are {what}; expected the same atoms in one order")
            if charge_and_multiplicity(one) != charge_and_multiplicity(other):
                raise PHLError(f"{self.name}: reactant and product differ in charge or multiplicity; expected one")

    @property
    def folder(self) -> str:
        """The name as a file system takes it; a long one is cut and told from others by a hash."""
        plain = re.sub(r"[^\w.+-]+", "_", self.name).strip("._")
        if len(plain.encode()) <= _FOLDER_BYTES:
            return plain
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:12]
        return f"{plain.encode()[: _FOLDER_BYTES - 13].decode(errors='ignore')}-{digest}"

    @property
    def is_pair(self) -> bool:
        """Return whether it is a reactant and a product."""
        return len(self.structures) == 2

    @property
    def atoms(self) -> Atoms:
        """The first structure without anything that does not belong to the molecule."""
        return bare(self.structures[0])

    @property
    def identity(self) -> dict[str, Any]:
        """Return what makes it this molecule, as JSON holds it."""
        charge, multiplicity = charge_and_multiplicity(self.structures[0])
        numbers = self.structures[0].numbers.tolist()
        return {"numbers": numbers, "charge": charge, "multiplicity": multiplicity}


def bare(atoms: Atoms) -> Atoms:
    """Return a copy with positions, charge and multiplicity alone, its masses ASE's where they are but rounded."""
    charge, multiplicity = charge_and_multiplicity(atoms)
    copy = Atoms(atoms.numbers, atoms.positions, info={"charge": charge, "multiplicity": multiplicity})
    if not np.allclose(atoms.get_masses(), copy.get_masses(), rtol=0, atol=1e-3):
        copy.set_masses(atoms.get_masses())
    return copy


def check_names(guesses: Sequence[ReactionGuess]) -> None:
    """Refuse no reactions at all, and two that would share a folder.

    Raises:
        PHLError: For either.
    """
    if not guesses:
        raise PHLError("there are no reactions to build; expected at least one guess")
    seen: dict[str, str] = {}
    for guess in guesses:
        if guess.folder in seen:
            other = seen[guess.folder]
            raise PHLError(
                f"two reactions are called {guess.name!r}"
                + (f" and {other!r}, which share a folder" if other != guess.name else "")
                + "; give each its own info['reaction']"
            )
        seen[guess.folder] = guess.name


def closest_atoms(atoms: Atoms) -> tuple[float, tuple[int, int]]:
    """Return the smallest distance over the sum of covalent radii, and of which atoms; infinity for one atom."""
    if len(atoms) < 2:
        return float("inf"), (0, 0)
    radii = covalent_radii[atoms.numbers]
    ratios = atoms.get_all_distances() / (radii[:, None] + radii)
    np.fill_diagonal(ratios, np.inf)
    i, j = divmod(int(ratios.argmin()), len(atoms))
    return float(ratios[i, j]), (i, j)
