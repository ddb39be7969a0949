"""The energy profile of a reaction: both minima and the transition state, with frequencies and Gibbs energies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ase import Atoms

from phl_ase.errors import PHLError
from phl_ase.paths import Reaction
from phl_ase.tasks.frequencies import Frequencies, frequencies
from phl_ase.units import convert


@dataclass(frozen=True, eq=False)
class ProfilePoint:
    """A stationary point of a reaction.

    Attributes:
        name: ``"reactant"``, ``"transition state"`` or ``"product"``.
        atoms: The structure, with its calculator.
        frequencies: Its modes and thermochemistry.
    """

    name: str
    atoms: Atoms
    frequencies: Frequencies


@dataclass(frozen=True, eq=False)
class ReactionProfile:
    """The stationary points of a reaction, in order, and the path between them.

    Attributes:
        points: Reactant, transition state, product.
        reaction: The path and how its ends were relaxed; its backward end is the reactant.
    """

    points: tuple[ProfilePoint, ProfilePoint, ProfilePoint]
    reaction: Reaction

    def relative(self, quantity: str) -> tuple[float, float, float]:
        """Return a quantity of the three points relative to the reactant, kcal/mol.

        Args:
            quantity: ``"energy"``, ``"energy with ZPE"``, ``"enthalpy"`` or ``"gibbs energy"``.

        Raises:
            PHLError: For another quantity.
        """
        if quantity not in _QUANTITIES:
            raise PHLError(f"unknown quantity {quantity!r}; valid: {', '.join(_QUANTITIES)}")
        first, *rest = (_QUANTITIES[quantity](point.frequencies) for point in self.points)
        values = [0.0, *(float(convert(value - first, "eV", "kcal/mol")) for value in rest)]
        return values[0], values[1], values[2]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON, units in the names."""
        path = self.reaction.path
        return {
            "outcome": self.reaction.outcome,
            "sentence": self.reaction.sentence,
            "bonds_broken": self.reaction.broken,
            "bonds_made": self.reaction.made,
            "relative_kcal_per_mol": {name: self.relative(name) for name in _QUANTITIES},
            "points": {point.name: point.frequencies.to_dict() for point in self.points},
            "path": {
                "arc_length_sqrt_amu_A": path.arc_length,
                "energies_eV": path.energies,
                "symbols": path.structures[0].get_chemical_symbols(),
                "positions_A": [atoms.positions for atoms in path.structures],
            },
            "force_calls": self.reaction.force_calls,
            "hessian_calls": self.reaction.hessian_calls,
        }


def _thermo(value: str) -> Any:
    def of(found: Frequencies) -> float:
        return float("nan") if found.thermochemistry is None else float(getattr(found.thermochemistry, value))

    return of


_QUANTITIES = {
    "energy": lambda found: found.energy,
    "energy with ZPE": lambda found: found.energy + found.analysis.zero_point_energy,
    "enthalpy": _thermo("enthalpy"),
    "gibbs energy": _thermo("gibbs_energy"),
}


def reaction_profile(reaction: Reaction, **settings: Any) -> ReactionProfile:
    """Compute frequencies and thermochemistry at the three stationary points of a reaction.

    Args:
        reaction: With both ends; the backward one is called the reactant.
        **settings: Of :func:`phl_ase.tasks.frequencies`: temperature, pressure, model.

    Raises:
        PHLError: For a reaction that lacks an end.
    """
    if reaction.backward is None or reaction.forward is None:
        raise PHLError(f"the path has no end on one side: {reaction.sentence}")
    summit = reaction.path.structures[reaction.path.ts_index].copy()
    summit.calc = reaction.backward.atoms.calc
    order = (("reactant", reaction.backward.atoms), ("transition state", summit), ("product", reaction.forward.atoms))
    first, ts, last = (ProfilePoint(name, atoms, frequencies(atoms, **settings)) for name, atoms in order)
    return ReactionProfile((first, ts, last), reaction)
