"""Reaction paths: does the potential's own TS lead to the right minima, along the reference's path, over its barrier?

The potential's path and the reference's are laid over one another at their transition states. Both arc lengths are
computed here, by one function, from the structures: those that come with a data set may stem from another definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
from ase import Atoms
from scipy.interpolate import PchipInterpolator

from phl_ase.curvature import HessianFunction
from phl_ase.errors import PHLError
from phl_ase.paths.arc_length import arc_length, mass_weighted_path
from phl_ase.paths.end_points import CONNECTIONS, SAME_STRUCTURE_WITHIN, connects
from phl_ase.paths.geometry import rmsd
from phl_ase.paths.reaction import REACTION_OUTCOMES, Reaction, find_reaction
from phl_ase.results import Metric, Report, provenance
from phl_ase.types import Array, ASECalculator
from phl_ase.units import convert
from phl_ase.validators.names import MetricName
from phl_ase.validators.reference import StationaryPoint

IRC_OUTCOMES: dict[str, str] = {
    **REACTION_OUTCOMES,
    **{name: sentence for name, sentence in CONNECTIONS.items() if name != "right bonds"},
}
"""Outcome of a validated path -> what it means: the first stage of the funnel that it does not pass, or how its ends
relate to the reference's; ``"converged"`` where there is no reference."""

# Points between two neighbours of the path when the nearest one to a structure of the reference is looked for.
_BETWEEN = 5


@dataclass(frozen=True, eq=False)
class ReferencePath:
    """The path of a reference.

    Attributes:
        structures: Points of the path in order, the transition state among them.
        energies: ``(m,)`` eV.
        ts_index: Which point is the TS.
        reactant: The minimum on the one side.
        product: The minimum on the other.
    """

    structures: tuple[Atoms, ...]
    energies: Array
    ts_index: int
    reactant: StationaryPoint
    product: StationaryPoint

    @classmethod
    def of(cls, reaction: Reaction) -> ReferencePath:
        """Return the path and minima of another calculator; its backward end is called the reactant.

        Raises:
            PHLError: When a direction of the reaction has no points.
        """
        if reaction.backward is None or reaction.forward is None:
            raise PHLError(f"the reaction has no path in both directions: {reaction.sentence}")
        return cls(
            structures=reaction.path.structures,
            energies=reaction.path.energies,
            ts_index=reaction.path.ts_index,
            reactant=StationaryPoint(reaction.backward.atoms, reaction.backward.energy),
            product=StationaryPoint(reaction.forward.atoms, reaction.forward.energy),
        )

    def checked(self) -> ReferencePath:
        """Return the path from the reactant's side to the product's, without what is past a minimum.

        An integrator that oversteps the minimum leaves points that go up again: they are no part of the path.

        Raises:
            PHLError: For different numbers of structures and energies, or a TS that is not inside the path.
        """
        count = len(self.structures)
        if np.shape(self.energies) != (count,):
            raise PHLError(f"the reference path has {count} structures and energies of shape {np.shape(self.energies)}")
        if not 0 < self.ts_index < count - 1:
            raise PHLError(f"ts_index is {self.ts_index}; expected a point inside the path of {count} structures")
        energies = np.asarray(self.energies, dtype=float)
        start = int(np.argmin(energies[: self.ts_index]))
        stop = self.ts_index + 1 + int(np.argmin(energies[self.ts_index + 1 :])) + 1
        kept = replace(
            self,
            structures=self.structures[start:stop],
            energies=energies[start:stop],
            ts_index=self.ts_index - start,
        )
        first, last = kept.structures[0], kept.structures[-1]
        reactant, product = self.reactant.atoms, self.product.atoms
        straight = rmsd(first, reactant) + rmsd(last, product)
        return kept if straight <= rmsd(first, product) + rmsd(last, reactant) else kept.turned()

    def turned(self) -> ReferencePath:
        """Return the path from its other end; which minimum is the reactant stays."""
        return replace(
            self,
            structures=self.structures[::-1],
            energies=self.energies[::-1],
            ts_index=len(self.structures) - 1 - self.ts_index,
        )


def validate_irc(
    ts: Atoms,
    calculator: ASECalculator,
    hessian: HessianFunction | None,
    reference: ReferencePath | None,
    *,
    system: str,
    potential: str,
    method: str = "sella",
    step: float = 0.1,
    fmax: float = 0.01,
    max_points: int = 300,
    relax_fmax: float = 1e-3,
    tolerance: float = SAME_STRUCTURE_WITHIN,
    trajectory: str | PathLike[str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Report:
    """Follow a potential's reaction path from its TS and compare it with a reference's.

    Args:
        ts: The potential's own transition state, the same atoms in the same order as the reference's.
        calculator: The potential, an ASE calculator.
        hessian: ``hessian(atoms) -> (3n, 3n)`` eV/Å² of the potential; see :func:`phl_ase.paths.irc.follow_irc`.
        reference: The path to compare with; ``None`` for the path alone, whose backward end is then the reactant's.
        system: What is computed, for the report.
        potential: Who computes it, for the report.
        method: Integrator, a key of ``phl_ase.paths.irc.INTEGRATORS``.
        step: Length of its steps, √amu·Å.
        fmax: Where the path ends, largest force on an atom, eV/Å.
        max_points: Most points of one direction.
        relax_fmax: Threshold for the relaxation of its ends, eV/Å.
        tolerance: RMS displacement within which an end is the reference's, Å.
        trajectory: An ASE trajectory of the path.
        details: What else the provenance should say.

    Returns:
        A report with outcome in ``IRC_OUTCOMES``: ``"connects"`` when everything is as it should be, also where an end
        has the bonds of the reference's in another conformation, which the sentence then says. Metrics:
        ``profile RMSE`` (kcal/mol; energies above the TS at the arc lengths of the reference's points that the path
        reaches), ``compared length`` (√amu·Å, with the reference's), ``largest deviation`` (Å; over those points, RMS
        displacement from the nearest point of the path), ``barrier forward``, ``barrier back``, ``reaction energy`` and
        their errors (kcal/mol, between minima, forward from the reactant), ``RMSD of reactant``, ``RMSD of product``
        (Å), ``first step overlap`` (the lower of the two, 1 for purely along the mode), ``steps``, ``force calls``,
        ``Hessian calls``. NaN is what could not be had. Arrays ``arc_length``, ``energies``, ``reference_arc_length``,
        ``reference_energies``: √amu·Å and kcal/mol, zero at the TS, the reactant's side first. What compares is left
        out without a reference. The provenance says in ``path`` what the path does, in ``integrators`` which followed
        it (backward, forward), and has a ``traceback`` where a calculation failed.

    Raises:
        PHLError: For a mistake of the caller: other atoms than the reference's, a periodic structure, ….
    """
    notes: dict[str, Any] = {}
    if reference is not None:
        rmsd(ts, reference.reactant.atoms)  # other atoms than the reference's are a mistake that should not cost a path
        given, reference = len(reference.structures), reference.checked()
        notes["reference_points_past_a_minimum"] = given - len(reference.structures)
    start = ts.copy()
    start.calc = calculator
    reaction = find_reaction(
        start,
        hessian,
        method=method,
        step=step,
        fmax=fmax,
        max_points=max_points,
        relax_fmax=relax_fmax,
        trajectory=trajectory,
    )
    return Report(
        system=system,
        potential=potential,
        **(_alone(reaction) if reference is None else _compare(reaction, reference, tolerance)),
        provenance=provenance(
            method=method,
            step=step,
            fmax=fmax,
            relax_fmax=relax_fmax,
            tolerance=tolerance,
            curvature=reaction.path.curvature,
            seconds=round(reaction.path.seconds, 3),
            path=reaction.sentence,
            integrators=[reaction.path.backward.method, reaction.path.forward.method],
            **({"traceback": reaction.traceback} if reaction.traceback else {}),
            **notes,
            **dict(details or {}),
        ),
        validator="irc",
    )


def _alone(reaction: Reaction) -> dict[str, Any]:
    """Return outcome, sentence, metrics and arrays of the report of a path that nothing is compared with."""
    path = reaction.path
    energies = {
        "barrier forward": reaction.barrier_forward,
        "barrier back": reaction.barrier_back,
        "reaction energy": reaction.reaction_energy,
    }
    return {
        "outcome": reaction.outcome,
        "sentence": reaction.sentence,
        "metrics": (
            *(Metric(name, convert(energy, "eV", "kcal/mol"), "kcal/mol") for name, energy in energies.items()),
            *_counts(reaction),
        ),
        "arrays": {
            "arc_length": path.arc_length,
            "energies": convert(path.energies - path.energies[path.ts_index], "eV", "kcal/mol"),
        },
    }


def _compare(reaction: Reaction, reference: ReferencePath, tolerance: float) -> dict[str, Any]:
    """Return outcome, sentence, metrics and arrays of the report."""
    connection, names = None, ("reactant", "product")
    distances = dict.fromkeys(names, float("nan"))
    if reaction.backward is not None and reaction.forward is not None:
        atoms = reaction.backward.atoms, reaction.forward.atoms
        connection = connects(atoms, reference.reactant.atoms, reference.product.atoms, tolerance=tolerance)
        turned = connection.flipped
        ends = (connection.backward, connection.forward)
        distances = dict(zip(reversed(names) if turned else names, (end.rmsd for end in ends), strict=True))
    else:  # which side is the reactant's, by what there is of the path
        first, last = reaction.path.ends
        straight = rmsd(first, reference.structures[0]) + rmsd(last, reference.structures[-1])
        turned = rmsd(first, reference.structures[-1]) + rmsd(last, reference.structures[0]) < straight
    profile = _Profile.of(reaction, reference, turned)
    if reaction.converged and connection is not None:
        outcome = "connects" if connection.connected else connection.outcome
        sentence = connection.sentence
    else:
        outcome = reaction.outcome
        sentence = reaction.sentence + ("" if connection is None else f"; {connection.sentence}")
    return {
        "outcome": outcome,
        "sentence": sentence,
        "metrics": (
            *profile.metrics(),
            *_energies(reaction, reference, turned),
            *(Metric(f"RMSD of {name}", distances[name], "Å") for name in names),
            *_counts(reaction),
        ),
        "arrays": profile.arrays(),
    }


@dataclass(frozen=True, eq=False)
class _Profile:
    """Two paths over one another: energies in kcal/mol above the TS, arc lengths in √amu·Å."""

    structures: tuple[Atoms, ...]
    length: Array
    energies: Array
    reference: ReferencePath
    reference_length: Array
    reference_energies: Array

    @classmethod
    def of(cls, reaction: Reaction, reference: ReferencePath, turned: bool) -> _Profile:
        path = reaction.path
        order = slice(None, None, -1) if turned else slice(None)
        expected = np.asarray(reference.energies, dtype=float)
        return cls(
            structures=path.structures[order],
            length=(-path.arc_length if turned else path.arc_length)[order],
            energies=convert(path.energies - path.energies[path.ts_index], "eV", "kcal/mol")[order],
            reference=reference,
            reference_length=arc_length(reference.structures, reference.ts_index),
            reference_energies=convert(expected - expected[reference.ts_index], "eV", "kcal/mol"),
        )

    def metrics(self) -> tuple[Metric, ...]:
        """Return errors of energy and geometry where both paths are."""
        nan = float("nan")
        # at the TS itself the energies agree by construction
        common = (self.reference_length >= self.length[0]) & (self.reference_length <= self.length[-1])
        common &= self.reference_length != 0
        error = deviation = nan
        if np.any(common):
            expected = self.reference_energies[common]
            # without points that fall on one another
            kept = np.concatenate([[True], np.diff(self.length) > 1e-9])
            got = PchipInterpolator(self.length[kept], self.energies[kept])(self.reference_length[common])
            error = float(np.sqrt(np.mean((got - expected) ** 2)))
            # of the reference's structures from the nearest point of the path
            points = mass_weighted_path(self.structures)
            places = np.linspace(0, len(points) - 1, _BETWEEN * (len(points) - 1) + 1)
            low = np.minimum(places.astype(int), len(points) - 2)
            share = (places - low)[:, None]
            weights = np.repeat(np.sqrt(self.structures[0].get_masses()), 3)
            between = ((1 - share) * points[low] + share * points[low + 1]) / weights
            images = [Atoms(self.structures[0].numbers, positions=image.reshape(-1, 3)) for image in between]
            there = [self.reference.structures[i] for i in np.nonzero(common)[0]]
            deviation = max(min(rmsd(image, structure) for image in images) for structure in there)
        whole = float(np.ptp(self.reference_length))
        compared = min(self.length[-1], self.reference_length[-1]) - max(self.length[0], self.reference_length[0])
        return (
            Metric(MetricName.PROFILE_RMSE, error, "kcal/mol"),
            Metric("compared length", float(max(compared, 0.0)), "√amu·Å", whole),
            Metric(MetricName.LARGEST_DEVIATION, deviation, "Å"),
        )

    def arrays(self) -> dict[str, Array]:
        """Return what the figure needs."""
        return {
            "arc_length": self.length,
            "energies": self.energies,
            "reference_arc_length": self.reference_length,
            "reference_energies": self.reference_energies,
        }


def _energies(reaction: Reaction, reference: ReferencePath, turned: bool) -> list[Metric]:
    """Barriers between the minima and the reaction energy, with the reference's and the errors."""
    top = float(reference.energies[reference.ts_index])
    nan = float("nan")
    reactant, product = (nan if e.energy is None else e.energy for e in (reference.reactant, reference.product))
    forward, back = reaction.barrier_forward, reaction.barrier_back
    energies = {
        "barrier forward": (back if turned else forward, top - reactant),
        "barrier back": (forward if turned else back, top - product),
        "reaction energy": (-reaction.reaction_energy if turned else reaction.reaction_energy, product - reactant),
    }
    metrics = []
    for name, pair in energies.items():
        got, expected = (convert(energy, "eV", "kcal/mol") for energy in pair)
        metrics += [
            Metric(name, got, "kcal/mol", expected if np.isfinite(expected) else None),
            Metric(f"{name} error", got - expected, "kcal/mol"),
        ]
    return metrics


def _counts(reaction: Reaction) -> list[Metric]:
    directions = (reaction.path.backward, reaction.path.forward)
    return [
        Metric(
            MetricName.FIRST_STEP_OVERLAP, float(np.min([direction.first_step_overlap for direction in directions]))
        ),
        Metric(MetricName.STEPS, sum(direction.steps for direction in directions)),
        Metric(MetricName.FORCE_CALLS, reaction.path.force_calls),
        Metric(MetricName.HESSIAN_CALLS, reaction.path.hessian_calls),
    ]


__all__ = ["IRC_OUTCOMES", "ReferencePath", "validate_irc"]
