"""Checks that positions, energies, forces and Hessians of a file belong together and are in the units stated for them.

A molecule's energy does not change when it turns, so H·(ω × x) = ω × ∇E at any geometry, stationary or not. A Hessian
of another geometry breaks this rule; one in another unit than the forces breaks it by a constant factor. What this rule
cannot see (all energies in another unit, Hessians of stationary points) shows in the energy of the free atoms, in the
length of bonds and in the stiffness of bonds to hydrogen.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from phl_ase.datasets.schema import plausible, units
from phl_ase.errors import PHLError
from phl_ase.structures.frame import Frame
from phl_ase.types import Array
from phl_ase.units import canonical, convert

ROTATIONAL = 0.01
"""Largest relative residual of H·(ω × x) = ω × ∇E that is noise: exact labels come to 0.001, Hessians of other
geometries of the same molecule to 0.02 and more."""
_TELLING = 0.01  # relative size of both sides from which their ratio means something
_STATIONARY = 0.1  # eV/Å
_MODE = 0.05  # eV/Å²
_FEW = 25

# Chakravorty et al., Phys. Rev. A 47, 3649 (1993), Ha, without relativity; wB97X-D is within 0.1 % of them
_ATOMS = {1: -0.5, 6: -37.845, 7: -54.589, 8: -75.067}
# force constants of X–H bonds in equilibrium, eV/Å²
_STIFFNESS = {1: 36.0, 6: 34.0, 7: 46.0, 8: 52.0}
_LONGEST = 1.65  # Å; every molecule of H, C, N and O has a shorter bond
_ENERGIES = ("Ha", "eV", "kcal/mol", "kJ/mol", "Ry")
_LENGTHS = ("Å", "Bohr")


class WrongUnits(PHLError):
    """A label of the whole file is in another unit than stated."""


def to_internal(label: str, unit: str) -> float:
    """Return the factor from a unit of a label to ours; a minus sign before the unit turns the sign.

    Raises:
        PHLError: For a unit that the label cannot have.
    """
    plain = unit.strip().lstrip("-−")
    # from ours to theirs, so that an error lists the units that the label may have
    return (-1.0 if plain != unit.strip() else 1.0) / convert(1.0, units()[label], plain)


def rotational_rule(positions: Array, forces: Array, hessian: Array) -> tuple[Array, Array, float]:
    """Return both sides of H·(ω × x) = ω × ∇E for the three axes ω.

    Args:
        positions: ``(n, 3)`` Å, of a molecule.
        forces: ``(n, 3)`` eV/Å.
        hessian: ``(3n, 3n)`` eV/Å².

    Returns:
        H·(ω × x) ``(3n, 3)`` and ω × ∇E ``(3n, 3)`` eV/Å, and the size that the first would have if rotations were
        like any other displacement: what residuals are relative to.
    """
    centred = positions - positions.mean(axis=0)
    axes = np.eye(3)[:, None, :]
    turned = np.cross(axes, centred).reshape(3, -1).T
    torques = -np.cross(axes, forces).reshape(3, -1).T
    scale = float(np.linalg.norm(hessian) * np.linalg.norm(turned) / np.sqrt(len(turned)))
    return hessian @ turned, torques, max(scale, 1e-12)


def rotational_residual(positions: Array, forces: Array, hessian: Array) -> float:
    """Return the relative residual of H·(ω × x) = ω × ∇E, without unit; see :func:`rotational_rule`."""
    left, right, scale = rotational_rule(positions, forces, hessian)
    return float(np.linalg.norm(left - right)) / scale


@dataclass
class _Evidence:
    """Structures that could show a fault, how many did, and the first of them."""

    checked: int = 0
    faults: int = 0
    first: str = ""


class Consistency:
    """Checks the frames of one file, one after the other, in our units.

    A frame that contradicts itself is refused. When most of those that can show it have a label in another unit, the
    file is refused: a unit is stated for all frames.

    Args:
        source: Name of the file, for errors.
        stated: Label -> unit in which the file is stated to hold it.
        energy_reference: What energies are stated to be relative to; only absolute ones are compared with free atoms.
    """

    def __init__(self, source: str, stated: Mapping[str, str], energy_reference: str) -> None:
        self._source = source
        self._units = {label: canonical(stated.get(label, unit)) for label, unit in units().items()}
        self._absolute = energy_reference == "absolute"
        self._evidence: dict[str, _Evidence] = {}
        self._stiffness: list[float] = []
        self._named_by_hessian = 0

    def checked(self, frame: Frame, name: str) -> Frame:
        """Return the frame; a stationary point whose kind nothing says is called ``ts`` or ``minimum``.

        Args:
            frame: In our units, its Hessian symmetric.
            name: How an error names it.

        Raises:
            WrongUnits: When the file is in other units than stated.
            PHLError: When the frame contradicts itself.
        """
        plausible(frame, name)
        distances = np.linalg.norm(frame.positions[:, None] - frame.positions, axis=-1)
        np.fill_diagonal(distances, np.inf)
        if len(frame) > 2 and set(frame.numbers.tolist()) <= set(_ATOMS):
            shortest = float(distances.min())
            fault = f"no two atoms are closer than {shortest:.3g} Å, expected a bond below {_LONGEST} Å"
            hint = _as_if({"positions": "Bohr"}) if self._units["positions"] == "Å" else ""
            self._weigh("positions", name, f"{fault}{hint}" if shortest > _LONGEST else "")
        self._check_energy(frame, name)
        if frame.forces is None or frame.hessian is None or len(frame) < 2:
            return frame
        self._check_curvature(frame.positions, frame.forces, frame.hessian, name)
        if np.abs(frame.forces).max() > _STATIONARY:
            return frame
        ratios = []
        for hydrogen in np.flatnonzero(frame.numbers == 1):
            other = int(distances[hydrogen].argmin())
            expected = _STIFFNESS.get(int(frame.numbers[other]))
            if expected and distances[hydrogen, other] < 1.2:
                own = frame.hessian[3 * hydrogen : 3 * hydrogen + 3, 3 * hydrogen : 3 * hydrogen + 3]
                ratios.append(float(np.linalg.eigvalsh(own)[-1]) / expected)
        if ratios:
            self._stiffness.append(max(ratios))
            if len(self._stiffness) == _FEW:
                self._judge_bonds()
        if frame.kind:
            return frame
        downhill = int((_vibrations(frame.positions, frame.hessian) < -_MODE).sum())
        self._named_by_hessian += downhill < 2
        return replace(frame, kind=("minimum", "ts", "")[min(downhill, 2)])

    def finish(self) -> None:
        """Judge the file as a whole.

        Raises:
            WrongUnits: When it is in other units than stated.
        """
        for evidence in self._evidence.values():
            self._judge(evidence)
        self._judge_bonds()

    def notes(self) -> str:
        """Return what was settled by the Hessians, as a sentence; empty when nothing was."""
        count = self._named_by_hessian
        return f"The kinds (ts, minimum) of {count} stationary points were found from their Hessians." if count else ""

    def _weigh(self, rule: str, name: str, fault: str) -> None:
        evidence = self._evidence.setdefault(rule, _Evidence())
        evidence.checked += 1
        if fault:
            evidence.faults += 1
            evidence.first = evidence.first or f"{name}: {fault}"
            if evidence.faults >= _FEW:
                self._judge(evidence)
            raise PHLError(f"{name}: {fault}")

    def _judge(self, evidence: _Evidence) -> None:
        if 2 * evidence.faults > evidence.checked:
            raise WrongUnits(
                f"{self._source} is not in the stated units: {evidence.faults} of {evidence.checked} structures "
                f"that can tell; the first, {evidence.first}"
            )

    def _check_energy(self, frame: Frame, name: str) -> None:
        numbers = frame.numbers.tolist()
        if not self._absolute or frame.energy is None or not set(numbers) <= set(_ATOMS):
            return
        atoms = sum(_ATOMS[number] for number in numbers) * to_internal("energy", "Ha")
        ratio = frame.energy / atoms
        fault = ""
        if not 0.9 < ratio < 1.1:
            stated = to_internal("energy", self._units["energy"])
            others = {unit: stated / to_internal("energy", unit) for unit in _ENERGIES}
            unit = next((unit for unit, factor in others.items() if 0.9 < ratio / factor < 1.1), "")
            fault = (
                f"the energy, {frame.energy:.6g} eV, is {ratio:.3g} times that of the free atoms, expected 1"
                f"{_as_if({'energy': unit}) if unit else '; energies that are not absolute: --energy-reference TEXT'}"
            )
        self._weigh("energy", name, fault)

    def _check_curvature(self, positions: Array, forces: Array, hessian: Array, name: str) -> None:
        left, right, scale = rotational_rule(positions, forces, hessian)
        sizes = float(np.linalg.norm(left)), float(np.linalg.norm(right))
        overlap = float(np.sum(left * right))
        if max(sizes) > _TELLING * scale and abs(overlap) > 0.95 * sizes[0] * sizes[1]:
            factor = overlap / sizes[1] ** 2
            fault = ""
            if abs(factor - 1.0) > 0.25:
                # the units of Hessian and forces nearest to the stated ones that explain the factor
                own = {label: self._units[label] for label in ("hessian", "forces")}
                stated = to_internal("hessian", own["hessian"]) / to_internal("forces", own["forces"])
                hessians = [f"{energy}/{length}²" for energy in _ENERGIES[:3] for length in _LENGTHS]
                gradients = [f"{energy}/{length}" for energy in _ENERGIES[:3] for length in _LENGTHS]
                pairs = itertools.product(hessians, [f"{sign}{unit}" for unit in gradients for sign in ("", "-")])
                wrong: dict[str, str] = {}
                for pair in sorted(pairs, key=lambda pair: sum(unit not in own.values() for unit in pair)):
                    ratio = factor * to_internal("hessian", pair[0]) / to_internal("forces", pair[1]) / stated
                    if abs(ratio - 1.0) < 0.1:
                        wrong = {k: unit for k, unit in zip(own, pair, strict=True) if unit != own[k]}
                        break
                fault = f"H·(ω × x) is {factor:.3g} times ω × ∇E, expected 1{_as_if(wrong)}"
            self._weigh("curvature", name, fault)
        residual = float(np.linalg.norm(left - right)) / scale
        if residual > ROTATIONAL:
            raise PHLError(
                f"{name}: the Hessian is not of this geometry and these forces: H·(ω × x) = ω × ∇E is broken by "
                f"{100 * residual:.2g} %, expected at most {100 * ROTATIONAL:g} %"
            )

    def _judge_bonds(self) -> None:
        ratio = float(np.median(self._stiffness)) if self._stiffness else 1.0
        if 0.55 < ratio < 1.8:
            return
        stated = to_internal("hessian", self._units["hessian"])
        others = [f"{energy}/{length}²" for energy in _ENERGIES for length in _LENGTHS]
        unit = next((unit for unit in others if 0.7 < ratio * to_internal("hessian", unit) / stated < 1.4), "")
        raise WrongUnits(
            f"{self._source} is not in the stated units: in {len(self._stiffness)} stationary structures bonds "
            f"to hydrogen are {ratio:.3g} times as stiff as expected{_as_if({'hessian': unit}) if unit else ''}"
        )


def _as_if(units: Mapping[str, str]) -> str:
    if not units:
        return ""
    as_if = " and ".join(f"{label} in {unit}" for label, unit in units.items())
    return f", as of {as_if}: say {' '.join(f'--unit {label}={unit}' for label, unit in units.items())}"


def _vibrations(positions: Array, hessian: Array) -> Array:
    """Return eigenvalues of the Hessian without translations and rotations, eV/Å²; their signs depend on no masses."""
    centred = positions - positions.mean(axis=0)
    rotations = np.cross(np.eye(3)[:, None, :], centred).reshape(3, -1).T
    rigid = np.concatenate([np.tile(np.eye(3), (len(positions), 1)), rotations], axis=1)
    basis, sizes, _ = np.linalg.svd(rigid, full_matrices=True)
    rest = basis[:, int((sizes > 1e-3 * sizes[0]).sum()) :]
    return np.linalg.eigvalsh(rest.T @ hessian @ rest)
